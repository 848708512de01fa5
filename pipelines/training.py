"""Training of models."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.registry import register_and_decide
from steps.training import DpoRun, SftRun, train_dpo, train_sft


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def training(training: SftRun | None = SftRun(), dpo: DpoRun | None = None) -> None:
    """Fine-tune a base model on instructions and answers, then on preferences, or one of the two; register what is made."""
    sft_model = None
    if training is not None:
        sft_model, _ = train_sft(training)
        register_and_decide(sft_model)
    if dpo is not None:
        dpo_model, _ = train_dpo(dpo, sft_model)
        register_and_decide(dpo_model)

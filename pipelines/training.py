"""Training of models."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.registry import register_and_decide
from steps.training import DpoRun, SftRun, align, fine_tune


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def training(training: SftRun | None = SftRun(), dpo: DpoRun | None = None) -> None:
    """Fine-tune a base model on instructions and answers, then on preferences, or one of the two; register what is made."""
    taught = None
    if training is not None:
        taught, _ = fine_tune(training)
        register_and_decide(taught)
    if dpo is not None:
        aligned, _ = align(dpo, taught)
        register_and_decide(aligned)

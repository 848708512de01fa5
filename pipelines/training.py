"""Training of models."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.training import DpoRun, SftRun, align, fine_tune


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def training(training: SftRun | None = SftRun(), dpo: DpoRun | None = None) -> None:
    """Fine-tune a base model on instructions and answers, then on preferences; or do one of the two."""
    taught = None
    if training is not None:
        taught, _ = fine_tune(training)
    if dpo is not None:
        align(dpo, taught)

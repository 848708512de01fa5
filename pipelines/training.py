"""Training of models."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.training import SftRun, fine_tune


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def training(training: SftRun = SftRun()) -> None:
    """Fine-tune a base model on instructions and answers."""
    fine_tune(training)

"""Evaluation of trained models."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.model_evaluation import ModelEvaluationRun, compare_models


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def model_evaluation(model_evaluation: ModelEvaluationRun = ModelEvaluationRun()) -> None:
    """Compare base, production and trained models on held-out questions."""
    compare_models(model_evaluation)

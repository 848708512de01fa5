"""Evaluation of trained models."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.model_evaluation import ModelEvaluationRun, compare_models
from steps.registry import PromotionPolicy, decide_on_candidate


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def model_evaluation(
    model_evaluation: ModelEvaluationRun = ModelEvaluationRun(), promotion: PromotionPolicy | None = None
) -> None:
    """Compare base, production and trained models on held-out questions; let the newest go to staging, or be refused."""
    report, candidate, *_ = compare_models(model_evaluation)
    decide_on_candidate(candidate, report, promotion)

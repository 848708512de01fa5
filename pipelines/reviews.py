"""Summaries of products' reviews."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.reviews import ReviewSummaries, summarise_reviews


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def review_summaries(summaries: ReviewSummaries) -> None:
    """Bring the summaries of all products up to date with their reviews."""
    summarise_reviews(summaries)

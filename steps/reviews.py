"""Summaries of products' reviews."""

import asyncio
from typing import Annotated, Any

from zenml import log_metadata, step

from llm_engineering.application.reviews import summarise
from llm_engineering.application.reviews.config import ReviewSummaries
from llm_engineering.bootstrap.resources import Resources
from steps.context import open_step_resources

__all__ = ["ReviewSummaries", "summarise_reviews"]


@step(enable_cache=False)
def summarise_reviews(summaries: ReviewSummaries) -> Annotated[dict[str, Any], "review_summary_report"]:
    """Make the summaries that are missing or out of date; take back what rests on reviews that are gone."""

    async def work(resources: Resources) -> summarise.SummaryReport:
        model = resources.language_model if summaries.asks_model else None
        try:
            return await summarise.summarise_reviews(
                summaries,
                resources.collect_review_stores(),
                resources.text_embedder,
                model,
                progress=progress,
            )
        finally:
            if model is not None:
                await model.close()

    with open_step_resources() as (resources, progress):
        report = asyncio.run(work(resources)).to_metadata()
    log_metadata({key: value for key, value in report.items() if value not in (None, {})})
    return report

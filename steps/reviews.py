"""Summaries of products' reviews."""

import asyncio
from typing import Annotated, Any

from loguru import logger
from zenml import log_metadata, step

from llm_engineering.application.reviews import summarise
from llm_engineering.application.reviews.config import ReviewSummaries
from llm_engineering.application.reviews.monitoring import describe_resuming, find_pause
from llm_engineering.application.reviews.sampling import read_cards
from llm_engineering.application.reviews.screening import hold_bursts
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.reviews import GOLDEN
from steps.context import open_step_resources

__all__ = ["ReviewSummaries", "summarise_reviews"]


@step(enable_cache=False)
def summarise_reviews(summaries: ReviewSummaries) -> Annotated[dict[str, Any], "review_summary_report"]:
    """Make the summaries that are missing or out of date; take back what rests on reviews that are gone. While publishing is
    paused, only the latter."""

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
        stores = resources.collect_review_stores()
        if (why := find_pause(stores.summaries, summaries.variant)) is not None:
            logger.warning("No new summaries are published: {}. {}", why, describe_resuming())
            cards = hold_bursts(list(read_cards(stores.clean)), stores.clean)
            return {
                "paused": why,
                "taken_back": sum(
                    summarise.take_back(cards, stores.summaries, name) for name in {summaries.variant, GOLDEN}
                ),
            }
        report = asyncio.run(work(resources)).to_metadata()
    log_metadata({key: value for key, value in report.items() if value not in (None, {})})
    return report

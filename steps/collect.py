"""Collection: links in, documents in the warehouse."""

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Annotated, Any

from zenml import log_metadata, step
from zenml.types import MarkdownString

from llm_engineering.application.features.collect import collect
from llm_engineering.application.features.collect_report import COLUMNS, CollectionReport
from llm_engineering.application.features.config import CollectRun
from llm_engineering.application.features.links import Router
from llm_engineering.application.ports import Progress
from llm_engineering.bootstrap.resources import Resources
from steps.context import markdown_table, open_step_resources

__all__ = ["CollectRun", "collect_links"]


@step(enable_cache=False)
def collect_links(
    run: CollectRun,
) -> tuple[Annotated[dict[str, Any], "collection_report"], Annotated[MarkdownString, "collection_table"]]:
    """Collect every link of the run; fails when more than ``max_failed_share`` of them fail."""
    with open_step_resources() as (resources, progress):
        report = asyncio.run(_collect(run, resources, progress))
    log_metadata(report.to_metadata())
    report.check()
    return report.to_metadata(), markdown_table(COLUMNS, report.rows())


async def _collect(run: CollectRun, resources: Resources, progress: Progress) -> CollectionReport:
    readers = resources.source_readers()
    async with AsyncExitStack() as stack:
        for reader in readers.values():
            stack.push_async_callback(reader.close)
        return await collect(
            run.as_links(os.environ),
            readers,
            documents=resources.warehouse.documents,
            users=resources.warehouse.users,
            dead_letters=resources.warehouse.dead_letters,
            router=Router([(route.pattern, route.reader) for route in run.routes], readers=readers),
            max_concurrency=run.max_concurrency,
            max_failed_share=run.max_failed_share,
            batch_size=run.batch_size,
            progress=progress,
            opted_out=resources.opted_out,
        )

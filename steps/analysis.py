"""Analyses: records in; classes, entities and texts with their quotes out. And the heads that decide the classes."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from loguru import logger
from zenml import log_metadata, step
from zenml.types import MarkdownString

from llm_engineering.application.analysis import analyse
from llm_engineering.application.analysis.config import AnalysisQuestion
from llm_engineering.application.analysis.drift import describe_shifts, find_shifts
from llm_engineering.application.analysis.outreach import list_calls, make_notices
from llm_engineering.application.analysis.trend import read_trends
from llm_engineering.application.evaluation.heads import HeadVerdict, learn_head
from llm_engineering.application.failures import round_values
from llm_engineering.application.notices import Delivery, notify
from llm_engineering.application.training.heads.labels import collect_labels
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.bootstrap.training import make_head_learner
from llm_engineering.domain.errors import ConfigurationError
from steps.context import markdown_table, open_step_resources

__all__ = ["AnalysisQuestion", "analyse_records", "notify_drift", "notify_outreach", "train_heads"]


@step(enable_cache=False)
def analyse_records(analysis: AnalysisQuestion) -> Annotated[dict[str, Any], "analysis_report"]:
    """Analyse the records that are new or have changed; remove the results that are stale."""
    spec, run = analysis.spec, analysis.run

    async def work(resources: Resources) -> analyse.AnalysisReport:
        deciders = resources.make_deciders(spec)
        try:
            return await analyse.analyse_records(
                spec,
                resources.collect_analysis_stores(),
                deciders,
                run.requests,
                max_failed_share=run.max_failed_share,
                limit=run.limit,
                progress=progress,
            )
        finally:
            if deciders.model is not None:
                await deciders.model.close()

    with open_step_resources() as (resources, progress):
        report = asyncio.run(work(resources)).to_metadata()
    log_metadata({key: value for key, value in report.items() if value not in (None, {})})
    return report


@step(enable_cache=False)
def notify_outreach(
    analysis: AnalysisQuestion, report: dict[str, Any]
) -> Annotated[dict[str, Any], "outreach_report"]:
    """Put into the outbox whom to call and which levels a CRM gets back, and send what waits there; after the analysis, whose
    report makes it wait."""
    config, spec = analysis.outreach, analysis.spec
    if config is None:
        return {"task": report["task"]}
    now = datetime.now(UTC)
    with open_step_resources() as (resources, _):
        warehouse = resources.warehouse
        trends = read_trends(
            spec, warehouse.analyses, warehouse.clean, config.group_by, now, config.half_life_days
        )
        notices = make_notices(spec, trends, config, now, resources.privacy)
        done = notify(notices, warehouse.notices, resources.notifiers) if resources.notifiers else Delivery()
        done.log_problems()
        if not resources.notifiers:
            logger.info(
                "{} calls are due, and nobody is told: NOTIFY_URLS and NOTIFY_WEBHOOK_URL are not set.",
                len(list_calls(notices)),
            )
    told = {"calls": len(list_calls(notices)), "levels": len(notices) - len(list_calls(notices))}
    found: dict[str, Any] = {"task": report["task"], **told, "sent": done.sent, "waiting": done.failed}
    log_metadata(found)
    return found


@step(enable_cache=False)
def notify_drift(
    analysis: AnalysisQuestion, report: dict[str, Any]
) -> Annotated[dict[str, Any], "drift_report"]:
    """Tell that the shares of a class have shifted, once a window; after the analysis, whose report makes it wait."""
    config, spec = analysis.drift, analysis.spec
    if config is None:
        return {"task": report["task"]}
    now = datetime.now(UTC)
    with open_step_resources() as (resources, _):
        warehouse = resources.warehouse
        dates = {card.id: card.published_at for card in warehouse.clean.list_cards() if card.published_at}
        shifts = find_shifts(spec, warehouse.analyses.stream(task=spec.task), dates, config, now)
        for one in shifts:
            logger.warning("The shares of {}.{} have shifted (PSI {:.2f}).", spec.task, one.field, one.psi)
        if resources.notifiers:
            told = describe_shifts(spec, shifts, config, now)
            notify(told, warehouse.notices, resources.notifiers).log_problems()
    found: dict[str, Any] = {"task": report["task"], **{f"psi_{one.field}": one.psi for one in shifts}}
    log_metadata(found)
    return found


@step(enable_cache=False)
def train_heads(
    analysis: AnalysisQuestion,
) -> tuple[Annotated[dict[str, Any], "head_report"], Annotated[MarkdownString, "head_table"]]:
    """Learn a head for each class of the spec; one that is no worse than the present one goes into use."""
    spec, config = analysis.spec, analysis.head
    fields = [field for field in spec.fields if field.kind == "class"]
    if not fields:
        raise ConfigurationError(
            f"The analysis {spec.task} has no field of kind `class` to learn a head for."
        )
    verdicts: dict[str, HeadVerdict] = {}
    with open_step_resources() as (resources, _):
        for field in fields:
            found = collect_labels(spec, field, config, resources.warehouse)
            logger.info("{} labels of {}.{}.", len(found.labels), spec.task, field.name)
            verdicts[field.name] = learn_head(
                spec.task, field, found, config, make_head_learner(), resources.text_embedder, resources.heads
            )
    report = {name: round_values(verdict.to_metadata()) for name, verdict in verdicts.items()}
    log_metadata({name: verdict.summary for name, verdict in verdicts.items()})
    return report, markdown_table(("field", "verdict"), [(n, v.summary) for n, v in verdicts.items()])

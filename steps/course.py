"""Assistants of courses: their answers measured, compared for bias, the best fair one chosen, and the report told."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from zenml import log_metadata, step

from llm_engineering.application.evaluation.course.compare import compare_assistants
from llm_engineering.application.evaluation.course.config import CourseRun
from llm_engineering.application.evaluation.course.measure import (
    CATEGORY,
    Measured,
    measure_exchanges,
    read_exchanges,
)
from llm_engineering.application.evaluation.course.report import as_json, make_page
from llm_engineering.application.evaluation.course.rubric import Points, judge_answers
from llm_engineering.application.evaluation.course.select import select_assistant
from llm_engineering.application.files import atomic_write
from llm_engineering.application.llm.judges import Jury
from llm_engineering.application.notices import Delivery, notify
from llm_engineering.application.training.registry.promotion import PromotionPolicy
from llm_engineering.application.training.registry.register import read_dataset_manifest
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.notices import Notice
from steps.context import open_step_resources

__all__ = ["CourseRun", "choose_assistant"]


@step(enable_cache=False)
def choose_assistant(
    course: CourseRun, promotion: PromotionPolicy, dataset: Path
) -> Annotated[dict[str, Any], "course_report"]:
    """Compare the assistants on the collected questions, choose one, write the report, and tell whom NOTIFY_URLS names.

    Args:
        dataset: folder of the data set that was made of the reference's answers.
    """
    at = datetime.now(UTC)
    with open_step_resources() as (resources, _):
        exchanges = read_exchanges(resources.warehouse.clean.stream(category=CATEGORY))
        measured = measure_exchanges(
            exchanges, course, resources.reference_metrics(), resources.text_embedder
        )
        report = compare_assistants(measured, _judge(course, measured, resources), course, at)
        made = read_dataset_manifest(dataset)
        data = resources.settings.local.data_dir
        selection = select_assistant(
            report,
            course,
            promotion,
            resources.registry,
            data / "assistants",
            f"{made.name}@{made.version}",
            at,
        )
        found = as_json(report, selection, course, promotion.metric, at)
        page = data / "reports" / f"{course.name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(page, make_page(report, selection, course, promotion.metric, at))
        atomic_write(page.with_suffix(".json"), json.dumps(found, ensure_ascii=False, indent=2) + "\n")
        sent = _tell(found, page.resolve(), course.name, at, resources)
    log_metadata({"serving": selection.serving, "summary": found["summary"], "sent": sent.sent})
    return {
        **{name: found[name] for name in ("summary", "serving", "refused", "reasons", "removed")},
        "page": str(page),
        "dataset": str(dataset),
        "sent": sent.sent,
        "waiting": sent.failed,
    }


def _judge(
    course: CourseRun, measured: dict[str, list[Measured]], resources: Resources
) -> dict[str, list[Points | None]]:
    """Points of each assistant's answers; none where no judge is named."""
    config = course.judge
    if config is None:
        return {}

    async def ask() -> dict[str, list[Points | None]]:
        jury = Jury(
            resources.make_judges(config.models),
            resources.warehouse,
            config.requests,
            stage="judge-course",
            seed=course.seed,
        )
        try:
            found = {name: await judge_answers(jury, config, rows) for name, rows in measured.items()}
            await jury.finish()
            return found
        finally:
            await jury.close()

    return asyncio.run(ask())


def _tell(found: dict[str, Any], page: Path, name: str, at: datetime, resources: Resources) -> Delivery:
    if not resources.notifiers:
        return Delivery()
    notice = Notice(
        subject=f"{name} {found['evaluation']} {found['serving']['version']}",
        rule="course_report",
        day=at.date(),
        title=f"{name}: {found['summary'][0]}"[:200],
        text="\n".join(found["summary"]),
        severity="warning" if found["refused"] else "info",
        attachment=str(page),
        facts={"serving": found["serving"]["version"], "refused": ", ".join(found["refused"])},
        created_at=at,
    )
    return notify([notice], resources.warehouse.notices, resources.notifiers)

"""Run the comparison of course assistants only where something has changed: tables, configuration, code, embedder."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.markup import escape

from llm_engineering.application.evaluation.course.changes import hash_inputs, keep_state, read_last
from llm_engineering.application.evaluation.course.config import CourseAssistant
from llm_engineering.settings import Settings
from tools.console import console

CODE = tuple(
    Path(__file__).resolve().parent.parent / name for name in ("llm_engineering", "steps", "pipelines")
)


def find_state(parameters: CourseAssistant, settings: Settings) -> Path:
    """Return the file that tells of the last run; each database has its own."""
    return settings.local.data_dir / "assistants" / f"{settings.database.name}-{parameters.course.name}.json"


def hash_run(parameters: CourseAssistant, settings: Settings) -> str | None:
    """Return what a run depends on, as a hash; None: it cannot be told beforehand."""
    judges = (settings.judge.model if settings.judge else "",) if parameters.course.judge else ()
    return hash_inputs(parameters, CODE, repr(settings.embedder), settings.database.name, *judges)


def is_unchanged(parameters: CourseAssistant, settings: Settings, inputs: str | None) -> bool:
    """Return whether the last run had the same inputs and its report is still there; says so if it is."""
    state = find_state(parameters, settings)
    last = read_last(state)
    if inputs is None or last.get("inputs") != inputs or not Path(last.get("report", "")).is_file():
        return False
    console.print(
        f"Nothing has changed since {escape(last.get('at', ''))}: tables, configuration, code and embedder are the same, so "
        f"nothing was run. The report: {escape(last['report'])}. To run all the same, delete {escape(str(state))}.",
        soft_wrap=True,
    )
    return True


def keep_run(
    parameters: CourseAssistant, settings: Settings, inputs: str | None, report: dict[str, Any]
) -> None:
    """Note a run that has succeeded, unless its inputs cannot be told or something it sent still waits."""
    if inputs is not None and not report.get("waiting"):
        at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        keep_state(find_state(parameters, settings), inputs, report["page"], at)

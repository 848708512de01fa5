"""Tell that a pipeline's run failed, or ended: one message a run, to where NOTIFY_* variables say."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from loguru import logger

from llm_engineering.application.notices import notify
from llm_engineering.bootstrap.logging import mask_secrets
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import TwinError
from llm_engineering.domain.notices import Notice
from llm_engineering.settings import Settings

MOST_CAUSE_CHARACTERS = 1_000


def tell_run(
    settings: Settings, pipeline: str, begun: datetime, run: Any, error: BaseException | None
) -> None:
    """Put a notice of a run into the outbox, if ``NOTIFY_ON`` wants one, and send it; what waits there from before is sent too.

    A notice that cannot be kept or sent is logged and is no error: the run's own end is what counts.

    Args:
        run: ZenML's record of it; None where it failed before there was one.
        error: None: it succeeded.
    """
    chosen = settings.notify
    if chosen.urls is None and chosen.webhook_url is None:
        return
    notices = []
    try:
        if error is not None or chosen.on != "failure":
            notice = describe_run(pipeline, begun, datetime.now(UTC), run, error)
            clean = {
                name: mask_secrets(getattr(notice, name), settings) for name in ("title", "text", "link")
            }
            notices.append(notice.model_copy(update=clean))
        with open_resources(settings) as resources:
            notify(notices, resources.warehouse.notices, resources.notifiers).log_problems()
    except TwinError as problem:
        logger.warning("Nobody could be told how the run ended: {}", problem)


def describe_run(
    pipeline: str, begun: datetime, ended: datetime, run: Any, error: BaseException | None
) -> Notice:
    """Return what is told of a run: cause, step, duration, cost and where to look; no traceback."""
    seconds = (ended - begun).total_seconds()
    steps: Mapping[str, Any] = {} if run is None else run.steps
    failed = [
        name for name, step in steps.items() if str(getattr(step.status, "value", step.status)) == "failed"
    ]
    lines = [f"{pipeline} {'failed' if error else 'succeeded'} after {describe_seconds(seconds)}."]
    if failed:
        lines.append(f"Step: {', '.join(failed)}")
    if error is not None:
        cause = " ".join(str(error).split()) or "no reason was given"
        lines.append(f"Cause: {type(error).__name__}: {cause[:MOST_CAUSE_CHARACTERS]}")
    costs = [
        cost for step in steps.values() if isinstance(cost := step.run_metadata.get("cost_usd"), int | float)
    ]
    if costs:
        lines.append(f"Cost: ${sum(costs):.2f}")
    link = ""
    if run is not None:
        lines.append(f"Run: {run.name}")
        with suppress(Exception):  # there is a page only where a ZenML server runs
            from zenml.utils.dashboard_utils import get_run_url

            link = get_run_url(run) or ""
    return Notice(
        subject=f"{pipeline} {run.id if run is not None else begun.isoformat()}",
        rule="run_failed" if error else "run_succeeded",
        day=begun.date(),
        title=f"{pipeline} {'failed' if error else 'succeeded'}",
        text="\n".join(lines),
        severity="failure" if error else "info",
        link=link,
        created_at=ended,
    )


def describe_seconds(seconds: float) -> str:
    """Return a duration as people say it: "42 s", "3 min 5 s", "2 h 1 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
    )

"""Interest of clients in one command: collect notes, learn levels, list whom to call, and tell a CRM exactly once."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_hex

import httpx
from rich.markup import escape
from rich.table import Table

from llm_engineering.application.analysis.config import Outreach, RecordAnalysis
from llm_engineering.application.analysis.outreach import list_calls, make_notices
from llm_engineering.application.analysis.trend import Trend, read_trends
from llm_engineering.application.features.config import EndToEndData
from llm_engineering.application.notices import notify
from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, make_webhook, open_resources
from llm_engineering.domain.analyses import AnalysisSpec
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, name_demo, run, show_next, show_stage
from tools.crm import SmallCrm
from tools.demo import start_warehouse
from tools.models import ensure_models
from tools.run import run_pipeline
from tools.run_config import read_run_config

RUNS = 5
SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    make_parser("demo-crm", __doc__).parse_args(arguments)
    os.environ.update(name_demo("crm"))
    for name in ("NOTIFY_URLS", "NOTIFY_WEBHOOK_URL"):  # nobody but the demo's own CRM is told
        os.environ.pop(name, None)
    settings = load_settings()
    start_logging(settings)
    timings: dict[str, float] = {}
    with ExitStack() as stack:
        with show_stage("Models and local services", timings):
            ensure_models(settings, small=True)
            start_warehouse(settings, stack)
        with show_stage("Collect notes, mails and calls", timings):
            run_pipeline("end_to_end_data", *read_run_config(Path("configs/interactions.yaml"), EndToEndData))
        question, rest = read_run_config(Path("configs/analysis_interest.yaml"), RecordAnalysis)
        with show_stage("Learn levels, and read every note", timings):
            run_pipeline("head_training", question, rest)
            run_pipeline("record_analysis", question, rest)
        crm = stack.enter_context(SmallCrm(token_hex()))
        spec, outreach = question.analysis.spec, question.analysis.outreach
        assert outreach is not None, "the file has it"
        with show_stage(f"Tell the CRM, {RUNS} times, the first while it is down", timings):
            resources = stack.enter_context(open_resources(settings))
            trends, calls = tell(resources, spec, outreach, crm)
        forged = httpx.post(crm.url, content=b"{}").status_code
    console.print(make_table(trends, crm))
    told = len(crm.tasks)
    console.print(
        f"{calls} calls due, {told} tasks in the CRM after {RUNS} runs: "
        + ("[green]each exactly once[/]" if calls == told else "[red]that is not each once[/]")
        + f". {len(crm.levels)} levels written back. An unsigned request: {forged}."
    )
    console.print(f"[dim]{sum(timings.values()):.0f} s in all.[/]")
    show_next("show-interest --demo-crm", "label --demo-crm --config configs/analysis_interest.yaml")
    return 0 if calls == told else 1


def tell(
    resources: Resources, spec: AnalysisSpec, outreach: Outreach, crm: SmallCrm
) -> tuple[list[Trend], int]:
    """Tell the CRM several times of the day after the newest note, first while it is down; returns the trends and how many calls
    are due."""
    warehouse, hook = resources.warehouse, make_webhook(crm.url, crm.secret)
    newest = max(one.published_at for one in warehouse.clean.stream() if one.published_at is not None)
    now = newest + timedelta(hours=1)
    trends = _read(resources, spec, outreach, now)
    notices = make_notices(spec, trends, outreach, now, resources.privacy)
    # What an earlier demo told is not known to this one's CRM.
    warehouse.notices.delete([one.id for one in notices])
    for number in range(RUNS):
        crm.down = number == 0
        done = notify(notices, warehouse.notices, [hook])
        if crm.down:
            console.print(f"  {done.failed} notices wait while the CRM is down; the next run sends them")
    return trends, len(list_calls(notices))


def _read(resources: Resources, spec: AnalysisSpec, outreach: Outreach, now: datetime) -> list[Trend]:
    warehouse = resources.warehouse
    return read_trends(
        spec, warehouse.analyses, warehouse.clean, outreach.group_by, now, outreach.half_life_days
    )


def make_table(trends: Sequence[Trend], crm: SmallCrm) -> Table:
    """Return whom to call first, and what the CRM made of it."""
    tasks = {(str(one["client"]), str(one["about"])) for one in crm.tasks.values()}
    table = Table(title="Whom to call first", title_justify="left", title_style="bold")
    for heading in ("client", "about", "interest", "last", "in their words", "in the CRM"):
        table.add_column(heading, justify="right" if heading == "interest" else "left")
    called = [one for one in trends if (one.group, one.entity) in tasks]
    others = [one for one in trends if (one.group, one.entity) not in tasks and one.entity != "–"]
    for one in [*called[:SHOWN], *others[:2], *others[-1:]]:
        arrow = "↑" if one.change > 0.05 else "↓" if one.change < -0.05 else " "
        pair = one.group, one.entity
        table.add_row(
            escape(one.group),
            escape(one.entity),
            f"{one.score:.0%} {arrow}",
            f"{one.last:%d %b}",
            escape(shorten(one.quote, 60)),
            "[green]task: call[/]" if pair in tasks else f"[dim]level: {crm.levels.get(pair, '–')}[/]",
        )
    return table


if __name__ == "__main__":
    run(main)

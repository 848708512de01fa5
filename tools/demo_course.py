"""Course assistants in one command: compare three, see who is unfair to whom, let the best fair one serve."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.evaluation.course.config import CourseAssistant
from llm_engineering.application.evaluation.course.report import WORDS
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, name_demo, run, show_next, show_stage
from tools.course import find_state
from tools.demo import start_warehouse
from tools.mailbox import SmallMailbox
from tools.models import ensure_models
from tools.run import run_course
from tools.run_config import read_run_config

CONFIG = Path("configs/course.yaml")
_NAME = "demo-course-assistant"
"""Of the demo's own assistant."""


def main(arguments: Sequence[str] | None = None) -> int:
    make_parser("demo-course", __doc__).parse_args(arguments)
    os.environ.update(name_demo("course"))
    for name in ("NOTIFY_WEBHOOK_URL", "NOTIFY_WEBHOOK_SECRET"):  # nobody but the demo's own mailbox is told
        os.environ.pop(name, None)
    timings: dict[str, float] = {}
    with ExitStack() as stack:
        mailbox = stack.enter_context(SmallMailbox())
        os.environ["NOTIFY_URLS"] = mailbox.address
        settings = load_settings()
        start_logging(settings)
        with show_stage("Models and local services", timings):
            ensure_models(settings, small=True)
            start_warehouse(settings, stack)
        parameters, rest = _read_parameters()
        find_state(parameters, settings).unlink(missing_ok=True)
        with open_resources(settings) as resources:  # what an earlier demo told is not in this one's mailbox
            outbox = resources.warehouse.notices
            outbox.delete([one.id for one in outbox.stream()])
        with show_stage("Collect, compare, choose, tell", timings):
            report = run_course(parameters, rest, settings)
        with show_stage("The same again", timings):
            again = run_course(parameters, rest, settings)
    page = Path(report["page"])
    console.print(make_table(json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))))
    for line in report["summary"]:
        console.print(f"  {escape(line)}", soft_wrap=True)
    mails = len(mailbox.messages)
    console.print(
        f"{mails} mail to the dean, with the page {page}; the second run did {'something' if again else 'nothing'}. "
        f"[dim]{sum(timings.values()):.0f} s in all.[/]",
        soft_wrap=True,
    )
    show_next(f"list-models {_NAME}", "rejected --demo-course")
    return 0 if not again else 1


def _read_parameters() -> tuple[CourseAssistant, dict[str, Any]]:
    """The file's, with a name of the demo's own, so that its versions never stand among somebody's."""
    parameters, rest = read_run_config(CONFIG, CourseAssistant)
    course = parameters.course.model_copy(update={"name": _NAME})
    return parameters.model_copy(update={"course": course}), rest


def make_table(found: dict[str, Any]) -> Table:
    """Return a line for each assistant: how good its words are, to whom it is unfair, and what becomes of it."""
    table = Table(title="Which course assistant", title_justify="left", title_style="bold")
    for heading in (
        "assistant",
        "ROUGE-L",
        "95 %",
        "BLEU",
        "to the point",
        "covers",
        "fair to every professor?",
        "",
    ):
        table.add_column(
            heading, justify="left" if heading in ("assistant", "fair to every professor?", "") else "right"
        )
    assistants = sorted(found["assistants"].items(), key=lambda one: -one[1]["scores"]["rougeL"]["value"])
    for name, about in assistants:
        scores = about["scores"]
        unfair = [
            f"[red]{WORDS[one['verdict']]} {escape(one['professor'])} ({one['gap'][0]:+.2f})[/]"
            for one in about["professors"]
            if one["verdict"] in WORDS
        ]
        serves = name == found["serving"]["assistant"]
        table.add_row(
            escape(name),
            f"{scores['rougeL']['value']:.2f}",
            f"{scores['rougeL']['low']:.2f}–{scores['rougeL']['high']:.2f}",
            *(f"{scores[metric]['value']:.2f}" for metric in ("bleu", "relevance", "coverage")),
            "\n".join(unfair) or "yes",
            "[bold green]serves[/]" if serves else "refused" if name in found["refused"] else "",
        )
    return table


if __name__ == "__main__":
    run(main)

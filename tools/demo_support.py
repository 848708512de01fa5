"""Customer service in one command: collect tickets, learn what they want, serve a few customers, replay the old ones."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.analysis.config import RecordAnalysis
from llm_engineering.application.features.config import EndToEndData
from llm_engineering.application.inference.support import Served, SupportDesk
from llm_engineering.application.ports import Message
from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, name_demo, run, show_next, show_stage
from tools.demo import start_warehouse
from tools.models import ensure_models
from tools.run import run_pipeline
from tools.run_config import read_run_config
from tools.support import CONFIG, TICKETS, make_table, read_support, replay, serve_with_desk

TURNS = (
    ("I need help resetting my password.",),
    ("Meine Bestellung LK-12345 ist immer noch nicht da, wo ist sie?",),
    ("It doesn't work.", "The Nord router shows error 504 since the update."),
    ("Please refund £129.95, I sent the kettle back on 3 May.",),
    ("Let me talk to a person.",),
    ("Help!", "hello", "Hello?"),
    ("Who won the football world cup in 1998?",),
)
"""What customers say, turn by turn."""
_SHOWN_AS = {
    "answer": "[green]answered[/]",
    "ask_back": "[yellow]asked back[/]",
    "hand_over": "[cyan]handed over[/]",
}


def main(arguments: Sequence[str] | None = None) -> int:
    make_parser("demo-support", __doc__).parse_args(arguments)
    # Quotations of approved texts: no language model is asked, and none can invent.
    os.environ.update(name_demo("support") | {"LLM_GROUNDING": "extractive"})
    settings = load_settings()
    start_logging(settings)
    timings: dict[str, float] = {}
    with ExitStack() as stack:
        with show_stage("Models and local services", timings):
            ensure_models(settings, small=True)
            start_warehouse(settings, stack)
        with show_stage("Collect tickets and approved answers", timings):
            run_pipeline("end_to_end_data", *read_run_config(Path("configs/tickets.yaml"), EndToEndData))
        with show_stage("Learn what customers want", timings):
            question = read_run_config(Path("configs/analysis_tickets.yaml"), RecordAnalysis)
            run_pipeline("head_training", *question)
            run_pipeline("record_analysis", *question)
        with show_stage("Serve customers", timings), open_resources(settings) as resources:
            served = serve_with_desk(resources, read_support(CONFIG), _talk)
        with show_stage("Replay old tickets", timings), open_resources(settings) as resources:
            report, _ = replay(resources, TICKETS)
    table = Table(title="Customers", title_justify="left", title_style="bold")
    for heading in ("what they say", "what is done", "why", "with"):
        table.add_column(heading)
    for said, one in served:
        sources = ", ".join(
            source.passage.title or shorten(source.passage.text, 30) for source in one.sources
        )
        decision = one.decision
        sure = "" if decision.confidence is None else f" {decision.confidence:.0%}"
        table.add_row(
            escape(shorten(said, 50)),
            _SHOWN_AS[decision.action],
            escape(f"{decision.reason}{sure}"),
            escape(sources),
        )
    console.print(table)
    console.print(make_table(report))
    console.print(f"[dim]{sum(timings.values()):.0f} s in all.[/]")
    show_next(
        "list-analyses --task tickets --demo-support",
        f"run-inference-ml-service --demo-support --config {CONFIG}",
    )
    return 0


async def _talk(desk: SupportDesk) -> list[tuple[str, Served]]:
    done: list[tuple[str, Served]] = []
    for conversation in TURNS:
        history: list[Message] = []
        for said in conversation:
            one = await desk.serve(said, history)
            history += [Message("user", said), Message("assistant", one.response)]
            done.append((said, one))
    return done


if __name__ == "__main__":
    run(main)

"""The main job in one command: serve the sample site, collect it, build features, ask and have written, tidy up."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from llm_engineering.application.features.config import EndToEndData
from llm_engineering.application.inference.events import RagRequest
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.hints import POE
from llm_engineering.domain.retrieval import Answer, Query
from llm_engineering.settings import Settings, load_settings
from tools.ask import ask
from tools.console import DEMO_COLLECTION, console, make_parser, run, show_stage
from tools.models import ensure_models, with_small_llm
from tools.run import run_pipeline
from tools.run_config import read_run_config
from tools.sample_site import SampleSite
from tools.services import LocalMongo

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path("configs/end_to_end_data_sample.yaml")
SITE_PORT = 8111
QUESTIONS = (
    "Why does hybrid search combine BM25 with dense vectors?",
    "What did Ada Winter write in September 2026?",
    "Compare what Ada and Ben say about evaluation",
    "Draft a LinkedIn post about chunking in Ada's voice",
    "Which team won the football world cup in 1998?",
)
"""A question, a list, a comparison, a draft, and a question that the sample does not answer: a twin must know when to be
silent."""

_SHOWN_AS = {"article": "articles", "post": "posts", "repository": "source files"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("demo", __doc__)
    parser.add_argument(
        "--small", action="store_true", help="with the small language model (0.1 instead of 1.1 GB)"
    )
    options = parser.parse_args(arguments)
    os.environ.update(DEMO_COLLECTION)  # for the steps too, which read the settings themselves
    settings = with_small_llm(load_settings()) if options.small else load_settings()
    start_logging(settings)
    timings: dict[str, float] = {}
    console.print(
        Panel(
            "Collect a small website, posts and this repository → build features → ask.\n"
            "[dim]Everything runs on this machine: no accounts, no Docker, no internet.[/]",
            title="[bold]LLM twin[/]",
            border_style="cyan",
        )
    )
    with ExitStack() as stack:
        with show_stage("Models and local services", timings):
            fetched = ensure_models(settings, small=options.small)
            console.print(f"  Models: {f'{len(fetched)} files fetched' if fetched else 'ready'}")
            _start_services(settings, stack)
        with show_stage("Collect and build features", timings):
            parameters, rest = read_run_config(CONFIG, EndToEndData)
            run_pipeline("end_to_end_data", parameters, rest)
        with show_stage("Ask", timings):
            answers = asyncio.run(_ask_all(settings))
        counts = _counts(settings)
    _closing_table(timings, counts, answers)
    return 0


def start_warehouse(settings: Settings, stack: ExitStack) -> None:
    """Start the database where it does not run; only what was started here is stopped at the end."""
    mongo = LocalMongo(settings.local.data_dir, settings.local.mongo_port)
    uses_local = settings.database.uri.get_secret_value().endswith(f"127.0.0.1:{settings.local.mongo_port}")
    if uses_local and not mongo.status().running:
        mongo.start()
        stack.callback(mongo.stop)
        console.print(f"  MongoDB-wire server on 127.0.0.1:{settings.local.mongo_port}")


def _start_services(settings: Settings, stack: ExitStack) -> None:
    start_warehouse(settings, stack)
    site = stack.enter_context(SampleSite(ROOT / "samples" / "site", port=SITE_PORT))
    console.print(f"  Sample site on {site.base_url}")


async def _ask_all(settings: Settings) -> list[Answer]:
    answers = []
    with open_resources(settings) as resources:
        try:
            for question in QUESTIONS:
                console.print(f"\n[bold cyan]?[/] [bold]{escape(question)}[/]\n")
                answers.append(await ask(RagRequest(Query.ask(question)), resources))
        finally:
            await resources.language_model.close()
    return answers


def _counts(settings: Settings) -> dict[str, int]:
    with open_resources(settings) as resources:
        by_category: dict[str, int] = {}
        for (category, _), count in resources.warehouse.documents.count_documents().items():
            by_category[category] = by_category.get(category, 0) + count
        counts = {_SHOWN_AS.get(name, name): count for name, count in sorted(by_category.items())}
        return {**counts, "chunks": resources.index.count()}


def _closing_table(timings: dict[str, float], counts: dict[str, int], answers: Sequence[Answer]) -> None:
    console.print()
    table = Table(title="What was done", title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    answered = sum(not answer.abstained for answer in answers)
    table.add_row("questions answered", f"{answered}, with {sum(len(a.cited) for a in answers)} citations")
    table.add_row("left unanswered", f"{len(answers) - answered}, because no source bears on it")
    table.add_section()
    for stage, seconds in timings.items():
        table.add_row(stage, f"{seconds:.1f} s")
    console.print(table)
    console.print(
        "Everything that was started is stopped. The demo keeps its collection to itself. Go on with:"
    )
    console.print(f"  {POE} local-infrastructure-up")
    console.print(f'  {POE} ask --demo "What is small-to-big retrieval?"')
    console.print(f"  {POE} run-inference-ml-service --demo   [dim]a chat page and an API[/]")
    console.print(f"  {POE} init   [dim]a twin of your own: whose it is, and where the writing is[/]")


if __name__ == "__main__":
    run(main)

"""Records in one command: read a table of films under a contract, index it, search it with filters, and say what was left out."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from llm_engineering.application.features.config import EndToEndData
from llm_engineering.application.inference.records import FoundRecord, RecordSearch
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.documents import CleanDocument, DeadLetter
from llm_engineering.domain.retrieval import Condition, MetadataFilter, Query
from llm_engineering.settings import Settings, load_settings
from tools.console import console, make_parser, name_demo, readable_source, run, show_next, show_stage
from tools.demo import start_warehouse
from tools.models import ensure_models, with_small_llm
from tools.run import run_pipeline
from tools.run_config import read_run_config

CONFIG = Path("configs/movies.yaml")
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Search:
    """A search that the demo shows."""

    text: str
    conditions: tuple[Condition, ...] = ()


SEARCHES = (
    Search("somebody finds a fraud in old account books"),
    Search("an astronomer or a space station", (Condition(field="year", gte=1990, lte=1999),)),
    Search("crime movies of the 90s rated above 7"),
    Search("bees in a time of war"),
    Search("the transfer window of a football club"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    make_parser("demo-movies", __doc__).parse_args(arguments)
    os.environ.update(name_demo("movies"))  # for the steps too, which read the settings themselves
    settings = with_small_llm(load_settings())
    start_logging(settings)
    timings: dict[str, float] = {}
    console.print(
        Panel(
            "Read 64 rows of films → contract → clean → embed → index → search.\n"
            "[dim]Everything runs on this machine: no accounts, no Docker, no internet.[/]",
            title="[bold]Movies[/]",
            border_style="cyan",
        )
    )
    with ExitStack() as stack:
        with show_stage("Models and local services", timings):
            ensure_models(settings, small=True)
            start_warehouse(settings, stack)
        with show_stage("Collect and build features", timings):
            parameters, rest = read_run_config(CONFIG, EndToEndData)
            run_pipeline("end_to_end_data", parameters, rest)
        with show_stage("Search", timings):
            shown = asyncio.run(_search_all(settings))
        with open_resources(settings) as resources:
            letters = sorted(resources.warehouse.dead_letters.stream(), key=lambda letter: letter.source)
            films = sum(resources.warehouse.documents.count_documents().values())
    _show_searches(shown)
    _show_left_out(letters)
    console.print(
        f"[bold]{films + len(letters)} rows = {films} films + {len(letters)} left out[/], in "
        f"{sum(timings.values()):.0f} s. Over HTTP: POST /movies/search (docs/records.md)."
    )
    show_next("explain-record f03 --demo-movies", "run-inference-ml-service --demo-movies")
    return 0


async def _search_all(settings: Settings) -> list[tuple[str, str, Sequence[FoundRecord]]]:
    """(what was asked, which filters held, what was found) of each search, and what is like the first film found."""
    shown: list[tuple[str, str, Sequence[FoundRecord]]] = []
    with open_resources(settings) as resources:
        records = _open_records(resources)
        for wanted in SEARCHES:
            query = Query.ask(wanted.text, k=SHOWN, filter=MetadataFilter(facets=wanted.conditions))
            found = await records.search(query, "movie", summarise=False)
            held = ", ".join(str(condition) for condition in found.provenance.filter.facets)
            shown.append((wanted.text, held, found.records))
        if shown[0][2]:
            first = shown[0][2][0].record
            similar = await asyncio.to_thread(records.find_similar, first.id, "movie", SHOWN)
            shown.append((f"(like “{first.title}”)", "", similar))
        await resources.language_model.close()
    return shown


def _open_records(resources: Resources) -> RecordSearch:
    warehouse = resources.warehouse
    return RecordSearch(
        resources.inference_pipeline(keep_answers=False),
        warehouse.clean,
        resources.index,
        resources.embedder,
        warehouse.embeddings,
    )


def _show_searches(shown: Sequence[tuple[str, str, Sequence[FoundRecord]]]) -> None:
    table = Table(
        title="What was asked, and what was found", title_justify="left", title_style="bold", show_lines=True
    )
    table.add_column("Asked", overflow="fold", ratio=3)
    table.add_column("Found (similarity)", overflow="fold", ratio=5)
    for asked, held, found in shown:
        question = escape(asked) + (f"\n[dim]{escape(held)}[/]" if held else "")
        lines = [f"{escape(_name(one.record))} [dim]({one.similarity or 0:.2f})[/]" for one in found]
        table.add_row(question, "\n".join(lines) or "[dim]nothing is near enough[/]")
    console.print(table)


def _name(record: CleanDocument) -> str:
    genre = record.metadata.get("genre", ())
    told = ", ".join(genre) if isinstance(genre, tuple) else str(genre)
    return f"{record.title}, {record.metadata.get('year', '')}, {told}, {record.metadata.get('rating', '–')}"


def _show_left_out(letters: Sequence[DeadLetter]) -> None:
    table = Table(title="What was left out, and why", title_justify="left", title_style="bold")
    table.add_column("Row", no_wrap=True)
    table.add_column("Reason", overflow="fold")
    for letter in letters:
        table.add_row(escape(readable_source(letter.source)), escape(letter.reason))
    console.print(table)


if __name__ == "__main__":
    run(main)

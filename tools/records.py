"""Records: ``./poe export-tables`` writes them as Parquet, ``./poe explain-record ID`` shows what became of one."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from loguru import logger
from rich.markup import escape
from rich.table import Table

from llm_engineering.application.features.explain import RecordHistory, explain_record
from llm_engineering.application.features.tables import export_tables
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import add_demo_option, console, make_parser, run, user_path

DEFAULT_FOLDER = Path("data/tables")
_COLLECTING = ("end_to_end_data", "digital_data_etl")
_MOST_RUNS = 500
"""Of the newest runs, among which a record's is looked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("…", __doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    export = actions.add_parser("export-tables", prog=f"{POE} export-tables")
    export.add_argument(
        "folder", type=user_path, nargs="?", default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}"
    )
    explain = actions.add_parser("explain-record", prog=f"{POE} explain-record")
    explain.add_argument(
        "which", metavar="ID", help="a document's id or link, the id behind its #, or FILE:LINE"
    )
    for command in actions.choices.values():
        add_demo_option(command)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    if options.action == "export-tables":
        show_export(settings, options.folder)
    else:
        show_record(settings, options.which)
    return 0


def show_export(settings: Settings, folder: Path) -> None:
    """Write the tables and show what was written."""
    with open_resources(settings) as resources:
        counts = export_tables(resources.warehouse, resources.index, resources.open_tables(folder))
    table = Table(title=f"Tables in {escape(str(folder))}, by day", title_justify="left", title_style="bold")
    for column in ("Table", "Rows", "Days"):
        table.add_column(column, justify="left" if column == "Table" else "right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}", f"{sum(1 for _ in (folder / name).glob('created_at=*')):,}")
    console.print(table)


def show_record(settings: Settings, which: str) -> None:
    """Show a record's way."""
    with open_resources(settings) as resources:
        history = explain_record(which, resources.warehouse, resources.index)
        embedder = resources.embedder.fingerprint if history.chunks else None
    made_by = f"{embedder.model}, {embedder.dimension} dimensions, {embedder.digest}" if embedder else ""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    collected = history.document.collected_at if history.document else None
    facts = list_facts(history, made_by)
    if collected is not None and (found := find_run(collected)) is not None:
        facts.insert(2, ("Run", found))
    for name, value in facts:
        table.add_row(name, escape(value))
    console.print(table)


def find_run(collected: datetime) -> str | None:
    """Return the name of the newest run that was collecting at a time; None: ZenML knows of none, or does not answer."""
    begun = collected + timedelta(seconds=1)  # kept to the second
    try:
        from zenml.client import Client

        runs = Client().list_pipeline_runs(sort_by="desc:created", size=_MOST_RUNS).items
    except Exception as error:  # noqa: BLE001 - whatever is wrong with ZenML, the record's way is there to be shown
        logger.debug("ZenML's runs cannot be listed: {}", error)
        return None
    for one in runs:
        start, end = (None if at is None else at.replace(tzinfo=UTC) for at in (one.start_time, one.end_time))
        collects = one.pipeline is not None and one.pipeline.name in _COLLECTING
        if collects and start is not None and start <= begun and (end is None or collected <= end):
            return str(one.name)
    return None


def list_facts(history: RecordHistory, embedder: str) -> list[tuple[str, str]]:
    """Return (what, value) of each stage that a record has passed, and of those that it has not."""
    facts: list[tuple[str, str]] = []
    document, clean, chunks = history.document, history.clean, history.chunks
    if document is not None:
        when = (
            f"{document.collected_at:%Y-%m-%d %H:%M:%S} UTC"
            if document.collected_at
            else "at an unknown time"
        )
        facts += [
            ("Row", document.link),
            ("Document", f"{document.id}, {document.category}, collected {when} from {document.origin}"),
            (
                "Content",
                f"{len(document.text):,} characters, {document.language}, hash {document.content_hash[:16]}",
            ),
            ("Fields", json.dumps(document.metadata, ensure_ascii=False)),
        ]
        facts.append(
            (
                "Cleaned",
                f"{len(clean.text):,} characters by rules {history.cleaning}, version {clean.content_hash[:16]}",
            )
            if clean
            else ("Cleaned", f"no. Run {POE} run-feature-engineering-pipeline")
        )
        if clean and clean.duplicate_group:
            facts.append(("Says the same as", f"the group of {clean.duplicate_group}"))
        facts.append(
            (
                "Chunks",
                f"{len(chunks)} by rules {history.chunking}, of {', '.join(str(c.tokens) for c in chunks[:20])} tokens",
            )
            if chunks
            else ("Chunks", "none in the index")
        )
        if chunks:
            facts.append(("Vectors", f"{len(chunks)} by {embedder}; version {chunks[0].document_version}"))
    facts += [
        (f"Left out ({letter.stage})", f"{letter.source}: {letter.reason}") for letter in history.letters
    ]
    return facts


if __name__ == "__main__":
    run(main)

"""The warehouse as JSON Lines: ``python -m tools.warehouse export | import [FOLDER]`` (default ``data/export``).

Exit codes: 0 done, 1 failed, or nothing of what was to be imported could be used.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.features.export import ImportReport, export_warehouse, import_warehouse
from llm_engineering.bootstrap.logging import show_progress, start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.hints import POE
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path

DEFAULT_FOLDER = Path("data/export")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("…-data-warehouse…", __doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for action, task in (
        ("export", "export-data-warehouse-to-json"),
        ("import", "import-data-warehouse-from-json"),
    ):
        actions.add_parser(action, prog=f"{POE} {task}").add_argument(
            "folder", type=user_path, nargs="?", default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}"
        )
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_resources(settings) as resources, show_progress(settings) as progress:
        resources.warehouse.ping()
        if options.action == "export":
            written = export_warehouse(resources.warehouse, options.folder, progress).written
            imported = None
        else:
            imported = import_warehouse(resources.warehouse, options.folder, progress)
    if imported is not None:
        return _show_import(imported, options.folder)
    _show(f"Exported to {options.folder}", {name: f"{count:,}" for name, count in written.items()})
    return 0


def _show_import(report: ImportReport, folder: Path) -> int:
    documents = report.documents
    rows = {
        "users created": f"{report.users:,}",
        "documents created": f"{documents.created:,}",
        "documents updated": f"{documents.updated:,}",
        "documents unchanged": f"{documents.unchanged:,}",
        "rejected": f"{report.dead_letters:,}",
        "votes": f"{report.votes:,}",
        "edited drafts": f"{report.drafts:,}",
        "corrections": f"{report.corrections:,}",
    }
    if report.rejected:
        rows["[yellow]lines rejected[/]"] = f"[yellow]{report.rejected:,}[/]"
    _show(f"Imported from {folder}", rows)
    if report.rejected:
        console.print("[dim]Rejected lines are kept with their number and reason (stage 'import').[/]")
    used = (
        documents.created
        + documents.updated
        + documents.unchanged
        + report.dead_letters
        + report.votes
        + report.drafts
        + report.corrections
    )
    return 1 if report.rejected and not used else 0


def _show(title: str, rows: dict[str, str]) -> None:
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in rows.items():
        table.add_row(name, count)
    console.print(table)


if __name__ == "__main__":
    run(main)

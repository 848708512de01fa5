"""The collection: ``./poe status`` shows what is in it, ``./poe rejected`` what was left out, ``./poe forget`` removes a part."""

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.features.config import CollectRun, EndToEndData, FeatureEngineering, LinkSpec
from llm_engineering.application.features.links import hide_credentials, normalise_link
from llm_engineering.application.features.manage import (
    COLLECT_STAGE,
    Selection,
    Stock,
    find_person,
    find_retries,
    forget,
    forget_person,
    select_author,
    select_links,
    take_stock,
)
from llm_engineering.application.ports import Warehouse
from llm_engineering.bootstrap.locks import hold_collection
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.documents import DeadLetter
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import QdrantEdgeSettings, Settings, load_settings
from tools.console import (
    add_demo_option,
    console,
    errors,
    make_parser,
    readable_source,
    run,
    show_table,
    user_link,
)

SAMPLE = Path(__file__).resolve().parent.parent / "configs" / "end_to_end_data_sample.yaml"
SHOWN_SOURCES = 25
SHOWN_LETTERS = 50
_STAGES = {
    "clean": "while it was cleaned",
    "chunk": "while it was cut into passages",
    "import": "while it was imported",
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    settings = load_settings()
    start_logging(settings)
    if options.command == "status":
        show_status(settings)
        return 0
    if options.command == "rejected":
        return show_rejected(settings, retry=options.retry, whole=options.all)
    if options.command == "forget-person":
        return forget_named(settings, options.who, yes=options.yes)
    return forget_part(settings, options)


# --- status ------------------------------------------------------------------------------------------------------


def show_status(settings: Settings) -> None:
    """Show what the collection holds, by source and author, and what is left to do."""
    with open_resources(settings) as resources:
        stock = take_stock(resources.warehouse, resources.index)
    _show_sources(stock, settings.database.name)
    authors = ", ".join(f"{escape(name)} {count:,}" for name, count in _largest(stock.chunks_by_author))
    kinds = ", ".join(f"{count:,} {escape(name)}" for name, count in _largest(stock.categories))
    console.print(
        f"[bold]Documents[/]: {stock.documents:,}" + (f" ({kinds})" if kinds else ""), soft_wrap=True
    )
    console.print(
        f"[bold]Passages[/]: {stock.chunks:,}" + (f" ({authors})" if authors else ""), soft_wrap=True
    )
    if stock.unclean or stock.unindexed:
        console.print(
            f"[yellow]Not to be found yet: {stock.unclean + stock.unindexed:,} documents.[/] "
            f"Run {POE} run-feature-engineering-pipeline",
            soft_wrap=True,
        )
    if rejected := sum(stock.rejected.values()):
        console.print(f"[yellow]Left out: {rejected:,}.[/] The reasons: {POE} rejected", soft_wrap=True)
    if "zenml" not in sys.modules:  # which takes seconds to be loaded
        errors.print("[dim]Asking ZenML for the last run …[/]")
    if last := _last_run():
        console.print(f"[bold]Last run[/]: {escape(last)}", soft_wrap=True)
    if not stock.documents:
        console.print(
            f"Nothing is collected yet. Begin with: {POE} run-end-to-end-data-pipeline --author YOU --link LINK"
        )


def _show_sources(stock: Stock, name: str) -> None:
    table = Table(title=f"Collection '{escape(name)}'", title_justify="left", title_style="bold")
    table.add_column("Source")
    table.add_column("Author")
    table.add_column("Documents", justify="right")
    ordered = sorted(stock.sources.items(), key=lambda item: (-item[1], item[0]))
    for (origin, author), count in ordered[:SHOWN_SOURCES]:
        table.add_row(escape(readable_source(origin)), escape(author), f"{count:,}")
    if len(ordered) > SHOWN_SOURCES:
        rest = ordered[SHOWN_SOURCES:]
        table.add_row(f"[dim]and {len(rest):,} more[/]", "", f"{sum(count for _, count in rest):,}")
    if ordered:
        show_table(table)


def _largest(counts: dict[str, int]) -> list[tuple[str, int]]:
    return Counter(counts).most_common(8)


def _last_run() -> str:
    """The newest run of a pipeline that changes the collection; empty where ZenML knows of none."""
    from zenml.client import Client

    from tools.run import WRITERS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ZenML warns of its own fields
        runs = Client().list_pipeline_runs(sort_by="desc:created", size=20)
    for found in runs.items:
        if found.pipeline is not None and found.pipeline.name in WRITERS:
            began = f", {found.start_time:%Y-%m-%d %H:%M} UTC" if found.start_time else ""
            return f"{found.pipeline.name}{began}, {found.status.value}"
    return ""


# --- rejected ----------------------------------------------------------------------------------------------------


def show_rejected(settings: Settings, *, retry: bool, whole: bool) -> int:
    """List what was left out with the reasons; try it again where that is asked for."""
    with open_resources(settings) as resources:
        letters = sorted(
            resources.warehouse.dead_letters.stream(), key=lambda letter: (letter.stage, letter.source)
        )
        titles = {
            document.id: document.link
            for document in resources.warehouse.documents.get(
                [letter.source for letter in letters if letter.stage != COLLECT_STAGE]
            )
        }
    if not letters:
        console.print("[green]✓[/] Nothing was left out.")
        return 0
    if retry:
        _retry(letters)
        return 0
    shown = letters if whole else letters[:SHOWN_LETTERS]
    for letter in shown:
        stage = f" [dim]({_STAGES[letter.stage]})[/]" if letter.stage in _STAGES else ""
        source = readable_source(titles.get(letter.source, letter.source))
        console.print(f"{escape(source)}{stage}", soft_wrap=True)
        console.print(f"  [yellow]{escape(letter.reason)}[/]", soft_wrap=True)
    if len(shown) < len(letters):
        console.print(f"[dim]and {len(letters) - len(shown):,} more: --all[/]")
    console.print(
        f"[bold]{len(letters):,}[/] left out. Mend the cause, then try them again: {POE} rejected --retry"
    )
    return 0


def _retry(letters: Sequence[DeadLetter]) -> None:
    """Collect the links again that something was rejected from, and build features."""
    from tools.run import run_pipeline

    links = find_retries(letters)
    unknown = [letter for letter in letters if letter.stage == COLLECT_STAGE and not letter.link]
    if unknown:
        console.print(
            f"[yellow]{len(unknown):,} were rejected by an older version, which did not keep how they were collected: run "
            "their collection again with its YAML.[/]",
            soft_wrap=True,
        )
    if not links:
        run_pipeline("feature_engineering", FeatureEngineering())
        return
    specs = tuple(
        LinkSpec(
            url=link.url,
            author=link.author,
            category=link.category,
            render=link.render,
            options=dict(link.options),
        )
        for link in links
    )
    for spec in specs:
        console.print(f"  {escape(spec.url)}", soft_wrap=True)
    run_pipeline("end_to_end_data", EndToEndData(collect=CollectRun(links=specs, max_failed_share=1)))


# --- forget ------------------------------------------------------------------------------------------------------


def forget_part(settings: Settings, options: argparse.Namespace) -> int:
    """Remove an author, links or the sample, after showing what goes and asking."""
    with hold_collection(settings, alone=True), open_resources(settings) as resources:
        selection = _select(resources.warehouse, options)
        _show_selection(selection)
        if not options.yes and not _agreed():
            console.print("Nothing was removed.")
            return 1
        report = forget(selection, resources.warehouse, resources.index)
    removed = {
        "documents": report.documents,
        "passages": report.chunks,
        "rejected records": report.rejected,
        "drafts with passages of them": report.drafts,
    }
    counted = ", ".join(f"{count:,} {what}" for what, count in removed.items() if count)
    console.print(f"[green]✓[/] Removed: {counted or 'nothing'}.", soft_wrap=True)
    if report.authors:
        console.print(f"  Nothing is left by {escape(', '.join(report.authors))}.", soft_wrap=True)
    console.print(
        "  [dim]Not touched: the files and sites themselves, drafts that somebody edited, answers that somebody voted on, data "
        "sets and models made from them. Other answers go after 30 days.[/]",
        soft_wrap=True,
    )
    return 0


def forget_named(settings: Settings, who: Sequence[str], *, yes: bool) -> int:
    """Remove what names a person, by name and addresses, and prove that nothing is left."""
    with hold_collection(settings, alone=True), open_resources(settings) as resources:
        policy = resources.privacy
        spellings = list(who)
        if policy.action == "pseudonymise":
            spellings += [policy.replace("e-mail" if "@" in one else "name", one) for one in who]
        spellings += filter(None, map(policy.name_writer, who))
        traces = find_person(resources.warehouse, spellings)
        _show_selection(traces.selection)
        others = {name: count for name, count in list(traces.counts.items())[2:] if count}
        if others:
            console.print("  and " + ", ".join(f"{count:,} {name}" for name, count in others.items()))
        if traces.count and not yes and not _agreed():
            console.print("Nothing was removed.")
            return 1
        forget_person(traces, resources.warehouse, resources.index)
        left = find_person(resources.warehouse, spellings)
    files = list(find_in_files(_list_kept_files(settings), spellings))
    table = Table(title="Proof: what still holds the name", title_justify="left", title_style="bold")
    table.add_column("Where")
    table.add_column("Found", justify="right")
    for where, count in (*left.counts.items(), ("files: index, exports, reports, uploads, logs", len(files))):
        table.add_row(where, str(count))
    console.print(table)
    for path in files:
        console.print(f"  [yellow]{escape(str(path))}[/]", soft_wrap=True)
    if left.count or files:
        console.print(
            "Remove these by hand, or make them anew: what they hold was written from the collection earlier."
        )
    console.print(
        "[dim]Not looked at: the sources themselves, backups, data sets and models that were made before, replies "
        "and vectors that are kept by a hash, compressed files. Answers without a vote go after 30 days.[/]",
        soft_wrap=True,
    )
    return 1 if left.count or files else 0


def _list_kept_files(settings: Settings) -> list[Path]:
    data = settings.local.data_dir
    folders = [data / name for name in ("exports", "tables", "reports", "uploads", "logs")]
    if isinstance(settings.vector_index, QdrantEdgeSettings):
        folders.append(settings.vector_index.path)
    return [
        path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*")) if path.is_file()
    ]


def find_in_files(paths: Iterable[Path], spellings: Sequence[str]) -> Iterator[Path]:
    """Yield the files that hold any of some names, in any case of ASCII letters: as whole words; in a binary file also within
    others, since what stands before a text there can be a letter. What is compressed is not read."""
    spelled = [
        rb"\s+".join(re.escape(word.encode()) for word in one.split()) for one in spellings if one.strip()
    ]
    if not spelled:
        return
    within = b"(?:" + b"|".join(spelled) + b")"
    anywhere, whole = (
        re.compile(pattern, re.IGNORECASE) for pattern in (within, rb"(?<!\w)" + within + rb"(?!\w)")
    )
    for path in paths:
        if not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            binary = content.find(b"\0") >= 0
            if (anywhere if binary else whole).search(content):
                yield path


def _select(warehouse: Warehouse, options: argparse.Namespace) -> Selection:
    if options.author:
        return select_author(warehouse, options.author)
    links = _sample_links() if options.sample else options.link
    origins = {origin for origin, _ in warehouse.documents.count_sources()}
    selection = select_links(warehouse, [one for link in links for one in spell_link(link, origins)])
    if not selection.documents and not selection.letters:
        raise InvalidInputError(
            "The sample is not in the collection."
            if options.sample
            else f"Nothing was collected from {', '.join(links)}. What there is: {POE} status"
        )
    return selection


def _sample_links() -> list[str]:
    from tools.run_config import read_run_config

    parameters, _ = read_run_config(SAMPLE, EndToEndData)
    return [link.url for link in parameters.collect.links]


def spell_link(link: str, origins: Iterable[str]) -> list[str]:
    """A link as it may stand in the collection: as given, in another spelling of the same path, as a file's URL."""
    shown = hide_credentials(normalise_link(link))
    parts = tuple(f"{shown}#{name}=" for name in ("table", "query", "records_at"))
    found = [link, shown, *(origin for origin in origins if origin.startswith(parts))]
    if "://" not in link:
        path = Path(user_link(link)).expanduser().absolute()
        same = (one for one in origins if "://" not in one and Path(one).expanduser().absolute() == path)
        found += [str(path), path.as_uri(), *same]
    return found


def _show_selection(selection: Selection) -> None:
    counts = Counter((document.origin, document.author) for document in selection.documents)
    console.print(
        f"To be removed: [bold]{len(selection.documents):,}[/] documents, {len(selection.letters):,} rejected records"
    )
    for (origin, author), count in counts.most_common(SHOWN_SOURCES):
        console.print(f"  {count:,} by {escape(author)} from {escape(origin)}", soft_wrap=True)
    if len(counts) > SHOWN_SOURCES:
        console.print(f"  [dim]and {len(counts) - SHOWN_SOURCES:,} more sources[/]")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError("Nobody is there to be asked. Add --yes to remove it without being asked.")
    return console.input("Remove it? \\[y/N] ").strip().lower() in ("y", "yes")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("…", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", prog=f"{POE} status", help="what is in the collection")
    rejected = commands.add_parser("rejected", prog=f"{POE} rejected", help="what was left out, with reasons")
    rejected.add_argument("--retry", action="store_true", help="collect the links again that it came from")
    rejected.add_argument("--all", action="store_true", help=f"list more than {SHOWN_LETTERS}")
    removal = commands.add_parser(
        "forget", prog=f"{POE} forget", help="remove an author, a link or the sample"
    )
    what = removal.add_mutually_exclusive_group(required=True)
    what.add_argument("--author", metavar="NAME", help="all that is by them")
    what.add_argument(
        "--link", action="extend", nargs="+", metavar="LINK", help="all that came from there; repeatable"
    )
    what.add_argument("--sample", action="store_true", help="the sample site and this project")
    removal.add_argument("--yes", action="store_true", help="without asking")
    person = commands.add_parser(
        "forget-person", prog=f"{POE} forget-person", help="remove what names a person, and show what is left"
    )
    person.add_argument(
        "who", nargs="+", metavar="NAME|EMAIL", help="in every spelling that may stand somewhere"
    )
    person.add_argument("--yes", action="store_true", help="without asking")
    for command in commands.choices.values():
        add_demo_option(command)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)

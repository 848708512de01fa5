"""Customer service: ``./poe replay-tickets [FILE] [--config FILE]`` says what it would have done with old tickets."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.evaluation.heads import hash_learned
from llm_engineering.application.evaluation.replay import OldTicket, ReplayReport, replay_tickets
from llm_engineering.application.evaluation.statistics import Interval
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.inference.support import SupportDesk
from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.bootstrap.service import make_desk
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, make_parser, run, user_path
from tools.run_config import read_service_config
from tools.serve import read_specs

CONFIG = Path("configs/support.yaml")
TICKETS = Path("samples/tickets.jsonl")
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("replay-tickets", __doc__)
    parser.add_argument("file", nargs="?", type=user_path, help=f"JSON Lines of tickets (default {TICKETS})")
    parser.add_argument("--config", type=user_path, help=f"how customers are served (default {CONFIG})")
    parser.add_argument("--all", action="store_true", help="also tickets that the head was learned from")
    add_demo_option(parser)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_resources(settings) as resources:
        report, left_out = replay(
            resources, options.file or TICKETS, options.config or CONFIG, everything=options.all
        )
    show_replay(report, left_out)
    return 0


def replay(
    resources: Resources, file: Path, config: Path = CONFIG, *, everything: bool = False
) -> tuple[ReplayReport, int]:
    """Return what would be done with the tickets of a file, and how many were left out because the head knows them."""
    chosen = read_support(config)
    assert chosen.support is not None, "checked as it was read"
    spec = read_specs(chosen)[chosen.support.analysis]
    known = frozenset() if everything else resources.heads.read_learned(spec.task, chosen.support.field)
    tickets = read_tickets(file)
    fresh = [one for one in tickets if hash_learned(one.text) not in known]

    async def work(desk: SupportDesk) -> ReplayReport:
        return await replay_tickets(fresh, desk.serve)

    return serve_with_desk(resources, chosen, work), len(tickets) - len(fresh)


def read_support(file: Path) -> InferenceConfig:
    """Read how customers are served.

    Raises:
        ConfigurationError: the file is wrong, or serves none.
    """
    config = read_service_config(file, InferenceConfig)
    if config.support is None:
        raise ConfigurationError(f"{file} has no section 'support', which says how customers are served.")
    return config


def serve_with_desk(
    resources: Resources, config: InferenceConfig, work: Callable[[SupportDesk], Coroutine[Any, Any, T]]
) -> T:
    """Return what comes of the work with a desk, which is closed at its end."""

    async def serve() -> T:
        pipeline = resources.inference_pipeline(config, keep_answers=False)
        try:
            desk = make_desk(resources, config, read_specs(config), pipeline)
            assert desk is not None, "checked as the configuration was read"
            return await work(desk)
        finally:
            await pipeline.close()
            await resources.language_model.close()

    return asyncio.run(serve())


def read_tickets(file: Path) -> list[OldTicket]:
    """Read tickets with ``description``, ``intent`` and ``outcome``; those that lack one are left out.

    Raises:
        InvalidInputError: the file is missing, or no JSON Lines of objects.
    """
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InvalidInputError(f"Cannot read the tickets {file}: {error.strerror}.") from None
    except ValueError as error:
        raise InvalidInputError(f"{file} is not JSON Lines: {error}.") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InvalidInputError(
                f"{file}, row {number}: expected an object with description, intent and outcome, got {json.dumps(row)[:80]}."
            )
    return [
        OldTicket(
            str(row.get("id", "")),
            str(row["description"]),
            str(row["intent"]),
            str(row["outcome"]),
            str(row.get("client", "")),
        )
        for row in rows
        if all(str(row.get(name, "")).strip() for name in ("description", "intent", "outcome"))
    ]


def show_replay(report: ReplayReport, left_out: int) -> None:
    """Show the shares, and the tickets that would be answered wrongly."""
    console.print(make_table(report))
    if left_out:
        console.print(
            f"[dim]{left_out:,} tickets that the head was learned from are left out: it knows them by heart.[/]"
        )
    for one in report.mistakes[:10]:
        told = f"{one.ticket.id}: {shorten(one.ticket.text, 90)} → {one.served.decision.intent}, was {one.ticket.intent}"
        console.print(f"  [red]wrong[/] {escape(told)}")


def make_table(report: ReplayReport) -> Table:
    """Return the shares as a table that is read in ten seconds."""
    table = Table(
        title=f"{len(report.replayed)} old tickets, as they would be served now",
        title_justify="left",
        title_style="bold",
    )
    for heading in ("what would happen", "share", "95 % interval"):
        table.add_column(heading, justify="left" if heading.startswith("what") else "right")
    rows: dict[str, Interval] = {
        "[green]answered, rightly[/]": report.resolved,
        "[red]answered, wrongly[/]": report.wrong,
        "asked back": report.asked_back,
        "handed to a person": report.handed_over,
    }
    for name, share in rows.items():
        table.add_row(name, f"{share.mean:.0%}", f"{share.low:.0%} – {share.high:.0%}")
    return table


if __name__ == "__main__":
    run(main)

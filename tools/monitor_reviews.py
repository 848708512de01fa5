"""Whether reviews and summaries are still what they were: ``./poe monitor-reviews``, ``./poe resume-summaries``.

Ends with 3 where something drifted or publishing is paused; people are told once, where NOTIFY_* variables say.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.notices import notify
from llm_engineering.application.reviews.monitoring import (
    ReviewMonitoring,
    check_reviews,
    describe_resuming,
    make_notices,
    resume_publishing,
)
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.reviews import Drift, ReviewCheck
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, make_parser, run, user_path
from tools.run_config import read_service_config

CONFIG = Path("configs/review_monitoring.yaml")
ALARM = 3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("monitor-reviews", __doc__)
    parser.add_argument("action", choices=("check", "resume"))
    parser.add_argument("--config", type=user_path, default=CONFIG, help="what counts as drift (%(default)s)")
    add_demo_option(parser)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    now = datetime.now(UTC)
    with open_resources(settings) as resources:
        stores = resources.warehouse
        previous = next(iter(stores.summaries.list_checks(1)), None)
        if options.action == "resume":
            check = resume_publishing(stores.summaries, now).model_copy(update={"drifts": (), "at": now})
        else:
            config = read_service_config(options.config, ReviewMonitoring)
            check = check_reviews(config, stores.clean, stores.summaries, now)
        if resources.notifiers:
            notify(make_notices(check, previous), stores.notices, resources.notifiers)
    if options.action == "resume":
        console.print("[green]✓[/] New summaries are published again, from the next run on.")
        return 0
    show_check(check)
    return ALARM if check.alarms or check.paused else 0


def show_check(check: ReviewCheck) -> None:
    """Print what a look found."""
    table = Table("", "now", "reference", "index", "by chance below", "changed most")
    for one in check.drifts:
        judged = bool(one.value)
        table.add_row(
            f"{'[red]✗[/] ' if one.alarm else ''}{one.feature}",
            str(one.items),
            str(one.reference_items),
            f"{one.psi:.2f}" if judged else "too few",
            f"{one.by_chance:.2f}" if judged else "",
            _describe_change(one) if judged else "",
        )
    console.print(
        f"Reviews since {check.since:%Y-%m-%d} against those before, and summaries against earlier looks:"
    )
    console.print(table)
    for variant, held in check.support.items():
        console.print(
            f"Held of what a model wrote ({escape(variant)}): {held.mean:.1%} [{held.low:.1%}, {held.high:.1%}], "
            f"{held.summaries} summaries"
        )
    if not check.support:
        console.print("[dim]No model has written enough summaries to say how much of them holds.[/]")
    for variant, why in check.paused.items():
        console.print(
            f"[red]✗[/] Publishing is paused ({escape(variant)}): {escape(why)}. {describe_resuming()}"
        )
    if not check.alarms and not check.paused:
        unsure = [one.feature for one in check.drifts if not one.value]
        told = f" Too few to say of: {', '.join(unsure)}." if unsure else ""
        console.print(f"[green]✓[/] Nothing is seen to drift.{told}")


def _describe_change(drift: Drift) -> str:
    return f"{escape(drift.value)} {100 * drift.change:+.0f} points"


if __name__ == "__main__":
    run(main)

"""A variant of summaries on trial: votes and what held, challenger against champion: ``./poe show-summary-trial --config FILE``.

The file is the one that the challenger was made with; its ``share`` says which products it is for. To end a trial, run the
pipeline with ``share: 0``.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.evaluation.statistics import Interval
from llm_engineering.application.evaluation.trials import LEAST_PRODUCTS, TrialReport, report_trial
from llm_engineering.application.reviews.config import ReviewSummaryRun
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path
from tools.run_config import read_run_config
from tools.summaries import count_votes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("show-summary-trial", __doc__)
    parser.add_argument("--config", type=user_path, required=True, help="the challenger's configuration")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    config, _ = read_run_config(Path(options.config), ReviewSummaryRun)
    with open_resources(settings) as resources:
        stores = resources.warehouse
        report = report_trial(stores.summaries, count_votes(stores.feedback), config.summaries.share)
    show_trial(report)
    return 0


def show_trial(report: TrialReport) -> None:
    """Print both sides, and what may be said of their difference."""
    table = Table("", "products with votes", "votes", "say that it helped", "held of what a model wrote")
    for name, arm in (("champion", report.champion), ("challenger", report.challenger)):
        table.add_row(name, str(arm.products), str(arm.votes), _describe(arm.helped), _describe(arm.held))
    console.print(table)
    console.print(
        f"{report.served} of {report.all_products} products have the challenger, {report.assigned} should."
    )
    if report.fault:
        console.print(f"[red]✗[/] {escape(report.fault)}")
    if report.difference is not None:
        one = report.difference
        console.print(f"Difference: {one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]")
    words = {"better": "The challenger helps more.", "worse": "The challenger helps less."}
    console.print(f"[bold]{words.get(report.verdict, 'Not decided.')}[/]")
    if report.verdict == "not decided" and not report.fault:
        if report.detectable is not None and report.votes_needed is not None:
            console.print(
                f"[dim]These votes would show a difference of {report.detectable:.3f}; for a tenth of the champion's share, "
                f"{report.votes_needed:,} votes an arm are needed, over {LEAST_PRODUCTS} products at the least.[/]"
            )
        else:
            console.print("[dim]Both sides need votes.[/]")


def _describe(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    run(main)

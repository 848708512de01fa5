"""Show whom to call first: ``./poe show-interest [--config FILE] [--by client] [--half-life 30] [--json]``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.analysis.config import RecordAnalysis
from llm_engineering.application.analysis.trend import Trend, read_trends
from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, make_parser, run, user_path
from tools.run_config import read_run_config

CONFIG = Path("configs/analysis_interest.yaml")
SHOWN = 15


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("show-interest", __doc__)
    parser.add_argument("--config", type=user_path, help=f"the analysis (default {CONFIG})")
    parser.add_argument("--by", default="client", help="metadata that names who it is about (default client)")
    parser.add_argument("--half-life", type=float, default=30.0, help="days after which a record weighs half")
    parser.add_argument("--limit", type=int, default=SHOWN, help=f"most lines shown (default {SHOWN})")
    parser.add_argument("--json", action="store_true", help="all of it, a line each, for a program")
    add_demo_option(parser)
    options = parser.parse_args(arguments)
    if options.half_life <= 0:
        raise InvalidInputError(f"--half-life must be above 0 days, got {options.half_life:g}.")
    settings = load_settings()
    start_logging(settings)
    file = options.config or CONFIG
    spec = read_run_config(file, RecordAnalysis)[0].analysis.spec
    with open_resources(settings) as resources:
        warehouse = resources.warehouse
        trends = read_trends(
            spec, warehouse.analyses, warehouse.clean, options.by, datetime.now(UTC), options.half_life
        )
    if not trends:
        raise InvalidInputError(
            f"There are no results of {spec.task} with a date and a {options.by}. Make some with: "
            f"{POE} run-analysis-pipeline --config {file}"
        )
    if options.json:
        for one in trends:
            print(json.dumps({**asdict(one), "last": one.last.isoformat()}, ensure_ascii=False))
        return 0
    console.print(make_table(trends[: options.limit], options.by))
    return 0


def make_table(trends: Sequence[Trend], group_by: str) -> Table:
    """Return the list as a table that is read in ten seconds."""
    table = Table(title="Whom to call first", title_justify="left", title_style="bold")
    table.add_column(group_by)
    table.add_column("about")
    table.add_column("interest", justify="right")
    table.add_column("records", justify="right")
    table.add_column("last")
    table.add_column("in their words")
    for one in trends:
        arrow = "↑" if one.change > 0.05 else "↓" if one.change < -0.05 else " "
        table.add_row(
            escape(one.group),
            escape(one.entity),
            f"{one.score:.0%} {arrow}",
            str(one.records),
            f"{one.last:%d %b}",
            escape(shorten(one.quote, 70)),
        )
    return table


if __name__ == "__main__":
    run(main)

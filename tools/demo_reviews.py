"""Summaries of reviews in one command: collect sample reviews, count what each product is praised and blamed for, show it."""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.features.config import EndToEndData
from llm_engineering.application.reviews.config import ReviewSummaryRun
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.reviews import ALL_LANGUAGES, Polarity, ProductSummary
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, name_demo, run, show_next, show_stage
from tools.demo import start_warehouse
from tools.models import ensure_models
from tools.run import run_pipeline
from tools.run_config import read_run_config
from tools.summaries import show_summary

_NAMED = 3
"""Points of praise and of complaint that a line of the table names."""


def main(arguments: Sequence[str] | None = None) -> int:
    make_parser("demo-reviews", __doc__).parse_args(arguments)
    os.environ.update(name_demo("reviews"))
    # The sample's reviewers do not exist, so their pseudonyms need no secret.
    os.environ.setdefault("PRIVACY_KEY", "sample-reviewers-are-invented")
    settings = load_settings()
    start_logging(settings)
    timings: dict[str, float] = {}
    with ExitStack() as stack:
        with show_stage("Models and local services", timings):
            ensure_models(settings, small=True)
            start_warehouse(settings, stack)
        with show_stage("Collect reviews", timings):
            run_pipeline(
                "end_to_end_data", *read_run_config(Path("configs/reviews_sample.yaml"), EndToEndData)
            )
        with show_stage("Summarise each product", timings):
            question = read_run_config(Path("configs/review_summaries.yaml"), ReviewSummaryRun)
            run_pipeline("review_summaries", *question)
        with open_resources(settings) as resources:
            kept = [stored.served for stored in resources.warehouse.summaries.stream()]
    whole = sorted((one for one in kept if one.language == ALL_LANGUAGES), key=lambda one: one.product)
    console.print(make_table(whole))
    if whole:
        show_summary(max(whole, key=lambda one: (len(one.sentences), one.distribution.reviews)))
    console.print(f"[dim]{len(kept)} summaries, {sum(timings.values()):.0f} s, no language model asked.[/]")
    show_next("show-summary PRODUCT --demo-reviews")
    return 0


def make_table(summaries: Iterable[ProductSummary]) -> Table:
    """Return a line for each product: its stars, and what its reviewers praise and complain of, with how many do."""
    table = Table(title="What customers say", title_justify="left", title_style="bold")
    for heading in ("product", "stars", "reviews", "praised", "complained of", "held back"):
        table.add_column(heading, justify="right" if heading in ("stars", "reviews", "held back") else "left")
    for one in summaries:
        spread = one.distribution
        rated = sum(spread.stars.values())
        stars = sum(int(name) * count for name, count in spread.stars.items()) / rated if rated else None
        table.add_row(
            escape(one.product),
            "–" if stars is None else f"{stars:.1f}",
            str(spread.reviews),
            _name_points(one, Polarity.POSITIVE),
            _name_points(one, Polarity.NEGATIVE),
            str(spread.reviews - len(one.document_ids) or ""),
        )
    return table


def _name_points(summary: ProductSummary, polarity: Polarity) -> str:
    named = [one for one in summary.key_points if one.polarity is polarity and one.is_aspect]
    return ", ".join(f"{escape(one.name)} {one.support}" for one in named[:_NAMED]) or "–"


if __name__ == "__main__":
    run(main)

"""Summaries of reviews: ``./poe show-summary PRODUCT``, ``./poe review-summaries list|approve|edit|reject [PRODUCT]``."""

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.ports import SummaryStore
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.reviews import (
    ALL_LANGUAGES,
    CHAMPION,
    LABEL,
    Distribution,
    ProductSummary,
    StoredSummary,
    derive_summary_id,
)
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, make_parser, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("review-summaries", __doc__)
    parser.add_argument("action", choices=("show", "list", "approve", "edit", "reject"))
    parser.add_argument("product", nargs="?", help="name of the product")
    parser.add_argument("--language", default=ALL_LANGUAGES, help="of the reviews: en, de …; all (default)")
    parser.add_argument("--variant", default=CHAMPION, help=argparse.SUPPRESS)
    parser.add_argument(
        "--text",
        action="append",
        help="of edit: what a sentence says instead; once for each, empty leaves it out",
    )
    parser.add_argument("--json", action="store_true", help="all of it, for a program")
    add_demo_option(parser)
    # `show-summary --language de PRODUCT`: options may stand between the action and the product.
    options = parser.parse_intermixed_args(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_resources(settings) as resources:
        store = resources.warehouse.summaries
        if options.action == "list":
            _list_waiting(store)
            return 0
        stored = _find(store, options.product, options.language, options.variant)
        if options.action == "show":
            if options.json:
                print(stored.served.model_dump_json())
            else:
                show_summary(stored.served)
            return 0
        if options.action == "edit" and not options.text:
            raise InvalidInputError("edit expects --text, once for each sentence of the summary.")
        changes: dict[str, Callable[[], StoredSummary]] = {
            "approve": lambda: stored.approve(datetime.now(UTC)),
            "edit": lambda: stored.approve(datetime.now(UTC), tuple(options.text)),
            "reject": stored.reject,
        }
        try:
            changed = changes[options.action]()
        except ValueError as error:
            raise InvalidInputError(f"{error}. See: {POE} review-summaries list") from None
        store.put_many([changed])
        show_summary(changed.served)
    return 0


def _find(store: SummaryStore, product: str | None, language: str, variant: str) -> StoredSummary:
    if not product:
        raise InvalidInputError("Name a product, such as: show-summary “Aria 3”.")
    found = store.get([derive_summary_id(product, language, variant)])
    if found:
        return found[0]
    others = sorted({f"{one.newest.language}" for one in store.list_of_product(product)})
    if others:
        raise InvalidInputError(
            f"There is no summary of {product} in {language}; there is: {', '.join(others)}."
        )
    names = sorted({one.product for one in store.stream()})[:12]
    there = (
        f"There are: {', '.join(names)}." if names else f"Make some with: {POE} run-review-summaries-pipeline"
    )
    raise InvalidInputError(f"There is no summary of {product}. {there}")


def show_summary(summary: ProductSummary) -> None:
    """Print a summary as a shop would show it, with the counts behind it."""
    language = "" if summary.language == ALL_LANGUAGES else f" ({summary.language})"
    console.print(
        f"[bold]{escape(summary.product)}{language}[/] [dim]{summary.status}{', stale' if summary.stale else ''}[/]"
    )
    console.print(f"  [dim]{_describe_distribution(summary.distribution)}[/]")
    for sentence in summary.sentences:
        sign = "[green]+[/]" if sentence.section == "pros" else "[red]–[/]"
        console.print(f"  {sign} {escape(sentence.text)}")
    for note in (*summary.notes, *summary.degradations):
        console.print(f"  [dim]{escape(note)}[/]")
    if summary.sentences:
        console.print(f"  [dim]{LABEL}[/]")


def _describe_distribution(counts: Distribution) -> str:
    stars = ", ".join(f"{name}★ {count}" for name, count in reversed(counts.stars.items()))
    languages = ", ".join(f"{name} {count}" for name, count in counts.languages.items())
    return f"{counts.reviews} reviews by {counts.reviewers} reviewers: {stars or 'no stars'}; {languages}"


def _list_waiting(store: SummaryStore) -> None:
    table = Table("product", "language", "waiting since", "text")
    for stored in store.stream(waiting=True):
        one = stored.waiting
        if one is not None and one.approval == "waiting":
            table.add_row(
                escape(one.product), one.language, f"{one.created_at:%Y-%m-%d %H:%M}", escape(one.text)
            )
    console.print(table if table.row_count else "No summary waits for a person.")


if __name__ == "__main__":
    run(main)

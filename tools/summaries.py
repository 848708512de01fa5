"""Summaries of reviews: ``./poe show-summary PRODUCT``, ``./poe review-summaries list|votes|approve|edit|reject [PRODUCT]``.

What is served already can be edited or rejected too.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.ports import FeedbackStore, SummaryStore
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.reviews import (
    ALL_LANGUAGES,
    CHAMPION,
    GOLDEN,
    LABEL,
    VOTE_TASK,
    Distribution,
    ProductSummary,
    StoredSummary,
    Votes,
    derive_summary_id,
)
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, make_parser, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("review-summaries", __doc__)
    parser.add_argument("action", choices=("show", "list", "votes", "approve", "edit", "reject"))
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
        if options.action in ("list", "votes"):
            votes = count_votes(resources.warehouse.feedback)
            (_list_waiting if options.action == "list" else _list_votes)(store, votes)
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
            "approve": lambda: stored.question().approve(datetime.now(UTC)),
            "edit": lambda: stored.question().approve(datetime.now(UTC), tuple(options.text)),
            "reject": lambda: stored.question().reject(),
        }
        try:
            changed = changes[options.action]()
        except ValueError as error:
            raise InvalidInputError(f"{error}. See: {POE} review-summaries list") from None
        golden = [changed.make_golden()] if options.action == "edit" else []
        store.put_many([changed, *golden])
        show_summary(changed.served)
        if golden:
            console.print(
                f"  [dim]Kept as a golden text too: {POE} evaluate-summaries compares others with it.[/]"
            )
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


def count_votes(feedback: FeedbackStore) -> dict[str, Votes]:
    """Return the votes on summaries, by version."""
    return {
        version: Votes(up=up, down=down) for version, (up, down) in feedback.count_votes(VOTE_TASK).items()
    }


def _list_waiting(store: SummaryStore, votes: Mapping[str, Votes]) -> None:
    table = Table("product", "language", "since", "why", "text")
    for stored in store.stream():
        one, served = stored.waiting, stored.current
        why = "held by the settings; not served"
        if served is not None and one is None and stored.is_questioned(votes.get(served.version, Votes())):
            one = served
            why = f"{votes[one.version].down} of {votes[one.version].up + votes[one.version].down} votes say no; still served"
        if one is not None and one.approval != "rejected":
            language = one.language if one.variant == CHAMPION else f"{one.language} ({one.variant})"
            table.add_row(
                escape(one.product), language, f"{one.created_at:%Y-%m-%d %H:%M}", why, escape(one.text)
            )
    console.print(table if table.row_count else "No summary waits for a person.")


def _list_votes(store: SummaryStore, votes: Mapping[str, Votes]) -> None:
    """Votes on the versions that are served, worst first, and by category of product."""
    table = Table("product", "language", "variant", "version", "helped", "did not")
    categories: Counter[tuple[str, bool]] = Counter()
    rows = []
    for stored in store.stream():
        one = stored.current
        if one is None or one.variant == GOLDEN or not (given := votes.get(one.version)):
            continue
        rows.append((given, one))
        categories[one.product_category or "–", True] += given.up
        categories[one.product_category or "–", False] += given.down
    for given, one in sorted(
        rows, key=lambda row: (row[0].up - row[0].down, row[1].product, row[1].language)
    ):
        table.add_row(
            escape(one.product),
            one.language,
            escape(one.variant),
            one.version,
            str(given.up),
            str(given.down),
        )
    for name in sorted({name for name, _ in categories}):
        counts = (str(categories[name, True]), str(categories[name, False]))
        table.add_row(f"[dim]all of {escape(name)}[/]", "", "", "", *counts)
    console.print(table if rows else "Nobody has voted on what is served yet.")


if __name__ == "__main__":
    run(main)

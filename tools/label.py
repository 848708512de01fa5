"""Label records from a terminal, those first that the head is least sure of: ``./poe label --config FILE [--field NAME]``."""

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.analysis.config import RecordAnalysis
from llm_engineering.application.analysis.grouping import read_records
from llm_engineering.application.analysis.heads import compose_text
from llm_engineering.application.evaluation.heads import find_least_sure
from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.analyses import AnalysisField, AnalysisSpec
from llm_engineering.domain.documents import CleanDocument, derive_id
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.inference import Feedback, Subject
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, make_parser, run, user_path
from tools.run_config import read_run_config

CONFIG = Path("configs/analysis_tickets.yaml")
MOST_RECORDS = 5_000
"""Records among which the least sure are looked for."""
_SHOWN = 600
"""Characters of a record that are shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("label", __doc__)
    parser.add_argument("--config", type=user_path, help=f"the analysis (default {CONFIG})")
    parser.add_argument("--field", help="its class (default: the first)")
    parser.add_argument("--by", default="", help="who labels; each person has a say of their own")
    parser.add_argument("--limit", type=int, default=20, help="most records asked about (default 20)")
    add_demo_option(parser)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    file = options.config or CONFIG
    spec = read_run_config(file, RecordAnalysis)[0].analysis.spec
    field = choose_field(spec, options.field)
    with open_resources(settings) as resources:
        queue = islice(rank_records(resources, spec, field, options.by), options.limit)
        kept = ask_labels(queue, spec, field, options.by, resources.warehouse.feedback.vote, sys.stdin)
    console.print(
        f"[green]✓[/] {kept} labels kept. [dim]They count from the next {POE} run-head-training-pipeline --config {file}[/]"
    )
    return 0


def choose_field(spec: AnalysisSpec, name: str | None) -> AnalysisField:
    """Return the class to label.

    Raises:
        ConfigurationError: there is no such class.
    """
    classes = [one for one in spec.fields if one.kind == "class"]
    for one in classes:
        if name in (None, one.name):
            return one
    known = ", ".join(one.name for one in classes) or "none"
    raise ConfigurationError(f"{spec.task} has no class {name or ''}. Its classes: {known}.")


def rank_records(
    resources: Resources, spec: AnalysisSpec, field: AnalysisField, voter: str
) -> list[tuple[CleanDocument, str]]:
    """Return records that this person has not labelled, the least sure first, each with what the head takes it for.

    Raises:
        InvalidInputError: there are none.
    """
    done = {
        document
        for vote in resources.warehouse.feedback.read_corrections(spec.task)
        if vote.voter == voter and vote.correction and field.name in vote.correction
        for document in vote.document_ids
    }
    records = [one for one in read_records(resources.warehouse.clean, spec) if one.id not in done][
        :MOST_RECORDS
    ]
    if not records:
        raise InvalidInputError(f"There are no records of {spec.task} left to label.")
    head = resources.heads.find_if_there(spec.task, field.name)
    if head is None:  # nothing is known yet: in the order of the store
        return [(one, "") for one in records]
    vectors = resources.text_embedder.embed([compose_text(one) for one in records])
    told = head.decide(vectors)
    return [(records[place], told[place].label) for place in find_least_sure(head, vectors)]


def ask_labels(
    queue: Iterable[tuple[CleanDocument, str]],
    spec: AnalysisSpec,
    field: AnalysisField,
    voter: str,
    vote: Callable[[Feedback], None],
    answers: Iterable[str],
) -> int:
    """Show each record and keep what is typed: a number, a value, or nothing to skip; ``q`` ends. Returns how many."""
    numbers = {str(number): value for number, value in enumerate(field.values, start=1)}
    console.print("  ".join(f"[bold]{number}[/] {escape(value)}" for number, value in numbers.items()))
    given = iter(answers)
    kept = 0
    for document, guess in queue:
        hint = f" [dim]({escape(guess)}?)[/]" if guess else ""
        console.print(f"\n{escape(shorten(document.text, _SHOWN))}{hint}")
        value = _read_value(given, numbers, guess)
        if value is None:
            break
        if not value:
            continue
        subject = Subject(kind="analysis", id=derive_id("label", document.id, field.name))
        vote(
            Feedback(
                subject=subject,
                correction={field.name: value},
                task=spec.task,
                document_ids=(document.id,),
                voter=voter,
                created_at=datetime.now(UTC),
            )
        )
        kept += 1
    return kept


def _read_value(answers: Iterable[str], numbers: dict[str, str], guess: str) -> str | None:
    """The value that was typed; empty: skipped; None: the end. ``y`` takes the guess."""
    for line in answers:
        typed = line.strip()
        if typed.casefold() in ("q", "quit"):
            return None
        if not typed:
            return ""
        if typed.casefold() in ("y", "yes") and guess:
            return guess
        value = numbers.get(typed, typed)
        if value in numbers.values():
            return value
        console.print(f"[yellow]One of 1–{len(numbers)}, y for the guess, nothing to skip, q to end.[/]")
    return None


if __name__ == "__main__":
    run(main)

"""Show what the analyses found: ``./poe list-analyses [--task NAME] [--where FIELD=VALUE] [--json]``."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.ports import CleanStore
from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.analyses import Analysis, Finding
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, make_parser, run

SHOWN = 25
_QUOTE = 60
"""Characters of a quote that are shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("list-analyses", __doc__)
    parser.add_argument("--task", help="results of this analysis alone")
    parser.add_argument("--where", metavar="FIELD=VALUE", help="only results with that finding")
    parser.add_argument("--limit", type=int, default=SHOWN, help=f"most results shown (default {SHOWN})")
    parser.add_argument("--json", action="store_true", help="all of it, a result a line, for a program")
    add_demo_option(parser)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_resources(settings) as resources:
        store = resources.warehouse.analyses
        counts = store.count_by_task()
        if options.task and options.task not in counts:
            raise InvalidInputError(_nothing(counts, options.task))
        found = select_results(store.stream(task=options.task), options.where)
        if options.json:
            for result in found:
                print(result.model_dump_json())
            return 0
        if not counts:
            raise InvalidInputError(_nothing(counts, None))
        if options.task:
            shown = list(islice(found, max(0, options.limit)))
            names = name_records(resources.warehouse.clean, [one.key for one in shown])
            _show_results(options.task, shown, counts[options.task], names)
        else:
            _show_tasks(counts, store.stream())
    return 0


def select_results(results: Iterable[Analysis], where: str | None) -> Iterator[Analysis]:
    """Yield the results with a finding of that ``FIELD=VALUE``; None: all.

    Raises:
        InvalidInputError: it has not that form.
    """
    if where is None:
        yield from results
        return
    field, equals, value = where.partition("=")
    if not equals or not field:
        raise InvalidInputError(f"--where expects FIELD=VALUE, such as intent=refund_request; got {where!r}.")
    for result in results:
        if any(str(one) == value for one in result.list_values(field)):
            yield result


def name_records(clean: CleanStore, keys: Sequence[str]) -> dict[str, str]:
    """Return what people call the records of these keys: the end of their link; a group's key is its name already."""
    return {one.id: one.link.rpartition("#")[2] or one.link for one in clean.get(keys)}


def _nothing(counts: dict[str, int], task: str | None) -> str:
    if counts:
        return f"There are no results of {task}. There are: {', '.join(counts)}."
    return f"There are no results yet. Make some with: {POE} run-analysis-pipeline --config configs/analysis_tickets.yaml"


def _show_tasks(counts: dict[str, int], results: Iterable[Analysis]) -> None:
    """A line for each task, with how often each value of its classes was found."""
    values: dict[str, Counter[str]] = {}
    for result in results:
        for finding in result.findings:
            if not finding.evidence or finding.made_by == "head":
                values.setdefault(result.task, Counter())[f"{finding.field}={finding.value}"] += 1
    table = Table("task", "results", "most found")
    for task, count in counts.items():
        most = ", ".join(f"{name} {number}" for name, number in values.get(task, Counter()).most_common(5))
        table.add_row(escape(task), f"{count:,}", escape(most))
    console.print(table)


def _show_results(task: str, results: Sequence[Analysis], count: int, names: Mapping[str, str]) -> None:
    table = Table("record", "found", "in its words", title=f"{task}: {count:,} results", title_justify="left")
    for result in results:
        lines = [_describe(finding) for finding in result.findings] or [("nothing", "")]
        lines += [(f"{name}: unsure", "") for name in result.unsure]
        table.add_row(
            escape(names.get(result.key, result.key)),
            escape("\n".join(found for found, _ in lines)),
            escape("\n".join(quote for _, quote in lines)),
        )
        table.add_section()
    console.print(table)
    if len(results) < count:
        console.print(f"[dim]{len(results):,} shown; --limit N shows more, --json all.[/]")


def _describe(finding: Finding) -> tuple[str, str]:
    sure = "" if finding.confidence is None else f" ({finding.confidence:.0%})"
    quotes = json.dumps([one.quote for one in finding.evidence], ensure_ascii=False)[1:-1]
    return f"{finding.field}: {finding.value}{sure}", shorten(quotes, _QUOTE)


if __name__ == "__main__":
    run(main)

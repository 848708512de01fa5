"""The options that every command over the index shares, and the query that they ask for."""

import argparse
import re
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import (
    Condition,
    MetadataFilter,
    Query,
    SearchMode,
    Sort,
    WeightedFusion,
)

if TYPE_CHECKING:
    from llm_engineering.application.inference.config import RetrievalConfig


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command over the index shares."""
    parser.add_argument("--k", type=int, default=5, help="how many hits (default 5)")
    parser.add_argument("--author", action="append", default=[], help="only this author; repeatable")
    parser.add_argument(
        "--category", action="append", default=[], help="article, post, repository …; repeatable"
    )
    parser.add_argument("--platform", action="append", default=[], help="only this platform; repeatable")
    parser.add_argument(
        "--language", action="append", default=[], help="only this language (en, python …); repeatable"
    )
    parser.add_argument(
        "--from", dest="published_from", metavar="DATE", help="published on or after, YYYY-MM-DD"
    )
    parser.add_argument(
        "--to", dest="published_to", metavar="DATE", help="published on or before, YYYY-MM-DD"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="of records: genre=crime, year=1990..1999, rating>=7; repeatable",
    )
    parser.add_argument("--sort", metavar="FIELD", help="order by a field of records; -FIELD: the most first")
    parser.add_argument("--mode", choices=list(SearchMode), default=SearchMode.HYBRID, type=SearchMode)
    parser.add_argument(
        "--alpha", type=float, help="fuse by weighted scores: 1 is dense only, 0 words only (default: RRF)"
    )


def query_from(text: str, options: argparse.Namespace, config: "RetrievalConfig | None" = None) -> Query:
    """Return a query from a command line; what it leaves open as configured, or as usual.

    Raises:
        InvalidInputError: the question, a date, ``--k`` or ``--alpha`` cannot be used.
    """
    if options.k is not None and not 1 <= options.k <= 100:
        raise InvalidInputError(f"--k must lie between 1 and 100, got {options.k}.")
    if options.alpha is not None and not 0 <= options.alpha <= 1:
        raise InvalidInputError(f"--alpha must lie between 0 and 1, got {options.alpha}.")
    start, end = _date(options.published_from, "--from"), _date(options.published_to, "--to")
    if start and end and start > end:
        raise InvalidInputError(f"--from ({start:%Y-%m-%d}) lies after --to ({end:%Y-%m-%d}).")
    if end:
        end = end.replace(hour=23, minute=59, second=59)
    wanted = {
        "k": options.k,
        "mode": options.mode,
        "fusion": None if options.alpha is None else WeightedFusion(alpha=options.alpha),
        "filter": MetadataFilter(
            authors=tuple(options.author),
            categories=tuple(options.category),
            platforms=tuple(options.platform),
            languages=tuple(options.language),
            published_from=start,
            published_to=end,
            facets=tuple(map(read_condition, options.where)),
        ),
        "sort": read_sort(options.sort) if options.sort else None,
    }
    ask = config.query if config is not None else Query.ask
    return ask(text, **{name: value for name, value in wanted.items() if value is not None})


_CONDITION = re.compile(r"\s*(?P<field>\w+)\s*(?P<sign>>=|<=|=)\s*(?P<value>.+?)\s*")


def read_condition(text: str) -> Condition:
    """Return a condition from ``FIELD=VALUE[,VALUE]``, ``FIELD=FROM..TO``, ``FIELD>=VALUE`` or ``FIELD<=VALUE``.

    Raises:
        InvalidInputError: it is none of these, or there is no such field.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise InvalidInputError(
            f"--where expects a condition like genre=crime, year=1990..1999 or rating>=7, got {text!r}."
        )
    given: dict[str, object] = {"field": match["field"]}
    least, dots, most = match["value"].partition("..")
    if match["sign"] == "=" and dots:
        given |= {"gte": least.strip() or None, "lte": most.strip() or None}
    elif match["sign"] == "=":
        given["any_of"] = tuple(filter(None, (value.strip() for value in match["value"].split(","))))
    else:
        given["gte" if match["sign"] == ">=" else "lte"] = match["value"]
    return _validate(Condition, given, "--where")


def read_sort(text: str) -> Sort:
    """Return an order from ``FIELD`` or ``-FIELD``.

    Raises:
        InvalidInputError: there is no such field.
    """
    given = {"field": text.removeprefix("-"), "descending": text.startswith("-")}
    return _validate(Sort, given, "--sort")


Read = TypeVar("Read", bound=BaseModel)


def _validate(model: type[Read], given: dict[str, object], option: str) -> Read:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise InvalidInputError(f"{option}: {reason}.") from None


def _date(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(f"{option} expects a date like 2026-01-31, got '{text}'.") from None

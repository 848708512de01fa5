"""Read from a request what records must hold: "crime movies of the 90s rated above 7".

Only where the request names a kind of records (movies, reviews, tickets), and only what their facets hold: a topic is no filter.
A word is a value where it stands before the noun ("crime movies") or beside its field ("genre crime"); a name of several words
also after "by" or "from". Numbers are read beside their field; decades and years where records have a year.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from llm_engineering.application.inference.periods import read_period
from llm_engineering.application.ports import FacetValues
from llm_engineering.domain.categories import CATALOGUE
from llm_engineering.domain.facets import Facet, FacetKind
from llm_engineering.domain.retrieval import Condition

_LEAST = r"(?:above|over|at\s+least|more\s+than|higher\s+than|better\s+than|from|>=?|≥|über|mindestens|mehr\s+als|ab)"
_MOST = r"(?:below|under|at\s+most|less\s+than|lower\s+than|up\s+to|<=?|≤|unter|höchstens|weniger\s+als|bis)"
_NUMBER = r"(\d{1,6}(?:[.,]\d{1,3})?)(?![\d.,]*\d)"
_DECADE = re.compile(
    r"(?:\b(?:from|of|in|aus)\s+)?(?:\b(?:the|den|der)\s+)?\b(?P<century>19|20)?(?P<decade>\d)0(?:['’]?s|ern?(?:\s+jahren?)?)\b",
    re.IGNORECASE,
)
_NOT = re.compile(r"\b(?:not|no|except|without|nicht|keine|außer|ohne)\s+(?:\S+\s+){0,2}$", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s,]*(?:(?:and|or|und|oder)\b[\s,]*)?")
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass(frozen=True, slots=True)
class Read:
    """Conditions, and the words that they were read from."""

    conditions: tuple[Condition, ...] = ()
    reasons: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


def read_conditions(
    request: str, categories: Mapping[str, int], known: Mapping[str, FacetValues], now: datetime
) -> Read:
    """Return what the request asks of records; nothing where it names no kind of them.

    Args:
        categories: those that there are.
        known: the facets that records have.
    """
    if not known:
        return Read()
    nouns = [(spec, noun) for spec, noun in _list_nouns(categories) if noun.search(request)]
    facets = {facet.name: facet for spec, _ in nouns for facet in spec if facet.name in known}
    found: dict[str, tuple[Condition, tuple[int, int]]] = {}
    for facet in facets.values():
        read = (
            _read_values(request, facet, known[facet.name], [noun for _, noun in nouns])
            if facet.kind is FacetKind.KEYWORD
            else _read_range(request, facet, now)
            if facet.kind in (FacetKind.INTEGER, FacetKind.FLOAT)
            else None
        )
        if read is not None:
            found[facet.name] = read
    return Read(
        tuple(condition for condition, _ in found.values()),
        tuple(f"{condition} (“{request[slice(*span)].strip()}”)" for condition, span in found.values()),
        tuple(span for _, span in found.values()),
    )


def _list_nouns(categories: Mapping[str, int]) -> Iterator[tuple[tuple[Facet, ...], re.Pattern[str]]]:
    for name in categories:
        spec = CATALOGUE.get(name)
        if spec is not None and spec.facets:
            words = "|".join(re.escape(noun) for noun in (spec.name, *spec.nouns))
            yield spec.facets, re.compile(rf"\b(?:{words})(?:e?s|en|e|n)?\b", re.IGNORECASE)


def _read_values(
    request: str, facet: Facet, values: FacetValues, nouns: Sequence[re.Pattern[str]]
) -> tuple[Condition, tuple[int, int]] | None:
    if not values.complete:
        return None
    by_words = {tuple(_WORD.findall(value.casefold())): value for value in values.counts}
    longest = max((len(words) for words in by_words), default=0)
    words = list(_WORD.finditer(request))
    folded = [word[0].casefold() for word in words]
    ends_before_noun = {match.start() for noun in nouns for match in noun.finditer(request)}
    meant: list[tuple[str, int, int]] = []
    for first in reversed(range(len(words))):  # from the noun backwards: "crime and drama movies"
        for length in range(min(longest, len(words) - first), 0, -1):
            value = by_words.get(tuple(folded[first : first + length]))
            start, end = words[first].start(), words[first + length - 1].end()
            if value is None or _NOT.search(request[:start]):
                continue
            glue = _BETWEEN.match(request, end)
            before_noun = glue is not None and glue.end() in ends_before_noun
            beside = re.search(
                rf"\b{re.escape(facet.title)}s?\b\W{{0,3}}(?:is\s+)?$", request[:start], re.IGNORECASE
            )
            named = length > 1 and re.search(r"\b(?:by|from|von)\s+$", request[:start], re.IGNORECASE)
            if before_noun or beside or named:
                meant.append((value, start, end))
                ends_before_noun.add(start)
                break
    if not meant:
        return None
    span = min(start for _, start, _ in meant), max(end for _, _, end in meant)
    return Condition(field=facet.name, any_of=tuple(value for value, _, _ in reversed(meant))), span


def _read_range(request: str, facet: Facet, now: datetime) -> tuple[Condition, tuple[int, int]] | None:
    if facet.name == "year":
        return _read_years(request, facet, now)
    name = "|".join(re.escape(word) for word in (facet.title, *facet.words))
    ends: dict[str, float] = {}
    spans: list[tuple[int, int]] = []
    for end, words in (("gte", _LEAST), ("lte", _MOST)):
        match = re.search(
            rf"\b(?:{name})\b\W{{0,3}}(?:is\s+|of\s+|with\s+)?{words}\s*{_NUMBER}", request, re.IGNORECASE
        )
        if match is not None:
            ends[end] = float(match[1].replace(",", "."))
            spans.append(match.span())
    if not ends or ends.get("gte", 0) > ends.get("lte", float("inf")):
        return None
    return Condition.model_validate({"field": facet.name, **ends}), (
        min(start for start, _ in spans),
        max(end for _, end in spans),
    )


def _read_years(request: str, facet: Facet, now: datetime) -> tuple[Condition, tuple[int, int]] | None:
    decade = _DECADE.search(request)
    if decade is not None:
        century = int(decade["century"] or ("20" if int(decade["decade"]) <= now.year % 100 // 10 else "19"))
        first = century * 100 + int(decade["decade"]) * 10
        return Condition(field=facet.name, gte=first, lte=first + 9), decade.span()
    period = read_period(request, now, first_year=1880)
    if period is None:
        return None
    ends = {"gte": period.start and period.start.year, "lte": period.end and period.end.year}
    return Condition.model_validate({"field": facet.name, **{k: v for k, v in ends.items() if v}}), (
        min(start for start, _ in period.spans),
        max(end for _, end in period.spans),
    )

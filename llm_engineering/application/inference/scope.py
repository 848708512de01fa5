"""Read from a request which texts it means: whose, from where, in which language, of what kind, from when.

One reader for questions, lists, summaries and drafts, in English and German. Only values that exist are read. A question is
narrowed where its words say that somebody's writing is meant ("what does Ada say", but not "who is Ada"): no filter is
better than a wrong one. A request for documents ("list what there is by Ada") means whatever it names.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache

from llm_engineering.application.inference.facet_reading import read_conditions
from llm_engineering.application.inference.periods import (
    describe_period,
    load_locales,
    load_months,
    read_period,
)
from llm_engineering.application.inference.search import FILTERS, Facets, Field
from llm_engineering.application.text.words import STOP_WORDS
from llm_engineering.domain.categories import CATALOGUE
from llm_engineering.domain.retrieval import MetadataFilter

_TEXTS = r"articles?|essays?|newsletters?|posts?|stories|texts?|artikeln?|beitr[aä]ge?n?|texten?"
_WRITE = r"(?:post|publish|say|writ)(?:e|s|es|ed|ing|ten)?|said|wrote"
_WRITE_DE = r"erschienen|ge(?:postet|sagt|schrieben)|sag(?:en|t)|schr(?:ei|ie)b(?:en|t)?|veröffentlicht"
_VIEWS = r"advice|opinions?|take|thoughts|views?|ansicht(?:en)?|meinung(?:en)?"
_THINK = (
    r"(?:advis|argu|believ|claim|explain|prefer|propos|recommend|suggest|think)(?:e|s|es|ed|ing)?|thought"
)
_THINK_DE = r"denkt|empf(?:eh|ieh|oh)l(?:en|t)|erklärt|findet|hält|meint|sieht"
_NOUN = rf"(?:{_TEXTS}|{_VIEWS})\b"
_VERB = rf"(?:{_WRITE}|{_WRITE_DE}|{_THINK}|{_THINK_DE})\b"
_ASKS = re.compile(rf"\b(?:{_TEXTS}|{_WRITE}|{_WRITE_DE})\b", re.IGNORECASE)
_HOW_TO = re.compile(
    r"\b(?:how\s+to|(?:how|why)\s+do\s+(?:i|one|we|you)|(?:can|could|must|should|kann|muss|sollte?n?)\s+(?:i|one|we|ich|man|wir)"
    r"|wie\s+\w+\s+(?:ich|man|wir))\b",
    re.IGNORECASE,
)
"""How something is written or published is no question about what was."""
_NEGATED = re.compile(
    r"\b(?:not|no|except|excluding|without|nicht|keine|außer|ohne)\s+(?:\S+\s+){0,3}$", re.IGNORECASE
)
_SELF = re.compile(r"\b(?:i|my|mine|ich|mein(?:e[mnrs]?)?)\b", re.IGNORECASE)
_WROTE_MYSELF = re.compile(
    rf"\b(?:(?:did|have|habe|what|was)\s+(?:i|ich)\b(?=.{{0,200}}\b(?:{_VERB}|{_NOUN}))|(?:my|meine?[mnrs]?)\s+{_NOUN})",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")
_COMMON = STOP_WORDS["en"] | STOP_WORDS["de"]
_LONGEST = 6
"""Words of a name."""
_ENDINGS: Mapping[Field, str] = {
    "author": "s",
    "category": "e en es n s",
    "platform": "",
    "language": "e em en er es sprachige sprachigen sprachiger",
}
"""What may follow a name: "Adas", "Artikeln", "deutsche"."""
_MARKS: Mapping[Field, str] = {
    "author": "\ue000",
    "category": "\ue001",
    "platform": "\ue002",
    "language": "\ue003",
}
"""Stand in a request for the letters of a name, so that the words around it can be looked at."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A filter, and what it was read from."""

    filter: MetadataFilter = MetadataFilter()
    reasons: tuple[str, ...] = ()
    """For each part: what, and from which words."""
    spans: tuple[tuple[int, int], ...] = ()
    """Where those words stand; not those of categories, which say what is asked for, too."""

    def remove_from(self, request: str) -> str:
        """Return the request with spaces in place of the words that were read."""
        return remove_spans(request, self.spans)


@dataclass(frozen=True, slots=True)
class Name:
    """A value that a request names, and where its name stands, or the words that say that it is meant."""

    field: Field
    value: str
    start: int
    end: int


def read_scope(
    request: str, known: Facets, now: datetime, *, me: str | None = None, documents: bool = False
) -> Scope:
    """Read a filter of values that exist; an empty one where the request asks for none.

    Args:
        now: what "last year" is counted from.
        me: the author whom "I" and "my" mean, in whatever case.
        documents: the request asks for documents, not for what they say.
    """
    wanted = read_conditions(request, known.category, known.records, now)
    request = remove_spans(request, wanted.spans)
    period = read_period(request, now)
    text = Scope(spans=period.spans).remove_from(request) if period else request
    how_to = not documents and _HOW_TO.search(text) is not None
    asks = documents or (not how_to and _ASKS.search(text) is not None)
    names = _find_meant(text, known, asks=asks, documents=documents)
    spans = [(name.start, name.end) for name in names if name.field != "category"]
    if not any(name.field == "author" for name in names):
        said = None if how_to else (_SELF if documents else _WROTE_MYSELF).search(text)
        mine = [name for name in known.author if me and name.casefold() == me.casefold()]
        names += [Name("author", name, *said.span()) for name in mine if said]
    read = {plural: [name for name in names if name.field == field] for plural, field in FILTERS}
    fields: dict[str, object] = {plural: tuple(name.value for name in of) for plural, of in read.items()}
    reasons = [
        f"{plural} = {n.value} (“{request[n.start : n.end]}”)" for plural, of in read.items() for n in of
    ]
    # When something happened is not when it was written about.
    if period and (names or asks):
        fields |= {"published_from": period.start, "published_to": period.end}
        said_so = " … ".join(request[start:end] for start, end in period.spans)
        reasons.append(f"published {describe_period(period.start, period.end)} (“{said_so}”)")
        spans += period.spans
    return Scope(
        MetadataFilter.model_validate({**fields, "facets": wanted.conditions}),
        (*reasons, *wanted.reasons),
        (*spans, *wanted.spans),
    )


def remove_spans(request: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a request with spaces in place of some of its words."""
    for start, end in spans:
        request = request[:start] + " " * (end - start) + request[end:]
    return request


def find_names(request: str, known: Facets) -> list[Name]:
    """Return the values that a request names, whatever the words around them say, in their order."""
    index = _index(True, *(tuple(known.of(field)) for _, field in FILTERS))
    return list(_find_names(request, index))


def find_authors(request: str, authors: Iterable[str]) -> tuple[str, ...]:
    """Return the authors that a request for a text names."""
    known = Facets(author=dict.fromkeys(authors, 1))
    return tuple(sorted(name.value for name in _find_meant(request, known, asks=True, documents=True)))


def means_self(request: str) -> bool:
    """Return whether a request speaks of its writer: "my articles", "what I wrote"."""
    return _SELF.search(request) is not None


def _find_meant(text: str, known: Facets, *, asks: bool, documents: bool) -> list[Name]:
    """Values that a request names where the words around them say that texts of theirs are meant. Each once."""
    index = _index(documents, *(tuple(known.of(field)) for _, field in FILTERS))
    marked, names = text, list(_find_names(text, index))
    for name in names:
        marked = marked[: name.start] + _MARKS[name.field] * (name.end - name.start) + marked[name.end :]
    found: dict[tuple[Field, str], Name] = {}
    for field, pattern in _patterns(asks, documents):
        for match in pattern.finditer(marked):
            if _NEGATED.search(marked[: match.start()]):
                continue
            for name in names:
                if name.field == field and match.start() <= name.start < match.end():
                    found.setdefault((field, name.value), Name(field, name.value, *match.span()))
    for name in names if documents else ():
        # Of authors a whole name, or a part with its capital: "will" and "mark" are words, too.
        sure = " " in text[name.start : name.end] or text[name.start].isupper()
        meant = name.field == "category" or (name.field == "author" and sure)
        if meant and not _NEGATED.search(marked[: name.start]):
            found.setdefault((name.field, name.value), name)
    return list(found.values())


Index = Mapping[tuple[str, ...], tuple[Field, str, int]]
"""By folded words: the value that they name, its field, and how many letters of the last word are an ending."""


def _find_names(text: str, index: Index) -> Iterator[Name]:
    words = list(_WORD.finditer(text))
    folded = [word[0].casefold() for word in words]
    first = 0
    while first < len(words):
        last = min(first + _LONGEST, len(words))
        while last > first and tuple(folded[first:last]) not in index:
            last -= 1
        if last > first:
            field, value, ending = index[tuple(folded[first:last])]
            yield Name(field, value, words[first].start(), words[last - 1].end() - ending)
        first = max(last, first + 1)


@lru_cache(maxsize=8)
def _index(documents: bool, *values: tuple[str, ...]) -> Index:
    """Index the values of all fields, in the order of ``FILTERS``."""
    authors, categories, platforms, languages = values
    names: list[tuple[Field, str, str]] = []
    owners: dict[str, set[str]] = {}
    for author in authors:
        parts = _WORD.findall(author)
        is_person = not any(part[0].islower() for part in parts)
        # "The project" is nobody who speaks in "how does the project write logs".
        if documents or is_person or parts[0].casefold() not in _COMMON:
            names.append(("author", author, author))
        for part in {parts[0].casefold(), parts[-1].casefold()} if is_person and parts else ():
            owners.setdefault(part, set()).add(author)
    # First and last names that only one has and that are no other word; a whole name of somebody else goes before.
    names[:0] = [
        ("author", part, min(of))
        for part, of in owners.items()
        if len(of) == 1 and len(part) > 2 and part not in _COMMON | load_months().keys()
    ]
    names += [("platform", platform, platform) for platform in platforms]
    for language in languages:
        spoken = {name_language(language), name_language(language, german=True)}
        names += [("language", name, language) for name in spoken if documents or name != language]
    for category in categories if documents else ():
        nouns = CATALOGUE[category].nouns if category in CATALOGUE else ()
        names += [("category", noun, category) for noun in (category, *nouns)]
    split = [(field, _WORD.findall(name.casefold()), value) for field, name, value in names]
    return {
        (*words[:-1], words[-1] + ending): (field, value, len(ending))
        for field, words, value in split
        if words
        for ending in ("", *_ENDINGS[field].split())
    }


@cache
def _patterns(asks: bool, documents: bool) -> list[tuple[Field, re.Pattern[str]]]:
    """What must stand around a name that is meant, by field. Names are marked; how far is looked is bounded, for speed."""

    def name(field: Field, ending: str = "") -> str:
        mark = rf"{_MARKS[field]}++{ending}"
        return rf"{mark}(?:\s+(?:and|or|und|oder)\s+{mark}){{0,4}}"

    noun = rf"(?:\b{_NOUN}|{_MARKS['category']})"
    says = rf"(?:\b{_VERB}|{noun})"
    common = "|".join(_COMMON - (set() if documents else {"and", "or", "to", "und", "oder", "bis"}))
    # "on Medium about drift", but neither "on medium models" nor "on GitHub Actions"
    alone = rf"(?=\s*(?:$|[^\w\s-])|\s+(?:(?:{common})\b|{says}))"
    author, platform, language = (
        name("author"),
        name("platform"),
        name("language", "(?:e[mnrs]?|sprachige?[nr]?)?"),
    )
    around: list[tuple[Field, str]] = [
        (
            "author",
            rf"\b(?:according\s+to|laut)\s+{author}|\b(?:{_WRITE_DE}|{_THINK_DE})\s+{author}"
            rf"|{noun}\s+(?:by|from|of|von)\s+{author}"
            rf"|(?<!about\s)(?<!\bon\s)(?<!über\s){author}(?:(?=\s+{_VERB})|['’]?s(?=\s+{says}))"
            rf"|\b(?:did|do|does|had|has|have|would|habe[nt]?|hat|hatte|würde)\s+{author}(?!\s+(?:{_TEXTS})\b)(?=.{{0,200}}{says})",
        )
    ]
    if documents:
        around += [
            ("author", rf"\b(?:by|from|von)\s+{author}"),
            (
                "platform",
                rf"\b(?:on|via|from|auf|aus|bei|von)\s+{platform}{alone}|{platform}(?=[\s-]+{noun})",
            ),
            ("language", rf"\b(?:in|auf)\s+{language}|{language}(?=[\s-]+{noun})"),
        ]
    elif asks:
        around += [
            ("author", rf"\b(?:by|from|von)\s+{author}"),
            ("platform", rf"\b(?:on|auf)\s+{platform}{alone}"),
            (
                "language",
                rf"{says}\s+(?:in|auf)\s+{language}|\b(?:all|any|which|alle|welche)\s+{language}(?=\s+{noun})",
            ),
        ]
    return [(field, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for field, pattern in around]


def name_language(code: str, *, german: bool = False) -> str:
    """Return the English or German name of a language; its code where it has none, as languages of code."""
    return str(load_locales()[german].languages.get(code, code))

"""Answer what is asked of the collection itself: which texts there are, how many, by whom, since when.

A question becomes a :class:`Plan`, which is carried out exactly over the documents' metadata; no number is a model's. Only
whether a document is about a subject is a matter of search.
"""

import calendar
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from llm_engineering.application.inference.self_query_dates import read_period
from llm_engineering.application.ports import DocumentCard
from llm_engineering.application.text.words import content_stems, language_of, split_words
from llm_engineering.domain.retrieval import MetadataFilter

Asked = Literal["documents", "authors", "languages", "platforms", "categories"]
Operation = Literal["list", "count", "newest", "oldest", "most"]
LISTED = 20
"""Documents that a reply lists; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with the documents' metadata: filter, group, sort, count."""

    asked: Asked = "documents"
    operation: Operation = "list"
    authors: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    published_from: datetime | None = None
    published_to: datetime | None = None
    topic: str = ""
    mentions: bool = False
    """A text that holds the subject's words anywhere is asked for, not only one that is about it."""
    named: bool = False
    """One text is meant, "the article on drift": its title says so, where one does."""
    limit: int = LISTED
    by: Asked | None = None
    """Count for each value of this, too."""

    def accepts(self, card: DocumentCard) -> bool:
        """Return whether a document is asked for, its subject aside."""
        date = card.published_at
        return (
            (not self.authors or card.author in self.authors)
            and (not self.categories or card.category in self.categories)
            and (not self.languages or card.language in self.languages)
            and (not self.platforms or card.platform in self.platforms)
            and (self.published_from is None or (date is not None and date >= self.published_from))
            and (self.published_to is None or (date is not None and date <= self.published_to))
        )


@dataclass(frozen=True, slots=True)
class CatalogueResult:
    """What a plan comes to."""

    plan: Plan
    documents: tuple[DocumentCard, ...]
    """Those that it is about, in the order asked for."""
    counts: tuple[tuple[str, int], ...] = ()
    """(value, number of documents), the most first, where values were asked for."""
    undated: int = 0
    """Documents without a date, which a question about dates must leave out."""


def narrow_cards(cards: Sequence[DocumentCard], filter: MetadataFilter) -> tuple[DocumentCard, ...]:
    """Return the documents that a caller's filter accepts."""
    wanted = Plan(
        authors=filter.authors,
        categories=filter.categories,
        languages=filter.languages,
        platforms=filter.platforms,
        published_from=filter.published_from,
        published_to=filter.published_to,
    )
    named = filter.document_ids
    return tuple(card for card in cards if wanted.accepts(card) and (not named or card.id in named))


# --- from words to a plan --------------------------------------------------------------------------------------------

_COUNT = re.compile(
    r"\bhow\s+(?:many|much|often)\b|\bnumber\s+of\b|\bcount\b|\bwie\s*viele?\b|\banzahl\b|\bzähl|\bwie\s+oft\b",
    re.IGNORECASE,
)
_NEWEST = re.compile(
    r"\b(?:latest|newest|most\s+recent|recent(?:ly)?|last(?!\s+(?:week|month|year|\w+\s+(?:days|weeks|months|years)))|neueste\w*|jüngste\w*|letzte[rsn]?(?!\s+(?:woche|monat|jahr))|zuletzt|aktuellste\w*)\b",
    re.IGNORECASE,
)
_OLDEST = re.compile(
    r"\b(?:oldest|earliest|first|since\s+when|älteste\w*|erste[rsn]?|seit\s+wann|when\s+did\s+.*\bstart)\b",
    re.IGNORECASE,
)
_MOST = re.compile(r"\bmost(?!\s+recent)\b|\bam\s+meisten\b|\bdie\s+meisten\b|\bmostly\b", re.IGNORECASE)
_ASKS_FOR = r"\b(?:which|what|how\s+many|list|all|where|welche\w*|wie\s+viele|alle)\b.{0,30}"


def _asks(nouns: str, alone: str = "") -> re.Pattern[str]:
    return re.compile(rf"{_ASKS_FOR}\b(?:{nouns})\b{alone}", re.IGNORECASE)


_VALUES: tuple[tuple[Asked, re.Pattern[str]], ...] = (
    ("languages", _asks("languages?|sprachen?")),
    ("platforms", _asks("platforms?|sites?|websites?|plattform(?:en)?|seiten")),
    ("categories", _asks("categor(?:y|ies)|kinds?|types?|kategorien?|arten")),
    ("authors", _asks("authors?|writers|people|autor(?:en|innen)?|leute", r"|\bwho\b|\bwer\b|\bvon\s+wem\b")),
)
_KINDS: dict[str, str] = {
    "article": r"(?<!posts )\b(?:articles?|blog\s*posts?|essays?|artikeln?)\b",
    "post": r"(?<!blog )(?<!blog)\b(?:posts?|tweets?|status\s+updates|beitr[aä]ge?n?|beitrag)\b",
    "repository": r"\b(?:repos?|repositor(?:y|ies)|code|(?:source\s+)?files?|dateien)\b",
}
_BY = re.compile(
    r"\b(?:per|for\s+each|by\s+each|grouped?\s+by|pro|je)\s+(author|language|platform|category|autor\w*|sprache|plattform|kategorie)",
    re.IGNORECASE,
)
_BY_NAMES: dict[str, Asked] = {
    "aut": "authors",
    "lan": "languages",
    "spr": "languages",
    "pla": "platforms",
    "cat": "categories",
    "kat": "categories",
}
_TOPIC = re.compile(
    r"\b(?:about|regarding|concerning|on\s+the\s+(?:topic|subject)\s+of|mention(?:s|ing)?|cover(?:s|ing)?|discuss(?:es|ing)?|deal(?:s|ing)?\s+with"
    r"|on|über|zum?\s+thema|zu[rm]?|erwähn\w+|behandel\w+|handel\w+\s+von)\s+(?P<topic>.+)$",
    re.IGNORECASE,
)
_TOPIC_END = re.compile(
    r"\s*(?:[?!;]|[.,](?:\s|$)|\b(?:by|from|since|before|after|between|until|published|written|posted|wrote|are\s+there|do\s+(?:you|i|we)|does|have|has|did|exist|in\s+(?:the\s+)?(?:collection|\d{4}|\w+\s+\d{4})|please"
    r"|come\s+out|came\s+out|appear\w*|erschien\w*|herausgekommen|von|seit|vor|nach|gibt|hast|habe|hat|geschrieben|veröffentlicht|im\s+\w+\s+\d{4}|bitte|auf)\b).*$",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\b(?:the\s+|my\s+|die\s+)?(?:last|latest|newest|first|top|oldest|most\s+recent|letzten|neuesten|ersten)\s+(?P<n>\d{1,3}|two|three|four|five|ten|zwei|drei|vier|fünf|zehn)\b",
    re.IGNORECASE,
)
NUMBER_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "ten": 10,
    "zwei": 2,
    "drei": 3,
    "vier": 4,
    "fünf": 5,
    "zehn": 10,
}
_SELF = re.compile(r"\b(?:i|i've|my|mine|ich|meine?[rnms]?)\b", re.IGNORECASE)
_MENTION = re.compile(r"\b(?:mention\w*|erwähn\w*|contain\w*|with\s+the\s+word)\b", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(?:the|my|\w+'s|der|den|dem|mein|meinen)\s+(?:article|post|text|piece|essay|blog\s*post|artikel|beitrag)\s",
    re.IGNORECASE,
)
_NAME_PART = re.compile(r"[^\W_]+")


def plan_catalogue(
    request: str, cards: Sequence[DocumentCard], now: datetime, *, me: str | None = None
) -> Plan:
    """Read a plan from a request.

    Args:
        request: without greeting and politeness.
        cards: the documents there are; only their authors, languages and platforms can be asked for.
        now: what "last month" is counted from.
        me: the author whom "I" and "my" mean.
    """
    authors = find_names(request, {card.author for card in cards})
    if not authors and me and _SELF.search(request):
        authors = (me,)
    if not authors and (stranger := _UNKNOWN_AUTHOR.search(request)) is not None:
        authors = (stranger["name"],)  # of whom there is nothing
    period = read_period(_complete_dates(request, now), now)
    language = _LANGUAGE.search(request)
    asked: Asked = next((name for name, pattern in _VALUES if pattern.search(request)), "documents")
    by = _BY.search(request)
    count = _COUNT.search(request) is not None
    operation: Operation = "count" if count else "list"
    if asked == "authors" and _MOST.search(request):
        operation = "most"
    elif not count and asked == "documents" and _OLDEST.search(request):
        operation = "oldest"
    elif not count and asked == "documents" and _NEWEST.search(request):
        operation = "newest"
    number = _NUMBER.search(request)
    kinds = tuple(kind for kind, nouns in _KINDS.items() if re.search(nouns, request, re.IGNORECASE))
    present = {card.category for card in cards}
    topic = _read_topic(request, authors)
    limit = LISTED
    if operation in ("newest", "oldest"):
        plural = re.search(
            r"\b(?:articles|posts|texts|documents|pieces|artikel\b(?=.*\bsind\b)|beiträge|texte)\b",
            request,
            re.IGNORECASE,
        )
        limit = 5 if plural else 1
    if number:
        said = number["n"].casefold()
        limit = int(said) if said.isdigit() else NUMBER_WORDS[said]
    return Plan(
        asked=asked,
        operation=operation,
        authors=authors,
        categories=tuple(kind for kind in kinds if kind in present),
        languages=(_LANGUAGE_NAMES[(language["alone"] or language["of"]).casefold()],) if language else (),
        published_from=period.start if period else None,
        published_to=period.end if period else None,
        topic=topic,
        mentions=_MENTION.search(request) is not None,
        named=_NAMED.search(request) is not None,
        limit=max(1, limit),
        by=_BY_NAMES[by[1][:3].casefold()] if by else None,
    )


def means_self(request: str) -> bool:
    """Return whether a request speaks of its writer: "my articles", "what I wrote"."""
    return _SELF.search(request) is not None


def find_names(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that a text names, in whatever case: whole, or by a part that only one of them has."""
    parts_of = {name: _NAME_PART.findall(name.casefold()) for name in names}
    folded = f" {' '.join(_NAME_PART.findall(text.casefold()))} "
    found = {name for name, parts in parts_of.items() if parts and f" {' '.join(parts)} " in folded}
    owners: dict[str, set[str]] = {}
    for name, parts in parts_of.items():
        for part in parts:
            owners.setdefault(part, set()).add(name)
    spoken = set(_NAME_PART.findall(text))
    for part, of in owners.items():
        # A part must stand with a capital: "will", "mark" and "project" are words too. "Adas" is German for Ada's.
        if len(of) == 1 and len(part) > 2 and {part.capitalize(), f"{part.capitalize()}s"} & spoken:
            found |= of
    return tuple(sorted(found))


def _read_topic(request: str, authors: Sequence[str]) -> str:
    match = _TOPIC.search(request)
    if match is None:
        return ""
    topic = _TOPIC_END.sub("", match["topic"])
    for part in {part for author in authors for part in author.split()}:
        topic = re.sub(rf"\b{re.escape(part)}(?:['’]?s)?\b", " ", topic, flags=re.IGNORECASE)
    topic = re.sub(
        r"\b(?:by|from|and|the|a|an|der|die|das|topic|subject|thema)\b\s*$|^\s*(?:the|a|an|der|die|das)\s+",
        "",
        " ".join(topic.split()),
        flags=re.IGNORECASE,
    )
    return topic.strip(" .,?!\"'“”")


_GERMAN_DATES = {
    "januar": "january", "februar": "february", "märz": "march", "mai": "may", "juni": "june", "juli": "july",
    "oktober": "october", "dezember": "december", "im": "in", "seit": "since", "vor": "before", "nach": "after",
    "bis": "until", "zwischen": "between", "und": "and", "von": "from", "heute": "today", "gestern": "yesterday",
    "letzten": "last", "letzte": "last", "letztes": "last", "letztem": "last", "letzter": "last", "diesen": "this",
    "diesem": "this", "diese": "this", "dieses": "this", "dieser": "this", "woche": "week",
    "monat": "month", "jahr": "year", "tage": "days",
    "tagen": "days", "wochen": "weeks", "monate": "months", "monaten": "months", "jahre": "years", "jahren": "years",
    "aus": "from", "dem": "the", "den": "the", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five",
    "sechs": "six", "zehn": "ten",
}  # fmt: skip


_MONTH = "|".join(calendar.month_name[1:])
_BARE_MONTH = re.compile(
    r"(?P<before>\b(?:in|since|from|between|and|until|before|after|on|of|during|the)\s+|\b\d{1,2}\s+)"
    rf"(?P<month>{_MONTH})\b(?!,?\s*\d)",
    re.IGNORECASE,
)


def _complete_dates(request: str, now: datetime) -> str:
    """The request with its dates in English and with years, which is how dates are read.

    A month without a year is that of the year that the request names, else the last one that has begun.
    """
    text = re.sub(
        r"[^\W\d_]+", lambda word: _GERMAN_DATES.get(word.group().casefold(), word.group()), request
    )
    text = re.sub(rf"(\b\d{{1,2}})\.\s*(?={_MONTH})", r"\1 ", text, flags=re.IGNORECASE)
    text = re.sub(rf"\bthe\s+(?=\d{{1,2}}\s|{_MONTH})", "", text, flags=re.IGNORECASE)
    named = re.search(r"\b(?:19|20)\d{2}\b", text)

    def complete(found: re.Match[str]) -> str:
        month = list(calendar.month_name).index(found["month"].capitalize())
        year = int(named.group()) if named else now.year - (month > now.month)
        return f"{found['before']}{found['month']} {year}"

    return _BARE_MONTH.sub(complete, text)


_LANGUAGE_NAMES = {
    "english": "en", "englisch": "en", "german": "de", "deutsch": "de", "french": "fr", "französisch": "fr", "spanish": "es",
    "spanisch": "es", "italian": "it", "italienisch": "it", "dutch": "nl", "portuguese": "pt", "polish": "pl",
}  # fmt: skip
_LANGUAGE = re.compile(
    rf"\b(?:in|auf)\s+(?P<alone>{'|'.join(_LANGUAGE_NAMES)})\b|\b(?P<of>{'|'.join(_LANGUAGE_NAMES)})(?:e[rnsm]?|sprachige[rnsm]?)?\s+"
    r"(?:articles?|posts?|texts?|documents?|artikeln?|beitr[aä]gen?|beitrag|texten?)\b",
    re.IGNORECASE,
)
_UNKNOWN_AUTHOR = re.compile(r"\b(?:by|from|von)\s+(?P<name>[A-ZÄÖÜ][\w'’-]+\s+[A-ZÄÖÜ][\w'’-]+)")


# --- carrying it out --------------------------------------------------------------------------------------------------


def run_plan(
    plan: Plan, cards: Sequence[DocumentCard], about: Callable[[str, bool], set[str]]
) -> CatalogueResult:
    """Carry a plan out.

    Args:
        about: ids of the documents about a subject, or (True) of those that hold its words anywhere.
    """
    documents = [card for card in cards if plan.accepts(card)]
    if plan.topic:
        wanted = about(plan.topic, plan.mentions)
        documents = [card for card in documents if card.id in wanted]
        titled = [card for card in documents if matches_topic(plan.topic, card.title)]
        documents = titled if plan.named and titled else documents
    dated = plan.operation in ("newest", "oldest") or plan.published_from or plan.published_to
    pool = [card for card in cards if replace(plan, published_from=None, published_to=None).accepts(card)]
    undated = sum(card.published_at is None for card in pool) if dated else 0
    if plan.operation in ("newest", "oldest"):
        documents = [card for card in documents if card.published_at is not None]
    documents.sort(
        key=lambda card: (card.published_at or datetime.min.replace(tzinfo=UTC), card.title, card.id)
    )
    if plan.operation != "oldest":
        documents.reverse()
    if plan.operation in ("newest", "oldest"):
        documents = documents[: plan.limit]
    group = plan.by or (plan.asked if plan.asked != "documents" else None)
    counts: tuple[tuple[str, int], ...] = ()
    if group is not None:
        counted = Counter(_value(card, group) for card in documents)
        counts = tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
    return CatalogueResult(plan, tuple(documents), counts, undated)


def _value(card: DocumentCard, field: Asked) -> str:
    return {
        "authors": card.author,
        "languages": card.language,
        "platforms": card.platform,
        "categories": card.category,
        "documents": card.title,
    }[field]


def matches_topic(topic: str, text: str) -> bool:
    """Return whether a text holds all words of a subject that carry content."""
    wanted = content_stems(topic)
    return bool(wanted) and wanted <= content_stems(text)


# --- in words ---------------------------------------------------------------------------------------------------------

_LANGUAGES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "nl": "Dutch", "pt": "Portuguese",
    "pl": "Polish", "ru": "Russian", "ja": "Japanese", "zh": "Chinese", "und": "an unknown language",
}  # fmt: skip
_GERMAN = {
    "documents": ("Text", "Texte"), "article": ("Artikel", "Artikel"), "post": ("Beitrag", "Beiträge"),
    "repository": ("Datei", "Dateien"), "authors": ("Autor", "Autoren"), "languages": ("Sprache", "Sprachen"),
    "platforms": ("Plattform", "Plattformen"), "categories": ("Kategorie", "Kategorien"),
}  # fmt: skip
_ENGLISH = {
    "documents": ("text", "texts"), "article": ("article", "articles"), "post": ("post", "posts"),
    "repository": ("file", "files"), "authors": ("author", "authors"), "languages": ("language", "languages"),
    "platforms": ("platform", "platforms"), "categories": ("kind", "kinds"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wording:
    """Sentences of a reply in one language."""

    german: bool = False
    nouns: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def choose_for(cls, request: str) -> "Wording":
        """Choose the language of a request: German where its small words are, else English."""
        german = language_of(split_words(request)) == "de"
        return cls(german, _GERMAN if german else _ENGLISH)

    def count(self, number: int, noun: str) -> str:
        """Say how many: "1 article", "2 Texte"."""
        one, many = self.nouns.get(noun, (noun, f"{noun}s"))
        return f"{number:,} {one if number == 1 else many}"

    def describe_extreme(self, operation: str, noun: str, number: int) -> str:
        """Name the newest or oldest: "The newest article", "Die neuesten Artikel"."""
        one, many = self.nouns.get(noun, (noun, f"{noun}s"))
        if not self.german:
            return f"The {operation} {one if number == 1 else many}"
        adjective = {"newest": "neueste", "oldest": "älteste"}[operation]
        if number != 1:
            return f"Die {adjective}n {many}"
        return f"{'Die' if one.endswith('ei') else 'Der'} {adjective} {one}"

    def describe_scope(self, plan: Plan) -> str:
        """What the documents were narrowed to: "by Ada Winter, about LoRA, 2026-09-01 to 2026-09-30"."""
        parts = []
        if plan.authors:
            parts.append(
                ("von " if self.german else "by ") + (" und " if self.german else " and ").join(plan.authors)
            )
        if plan.topic:
            parts.append(("zu " if self.german else "about ") + f"“{plan.topic}”")
        start, end = plan.published_from, plan.published_to
        if start and end:
            parts.append(f"{start:%Y-%m-%d} – {end:%Y-%m-%d}")
        elif start:
            parts.append(f"{'seit' if self.german else 'since'} {start:%Y-%m-%d}")
        elif end:
            parts.append(f"{'bis' if self.german else 'until'} {end:%Y-%m-%d}")
        return f" {', '.join(parts)}" if parts else ""


def describe_found(
    found: CatalogueResult, request: str, total: int, openings: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Say what a plan came to, in the language of the request, with links.

    Args:
        total: documents there are in all.
        openings: by id, the first words of documents without a title.
    """
    plan, words = found.plan, Wording.choose_for(request)
    noun = plan.categories[0] if len(plan.categories) == 1 else "documents"
    scope = words.describe_scope(plan)
    notes = _describe_undated(found, words)
    if not found.documents:
        none = (
            f"Die Sammlung enthält keine {words.nouns[noun][1]}{scope}. Sie umfasst {words.count(total, 'documents')}."
            if words.german
            else f"The collection holds no {words.nouns[noun][1]}{scope}. It has {words.count(total, 'documents')} in all."
        )
        return none + notes
    if found.counts:
        return _describe_counts(found, words, scope) + notes
    lines = [_line(card, openings.get(card.id, "")) for card in found.documents[: plan.limit]]
    rest = len(found.documents) - len(lines)
    if rest > 0:
        lines.append(f"… und {rest:,} weitere." if words.german else f"… and {rest:,} more.")
    number = len(found.documents)
    if plan.operation in ("newest", "oldest"):
        head = f"{words.describe_extreme(plan.operation, noun, number)}{scope}:"
    elif words.german:
        head = f"{words.count(number, noun)}{scope}:"
    else:
        head = f"There {'is' if number == 1 else 'are'} {words.count(number, noun)}{scope}:"
    return "\n".join([head, "", *lines]) + notes


def _describe_counts(found: CatalogueResult, words: Wording, scope: str) -> str:
    plan = found.plan
    group = plan.by or plan.asked
    shown = [
        (_LANGUAGES.get(v, v) if group == "languages" and not words.german else v, n) for v, n in found.counts
    ]
    lines = [f"- {value}: {words.count(number, 'documents')}" for value, number in shown[:LISTED]]
    if len(shown) > LISTED:
        lines.append(f"… {len(shown) - LISTED:,}")
    if plan.operation == "most":
        value, number = shown[0]
        head = (
            f"Am meisten{scope}: {value}, {words.count(number, 'documents')}."
            if words.german
            else f"{value} wrote most{scope}: {words.count(number, 'documents')}."
        )
        return head if len(lines) == 1 else "\n".join([head, "", *lines])
    head = f"{words.count(len(shown), group)}{scope}:"
    return "\n".join([head, "", *lines])


def _describe_undated(found: CatalogueResult, words: Wording) -> str:
    if not found.undated:
        return ""
    told = words.count(found.undated, "documents")
    return "\n\n" + (
        f"{told} ohne Datum bleiben außer Betracht."
        if words.german
        else f"{told} without a date {'is' if found.undated == 1 else 'are'} left out."
    )


def _line(card: DocumentCard, opening: str) -> str:
    title = card.title or opening or card.link
    date = f"{card.published_at:%Y-%m-%d}" if card.published_at else "no date"
    return f"- [{title}]({card.link}) · {card.author} · {date}"


def describe_categories(cards: Sequence[DocumentCard], *, german: bool = False) -> list[tuple[str, int]]:
    """Return (plural noun, number) of each kind of document, the most first."""
    nouns = _GERMAN if german else _ENGLISH
    counted = Counter(card.category for card in cards)
    return [(nouns.get(name, (name, f"{name}s"))[1], number) for name, number in counted.most_common()]

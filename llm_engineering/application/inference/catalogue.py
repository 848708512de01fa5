"""Answer what is asked of the collection itself: which texts there are, how many, by whom, since when.

A question becomes a :class:`Plan`, which is carried out exactly over the documents' metadata; no number is a model's. Only
whether a document is about a subject is a matter of search.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from llm_engineering.application.inference.periods import NUMBER_WORDS
from llm_engineering.application.inference.scope import name_language, read_scope
from llm_engineering.application.inference.search import FIELDS, Facets, read_facets
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
    filter: MetadataFilter = MetadataFilter()
    topic: str = ""
    mentions: bool = False
    """A text that holds the subject's words anywhere is asked for, not only one that is about it."""
    named: bool = False
    """One text is meant, "the article on drift": its title says so, where one does."""
    limit: int = LISTED
    by: Asked | None = None
    """Count for each value of this, too."""


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


# --- from words to a plan --------------------------------------------------------------------------------------------

_COUNT = re.compile(
    r"\bhow\s+(?:many|much|often)\b|\bnumber\s+of\b|\bcount\b|\bwie\s*viele?\b|\banzahl\b|\bzähl|\bwie\s+oft\b",
    re.IGNORECASE,
)
_NEWEST = re.compile(
    r"\b(?:latest|newest|most\s+recent|recent(?:ly)?|last|neueste\w*|jüngste\w*|letzte[rsn]?|zuletzt|aktuellste\w*)\b",
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
    r"\s*(?:[?!;]|[.,](?:\s|$)|\b(?:by|from|published|written|posted|wrote|are\s+there|do\s+(?:you|i|we)|does|have|has|did|exist"
    r"|in\s+(?:the\s+)?collection|please|come\s+out|came\s+out|appear\w*|erschien\w*|herausgekommen|von|gibt|hast|habe|hat"
    r"|geschrieben|veröffentlicht|bitte|auf)\b).*$",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    rf"\b(?:last|latest|newest|first|top|oldest|most\s+recent|letzten|neuesten|ersten)\s+(\d{{1,3}}|{'|'.join(NUMBER_WORDS)})\b",
    re.IGNORECASE,
)
_MENTION = re.compile(r"\b(?:mention\w*|erwähn\w*|contain\w*|with\s+the\s+word)\b", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(?:the|my|\w+'s|der|den|dem|mein|meinen)\s+(?:article|post|text|piece|essay|blog\s*post|artikel|beitrag)\s",
    re.IGNORECASE,
)
_STRANGER = re.compile(r"\b(?:by|from|von)\s+([A-ZÄÖÜ][\w'’-]+\s+[A-ZÄÖÜ][\w'’-]+)")
_PLURAL = re.compile(
    r"\b(?:articles|posts|texts|documents|pieces|artikel\b(?=.*\bsind\b)|beiträge|texte)\b", re.IGNORECASE
)


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
    known = Facets(
        **{name: Counter(getattr(card, name) for card in cards) for name in FIELDS},
        records=read_facets(cards),
    )
    scope = read_scope(request, known, now, me=me, documents=True)
    rest, filter = scope.remove_from(request), scope.filter
    if not filter.authors and (stranger := _STRANGER.search(rest)) is not None:
        filter = filter.model_copy(update={"authors": (stranger[1],)})  # of whom there is nothing
    asked: Asked = next((name for name, pattern in _VALUES if pattern.search(rest)), "documents")
    operation: Operation = "count" if _COUNT.search(rest) else "list"
    if asked == "authors" and _MOST.search(rest):
        operation = "most"
    elif operation == "list" and asked == "documents":
        operation = "oldest" if _OLDEST.search(rest) else "newest" if _NEWEST.search(rest) else "list"
    number, by = _NUMBER.search(rest), _BY.search(rest)
    if number:
        limit = max(1, int(number[1]) if number[1].isdigit() else NUMBER_WORDS[number[1].casefold()])
    elif operation in ("newest", "oldest"):
        limit = 5 if _PLURAL.search(rest) else 1
    else:
        limit = LISTED
    return Plan(
        asked=asked,
        operation=operation,
        filter=filter,
        topic=_read_topic(rest),
        mentions=_MENTION.search(rest) is not None,
        named=_NAMED.search(request) is not None,
        limit=limit,
        by=_BY_NAMES[by[1][:3].casefold()] if by else None,
    )


def _read_topic(request: str) -> str:
    match = _TOPIC.search(request)
    if match is None:
        return ""
    topic = " ".join(_TOPIC_END.sub("", match["topic"]).split())
    topic = re.sub(
        r"\b(?:by|from|and|the|a|an|der|die|das|topic|subject|thema)\b\s*$|^\s*(?:the|a|an|der|die|das)\s+",
        "",
        topic,
        flags=re.IGNORECASE,
    )
    return topic.strip(" .,?!\"'“”")


# --- carrying it out --------------------------------------------------------------------------------------------------


def run_plan(
    plan: Plan, cards: Sequence[DocumentCard], about: Callable[[str, bool], set[str]]
) -> CatalogueResult:
    """Carry a plan out.

    Args:
        about: ids of the documents about a subject, or (True) of those that hold its words anywhere.
    """
    documents = [card for card in cards if plan.filter.accepts(card)]
    if plan.topic:
        wanted = about(plan.topic, plan.mentions)
        documents = [card for card in documents if card.id in wanted]
        titled = [card for card in documents if matches_topic(plan.topic, card.title)]
        documents = titled if plan.named and titled else documents
    timeless = plan.filter.model_copy(update={"published_from": None, "published_to": None})
    dated = plan.operation in ("newest", "oldest") or plan.filter != timeless
    undated = sum(card.published_at is None and timeless.accepts(card) for card in cards) if dated else 0
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
        counted = Counter(value for card in documents if (value := _value(card, group)))
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
        parts, joint = [], " und " if self.german else " and "
        if plan.filter.authors:
            parts.append(("von " if self.german else "by ") + joint.join(plan.filter.authors))
        if plan.filter.platforms:
            parts.append(("auf " if self.german else "on ") + joint.join(plan.filter.platforms))
        if plan.filter.languages:
            named = [name_language(code, german=self.german) for code in plan.filter.languages]
            parts.append(("auf " if self.german else "in ") + joint.join(named))
        if plan.topic:
            parts.append(("zu " if self.german else "about ") + f"“{plan.topic}”")
        start, end = plan.filter.published_from, plan.filter.published_to
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
    noun = plan.filter.categories[0] if len(plan.filter.categories) == 1 else "documents"
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
        (name_language(value, german=words.german) if group == "languages" else value, number)
        for value, number in found.counts
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
    return " · ".join(filter(None, (f"- [{title}]({card.link})", card.author, date)))


def describe_categories(cards: Sequence[DocumentCard], *, german: bool = False) -> list[tuple[str, int]]:
    """Return (plural noun, number) of each kind of document, the most first."""
    nouns = _GERMAN if german else _ENGLISH
    counted = Counter(card.category for card in cards)
    return [(nouns.get(name, (name, f"{name}s"))[1], number) for name, number in counted.most_common()]

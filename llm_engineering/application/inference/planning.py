"""From a request for a text to what it is made of: an outline with its passages, or a plain reply."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from llm_engineering.application.inference.briefs import Brief, describe_style, read_brief
from llm_engineering.application.inference.catalogue import Wording, matches_topic
from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.composing import Embed, Order, Outline, Section
from llm_engineering.application.inference.drafts import plan_draft
from llm_engineering.application.inference.events import NO_OPTIONS, BriefOptions
from llm_engineering.application.inference.guards import Guarded
from llm_engineering.application.inference.intents import Routed
from llm_engineering.application.inference.outlines import (
    gather_sections,
    name_text,
    outline_comparison,
    outline_document,
    outline_summary,
)
from llm_engineering.application.inference.scope import find_authors, means_self
from llm_engineering.application.inference.self_query import merge_filters
from llm_engineering.application.llm import prompts
from llm_engineering.application.text.words import content_stems
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.inference import Intent
from llm_engineering.domain.retrieval import GIVEN_TEXT, Hit, MetadataFilter, Passage

_TOKENS_PER_WORD = 1.6
_MOST_AUTHORS = 4
_DRAFT_TEXTS = 3
"""Texts on a subject that a draft draws on at least, where there are as many that are near to it."""
_OFFERED = 3
"""Texts that are named where nothing was written on a subject, or nothing by an author."""
_COMPARED_TEXTS = 3
"""Texts of an author, or on a thing, that a comparison reads."""
_ONE_TEXT = re.compile(
    r"[“\"„«].{4,}[”\"“»]|\b(?:the|this|that|his|her|their|my|your|\w+['’]s|den|diesen|seinen|ihren|meinen)\s+(?:\w+\s+)?"
    r"(?:article|essay|text|artikel)\b",
    re.IGNORECASE,
)
"""A single text is asked for, by its title or as "the article"."""
_LONGEST_ORDER = 200
"""Characters of an order that is passed on as it stands."""
_NO_HITS: Mapping[str, Sequence[Hit]] = {}


def plan_text(
    routed: Routed,
    guarded: Guarded,
    collection: Collection,
    authors: Sequence[str],
    *,
    embed: Embed,
    owner: str | None,
    extractive: bool,
    verbatim: bool,
    measure_floor: Callable[[], float],
    instructions: str = "",
    options: BriefOptions = NO_OPTIONS,
) -> str | Outline:
    """Plan a text, a summary or a comparison. A plain reply says what is missing. Blocking.

    Args:
        authors: all there are.
        embed: texts to unit vectors, shape (n, dimension).
        owner: whom "I" and "my" mean.
        extractive: there is no model that could rewrite a text.
        verbatim: drafts are made of the author's own sentences.
        measure_floor: gives the similarity from which a text bears on a subject at all.
        instructions: of the calling application; they stand below the prompt's own rules.
        options: what of the brief the caller states.

    Raises:
        StoreError: the index cannot be read.
        ModelError: the embedder failed.
    """
    german = Wording.choose_for(guarded.query.text).german
    if routed.introduced and owner is None and routed.intent is Intent.WRITE:
        there = ", ".join(authors)
        return _say(
            german,
            f"Von {routed.introduced} wurde nichts gesammelt. Es gibt: {there}.",
            f"Nothing by {routed.introduced} was collected. There are: {there}.",
        )
    me = owner if routed.introduced or means_self(routed.request) else None
    brief = read_brief(
        routed.request,
        authors,
        intent=routed.intent,
        me=me or owner,
        german=german,
        continues=routed.continues,
        history=guarded.history,
        options=options,
    )
    stated = guarded.query.filter.authors or ((options.author,) if options.author else ())
    named = stated or find_authors(routed.request, authors) or ((me,) if me else ())
    if guarded.query.filter.authors and not options.author:
        brief = replace(brief, author=named[0])
    if routed.intent is Intent.WRITE and brief.given:
        return _plan_rewriting(brief, routed.request, collection, extractive=extractive, small=verbatim)
    if not brief.subject:
        return _say(
            german,
            "Worüber? Nenne ein Thema, einen Autor oder einen Text.",
            "What about? Name a subject, an author or a text.",
        )
    given = guarded.query.filter
    narrow = merge_filters(given, MetadataFilter(authors=named))
    if routed.intent is Intent.COMPARE:
        things = brief.things if len(named) < 2 else ()
        compared = {thing: (thing, _passages_on(collection, thing, narrow)) for thing in things}
        if any(passages for _, passages in compared.values()):
            nowhere = _say(german, "kommt nicht vor.", "is not written about.")
            return outline_comparison("", compared, nowhere, named=True)
        found = _find(collection, brief.subject, measure_floor, given)
        if not found:
            return _nothing(collection, brief, given, (), german)
        authors_told = named if len(named) > 1 else _authors_of(found)
        return outline_comparison(
            brief.subject,
            _split_by_author(authors_told, brief.subject, found, collection),
            _say(german, "schreibt darüber nichts.", "does not write about it."),
        )
    if routed.intent is Intent.SUMMARISE:
        found = _find(collection, brief.subject, measure_floor, narrow)
        if not found:
            return _nothing(
                collection,
                brief,
                given,
                named,
                german,
                _find(collection, brief.subject, measure_floor, given),
            )
        one = _ONE_TEXT.search(routed.request) is not None
        whole = _named_document(brief.subject, found, one=one)
        document = _read(collection, whole) if whole else None
        if document is not None:
            return outline_document(
                document, german=german, repeated=collection.find_repeated(document.author)
            )
        return outline_summary(
            brief.subject,
            found,
            gather_sections(found, collection),
            german=german,
            find_repeated=collection.find_repeated,
        )
    if verbatim and brief.author:
        # Somebody else's sentences would be passed off as the author's own.
        own = merge_filters(given, MetadataFilter(authors=(brief.author,)))
        found = _find(collection, brief.subject, measure_floor, own, fewest=_DRAFT_TEXTS)
        if not found:
            others = _find(collection, brief.subject, measure_floor, given)
            return _nothing(collection, brief, given, (brief.author,), german, others)
    else:
        found = _find(collection, brief.subject, measure_floor, narrow, given, fewest=_DRAFT_TEXTS)
    if not found:
        return _nothing(collection, brief, given, (), german)
    return plan_draft(brief, found, collection, embed, verbatim=verbatim, instructions=instructions)


def _find(
    collection: Collection,
    subject: str,
    measure_floor: Callable[[], float],
    *filters: MetadataFilter,
    fewest: int = 1,
) -> dict[str, list[Hit]]:
    """What is about the subject within the first filter that leaves anything, else what is nearest to it: people name a
    subject in other words than its author does.

    Args:
        fewest: texts from which the nearest ones need not be added.
    """
    found: dict[str, list[Hit]] = {}
    for filter in filters:
        if found := collection.find_about(subject, filter):
            filters = (filter,)
            break
    if len(found) >= fewest:
        return found
    floor = measure_floor()
    for filter in filters:
        if near := collection.find_about(subject, filter, floor=floor):
            return found | {identifier: hits for identifier, hits in near.items() if identifier not in found}
    return found


def _plan_rewriting(
    brief: Brief, request: str, collection: Collection, *, extractive: bool, small: bool
) -> str | Outline:
    if extractive:
        return _say(
            brief.german,
            f"Dieses kleine Modell kann keine Texte umschreiben. Ein größeres holt: {POE} download-models",
            f"This small model cannot rewrite texts. Fetch a larger one with: {POE} download-models",
        )
    voice = collection.find_voice(brief.author, german=brief.german) if brief.author else None
    # A small model writes off an example that it is shown.
    shown = brief.author and not small
    examples = collection.find_examples(brief.author or "", brief.given[:500])[:1] if shown else []
    order = request.replace(brief.given, "").strip(' :"“”')
    messages = prompts.render(
        "rewrite",
        1,
        language="German" if brief.german else "English",
        style=describe_style(voice) if voice is not None else "",
        examples=examples,
        text=brief.given,
        request=order if len(order) < _LONGEST_ORDER else brief.description,
    )
    passage = Passage.model_validate(
        {
            "document_id": GIVEN_TEXT,
            "span": {"start": 0, "end": len(brief.given)},
            "text": brief.given,
            "title": "The given text" if not brief.german else "Der gegebene Text",
            "link": "",
            "author": brief.author or "",
            "platform": "",
            "score": 1.0,
        }
    )
    tokens = int(max(brief.words, len(brief.given.split()) * 1.3) * _TOKENS_PER_WORD) + 40
    section = Section(
        heading="",
        question=request,
        passages=(passage,),
        order=Order(tuple(messages), "rewrite", tokens, free=True),
    )
    return Outline("", (section,), voice=voice, brief=brief)


def _passages_on(collection: Collection, thing: str, filter: MetadataFilter) -> list[Passage]:
    found = collection.find_about(thing, filter, mentions=True)
    return [
        one for sections in gather_sections(found, collection, _COMPARED_TEXTS).values() for one in sections
    ]


def _split_by_author(
    authors: Sequence[str], subject: str, found: Mapping[str, Sequence[Hit]], collection: Collection
) -> dict[str, tuple[str, list[Passage]]]:
    """What each author wrote on a subject, where they did."""
    compared: dict[str, tuple[str, list[Passage]]] = {}
    for author in authors:
        own = {identifier: hits for identifier, hits in found.items() if hits[0].chunk.author == author}
        gathered = gather_sections(own, collection, _COMPARED_TEXTS).values()
        compared[author] = (subject, [one for sections in gathered for one in sections])
    return compared


def _authors_of(found: Mapping[str, Sequence[Hit]]) -> tuple[str, ...]:
    """Who wrote on the subject, those first whose texts are nearest; of repositories nobody in particular did."""
    names = [hits[0].chunk.author for hits in found.values() if hits[0].chunk.category != "repository"]
    return tuple(dict.fromkeys(filter(None, names)))[:_MOST_AUTHORS]


def _named_document(subject: str, found: Mapping[str, Sequence[Hit]], *, one: bool) -> str | None:
    """The document that is meant: the one whose title is the subject, or the only one whose title holds it.

    Args:
        one: a single text is asked for: of several that are near, the one whose title has most words of the subject.
    """
    titles = {identifier: hits[0].chunk.title for identifier, hits in found.items()}
    named = [identifier for identifier, title in titles.items() if title.casefold() == subject.casefold()]
    titled = named or [identifier for identifier, title in titles.items() if matches_topic(subject, title)]
    if len(titled) == 1 and (named or one or len(found) == 1):
        return titled[0]
    asked = content_stems(subject)
    shares = {identifier: len(asked & content_stems(title)) for identifier, title in titles.items()}
    best = max(shares, key=shares.__getitem__)
    return best if one and shares[best] > len(asked) / 2 else None


def _read(collection: Collection, identifier: str) -> CleanDocument | None:
    try:
        return collection.read_documents([identifier]).get(identifier)
    except StoreError:
        return None


def _nothing(
    collection: Collection,
    brief: Brief,
    given: MetadataFilter,
    authors: Sequence[str],
    german: bool,
    others: Mapping[str, Sequence[Hit]] = _NO_HITS,
) -> str:
    """What to say where there is no text on the subject, with those that other people wrote on it, or the nearest ones.

    Args:
        given: the caller's filter, which holds for what is named, too.
    """
    by = f" {'von' if german else 'by'} {', '.join(authors)}" if authors else ""
    said = _say(
        german,
        f"Zu „{brief.subject}“ gibt es{by} keine gesammelten Texte.",
        f"Nothing was collected{by} about “{brief.subject}”.",
    )
    if german and not others and not _has_german(collection, authors):
        said += " Die Texte sind englisch: Nenne das Thema so, wie es dort heißt."
    lead = _say(german, "Andere haben darüber geschrieben:", "Others wrote on it:")
    if not others:
        lead = _say(german, "Am nächsten kommen:", "Nearest to it:")
        others = collection.find_about(brief.subject, given, floor=-1.0)
    chunks = [hits[0].chunk for hits in others.values() if hits[0].chunk.category != "repository"][:_OFFERED]
    listed = "".join(
        f"\n- [{name_text(chunk.title, chunk.text)}]({chunk.link})"
        + (f" ({chunk.author})" if chunk.author else "")
        for chunk in chunks
    )
    return f"{said} {lead}\n{listed}" if listed else said


def _has_german(collection: Collection, authors: Sequence[str]) -> bool:
    try:
        cards = collection.read_cards()
    except StoreError:
        return True  # not known, so nothing is said of it
    return any(card.language == "de" and (not authors or card.author in authors) for card in cards)


def _say(german: bool, in_german: str, in_english: str) -> str:
    return in_german if german else in_english

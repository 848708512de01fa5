"""Read what a message means in its conversation: whether it goes on from the request before it, and how.

"And Ben's?", "shorter", "who wrote that?" say nothing alone. Each is made into a request that does, from the user's earlier
messages; what kind of follow-up it is was learned from ``samples/follow_ups.jsonl`` by ``./poe train-intent-router``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from llm_engineering.application.inference.briefs import extract_subject, restyle
from llm_engineering.application.inference.catalogue import Wording
from llm_engineering.application.inference.events import NO_OPTIONS, BriefOptions
from llm_engineering.application.inference.intents import load_router, route
from llm_engineering.application.inference.periods import read_period
from llm_engineering.application.inference.scope import find_names
from llm_engineering.application.inference.search import Facets, Field
from llm_engineering.application.ports import Message
from llm_engineering.domain.inference import Intent
from llm_engineering.domain.retrieval import Passage

WEIGHTS = Path(__file__).with_name("follow_ups.npz")
LONGEST = 12
"""Words of a follow-up; a longer message says all that it means."""


class Reference(StrEnum):
    """How a message goes on from the request before it. The router's columns stand in this order: changing it needs new
    weights (``./poe train-intent-router``)."""

    NEW = "new"
    """Not at all."""
    ASK = "ask"
    """A question on what was said: "Why?", "How large should it be?"."""
    RESTYLE = "restyle"
    """The last reply in another form: "shorter", "as a thread"."""
    SOURCE = "source"
    """Where the last reply comes from: "Who wrote that?"."""
    REPEAT = "repeat"
    """The last request with something else in it: "And Ben's?", "and in October?"."""
    NARROW = "narrow"
    """About what was listed: "Which of these is the newest?"."""


REFERENCES = tuple(Reference)


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A message in its conversation."""

    reference: Reference
    request: str
    """What is asked for, to be understood alone; of a ``RESTYLE`` or ``SOURCE`` the request that they are about."""
    history: tuple[Message, ...] = ()
    """The turns before that request."""
    options: BriefOptions = NO_OPTIONS
    """The form and length asked for since."""
    lays_out: bool = False
    """The message asks for another form or length, not only for another tone or language."""
    subject: str = ""
    """Of a ``RESTYLE``, what the request is about."""


def read_follow_up(message: str, history: Sequence[Message], known: Facets, now: datetime) -> FollowUp:
    """Read a message with the user's earlier ones.

    Args:
        history: earlier turns, oldest first.
        known: the authors, kinds, places and languages that can be named.
        now: what "last month" is counted from.
    """
    state = FollowUp(Reference.NEW, "")
    for place, turn in enumerate((*history, Message("user", message))):
        if turn.role == "user":
            state = _continue(state, turn.content, tuple(history[:place]), known, now)
    return state


def _continue(
    state: FollowUp, message: str, before: tuple[Message, ...], known: Facets, now: datetime
) -> FollowUp:
    if not state.request:
        return FollowUp(Reference.NEW, message, before)
    for reference in _rank_references(message):
        found = _read_as(reference, state, message, before, known, now)
        if found is not None:
            return found
    raise AssertionError("a message can always be read as a new one")


def _read_as(
    reference: Reference,
    state: FollowUp,
    message: str,
    before: tuple[Message, ...],
    known: Facets,
    now: datetime,
) -> FollowUp | None:
    """The message as such a follow-up; None where it cannot be one."""
    intent = route(state.request).intent
    match reference:
        case Reference.RESTYLE:
            options = restyle(state.options, state.request, message)
            return replace(
                state,
                reference=reference,
                options=options,
                lays_out=options != state.options,
                subject=extract_subject(state.request, tuple(known.author)),
            )
        case Reference.SOURCE if intent is not Intent.CATALOGUE:
            return None if intent is Intent.CONVERSE else replace(state, reference=reference)
        case Reference.NARROW | Reference.SOURCE if intent is Intent.CATALOGUE:  # "who wrote these?"
            narrowed = _swap(message, state.request, known, now, keep=True)
            return FollowUp(Reference.NARROW, narrowed, before)
        case Reference.REPEAT:
            swapped = _swap(state.request, message, known, now)
            if swapped == state.request and intent is not Intent.ANSWER:
                swapped = _swap_subject(state.request, message, known)
            return FollowUp(reference, swapped, before) if swapped != state.request else None
        case Reference.NEW:
            return FollowUp(reference, _name_subject(message, state, before, known), before)
        case _:  # where nothing was listed, "which of these" too is a question on what was said
            return FollowUp(Reference.ASK, message, before)


def _rank_references(message: str) -> list[Reference]:
    """What the message may be, the likeliest first."""
    if len(message.split()) > LONGEST:
        return [Reference.NEW]
    scores = load_router(WEIGHTS).compute_scores(message)
    return [REFERENCES[int(place)] for place in scores.argsort()[::-1]]


# --- the same request with something else in it ------------------------------------------------------------------------

_BEFORE: Mapping[Field, str] = {"author": "by", "platform": "on", "language": "in", "category": ""}
_LEAD = frozenset(
    "a about also and auch aus bei but das dasselbe do es for für gleiche how i ich instead ist it jetzt likewise mach meant "
    "meinte mit nein no now nun oder on or please bitte same sieht so sorry that the thing to too und was what wie with zu "
    "zum zur".split()
)
"""Words around what a message names: "what about … instead?"."""


def _swap(request: str, other: str, known: Facets, now: datetime, *, keep: bool = False) -> str:
    """The request with the names and dates of another one in place of its own.

    Args:
        keep: where the request names something itself, that stays.
    """
    given = find_names(other, known)
    for field in dict.fromkeys(name.field for name in given):
        words = " and ".join(other[name.start : name.end] for name in given if name.field == field)
        old = [name for name in find_names(request, known) if name.field == field]
        if old and not keep:
            request = request[: old[0].start] + words + request[old[0].end :]
        elif not old:
            request = " ".join(f"{request.rstrip(' .?!')} {_BEFORE[field]} {words}".split())
    period, own = read_period(other, now), read_period(request, now)
    if period and not (own and keep):
        for start, end in sorted(own.spans if own else (), reverse=True):
            request = request[:start] + request[end:]
        words = " ".join(other[start:end] for start, end in period.spans)
        request = f"{' '.join(request.split()).rstrip(' .?!')} {words}"
    if keep and (subject := extract_subject(other, tuple(known.author))) and "about" in other:
        request = f"{request} about {subject}"
    return request


def _swap_subject(request: str, message: str, known: Facets) -> str:
    """The request about what the message names: "and about LoRA?"."""
    topic, subject = _strip_lead(message), extract_subject(request, tuple(known.author))
    if topic and subject and subject in request:
        return request.replace(subject, topic)
    return f"{request.rstrip(' .?!')} about {topic}" if topic else request


def _strip_lead(message: str) -> str:
    words = message.strip(" .,;:?!").split()
    while words and words[0].strip(",").casefold() in _LEAD:
        words = words[1:]
    while words and words[-1].casefold() in _LEAD:
        words = words[:-1]
    return " ".join(words)


# --- what "it" is ------------------------------------------------------------------------------------------------------

_POINTERS = frozenset(
    "above article beide beiden beides both darüber davon dazu den der die diese diesen dieses das dies dritten ersten es first "
    "for it last letzten one second text that the them these third this those topic thema up zweiten".split()
)
_PLACES = {
    "first": 0, "ersten": 0, "second": 1, "zweiten": 1, "third": 2, "dritten": 2, "last": -1, "letzten": -1,
}  # fmt: skip
_TITLE = re.compile(r"\[([^\[\]]{2,200})\]\(")


def _name_subject(message: str, state: FollowUp, before: Sequence[Message], known: Facets) -> str:
    """The message with what "it" or "the second one" stands for in its place."""
    if route(message).intent not in (Intent.WRITE, Intent.SUMMARISE, Intent.COMPARE) or not state.request:
        return message
    subject = extract_subject(message, tuple(known.author))
    if not set(re.findall(r"\w+", subject.casefold())) <= _POINTERS:
        return message
    places = [_PLACES[word] for word in re.findall(r"\w+", message.casefold()) if word in _PLACES]
    reply = next((turn.content for turn in reversed(before) if turn.role == "assistant"), "")
    titles = _TITLE.findall(reply)
    listed = titles and (places or route(state.request).intent is Intent.CATALOGUE)
    if listed:
        place = places[0] if places else 0
        meant = titles[place] if place < len(titles) else titles[-1]
    else:
        meant = extract_subject(state.request, tuple(known.author))
    if not meant:
        return message
    head, found, tail = message.rpartition(subject) if subject else (message, "", "")
    return f"{head}{meant}{tail}" if found else f"{message.rstrip(' .?!')} about {meant}"


# --- where the last reply comes from -----------------------------------------------------------------------------------

_CITED = re.compile(r"\[(\d{1,2})\]")
_MOST_SOURCES = 5


def describe_sources(question: str, reply: str, passages: Sequence[Passage]) -> str:
    """Say which texts the last reply comes from, whose they are and when they were published.

    Args:
        reply: its citations tell which of the passages it used; without any, the first few are named.
        passages: those that the reply was made from, in their order.
    """
    german = Wording.choose_for(question).german
    cited = dict.fromkeys(int(number) for number in _CITED.findall(reply))
    used = [passages[number - 1] for number in cited if 0 < number <= len(passages)] or passages
    documents = list({passage.document_id: passage for passage in reversed(used)}.values())[::-1]
    if not documents:
        return (
            "Meine letzte Antwort stützt sich auf keinen Text."
            if german
            else "My last reply rests on no text."
        )
    lines = []
    for passage in documents[:_MOST_SOURCES]:
        date = f"{passage.published_at:%Y-%m-%d}" if passage.published_at else ""
        told = [part for part in (passage.author, date) if part]
        lines.append(f"- [{passage.title or passage.link}]({passage.link}) · {' · '.join(told)}")
    return "\n".join(["Das steht in:" if german else "That is from:", "", *lines])

"""Questions with what answers them, as JSON Lines; relevance is a span of a document, so re-chunking keeps it valid.

One object a line::

    {"id": "overlap-why", "question": "Why …?", "relevant": [{"link": "articles/chunking.html", "quote": "…"}]}

A document is named by its id, or by its link: the whole link, or the end of its path where that names one document only
(a site may be served under another address tomorrow). The place in it is a quote, found again whatever the spacing, or
offsets into the cleaned text; neither: the whole document.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator

from llm_engineering.application.files import atomic_write
from llm_engineering.application.ports import CleanStore
from llm_engineering.application.text.overlap import find_quote
from llm_engineering.domain.documents import CleanDocument, Model, Span, derive_id
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import MetadataFilter

LOOKED_UP_AT_ONCE = 256
SHOWN = 20
"""Problems of a file that an error lists; the rest is counted."""

_SPACE = re.compile(r"\s+")


class Relevant(Model):
    """A place that answers a question."""

    document_id: str | None = None
    link: str | None = None
    """The document's link, or the end of its path."""
    quote: str | None = Field(default=None, min_length=1)
    """The answering words as they stand in the cleaned text, but for white space."""
    start: int | None = Field(default=None, ge=0)
    end: int | None = Field(default=None, ge=1)
    """Offsets into the cleaned text, in characters, the end exclusive."""
    grade: int = Field(default=1, ge=1)
    """How relevant it is, for nDCG."""

    @model_validator(mode="after")
    def _place(self) -> "Relevant":
        if (self.document_id is None) == (self.link is None):
            raise ValueError("name the document by 'document_id' or by 'link', one of them")
        if (self.start is None) != (self.end is None):
            raise ValueError("'start' and 'end' go together")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(f"'start' ({self.start}) must lie before 'end' ({self.end})")
        return self


class Question(Model):
    """A question of the evaluation set."""

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    relevant: tuple[Relevant, ...] = ()
    answerable: bool = True
    kind: str = "fact"
    """What sort of question it is, for the breakdown: ``fact``, ``heading``, ``definition``, ``same_trade`` …"""
    source: Literal["rule", "hand", "model"] = "hand"
    language: str = "en"
    filter: MetadataFilter | None = None
    """The filter that self-query should find in it; None: not said."""
    reference: str | None = None
    """A right answer, for judges that compare with one; None: the quotes stand for it."""

    @model_validator(mode="after")
    def _consistent(self) -> "Question":
        if self.answerable and not self.relevant:
            raise ValueError("an answerable question needs 'relevant'; else set 'answerable' to false")
        if not self.answerable and self.relevant:
            raise ValueError("what cannot be answered has nothing 'relevant'")
        return self

    @property
    def right_answer(self) -> str:
        """A right answer, or the words that hold it."""
        return self.reference or " ".join(place.quote for place in self.relevant if place.quote)


def question_id(question: str, source: str) -> str:
    """Return a stable id of a made question: of its words alone, so that making the set again keeps what was learned of
    it."""
    return f"{source}-{derive_id('question', question.casefold())[:8]}"


@dataclass(frozen=True, slots=True)
class Target:
    """A relevant place in terms of the corpus; ``span`` None: the whole document."""

    document_id: str
    span: Span | None
    grade: int = 1


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question whose places were found in the corpus."""

    question: Question
    targets: tuple[Target, ...] = ()

    @property
    def cluster(self) -> str:
        """The document it is about: questions on one document are no independent observations."""
        return self.targets[0].document_id if self.targets else f"question:{self.question.id}"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Questions in terms of the corpus."""

    questions: tuple[Labelled, ...]
    stale: Mapping[str, str]
    """Question ids left out, with the reason: their document is gone, or the quote no longer stands in it."""


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a JSON Lines file, in its order; blank lines are skipped.

    Raises:
        InvalidInputError: the file cannot be read, a line is not a question, or two have one id. All problems are
            listed with their line numbers.
    """
    questions: list[Question] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"The questions {path} cannot be read ({error}). Expected JSON Lines."
        ) from None
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            question = Question.model_validate_json(line)
        except ValidationError as error:
            problems += [f"line {number}: {_explained(item)}" for item in error.errors(include_url=False)]
            continue
        if question.id in lines:
            problems.append(
                f"line {number}: the id '{question.id}' stands in line {lines[question.id]} already"
            )
        lines[question.id] = number
        questions.append(question)
    if problems:
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listing = "\n".join(f"  - {problem}" for problem in problems[:SHOWN])
        raise InvalidInputError(f"{path} has {len(problems)} problem(s):\n{listing}{more}")
    return questions


def _explained(error: Mapping[str, object]) -> str:
    where = ".".join(str(part) for part in error["loc"]) if isinstance(error["loc"], tuple) else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as JSON Lines, fields at their default left out; the file is replaced in one go."""
    lines = [
        json.dumps(question.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
        for question in questions
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(f"{line}\n" for line in lines))


def merge_questions(hand: Sequence[Question], made: Sequence[Question]) -> list[Question]:
    """Return both sets; what was written by hand wins over what was made with the same id or the same words."""
    ids = {question.id for question in hand}
    words = {_folded(question.question).casefold() for question in hand}
    return [
        *hand,
        *(q for q in made if q.id not in ids and _folded(q.question).casefold() not in words),
    ]


def resolve(questions: Sequence[Question], store: CleanStore) -> Resolved:
    """Find each question's places in the corpus.

    The store is read in one pass for links and then only for the documents that are named.

    Raises:
        InvalidInputError: a link names several documents.
        StoreError: the store cannot be read.
    """
    named = {place.link for question in questions for place in question.relevant if place.link is not None}
    by_link = _documents_by_link(named, store)
    wanted = {place.document_id for question in questions for place in question.relevant if place.document_id}
    documents: dict[str, CleanDocument] = {}
    ids = sorted(wanted | set(by_link.values()))
    for start in range(0, len(ids), LOOKED_UP_AT_ONCE):
        documents |= {found.id: found for found in store.get(ids[start : start + LOOKED_UP_AT_ONCE])}
    kept: list[Labelled] = []
    stale: dict[str, str] = {}
    for question in questions:
        try:
            targets = tuple(_target(place, by_link, documents) for place in question.relevant)
        except LookupError as error:
            stale[question.id] = str(error.args[0])
            continue
        kept.append(Labelled(question, targets))
    return Resolved(tuple(kept), stale)


def _documents_by_link(named: set[str], store: CleanStore) -> dict[str, str]:
    if not named:
        return {}
    endings: dict[str, list[str]] = {}
    for name in named:
        endings.setdefault(name.rstrip("/").rpartition("/")[2], []).append(name)
    found: dict[str, dict[str, str]] = {}
    for document in store.stream():
        for name in _candidates(document.link, endings):
            if _names(name, document.link):
                found.setdefault(name, {})[document.id] = document.link
    ambiguous = {name: sorted(links.values()) for name, links in found.items() if len(links) > 1}
    if ambiguous:
        listing = "; ".join(f"'{name}': {', '.join(links)}" for name, links in sorted(ambiguous.items()))
        raise InvalidInputError(
            f"A link of the questions names several documents: {listing}. Write more of it."
        )
    return {name: next(iter(links)) for name, links in found.items()}


def _candidates(link: str, endings: Mapping[str, Sequence[str]]) -> Sequence[str]:
    return endings.get(link.rstrip("/").rpartition("/")[2], ())


def _names(name: str, link: str) -> bool:
    if name == link:
        return True
    parts = urlsplit(link)
    path = f"{parts.path}#{parts.fragment}" if parts.fragment else parts.path
    return path.rstrip("/").endswith("/" + name.strip("/"))


def _target(place: Relevant, by_link: Mapping[str, str], documents: Mapping[str, CleanDocument]) -> Target:
    identifier = place.document_id or by_link.get(place.link or "")
    document = documents.get(identifier or "")
    if document is None:
        raise LookupError(f"there is no document '{place.document_id or place.link}'")
    return Target(document.id, _span(place, document.text, document.link), place.grade)


def _span(place: Relevant, text: str, link: str) -> Span | None:
    if place.start is not None and place.end is not None:
        there = text[place.start : place.end]
        if place.end <= len(text) and (place.quote is None or _folded(there) == _folded(place.quote)):
            return Span(start=place.start, end=place.end)
        if place.quote is None:
            raise LookupError(
                f"'{link}' has {len(text):,} characters; the offsets end at {place.end:,}. Give a quote, which moves along"
            )
    if place.quote is None:
        return None
    found = find_quote(text, place.quote)
    if found is None:
        raise LookupError(f"the quote no longer stands in '{link}': {place.quote[:60]!r}")
    return found


def _folded(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def count_kinds(questions: Iterable[Question]) -> Iterator[tuple[str, int]]:
    """Yield how many questions there are of each kind, the most frequent first."""
    counts: dict[str, int] = {}
    for question in questions:
        counts[question.kind] = counts.get(question.kind, 0) + 1
    yield from sorted(counts.items(), key=lambda item: (-item[1], item[0]))

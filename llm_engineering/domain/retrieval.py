"""Questions, filters, hits and answers."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field, field_validator, model_validator

from llm_engineering.domain.categories import find_facet
from llm_engineering.domain.documents import Chunk, Model, Span, UtcDatetime
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.facets import FacetKind, MetadataValue, Scalar
from llm_engineering.domain.voices import VoiceScore

MAX_QUESTION_CHARACTERS = 4_000
MAX_HITS = 1_000
"""The most hits that a search can be asked for; a service grants fewer."""


GIVEN_TEXT = "given"
"""Document id of a passage that the caller gave, to have it rewritten."""


class SearchMode(StrEnum):
    DENSE = "dense"
    SPARSE = "sparse"
    HYBRID = "hybrid"


class RrfFusion(Model):
    """Reciprocal rank fusion, ``score = Σ 1 / (k + rank)`` (Cormack, Clarke & Büttcher, SIGIR 2009)."""

    kind: Literal["rrf"] = "rrf"
    k: int = Field(default=60, ge=1)


class WeightedFusion(Model):
    """``alpha · dense + (1 − alpha) · sparse`` over scores scaled to [0, 1] within each list."""

    kind: Literal["weighted"] = "weighted"
    alpha: float = Field(default=0.5, ge=0, le=1)


Fusion = Annotated[RrfFusion | WeightedFusion, Field(discriminator="kind")]


def _sorted_unique(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({value.strip() for value in values if value.strip()}))


Values = Annotated[tuple[str, ...], AfterValidator(_sorted_unique)]


class Condition(Model):
    """What is wanted of one facet: any of some values, or a range with both ends in it.

    Raises:
        ValueError: there is no such facet, or its kind does not fit; the message lists what exists.
    """

    field: str
    any_of: tuple[Scalar, ...] = ()
    gte: int | float | str | None = None
    """The least value; ISO 8601 for points in time."""
    lte: int | float | str | None = None
    """The greatest value."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(given.get("field"), str):
            return given
        facet = find_facet(given["field"])
        read = dict(given)
        values = given.get("any_of") or ()
        if facet.kind is FacetKind.FLOAT and values:
            raise ValueError(f"{facet.name} is a number with decimals: use gte and lte, not any_of")
        if isinstance(values, list | tuple):
            read["any_of"] = tuple(dict.fromkeys(facet.read_key(value) for value in values))
        for end in ("gte", "lte"):
            if given.get(end) is not None:
                read[end] = facet.read_end(given[end])
        least, greatest = read.get("gte"), read.get("lte")
        if least is None and greatest is None and not read.get("any_of"):
            raise ValueError(f"the condition on {facet.name} asks for nothing: give any_of, gte or lte")
        if least is not None and greatest is not None and least > greatest:
            raise ValueError(f"{facet.name}: gte ({least}) lies above lte ({greatest})")
        return read

    def __str__(self) -> str:
        """Return the condition as a person writes it: ``genre = crime or drama``, ``year from 1990 to 1999``."""
        if self.any_of:
            return f"{self.field} = {' or '.join(map(str, self.any_of))}"
        ends = [f"{word} {end}" for word, end in (("from", self.gte), ("to", self.lte)) if end is not None]
        return " ".join((self.field, *ends))

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether a record with this metadata is wanted; one without the field is not."""
        if self.field not in metadata:
            return False
        keys: tuple[Any, ...] = find_facet(self.field).list_keys(metadata[self.field])
        return any(
            (not self.any_of or key in self.any_of)
            and (self.gte is None or key >= self.gte)
            and (self.lte is None or key <= self.lte)
            for key in keys
        )


class Filterable(Protocol):
    """What a filter looks at: a chunk, or what a catalogue says of a document."""

    @property
    def document_id(self) -> str: ...
    @property
    def author(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def published_at(self) -> datetime | None: ...
    @property
    def metadata(self) -> Mapping[str, MetadataValue]: ...


class MetadataFilter(Model):
    """Restricts a search. Values of one field are alternatives; fields are combined with *and*; empty means no limit."""

    authors: Values = ()
    categories: Values = ()
    platforms: Values = ()
    languages: Values = ()
    document_ids: Values = ()
    published_from: UtcDatetime | None = None
    published_to: UtcDatetime | None = None
    facets: tuple[Condition, ...] = ()
    """Conditions on records' own fields, all of which must hold."""

    @model_validator(mode="after")
    def _ordered(self) -> "MetadataFilter":
        start, end = self.published_from, self.published_to
        if start and end and start > end:
            raise ValueError(f"published_from ({start:%Y-%m-%d}) lies after published_to ({end:%Y-%m-%d})")
        return self

    def accepts(self, item: Filterable) -> bool:
        """Return the filter's meaning, in one place; every index must agree with it (the conformance suite checks)."""
        published = item.published_at
        return (
            (not self.authors or item.author in self.authors)
            and (not self.categories or item.category in self.categories)
            and (not self.platforms or item.platform in self.platforms)
            and (not self.languages or item.language in self.languages)
            and (not self.document_ids or item.document_id in self.document_ids)
            and (self.published_from is None or (published is not None and published >= self.published_from))
            and (self.published_to is None or (published is not None and published <= self.published_to))
            and all(condition.accepts(item.metadata) for condition in self.facets)
        )


class Sort(Model):
    """An order of what was found, by a facet.

    Raises:
        ValueError: there is no such facet, or records have several values of it.
    """

    field: str
    descending: bool = False

    @field_validator("field")
    @classmethod
    def _sortable(cls, name: str) -> str:
        if find_facet(name).many:
            raise ValueError(f"a record has several values of '{name}', which give no order")
        return name


class Query(Model):
    """A question with how to look for its answer.

    Raises:
        InvalidInputError: from :meth:`ask`, when the question is empty or too long.
    """

    text: str
    filter: MetadataFilter = MetadataFilter()
    k: int = Field(default=5, ge=1, le=MAX_HITS)
    mode: SearchMode = SearchMode.HYBRID
    fusion: Fusion = RrfFusion()
    sort: Sort | None = None
    """The ``k`` best, put in this order; None: the best first."""

    @classmethod
    def ask(cls, text: str, **fields: object) -> "Query":
        """Build a query from what a person typed, with errors that a person can act on."""
        cleaned = " ".join(text.replace("\x00", " ").split())
        if not cleaned:
            raise InvalidInputError("The question is empty. Write a question of at least one word.")
        if len(cleaned) > MAX_QUESTION_CHARACTERS:
            raise InvalidInputError(
                f"The question has {len(cleaned):,} characters; at most {MAX_QUESTION_CHARACTERS:,} are allowed. "
                "Ask for one thing, and put long material into the collection instead."
            )
        return cls(text=cleaned, **fields)


class Hit(Model):
    """A chunk that was found. ``score`` is comparable within one result list only; higher is better."""

    chunk: Chunk
    score: float
    dense_score: float | None = None
    """Cosine similarity to the question, where the search was asked for it."""


class Passage(Model):
    """The wider text around one or more hits, stitched from neighbouring chunks, in the document's own words."""

    document_id: str
    span: Span
    text: str
    title: str
    link: str
    author: str
    platform: str
    category: str = ""
    published_at: datetime | None = None
    headings: tuple[str, ...] = ()
    score: float
    dense_score: float | None = None


class Citation(Model):
    """A numbered source of an answer, as the reader sees it."""

    number: int = Field(ge=1)
    passage: Passage


class Usage(Model):
    """What a generation cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    """US dollars at the configured prices; None where no price is configured."""

    def __add__(self, other: "Usage") -> "Usage":
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=sum(costs) if costs else None,
        )


class Verdict(StrEnum):
    """How far the sources back a sentence."""

    SUPPORTED = "supported"
    PARTIAL = "partial"
    UNSUPPORTED = "unsupported"


class Support(Model):
    """One sentence of an answer, with the span of a source that backs it best.

    All offsets count characters (Unicode code points), the end exclusive.
    """

    span: Span
    """Where the sentence stands in ``Answer.text``, its citations included."""
    verdict: Verdict
    source: int | None = None
    """Number of the source that backs it best; None where none comes near."""
    source_span: Span | None = None
    """Where the backing text stands in that source's ``passage.text``."""
    document_span: Span | None = None
    """The same text's place in the whole cleaned document."""
    lexical: float = Field(default=0.0, ge=0, le=1)
    """Share of the sentence's content words that stand in the backing text."""
    similarity: float | None = None
    """Cosine similarity of the sentence to the backing text, where it was computed."""
    cited: tuple[int, ...] = ()
    """Sources that the sentence cites, checked; empty: a claim that cites nothing."""


FinishReason = Literal["stop", "length"]


class Answer(Model):
    """A finished answer with the sources it was given."""

    question: str
    text: str
    citations: tuple[Citation, ...] = ()
    cited: tuple[int, ...] = ()
    """Numbers that the text really cites, checked against ``citations``."""
    supports: tuple[Support, ...] = ()
    """A verdict for each sentence, in the order of the text; empty where the answer abstained."""
    abstained: bool = False
    quoted: bool = False
    """The text is quotations, because nothing that the model said could be shown."""
    unsupported: int = 0
    """Sentences of the model that no source backs: left out, or shown without a citation; see ``Grounding``."""
    finish_reason: FinishReason = "stop"
    """``length``: cut at the token limit."""
    voice: VoiceScore | None = None
    """Of a draft: how much it sounds like its author. None: no draft, or too little is known of the author."""
    guard: tuple[str, ...] = ()
    """What the output guard did: ``truncated``, ``repeated``, ``personal_data``, ``empty``."""
    model: str = ""
    prompt_hash: str = ""
    usage: Usage = Usage()

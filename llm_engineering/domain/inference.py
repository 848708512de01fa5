"""A request's way through the inference pipeline: what it was made with, what it cost, and what people said of it."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from llm_engineering.domain.documents import Model, UtcDatetime
from llm_engineering.domain.retrieval import Answer, Fusion, Hit, MetadataFilter, SearchMode

Grounding = Literal["extractive", "quote", "annotate"]
"""How answers are held to their sources.

``extractive``: the best part of a source is quoted; no model is asked.
``quote``: it is quoted, and below it stand the model's sentences that hold against it.
``annotate``: the model's text is shown as it comes, each sentence with a verdict; what no source backs has no citation and is
counted.
"""


class LlmProfile(Model):
    """How a language model is asked so that it answers best."""

    grounding: Grounding = "annotate"
    template: str | None = None
    """Prompt for answers; None: ``answer``."""
    passages: int | None = Field(default=None, ge=1)
    """Passages that it is given at once; None: as many as fit."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of an answer, at most; None: 512."""
    leave_out_unsupported: bool = False
    """Whether sentences that state what no source backs are left out, rather than shown and marked: for models that invent."""
    rewrites: bool = False
    """Whether a model that does not answer in its own words is still trusted to rewrite a given text."""
    memory_gb: float = 0.0
    """Memory that the machine must have."""


class Intent(StrEnum):
    """What a message asks for, and so how it is answered."""

    ANSWER = "answer"
    """A question that is answered from the texts."""
    WRITE = "write"
    """A new text in an author's voice, or a given one in another form."""
    SUMMARISE = "summarise"
    """What was written on a subject, in short."""
    COMPARE = "compare"
    """What authors say on a subject, side by side."""
    CATALOGUE = "catalogue"
    """Lists, counts and dates: facts about the collection, not from the texts."""
    CONVERSE = "converse"
    """A greeting, thanks, or a question about the twin itself."""


class StageStatus(StrEnum):
    """How a stage of the pipeline ended."""

    OK = "ok"
    OFF = "off"
    """Switched off, or not needed by this request."""
    FAILED = "failed"
    """It failed and the request went on without it."""


class ResponseProvenance(Model):
    """What a response was made with, in band, so that nothing falls back silently."""

    intent: Intent = Intent.ANSWER
    """What the message was taken to ask for, unless the caller said."""
    mode: SearchMode
    """The search mode really used: ``sparse`` where embedding the question failed."""
    fusion: Fusion
    reranker: str | None = None
    embedder: str = ""
    model: str | None = None
    prompt_hash: str | None = None
    filter: MetadataFilter = MetadataFilter()
    """The filter really used, self-query included."""
    queries: tuple[str, ...] = ()
    """All texts that were searched for, the question first."""
    guard_status: StageStatus = StageStatus.OK
    self_query_status: StageStatus = StageStatus.OFF
    expansion_status: StageStatus = StageStatus.OFF
    dense_status: StageStatus = StageStatus.OK
    rerank_status: StageStatus = StageStatus.OFF
    compression_status: StageStatus = StageStatus.OFF
    support_status: StageStatus = StageStatus.OFF
    degradations: tuple[str, ...] = ()
    """One sentence for each stage that failed, fit to be shown to the caller."""
    notes: tuple[str, ...] = ()
    """What the input guard noted: ``invisible_characters_removed``, ``personal_data_masked``, ``history_cut``"""

    @property
    def degraded(self) -> bool:
        return bool(self.degradations)


class SearchResult(Model):
    """What a search found."""

    trace_id: str
    hits: tuple[Hit, ...]
    provenance: ResponseProvenance
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds by stage, with ``total``."""


class RagResult(Model):
    """A finished answer, with all there is to know about how it came about."""

    trace_id: str
    answer: Answer
    provenance: ResponseProvenance
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds by stage, with ``total`` and ``first_token`` (from the request to the first text shown)."""
    draft_id: str | None = None
    """Under which a draft is kept for editing; None: this is no draft, or it could not be kept."""


class Interaction(Model):
    """A question and its answer as kept for feedback, and later for preference data."""

    trace_id: str
    question: str
    answer: str
    abstained: bool = False
    sources: tuple[str, ...] = ()
    """Document ids of the citations, in order."""
    model: str = ""
    prompt_hash: str = ""
    created_at: UtcDatetime


class Subject(Model):
    """What a person speaks of."""

    kind: Literal["answer", "analysis", "summary"]
    id: str = Field(min_length=1, max_length=64)
    """An answer's trace id, an analysis's id, or a summary's version: what is said of one version is not said of the next."""


class Feedback(Model):
    """What a person said of an answer, an analysis or a summary of reviews. A second vote on the same subject, by the same
    voter, replaces the first. An answer has one voter, the others any number."""

    subject: Subject
    rating: Literal["up", "down"] | None = None
    comment: str = Field(default="", max_length=2_000)
    correction: dict[str, str | float | tuple[str, ...]] | None = None
    """Of an analysis: field → what is right. It becomes a label."""
    task: str = ""
    """Of a correction: the analysis's, kept here since a result goes when its record changes, or its head. Of a vote on a
    summary: ``review_summary``."""
    document_ids: tuple[str, ...] = ()
    """Of a correction: what it was about. Of a vote on a summary: the id that all its versions share."""
    voter: str = ""
    """Name of the API key that gave the vote; empty: none was needed. Of a vote on a summary: a hash of that and of whom the
    caller says it is from."""
    created_at: UtcDatetime

    @model_validator(mode="before")
    @classmethod
    def _read_trace_id(cls, values: Any) -> Any:
        # What was kept before there were other subjects is about an answer.
        if isinstance(values, Mapping) and "trace_id" in values:
            rest = {name: value for name, value in values.items() if name != "trace_id"}
            return {"subject": {"kind": "answer", "id": values["trace_id"]}, **rest}
        return values

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rating is None and not self.correction:
            raise ValueError("a vote needs a `rating` or a `correction`")
        if self.correction and self.subject.kind != "analysis":
            raise ValueError("only an analysis can be corrected")
        return self

    @property
    def trace_id(self) -> str:
        """Of the answer; an analysis has its id there."""
        return self.subject.id


def make_interaction(result: RagResult, at: datetime) -> Interaction:
    """What is kept of a finished answer."""
    answer = result.answer
    return Interaction(
        trace_id=result.trace_id,
        question=answer.question,
        answer=answer.text,
        abstained=answer.abstained,
        sources=tuple(citation.passage.document_id for citation in answer.citations),
        model=answer.model,
        prompt_hash=answer.prompt_hash,
        created_at=at,
    )

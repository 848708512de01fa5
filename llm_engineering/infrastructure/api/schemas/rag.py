"""What the routes take and give. One set of search options, with one filter, stands behind all of them.

Requests are read as strict JSON: a number is no string, a field that is not known is refused, everything has a bound.
Responses are the domain's own values.
"""

import re
from datetime import UTC, datetime, time
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from llm_engineering.application.inference.pipeline import RagRequest
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.application.ports import Message
from llm_engineering.domain.facets import FacetKind
from llm_engineering.domain.inference import Intent, ResponseProvenance
from llm_engineering.domain.retrieval import (
    MAX_QUESTION_CHARACTERS,
    Citation,
    Condition,
    Fusion,
    MetadataFilter,
    Query,
    RrfFusion,
    SearchMode,
    Sort,
    WeightedFusion,
)

MAX_K: Final = 100
MAX_FILTER_VALUES: Final = 100
MAX_VALUE_CHARACTERS: Final = 300
MAX_TURNS: Final = 100
MAX_CONDITIONS: Final = 20
MAX_TURN_CHARACTERS: Final = 16_000
MAX_TOKENS: Final = 32_768
MAX_SEED: Final = 2**32 - 1
MAX_COMMENT_CHARACTERS: Final = 2_000
TRACE_ID: Final = r"^[A-Za-z0-9_-]{1,64}$"


class Request(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- the filter and the search options that all routes share ----------------------------------------------------------


def _not_blank(value: str) -> str:
    # Such a value would be dropped, and the search silently be as wide as without it.
    if not value.strip():
        raise ValueError("must hold more than blank space")
    return value


_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:?\d{2})?)?", re.ASCII
)
_EXPECTED = "expected an ISO 8601 date or date-time, like 2026-01-31 or 2026-01-31T09:00:00Z"


def _moment(value: object, *, last: bool) -> datetime:
    """A point in time from what callers write. ``last``: a date alone means its last moment, not its first."""
    if not isinstance(value, str) or not _ISO.fullmatch(value):
        raise ValueError(_EXPECTED)
    try:
        found = datetime.fromisoformat(value.upper())
        if len(value) == len("2026-01-31") and last:
            found = datetime.combine(found, time.max)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # 31 February; the year 1 east of Greenwich
        raise ValueError(_EXPECTED) from None


_MOMENT_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]
}
Value = Annotated[
    str, Field(min_length=1, max_length=MAX_VALUE_CHARACTERS, pattern=r"\S"), AfterValidator(_not_blank)
]
# fail_fast: a body of a hundred thousand mistakes must not be judged one by one, which would hold up the others.
Values = Annotated[tuple[Value, ...], Field(fail_fast=True, max_length=MAX_FILTER_VALUES)]
From = Annotated[
    datetime, BeforeValidator(lambda value: _moment(value, last=False)), WithJsonSchema(_MOMENT_SCHEMA)
]
To = Annotated[
    datetime, BeforeValidator(lambda value: _moment(value, last=True)), WithJsonSchema(_MOMENT_SCHEMA)
]


_WITHIN = Field(ge=-(2**53), le=2**53)
Number = Annotated[StrictInt, _WITHIN] | Annotated[StrictFloat, _WITHIN]
End = Number | Value


def _check_meaning(model: type[BaseModel], given: BaseModel) -> None:
    """Raise ValueError where the domain refuses what was sent; its messages list what there is."""
    try:
        model.model_validate(given.model_dump())
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None


class FacetCondition(Request):
    """What records must hold in one of their own fields: any of some values, or a range with both ends in it.

    ``GET /filters`` lists the fields with their values and ranges.
    """

    field: Value
    any_of: Annotated[
        tuple[StrictBool | Number | Value, ...], Field(fail_fast=True, max_length=MAX_FILTER_VALUES)
    ] = ()
    gte: End | None = None
    lte: End | None = None

    @model_validator(mode="after")
    def _meant(self) -> "FacetCondition":
        _check_meaning(Condition, self)
        return self


class SortOrder(Request):
    """The order of what was found, by a field of records. What is found stays the same."""

    field: Value
    descending: bool = False

    @model_validator(mode="after")
    def _meant(self) -> "SortOrder":
        _check_meaning(Sort, self)
        return self


class Filter(Request):
    """Restricts the search. Values of one field are alternatives; fields are combined with *and*; empty means no limit.

    The fields are those of the domain's ``MetadataFilter``; what is added here are bounds. ``GET /filters`` tells the values
    that exist. A date alone counts whole, from its first to its last moment, in UTC.
    """

    authors: Values = ()
    categories: Values = ()
    platforms: Values = ()
    languages: Values = ()
    document_ids: Values = ()
    published_from: From | None = None
    published_to: To | None = None
    facets: Annotated[tuple[FacetCondition, ...], Field(fail_fast=True, max_length=MAX_CONDITIONS)] = ()

    @model_validator(mode="after")
    def _ordered(self) -> "Filter":
        self.to_domain()  # which refuses a range that ends before it starts
        return self

    def to_domain(self) -> MetadataFilter:
        """Return the filter as the domain knows it."""
        return MetadataFilter.model_validate(self.model_dump())


class Rrf(Request):
    """Reciprocal rank fusion: ``score = Σ 1 / (k + rank)``."""

    kind: Literal["rrf"]
    k: int = Field(default=60, ge=1, le=1_000)


class Weighted(Request):
    """``alpha · dense + (1 − alpha) · sparse`` over scores scaled to [0, 1]."""

    kind: Literal["weighted"]
    alpha: float = Field(default=0.5, ge=0, le=1)


class SearchOptions(Request):
    """How to search. What is left out is as the service is configured."""

    k: int | None = Field(default=None, ge=1, le=MAX_K, description="How many passages to find.")
    mode: SearchMode | None = None
    fusion: Annotated[Rrf | Weighted, Field(discriminator="kind")] | None = None
    filter: Filter | None = None
    sort: SortOrder | None = None

    def to_query(self, question: str, defaults: RetrievalConfig) -> Query:
        """Return the query for a question.

        Raises:
            InvalidInputError: the question is empty or too long.
        """
        fusion: Fusion = defaults.fusion
        if isinstance(self.fusion, Rrf):
            fusion = RrfFusion(k=self.fusion.k)
        elif isinstance(self.fusion, Weighted):
            fusion = WeightedFusion(alpha=self.fusion.alpha)
        return Query.ask(
            question,
            k=self.k or defaults.k,
            mode=self.mode or defaults.mode,
            fusion=fusion,
            filter=self.filter.to_domain() if self.filter else MetadataFilter(),
            sort=Sort.model_validate(self.sort.model_dump()) if self.sort else None,
        )


# --- requests ---------------------------------------------------------------------------------------------------------


class SearchBody(SearchOptions):
    """A search."""

    query: str = Field(min_length=1, max_length=2 * MAX_QUESTION_CHARACTERS, pattern=r"\S")


class Turn(Request):
    """An earlier turn of the conversation."""

    role: Literal["user", "assistant"]
    content: str = Field(max_length=MAX_TURN_CHARACTERS)


class Conversation(Request):
    """The conversation that a request stands in, and how the model is asked."""

    history: Annotated[tuple[Turn, ...], Field(fail_fast=True, max_length=MAX_TURNS)] = Field(
        default=(), description="Earlier turns, oldest first."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="Never more than configured."
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_VALUE_CHARACTERS,
        description="One of `models` of `GET /info`; the first, if not given.",
    )

    def list_turns(self) -> tuple[Message, ...]:
        """Return the earlier turns as the pipeline takes them."""
        return tuple(Message(turn.role, drop_nulls(turn.content)) for turn in self.history)


class RagBody(Conversation, SearchBody):
    """A question, with the conversation it stands in."""

    intent: Intent | None = Field(
        default=None,
        description="What is asked for: answer, write, summarise, compare, catalogue or converse; read from the question "
        "where it is not given.",
    )

    def request(self, defaults: RetrievalConfig) -> RagRequest:
        """Return the request as the pipeline takes it.

        Raises:
            InvalidInputError: the question is empty or too long.
        """
        return RagRequest(
            query=self.to_query(self.query, defaults),
            history=self.list_turns(),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            intent=self.intent,
            model=self.model,
        )


class SubjectBody(Request):
    """What a vote is about."""

    kind: Literal["answer", "analysis"]
    id: str = Field(max_length=64, pattern=TRACE_ID)


class FeedbackBody(Request):
    """A vote on an answer, by its trace id, or on an analysis, by its subject; that one can be corrected."""

    trace_id: str | None = Field(default=None, pattern=TRACE_ID, max_length=64)
    subject: SubjectBody | None = None
    rating: Literal["up", "down"] | None = None
    comment: str = Field(default="", max_length=MAX_COMMENT_CHARACTERS)
    correction: dict[str, str | float | list[str]] | None = Field(
        default=None, max_length=50, description="Field → what is right."
    )

    @model_validator(mode="after")
    def _is_about_one_thing(self) -> "FeedbackBody":
        if (self.trace_id is None) == (self.subject is None):
            raise ValueError("expected one of `trace_id` and `subject`")
        about_answer = self.subject is None or self.subject.kind == "answer"
        if about_answer and self.rating is None:
            raise ValueError("an answer needs a `rating`")
        if about_answer and self.correction is not None:
            raise ValueError("only an analysis can be corrected")
        if self.rating is None and not self.correction:
            raise ValueError("expected a `rating` or a `correction`")
        return self


def drop_nulls(text: str) -> str:
    """Return text without null characters, which end a text for some model servers."""
    return text.replace("\x00", " ")


# --- responses --------------------------------------------------------------------------------------------------------


class ErrorDetail(BaseModel):
    code: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """What went wrong, and what to do about it."""

    error: ErrorDetail


class FeedbackKept(BaseModel):
    """The vote as it was kept. A second one with the same key on the same subject replaces the first."""

    trace_id: str = Field(description="Of the answer, or the analysis's id.")
    rating: Literal["up", "down"] | None
    corrected: tuple[str, ...] = Field(
        default=(), description="Fields that were corrected; they become labels."
    )


class SourcesEvent(BaseModel):
    """The first event of a stream: what the answer will be made from."""

    trace_id: str
    citations: tuple[Citation, ...]
    provenance: ResponseProvenance
    draft_id: str | None = Field(
        default=None, description="Under which a draft will be kept, as far as it comes."
    )


class DeltaEvent(BaseModel):
    """Text to append. All of them together are ``answer.text``."""

    text: str


class FacetListing(BaseModel):
    """A field of records that can be filtered on and sorted by."""

    field: str
    label: str
    kind: FacetKind
    values: dict[str, int] | None = Field(
        default=None,
        description="Records of each value, the most first; null where there are too many to list.",
    )
    least: int | float | str | None = None
    greatest: int | float | str | None = None


class Filters(BaseModel):
    """What can be filtered on: each value with its number of chunks; of records' own fields, with that of records."""

    authors: dict[str, int]
    categories: dict[str, int]
    platforms: dict[str, int]
    languages: dict[str, int]
    facets: list[FacetListing] = []


class Defaults(BaseModel):
    """How is searched where a request does not say."""

    k: int
    mode: SearchMode
    fusion: Fusion


class Limits(BaseModel):
    """The bounds of requests."""

    question_characters: int = MAX_QUESTION_CHARACTERS
    k: int = MAX_K
    history_turns: int = MAX_TURNS
    turn_characters: int = MAX_TURN_CHARACTERS
    comment_characters: int = MAX_COMMENT_CHARACTERS


class Info(BaseModel):
    """What answers here."""

    name: str = Field(description="What the service is called as a model.")
    author: str | None = Field(default=None, description="Whose twin it is; null: nobody's in particular.")
    model: str
    models: tuple[str, ...] = Field(
        description="Those that a request may name; the first answers where it names none."
    )
    grounding: str
    reranker: str | None
    embedder: str
    version: str
    feedback: bool = Field(description="Votes on answers are taken.")
    drafts: bool = Field(description="Drafts are kept, and can be edited.")
    documents: bool = Field(description="This caller may add files to the collection.")
    reports: bool = Field(description="This caller may read the reports of evaluations and trainings.")
    keys_required: bool = Field(description="Requests need an API key.")
    defaults: Defaults
    limits: Limits = Limits()

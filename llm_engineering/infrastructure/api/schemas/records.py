"""What the routes of records take and give."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_engineering.application.inference.records import NOTHING_RELEVANT, FoundRecord, FoundRecords
from llm_engineering.domain.categories import hide_writer
from llm_engineering.domain.facets import MetadataValue
from llm_engineering.domain.inference import ResponseProvenance
from llm_engineering.domain.retrieval import (
    MAX_QUESTION_CHARACTERS,
    Condition,
    MetadataFilter,
    Query,
    Sort,
    Support,
)
from llm_engineering.infrastructure.api.schemas.rag import (
    MAX_CONDITIONS,
    MAX_FILTER_VALUES,
    End,
    FacetCondition,
    FacetListing,
    Number,
    Request,
    SortOrder,
    Value,
)

MAX_RECORDS: Final = 50
DEFAULT_RECORDS: Final = 5


class Wanted(Request):
    """A range of one field, both ends in it."""

    gte: End | None = None
    lte: End | None = None


Choice = Annotated[tuple[bool | Number | Value, ...], Field(fail_fast=True, max_length=MAX_FILTER_VALUES)]


class RecordSearchBody(Request):
    """A search among records."""

    query: str = Field(min_length=1, max_length=2 * MAX_QUESTION_CHARACTERS, pattern=r"\S")
    top_k: int = Field(default=DEFAULT_RECORDS, ge=1, le=MAX_RECORDS, description="How many records to find.")
    min_score: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Least cosine similarity of a record. What fits one embedding model says nothing about another. Left out: "
        "the best must reach what was measured on this collection, which the response tells.",
    )
    filters: dict[Value, Choice | Wanted] = Field(
        default={},
        max_length=MAX_CONDITIONS,
        description='By field: a list of values, or a range: {"genre": ["crime"], "year": {"gte": 1990, "lte": 1999}}. '
        "GET /filters lists the fields.",
    )
    sort: SortOrder | None = Field(
        default=None, description="Order of what was found; left out: the most similar first."
    )
    summary: bool = Field(default=True, description="Sum up what was found; no model is asked without.")
    facets: bool = Field(
        default=False, description="Count the fields' values among the records that the filters accept."
    )

    @model_validator(mode="after")
    def _meant(self) -> "RecordSearchBody":
        self.list_conditions()
        return self

    def list_conditions(self) -> tuple[Condition, ...]:
        """Return the filters as the domain knows them."""
        conditions = []
        for field, wanted in self.filters.items():
            ends = {} if isinstance(wanted, tuple) else wanted.model_dump()
            given = FacetCondition(field=field, any_of=wanted if isinstance(wanted, tuple) else (), **ends)
            conditions.append(Condition.model_validate(given.model_dump()))
        return tuple(conditions)

    def to_query(self) -> Query:
        """Return the query.

        Raises:
            InvalidInputError: the question is empty or too long.
        """
        return Query.ask(
            self.query,
            k=self.top_k,
            filter=MetadataFilter(facets=self.list_conditions()),
            sort=Sort.model_validate(self.sort.model_dump()) if self.sort else None,
        )


class RecordOut(BaseModel):
    """A whole record. Its own fields stand beside these."""

    model_config = ConfigDict(extra="allow")

    id: str
    title: str
    full_text: str
    similarity_score: float | None = Field(
        description="Cosine similarity; null where only words could be searched."
    )
    link: str
    language: str
    published_at: datetime | None = None
    metadata: dict[str, MetadataValue]

    @classmethod
    def from_found(cls, found: FoundRecord) -> "RecordOut":
        """Return a record as it is shown."""
        record = found.record
        return cls(
            id=record.id,
            title=record.title,
            full_text=record.text,
            similarity_score=None if found.similarity is None else round(found.similarity, 4),
            link=record.link,
            language=record.language,
            published_at=record.published_at,
            metadata=hide_writer(record.category, record.metadata),
        )


def describe_found(found: FoundRecords, collection: str, facets: list[FacetListing] | None) -> dict[str, Any]:
    """Return the response of a search: the records stand under the collection's name."""
    summary = found.summary
    nothing = NOTHING_RELEVANT.format(collection=collection)
    return {
        "query": found.question,
        collection: [RecordOut.from_found(one) for one in found.records],
        "summary": nothing if not found.records else "" if summary is None else summary.text,
        "citations": [
            {"number": citation.number, "id": citation.passage.document_id, "title": citation.passage.title}
            for citation in (summary.citations if summary else ())
        ],
        "supports": list(summary.supports) if summary else [],
        "min_score": None if found.min_score is None else round(found.min_score, 4),
        "facets": facets,
        "provenance": found.provenance,
    }


class RecordsFoundOut(BaseModel):
    """What was found; the records stand under the collection's name, as in ``movies``."""

    model_config = ConfigDict(extra="allow")

    query: str
    summary: str = Field(
        description="Each sentence of it is backed by a record; what no record backs is left out."
    )
    citations: list[dict[str, Any]] = Field(description="number in the summary → id and title of the record")
    supports: list[Support]
    min_score: float | None = Field(
        description="As asked for; else the similarity that the best had to reach; null where the question named fields."
    )
    facets: list[FacetListing] | None = None
    provenance: ResponseProvenance

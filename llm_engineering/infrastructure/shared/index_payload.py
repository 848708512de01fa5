"""How a chunk lies in an index: one flat record, the same in every adapter."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from llm_engineering.application.ports import MAX_KNOWN_VALUES, FacetValues, SearchRequest
from llm_engineering.domain.categories import FACETS
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, EmbedderFingerprint, text_hash
from llm_engineering.domain.errors import FingerprintMismatchError, InvalidInputError, StoreError
from llm_engineering.domain.facets import Facet
from llm_engineering.domain.hints import POE
from llm_engineering.domain.retrieval import MetadataFilter, SearchMode

FORMAT = f"3-{text_hash(json.dumps(sorted(facet.model_dump_json(exclude={'label', 'words'}) for facet in FACETS.values())))[:8]}"
"""The stored form (fields, word vectors), with a digest of the facets. An index of another form is rebuilt by the next writer,
from embeddings that are kept."""

KEYWORD_FIELDS = ("author", "category", "platform", "language", "document_id")
INTEGER_FIELDS = ("position",)
DATETIME_FIELDS = ("published_at",)
FACET_FIELD = "m"
"""Holds the facets of a record, each under its name."""

RECORD_FIELD = "chunk"
"""Holds the whole chunk as JSON text. Indexes convert payloads value by value, which for all of a chunk's fields takes
longer than computing its word vector; so only what is filtered on stands beside it."""


def to_payload(chunk: Chunk) -> dict[str, Any]:
    """What is stored with a chunk's vectors: the fields that can be filtered on, and the chunk itself."""
    payload: dict[str, Any] = {
        "category": chunk.category,
        "platform": chunk.platform,
        "language": chunk.language,
        "document_id": chunk.document_id,
        "document_version": chunk.document_version,
        "parent_id": chunk.parent_id,
        "position": chunk.position,
        RECORD_FIELD: chunk.model_dump_json(),
    }
    if facets := {
        name: list(FACETS[name].list_keys(value)) for name, value in chunk.metadata.items() if name in FACETS
    }:
        payload[FACET_FIELD] = facets
    if chunk.author:
        payload["author"] = chunk.author
    if chunk.published_at is not None:
        payload["published_at"] = chunk.published_at.isoformat()
    return payload


def to_chunk(payload: Mapping[str, Any] | None) -> Chunk:
    """Return the chunk of a payload written by :func:`to_payload`.

    Raises:
        StoreError: something else wrote the payload.
    """
    try:
        return Chunk.model_validate_json((payload or {})[RECORD_FIELD])
    except (KeyError, ValidationError) as error:
        raise StoreError(
            f"The index holds a record that is not a chunk ({error}). Rebuild it: delete the index, then run {POE} "
            "run-feature-engineering-pipeline"
        ) from error


def list_alternatives(filter: MetadataFilter) -> list[tuple[str, tuple[str, ...]]]:
    """Return (payload field, accepted values) of every field that the filter limits; dates are apart."""
    fields = {
        "author": filter.authors,
        "category": filter.categories,
        "platform": filter.platforms,
        "language": filter.languages,
        "document_id": filter.document_ids,
    }
    return [(field, values) for field, values in fields.items() if values]


def date_range(filter: MetadataFilter) -> dict[str, str]:
    """Return ``gte`` and ``lte`` of ``published_at`` as ISO 8601; empty without a date limit."""
    limits = {"gte": filter.published_from, "lte": filter.published_to}
    return {name: moment.isoformat() for name, moment in limits.items() if moment is not None}


@dataclass(frozen=True, slots=True)
class FieldCondition:
    """A condition in an index's terms: any of some values, or a range, in which a moment stands as ISO 8601 text."""

    key: str
    any_of: tuple[Any, ...] = ()
    range: Mapping[str, Any] = field(default_factory=dict)


def list_facet_conditions(filter: MetadataFilter) -> list[FieldCondition]:
    """Return the filter's conditions on facets."""
    return [
        FieldCondition(
            facet_key(condition.field),
            condition.any_of,
            {name: end for name in ("gte", "lte") if (end := getattr(condition, name)) is not None},
        )
        for condition in filter.facets
    ]


def facet_key(name: str) -> str:
    """Return the path of a facet in a payload."""
    return f"{FACET_FIELD}.{name}"


def summarise_facet(
    facet: Facet, counts: Iterable[tuple[Any, int]], ends: tuple[Any, Any] | None
) -> FacetValues:
    """Return what an index says of a facet, in one form.

    Args:
        counts: (value, records), the most first; one more than :data:`MAX_KNOWN_VALUES` where there are more.
        ends: the least and the greatest value of one that has an order.
    """
    read = [(str(value), count) for value, count in counts]
    least, greatest = ends or (None, None)
    return FacetValues(
        facet.kind,
        dict(sorted(read[:MAX_KNOWN_VALUES], key=lambda pair: (-pair[1], pair[0]))),
        complete=len(read) <= MAX_KNOWN_VALUES,
        least=least,
        greatest=greatest,
    )


BUILD = f"Build it with: {POE} run-feature-engineering-pipeline"


def check_request(request: SearchRequest, dimension: int) -> None:
    """Raise InvalidInputError where a search by meaning has no vector of shape (dimension,)."""
    if request.mode is SearchMode.SPARSE:
        return
    shape = None if request.vector is None else request.vector.shape
    if shape != (dimension,):
        raise InvalidInputError(
            f"A {request.mode} search needs a vector of shape ({dimension},); got {shape}."
        )


def check_embedding(item: EmbeddedChunk, dimension: int, *, titles: bool = False) -> None:
    """Raise InvalidInputError where a chunk's vector, or its title's, has another dimension or numbers that are not
    finite, or where a title's vector comes to an index that holds none."""
    for name, vector in (("a vector", item.vector), ("a title vector", item.title_vector)):
        if vector is not None and (len(vector) != dimension or not math.isfinite(sum(vector))):
            raise InvalidInputError(
                f"Chunk {item.chunk.id} of {item.chunk.link} has {name} of {len(vector)} numbers; expected "
                f"{dimension} finite ones, as the embedder's fingerprint says."
            )
    if item.title_vector is not None and not titles:
        raise InvalidInputError(
            f"Chunk {item.chunk.id} of {item.chunk.link} has a title vector, but the index is written without titles. "
            "Open it with writer(fingerprint, titles=True), or leave the vector out."
        )


def check_fingerprint(stored: EmbedderFingerprint, asked: EmbedderFingerprint, collection: str) -> None:
    """Raise FingerprintMismatchError where the index was written by another embedder than the one that asks."""
    if stored != asked:
        raise FingerprintMismatchError(
            f"The index '{collection}' was written by {describe(stored)}; the embedder now configured is "
            f"{describe(asked)}. Their vectors cannot be compared. Set the old embedder back, or rebuild the index for "
            f"the new one: {POE} run-feature-engineering-pipeline"
        )


def describe_index(fingerprint: EmbedderFingerprint, titles: bool) -> str:
    """Return an index's vectors in a few words, for messages."""
    return f"{describe(fingerprint)}, {'with' if titles else 'without'} title vectors"


def describe(fingerprint: EmbedderFingerprint) -> str:
    """Return an embedder in a few words, for messages."""
    return f"{fingerprint.model} ({fingerprint.dimension} dimensions, {fingerprint.digest})"

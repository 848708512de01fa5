"""How a chunk lies in an index: one flat record, the same in every adapter."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llm_engineering.domain.documents import Chunk
from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.retrieval import MetadataFilter

FORMAT = 2
"""Number of the stored form (fields, word vectors). An index of another form is rebuilt by the next writer."""

KEYWORD_FIELDS = ("author", "category", "platform", "language", "document_id")
INTEGER_FIELDS = ("position",)
DATETIME_FIELDS = ("published_at",)

RECORD_FIELD = "chunk"
"""Holds the whole chunk as JSON text. Indexes convert payloads value by value, which for all of a chunk's fields takes
longer than computing its word vector; so only what is filtered on stands beside it."""


def to_payload(chunk: Chunk) -> dict[str, Any]:
    """What is stored with a chunk's vectors: the fields that can be filtered on, and the chunk itself."""
    payload = {
        "author": chunk.author,
        "category": chunk.category,
        "platform": chunk.platform,
        "language": chunk.language,
        "document_id": chunk.document_id,
        "document_version": chunk.document_version,
        "parent_id": chunk.parent_id,
        "position": chunk.position,
        RECORD_FIELD: chunk.model_dump_json(),
    }
    if chunk.published_at is not None:
        payload["published_at"] = chunk.published_at.isoformat()
    return payload


def to_chunk(payload: Mapping[str, Any] | None) -> Chunk:
    """The chunk of a payload written by :func:`to_payload`.

    Raises:
        StoreError: something else wrote the payload.
    """
    try:
        return Chunk.model_validate_json((payload or {})[RECORD_FIELD])
    except (KeyError, ValidationError) as error:
        raise StoreError(
            f"The index holds a record that is not a chunk ({error}). Rebuild it: delete the index, then run poe "
            "run-feature-engineering-pipeline"
        ) from error


def alternatives(filter: MetadataFilter) -> list[tuple[str, tuple[str, ...]]]:
    """(payload field, accepted values) of every field that the filter limits; dates are apart."""
    fields = {
        "author": filter.authors,
        "category": filter.categories,
        "platform": filter.platforms,
        "language": filter.languages,
        "document_id": filter.document_ids,
    }
    return [(field, values) for field, values in fields.items() if values]


def published_between(filter: MetadataFilter) -> dict[str, str]:
    """``gte`` and ``lte`` of ``published_at`` as ISO 8601; empty without a date limit."""
    limits = {"gte": filter.published_from, "lte": filter.published_to}
    return {name: moment.isoformat() for name, moment in limits.items() if moment is not None}

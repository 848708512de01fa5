"""How a chunk lies in an index: one flat record, the same in every adapter."""

import math
from collections.abc import Mapping
from typing import Any

from llm_engineering.domain.documents import Chunk
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import MetadataFilter

FORMAT = 1
"""Number of the stored form (fields, word vectors). An index of another form is rebuilt by the next writer."""

KEYWORD_FIELDS = ("author", "category", "platform", "language", "document_id", "parent_id")
INTEGER_FIELDS = ("position",)
DATETIME_FIELDS = ("published_at",)

_INT64 = range(-(2**63), 2**63)


def to_payload(chunk: Chunk) -> dict[str, Any]:
    """A chunk's fields as JSON values, with ``parent_id`` to look passages up by.

    Raises:
        InvalidInputError: a metadata value that JSON or a 64-bit integer cannot hold, so it could not be read back.
    """
    for name, value in chunk.metadata.items():
        beyond = isinstance(value, int) and value not in _INT64
        if beyond or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidInputError(
                f"Metadata '{name}' of {chunk.link} is {value!r}; expected a finite number of at most 64 bits. "
                "Store it as text, or leave it out."
            )
    return {**chunk.model_dump(mode="json"), "parent_id": chunk.parent_id}


def to_chunk(payload: Mapping[str, Any]) -> Chunk:
    """The chunk of a payload written by :func:`to_payload`."""
    return Chunk.model_validate({name: value for name, value in payload.items() if name != "parent_id"})


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

"""What became of one record: row → document → cleaned text → chunks → vectors, with the versions that made them."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_engineering.application.features.chunk import CHUNKING_VERSION
from llm_engineering.application.features.clean import CLEANING_VERSION
from llm_engineering.application.ports import VectorIndex, Warehouse
from llm_engineering.domain.documents import Chunk, CleanDocument, DeadLetter, RawDocument, derive_id
from llm_engineering.domain.errors import InvalidInputError, StoreUnavailableError

_MOST_PARENTS = 10_000


@dataclass(frozen=True, slots=True)
class RecordHistory:
    """A record's way. What is None or empty did not happen."""

    document: RawDocument | None
    clean: CleanDocument | None
    chunks: tuple[Chunk, ...]
    letters: tuple[DeadLetter, ...]
    cleaning: str = CLEANING_VERSION
    chunking: str = CHUNKING_VERSION


def explain_record(which: str, warehouse: Warehouse, index: VectorIndex) -> RecordHistory:
    """Return what became of a record.

    Args:
        which: a document's id, its link (``movies.csv#7``), what stands behind its ``#``, or ``FILE:LINE`` of a rejected row.

    Raises:
        InvalidInputError: there is no such record, or several; lists them.
    """
    document = _find_document(which, warehouse)
    identifier = document.id if document else ""
    letters = tuple(
        letter
        for letter in warehouse.dead_letters.stream()
        if letter.source == which
        or (identifier and letter.source in (identifier, document.link if document else ""))
    )
    if document is None and not letters:
        raise InvalidInputError(
            f"There is no record '{which}'. Give a document's id or link, the id behind its '#', or FILE:LINE of a rejected row."
        )
    cleaned = warehouse.clean.get([identifier]) if document else []
    return RecordHistory(
        document,
        cleaned[0] if cleaned else None,
        tuple(_read_chunks(identifier, index)) if document else (),
        letters,
    )


def _find_document(which: str, warehouse: Warehouse) -> RawDocument | None:
    found = warehouse.documents.get([which, derive_id("document", which)])
    if not found:
        ends = [
            card.id
            for card in warehouse.clean.list_cards()
            if card.link.rpartition("#")[2] == which and "#" in card.link
        ]
        found = warehouse.documents.get(ends)
    if len(found) > 1:
        listing = ", ".join(document.link for document in found[:5])
        raise InvalidInputError(
            f"'{which}' may be any of {len(found)} records: {listing}. Give the whole link."
        )
    return found[0] if found else None


def _read_chunks(document_id: str, index: VectorIndex) -> Sequence[Chunk]:
    chunks: list[Chunk] = []
    try:
        for first in range(0, _MOST_PARENTS, 100):
            parents = [f"{document_id}:{number}" for number in range(first, first + 100)]
            found = index.read_passages(parents)
            chunks += [chunk for part in found.values() for chunk in part]
            if len(found) < len(parents):
                break
    except StoreUnavailableError:
        return ()
    return sorted(chunks, key=lambda chunk: chunk.position)

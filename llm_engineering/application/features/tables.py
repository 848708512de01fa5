"""The warehouse as three tables that BigQuery, Athena, DuckDB and pandas read: ``full_text``, ``metadata``, ``dropped``."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

from llm_engineering.application.ports import VectorIndex, Warehouse
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import StoreUnavailableError

TABLES: Mapping[str, tuple[str, ...]] = {
    "full_text": ("id", "title", "full_text"),
    "metadata": (
        "id",
        "process_date",
        "filename",
        "link",
        "status",
        "category",
        "platform",
        "author",
        "language",
        "published_at",
        "metadata",
    ),
    "dropped": ("id", "stage", "source", "reason", "payload", "failed_at"),
}
"""Columns of each, beside ``created_at``, the day of its partition."""

WriteTable = Callable[[str, tuple[str, ...], Iterable[Mapping[str, Any]]], int]
"""Writes a table's rows, partitioned by ``created_at``, and returns how many there were."""

UNKNOWN_DAY = date(1970, 1, 1)
"""Of documents that were collected before their time was kept."""


def export_tables(warehouse: Warehouse, index: VectorIndex, write: WriteTable) -> dict[str, int]:
    """Write the tables, ordered by id. Returns the number of rows of each. Texts stream; ids, days and rejected rows are held
    in memory.

    ``status`` is what became of a record: ``collected``, ``cleaned`` (not indexed yet), ``indexed``, or ``dropped`` where it
    failed on the way. Rejected rows that never became documents stand in ``dropped`` only.

    Raises:
        StoreError: a store failed, or a table cannot be written; what was there before is untouched.
    """
    days = {document.id: _day(document) for document in warehouse.documents.stream()}
    rows: dict[str, Iterable[Mapping[str, Any]]] = {
        "full_text": (
            {
                "id": document.id,
                "created_at": days.get(document.id, UNKNOWN_DAY).isoformat(),
                "title": document.title,
                "full_text": document.text,
            }
            for document in warehouse.clean.stream()
        ),
        "metadata": _list_metadata(warehouse, index),
        "dropped": (
            {
                "id": letter.id,
                "created_at": letter.failed_at.date().isoformat(),
                **letter.model_dump(include={"stage", "source", "reason", "payload"}),
                "failed_at": letter.failed_at.isoformat(),
            }
            for letter in sorted(warehouse.dead_letters.stream(), key=lambda letter: letter.id)
        ),
    }
    return {name: write(name, columns, rows[name]) for name, columns in TABLES.items()}


def _list_metadata(warehouse: Warehouse, index: VectorIndex) -> Iterator[Mapping[str, Any]]:
    cleaned = {identifier for identifier, _ in warehouse.clean.list_versions()}
    dropped = {letter.source for letter in warehouse.dead_letters.stream()}
    try:
        indexed = {identifier for identifier, _ in index.list_versions()}
    except StoreUnavailableError:
        indexed = set()
    for document in warehouse.documents.stream():
        name = document.id
        status = "indexed" if name in indexed else "cleaned" if name in cleaned else "collected"
        yield {
            "id": name,
            "created_at": _day(document).isoformat(),
            "process_date": _iso(document.collected_at),
            "filename": document.link.rpartition("#")[0] or document.origin,
            "status": "dropped" if name in dropped and name not in indexed else status,
            **document.model_dump(include={"link", "category", "platform", "author", "language"}),
            "published_at": _iso(document.published_at),
            "metadata": json.dumps(document.metadata, ensure_ascii=False, sort_keys=True),
        }


def _day(document: RawDocument) -> date:
    return document.collected_at.astimezone(UTC).date() if document.collected_at else UNKNOWN_DAY


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None

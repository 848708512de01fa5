"""How often the feature steps ask each store, against ⌈n / batch⌉: the commands of the wire, and calls of the index.

The commands are counted by the driver itself, so what a store does behind one call of a port is counted too.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from benchmarks.common import Check, console, mongo_server, new_warehouse, show_checks
from benchmarks.corpora import made_up_documents
from benchmarks.pipeline import MadeUpEmbedder, bundled_embedder, run_steps
from llm_engineering.application.ports import FacetValues, IndexWriter, SearchRequest
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, EmbedderFingerprint
from llm_engineering.domain.retrieval import Hit, MetadataFilter
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.infrastructure.stores.mongo.collections import FIND_BATCH, ROW_BATCH, WRITE_BATCH

WINDOW, BATCH = 1_024, 256
"""Chunks and documents handled together: the defaults of the steps."""


def main(documents: int = 1_000, mongo: str | None = None) -> dict[str, Any]:
    """Run the steps once over made-up documents, print a table and return the numbers."""
    real = bundled_embedder()
    with mongo_server(mongo) as uri, counted_commands() as calls:
        with new_warehouse(uri) as warehouse, tempfile.TemporaryDirectory() as folder:
            warehouse.documents.upsert(list(made_up_documents(documents, parts=2)))
            index = CountingIndex(QdrantEdgeIndex(Path(folder)))
            run = run_steps(warehouse, MadeUpEmbedder(real.tokenizer), index)
            index.close()
        seen = Counter(calls)
    real.close()
    chunks = run["index"]["chunks"]
    # Raw documents are looked up twice, before they are written and to be cleaned; hashes, signatures and versions of
    # clean documents are a stream each.
    rows = [
        Row("documents", "look up, twice", seen["documents", "get"], documents, FIND_BATCH, 2),
        Row("documents", "write", seen["documents", "insert"], documents, WRITE_BATCH),
        Row("documents", "hashes", seen["documents", "stream"], documents, ROW_BATCH),
        Row("clean documents", "write", seen["clean_documents", "update"], documents, BATCH),
        Row("clean documents", "three streams", seen["clean_documents", "stream"], documents, ROW_BATCH, 3),
        Row("clean documents", "read", seen["clean_documents", "get"], documents, BATCH),
        Row("embeddings", "look up", seen["embeddings", "get"], chunks, FIND_BATCH),
        Row(
            "embeddings",
            "write",
            seen["embeddings", "insert"] + seen["embeddings", "update"],
            chunks,
            WRITE_BATCH,
        ),
        Row("index", "write", index.upserts, chunks, WINDOW),
    ]
    table = Table(
        "store",
        "what",
        "n",
        "batch",
        "⌈n / batch⌉",
        "round trips",
        title=f"Round trips of one run: {documents:,} documents, {chunks:,} chunks",
    )
    for row in rows:
        table.add_row(
            row.store, row.what, f"{row.items:,}", f"{row.batch:,}", str(row.expected), str(row.came)
        )
    console.print(table)
    checks = [Check(f"{row.store}: {row.what}", row.came, row.expected, "at most").as_dict() for row in rows]
    show_checks("Round trips", checks)
    return {"checks": checks, "commands": {" ".join(key): count for key, count in sorted(seen.items())}}


@dataclass(frozen=True, slots=True)
class Row:
    """Round trips that came, and of what."""

    store: str
    what: str
    came: int
    items: int
    batch: int
    times: int = 1
    """How often all items are gone through."""

    @property
    def expected(self) -> int:
        return self.times * ceil(self.items / self.batch)


@contextmanager
def counted_commands() -> Iterator[Counter[tuple[str, str]]]:
    """Counts (collection, command) of every client opened in the block; a lookup by ids counts as ``get``."""
    from pymongo import monitoring

    class Listener(monitoring.CommandListener):
        def __init__(self) -> None:
            self.active = True
            self.calls: Counter[tuple[str, str]] = Counter()

        def started(self, event: monitoring.CommandStartedEvent) -> None:
            if self.active:
                self.calls[_named(event)] += 1

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
            """Counted when it started."""

        def failed(self, event: monitoring.CommandFailedEvent) -> None:
            """Counted when it started."""

    listener = Listener()
    monitoring.register(listener)  # for good: the driver has no way back, so the listener falls silent
    try:
        yield listener.calls
    finally:
        listener.active = False


def _named(event: Any) -> tuple[str, str]:
    command, name = event.command, event.command_name
    if name == "getMore":
        return str(command["collection"]), "stream"
    if name == "find":
        by_id = command["filter"].get("_id")
        return str(command["find"]), "get" if isinstance(by_id, dict) and "$in" in by_id else "stream"
    return str(command.get(name, "")), name


class CountingIndex:
    """An index that counts how often chunks are written."""

    def __init__(self, index: QdrantEdgeIndex) -> None:
        self._index = index
        self.upserts = 0

    def list_versions(self) -> Iterator[tuple[str, str]]:
        return self._index.list_versions()

    @contextmanager
    def writer(self, fingerprint: EmbedderFingerprint, *, titles: bool = False) -> Iterator[IndexWriter]:
        with self._index.writer(fingerprint, titles=titles) as writer:
            yield _CountingWriter(self, writer)

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        return self._index.search(requests, fingerprint)

    def erase(self, document_ids: Sequence[str]) -> None:
        self._index.erase(document_ids)

    def read_state(self) -> str:
        return self._index.read_state()

    def read_passages(self, parent_ids: Sequence[str]) -> dict[str, list[Chunk]]:
        return self._index.read_passages(parent_ids)

    def count_values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        return self._index.count_values(field)

    def read_facet(self, name: str, filter: MetadataFilter = MetadataFilter()) -> FacetValues:
        return self._index.read_facet(name, filter)

    def count(self, filter: MetadataFilter = MetadataFilter()) -> int:
        return self._index.count(filter)

    def close(self) -> None:
        self._index.close()


class _CountingWriter:
    def __init__(self, counting: CountingIndex, writer: IndexWriter) -> None:
        self._counting = counting
        self._writer = writer

    def upsert(self, chunks: Sequence[EmbeddedChunk]) -> None:
        self._counting.upserts += 1
        self._writer.upsert(chunks)

    def delete(self, document_ids: Sequence[str], *, keep_versions: Mapping[str, str] | None = None) -> None:
        self._writer.delete(document_ids, keep_versions=keep_versions)

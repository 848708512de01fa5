"""Filtered hybrid retrieval over many chunks: the use case itself, with the question's vector made beforehand.

Each request is one call of :func:`~llm_engineering.application.inference.search.retrieve`: the filter's values are checked
against the index, dense and word search are fused, forty candidates are read, near-duplicates dropped, ten returned.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import Check, console, load, show_checks
from benchmarks.index import DAY, FINGERPRINT, Corpus
from llm_engineering.application.inference.search import retrieve
from llm_engineering.application.ports import Vectors
from llm_engineering.domain.retrieval import MetadataFilter, Query, SearchMode
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex

TARGET = 10
"""Milliseconds, of 95 in 100 requests."""
WARM_UP = 20

FILTERS = {
    "no filter": MetadataFilter(),
    "category (half of all)": MetadataFilter(categories=("article", "post")),
    "author (1 in 20)": MetadataFilter(authors=("Author 3",)),
    "author, category, date": MetadataFilter(
        authors=("Author 3", "Author 8"), categories=("article", "post"), published_from=DAY
    ),
}


class MadeBeforehand:
    """An embedder whose vectors are there already, so that embedding takes no time."""

    fingerprint = FINGERPRINT
    tokenizer: Any = None

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self._vectors = dict(zip(texts, vectors, strict=True))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._vectors[text] for text in texts])

    embed_documents = embed_queries

    def close(self) -> None:
        """Nothing is held."""


def main(chunks: int = 100_000, queries: int = 400) -> dict[str, Any]:
    """Build an index of made-up chunks, ask it one question after the other, print a table and return the numbers."""
    corpus = Corpus()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="twin-benchmark-") as folder:
        index = QdrantEdgeIndex(Path(folder))
        with index.writer(FINGERPRINT) as writer:
            for batch in corpus.batches(chunks):
                writer.upsert(batch)
        for name, accepted in FILTERS.items():
            rows[name] = _latencies(index, corpus, accepted, queries)
        index.close()
    table = Table(
        "hybrid (dense + BM25, RRF), k = 10",
        "matching chunks",
        "p50",
        "p95",
        "p99",
        title=f"Retrieval, {chunks:,} chunks, {queries} questions each (load {load()})",
    )
    for name, row in rows.items():
        times = (f"{row[key]:.2f} ms" for key in ("p50_ms", "p95_ms", "p99_ms"))
        table.add_row(name, f"{row['matching']:,.0f}", *times)
    console.print(table)
    shown = [
        Check(
            f"hybrid retrieval, no rerank, {chunks:,} chunks: p95, {name}",
            row["p95_ms"],
            TARGET,
            "at most",
            " ms",
        ).as_dict()
        for name, row in rows.items()
    ]
    show_checks("Retrieval", shown)
    return {"checks": shown, "chunks": chunks, "load": load(), "latencies": rows}


def _latencies(
    index: QdrantEdgeIndex, corpus: Corpus, accepted: MetadataFilter, queries: int
) -> dict[str, float]:
    texts, vectors = corpus.texts(queries, 8), corpus.vectors(queries)
    embedder = MadeBeforehand(texts, vectors)
    asked = [Query.ask(text, k=10, mode=SearchMode.HYBRID, filter=accepted) for text in texts]
    for query in asked[:WARM_UP]:
        retrieve(query, index, embedder)
    seconds = []
    for query in asked:
        start = perf_counter()
        retrieve(query, index, embedder)
        seconds.append(perf_counter() - start)
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(seconds, (50, 95, 99)))
    return {"matching": index.count(accepted), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}

"""The embedded index under load: how fast it is written and searched, and what memory it takes.

Synthetic chunks: vectors in 300 clusters, words by Zipf's law, ten chunks to a document. Embedding is not part of it.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.common import Check, show_checks
from llm_engineering.application.ports import SearchRequest
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, EmbedderFingerprint, Span, derive_id
from llm_engineering.domain.retrieval import MetadataFilter, SearchMode, WeightedFusion
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex

DIMENSION = 384
CLUSTERS = 300
VOCABULARY = 30_000
WORDS = 150
BATCH = 1_024
QUERIES = 200
DAY = datetime(2024, 1, 1, tzinfo=UTC)
FINGERPRINT = EmbedderFingerprint(
    model="synthetic", weights="0" * 64, dimension=DIMENSION, pooling="mean", max_tokens=256
)
FILTER = MetadataFilter(authors=("Author 3", "Author 8"), categories=("article", "post"), published_from=DAY)
WIDE_FILTER = MetadataFilter(categories=("article", "post"))


class Corpus:
    """Chunks and questions that depend on the seed alone."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._centres = self._random.normal(size=(CLUSTERS, DIMENSION)).astype(np.float32)
        self._words = np.array(
            [f"w{np.base_repr(n * 7919 % 1_000_003, 36).lower()}" for n in range(VOCABULARY)]
        )
        frequency = 1.0 / np.arange(1, VOCABULARY + 1) ** 1.05
        self._frequency = frequency / frequency.sum()

    def vectors(self, count: int) -> np.ndarray:
        """Unit vectors around the cluster centres, shape (count, DIMENSION)."""
        noise = self._random.normal(size=(count, DIMENSION)).astype(np.float32)
        vectors = self._centres[self._random.integers(0, CLUSTERS, count)] + noise
        normed: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normed

    def texts(self, count: int, words: int) -> list[str]:
        """Texts of so many words each."""
        return [
            " ".join(row)
            for row in self._words[self._random.choice(VOCABULARY, (count, words), p=self._frequency)]
        ]

    def batches(self, count: int, start: int = 0) -> Iterator[list[EmbeddedChunk]]:
        """``count`` chunks, numbered from ``start``, a batch at a time."""
        for first in range(start, start + count, BATCH):
            size = min(BATCH, start + count - first)
            vectors, texts = self.vectors(size), self.texts(size, WORDS)
            yield [_embedded(first + n, texts[n], vectors[n]) for n in range(size)]

    def requests(self, count: int, mode: SearchMode, **options: Any) -> list[SearchRequest]:
        """Questions of eight words."""
        vectors, texts = self.vectors(count), self.texts(count, 8)
        return [SearchRequest(texts[n], vectors[n], k=10, mode=mode, **options) for n in range(count)]


def _embedded(number: int, text: str, vector: np.ndarray) -> EmbeddedChunk:
    document, position = divmod(number, 10)
    document_id = derive_id("benchmark", str(document))
    chunk = Chunk(
        id=Chunk.derive_id(document_id, position, text),
        document_id=document_id,
        document_version="1",
        position=position,
        span=Span(start=position * 1_000, end=position * 1_000 + len(text)),
        text=text,
        tokens=200,
        headings=("Heading",),
        parent=position // 4,
        category=("article", "post", "repository", "ticket")[document % 4],
        title=f"Document {document}",
        link=f"https://example.org/{document}",
        platform=f"platform-{document % 7}",
        author=f"Author {document % 20}",
        author_id=f"author-{document % 20}",
        language=("en", "de", "fr")[document % 3],
        published_at=DAY + timedelta(hours=document),
    )
    return EmbeddedChunk(chunk=chunk, vector=tuple(vector.tolist()))


class Memory:
    """The most memory of this process while the block runs, in MB: private, and all of it with the mapped files."""

    def __enter__(self) -> "Memory":
        self.private = self.resident = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            info = process.memory_info()
            self.resident = max(self.resident, info.rss / 1e6)
            self.private = max(self.private, (info.rss - getattr(info, "shared", 0)) / 1e6)
            if self._stop.wait(0.05):
                return


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _write(index: QdrantEdgeIndex, batches: Iterator[list[EmbeddedChunk]]) -> tuple[float, float]:
    """(seconds of writing, seconds of publishing); making the chunks does not count."""
    upserting = 0.0
    with index.writer(FINGERPRINT) as writer:
        for batch in batches:
            upserting += _timed(lambda batch=batch: writer.upsert(batch))  # type: ignore[misc]
        start = time.perf_counter()
    return upserting, time.perf_counter() - start


def _latencies(index: QdrantEdgeIndex, requests: Sequence[SearchRequest]) -> dict[str, float]:
    """Milliseconds of single requests: median and 95th percentile, after a warm-up."""
    for request in requests[:20]:
        index.search([request], FINGERPRINT)
    seconds = [_timed(lambda request=request: index.search([request], FINGERPRINT)) for request in requests]  # type: ignore[misc]
    return {
        "p50_ms": float(np.percentile(seconds, 50) * 1e3),
        "p95_ms": float(np.percentile(seconds, 95) * 1e3),
    }


def measure(size: int, folder: Path) -> dict[str, Any]:
    """Build an index of ``size`` chunks in an empty folder, and search it."""
    corpus = Corpus()
    index = QdrantEdgeIndex(folder)
    with Memory() as building:
        upserting, publishing = _write(index, corpus.batches(size))
    with Memory() as searching:
        opening = _timed(index.count)
        searches = {
            f"{name}, {narrowed}": _latencies(index, corpus.requests(QUERIES, mode, filter=filter, **options))
            for narrowed, filter in (
                ("no filter", MetadataFilter()),
                ("wide filter", WIDE_FILTER),
                ("narrow filter", FILTER),
            )
            for name, mode, options in (
                ("dense", SearchMode.DENSE, {}),
                ("sparse", SearchMode.SPARSE, {}),
                ("hybrid rrf", SearchMode.HYBRID, {}),
                ("hybrid weighted", SearchMode.HYBRID, {"fusion": WeightedFusion()}),
            )
        }
        batch = corpus.requests(QUERIES, SearchMode.HYBRID, filter=WIDE_FILTER)
        batched = _timed(lambda: index.search(batch, FINGERPRINT)) / QUERIES * 1e3
    disk = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) / 1e6
    more = list(corpus.batches(100, start=size))
    update = _timed(lambda: _write(index, iter(more)))
    result = {
        "chunks": size,
        "write_seconds": upserting,
        "publish_seconds": publishing,
        "write_chunks_per_second": size / upserting,
        "total_chunks_per_second": size / (upserting + publishing),
        "build_private_mb": building.private,
        "build_resident_mb": building.resident,
        "search_private_mb": searching.private,
        "search_resident_mb": searching.resident,
        "disk_mb": disk,
        "open_seconds": opening,
        "batched_hybrid_ms": batched,
        "add_100_chunks_seconds": update,
        "searches": searches,
    }
    index.close()
    return result


def main(sizes: Sequence[int] = (5_000, 100_000)) -> dict[str, Any]:
    """Measure every size, print a table each, and return the numbers."""
    console = Console()
    results = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="twin-benchmark-") as folder:
            result = measure(size, Path(folder))
        results.append(result)
        table = Table("what", "value", title=f"Index of {size:,} chunks")
        for name, value in result.items():
            if isinstance(value, float):
                table.add_row(name.replace("_", " "), f"{value:,.2f}")
        for name, numbers in result["searches"].items():
            table.add_row(name, f"p50 {numbers['p50_ms']:.2f} ms, p95 {numbers['p95_ms']:.2f} ms")
        console.print(table)
    largest = results[-1]
    checks = [
        Check(
            f"index of {largest['chunks']:,} chunks: p95 of {name}", numbers["p95_ms"], 10, "at most", " ms"
        ).as_dict()
        for name, numbers in largest["searches"].items()
        if name.startswith("hybrid")
    ]
    show_checks("Index", checks)
    return {"checks": checks, "index": results}

"""The feature pipeline stage by stage: clean, near-duplicates, chunk, write, index, and the real embedder on a part.

    python -m benchmarks.features [--corpus FILE] [--scale N] [--mongo URI]
    python -m benchmarks.features --memory 20000 --mongo URI

Everything but the last row runs with an embedder that makes up vectors (the real tokenizer counts): the model's
arithmetic, which is a hundred times slower than the rest, has a benchmark of its own. Without ``--mongo`` the warehouse
is in memory. ``--memory`` streams that many documents through and reports the peak memory of the process.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from loguru import logger
from rich.console import Console
from rich.table import Table

from llm_engineering.application import near_duplicates
from llm_engineering.application.chunking import ChunkingConfig, chunk_document
from llm_engineering.application.cleaning import clean
from llm_engineering.application.features import clean_documents, index_documents, mark_near_duplicates
from llm_engineering.application.ports import (
    CleanStore,
    DeadLetterStore,
    DocumentStore,
    Embedder,
    EmbeddingCache,
    Tokenizer,
    Vectors,
)
from llm_engineering.application.stages import batched
from llm_engineering.application.token_counts import TokenCounts
from llm_engineering.domain.documents import EmbedderFingerprint, RawDocument
from llm_engineering.infrastructure.embedders.onnx import OnnxEmbedder
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.infrastructure.model_files import path
from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
from llm_engineering.settings import load_settings
from tests.fakes.warehouse import FakeWarehouse

DIMENSION, MAX_TOKENS = 384, 256
EMBEDDED_CHUNKS = 256
"""Chunks that the real embedder is shown."""


class Warehouse(Protocol):
    documents: DocumentStore
    clean: CleanStore
    dead_letters: DeadLetterStore
    embeddings: EmbeddingCache


class MadeUpEmbedder:
    """Unit vectors from nowhere, at once, under the real tokenizer: what is left is the pipeline's own cost."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.fingerprint = EmbedderFingerprint(
            model="made-up", weights="none", dimension=DIMENSION, pooling="none", max_tokens=MAX_TOKENS
        )
        self._random = np.random.default_rng(0)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        rows = self._random.standard_normal((len(texts), DIMENSION), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self.embed_documents(texts)

    def close(self) -> None:
        """Nothing is held."""


def main(corpus: Path | None = None, scale: int = 1, mongo: str | None = None) -> dict[str, Any]:
    """Measure, print a table and return the numbers: chunks and seconds by stage."""
    real = OnnxEmbedder(path("all-MiniLM-L6-v2", load_settings().models_dir))
    documents = list(corpus_documents(corpus, scale) if corpus else made_up_documents(40 * scale))
    results: dict[str, Any] = {"documents": len(documents), "scale": scale}
    with tempfile.TemporaryDirectory() as folder:
        results |= _functions(documents, real.tokenizer)
        results |= _pipeline(
            documents, MadeUpEmbedder(real.tokenizer), _warehouse(mongo), Path(folder) / "made-up"
        )
        part = documents[: max(1, EMBEDDED_CHUNKS * len(documents) // results["chunks"])]
        results["embedding"] = _embedding(part, real, Path(folder) / "real")
    real.close()
    _show(results)
    return results


def memory(documents: int, mongo: str) -> dict[str, Any]:
    """Stream documents of about three chunks through the pipeline; peak resident memory in MB after each step."""
    embedder = MadeUpEmbedder(OnnxEmbedder(path("all-MiniLM-L6-v2", load_settings().models_dir)).tokenizer)
    warehouse = _warehouse(mongo)
    peaks: dict[str, Any] = {"documents": documents, "imported": _peak_mb()}
    for batch in batched(made_up_documents(documents, parts=2), 500):
        warehouse.documents.upsert(batch)
    peaks["stored"] = _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        run = _run_steps(warehouse, embedder, Path(folder), lambda step: peaks.update({step: _peak_mb()}))
    results = {"peak_mb": peaks, "chunks": run["index"]["chunks"]}
    sys.stdout.write(json.dumps(results) + "\n")
    return results


def corpus_documents(corpus: Path, scale: int) -> Iterator[RawDocument]:
    """Documents of a JSON list of articles; each copy beyond the first has words of its own, so nothing is cached."""
    for copy in range(scale):
        for number, item in enumerate(json.loads(corpus.read_text(encoding="utf-8"))):
            content = item["content"]
            text = content.get("Content") or ""
            if copy:
                text = "".join(f"{line} c{copy}\n" for line in text.split("\n"))
            if text.strip():
                yield _document(f"{copy}/{number}", content.get("Title") or "", text)


def made_up_documents(count: int, parts: int = 8) -> Iterator[RawDocument]:
    """Articles of invented words, with headings, lists and code; ``parts`` sections of about 300 tokens each."""
    chance = random.Random(0)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = ["".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 3)))) for _ in range(8_000)]
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def sentence() -> str:
        return (
            " ".join(chance.choices(words, cum_weights=weights, k=chance.randint(6, 18))).capitalize() + "."
        )

    for number in range(count):
        blocks = ["Share this post", "Copy link", f"# {sentence()}"]
        for part in range(parts):
            blocks += [
                f"## {part} {sentence()}",
                " ".join(sentence() for _ in range(7)),
                f"- {sentence()}\n- {sentence()}",
            ]
            if part % 4 == 3:
                blocks.append("```python\n" + "\n".join(f"value_{i} = call({i})" for i in range(6)) + "\n```")
        yield _document(str(number), sentence(), "\n\n".join(blocks))


def _document(name: str, title: str, text: str) -> RawDocument:
    link = f"https://blog.example.org/{name}"
    return RawDocument(
        category="article",
        title=title,
        text=text,
        link=link,
        origin=link,
        platform="blog",
        author="Ada Byron",
    )


def _warehouse(mongo: str | None) -> Warehouse:
    return MongoWarehouse(mongo, f"benchmark_{uuid.uuid4().hex[:8]}") if mongo else FakeWarehouse()


def _functions(documents: Sequence[RawDocument], tokenizer: Tokenizer) -> dict[str, Any]:
    """Cleaning, MinHash and chunking by themselves, in seconds; the tokenizer is warm, its memory of words is not."""
    tokenizer.counts(["warm"])
    cleaned, cleaning = _timed(lambda: [clean(document) for document in documents])
    _, hashing = _timed(lambda: [near_duplicates.signature(document.text) for document in cleaned])
    counts = TokenCounts(tokenizer)
    chunks, chunking = _timed(
        lambda: [c for d in cleaned for c in chunk_document(d, counts, ChunkingConfig(), MAX_TOKENS, "v")]
    )
    sizes = [chunk.tokens for chunk in chunks]
    return {
        "chunks": len(chunks),
        "over_limit": sum(size > MAX_TOKENS for size in sizes),
        "tokens": {f"p{q}": float(np.percentile(sizes, q)) for q in (5, 25, 50, 75, 95)},
        "alone_seconds": {"clean": cleaning, "minhash": hashing, "chunk": chunking},
    }


def _pipeline(
    documents: Sequence[RawDocument], embedder: Embedder, warehouse: Warehouse, folder: Path
) -> dict[str, Any]:
    _, storing = _timed(lambda: warehouse.documents.upsert(documents))
    first = _run_steps(warehouse, embedder, folder)
    second = _run_steps(warehouse, embedder, folder)
    return {
        "collect_seconds": storing,
        "first": first,
        "second": second,
        "chunks_per_second": first["index"]["chunks"] / first["seconds"],
        "second_run_speedup": first["seconds"] / second["seconds"],
    }


def _run_steps(
    warehouse: Warehouse, embedder: Embedder, folder: Path, after: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    index = QdrantEdgeIndex(folder)
    start = perf_counter()
    cleaning = clean_documents(warehouse.documents, warehouse.clean, warehouse.dead_letters)
    after("clean")
    marking = mark_near_duplicates(warehouse.clean)
    after("mark")
    indexing = index_documents(
        warehouse.clean, index, embedder, warehouse.embeddings, dead_letters=warehouse.dead_letters
    )
    after("index")
    seconds = perf_counter() - start
    index.close()
    steps = {"clean": cleaning.metadata(), "mark": marking.metadata(), "index": indexing.metadata()}
    return {**steps, "seconds": seconds}


def _embedding(documents: Sequence[RawDocument], embedder: Embedder, folder: Path) -> dict[str, Any]:
    """The whole index step with the real embedder: how much of its time the embedder works."""
    warehouse = FakeWarehouse()
    warehouse.documents.upsert(documents)
    embedder.embed_documents(["open the session"])
    index = _run_steps(warehouse, embedder, folder)["index"]
    seconds = index["seconds"]
    return {
        "chunks": index["chunks"],
        "chunks_per_second": index["chunks"] / seconds["total"],
        "share_embedding": seconds["embed"] / seconds["total"],
    }


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = action()
    return result, perf_counter() - start


def _peak_mb() -> int:
    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1024 if sys.platform == "linux" else 1 << 20
    )


def _show(results: dict[str, Any]) -> None:
    chunks, console = results["chunks"], Console()
    table = Table(
        "stage", "seconds", "chunks/s", title=f"Features: {results['documents']} documents, {chunks} chunks"
    )
    rows = {f"{name}, alone": seconds for name, seconds in results["alone_seconds"].items()}
    first, second = results["first"], results["second"]
    rows |= {
        "step: clean and MinHash, stored": first["clean"]["seconds"],
        "step: mark": first["mark"]["seconds"],
    }
    rows |= {f"step: index: {name}": seconds for name, seconds in first["index"]["seconds"].items()}
    rows |= {
        "all steps, without embedding": first["seconds"],
        "all steps again, nothing changed": second["seconds"],
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.3f}", f"{chunks / seconds:,.0f}" if seconds else "")
    console.print(table)
    sizes = ", ".join(f"{name} {value:.0f}" for name, value in results["tokens"].items())
    console.print(f"Tokens per chunk: {sizes}; over the limit of {MAX_TOKENS}: {results['over_limit']}")
    console.print(f"Second run: {results['second_run_speedup']:.0f}× faster")
    real = results["embedding"]
    console.print(
        f"Real embedder, {real['chunks']} chunks: {real['chunks_per_second']:.1f} chunks/s, "
        f"working {real['share_embedding']:.1%} of the index step"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, default=None, help="a JSON list of articles")
    parser.add_argument(
        "--scale", type=int, default=1, help="how many times the corpus, or 40 made-up articles"
    )
    parser.add_argument("--mongo", default=None, help="URI of a MongoDB; default: a warehouse in memory")
    parser.add_argument("--memory", type=int, default=0, help="measure peak memory with that many documents")
    arguments = parser.parse_args()
    logger.remove()
    if not arguments.memory:
        main(arguments.corpus, arguments.scale, arguments.mongo)
    elif arguments.mongo:
        memory(arguments.memory, arguments.mongo)
    else:
        parser.error("--memory needs --mongo: a warehouse in memory would be what is measured")

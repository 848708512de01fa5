"""The feature pipeline stage by stage: clean, near-duplicates, chunk, write, index, and the real embedder on a part.

Documents come out of a real MongoDB-wire server and chunks go into a real index. All but the last row runs with an
embedder that makes up vectors (the real tokenizer counts): the model's arithmetic, which is a hundred times slower than
the rest, has a benchmark of its own. Every run begins with an empty database and an empty index; the best of the rounds
counts, because what else runs on the machine only ever adds time.
"""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import Check, console, load, mongo_server, new_warehouse, show_checks, timed
from benchmarks.corpora import documents as read_documents
from benchmarks.pipeline import MAX_TOKENS, MadeUpEmbedder, bundled_embedder, run_steps
from llm_engineering.application.features.chunk import ChunkingConfig, chunk_document
from llm_engineering.application.features.clean import clean
from llm_engineering.application.ports import Embedder, Tokenizer
from llm_engineering.application.text import minhash as near_duplicates
from llm_engineering.application.text.tokens import TokenCounts
from llm_engineering.domain.documents import RawDocument

TARGET = 2_000
"""Chunks a second through all steps, embedding left out."""
EMBEDDED_CHUNKS = 256
"""Chunks that the real embedder is shown."""


def main(
    corpus: Path | None = None,
    columns: Mapping[str, str] | None = None,
    scales: Sequence[int] = (1, 20),
    rounds: int = 3,
    mongo: str | None = None,
) -> dict[str, Any]:
    """Measure every scale, print a table each, and return the numbers: chunks and seconds by stage."""
    results = []
    embedder = bundled_embedder()
    embedder.embed_documents(["open the session"])
    with mongo_server(mongo) as uri:
        for scale in scales:
            texts = read_documents(corpus, columns or {}, scale)
            result = {"scale": scale, "documents": len(texts), **_functions(texts, embedder.tokenizer)}
            result |= _steps(texts, MadeUpEmbedder(embedder.tokenizer), uri, rounds)
            if scale == scales[0]:
                part = texts[: max(1, EMBEDDED_CHUNKS * len(texts) // result["chunks"])]
                result["embedding"] = _embedding(part, embedder, uri)
            result["load"] = load()
            _show(result)
            results.append(result)
    embedder.close()
    checks = [
        Check(
            f"clean + chunk + write + index, without embedding: {result['chunks']:,} chunks ({result['scale']}×)",
            result["chunks_per_second"],
            TARGET,
            "at least",
            " chunks/s",
        )
        for result in results
    ]
    checks += [
        Check(
            f"chunks over the model's limit ({result['scale']}×)",
            result["over_limit"],
            0,
            "exactly",
        )
        for result in results
    ]
    shown = [check.as_dict() for check in checks]
    show_checks("Features", shown)
    return {"checks": shown, "sizes": results}


def _functions(documents: Sequence[RawDocument], tokenizer: Tokenizer) -> dict[str, Any]:
    """Cleaning, MinHash and chunking by themselves, in seconds; the tokenizer is warm, its memory of words is not."""
    tokenizer.counts(["warm"])
    cleaned, cleaning = timed(lambda: [clean(document) for document in documents])
    _, hashing = timed(lambda: [near_duplicates.sign(document.text) for document in cleaned])
    counts = TokenCounts(tokenizer)
    chunks, chunking = timed(
        lambda: [c for d in cleaned for c in chunk_document(d, counts, ChunkingConfig(), MAX_TOKENS, "v")]
    )
    sizes = [chunk.tokens for chunk in chunks]
    return {
        "chunks": len(chunks),
        "over_limit": sum(size > MAX_TOKENS for size in sizes),
        "tokens": {f"p{q}": float(np.percentile(sizes, q)) for q in (5, 25, 50, 75, 95)},
        "alone_seconds": {"clean": cleaning, "minhash": hashing, "chunk": chunking},
    }


def _steps(documents: Sequence[RawDocument], embedder: Embedder, uri: str, rounds: int) -> dict[str, Any]:
    runs = []
    for _ in range(rounds):
        with new_warehouse(uri) as warehouse, tempfile.TemporaryDirectory() as folder:
            _, storing = timed(partial(warehouse.documents.upsert, documents))
            run = run_steps(warehouse, embedder, Path(folder))
            runs.append({**run, "collect_seconds": storing})
    best = min(runs, key=lambda run: run["seconds"])
    return {
        "best": best,
        "all_seconds": [run["seconds"] for run in runs],
        "chunks_per_second": best["index"]["chunks"] / best["seconds"],
    }


def _embedding(documents: Sequence[RawDocument], embedder: Embedder, uri: str) -> dict[str, Any]:
    """The whole index step with the real embedder: how much of its time the embedder works."""
    with new_warehouse(uri) as warehouse, tempfile.TemporaryDirectory() as folder:
        warehouse.documents.upsert(documents)
        index = run_steps(warehouse, embedder, Path(folder))["index"]
    seconds = index["seconds"]
    return {
        "chunks": index["chunks"],
        "chunks_per_second": index["chunks"] / seconds["total"],
        "share_embedding": seconds["embed"] / seconds["total"],
    }


def _show(result: dict[str, Any]) -> None:
    chunks, best = result["chunks"], result["best"]
    title = f"Features, {result['scale']}×: {result['documents']:,} documents, {chunks:,} chunks"
    table = Table("stage", "seconds", "chunks/s", title=title, title_justify="left")
    rows = {f"{name}, alone": seconds for name, seconds in result["alone_seconds"].items()}
    rows["raw documents stored (collection)"] = best["collect_seconds"]
    rows["step: clean and MinHash, stored"] = best["clean"]["seconds"]
    rows["step: near-duplicates"] = best["mark"]["seconds"]
    rows |= {f"step: index: {name}": seconds for name, seconds in best["index"]["seconds"].items()}
    rows["all steps, without embedding"] = best["seconds"]
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.3f}", f"{chunks / seconds:,.0f}" if seconds else "")
    console.print(table)
    sizes = ", ".join(f"{name} {value:.0f}" for name, value in result["tokens"].items())
    all_seconds = ", ".join(f"{seconds:.2f}" for seconds in result["all_seconds"])
    console.print(
        f"Parts of the index step overlap. All rounds: {all_seconds} s; load {result['load']}. "
        f"Tokens per chunk: {sizes}."
    )
    if real := result.get("embedding"):
        console.print(
            f"Bundled embedder, {real['chunks']} chunks: {real['chunks_per_second']:.1f} chunks/s, "
            f"working {real['share_embedding']:.1%} of the index step."
        )

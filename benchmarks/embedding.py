"""How much of the bare ONNX session's throughput the embedding stage keeps, and what the settings cost.

The stage (texts in, unit vectors out: tokenising, sorting, batching, pooling) is measured against the bare session on
the very same batches, tokenised and padded beforehand, run by as many threads. The two take turns, so that what else
runs on the machine hits both. Once with the embedder by itself, once inside the index step, where chunking, the cache and
the index want the same cores. Then other batch sizes, and a session that spreads each operator over the cores instead.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.common import Check, console, load, mongo_server, new_warehouse, show_checks
from benchmarks.corpora import documents as read_documents
from benchmarks.pipeline import run_steps
from llm_engineering.application.ports import Tokenizer, Vectors
from llm_engineering.domain.documents import EmbedderFingerprint, RawDocument
from llm_engineering.infrastructure.embedders.onnx import (
    OnnxEmbedder,
    open_model,
    pad_batch,
)
from llm_engineering.infrastructure.model_files import model_path
from llm_engineering.infrastructure.shared.token_batches import batches_by_length
from llm_engineering.settings import load_settings

TARGET = 0.95
"""Of the bare session's throughput."""
TOKENS = 254
"""Word pieces of a text: 256 with the special ones, the model's limit."""


def main(
    corpus: Path | None = None,
    columns: Mapping[str, str] | None = None,
    count: int = 48,
    rounds: int = 15,
    batch_tokens: int = 1024,
    mongo: str | None = None,
) -> dict[str, Any]:
    """Measure ``count`` texts, and documents in the index step, print the tables and return the numbers."""
    model_dir = model_path("all-MiniLM-L6-v2", load_settings().models_dir)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    embedder = OnnxEmbedder(model_dir, threads=threads, batch_tokens=batch_tokens)
    opened = _seconds(lambda: embedder.embed_queries(["open"]))
    documents = read_documents(corpus, columns or {})
    texts = sample_texts(embedder.tokenizer, documents, count)
    against: dict[str, dict[str, float]] = {}
    for name, sample in (("full (256 tokens)", texts), ("mixed lengths", _mixed_lengths(texts))):
        inputs = _inputs(embedder.tokenizer, [sample], batch_tokens)
        against[name] = _against_bare(embedder, model_dir, sample, inputs, threads, rounds)
    with mongo_server(mongo) as uri:
        against["in the index step"] = _in_pipeline(
            embedder, model_dir, documents[: count // 4], threads, batch_tokens, max(1, rounds // 5), uri
        )
    settings = _settings(embedder, model_dir, texts, threads)
    embedder.close()
    _show(against, settings)
    checks = [
        Check(
            f"embedding stage against the bare session: {name}",
            row["ratio"] * 100,
            TARGET * 100,
            "at least",
            " %",
        )
        for name, row in against.items()
    ]
    shown = [check.as_dict() for check in checks]
    show_checks("Embedding", shown)
    return {
        "checks": shown,
        "threads": threads,
        "batch_tokens": batch_tokens,
        "seconds_to_open": opened,
        "load": load(),
        "against_bare": against,
        "settings": settings,
    }


def sample_texts(tokenizer: Tokenizer, documents: Sequence[RawDocument], count: int) -> list[str]:
    """``count`` slices of at most ``TOKENS`` tokens, nearly all of exactly that many."""
    whole = "\n".join(document.text for document in documents)
    [offsets] = tokenizer.find_offsets([whole[:2_000_000]])
    texts = []
    for start in range(0, len(offsets) - TOKENS, TOKENS):
        text = whole[offsets[start][0] : offsets[start + TOKENS - 1][1]]
        if tokenizer.counts([text])[0] <= TOKENS:  # a word cut in two may need one more
            texts.append(text)
    texts = texts or [document.text[:200] for document in documents]
    while len(texts) < count:
        texts += texts
    return random.Random(0).sample(texts, count)


def _mixed_lengths(texts: Sequence[str]) -> list[str]:
    chance = random.Random(0)
    return [text[: chance.randint(40, len(text))] for text in texts]


def _inputs(tokenizer: Any, calls: Sequence[Sequence[str]], batch_tokens: int) -> list[Any]:
    """The padded batches that the embedder makes of the texts of each call."""
    inputs = []
    for texts in calls:
        ids = tokenizer.encode_ids(texts)
        batches = batches_by_length([len(row) for row in ids], batch_tokens)
        inputs += [pad_batch([ids[i] for i in rows]) for rows in batches]
    return inputs


def _against_bare(
    embedder: OnnxEmbedder,
    model_dir: Path,
    texts: Sequence[str],
    inputs: Sequence[Any],
    threads: int,
    rounds: int,
) -> dict[str, float]:
    session = open_model(model_dir / "model.onnx")

    def bare() -> None:
        with ThreadPoolExecutor(threads) as pool:
            _run_all(session, pool, inputs)

    def stage() -> None:
        embedder.embed_documents(texts)

    bare()
    stage()
    walls: dict[str, list[float]] = {"bare": [], "stage": []}
    cpus: dict[str, list[float]] = {"bare": [], "stage": []}
    for number in range(rounds):
        order = [("bare", bare), ("stage", stage)]
        for name, action in order if number % 2 else reversed(order):
            cpu = time.process_time()
            walls[name].append(_seconds(action))
            cpus[name].append(time.process_time() - cpu)
    return {  # the best of the rounds: what else runs on the machine only ever adds time
        "texts": len(texts),
        "bare_per_second": len(texts) / min(walls["bare"]),
        "stage_per_second": len(texts) / min(walls["stage"]),
        "ratio": min(walls["bare"]) / min(walls["stage"]),
        "ratio_of_cpu_time": statistics.median(cpus["bare"]) / statistics.median(cpus["stage"]),
    }


class _Recording:
    """An embedder that remembers which texts it was handed together, and how long it took."""

    def __init__(self, embedder: OnnxEmbedder) -> None:
        self._embedder = embedder
        self.tokenizer = embedder.tokenizer
        self.fingerprint: EmbedderFingerprint = embedder.fingerprint
        self.calls: list[list[str]] = []
        self.seconds = 0.0

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        start = time.perf_counter()
        vectors = self._embedder.embed_documents(texts)
        self.seconds += time.perf_counter() - start
        return vectors

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._embedder.embed_queries(texts)

    def close(self) -> None:
        """The embedder is closed by who opened it."""


def _in_pipeline(
    embedder: OnnxEmbedder,
    model_dir: Path,
    documents: Sequence[RawDocument],
    threads: int,
    batch_tokens: int,
    rounds: int,
    uri: str,
) -> dict[str, float]:
    """The embedder's time inside the index step against the bare session on the same batches, in turns."""
    session = open_model(model_dir / "model.onnx")
    stages, bares, totals = [], [], []
    chunks = 0
    for _ in range(rounds):
        recording = _Recording(embedder)
        with new_warehouse(uri) as warehouse, tempfile.TemporaryDirectory() as folder:
            warehouse.documents.upsert(documents)
            run = run_steps(warehouse, recording, Path(folder))
        chunks = run["index"]["embedded"]
        stages.append(recording.seconds)
        totals.append(run["index"]["seconds"]["total"])
        inputs = _inputs(embedder.tokenizer, recording.calls, batch_tokens)
        with ThreadPoolExecutor(threads) as pool:
            bares.append(_seconds(partial(_run_all, session, pool, inputs)))
    return {
        "texts": chunks,
        "bare_per_second": chunks / min(bares),
        "stage_per_second": chunks / min(stages),
        "ratio": min(bares) / min(stages),
        "ratio_of_whole_step": min(bares) / min(totals),
    }


def _settings(
    embedder: OnnxEmbedder, model_dir: Path, texts: Sequence[str], threads: int
) -> dict[str, float]:
    """Texts per second of the bare session by (workers × threads per operator, batch)."""
    ids = embedder.tokenizer.encode_ids(texts)
    results = {}
    for workers, spread in ((threads, 1), (1, threads)):
        session = open_model(model_dir / "model.onnx", spread)
        for size in (1, 2, 4, 8, 16):
            inputs = [pad_batch(ids[i : i + size]) for i in range(0, len(ids), size)]
            with ThreadPoolExecutor(workers) as pool:
                seconds = _seconds(partial(_run_all, session, pool, inputs))
            results[f"{workers} × {spread}, {size * 256:>4} tokens"] = len(ids) / seconds
    return results


def _run_all(session: Any, pool: ThreadPoolExecutor, inputs: Sequence[Any]) -> None:
    for _ in pool.map(lambda batch: session.run(None, batch)[0].shape, inputs):
        pass


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _show(against: Mapping[str, Mapping[str, float]], settings: Mapping[str, float]) -> None:
    table = Table(title=f"Embedding (load {load()})", title_justify="left")
    for heading in (
        "texts",
        "bare session /s",
        "embedding stage /s",
        "ratio",
        "of CPU time",
        "of the whole step",
    ):
        table.add_column(heading)
    for name, row in against.items():
        others = [row.get(key) for key in ("ratio_of_cpu_time", "ratio_of_whole_step")]
        table.add_row(
            f"{name}, {row['texts']} texts",
            f"{row['bare_per_second']:.1f}",
            f"{row['stage_per_second']:.1f}",
            f"{row['ratio']:.1%}",
            *("" if value is None else f"{value:.1%}" for value in others),
        )
    console.print(table)
    table = Table("workers × threads, batch", "texts of 256 tokens /s", title="The bare session, by settings")
    for name, rate in settings.items():
        table.add_row(name, f"{rate:.1f}")
    console.print(table)

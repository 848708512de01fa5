"""How much of the bare ONNX session's throughput the embedding stage keeps, and what the settings cost.

    python -m benchmarks.embedding [--corpus FILE]

The stage (texts in, unit vectors out: tokenising, sorting, batching, pooling) is measured against the bare session on
the very same batches, tokenised and padded beforehand, run by as many threads. The two take turns, so that what else
runs on the machine hits both. Then other batch sizes, and a session that spreads each operator over the cores instead.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llm_engineering.application.ports import Tokenizer
from llm_engineering.infrastructure.embedders.onnx import (
    OnnxEmbedder,
    batches_by_length,
    open_session,
    padded,
)
from llm_engineering.infrastructure.model_files import path
from llm_engineering.settings import load_settings

TEXTS = 48
TOKENS = 254
"""Word pieces of a text: 256 with the special ones, the model's limit."""


def main(corpus: Path | None = None, rounds: int = 15, batch_tokens: int = 1024) -> dict[str, Any]:
    """Measure, print two tables and return the numbers."""
    model_dir = path("all-MiniLM-L6-v2", load_settings().models_dir)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    embedder = OnnxEmbedder(model_dir, threads=threads, batch_tokens=batch_tokens)
    opened = _seconds(lambda: embedder.embed_queries(["open"]))
    texts = sample_texts(embedder.tokenizer, corpus)
    results: dict[str, Any] = {"cores": threads, "batch_tokens": batch_tokens, "seconds_to_open": opened}
    for name, sample in (("full (256 tokens)", texts), ("mixed lengths", _mixed_lengths(texts))):
        results[name] = _against_bare(embedder, model_dir, sample, threads, batch_tokens, rounds)
    results["settings"] = _settings(embedder, model_dir, texts, threads)
    embedder.close()
    _show(results)
    return results


def sample_texts(tokenizer: Tokenizer, corpus: Path | None) -> list[str]:
    """``TEXTS`` slices of exactly ``TOKENS`` tokens, of the corpus or of the sample site's articles."""
    if corpus is not None:
        whole = "\n".join(_strings(json.loads(corpus.read_text(encoding="utf-8"))))
    else:
        site = Path(__file__).parents[1] / "samples" / "site"
        whole = "\n".join(file.read_text(encoding="utf-8") for file in sorted(site.rglob("*.html")))
    [offsets] = tokenizer.offsets([whole[:2_000_000]])
    texts = []
    for start in range(0, len(offsets) - TOKENS, TOKENS):
        text = whole[offsets[start][0] : offsets[start + TOKENS - 1][1]]
        if tokenizer.counts([text])[0] <= TOKENS:  # a word cut in two may need one more
            texts.append(text)
    while len(texts) < TEXTS:
        texts += texts
    return random.Random(0).sample(texts, TEXTS)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if len(value) > 200 else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items for text in _strings(item)]


def _mixed_lengths(texts: Sequence[str]) -> list[str]:
    chance = random.Random(0)
    return [text[: chance.randint(40, len(text))] for text in texts]


def _against_bare(
    embedder: OnnxEmbedder,
    model_dir: Path,
    texts: Sequence[str],
    threads: int,
    batch_tokens: int,
    rounds: int,
) -> dict[str, float]:
    ids = embedder.tokenizer.ids(texts)
    batches = batches_by_length([len(row) for row in ids], batch_tokens)
    inputs = [padded([ids[i] for i in rows]) for rows in batches]
    session = open_session(model_dir / "model.onnx")

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
        "bare_per_second": len(texts) / min(walls["bare"]),
        "stage_per_second": len(texts) / min(walls["stage"]),
        "ratio": min(walls["bare"]) / min(walls["stage"]),
        "ratio_of_cpu_time": statistics.median(cpus["bare"]) / statistics.median(cpus["stage"]),
    }


def _settings(
    embedder: OnnxEmbedder, model_dir: Path, texts: Sequence[str], threads: int
) -> dict[str, float]:
    """Texts per second of the bare session by (workers × threads per operator, batch)."""
    ids = embedder.tokenizer.ids(texts)
    results = {}
    for workers, spread in ((threads, 1), (1, threads)):
        session = open_session(model_dir / "model.onnx", spread)
        for size in (1, 2, 4, 8, 16):
            inputs = [padded(ids[i : i + size]) for i in range(0, len(ids), size)]
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


def _show(results: dict[str, Any]) -> None:
    console = Console()
    table = Table(
        "texts", "bare session /s", "embedding stage /s", "ratio", "ratio of CPU time", title="Embedding"
    )
    for name, row in results.items():
        if isinstance(row, dict) and "ratio" in row:
            table.add_row(
                name,
                f"{row['bare_per_second']:.1f}",
                f"{row['stage_per_second']:.1f}",
                f"{row['ratio']:.1%}",
                f"{row['ratio_of_cpu_time']:.1%}",
            )
    console.print(table)
    table = Table("workers × threads, batch", "texts of 256 tokens /s", title="The bare session, by settings")
    for name, rate in results["settings"].items():
        table.add_row(name, f"{rate:.1f}")
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, default=None, help="a JSON file whose long strings are used as texts"
    )
    main(parser.parse_args().corpus)

"""The most memory that the feature steps take, by the number of documents: each number in a process of its own.

The process streams made-up documents of about three chunks into the warehouse, then cleans, marks and indexes them, with
the bundled model loaded and run once beside an embedder that costs nothing. What is measured is resident memory at its
peak, files of the index that are mapped into memory included; they are shared pages that the system may drop, so the
memory that is the process's own is shown too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from loguru import logger
from rich.table import Table

from benchmarks.common import ROOT, Check, console, load, mongo_server, new_warehouse, peak_mb, show_checks
from benchmarks.corpora import made_up_documents
from benchmarks.pipeline import MadeUpEmbedder, bundled_embedder, run_steps
from llm_engineering.application.failures import group_batches

TARGET_MB = 1_500
FLAT = 1.25
"""Peak of the largest number of documents over that of the smallest, at most."""
STEPS = ("imported", "stored", "clean", "mark", "index")


def main(sizes: Sequence[int] = (5_000, 20_000), mongo: str | None = None) -> dict[str, Any]:
    """Measure every number of documents in a child process, print a table and return the numbers."""
    runs = []
    with mongo_server(mongo) as uri:
        for size in sizes:
            command = [sys.executable, "-m", "benchmarks.memory", str(size), uri]
            child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(child.stdout.splitlines()[-1]))
    table = Table("documents", "chunks", title=f"Peak memory of the feature steps, MB (load {load()})")
    for step in STEPS:
        table.add_column(f"after {step}", justify="right")
    table.add_column("own, at its peak", justify="right")
    for run in runs:
        peaks = (f"{run['peak_mb'][step]:,.0f}" for step in STEPS)
        table.add_row(f"{run['documents']:,}", f"{run['chunks']:,}", *peaks, f"{run['own_mb']:,.0f}")
    console.print(table)
    first, last = runs[0], runs[-1]
    growth = last["peak_mb"]["index"] / first["peak_mb"]["index"]
    checks = [
        Check(
            f"peak memory, {last['documents']:,} documents",
            last["peak_mb"]["index"],
            TARGET_MB,
            "at most",
            " MB",
        ),
        Check(f"its growth from {first['documents']:,} documents (flat is 1)", growth, FLAT, "at most", "×"),
    ]
    shown = [check.as_dict() for check in checks]
    show_checks("Memory", shown)
    return {"checks": shown, "load": load(), "runs": runs}


class _Own:
    """The most memory of this process that it shares with no file and no other process, sampled, in MB."""

    def __enter__(self) -> "_Own":
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.05):
            info = process.memory_info()
            self.peak_mb = max(self.peak_mb, (info.rss - getattr(info, "shared", 0)) / (1 << 20))


def measure(documents: int, uri: str) -> dict[str, Any]:
    """Stream so many documents through the steps in this process."""
    real = bundled_embedder()
    texts = ["word " * 240] * 64
    real.embed_documents(texts)  # the model's memory counts, its time does not
    embedder = MadeUpEmbedder(real.tokenizer)
    peaks = {"imported": peak_mb()}
    with _Own() as own, new_warehouse(uri) as warehouse, tempfile.TemporaryDirectory() as folder:
        for batch in group_batches(made_up_documents(documents, parts=2), 500):
            warehouse.documents.upsert(batch)
        peaks["stored"] = peak_mb()
        run = run_steps(warehouse, embedder, Path(folder), lambda step: peaks.update({step: peak_mb()}))
    real.close()
    return {
        "documents": documents,
        "chunks": run["index"]["chunks"],
        "seconds": run["seconds"],
        "peak_mb": peaks,
        "own_mb": own.peak_mb,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The child process of one number of documents.")
    parser.add_argument("documents", type=int)
    parser.add_argument("mongo", help="URI of a MongoDB")
    arguments = parser.parse_args()
    logger.remove()
    sys.stdout.write(json.dumps(measure(arguments.documents, arguments.mongo)) + "\n")

"""The feature pipeline run again with nothing changed: what it embeds, and how much faster it is.

Twice: with the bundled embedder, as a user runs it, and with one that costs nothing, which is the harder race.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.common import Check, console, load, mongo_server, new_warehouse, show_checks
from benchmarks.corpora import documents as read_documents
from benchmarks.pipeline import MadeUpEmbedder, bundled_embedder, run_steps
from llm_engineering.application.ports import Embedder
from llm_engineering.domain.documents import RawDocument

TARGET = 20
"""Times faster than the first run."""
AGAIN = 3
"""How often the second run is repeated; the best counts."""


def main(
    corpus: Path | None = None,
    columns: Mapping[str, str] | None = None,
    documents: int | None = None,
    scale: int = 20,
    mongo: str | None = None,
) -> dict[str, Any]:
    """Measure, print a table and return the numbers.

    Args:
        documents: how many of them go through the bundled embedder; None: all.
        scale: how many times the documents go through the embedder that costs nothing.
    """
    real = bundled_embedder()
    real.embed_documents(["open the session"])
    originals = read_documents(corpus, columns or {})[:documents]
    scaled = read_documents(corpus, columns or {}, scale)
    with mongo_server(mongo) as uri:
        runs = {
            "bundled embedder": _twice(originals, real, uri),
            "no embedding": _twice(scaled, MadeUpEmbedder(real.tokenizer), uri),
        }
    real.close()
    table = Table(
        "", "chunks", "first run", "second run", "embedded again", "times faster", title="Run again"
    )
    for name, run in runs.items():
        table.add_row(
            name,
            f"{run['chunks']:,}",
            f"{run['first_seconds']:.2f} s",
            f"{run['second_seconds']:.3f} s",
            str(run["embedded_again"]),
            f"{run['speedup']:.0f}",
        )
    console.print(table)
    checks = [
        Check(
            "second run, nothing changed: texts embedded",
            runs["bundled embedder"]["embedded_again"],
            0,
            "exactly",
        ),
        Check(
            "second run, nothing changed: times faster",
            runs["bundled embedder"]["speedup"],
            TARGET,
            "at least",
            "×",
        ),
        Check(
            "the same, embedding excluded from both", runs["no embedding"]["speedup"], TARGET, "at least", "×"
        ),
    ]
    shown = [check.as_dict() for check in checks]
    show_checks("Run again", shown)
    return {"checks": shown, "load": load(), "runs": runs}


def _twice(documents: list[RawDocument], embedder: Embedder, uri: str) -> dict[str, Any]:
    with new_warehouse(uri) as warehouse, tempfile.TemporaryDirectory() as folder:
        warehouse.documents.upsert(documents)
        first = run_steps(warehouse, embedder, Path(folder))
        again = [run_steps(warehouse, embedder, Path(folder)) for _ in range(AGAIN)]
    second = min(again, key=lambda run: run["seconds"])
    return {
        "documents": len(documents),
        "chunks": first["index"]["chunks"],
        "first_seconds": first["seconds"],
        "second_seconds": second["seconds"],
        "embedded_again": max(run["index"]["embedded"] for run in again),
        "speedup": first["seconds"] / second["seconds"],
    }

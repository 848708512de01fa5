"""Whether the defaults hold on unlike collections: the sample site, and every BEIR folder that is named.

The reranker's weight: no collection should be clearly worse off than with the search alone, that is, the interval of the
paired difference should not lie below zero. The abstention floor: questions of another world should be declined, and the
others answered.
"""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.answering import FOREIGN
from benchmarks.common import ROOT, Check, console, load, show_checks
from benchmarks.corpora import documents as read_documents
from benchmarks.pipeline import bundled_embedder, run_steps
from llm_engineering.application.evaluation.rag import beir
from llm_engineering.application.evaluation.rag.config import BeirData, RagEvaluationRun
from llm_engineering.application.evaluation.rag.evaluate import Evaluation, Retrievers, evaluate_retrieval
from llm_engineering.application.evaluation.rag.questions import (
    Labelled,
    Question,
    Resolved,
    read_questions,
    resolve,
)
from llm_engineering.application.evaluation.rag.retrieval import Configuration
from llm_engineering.application.inference.config import RerankConfig, RetrievalConfig
from llm_engineering.application.inference.search import RERANKER_WEIGHT
from llm_engineering.application.inference.self_query import SelfQueryConfig
from llm_engineering.application.ports import VectorIndex
from llm_engineering.infrastructure.embedders.onnx import OnnxEmbedder
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.infrastructure.rerankers.late_interaction import LateInteractionReranker
from tests.fakes.warehouse import FakeWarehouse

K = 10
METRIC = f"ndcg@{K}"
SEARCH = "search alone"
WEIGHTS = (0.3, 0.5, 0.7, 0.85, 1.0)
CACHE_BYTES = 1 << 30
"""Passages are encoded once for all weights."""


def main(folders: Sequence[Path], questions: int = 300) -> dict[str, Any]:
    """Measure every collection, print the table of weights and return the numbers."""
    embedder = bundled_embedder()
    collections: dict[str, Evaluation] = {}
    for folder in (None, *folders):
        name = folder.name if folder else "sample site"
        with _indexed(folder, embedder, questions) as (index, asked):
            collections[name] = asyncio.run(_measured(name, folder, index, asked, embedder))
    embedder.close()
    table = Table(
        "collection",
        "questions",
        SEARCH,
        *map(str, WEIGHTS),
        title=f"{METRIC} by the reranker's weight, and its gain (load {load()})",
    )
    floors = Table("collection", "floor", "foreign questions declined", "others refused", title="Abstention")
    checks: list[Check] = []
    rows: dict[str, Any] = {}
    for name, found in collections.items():
        plain, *weighted = found.rows
        differences = [row.against.difference for row in weighted if row.against]
        cells = (f"{each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}]" for each in differences)
        asked_of = len(found.served.select_answerable())
        table.add_row(name, str(asked_of), f"{plain.means[METRIC]:.3f}", *cells)
        chosen = differences[WEIGHTS.index(RERANKER_WEIGHT)]
        checks.append(
            Check(f"{name}: upper end of what weight {RERANKER_WEIGHT} gains", chosen.high, 0, "at least")
        )
        rows[name] = {
            row.name: {
                "mean": row.means[METRIC],
                "interval": [row.against.difference.low, row.against.difference.high]
                if row.against
                else None,
            }
            for row in found.rows
        }
        floor = found.calibration.configured if found.calibration else None
        assert floor is not None, "foreign questions were asked"
        floors.add_row(
            name, f"{floor.threshold:.3f}", f"{floor.declined_share:.1%}", f"{1 - floor.answered_share:.1%}"
        )
        checks += [
            Check(f"{name}: foreign questions declined", 100 * floor.declined_share, 95, "at least", " %"),
            Check(f"{name}: other questions refused", 100 * (1 - floor.answered_share), 8, "at most", " %"),
        ]
        rows[name]["floor"] = asdict(floor)
    console.print(table)
    console.print(floors)
    shown = [check.as_dict() for check in checks]
    show_checks("Defaults", shown)
    return {"checks": shown, "metric": METRIC, "rows": rows}


@contextmanager
def _indexed(
    folder: Path | None, embedder: OnnxEmbedder, most: int
) -> Iterator[tuple[VectorIndex, Resolved]]:
    foreign = [
        Question(id=f"foreign-{number}", question=text, answerable=False)
        for number, text in enumerate(FOREIGN[:most])
    ]
    with tempfile.TemporaryDirectory(prefix="twin-benchmark-") as temporary:
        index = QdrantEdgeIndex(Path(temporary))
        try:
            if folder is None:
                warehouse = FakeWarehouse()
                warehouse.documents.upsert(read_documents(None, {}))
                run_steps(warehouse, embedder, index)
                own = read_questions(ROOT / "samples" / "rag_questions.jsonl")
                answerable = [question for question in own if question.answerable][:most]
                yield index, resolve([*answerable, *foreign], warehouse.clean)
            else:
                data = BeirData(folder=folder)
                beir.build_index(folder, index, embedder, data.chunking)
                resolved, _ = beir.read_questions(folder, data.split, most, 0)
                asked = (*resolved.questions, *map(Labelled, foreign))
                yield index, Resolved(asked, resolved.stale)
        finally:
            index.close()


async def _measured(
    name: str, folder: Path | None, index: VectorIndex, asked: Resolved, embedder: OnnxEmbedder
) -> Evaluation:
    run = RagEvaluationRun(
        configurations={
            SEARCH: _configuration(None),
            **{str(weight): _configuration(weight) for weight in WEIGHTS},
        },
        ks=(K,),
        primary=METRIC,
        reference=SEARCH,
        serving=str(RERANKER_WEIGHT),
    )
    reranker = LateInteractionReranker(embedder, CACHE_BYTES)
    return await evaluate_retrieval(
        run,
        asked,
        Retrievers(index, embedder, None, reranker),
        corpus=name,
        by_document=folder is not None,
    )


def _configuration(weight: float | None) -> Configuration:
    rerank = RerankConfig(enabled=False) if weight is None else RerankConfig(weight=weight)
    return Configuration(retrieval=RetrievalConfig(self_query=SelfQueryConfig(kind="off"), rerank=rerank))

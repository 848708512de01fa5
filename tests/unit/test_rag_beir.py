"""BEIR folders: read line by line, bad lines named, judged by document, in an index of their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.evaluation.rag import beir
from llm_engineering.application.evaluation.rag.config import RagEvaluationRun
from llm_engineering.application.evaluation.rag.evaluate import Retrievers, evaluate_retrieval
from llm_engineering.application.features.chunk import ChunkingConfig
from llm_engineering.domain.errors import InvalidInputError
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex

DOCUMENTS = {
    "d1": "A smoker calms bees before the hive is opened.",
    "d2": "Sourdough rises by wild yeast. " * 60,
    "d3": "A keel keeps a sailing boat from drifting sideways.",
}


def lines(path: Path, items: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (item if isinstance(item, str) else json.dumps(item) for item in items)
    path.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines(tmp_path / "corpus.jsonl", [{"_id": k, "title": "", "text": v} for k, v in DOCUMENTS.items()])
    queries = {"q1": "What calms bees?", "q2": "What makes sourdough rise?", "q3": "Never judged"}
    lines(tmp_path / "queries.jsonl", [{"_id": k, "text": v} for k, v in queries.items()])
    judgements = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td3\t0", "q2\td2\t1", "q2\tgone\t1"]
    lines(tmp_path / "qrels" / "test.tsv", judgements)
    return tmp_path


def test_the_table_is_run_on_an_index_of_its_own(folder: Path) -> None:
    index = FakeVectorIndex()
    built = beir.build_index(folder, index, HashEmbedder(), ChunkingConfig())
    assert (built.documents, built.bad) == (3, ())
    assert built.chunks > 3
    assert index.count() == built.chunks


async def test_queries_are_judged_by_document_and_missing_documents_count(folder: Path) -> None:
    index, embedder = FakeVectorIndex(), HashEmbedder()
    beir.build_index(folder, index, embedder, ChunkingConfig())
    resolved, bad = beir.read_questions(folder, "test", 100, seed=0)
    assert bad == []
    assert [labelled.question.id for labelled in resolved.questions] == ["q1", "q2"]
    run = RagEvaluationRun.model_validate(
        {"beir": {"folder": str(folder)}, "serving": "hybrid", "ks": [1, 3], "resamples": 200}
    )
    evaluation = await evaluate_retrieval(
        run, resolved, Retrievers(index, embedder), corpus="beir", by_document=True
    )
    sparse = next(item for item in evaluation.runs if item.name == "sparse")
    first, second = sparse.runs
    assert first.metrics["recall@1"] == 1.0
    assert second.metrics["recall@3"] == 0.5  # the other relevant document is not in the corpus
    found = [source.document_id for source in second.sources]
    assert len(found) == len(set(found))
    assert evaluation.calibration is None


async def test_as_many_documents_are_found_as_asked_for_however_many_chunks_one_has(folder: Path) -> None:
    sentences = [f"Sourdough rises by wild yeast in jar {n}." for n in range(1200)]
    texts = {"long": " ".join(sentences), "tea": "Green tea.", "knot": "A knot.", "keel": "A keel."}
    lines(folder / "corpus.jsonl", [{"_id": key, "title": "", "text": text} for key, text in texts.items()])
    lines(folder / "qrels" / "test.tsv", [f"q2\t{key}\t1" for key in texts])
    index, embedder = FakeVectorIndex(), HashEmbedder()
    assert beir.build_index(folder, index, embedder, ChunkingConfig()).chunks > 30
    resolved, _ = beir.read_questions(folder, "test", 100, seed=0)
    given = {"beir": {"folder": str(folder)}, "serving": "dense", "ks": [4], "resamples": 200}
    evaluation = await evaluate_retrieval(
        RagEvaluationRun.model_validate(given),
        resolved,
        Retrievers(index, embedder),
        corpus="beir",
        by_document=True,
    )
    assert evaluation.served.runs[0].metrics["recall@4"] == 1.0


def test_without_cut_offs_a_data_set_is_reported_as_others_do() -> None:
    run = RagEvaluationRun.model_validate({"beir": {"folder": "x"}})
    assert (run.ks, run.tested, run.ranking) == ((10, 100), "ndcg@10", "ndcg@10")
    own = RagEvaluationRun.model_validate({"beir": {"folder": "x"}, "ks": [5, 20]})
    assert (own.tested, own.ranking) == ("recall@20", "ndcg@20")


def test_bad_lines_are_left_out_and_named(folder: Path) -> None:
    lines(
        folder / "corpus.jsonl",
        [
            "{broken",
            ["a", "list"],
            {"_id": 7, "text": "x"},
            {"_id": "d1", "text": " "},
            {"_id": "d9", "text": "Fine."},
        ],
    )
    built = beir.build_index(folder, FakeVectorIndex(), HashEmbedder(), ChunkingConfig())
    assert built.documents == 1
    assert [(line.line, line.reason.split(":")[0].split(" '")[0]) for line in built.bad] == [
        (1, "not JSON"),
        (2, "expected an object, got list"),
        (3, 'expected "_id" and "title" as strings'),
        (4, "document"),
    ]
    assert str(built.bad[0]).startswith("corpus.jsonl, line 1: not JSON")


def test_bad_judgements_are_named_by_line(folder: Path) -> None:
    lines(folder / "qrels" / "dev.tsv", ["q1\td1\tmuch", "q1 d1 1", "q2\td2\t1"])
    resolved, bad = beir.read_questions(folder, "dev", 100, seed=0)
    assert [labelled.question.id for labelled in resolved.questions] == ["q2"]
    assert [(line.file, line.line) for line in bad] == [("dev.tsv", 1), ("dev.tsv", 2)]


def test_queries_are_drawn_by_seed(folder: Path) -> None:
    drawn = [beir.read_questions(folder, "test", 1, seed)[0].questions[0].question.id for seed in range(20)]
    assert set(drawn) == {"q1", "q2"}
    assert beir.read_questions(folder, "test", 1, 3) == beir.read_questions(folder, "test", 1, 3)


def test_what_is_missing_from_the_folder_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"validation\.tsv cannot be read"):
        beir.read_questions(folder, "validation", 10, 0)
    lines(folder / "corpus.jsonl", ["nothing"])
    with pytest.raises(
        InvalidInputError, match=r"holds no document\. Lines that were left out: corpus\.jsonl, line 1"
    ):
        beir.build_index(folder, FakeVectorIndex(), HashEmbedder(), ChunkingConfig())

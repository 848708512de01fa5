"""The evaluation on ZenML over the sample site: the table, the report, and the gate that keeps retrieval from getting worse."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.evaluation.rag.config import SERVED, RagEvaluation
from llm_engineering.application.evaluation.rag.evaluate import GateFailedError
from llm_engineering.application.evaluation.rag.questions import (
    Question,
    Relevant,
    read_questions,
    write_questions,
)
from llm_engineering.application.features.config import CollectRun, EndToEndData
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.settings import load_settings
from tests.fakes.judge_server import JudgeServer
from tests.fakes.openai_server import OpenAIServer
from tools.run import run_pipeline
from tools.run_config import read_run_config
from tools.sample_site import SampleSite

ROOT = Path(__file__).resolve().parents[2]
ROWS = ("dense", "hybrid", SERVED)


@pytest.fixture
def collected(project: Path) -> Iterator[Path]:
    """The articles of the sample site, collected and indexed; the project's samples and configurations beside them."""
    shutil.copytree(ROOT / "samples", project / "samples", ignore=shutil.ignore_patterns("site"))
    with SampleSite() as site:
        link = {"url": f"{site.base_url}/feed.xml", "options": {"author_from_page": True}}
        collect = CollectRun.model_validate({"author": "Ada Winter", "links": [link]})
        run_pipeline("end_to_end_data", EndToEndData(collect=collect))
        yield project


def sample_run(**changes: Any) -> RagEvaluation:
    """The sample's configuration with fewer rows, so that the gate is quick."""
    read, _ = read_run_config(ROOT / "configs" / "rag_evaluation_sample.yaml", RagEvaluation)
    evaluation = read.rag_evaluation
    rows = {name: evaluation.configurations[name] for name in ROWS}
    return RagEvaluation(rag_evaluation=evaluation.model_copy(update={"configurations": rows, **changes}))


def output(run: Any, name: str, step: str = "evaluate_rag") -> Any:
    [artifact] = run.steps[step].outputs[name]
    return artifact.load()


def raise_the_baseline(path: Path) -> None:
    """As if every question had once found its answer."""
    baseline = json.loads(path.read_text(encoding="utf-8"))
    baseline["questions"] = dict.fromkeys(baseline["questions"], 1.0)
    path.write_text(json.dumps(baseline), encoding="utf-8")


@pytest.mark.slow
def test_retrieval_on_the_sample_holds_its_baseline_and_beats_dense_search_and_a_fall_fails_the_run(
    collected: Path,
) -> None:
    run = run_pipeline("rag_evaluation", sample_run())
    found = output(run, "rag_evaluation")
    assert found["stale"] == {}
    assert output(run, "rag_gate", "check_rag_gate")["passed"] is True
    recall = {row["name"]: row["means"]["recall@5"] for row in found["rows"]}
    assert recall[SERVED] > recall["dense"]
    assert run.steps["evaluate_rag"].run_metadata["answerable_questions"] == 90
    assert SERVED in output(run, "rag_evaluation_table")
    html = output(run, "rag_evaluation_report")
    assert html.count("<svg") == 2
    assert "http-equiv" not in html
    assert "<script" not in html
    raise_the_baseline(collected / "samples" / "rag_baseline.json")
    with pytest.raises(GateFailedError, match=r"worse than chance explains\. Questions that got worse: "):
        run_pipeline("rag_evaluation", sample_run())


@pytest.mark.slow
def test_questions_are_made_from_the_collection_and_kept_in_a_file(collected: Path) -> None:
    read, _ = read_run_config(ROOT / "configs" / "rag_evaluation.yaml", RagEvaluation)
    rows = {name: read.rag_evaluation.configurations[name] for name in ("dense", SERVED)}
    parameters = RagEvaluation(rag_evaluation=read.rag_evaluation.model_copy(update={"configurations": rows}))
    run = run_pipeline("rag_evaluation", parameters)
    made = read_questions(collected / "data" / "rag_questions.jsonl")
    assert len(made) >= 10
    assert {question.source for question in made} == {"rule"}
    found = output(run, "rag_evaluation")
    assert len(found["questions"]) == len(made) + len(read_questions(ROOT / "samples/rag_unanswerable.jsonl"))
    assert found["calibration"]["best"]["declined_share"] > 0.5


def test_a_beir_folder_is_evaluated_in_an_index_of_its_own(project: Path) -> None:
    folder = project / "tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = {
        "d1": "A smoker calms bees before the hive is opened.",
        "d2": "Green tea turns bitter in boiling water.",
        "d3": "A bowline makes a loop that does not slip.",
    }
    corpus = "".join(
        json.dumps({"_id": key, "title": "", "text": text}) + "\n" for key, text in texts.items()
    )
    (folder / "corpus.jsonl").write_text(corpus + "{broken\n", encoding="utf-8")
    queries = {"q1": "What makes bees peaceful?", "q2": "Which knot forms a loop?"}
    lines = "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in queries.items())
    (folder / "queries.jsonl").write_text(lines, encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td3\t1\n", encoding="utf-8"
    )
    run = RagEvaluation.model_validate({"rag_evaluation": {"beir": {"folder": str(folder)}, "ks": [1]}})
    found = output(run_pipeline("rag_evaluation", run), "rag_evaluation")
    assert {row["name"]: row["means"]["recall@1"] for row in found["rows"]}[SERVED] == 1.0
    assert found["corpus"] == "BEIR: tiny"
    assert not (project / "index").exists()


@pytest.mark.filterwarnings(
    "ignore"
)  # ragas leaves a file of its own open, and its packages warn of each other
def test_answers_are_measured_by_rule_and_by_a_judge(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ragas", reason="needs the Poetry group evaluation")
    said = "A smoker calms the bees before anybody opens the hive."
    rows = [
        {"key": "bees", "headline": "Bees", "body": said},
        {"key": "tea", "headline": "Tea", "body": "Tea is hot."},
    ]
    (project / "notes.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    column_map = {"id": "key", "title": "headline", "text": "body"}
    link = {"url": str(project / "notes.jsonl"), "category": "post", "options": {"column_map": column_map}}
    run_pipeline(
        "end_to_end_data",
        EndToEndData(collect=CollectRun.model_validate({"author": "Ada Winter", "links": [link]})),
    )
    with open_resources(load_settings(None)) as resources:
        [bees] = [document for document in resources.warehouse.clean.stream() if "smoker" in document.text]
    place = Relevant(document_id=bees.id, quote=said)
    questions = [
        Question(id="bees", question="What calms the bees before the hive is opened?", relevant=(place,)),
        Question(id="chess", question="Who won the last chess tournament in Oslo?", answerable=False),
    ]
    write_questions(project / "questions.jsonl", questions)
    parameters = {
        "questions": {"files": [str(project / "questions.jsonl")]},
        "answers": {"judge": True},
        "resamples": 200,
    }
    with OpenAIServer() as model, JudgeServer(asks=questions[0].question) as judge:
        model.default_reply = lambda messages: f"{said.removesuffix('.')} [1]."
        monkeypatch.setenv("LLM_BASE_URL", model.base_url)
        monkeypatch.setenv("LLM_MODEL", "scripted")
        monkeypatch.setenv("JUDGE_BASE_URL", judge.base_url)
        run = run_pipeline("rag_evaluation", RagEvaluation.model_validate({"rag_evaluation": parameters}))
    found = output(run, "rag_evaluation")
    assert found["answers"]["failed"] == 0
    assert found["answers"]["answered_share"] == 1.0
    assert found["answers"]["declined_share"] == 1.0
    assert found["answers"]["answer_cited_share"] == 1.0
    assert found["judged"]["metrics"]["faithfulness"]["mean"] == 1.0
    assert "Answers, judged by" in output(run, "rag_evaluation_report")

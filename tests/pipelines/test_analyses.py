"""Analyses on ZenML, with real stores and the real embedder: what they leave, and that they can be repeated."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.analysis.config import AnalysisQuestion, RecordAnalysis
from llm_engineering.application.features.config import EndToEndData
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.errors import ModelFileError
from tools.analyses import main as list_analyses
from tools.run import run_pipeline
from tools.run_config import read_run_config

pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]
SAID = {
    "refund": "I want my money back for order {}. Please refund it on {} May.",
    "delivery": "Where is the parcel of order {}? It should have come on {} May.",
}


def tickets(folder: Path, changed: str = "") -> EndToEndData:
    rows = [
        {
            "id": f"T{number}",
            "text": text.format(f"LK-{10_000 + number}", number + 1),
            "topic": topic,
            "client": number % 5,
        }
        for topic, text in SAID.items()
        for number in range(0 if topic == "refund" else 20, 20 if topic == "refund" else 40)
    ]
    if changed:
        rows[0]["text"] = changed
    path = folder / "tickets.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = {"text": "text", "metadata.topic": "topic", "metadata.client": "client"}
    link = {"url": str(path), "category": "ticket", "options": {"column_map": columns}}
    return EndToEndData.model_validate({"collect": {"author": "Support", "links": [link]}})


QUESTION = RecordAnalysis(
    analysis=AnalysisQuestion.model_validate(
        {
            "spec": {
                "task": "topics",
                "categories": ["ticket"],
                "engine": "head",
                "fields": {
                    "topic": {"kind": "class", "values": list(SAID)},
                    "order": {"kind": "entities", "pattern": r"\bLK-\d{5}\b"},
                    "day": {"kind": "entities", "pattern": "date"},
                },
            },
            "head": {"group_by": "client", "folds": 3, "left_open": 0.0},
        }
    )
)


def report(run: Any, step: str, name: str) -> dict[str, Any]:
    [artifact] = run.steps[step].outputs[name]
    loaded = artifact.load()
    assert isinstance(loaded, dict)
    return loaded


def analyse() -> dict[str, Any]:
    return report(run_pipeline("record_analysis", QUESTION), "analyse_records", "analysis_report")


def test_labels_become_a_head_and_every_record_its_findings(
    project: Path, resources: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pipeline("end_to_end_data", tickets(project))
    with pytest.raises(ModelFileError, match="run-head-training-pipeline"):
        analyse()
    learned = report(run_pipeline("head_training", QUESTION), "train_heads", "head_report")["topic"]
    assert learned["promoted"] is True
    assert learned["held_out"]["accuracy"] >= 0.9
    assert learned["labels"] == {"metadata": 40}

    first = analyse()
    assert (first["seen"], first["analysed"], first["unsure"]) == (40, 40, 0)
    assert first["values"]["topic"] == {"refund": 20, "delivery": 20}
    texts = {one.id: one.text for one in resources.warehouse.clean.stream()}
    for result in resources.warehouse.analyses.stream(task="topics"):
        assert len(result.list_values("order")) == len(result.list_values("day")) == 1
        for finding in result.findings:
            [quote] = finding.evidence
            assert texts[quote.document_id][quote.span.start : quote.span.end] == quote.quote

    again = analyse()
    assert (again["unchanged"], again["analysed"], again["stale"]) == (40, 0, 0)
    run_pipeline("end_to_end_data", tickets(project, "Never mind the parcel of order LK-99999, it came."))
    edited = analyse()
    assert (edited["analysed"], edited["unchanged"], edited["stale"]) == (1, 39, 1)

    capsys.readouterr()
    assert list_analyses(["--task", "topics", "--where", "order=LK-99999", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["task"] == "topics"


@pytest.mark.parametrize("name", ["tickets", "interest"])
def test_the_samples_questions_ask_no_language_model(name: str) -> None:
    question, _ = read_run_config(ROOT / f"configs/analysis_{name}.yaml", RecordAnalysis)
    assert question.analysis.spec.llm_fields == ()

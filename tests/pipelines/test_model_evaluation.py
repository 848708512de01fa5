"""The evaluation of models on ZenML, with models of two layers: the table, the report, and the file that promotion reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.model_evaluation.config import ModelEvaluationParameters
from llm_engineering.application.training.run import SftRun, Training
from llm_engineering.domain.datasets import InstructSample, Split
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TemplateMismatchError
from llm_engineering.domain.models import EvaluationReport
from tests.fakes.toy_model import LINES, make_model, make_samples, write_dataset
from tools.run import run_pipeline

pytest.importorskip("trl", reason="the group 'training' is not installed")
pytest.importorskip("sacrebleu", reason="the group 'training' is not installed")

HELD_OUT = (
    "Nobody reads a log until something breaks, and then everybody does.",
    "Measure before you change anything, and write the figure down.",
)


def add_test_split(folder: Path, samples: list[InstructSample]) -> None:
    """Give a data set samples that are held out."""
    lines = "".join(sample.model_dump_json() + "\n" for sample in samples)
    (folder / "test.jsonl").write_text(lines, encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["counts"]["test"] = manifest["documents"]["test"] = len(samples)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with a base model, a data set with a test split, and a model trained on it."""
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "base")
    write_dataset(tmp_path / "dataset", make_samples(12), make_samples(4, split=Split.VALIDATION))
    add_test_split(tmp_path / "dataset", make_samples(6, split=Split.TEST, answers=HELD_OUT))
    return tmp_path


@pytest.fixture
def trained(workplace: Path) -> Path:
    sft = {
        "base": "base",
        "max_steps": 4,
        "max_length": 256,
        "evaluate_every": 2,
        "optimizer": {"learning_rate": 0.01},
    }
    given = {"name": "toy", "dataset": "dataset", "output": "trained", "sft": sft}
    run_pipeline("training", Training(training=SftRun.model_validate(given)))
    [folder] = [path.parent for path in (workplace / "trained" / "toy").glob("*/model.json")]
    return folder


def evaluation(**changes: Any) -> ModelEvaluationParameters:
    given = {
        "name": "toy",
        "dataset": "dataset",
        "trained": "trained",
        "datasets": "elsewhere",
        "max_tokens": 12,
        "bias_max_tokens": 4,
        "batch_size": 16,
        "similarity": False,
        "resamples": 200,
    }
    return ModelEvaluationParameters.model_validate({"model_evaluation": given | changes})


def output(run: Any, name: str) -> Any:
    [artifact] = run.steps["compare_models"].outputs[name]
    return artifact.load()


def test_base_and_trained_model_stand_in_one_table_with_report_and_the_file_for_promotion(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_pipeline("model_evaluation", evaluation())
    report = EvaluationReport.model_validate(output(run, "evaluation_report"))
    assert [system.system for system in report.systems] == ["base", "sft"]
    assert report.systems[1].model == json.loads(run_manifest_hash(trained))
    assert report.overlap == {"sft": 0}
    perplexity = {
        system.system: score.value
        for system in report.systems
        for score in system.scores
        if score.metric == "perplexity" and not score.slice
    }
    assert set(perplexity) == {"base", "sft"}
    [difference] = [d for d in report.differences if d.metric == "perplexity" and not d.slice]
    assert difference.value == pytest.approx(perplexity["sft"] - perplexity["base"])
    assert (difference.n, difference.clusters, difference.higher_is_better) == (6, 6, False)
    assert EvaluationReport.model_validate_json((trained / "evaluation.json").read_bytes()) == report
    table = output(run, "model_evaluation_table")
    assert "| Metric | base | sft |" in table
    assert "perplexity" in table
    html = output(run, "model_evaluation_report")
    assert all(sample in html for sample in HELD_OUT)
    assert "<script" not in html
    assert "http" not in html
    details = output(run, "model_evaluation")
    assert len(details["answers"]) == 6
    assert set(details["answers"][0]["systems"]) == {"base", "sft"}
    assert "perplexity" in capsys.readouterr().out


def run_manifest_hash(folder: Path) -> str:
    from llm_engineering.application.model_evaluation.systems import read_manifest

    return json.dumps(read_manifest(folder).content_hash)


def test_a_test_split_that_was_trained_on_is_refused(workplace: Path) -> None:
    leaked = make_samples(1, split=Split.TEST, answers=[f"{LINES[0]} {LINES[1]}"])
    add_test_split(workplace / "dataset", leaked)
    with pytest.raises(InvalidInputError, match="not held out"):
        run_pipeline("model_evaluation", evaluation(base="base", systems=["base"]))


def test_without_any_model_the_error_says_how_to_get_one(workplace: Path) -> None:
    with pytest.raises(ConfigurationError, match="run-training-pipeline"):
        run_pipeline("model_evaluation", evaluation(systems=["sft", "dpo"]))


def test_a_model_with_another_definition_of_its_template_is_refused(trained: Path) -> None:
    manifest = json.loads((trained / "model.json").read_text(encoding="utf-8"))
    manifest["template_hash"] = "0" * 12
    (trained / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(TemplateMismatchError, match="the evaluation"):
        run_pipeline("model_evaluation", evaluation())

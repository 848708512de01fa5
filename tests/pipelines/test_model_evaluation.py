"""The evaluation of models on ZenML, with models of two layers: the table, the report, and the file that promotion reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.application.training.registry.promotion import PromotionPolicy, promote
from llm_engineering.domain.datasets import InstructSample, Split
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TemplateMismatchError
from llm_engineering.domain.models import EvaluationReport, Stage
from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry
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
        "base_model": "base",
        "max_steps": 4,
        "max_length": 256,
        "eval_steps": 2,
        "optimizer": {"learning_rate": 0.01},
    }
    given = {"name": "toy", "dataset": "dataset", "output_dir": "trained", "sft": sft}
    run_pipeline("training", Training(training=SftRun.model_validate(given)))
    [folder] = [path.parent for path in (workplace / "trained" / "toy").glob("*/model.json")]
    return folder


def evaluation(promotion: PromotionPolicy | None = None, **changes: Any) -> ModelEvaluationParameters:
    given = {
        "name": "toy",
        "dataset": "dataset",
        "trained": "trained",
        "datasets": "elsewhere",
        "max_tokens": 12,
        "batch_size": 16,
        "similarity": False,
        "resamples": 200,
    }
    return ModelEvaluationParameters.model_validate(
        {"model_evaluation": given | changes, "promotion": promotion}
    )


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
    from llm_engineering.application.evaluation.models.systems import read_manifest

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


@pytest.fixture(autouse=True)
def registry(empty_registry: ZenMLRegistry) -> ZenMLRegistry:
    return empty_registry


def decision(run: Any) -> dict[str, Any]:
    [artifact] = run.steps["decide_on_candidate"].outputs["promotion"]
    found: dict[str, Any] = artifact.load()
    return found


@pytest.mark.slow
def test_an_adapter_over_a_base_that_has_changed_is_refused(trained: Path, workplace: Path) -> None:
    make_model(workplace / "base", seed=1)
    with pytest.raises(ConfigurationError, match="weights of the base base are others"):
        run_pipeline("model_evaluation", evaluation())


@pytest.mark.slow
def test_training_registers_and_evaluation_decides(
    trained: Path, registry: ZenMLRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    [version] = registry.list_versions("toy")
    assert (Path(version.location), version.stage) == (trained, Stage.NONE)
    assert (trained / "README.md").is_file()
    policy = PromotionPolicy(metric="perplexity", min_items=20)
    refused = decision(run_pipeline("model_evaluation", evaluation(policy)))
    assert (refused["version"], refused["promoted"]) == ("toy:1", False)
    assert any("6" in reason and "20" in reason for reason in refused["reasons"])
    assert "toy:1 does not go to staging" in " ".join(capsys.readouterr().out.split())
    assert len(registry.list_decisions("toy")) == 1
    assert registry.get("toy").metadata["evaluation_report"] == str(trained / "evaluation.json")


@pytest.mark.slow
def test_without_a_policy_nothing_is_decided(trained: Path, registry: ZenMLRegistry) -> None:
    found = decision(run_pipeline("model_evaluation", evaluation()))
    assert (found["decided"], found["stage"]) == (False, "none")
    assert "no policy" in found["reasons"][0]
    assert registry.list_decisions("toy") == []


@pytest.mark.slow
def test_the_model_in_production_is_measured_once_and_not_decided_on(
    trained: Path, registry: ZenMLRegistry
) -> None:
    promote(registry, "toy", force="a test needs one in production")
    run = run_pipeline("model_evaluation", evaluation(PromotionPolicy(metric="perplexity")))
    report = EvaluationReport.model_validate(output(run, "evaluation_report"))
    assert [(system.system, system.model) for system in report.systems][1:] == [("production", "toy:1")]
    assert decision(run)["reasons"] == ["the model in production is the newest"]


@pytest.mark.slow
def test_an_older_model_than_that_in_production_is_measured_and_not_decided_on(
    trained: Path, registry: ZenMLRegistry
) -> None:
    older = trained.with_name("older")
    shutil.copytree(trained, older)
    manifest = json.loads((older / "model.json").read_text(encoding="utf-8"))
    manifest |= {
        "created_at": "2020-01-01T00:00:00Z",
        "files": {**manifest["files"], "training.json": "0" * 64},
    }
    (older / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    promote(registry, "toy", force="a test needs one in production")
    run = run_pipeline("model_evaluation", evaluation(PromotionPolicy(metric="perplexity"), sft=str(older)))
    report = EvaluationReport.model_validate(output(run, "evaluation_report"))
    assert [system.system for system in report.systems] == ["base", "production", "sft"]
    assert decision(run)["reasons"] == ["the model in production is the newest"]


def test_the_base_alone_is_measured_and_nothing_is_decided(workplace: Path) -> None:
    given = evaluation(PromotionPolicy(metric="perplexity"), base="base", systems=["base"])
    assert decision(run_pipeline("model_evaluation", given))["reasons"] == ["no trained model was evaluated"]

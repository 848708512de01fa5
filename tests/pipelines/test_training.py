"""The training pipeline on ZenML, with a model of two layers: from a data set to a model's folder, report and plot."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from zenml import pipeline, step

from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.application.training.finetune.sft import load_model_folder
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import ConfigurationError, TemplateMismatchError
from steps.context import find_newest_dataset
from tests.fakes.toy_model import make_model, make_samples, write_dataset
from tools.run import main, run_pipeline

pytest.importorskip("trl", reason="the group 'training' is not installed")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with a base model and a data set."""
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "base")
    write_dataset(tmp_path / "dataset", make_samples(12), make_samples(4, split=Split.VALIDATION))
    return tmp_path


def parameters(**changes: Any) -> dict[str, Any]:
    sft = {
        "base_model": "base",
        "max_steps": 4,
        "max_length": 256,
        "eval_steps": 2,
        "optimizer": {"learning_rate": 0.01},
    }
    return {"name": "toy", "dataset": "dataset", "output_dir": "trained", "sft": sft} | changes


def training(**changes: Any) -> Training:
    return Training(training=SftRun.model_validate(parameters(**changes)))


@step(enable_cache=False)
def hand_over(folder: str) -> Annotated[Path, "instruct_dataset"]:
    """Stands for the generation pipeline, which leaves its data set as this artifact."""
    return Path(folder)


@pipeline(enable_cache=False)
def generation(folder: str) -> None:
    hand_over(folder)


def test_a_data_set_becomes_a_model_with_report_metadata_and_plot(workplace: Path) -> None:
    run = run_pipeline("training", training())
    outputs = run.steps["train_sft"].outputs
    report = outputs["training_report"][0].load()
    model = load_model_folder(workplace / report["folder"])
    assert model.manifest.dataset == "toy@1"
    assert report["metrics"] == model.manifest.metrics
    assert report["metrics"]["validation_loss_last"] < report["metrics"]["validation_loss_first"]
    page = str(outputs["training_plot"][0].load())
    assert page.count("<polyline") == 2
    logged = run.steps["train_sft"].run_metadata
    assert logged["validation_loss_last"] == pytest.approx(report["metrics"]["validation_loss_last"])


def test_without_a_folder_the_newest_data_set_is_taken(workplace: Path) -> None:
    generation(folder=str(workplace / "dataset"))
    newer = write_dataset(workplace / "newer", make_samples(5), make_samples(1, split=Split.VALIDATION))
    generation(folder=str(newer))
    run = run_pipeline("training", training(dataset=None, name="newest"))
    report = run.steps["train_sft"].outputs["training_report"][0].load()
    assert load_model_folder(workplace / report["folder"]).record.samples.train == 5


def test_without_any_data_set_it_is_told_how_to_make_one() -> None:
    with pytest.raises(ConfigurationError, match="run-generate-absent-datasets-pipeline, or name a folder"):
        find_newest_dataset("absent_dataset")


def test_another_template_than_the_data_sets_ends_the_run_naming_both(workplace: Path) -> None:
    write_dataset(workplace / "other", make_samples(4), template_name="phi3")
    with pytest.raises(TemplateMismatchError, match=r"'chatml'.*'phi3'"):
        run_pipeline("training", training(dataset="other"))


def test_the_command_line_shows_the_model_and_its_losses(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = workplace / "run.yaml"
    config.write_text(yaml.safe_dump({"parameters": {"training": parameters()}}), encoding="utf-8")
    assert main(["training", "--config", str(config)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Model: trained/toy/" in told
    assert "Validation loss:" in told

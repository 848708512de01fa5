"""From a trained model's folder to production and back: the step in a pipeline, then the tasks, on a ZenML home of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from zenml import pipeline, step
from zenml.client import Client
from zenml.enums import ExecutionMode

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.training.registry.promotion import PromotionPolicy
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelFileError,
    PromotionRefusedError,
)
from llm_engineering.domain.models import EvaluationReport, ModelManifest, Score, Stage, SystemReport
from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry
from steps.registry import register_and_decide
from tests.conformance.registry_contract import NOW, manifest
from tests.unit.test_model_card import DATASET
from tests.unit.test_promotion import difference
from tools.registry import REFUSED, main
from tools.run import run_pipeline

ROOT = Path(__file__).resolve().parents[2]
POLICY = PromotionPolicy(metric="rougeL", margin=0.01)

pytestmark = [pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"), pytest.mark.timeout(300)]


class Parameters(StrictConfig):
    folder: str
    evaluation: dict[str, Any] | None = None
    policy: PromotionPolicy | None = None
    dataset: str | None = None


@step(enable_cache=False)
def trained(folder: str) -> dict[str, Any]:
    """Stands for training: names the folder that it made."""
    return {"folder": folder, "status": "finished"}


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def registration(
    folder: str,
    evaluation: dict[str, Any] | None = None,
    policy: PromotionPolicy | None = None,
    dataset: str | None = None,
) -> None:
    register_and_decide(trained(folder), evaluation, policy, dataset)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_registry: ZenMLRegistry) -> Path:
    """A project in ``tmp_path``, with no model registered."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    policy = "parameters: {promotion: {metric: rougeL, margin: 0.01}}"
    (tmp_path / "configs" / "model_evaluation.yaml").write_text(policy)
    return tmp_path


def folder(root: Path, weights: str) -> Path:
    """A trained model, as training leaves it."""
    made = root / "data" / "trained" / "twin" / weights
    (made / "adapter").mkdir(parents=True)
    for name in ("adapter/adapter_model.safetensors", "training.json"):
        (made / name).write_text(weights)
    (made / "model.json").write_text(manifest(weights).model_dump_json())
    return made


def evaluation(
    weights: str, reference: str = "base", model: str = "SmolLM2", low: float = 0.02
) -> EvaluationReport:
    candidate: ModelManifest = manifest(weights)
    scores = (Score(metric="rougeL", value=0.3, n=60),)
    return EvaluationReport(
        id=f"evaluation-{weights}-{low}",
        dataset="articles/1",
        dataset_hash="d" * 64,
        template_hash="t" * 64,
        systems=(
            SystemReport(system=reference, model=model, scores=scores),
            SystemReport(system="sft", model=candidate.content_hash, scores=scores),
        ),
        differences=(difference("rougeL", low, 0.06, reference=reference),),
        seed=0,
        created_at=NOW,
    )


def register(root: Path, weights: str, report: EvaluationReport | None = None) -> dict[str, Any]:
    made = root / "data" / "trained" / "twin" / weights
    given = {
        "folder": str(made if made.exists() else folder(root, weights)),
        "evaluation": report.model_dump(mode="json") if report else None,
        "policy": POLICY if report else None,
        "dataset": None,
    }
    registration.with_options(enable_cache=False)(**given)
    run = Client().get_pipeline("registration").last_run
    return dict(run.steps["register_and_decide"].outputs["promotion"][0].load())


def stages() -> list[str]:
    return [version.stage.value for version in reversed(ZenMLRegistry().list_versions("twin"))]


def task(*arguments: str) -> int:
    return main(arguments)


def test_a_model_goes_from_its_folder_to_production_and_back(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = register(home, "a", evaluation("a"))
    assert (first["version"], first["stage"], first["promoted"]) == ("twin:1", "staging", True)
    assert register(home, "a", evaluation("a")) == first, "again: the same version and decision"
    assert task("promote", "twin") == 0
    assert "twin:1 is in production" in capsys.readouterr().out

    against = {"reference": "production", "model": "twin:1"}
    worse = register(home, "b", evaluation("b", low=-0.02, **against))
    assert (worse["version"], worse["stage"], worse["promoted"]) == ("twin:2", "none", False)
    assert "is not shown to be better than twin:1" in worse["reasons"][0]
    better = register(home, "c", evaluation("c", **against))
    assert (better["version"], better["stage"]) == ("twin:3", "staging")
    assert task("promote", "twin:3") == 0
    assert stages() == ["archived", "none", "production"]
    assert len(ZenMLRegistry().list_decisions("twin", 1)) == 2, "a decision once, and an act"

    capsys.readouterr()
    assert task("rollback", "twin", "--reason", "odd answers") == 0
    assert "twin:1 is in production; before: twin:3" in capsys.readouterr().out
    assert stages() == ["production", "none", "archived"]
    card = (home / "data/trained/twin/a/README.md").read_text()
    assert "odd answers" in card
    with pytest.raises(PromotionRefusedError, match="first in production"):
        task("rollback", "twin")


def test_a_model_without_evaluation_is_registered_and_goes_nowhere(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = register(home, "a")
    assert (found["version"], found["decided"], found["stage"]) == ("twin:1", False, "none")
    with pytest.raises(PromotionRefusedError, match="has no evaluation"):
        task("promote", "twin", "--to", "staging")
    with pytest.raises(PromotionRefusedError, match="in staging"):
        task("promote", "twin")
    assert stages() == ["none"]
    report = home / "report.json"
    report.write_text(evaluation("a").model_dump_json())
    assert task("promote", "twin:1", "--to", "staging", "--report", str(report)) == 0
    assert "twin:1 is in staging" in capsys.readouterr().out
    assert task("promote", "twin:1", "--to", "staging") == 0, "now the registry knows the evaluation"
    assert len(ZenMLRegistry().list_decisions("twin", 1)) == 1


def test_a_refusal_says_why_and_fails_the_task(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(home, "a")
    report = home / "report.json"
    report.write_text(evaluation("a", low=-0.5).model_dump_json())
    capsys.readouterr()
    assert task("promote", "twin", "--to", "staging", "--report", str(report)) == REFUSED
    told = capsys.readouterr().out
    assert "does not go to staging" in told
    assert "is not shown to be better than the base model by more than 0.01" in told
    assert task("promote", "twin", "--force", "demonstration") == 0
    assert stages() == ["production"]


def test_the_list_shows_stages_and_for_one_model_its_decisions(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.registry.console.width", 200, raising=False)
    assert task("list") == 0
    assert "No model is registered yet" in capsys.readouterr().out
    register(home, "a", evaluation("a"))
    capsys.readouterr()
    assert task("list", "twin") == 0
    told = capsys.readouterr().out
    assert "twin:1" in told
    assert "staging" in told
    assert "Decisions" in told
    assert "better" in told


def test_what_a_run_used_is_linked_and_the_card_is_an_artifact(home: Path) -> None:
    (home / "set").mkdir()
    (home / "set" / "manifest.json").write_text(DATASET.model_dump_json())
    registration(str(folder(home, "a")), None, None, str(home / "set"))
    version = Client().get_model_version("twin", 1)
    links = Client().list_model_version_artifact_links(model_version_id=version.id).items
    assert [link.artifact_version.load() for link in links] == [
        {"folder": str(home / "data/trained/twin/a"), "status": "finished"}
    ]
    run = Client().get_pipeline("registration").last_run
    [artifact] = run.steps["register_and_decide"].outputs["model_card"]
    card = (home / "data/trained/twin/a/README.md").read_text()
    assert artifact.load() == card
    assert "Lineage: 40 document(s)" in card
    assert version.run_metadata["model_card"].endswith("README.md")
    ZenMLRegistry().set_stage("twin", 1, Stage.STAGING)
    assert task("promote", "twin", "--force", "try") == 0
    assert "Lineage: 40" in (home / "data/trained/twin/a/README.md").read_text(), (
        "the card keeps what it knew"
    )


def test_a_model_whose_files_are_gone_is_not_registered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.registration", registration, raising=False)
    made = folder(home, "a")
    (made / "training.json").unlink()
    with pytest.raises(ModelFileError, match=r"1 file\(s\) that .* names are gone, such as training\.json"):
        run_pipeline("registration", Parameters(folder=str(made)))
    (made / "model.json").write_text(json.dumps({"name": "twin"}))
    with pytest.raises(ModelFileError, match="is no ModelManifest"):
        run_pipeline("registration", Parameters(folder=str(made)))
    with pytest.raises(ModelFileError, match="Cannot read"):
        run_pipeline("registration", Parameters(folder=str(home / "nowhere")))
    assert ZenMLRegistry().list_versions() == []


def test_wrong_arguments_are_told(home: Path) -> None:
    register(home, "a")
    with pytest.raises(InvalidInputError, match="as in twin:3"):
        task("promote", "twin:new")
    with pytest.raises(InvalidInputError, match=r"no model 'twn'\. Models: twin"):
        task("rollback", "twn")
    with pytest.raises(InvalidInputError, match="no version 4 of twin"):
        task("promote", "twin:4", "--force", "x")
    with pytest.raises(ConfigurationError, match="--report and --policy"):
        task("promote", "twin", "--report", "x.json")
    broken = home / "report.json"
    broken.write_text("{}")
    with pytest.raises(ModelFileError, match="is no EvaluationReport"):
        task("promote", "twin", "--to", "staging", "--report", str(broken))


@pytest.mark.slow
def test_the_task_itself_ends_with_a_message_and_no_traceback(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.registry", "promote", "twin"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "There is no model 'twin'" in done.stderr
    assert "Traceback" not in done.stderr

"""Each step on a machine of its own: an empty folder that is gone before the next step begins. What goes on from step to step
and from run to run goes through ZenML, its artifact store and ``SHARED_FILES_URI``, or is not found."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from zenml.orchestrators.local.local_orchestrator import LocalOrchestrator

from llm_engineering.application.deployment.config import ModelConfig
from llm_engineering.application.deployment.model import find_model
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.application.training.registry.promotion import PromotionPolicy, promote
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.models import Stage
from llm_engineering.settings import load_settings
from tests.fakes.toy_model import make_model, make_samples, write_dataset
from tests.pipelines.test_model_evaluation import HELD_OUT, add_test_split, evaluation
from tests.pipelines.test_training import generation, parameters
from tools.run import run_pipeline

pytest.importorskip("trl", reason="the group 'training' is not installed")
pytest.importorskip("sacrebleu", reason="the group 'training' is not installed")


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The machines that steps have run on; each had the base model, as its image would, and nothing else."""
    used: list[Path] = []
    base = make_model(tmp_path / "base")
    run_step = LocalOrchestrator.run_step

    def enter() -> Path:
        machine = tmp_path / f"machine-{len(used)}"
        machine.mkdir()
        (machine / "base").symlink_to(base)
        used.append(machine)
        for name in ("HOME", "LOCAL_DATA_DIR"):
            monkeypatch.setenv(name, str(machine / name.lower()))
        monkeypatch.chdir(machine)
        return machine

    def run_apart(self: LocalOrchestrator, *arguments: Any, **named: Any) -> None:
        machine = enter()
        try:
            run_step(self, *arguments, **named)
        finally:
            monkeypatch.chdir(tmp_path)
            for name in ("HOME", "LOCAL_DATA_DIR"):  # the submitter's own, where the run's report goes
                monkeypatch.setenv(name, str(tmp_path / "submitter" / name.lower()))
            shutil.rmtree(machine)

    monkeypatch.setattr(LocalOrchestrator, "run_step", run_apart)
    monkeypatch.setenv("SHARED_FILES_URI", str(tmp_path / "mounted"))
    monkeypatch.chdir(tmp_path)
    return used


@pytest.mark.slow
@pytest.mark.usefixtures("empty_registry")
def test_a_model_is_trained_evaluated_and_deployed_on_machines_that_share_no_disk(
    machines: list[Path], tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "dataset", make_samples(12), make_samples(4, split=Split.VALIDATION))
    add_test_split(dataset, make_samples(6, split=Split.TEST, answers=HELD_OUT))
    generation(folder=str(dataset))
    shutil.rmtree(dataset)  # only the artifact store has it now

    run_pipeline("training", Training(training=SftRun.model_validate(parameters(dataset=None))))
    policy = PromotionPolicy(metric="perplexity", min_items=20)
    run = run_pipeline("model_evaluation", evaluation(policy, dataset=None))
    [decided] = run.steps["decide_on_candidate"].outputs["promotion"]
    assert decided.load()["version"] == "toy:1"
    assert decided.load()["decided"]
    assert len(machines) == 5
    left = [str(path) for machine in machines for path in machine.rglob("*")]
    assert left == []

    with open_resources(load_settings(None)) as resources:
        promote(resources.registry, "toy", force="a test deploys it")
        model = find_model(
            ModelConfig(name="toy", stage=Stage.PRODUCTION), "llama_cpp", resources.registry, "answer.v1"
        )
    assert model.label == "toy:1"
    assert model.files["model.gguf"].stat().st_size > 0

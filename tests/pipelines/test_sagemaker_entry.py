"""What a training job's container runs, in processes of its own over a folder like the platform's, with a model of two layers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.training.finetune.model_folder import verify_folder
from llm_engineering.application.training.finetune.remote import Cluster, ContainerFolders, remote_run
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.application.training.finetune.sft import load_model_folder
from llm_engineering.domain.datasets import Split
from tests.fakes.toy_model import make_model, make_samples, write_dataset
from tools import sagemaker_entry

pytest.importorskip("trl", reason="the group 'training' is not installed")

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """A run, in a project's folder of its own that holds its base model and its data set."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    make_model(project / "base")
    write_dataset(project / "dataset", make_samples(12), make_samples(4, split=Split.VALIDATION))
    sft = {"base_model": "base", "max_steps": STEPS, "max_length": 256, "save_steps": 5, "eval_steps": 20}
    return Training(training=SftRun.model_validate({"name": "toy", "dataset": "dataset", "sft": sft}))


def machine(root: Path, asked: Training) -> ContainerFolders:
    """A machine as the platform prepares it: the job's inputs in their channels."""
    folders = ContainerFolders(root)
    for item in remote_run(asked).inputs:
        for name, content in item.files.items():
            target = folders.channel_folder(item.channel) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    folders.cluster.parent.mkdir(parents=True)
    folders.cluster.write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}), encoding="utf-8")
    return folders


def start(folders: ContainerFolders) -> "subprocess.Popen[str]":
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MODELS_DIR", "RANK", "WORLD_SIZE")
    }
    told: dict[str, Any] = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "SM_NUM_GPUS": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "tools.sagemaker_entry", "--root", str(folders.root)],
        cwd=folders.root,
        env={**environment, **told},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_machine_that_is_taken_away_costs_no_more_than_to_the_last_checkpoint(
    asked: Training, tmp_path: Path
) -> None:
    first = machine(tmp_path / "first", asked)
    with start(first) as process:
        deadline = time.monotonic() + 240
        while not list(first.checkpoints.glob("toy/*/checkpoints/checkpoint-*/WHOLE")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not list(first.model.rglob("model.json"))

    second = machine(tmp_path / "second", asked)
    shutil.copytree(first.checkpoints, second.checkpoints)
    with start(second) as process:
        told = process.communicate(timeout=300)[0]
    assert process.returncode == 0, told
    (manifest,) = second.model.glob("toy/*/model.json")
    assert verify_folder(manifest.parent).name == "toy"
    record = load_model_folder(manifest.parent).record
    assert record.resumed_from
    assert record.steps == STEPS
    assert not (manifest.parent / "checkpoints").exists()
    assert not second.failure.exists()

    assert asked.training is not None
    from llm_engineering.application.training.finetune.data import open_dataset
    from llm_engineering.application.training.finetune.sft import run_name

    here = run_name(asked.training.sft, open_dataset(Path("dataset"), "instruct", "chatml").hash)
    assert manifest.parent.name == here, "the same run has the same folder here, and is not trained again"


@pytest.mark.nightly
def test_a_failure_is_left_where_the_platform_reads_it(asked: Training, tmp_path: Path) -> None:
    folders = machine(tmp_path / "ml", asked)
    (folders.channel_folder("instruct") / "manifest.json").unlink()
    with start(folders) as process:
        told = process.communicate(timeout=200)[0]
    assert process.returncode == 1, told
    assert "is no data set" in folders.failure.read_text(encoding="utf-8")
    assert "Traceback" not in folders.failure.read_text(encoding="utf-8")


def test_the_reason_of_a_failure_is_the_last_that_fits_what_the_platform_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.stderr.writelines(f'line {n} ' + 'x' * 90 + '\\n' for n in range(40)); sys.exit('the error')"
    monkeypatch.setattr(sagemaker_entry, "training_command", lambda *_: [sys.executable, "-c", code])
    status, told = sagemaker_entry._run(Training(), Cluster(), tmp_path)
    assert status == 1
    assert told.endswith("the error\n")
    assert told.startswith("line ")
    assert 700 < len(told) <= sagemaker_entry.TOLD_CHARACTERS

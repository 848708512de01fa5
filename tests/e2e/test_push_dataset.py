"""``poe push-to-huggingface``, in a process of its own, against a hub on loopback."""

import os
import subprocess
import sys
from pathlib import Path

from llm_engineering.application.training.datasets.store import manifest_of, write_dataset
from llm_engineering.domain.datasets import Split
from tests.fakes.dataset_hub import DatasetHub
from tests.unit.dataset_samples import instruct


def folder(root: Path) -> Path:
    splits = {Split.TRAIN: [instruct(split=Split.TRAIN)]}
    manifest = manifest_of("instruct", "ada", splits, template="chatml", template_hash="0", seed=0, config={})
    return write_dataset(root, manifest, splits, card="# Ada\n", report="")


def push(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "POE_"))}
    return subprocess.run(
        [sys.executable, "-m", "tools.push", "dataset", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**clean, "HF_HOME": str(root / "home"), **variables},
    )


def test_the_folder_s_files_reach_a_private_repository(tmp_path: Path) -> None:
    made = folder(tmp_path)
    with DatasetHub() as hub:
        done = push(tmp_path, str(made), "ada/set", HF_TOKEN=hub.token, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert "ada/set" in done.stdout
    assert "train.jsonl" in hub.files
    assert "dropped.jsonl" not in hub.files
    assert hub.token not in done.stdout + done.stderr


def test_without_a_token_the_variable_is_named_and_a_dry_run_still_works(tmp_path: Path) -> None:
    made = folder(tmp_path)
    done = push(tmp_path, str(made), "ada/set")
    assert done.returncode == 1
    assert "HF_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr
    dry = push(tmp_path, str(made), "ada/set", "--dry-run")
    assert dry.returncode == 0
    assert "Nothing was pushed" in dry.stdout


def test_a_damaged_data_set_is_not_pushed(tmp_path: Path) -> None:
    made = folder(tmp_path)
    (made / "train.jsonl").write_text("{}\n")
    done = push(tmp_path, str(made), "ada/set", HF_TOKEN="hf_x")
    assert done.returncode == 1
    assert "line 1 is no sample" in done.stderr

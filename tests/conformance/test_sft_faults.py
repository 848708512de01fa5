"""Supervised fine-tuning that cannot go on: killed, refused, out of memory, out of disk, or with a loss that is no number."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelFileError,
    TemplateMismatchError,
    TooManyFailuresError,
    TrainingError,
)
from llm_engineering.infrastructure.training.trl.faults import explain_failures
from tests.conformance.sft_runs import base, dataset, losses, train, weights
from tests.fakes.toy_model import LINES, make_model, make_samples, write_dataset
from tests.fakes.tracker import RecordingTracker

pytest.importorskip("trl", reason="the group 'training' is not installed")

__all__ = ["base", "dataset"]

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.conformance.sft_runs import train
from tests.fakes.tracker import RecordingTracker

class Killing(RecordingTracker):
    def log(self, metrics, step):
        super().log(metrics, step)
        if step == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)

base, dataset, root = map(Path, sys.argv[1:4])
train(base, dataset, root, Killing(), **json.loads(sys.argv[5]))
"""


FULL = """
import json, resource, signal, sys
from pathlib import Path
from tests.conformance.sft_runs import train
from tests.fakes.tracker import RecordingTracker

class Filling(RecordingTracker):
    def log(self, metrics, step):
        super().log(metrics, step)
        if step == int(sys.argv[4]):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

base, dataset, root = map(Path, sys.argv[1:4])
train(base, dataset, root, Filling(), **json.loads(sys.argv[5]))
"""


VALUES: dict[str, Any] = {"max_steps": 10, "save_steps": 3, "eval_steps": 5, "lora": {"lora_dropout": 0.3}}
LONGER = VALUES | {"max_steps": 24}


class TestKilled:
    def kill_at(self, step: int, base: Path, dataset: Path, root: Path, **values: Any) -> None:
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                KILLED,
                *map(str, (base, dataset, root, step)),
                json.dumps(values or VALUES),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert run.returncode == -signal.SIGKILL, run.stderr

    @pytest.mark.slow
    def test_gone_on_from_its_checkpoint_it_has_the_unbroken_runs_trace(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        unbroken = train(base, dataset, tmp_path / "unbroken", **VALUES)
        self.kill_at(8, base, dataset, tmp_path / "killed")
        tracker = RecordingTracker()
        resumed = train(base, dataset, tmp_path / "killed", tracker, **VALUES)
        assert resumed.record.resumed_from == (6,)
        assert losses(resumed) == losses(unbroken)
        assert resumed.record.steps == 10
        assert {step for step, metrics in tracker.logged if "loss" in metrics} == {7, 8, 9, 10}, "done once"
        ours, theirs = weights(resumed), weights(unbroken)
        assert all((ours[name] == tensor).all() for name, tensor in theirs.items())

    @pytest.mark.nightly
    @pytest.mark.timeout(1200)
    def test_killed_at_ten_random_steps_it_always_has_the_unbroken_runs_trace(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        unbroken = train(base, dataset, tmp_path / "unbroken", **LONGER)
        expected = losses(unbroken)
        assert expected[-1][0] == LONGER["max_steps"]
        for step in sorted(random.Random(11).sample(range(1, LONGER["max_steps"]), 10)):
            root = tmp_path / f"killed-at-{step}"
            self.kill_at(step, base, dataset, root, **LONGER)
            resumed = train(base, dataset, root, **LONGER)
            assert losses(resumed) == expected, step
            last = (step - 1) // 3 * 3  # it dies as the step is told, before its checkpoint is made
            assert resumed.record.resumed_from == ((last,) if last else ()), step

    @pytest.mark.nightly
    @pytest.mark.timeout(1200)
    def test_killed_ten_times_in_a_row_one_run_comes_to_the_same_end(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        unbroken = train(base, dataset, tmp_path / "unbroken", **LONGER)
        for step in sorted(random.Random(12).sample(range(1, LONGER["max_steps"]), 10)):
            self.kill_at(step, base, dataset, tmp_path / "killed", **LONGER)
        resumed = train(base, dataset, tmp_path / "killed", **LONGER)
        assert losses(resumed) == losses(unbroken)
        ours, theirs = weights(resumed), weights(unbroken)
        assert all((ours[name] == tensor).all() for name, tensor in theirs.items())

    @pytest.mark.slow
    def test_a_checkpoint_that_was_being_written_is_not_gone_on_from(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        unbroken = train(base, dataset, tmp_path, **VALUES)
        folder = unbroken.folder / "checkpoints"
        (unbroken.folder / "model.json").unlink()
        for checkpoint in folder.glob("checkpoint-1*"):
            (checkpoint / "WHOLE").unlink()
            (checkpoint / "optimizer.pt").write_bytes(b"torn")
        again = train(base, dataset, tmp_path, **VALUES)
        assert again.record.resumed_from == (9,)
        assert losses(again) == losses(unbroken)


class TestRefusals:
    @pytest.mark.slow
    def test_a_machine_without_the_memory_is_told_the_knobs(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(
            ConfigurationError, match=r"needs about .* batch_size: 1 with gradient_accumulation_steps: 4"
        ):
            train(base, dataset, tmp_path, max_memory_fraction=1e-6)

    def test_a_data_set_of_another_template_is_refused_naming_both(self, base: Path, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data", make_samples(4), template_name="gemma")
        with pytest.raises(
            TemplateMismatchError, match=r"training run has 'chatml'.*data set toy@1 has 'gemma'"
        ):
            train(base, data, tmp_path)

    def test_a_data_set_of_another_definition_of_the_template_is_refused(
        self, base: Path, tmp_path: Path
    ) -> None:
        data = write_dataset(tmp_path / "data", make_samples(4))
        file = data / "manifest.json"
        told = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**told, "template_hash": "0" * 12}), encoding="utf-8")
        with pytest.raises(TemplateMismatchError, match="its definition changed"):
            train(base, data, tmp_path)

    def test_a_data_set_that_names_no_template_is_refused(self, base: Path, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data", make_samples(4))
        file = data / "manifest.json"
        told = json.loads(file.read_text(encoding="utf-8"))
        del told["template"], told["template_hash"]
        file.write_text(json.dumps(told), encoding="utf-8")
        with pytest.raises(InvalidInputError, match=r"no manifest of a data set.*(\n.*)*template"):
            train(base, data, tmp_path)

    def test_a_template_that_the_base_does_not_know_is_refused_with_those_that_fit(
        self, base: Path, tmp_path: Path
    ) -> None:
        import shutil

        from transformers import AutoTokenizer

        other = shutil.copytree(base, tmp_path / "base")
        file = other / "tokenizer.json"
        file.write_text(file.read_text(encoding="utf-8").replace("<|eot_id|>", "<|other|>"), encoding="utf-8")
        assert len(AutoTokenizer.from_pretrained(other)("<|eot_id|>")["input_ids"]) > 1
        data = write_dataset(tmp_path / "data", make_samples(4), template_name="llama3")
        with pytest.raises(
            ConfigurationError, match=r"'llama3' does not fit .*eot_id.*Templates that fit: .*chatml"
        ):
            train(str(other), data, tmp_path, template="llama3")

    def test_sequences_beyond_the_context_of_the_base_are_refused(self, base: Path, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data", make_samples(4, answers=[LINES[0] * 60]))
        with pytest.raises(ConfigurationError, match=r"was made for 512 at most.*max_length to 512"):
            train(base, data, tmp_path, max_length=4096)

    def test_a_data_set_of_preferences_is_refused(self, base: Path, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data", make_samples(4), kind="preference")
        with pytest.raises(InvalidInputError, match="kind 'preference'"):
            train(base, data, tmp_path)

    def test_an_empty_data_set_is_refused(self, base: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="no samples to train on"):
            train(base, write_dataset(tmp_path / "data", []), tmp_path)

    def test_a_folder_without_a_data_set_tells_how_to_make_one(self, base: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="run-generate-instruct-datasets-pipeline"):
            train(base, tmp_path / "none", tmp_path)

    def test_validation_without_a_validation_set_has_no_effect(self, base: Path, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data", make_samples(4))
        with pytest.raises(ConfigurationError, match="the validation set is empty"):
            train(base, data, tmp_path, eval_steps=2)

    def test_steps_that_an_epoch_has_not_are_told(self, base: Path, dataset: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"24 samples make a run of 6 steps.*\n.*warmup_steps"):
            train(base, dataset, tmp_path, max_steps=None, epochs=1, optimizer={"warmup_steps": 6})

    def test_layers_that_the_model_has_not_are_named(self, base: Path, dataset: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"no layers named query.*down_proj"):
            train(base, dataset, tmp_path, lora={"target_modules": ["query"]})

    @pytest.mark.parametrize("name", ["nothing", "./nowhere", "a/b/c"])
    def test_an_unknown_base_is_told_with_what_can_be_named(
        self, name: str, dataset: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigurationError, match="There is no base model"):
            train(name, dataset, tmp_path)

    def test_a_folder_without_weights_is_refused(self, dataset: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="holds no model"):
            train(tmp_path, dataset, tmp_path / "out")

    def test_a_revision_of_a_folder_has_no_effect(self, base: Path, dataset: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="'revision' has no effect"):
            train(base, dataset, tmp_path, revision="main")

    def test_a_model_of_the_hub_that_cannot_be_had_is_told(
        self, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelFileError, match="nobody/no-such-model cannot be loaded"):
            train("nobody/no-such-model", dataset, tmp_path)


class TestLimit:
    @pytest.fixture
    def long(self, tmp_path: Path) -> Path:
        """Two of ten samples are long."""
        answers = ("Yes.",) * 4 + (LINES[0] * 9,)
        return write_dataset(tmp_path / "data", make_samples(10, answers=answers))

    def test_what_is_too_long_is_left_out_and_counted(self, long: Path, base: Path, tmp_path: Path) -> None:
        samples = train(base, long, tmp_path, max_length=60).record.samples
        assert (samples.train, samples.over_limit) == (8, 2)
        assert samples.longest > 60

    def test_or_refused_as_configured(self, long: Path, base: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="2 of 10 samples are longer than max_length"):
            train(base, long, tmp_path, max_length=60, on_too_long="error")

    def test_too_many_are_an_error(self, long: Path, base: Path, tmp_path: Path) -> None:
        with pytest.raises(TooManyFailuresError, match="max_dropped_share"):
            train(base, long, tmp_path, max_length=60, max_dropped_share=0.1)

    def test_where_nothing_is_left_the_limit_is_named(self, base: Path, tmp_path: Path) -> None:
        short = make_samples(9, split=Split.VALIDATION, answers=["Yes."])
        data = write_dataset(tmp_path / "data", make_samples(1, answers=[LINES[0] * 9]), short)
        with pytest.raises(InvalidInputError, match="Nothing is left to train on"):
            train(base, data, tmp_path, max_length=60)


class TestFaults:
    def test_a_loss_that_is_no_number_stops_the_run_and_says_so(self, dataset: Path, tmp_path: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        spoilt = make_model(tmp_path / "base")
        model = AutoModelForCausalLM.from_pretrained(spoilt)
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
        model.save_pretrained(spoilt)
        tracker = RecordingTracker()
        with pytest.raises(TrainingError, match=r"at step 1;.*learning rate below"):
            train(spoilt, dataset, tmp_path, tracker)
        assert tracker.finished == [("failed", {})]
        assert not list(tmp_path.rglob("model.json"))

    def test_memory_that_runs_out_is_told_with_the_knobs(self, tmp_path: Path) -> None:
        import torch

        config = SftConfig(batch_size=4, gradient_accumulation_steps=2, method="full")
        with (
            pytest.raises(
                TrainingError, match=r"batch_size: 1 with gradient_accumulation_steps: 8.*method: lora"
            ),
            explain_failures(config, tmp_path, "cpu"),
        ):
            torch.empty(1 << 55)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    @pytest.mark.parametrize("how", ["torch", "text"])
    def test_a_full_disk_is_told_with_what_to_do(self, how: str, tmp_path: Path) -> None:
        """Real refusals of a device that is always full. It is handed over open: a writer that renames would replace it."""
        import torch

        def write() -> None:
            with Path("/dev/full").open("wb") as full:
                if how == "torch":
                    torch.save(torch.zeros(100_000), full)
                else:
                    full.write(b"x" * 100_000)

        config = SftConfig(max_steps=9, save_steps=3, save_total_limit=3)
        with (
            pytest.raises(TrainingError, match=r"The disk is full.*save_total_limit"),
            explain_failures(config, tmp_path, "cpu"),
        ):
            write()

    @pytest.mark.nightly
    def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_the_next_goes_on(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        """The kernel refuses files above a size, as a full disk does, from the second checkpoint on."""
        values: dict[str, Any] = {"max_steps": 6, "save_steps": 2}
        run = subprocess.run(
            [sys.executable, "-c", FULL, *map(str, (base, dataset, tmp_path, 3)), json.dumps(values)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert "TrainingError: The disk is full" in run.stderr, run.stderr
        again = train(base, dataset, tmp_path, **values)
        assert again.record.resumed_from == (2,)
        assert again.record.steps == 6

    def test_other_errors_pass_as_they_are(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), explain_failures(SftConfig(), tmp_path, "cpu"):
            raise KeyError("x")

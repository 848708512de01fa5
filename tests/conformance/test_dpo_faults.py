"""Preference training that cannot go on, or may not begin: killed, refused, out of memory, or a loss that is no number."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.training.finetune.data import open_dataset, read_preferences
from llm_engineering.application.training.finetune.dpo import ADAPTER, DpoConfig
from llm_engineering.application.training.finetune.model_folder import write_manifest
from llm_engineering.application.training.finetune.sft import TrainedModel, load_model_folder
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    TemplateMismatchError,
    TrainingError,
)
from llm_engineering.infrastructure.training.trl.faults import check_disk, explain_failures
from tests.conformance.dpo_runs import align, pairs, preferences, sft, write_preferences
from tests.conformance.sft_runs import base, dataset, losses, weights
from tests.fakes.toy_model import LINES
from tests.fakes.tracker import RecordingTracker

pytest.importorskip("trl", reason="the group 'training' is not installed")

__all__ = ["base", "dataset", "preferences", "sft"]

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import json, os, signal, sys
from pathlib import Path
from llm_engineering.application.training.finetune.sft import load_model_folder
from tests.conformance.dpo_runs import align
from tests.fakes.tracker import RecordingTracker

class Killing(RecordingTracker):
    def log(self, metrics, step):
        super().log(metrics, step)
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

sft, preferences, root = map(Path, sys.argv[1:4])
align(load_model_folder(sft), preferences, root, Killing(), **json.loads(sys.argv[4]))
"""


def copied(model: TrainedModel, target: Path) -> TrainedModel:
    """The model's folder once more, to be damaged."""
    shutil.copytree(model.folder, target)
    return load_model_folder(target)


def spoil(file: Path, tensor: str, value: float) -> None:
    """Put a number into a file of weights."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = next(name for name in tensors if tensor in name)
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.nightly
def test_killed_and_gone_on_it_has_the_unbroken_runs_trace(
    sft: TrainedModel, preferences: Path, tmp_path: Path
) -> None:
    values = {"max_steps": 6, "save_steps": 2, "eval_steps": 3}
    unbroken = align(sft, preferences, tmp_path / "unbroken", **values)
    arguments = [*map(str, (sft.folder, preferences, tmp_path / "killed")), json.dumps(values)]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    tracker = RecordingTracker()
    resumed = align(sft, preferences, tmp_path / "killed", tracker, **values)
    assert resumed.record.resumed_from == (4,)
    assert resumed.record.steps == 6
    assert losses(resumed) == losses(unbroken)
    assert {step for step, metrics in tracker.logged if "loss" in metrics} == {5, 6}, "done once"
    assert all((weights(resumed)[name] == tensor).all() for name, tensor in weights(unbroken).items())


class TestRefusals:
    def test_a_data_set_without_pairs_is_refused(self, sft: TrainedModel, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="no samples to train on"):
            align(sft, write_preferences(tmp_path / "data", []), tmp_path)

    def test_a_folder_without_a_data_set_tells_how_to_make_one(
        self, sft: TrainedModel, tmp_path: Path
    ) -> None:
        with pytest.raises(InvalidInputError, match="run-generate-preference-datasets-pipeline"):
            align(sft, tmp_path / "none", tmp_path)

    def test_a_data_set_of_another_template_is_refused_naming_both(
        self, sft: TrainedModel, tmp_path: Path
    ) -> None:
        data = write_preferences(tmp_path / "data", pairs(4, Split.TRAIN), template_name="gemma")
        with pytest.raises(
            TemplateMismatchError, match=r"training run has 'chatml'.*data set toy@1 has 'gemma'"
        ):
            align(sft, data, tmp_path)

    def test_a_data_set_of_another_definition_of_the_template_is_refused(
        self, sft: TrainedModel, preferences: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(preferences, tmp_path / "data")
        edit(tmp_path / "data" / "manifest.json", template_hash="0" * 12)
        with pytest.raises(TemplateMismatchError, match="its definition changed"):
            align(sft, tmp_path / "data", tmp_path)

    def test_an_sft_model_of_another_definition_of_the_template_is_refused(
        self, sft: TrainedModel, preferences: Path, tmp_path: Path
    ) -> None:
        old = copied(sft, tmp_path / "sft")
        edit(old.folder / "model.json", template_hash="0" * 12)
        with pytest.raises(TemplateMismatchError, match="the SFT model toy"):
            align(old, preferences, tmp_path)

    def test_another_base_under_the_same_name_is_refused(
        self, sft: TrainedModel, base: Path, preferences: Path, tmp_path: Path
    ) -> None:
        weights_file = base / "model.safetensors"
        whole = weights_file.read_bytes()
        spoil(weights_file, "norm", 3.0)
        try:
            with pytest.raises(
                ConfigurationError, match=r"weights of the base .* are others \([0-9a-f]{12}\)"
            ):
                align(sft, preferences, tmp_path)
        finally:
            weights_file.write_bytes(whole)
        assert not list((tmp_path / "toy").rglob("model.json"))

    def test_a_machine_without_the_memory_is_told_the_knobs(
        self, sft: TrainedModel, preferences: Path, tmp_path: Path
    ) -> None:
        told = r"needs about .* batch_size: 1 with gradient_accumulation_steps: 4"
        with pytest.raises(ConfigurationError, match=told) as refusal:
            align(sft, preferences, tmp_path, max_memory_fraction=1e-6)
        assert "method" not in str(refusal.value), "the method is that of the SFT model"

    def test_validation_without_a_validation_set_has_no_effect(
        self, sft: TrainedModel, tmp_path: Path
    ) -> None:
        data = write_preferences(tmp_path / "data", pairs(8, Split.TRAIN))
        with pytest.raises(ConfigurationError, match="eval_steps: without effect"):
            align(sft, data, tmp_path, eval_steps=2)

    def test_pairs_that_are_too_long_are_left_out_and_counted(
        self, sft: TrainedModel, tmp_path: Path
    ) -> None:
        long = [pair.model_copy(update={"chosen": LINES[0] * 9}) for pair in pairs(2, Split.TRAIN)]
        data = write_preferences(tmp_path / "data", [*pairs(10, Split.TRAIN), *long])
        samples = align(sft, data, tmp_path, max_steps=1, max_length=100).record.samples
        assert (samples.train, samples.over_limit) == (10, 2)
        assert samples.longest > 100
        with pytest.raises(ConfigurationError, match="2 of 12 pairs are longer than max_length"):
            align(sft, data, tmp_path, max_length=100, on_too_long="error")


class TestFaults:
    def test_a_loss_that_is_no_number_stops_the_run_and_says_so(
        self, sft: TrainedModel, preferences: Path, tmp_path: Path
    ) -> None:
        spoilt = copied(sft, tmp_path / "sft")
        spoil(spoilt.folder / ADAPTER, "lora_B", float("nan"))
        write_manifest(spoilt.folder, spoilt.manifest, {})
        tracker = RecordingTracker()
        with pytest.raises(TrainingError, match=r"at step 1;.*learning rate below"):
            align(spoilt, preferences, tmp_path, tracker)
        assert tracker.finished == [("failed", {})]
        assert not list((tmp_path / "toy").rglob("model.json"))

    def test_memory_that_runs_out_is_told_with_the_knobs_that_dpo_has(self, tmp_path: Path) -> None:
        import torch

        with (
            pytest.raises(TrainingError, match=r"batch_size: 1 with gradient_accumulation_steps: 8") as told,
            explain_failures(DpoConfig(batch_size=4, gradient_accumulation_steps=2), tmp_path, "cuda"),
        ):
            torch.empty(1 << 55)
        assert "gradient_checkpointing: true" in str(told.value)
        assert "method" not in str(told.value)

    def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_start(
        self, tmp_path: Path
    ) -> None:
        config = DpoConfig(max_steps=9, save_steps=3, save_total_limit=4)
        with pytest.raises(TrainingError, match=r"are needed for 5 checkpoints.*save_total_limit below 4"):
            check_disk(config, tmp_path, 1 << 60, 1 << 60)

    def test_a_line_of_the_file_is_a_line_whatever_the_text_holds(self, tmp_path: Path) -> None:
        """Unicode has more line breaks than files have; in JSON they may stand as they are."""
        odd = [
            pair.model_copy(update={"rejected": "One.\u2028Two.\x85Three."}) for pair in pairs(3, Split.TRAIN)
        ]
        data = write_preferences(tmp_path / "data", odd)
        assert read_preferences(open_dataset(data, "preference", "chatml"), Split.TRAIN) == odd

    def test_a_line_that_is_no_pair_is_named(self, tmp_path: Path) -> None:
        data = write_preferences(tmp_path / "data", pairs(3, Split.TRAIN))
        file = data / "train.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines()
        file.write_text("\n".join([lines[0], "{}", lines[2]]), encoding="utf-8")
        opened = open_dataset(data, "preference", "chatml")
        with pytest.raises(InvalidInputError, match=r"train.jsonl, line 2 is no PreferenceSample"):
            read_preferences(opened, Split.TRAIN)
        file.write_text(lines[0], encoding="utf-8")
        with pytest.raises(InvalidInputError, match="says 3 samples in train, the file has 1"):
            read_preferences(opened, Split.TRAIN)


class TestSteps:
    @pytest.mark.slow
    def test_eight_at_a_time_is_eight_accumulated(
        self, sft: TrainedModel, preferences: Path, tmp_path: Path
    ) -> None:
        import torch

        values: dict[str, Any] = {"max_steps": 2, "optimizer": {"name": "sgd", "learning_rate": 0.5}}
        runs = [
            align(
                sft,
                preferences,
                tmp_path / name,
                **values,
                batch_size=size,
                gradient_accumulation_steps=steps,
            )
            for name, size, steps in (("a", 8, 1), ("b", 1, 8))
        ]
        first, second = map(weights, runs)
        before = weights(sft)
        assert any((first[name] != before[name]).any() for name in first), "something was learned"
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-4)

    @pytest.mark.slow
    def test_checkpointing_changes_memory_and_not_the_loss(
        self, sft: TrainedModel, preferences: Path, tmp_path: Path
    ) -> None:
        plain, saving = (
            align(sft, preferences, tmp_path / name, max_steps=3, gradient_checkpointing=saved)
            for name, saved in (("a", False), ("b", True))
        )
        assert [loss for _, loss, _ in losses(saving)] == pytest.approx(
            [loss for _, loss, _ in losses(plain)]
        )

    def test_it_stops_early_and_hands_over_the_best(self, sft: TrainedModel, tmp_path: Path) -> None:
        """The validation pairs are the wrong way round, so that their loss must rise."""
        turned = [
            pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})
            for pair in pairs(4, Split.VALIDATION)
        ]
        data = write_preferences(tmp_path / "data", pairs(16, Split.TRAIN), turned)
        model = align(
            sft,
            data,
            tmp_path,
            max_steps=30,
            eval_steps=2,
            save_steps=2,
            save_total_limit=9,
            early_stopping={"patience": 2},
        )
        assert model.record.status == "stopped early"
        scored = {p.step: p.validation_loss for p in model.record.trace if p.validation_loss is not None}
        assert list(scored) == [0, 2, 4, 6]
        assert scored[2] < scored[4] < scored[6]  # type: ignore[operator]
        best = model.folder / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors"
        from safetensors.torch import load_file

        assert all((weights(model)[name] == tensor).all() for name, tensor in load_file(best).items())


def edit(file: Path, **changes: str) -> None:
    """Put other values for keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_what_dpo_gives_is_known_by_its_sft_models_adapter(
    sft: TrainedModel, preferences: Path, tmp_path: Path
) -> None:
    """Not by a hash of the whole folder: export adds files to it, and the adapter stays what it was."""
    before = align(sft, preferences, tmp_path, max_steps=1)
    grown = copied(sft, tmp_path / "sft")
    (grown.folder / "merged").mkdir()
    (grown.folder / "merged" / "model.safetensors").write_bytes(b"weights")
    manifest = write_manifest(grown.folder, grown.manifest, {})
    assert manifest.content_hash != sft.manifest.content_hash
    again = align(TrainedModel(grown.folder, manifest, grown.record), preferences, tmp_path, max_steps=1)
    assert again.folder == before.folder
    assert re.fullmatch("[0-9a-f]{64}", str(before.manifest.parent))
    assert before.manifest.parent in manifest.files.values()

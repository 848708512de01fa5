"""Preference training with the real libraries: it starts at the SFT model, is held by it, and learns to prefer."""

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.training.finetune.dpo import (
    ADAPTER,
    DpoConfig,
    DpoJob,
    DpoRun,
    encode_pair,
    inherit_from_sft,
    newest_sft,
)
from llm_engineering.application.training.finetune.preflight import plan
from llm_engineering.application.training.finetune.record import MARGIN
from llm_engineering.application.training.finetune.sft import TrainedModel
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelFileError,
    TooManyFailuresError,
)
from llm_engineering.infrastructure.training.export import Exporter
from llm_engineering.infrastructure.training.trl import Bases, hardware
from llm_engineering.infrastructure.training.trl.base import Base, load_tokenizer
from llm_engineering.infrastructure.training.trl.dpo import REFERENCE, Dpo
from llm_engineering.infrastructure.training.trl.tokens import HuggingFaceTokenizer
from tests.conformance.dpo_runs import FAST, align, pairs, preferences, sft
from tests.conformance.sft_runs import base, dataset, weights
from tests.fakes.toy_model import LINES
from tests.fakes.tracker import RecordingTracker

pytest.importorskip("trl", reason="the group 'training' is not installed")

__all__ = ["base", "dataset", "preferences", "sft"]


@pytest.fixture(scope="module")
def run(
    sft: TrainedModel, preferences: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedModel, RecordingTracker]:
    tracker = RecordingTracker()
    root = tmp_path_factory.mktemp("dpo")
    return align(sft, preferences, root, tracker, eval_steps=4, save_steps=4), tracker


def test_it_starts_at_the_reference_and_the_margin_rises(run: tuple[TrainedModel, RecordingTracker]) -> None:
    metrics = run[0].manifest.metrics
    assert metrics["loss_first"] == pytest.approx(
        math.log(2), abs=1e-3
    )  # no margin yet: policy and reference are one
    assert metrics["reward_margin_first"] == pytest.approx(0, abs=1e-3)
    assert metrics["reward_margin_last"] > 0.1
    assert metrics["validation_reward_margin_last"] > metrics["validation_reward_margin_first"]
    assert metrics["validation_loss_last"] < metrics["validation_loss_first"]


def test_the_memory_that_was_estimated_is_compared_with_the_peak(
    run: tuple[TrainedModel, RecordingTracker],
) -> None:
    model, tracker = run
    memory = model.record.memory
    assert memory.measured
    assert model.manifest.metrics["memory_estimate_error"] == memory.error
    [(status, summary)] = tracker.finished
    assert status == "finished"
    assert summary["memory_estimate_error"] == memory.error
    assert summary["validation_loss"] == model.manifest.metrics["validation_loss_last"]


def test_rewards_margins_and_accuracies_are_logged_every_step(
    run: tuple[TrainedModel, RecordingTracker],
) -> None:
    logged = {step: metrics for step, metrics in run[1].logged if "loss" in metrics}
    assert set(logged) == set(range(1, 9))
    for metrics in logged.values():
        assert {
            "rewards/chosen",
            "rewards/rejected",
            MARGIN,
            "rewards/accuracies",
            "tokens_per_second",
            "gradient_norm",
            "learning_rate",
        } <= set(metrics)
        difference = metrics["rewards/chosen"] - metrics["rewards/rejected"]
        assert metrics[MARGIN] == pytest.approx(difference, abs=1e-4)


def test_the_references_logits_are_the_sft_models_and_stay_so(
    sft: TrainedModel, base: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import use_adapter

    from llm_engineering.infrastructure.training.trl.loop import StepClock

    config = inherit_from_sft(DpoConfig.model_validate({**FAST, "max_steps": 3}), sft.manifest)
    job = DpoJob("toy", config, sft.folder, pairs(8, Split.TRAIN), (), tmp_path)
    machine = hardware.detect()
    dpo = Dpo(job, machine, plan(config, machine), Bases(tmp_path / "bases", {}))
    trainer = dpo.make_trainer(tmp_path, [StepClock()], False)
    trainer.train()
    ids = load_tokenizer(Base("sft", str(sft.folder / "tokenizer")))(LINES[0], return_tensors="pt")[
        "input_ids"
    ]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    taught = PeftModel.from_pretrained(plain, str(sft.folder / "adapter")).eval()
    model = trainer.model.eval()
    with torch.no_grad():
        expected = taught(input_ids=ids).logits
        with taught.disable_adapter():
            untaught = taught(input_ids=ids).logits
        policy = model(input_ids=ids).logits
        with use_adapter(model, REFERENCE):
            reference = model(input_ids=ids).logits
    assert torch.allclose(reference, expected, atol=1e-5)
    assert not torch.allclose(expected, untaught, atol=1e-2)  # the base alone would be another reference
    assert not torch.allclose(policy, expected, atol=1e-3)


def test_the_folder_is_a_model_of_its_own_and_names_its_parent(
    run: tuple[TrainedModel, RecordingTracker], sft: TrainedModel
) -> None:
    model = run[0]
    assert (model.manifest.stage, model.manifest.parent) == ("dpo", sft.manifest.files[ADAPTER])
    assert model.manifest.base_hash == sft.manifest.base_hash
    assert not [name for name in model.manifest.files if REFERENCE in Path(name).parts]
    assert set(weights(model)) == set(weights(sft))
    told = json.loads((model.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["base_model_name_or_path"] == model.manifest.base
    assert "merged/model.safetensors" in Exporter(lambda name, _: name).export(model.folder).files


def test_a_run_that_was_cut_goes_on_from_its_checkpoint_and_ends_the_same(
    run: tuple[TrainedModel, RecordingTracker], sft: TrainedModel, preferences: Path, tmp_path: Path
) -> None:
    import shutil

    import torch

    whole = run[0]
    cut = tmp_path / "toy" / whole.folder.name
    kept = next((whole.folder / "checkpoints").glob("checkpoint-4"))
    shutil.copytree(kept, cut / "checkpoints" / kept.name)
    again = align(sft, preferences, tmp_path, eval_steps=4, save_steps=4)
    assert again.folder == cut
    assert again.record.resumed_from == (4,)
    steps = [(p.step, p.loss) for p in again.record.trace if p.loss is not None]
    expected = [(p.step, p.loss) for p in whole.record.trace if p.loss is not None]
    assert [step for step, _ in steps] == [step for step, _ in expected]
    assert [loss for _, loss in steps] == pytest.approx([loss for _, loss in expected], abs=1e-5)
    for name, value in weights(whole).items():
        assert torch.allclose(weights(again)[name], value, atol=1e-6)


def test_both_answers_end_with_the_stop_token_behind_one_prompt(sft: TrainedModel) -> None:
    tokenizer = load_tokenizer(Base("sft", str(sft.folder / "tokenizer")))
    pair = pairs(1, Split.TRAIN)[0]
    encoded = encode_pair(pair, load_template("chatml"), HuggingFaceTokenizer(tokenizer), "Be brief.")
    prompt = tokenizer.decode(encoded.prompt_ids)
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert prompt.endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(encoded.chosen_ids) == f"{pair.chosen}<|im_end|>"
    assert tokenizer.decode(encoded.rejected_ids) == f"{pair.rejected}<|im_end|>"


def test_what_cannot_be_is_refused(
    run: tuple[TrainedModel, RecordingTracker],
    sft: TrainedModel,
    preferences: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigurationError, match="starts from the adapter of an SFT model"):
        align(run[0], preferences, tmp_path)
    with pytest.raises(InvalidInputError, match="kind 'instruct'"):
        align(sft, dataset, tmp_path)
    with pytest.raises(TooManyFailuresError, match="longer than max_length"):
        align(sft, preferences, tmp_path, max_length=16)
    with pytest.raises(ConfigurationError, match="Use the same"):
        align(sft, preferences, tmp_path, system="Another.")
    with pytest.raises(ModelFileError):
        align(TrainedModel(tmp_path / "none", sft.manifest, sft.record), preferences, tmp_path)
    with pytest.raises(ConfigurationError, match="no SFT model"):
        newest_sft(tmp_path, "toy")


def test_the_newest_sft_model_of_a_name_is_found(sft: TrainedModel) -> None:
    assert newest_sft(sft.folder.parents[1], "toy") == sft.folder


def test_settings_that_the_sft_model_decides_are_errors() -> None:
    with pytest.raises(ValidationError, match="would have no effect"):
        DpoRun.model_validate({"dpo": {"base_model": "other"}})
    with pytest.raises(ValidationError, match="label_smoothing has no effect"):
        DpoConfig(loss="hinge", label_smoothing=0.1)
    kept = DpoRun.model_validate({"dpo": {"beta": 0.2}})
    assert DpoRun.model_validate(kept.model_dump(mode="json")) == kept

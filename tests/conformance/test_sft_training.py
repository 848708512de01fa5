"""Supervised fine-tuning with the real libraries: what carries loss, how steps add up, and what is kept."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loguru import logger

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.ports import Message, SilentProgress
from llm_engineering.application.training.finetune.config import LoraConfig, SftConfig
from llm_engineering.application.training.finetune.data import open_dataset, render_samples
from llm_engineering.application.training.finetune.labels import IGNORED, encode_chat, fit_template
from llm_engineering.application.training.finetune.preflight import adapter_parameters
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.application.training.finetune.sft import (
    TrainedModel,
    load_model_folder,
    run_name,
    train_sft,
)
from llm_engineering.bootstrap.training import train_tiny_model
from llm_engineering.domain.datasets import ChatTurn, Split
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, ModelFileError
from llm_engineering.infrastructure.progress import LogProgress
from llm_engineering.infrastructure.training.trl import Bases, TrlTrainer
from llm_engineering.infrastructure.training.trl.base import Base, load_config, load_tokenizer, weights_hash
from llm_engineering.infrastructure.training.trl.shape import model_shape
from llm_engineering.infrastructure.training.trl.tokens import HuggingFaceTokenizer
from tests.conformance.sft_runs import base, dataset, losses, make_trainer, train, weights
from tests.fakes.toy_model import LINES, make_samples, make_tokenizer, write_dataset
from tests.fakes.tracker import RecordingTracker
from tools import search
from tools.run_config import read_run_config

pytest.importorskip("trl", reason="the group 'training' is not installed")

from llm_engineering.infrastructure.training.trl.loop import Reporter

__all__ = ["base", "dataset"]


@pytest.mark.nightly  # a minute on two busy cores; tests/unit/test_hyperparameter_search.py has the rules
def test_a_search_ends_in_a_table_and_a_config_that_can_be_trained_as_it_stands(
    base: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setenv("TRACKING_FOLDER", str(tmp_path / "tracking"))
    space = {"optimizer.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "lora.r": [2, 4]}
    common = {"base_model": str(base), "max_steps": 2, "max_length": 256}
    told = {"dataset": str(dataset), "output_dir": str(tmp_path), "trials": 2, "space": space, "sft": common}
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps({"parameters": {"search": told}}), encoding="utf-8")
    assert search.main(["--config", str(file)]) == 0
    assert capsys.readouterr().out.count("│") == 2 * 7
    training = read_run_config(tmp_path / "search" / "best.yaml", Training)[0].training
    assert training is not None
    [kept] = [folder for folder in (tmp_path / "search").iterdir() if folder.is_dir()]  # the best one's
    assert kept.name == run_name(training.sft, open_dataset(dataset, "instruct", "chatml").hash)
    assert load_model_folder(kept).record.steps == 2


def test_trl_tells_its_makers_nothing_of_a_training() -> None:
    from trl.trainer.base_trainer import _BaseTrainer

    from llm_engineering.infrastructure.training.trl.dpo_loop import WatchedDpoTrainer
    from llm_engineering.infrastructure.training.trl.loop import WatchedLoss, WatchedSftTrainer

    assert "_send_telemetry" in vars(_BaseTrainer), "TRL has another name for it now"
    for trainer in (WatchedSftTrainer, WatchedDpoTrainer):
        assert trainer._send_telemetry is WatchedLoss._send_telemetry


def test_validation_before_the_first_step_is_no_silence() -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message}")
    reporter = Reporter(RecordingTracker(), LogProgress(every_seconds=0))
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=20)
    for _ in range(2):
        reporter.on_prediction_step(None, state, eval_dataloader=range(9))
    logger.remove(sink)
    assert lines == ["Validation at step 0: 1 of 9\n", "Validation at step 0: 2 of 9\n"]


@pytest.mark.nightly  # ten seconds, most of them steps
def test_a_tiny_model_learns_from_nothing_and_shows_it(tmp_path: Path) -> None:
    """Twenty-five steps: a fraction of the loss is gone, on text that was held out too."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = " ".join(LINES[number % 5] for number in range(500))
    found = train_tiny_model(
        [text], tmp_path, SilentProgress(), minutes=10, steps=25, seed=0, prompt="An index"
    )
    (_, _, before), *_, (_, learned, after) = found.curve
    assert before == pytest.approx(math.log(len(AutoTokenizer.from_pretrained(tmp_path))), rel=0.05)
    assert max(learned, after) < 0.9 * before
    assert [step for step, _ in found.samples][:2] == [0, 25]
    assert all(sample.startswith("An index") for _, sample in found.samples)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert sum(weights.numel() for weights in model.parameters()) == found.parameters
    with pytest.raises(InvalidInputError, match="too few"):
        train_tiny_model(["Short."], tmp_path, SilentProgress(), minutes=1, steps=1, seed=0, prompt="A")


LLAMA_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


class TestRun:
    @pytest.fixture(scope="class")
    @staticmethod
    def run(
        base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[TrainedModel, RecordingTracker]:
        tracker = RecordingTracker()
        root = tmp_path_factory.mktemp("run")
        values = {
            "max_steps": 20,
            "eval_steps": 10,
            "save_steps": 10,
            "lora": {"r": 8, "lora_dropout": 0.1},
        }
        return train(base, dataset, root, tracker, **values), tracker

    def test_the_validation_set_is_scored_and_its_loss_falls(
        self, run: tuple[TrainedModel, RecordingTracker]
    ) -> None:
        scored = {p.step: p.validation_loss for p in run[0].record.trace if p.validation_loss is not None}
        assert list(scored) == [0, 10, 20]
        assert scored[20] < scored[10] < scored[0]

    def test_every_step_is_on_record_with_all_its_numbers(
        self, run: tuple[TrainedModel, RecordingTracker]
    ) -> None:
        steps = [point for point in run[0].record.trace if point.loss is not None]
        assert [point.step for point in steps] == list(range(1, 21))
        for point in steps:
            assert point.gradient_norm is not None
            assert point.learning_rate is not None
            assert point.tokens_per_second is not None
            assert point.tokens_per_second > 0

    def test_the_folder_holds_the_whole_and_its_manifest_tells_every_file(
        self, run: tuple[TrainedModel, RecordingTracker]
    ) -> None:
        model = run[0]
        assert load_model_folder(model.folder) == model
        for name in ("adapter/adapter_model.safetensors", "tokenizer/chat_template.jinja", "training.json"):
            assert name in model.manifest.files
        assert not [name for name in model.manifest.files if name.startswith("checkpoints")]
        assert "adapter/README.md" not in model.manifest.files, "PEFT's own would tell a path of this machine"
        told = json.loads((model.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        assert (told["r"], told["base_model_name_or_path"]) == (8, model.manifest.base)

    def test_the_saved_tokenizer_renders_what_the_model_was_trained_on(
        self, run: tuple[TrainedModel, RecordingTracker]
    ) -> None:
        tokenizer = load_tokenizer(Base("saved", str(run[0].folder / "tokenizer")))
        messages = [{"role": "user", "content": "Why?"}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert (
            text == load_template("chatml").render([Message("user", "Why?")], add_generation_prompt=True).text
        )
        stops = json.loads(
            (run[0].folder / "tokenizer" / "generation_config.json").read_text(encoding="utf-8")
        )
        assert tokenizer.convert_tokens_to_ids("<|im_end|>") in stops["eos_token_id"]

    def test_the_tracker_is_told_all_of_it(self, run: tuple[TrainedModel, RecordingTracker]) -> None:
        model, tracker = run
        [(name, parameters)] = tracker.started
        assert (name, parameters["samples"]["train"]) == ("toy", 24)
        assert {step for step, metrics in tracker.logged if "loss" in metrics} == set(range(1, 21))
        for _, metrics in tracker.logged:
            assert "validation_loss" in metrics or {
                "gradient_norm",
                "learning_rate",
                "tokens_per_second",
            } <= set(metrics)
        [(status, summary)] = tracker.finished
        assert status == "finished"
        assert summary["validation_loss"] == model.record.to_metrics()["validation_loss_last"]

    def test_the_estimate_stands_beside_the_measured_peak(
        self, run: tuple[TrainedModel, RecordingTracker]
    ) -> None:
        memory = run[0].record.memory
        assert memory.estimate["total"] > 0
        assert memory.measured
        assert memory.error == pytest.approx(memory.estimate["total"] / memory.measured - 1)

    def test_effective_batch_and_memory_are_told_in_the_log(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        said: list[str] = []
        sink = logger.add(said.append, format="{message}")
        try:
            train(base, dataset, tmp_path, max_steps=1, gradient_accumulation_steps=3)
        finally:
            logger.remove(sink)
        told = "".join(said)
        assert "Effective batch: 12 = 4 sequences × 3 accumulated × 1 device(s)." in told
        assert re.search(r"Memory: about \d+\.\d\d GiB will be needed, \d+\.\d\d GiB are free", told)
        assert re.search(r"Memory: \d+\.\d\d GiB at the peak; the estimate was .* GiB \([+-]\d+%\)", told)

    def test_the_manifest_names_the_weights_of_the_base(
        self, run: tuple[TrainedModel, RecordingTracker], base: Path
    ) -> None:
        expected = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
        assert run[0].manifest.base_hash == expected

    def test_done_again_it_does_nothing(
        self, run: tuple[TrainedModel, RecordingTracker], base: Path, dataset: Path
    ) -> None:
        model = run[0]
        tracker = RecordingTracker()
        again = train_sft(
            TrlTrainer(Bases(model.folder, {})),
            SftConfig.model_validate(model.record.config),
            dataset,
            name="toy",
            root=model.folder.parents[1],
            tracker=tracker,
            progress=SilentProgress(),
        )
        assert again == model
        assert tracker.started == []


class TestTokens:
    @pytest.mark.parametrize("name", ["chatml", "llama3", "alpaca", "phi3", "gemma"])
    @pytest.mark.parametrize("adds_bos", [False, True], ids=["no-bos", "bos"])
    def test_decoded_labels_are_the_answer_and_its_stop_token_and_bos_is_there_once(
        self, name: str, adds_bos: bool, tmp_path: Path
    ) -> None:
        make_tokenizer(tmp_path, adds_bos=adds_bos, padding_is_eos=True)
        tokenizer = load_tokenizer(Base("toy", str(tmp_path)))
        assert tokenizer.pad_token == tokenizer.eos_token, "the case that masks by padding would get wrong"
        tokens = HuggingFaceTokenizer(tokenizer)
        chosen = fit_template(name, tokens, "toy")
        answer = "Zwei Sätze. 🙂\n\n- and a list"
        encoded = encode_chat(chosen.render([Message("user", "Why?"), Message("assistant", answer)]), tokens)
        learned = [label for label in encoded.labels if label != IGNORED]
        assert tokenizer.decode(learned) == answer + chosen.stop
        bos = tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
        assert encoded.input_ids.count(bos) == int(adds_bos or name == "llama3")

    def test_every_turn_of_the_assistant_is_learned_with_its_stop_token_and_nothing_else(
        self, base: Path, tmp_path: Path
    ) -> None:
        """From the data set's samples to the batch that the trainer hands to the model, token by token."""
        tokenizer = load_tokenizer(Base("toy", str(base)))
        tokens = HuggingFaceTokenizer(tokenizer)
        turns = [("user", "Why?"), ("assistant", "Yes."), ("user", "Yes."), ("assistant", "No, never.")]
        long, short = (
            sample.model_copy(update={"history": tuple(ChatTurn(role=r, content=c) for r, c in history)})
            for sample, history in zip(make_samples(2, answers=["Yes."]), (turns, []), strict=True)
        )
        rendered = render_samples([long, short], load_template("chatml"), "Be brief.")
        trainer = make_trainer(base, tmp_path, [encode_chat(chat, tokens) for chat in rendered])
        [batch] = list(trainer.get_train_dataloader())
        rows = {
            tuple(t for t, seen in zip(*row, strict=True) if seen): labels
            for *row, labels in zip(
                batch["input_ids"].tolist(),
                batch["attention_mask"].tolist(),
                batch["labels"].tolist(),
                strict=True,
            )
        }
        for sample in (long, short):
            expected = [
                ("<|im_start|>system\nBe brief.<|im_end|>\n", False),
                *(
                    piece
                    for turn in sample.history
                    for piece in (
                        (f"<|im_start|>{turn.role}\n", False),
                        (f"{turn.content}<|im_end|>", turn.role == "assistant"),
                        ("\n", False),
                    )
                ),
                (f"<|im_start|>user\n{sample.instruction}<|im_end|>\n<|im_start|>assistant\n", False),
                (f"{sample.answer}<|im_end|>", True),
                ("\n", False),
            ]
            ids: list[int] = []
            learned: list[int] = []
            for text, counts in expected:
                piece = tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += piece
                learned += piece if counts else [IGNORED] * len(piece)
            found = rows[tuple(ids)]
            assert found[: len(ids)] == learned
            assert set(found[len(ids) :]) <= {IGNORED}

    def test_a_padded_batch_keeps_loss_on_the_stop_token_where_padding_is_eos(self, tmp_path: Path) -> None:
        """What TRL's collator hands to the model: padding has no loss, the same token as the answer's end has."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        make_tokenizer(tmp_path, padding_is_eos=True)
        tokens = HuggingFaceTokenizer(tokenizer := load_tokenizer(Base("toy", str(tmp_path))))
        chosen = load_template("chatml")
        pairs = [[Message("user", "Why?"), Message("assistant", answer)] for answer in ("Yes.", LINES[0])]
        encoded = [encode_chat(chosen.render(pair), tokens) for pair in pairs]
        collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        batch = collate([{"input_ids": e.input_ids, "labels": e.labels} for e in encoded])
        stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert (batch["labels"] == stop).sum(dim=1).tolist() == [1, 1]
        assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_padded_batch_gives_what_each_sequence_gives_alone(self, side: str, base: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        tokenizer = load_tokenizer(Base("toy", str(base)))
        tokenizer.padding_side = side
        model = AutoModelForCausalLM.from_pretrained(base).eval()
        texts = [LINES[0], "Why?"]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            together = model(**batch, position_ids=positions).logits
            for row, text in enumerate(texts):
                alone = model(**tokenizer(text, return_tensors="pt")).logits[0]
                kept = together[row][batch["attention_mask"][row].bool()]
                torch.testing.assert_close(kept, alone, atol=1e-5, rtol=1e-4)


class TestOptimizer:
    """What the trainer itself has made of the configuration."""

    @pytest.mark.parametrize(
        ("optimizer", "expected"),
        [
            (
                {"lr_scheduler_type": "exponential", "gamma": 0.5, "warmup_steps": 2},
                [0.0, 0.005, 0.01, 0.005, 0.0025, 0.00125],
            ),
            (
                {"lr_scheduler_type": "cosine_with_min_lr", "min_lr": 0.004},
                [0.004 + 0.006 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)],
            ),
        ],
    )
    def test_the_rate_follows_its_formula(
        self, optimizer: dict[str, Any], expected: list[float], base: Path, tmp_path: Path
    ) -> None:
        trainer = make_trainer(base, tmp_path, optimizer={"learning_rate": 0.01, **optimizer})
        trainer.create_optimizer_and_scheduler(num_training_steps=6)
        rates = []
        for _ in expected:
            rates.append(trainer.lr_scheduler.get_last_lr()[0])
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        assert rates == pytest.approx(expected)

    def test_momentum_reaches_it(self, base: Path, tmp_path: Path) -> None:
        trainer = make_trainer(base, tmp_path, optimizer={"name": "sgd", "momentum": 0.9})
        trainer.create_optimizer()
        assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.9}

    @pytest.mark.nightly
    def test_an_exponential_schedule_goes_on_where_it_was_killed(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        values: dict[str, Any] = {
            "max_steps": 4,
            "save_steps": 2,
            "optimizer": {"learning_rate": 0.01, "lr_scheduler_type": "exponential", "gamma": 0.5},
        }
        whole = train(base, dataset, tmp_path, **values)
        (whole.folder / "model.json").unlink()
        for file in (whole.folder / "checkpoints").glob("checkpoint-4*"):
            shutil.rmtree(file)
        again = train(base, dataset, tmp_path, **values)
        assert again.record.resumed_from == (2,)
        rates = [p.learning_rate for p in again.record.trace if p.loss is not None]
        assert rates == pytest.approx([0.01, 0.005, 0.0025, 0.00125])
        assert losses(again) == losses(whole)


class TestChosenLayers:
    @pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
    def test_the_others_have_no_adapters_and_the_estimate_counts_alike(
        self, targets: Any, base: Path, tmp_path: Path
    ) -> None:
        lora = LoraConfig(r=4, target_modules=targets, layers_to_transform=(1,))
        trainer = make_trainer(base, tmp_path, lora=lora)
        trained = {name: p.numel() for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert {name.split(".layers.")[1].split(".")[0] for name in trained} == {"1"}
        kinds = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
        assert kinds == (set(targets) if targets != "all-linear" else LLAMA_LAYERS)
        shape = model_shape(load_config(Base("toy", str(base))), lora)
        assert sum(trained.values()) == adapter_parameters(shape, lora)

    def test_one_that_the_model_lacks_is_refused_with_those_it_has(self, base: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"no layer 2, 7\. It has 2: 0 to 1"):
            model_shape(load_config(Base("toy", str(base))), LoraConfig(layers_to_transform=(1, 2, 7)))


class TestSteps:
    @pytest.mark.slow
    def test_eight_at_a_time_is_eight_accumulated(self, base: Path, tmp_path: Path) -> None:
        """Answers of different lengths: a mean of means would weigh their tokens differently."""
        import torch

        answers = ("Yes.", LINES[0] * 3, "No, never.", LINES[1])
        data = write_dataset(tmp_path / "data", make_samples(8, answers=answers))
        values = {"max_steps": 1, "method": "full", "optimizer": {"name": "sgd", "learning_rate": 0.5}}
        runs = [
            train(
                base,
                data,
                tmp_path / name,
                **values,
                batch_size=size,
                gradient_accumulation_steps=steps,
            )
            for name, size, steps in (("a", 8, 1), ("b", 1, 8))
        ]
        first, second = (weights(run) for run in runs)
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-5)
        a, b = (run.record.trace[-1] for run in runs)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_weights(self, base: Path, dataset: Path, tmp_path: Path) -> None:
        values = {"lora": {"lora_dropout": 0.2}}
        first, second = (train(base, dataset, tmp_path / name, **values) for name in "ab")
        assert losses(first) == losses(second)
        assert all((weights(first)[name] == tensor).all() for name, tensor in weights(second).items())

    @pytest.mark.slow
    def test_checkpointing_changes_memory_and_not_the_loss(
        self, base: Path, dataset: Path, tmp_path: Path
    ) -> None:
        plain = train(base, dataset, tmp_path / "a")
        saving = train(base, dataset, tmp_path / "b", gradient_checkpointing=True)
        assert [loss for _, loss, _ in losses(saving)] == pytest.approx(
            [loss for _, loss, _ in losses(plain)]
        )

    @pytest.mark.slow
    def test_it_stops_early_and_hands_over_the_best(self, base: Path, tmp_path: Path) -> None:
        """The validation answers are noise to what is learned, so that their loss must rise."""
        noise = make_samples(4, split=Split.VALIDATION, answers=["xq zk jv wq xx qz"])
        data = write_dataset(tmp_path / "data", make_samples(24), noise)
        model = train(
            base,
            data,
            tmp_path,
            max_steps=60,
            eval_steps=2,
            save_steps=2,
            method="full",
            optimizer={"learning_rate": 0.02},
            early_stopping={"patience": 3},
        )
        assert model.record.status == "stopped early"
        assert model.record.steps < 60
        scored = {p.step: p.validation_loss for p in model.record.trace if p.validation_loss is not None}
        best = min(
            set(scored) - {0}, key=lambda step: scored[step]
        )  # before the first step nothing was saved
        assert best < model.record.steps
        assert validation_loss(model.folder / "merged", noise) == pytest.approx(scored[best], rel=1e-4)


class TestBaseHash:
    def test_of_several_files_names_and_contents_count(self, tmp_path: Path) -> None:
        def hash_of(**contents: str) -> str:
            for file in tmp_path.glob("*"):
                file.unlink()
            for name, text in contents.items():
                (tmp_path / f"{name}.safetensors").write_text(text)
            return weights_hash(Base("toy", str(tmp_path)))

        assert hash_of(a="1") == hash_of(b="1"), "one file is known by what it holds"
        assert hash_of(a="1", b="2") == hash_of(b="2", a="1")
        assert len({hash_of(a="1", b="2"), hash_of(a="2", b="1"), hash_of(a="1", c="2")}) == 3

    def test_a_gguf_file_is_known_by_itself_and_not_by_what_it_was_converted_to(self) -> None:
        assert weights_hash(Base("toy", "wherever", file="f" * 64)) == "f" * 64

    def test_weights_that_are_not_here_are_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ModelFileError, match="nobody/no-such-model cannot be loaded"):
            weights_hash(Base("nobody/no-such-model", "nobody/no-such-model"))
        with pytest.raises(ModelFileError, match="has no weights"):
            weights_hash(Base("toy", str(tmp_path)))


def validation_loss(folder: Path, samples: list[Any]) -> float:
    """The mean loss of the answers' tokens under a saved model, computed apart from the trainer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = HuggingFaceTokenizer(load_tokenizer(Base("saved", str(folder))))
    total, count = 0.0, 0
    for sample in samples:
        pair = [Message("user", sample.instruction), Message("assistant", sample.answer)]
        encoded = encode_chat(load_template("chatml").render(pair), tokens)
        ids, labels = torch.tensor([encoded.input_ids]), torch.tensor(encoded.labels)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
        found = torch.nn.functional.cross_entropy(
            logits[:-1], labels[1:], ignore_index=IGNORED, reduction="sum"
        )
        total, count = total + float(found), count + int((labels[1:] != IGNORED).sum())
    return total / count

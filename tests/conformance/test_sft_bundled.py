"""Fine-tuning the bundled model, as the README promises it: from the GGUF file, on a CPU."""

import os
from pathlib import Path

import pytest

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.ports import Message, SilentProgress
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.labels import IGNORED, encode_chat, fit_template
from llm_engineering.application.training.finetune.sft import TrainedModel, train_sft
from llm_engineering.domain.datasets import Split
from llm_engineering.infrastructure.model_files import model_path
from llm_engineering.infrastructure.training.trl import Bases, TrlTrainer
from llm_engineering.infrastructure.training.trl.base import load_tokenizer
from llm_engineering.infrastructure.training.trl.tokens import HuggingFaceTokenizer
from tests.fakes.toy_model import make_samples, write_dataset
from tests.fakes.tracker import RecordingTracker

pytest.importorskip("trl", reason="the group 'training' is not installed")
pytest.importorskip("gguf", reason="the group 'training' is not installed")

NAME = "SmolLM2-135M-Instruct"
MODELS = Path(os.environ.get("MODELS_DIR", Path(__file__).resolve().parents[2] / "models"))

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def bases() -> Bases:
    """With the conversion beside the models, as the project keeps it: it is made once."""
    if not (MODELS / f"{NAME}.Q4_1.gguf").is_file():
        pytest.skip("the bundled model is not here: poe download-models")
    return Bases(MODELS / "trainable", {NAME: lambda: model_path(NAME, MODELS)})


@pytest.fixture(scope="module")
def model(bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    root = tmp_path_factory.mktemp("bundled")
    data = write_dataset(root / "data", make_samples(12), make_samples(2, split=Split.VALIDATION))
    config = SftConfig(
        max_steps=3, batch_size=2, max_length=128, eval_steps=3, optimizer={"learning_rate": 1e-3}
    )
    return train_sft(
        TrlTrainer(bases),
        config,
        data,
        name="bundled",
        root=root,
        tracker=RecordingTracker(),
        progress=SilentProgress(),
    )


def test_its_validation_loss_falls_in_three_steps(model: TrainedModel) -> None:
    metrics = model.record.to_metrics()
    assert metrics["steps"] == 3
    # Answers to questions that they do not fit; a model without knowledge of English would be at ln 49152 = 10.8 nats.
    assert metrics["validation_loss_first"] < 8
    assert metrics["validation_loss_last"] < metrics["validation_loss_first"]


def test_the_memory_estimate_is_of_the_measured_size(model: TrainedModel) -> None:
    error = model.record.memory.error
    assert error is not None
    assert -0.5 < error < 1.0


def test_the_converted_tokenizer_has_the_control_tokens_of_the_file(bases: Bases) -> None:
    tokenizer = load_tokenizer(bases.find(NAME))
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    tokens = HuggingFaceTokenizer(tokenizer)
    chosen = fit_template("chatml", tokens, NAME)
    answer = "Grüße, 世界 🙂\n"
    encoded = encode_chat(chosen.render([Message("user", "Why?"), Message("assistant", answer)]), tokens)
    assert (
        tokenizer.decode([x for x in encoded.labels if x != IGNORED]) == answer + load_template("chatml").stop
    )


def test_it_is_converted_once(bases: Bases) -> None:
    first = Path(bases.find(NAME).location)
    changed = (first / "model.safetensors").stat().st_mtime_ns
    assert Path(bases.find(NAME).location) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == changed

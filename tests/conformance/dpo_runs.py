"""Preference trainings of a model of two layers, from an SFT model of the same kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.ports import SilentProgress
from llm_engineering.application.training.finetune.dpo import DpoConfig, train_dpo
from llm_engineering.application.training.finetune.sft import TrainedModel
from llm_engineering.domain.datasets import PreferenceSample, Split
from llm_engineering.infrastructure.training.trl import Bases
from llm_engineering.infrastructure.training.trl.dpo import TrlPreferenceTrainer
from tests.conformance.sft_runs import train
from tests.fakes.toy_model import make_samples, write_dataset
from tests.fakes.tracker import RecordingTracker

FAST: dict[str, Any] = {
    "max_steps": 8,
    "batch_size": 4,
    "max_length": 256,
    "optimizer": {"learning_rate": 0.002},
}


def pairs(count: int, split: Split) -> list[PreferenceSample]:
    return [
        PreferenceSample(
            prompt=sample.instruction,
            chosen=sample.answer,
            rejected=f"I do not know number {number}, sorry.",
            origin=sample.origin,
            provenance=sample.provenance,
            split=split,
        )
        for number, sample in enumerate(make_samples(count, split=split))
    ]


def write_preferences(
    folder: Path,
    train: Sequence[PreferenceSample],
    validation: Sequence[PreferenceSample] = (),
    *,
    template_name: str = "chatml",
) -> Path:
    """A data set of pairs, as the generation pipeline leaves it."""
    write_dataset(
        folder,
        make_samples(len(train)),
        make_samples(len(validation)),
        kind="preference",
        template_name=template_name,
    )
    for split, samples in ((Split.TRAIN, train), (Split.VALIDATION, validation)):
        lines = "".join(pair.model_dump_json() + "\n" for pair in samples)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preferences")
    return write_preferences(folder, pairs(16, Split.TRAIN), pairs(4, Split.VALIDATION))


@pytest.fixture(scope="module")
def sft(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(base, dataset, tmp_path_factory.mktemp("sft"), max_steps=6, lora={"r": 8})


def align(
    sft: TrainedModel, preferences: Path, root: Path, tracker: RecordingTracker | None = None, **values: Any
) -> TrainedModel:
    return train_dpo(
        TrlPreferenceTrainer(Bases(root / "bases", {})),
        DpoConfig.model_validate({**FAST, **values}),
        preferences,
        sft.folder,
        name="toy",
        root=root,
        tracker=tracker or RecordingTracker(),
        progress=SilentProgress(),
    )

"""Trainings of a model of two layers, for the tests of supervised fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.ports import SilentProgress
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.labels import IGNORED, EncodedChat
from llm_engineering.application.training.finetune.preflight import Kept, plan
from llm_engineering.application.training.finetune.sft import TrainedModel, train_sft
from llm_engineering.application.training.finetune.trainer import SftJob
from llm_engineering.domain.datasets import Split
from llm_engineering.infrastructure.training.trl import Bases, TrlTrainer, hardware
from llm_engineering.infrastructure.training.trl.trainer import _Sft
from tests.fakes.toy_model import make_model, make_samples, write_dataset
from tests.fakes.tracker import RecordingTracker

FAST = {"max_steps": 4, "batch_size": 4, "max_length": 256, "optimizer": {"learning_rate": 0.01}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    return write_dataset(folder, make_samples(24), make_samples(5, split=Split.VALIDATION))


def train(
    base: Path | str, dataset: Path, root: Path, tracker: RecordingTracker | None = None, **values: Any
) -> TrainedModel:
    config = SftConfig.model_validate({**FAST, "base_model": str(base), **values})
    trainer = TrlTrainer(Bases(root / "bases", {}))
    return train_sft(
        trainer,
        config,
        dataset,
        name="toy",
        root=root,
        tracker=tracker or RecordingTracker(),
        progress=SilentProgress(),
    )


def make_trainer(
    base: Path,
    folder: Path,
    chats: Sequence[EncodedChat] = (EncodedChat([5, 6, 7], [IGNORED, 6, 7]),),
    **values: Any,
) -> Any:
    """TRL's trainer as a run would get it, not yet started."""
    from llm_engineering.infrastructure.training.trl.loop import StepClock

    config = SftConfig.model_validate({**FAST, "base_model": str(base), **values})
    machine = hardware.detect()
    job = SftJob("toy", config, lambda _: ((), ()), folder)
    kept = Kept(list(chats), [], 0, max(len(chat) for chat in chats))
    run = _Sft(job, machine, plan(config, machine), Bases(folder / "bases", {}))
    return run._trainer(kept, folder, [StepClock()], False)


def losses(model: TrainedModel) -> list[tuple[int, float | None, float | None]]:
    return [(point.step, point.loss, point.validation_loss) for point in model.record.trace]


def weights(model: TrainedModel) -> dict[str, Any]:
    from safetensors.torch import load_file

    folder = "merged/model" if model.manifest.method == "full" else "adapter/adapter_model"
    return load_file(model.folder / f"{folder}.safetensors")  # type: ignore[no-any-return]

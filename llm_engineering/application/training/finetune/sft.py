"""Supervised fine-tuning: a data set and a configuration in, a folder with a model out. Doing it again does nothing."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from loguru import logger
from pydantic import ValidationError

from llm_engineering.application.files import sha256_of_file
from llm_engineering.application.llm.chat_templates import RenderedChat, load_template
from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.finetune.config import SftConfig, TrainingConfig
from llm_engineering.application.training.finetune.data import (
    DatasetFolder,
    open_dataset,
    read_instruct,
    render_samples,
)
from llm_engineering.application.training.finetune.record import FILE, TrainingRecord, write_json
from llm_engineering.application.training.finetune.trainer import CHECKPOINTS, SftJob, Trained, Trainer
from llm_engineering.application.training.finetune.verdict import judge_fit
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.models import BESIDE, ModelManifest

MANIFEST = "model.json"


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A finished run."""

    folder: Path
    manifest: ModelManifest
    record: TrainingRecord


def train_sft(
    trainer: Trainer,
    config: SftConfig,
    dataset_folder: Path,
    *,
    name: str,
    root: Path,
    tracker: ExperimentTracker,
    progress: Progress,
) -> TrainedModel:
    """Train on a data set; the model goes to ``root/name/RUN``, where RUN is derived from all that decides the result.

    A finished run is returned as it is. One that was killed is gone on from its last checkpoint.

    Raises:
        TemplateMismatchError: the data set was made with another chat template.
        InvalidInputError: the data set cannot be used.
        ConfigurationError, TooManyFailuresError, TrainingError: see :meth:`Trainer.train_sft`.
    """
    dataset = open_dataset(dataset_folder, "instruct", config.template)
    folder = root / name / run_name(config, dataset.hash)
    if (folder / MANIFEST).exists():
        logger.info("Already trained with this configuration and data: {}. Delete it to train again.", folder)
        return load_model_folder(folder)
    job = SftJob(name, config, _Chats(config, dataset), folder)
    trained = trainer.train_sft(job, tracker, progress)
    return finish_stage("sft", name, config, dataset, trained, folder)


def run_name(config: SftConfig, dataset_hash: str) -> str:
    """Return twelve hexadecimal digits over configuration, template and data."""
    told = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    parts = f"{told}\x00{config.chat_template_hash}\x00{dataset_hash}"
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def load_model_folder(folder: Path) -> TrainedModel:
    """Return a finished run's folder.

    Raises:
        ConfigurationError: it is no such folder.
    """
    try:
        manifest = ModelManifest.model_validate_json((folder / MANIFEST).read_bytes())
        record = TrainingRecord.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{folder} holds no trained model: {error}") from None
    return TrainedModel(folder, manifest, record)


def file_hashes(folder: Path) -> dict[str, str]:
    """Return SHA-256 of every file of a model's folder but its checkpoints, its manifest and what others put beside it,
    by path."""
    found = {
        str(file.relative_to(folder).as_posix()): file for file in sorted(folder.rglob("*")) if file.is_file()
    }
    return {
        name: sha256_of_file(file)
        for name, file in found.items()
        if file.name != MANIFEST and name not in BESIDE and CHECKPOINTS not in Path(name).parts
    }


class _Chats:
    """The data set's conversations, for the tokenizer that the trainer finds."""

    def __init__(self, config: SftConfig, dataset: DatasetFolder) -> None:
        self._config = config
        self._dataset = dataset

    def __call__(self, eos: str) -> tuple[Sequence[RenderedChat], Sequence[RenderedChat]]:
        train, validation = self._splits(eos)
        return train, validation

    def _splits(self, eos: str) -> Iterator[list[RenderedChat]]:
        chosen = load_template(self._config.template).for_eos(eos)
        for split in (Split.TRAIN, Split.VALIDATION):
            yield render_samples(read_instruct(self._dataset, split), chosen, self._config.system)


def finish_stage(
    stage: Literal["sft", "dpo"],
    name: str,
    config: TrainingConfig,
    dataset: DatasetFolder,
    trained: Trained,
    folder: Path,
    parent: str | None = None,
) -> TrainedModel:
    """Describe what a trainer has left in a folder, and write the description: by the leader, the manifest last."""
    record = TrainingRecord(
        kind=stage,
        status=trained.status,
        config=config.model_dump(mode="json"),
        plan=trained.plan,
        dataset=dataset.label,
        template=config.template,
        template_hash=config.chat_template_hash,
        samples=trained.samples,
        memory=trained.memory,
        steps=trained.steps,
        resumed_from=trained.resumed_from,
        seconds=trained.seconds,
        trainable_parameters=trained.trainable_parameters,
        trace=trained.trace,
        versions=trained.versions,
    )
    if trained.leader:
        logger.info("Verdict: {}", judge_fit(trained.trace).describe())
        write_json(folder / FILE, record.model_dump(mode="json"))
    manifest = ModelManifest(
        name=name,
        base=config.base_model,
        base_revision=config.revision,
        base_hash=trained.base_hash,
        method=config.method,
        stage=stage,
        parent=parent,
        template=config.template,
        template_hash=config.chat_template_hash,
        dataset=dataset.label,
        dataset_hash=dataset.hash,
        config=record.config,
        metrics=record.to_metrics(),
        # Of several processes, one writes: to the others, what lies there is unfinished.
        files=file_hashes(folder) if trained.leader else {},
        created_at=datetime.now(UTC),
    )
    if trained.leader:
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return TrainedModel(folder, manifest, record)

"""Supervised fine-tuning with TRL: plan, encode, estimate memory. The lifecycle is in ``run.py``."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llm_engineering.application.llm.chat_templates import RenderedChat
from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.labels import (
    IGNORED,
    EncodedChat,
    encode_chat,
    fit_template,
)
from llm_engineering.application.training.finetune.preflight import (
    Hardware,
    Kept,
    Plan,
    check_context,
    check_memory,
    check_steps,
    estimate_memory,
    plan,
    within_limit,
)
from llm_engineering.application.training.finetune.record import SampleCounts
from llm_engineering.application.training.finetune.trainer import CHECKPOINTS, SftJob, Trained
from llm_engineering.infrastructure.training.trl import hardware
from llm_engineering.infrastructure.training.trl.base import Base, Bases, load_config, load_tokenizer
from llm_engineering.infrastructure.training.trl.faults import check_disk, explain_failures
from llm_engineering.infrastructure.training.trl.models import trainable_model
from llm_engineering.infrastructure.training.trl.run import TrainingRun, check_installed, run_training
from llm_engineering.infrastructure.training.trl.shape import find_context, model_shape
from llm_engineering.infrastructure.training.trl.tokens import HuggingFaceTokenizer


class TrlTrainer:
    """Implements :class:`~llm_engineering.application.training.finetune.trainer.Trainer`."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def train_sft(self, job: SftJob, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """See :meth:`Trainer.train_sft`."""
        check_installed()
        # It tells of trackers without a key, and none of them is used: ours is the port.
        logging.getLogger("transformers.integrations.integration_utils").setLevel(logging.ERROR)
        machine = hardware.detect()
        chosen = plan(job.config, machine)
        if chosen.backend == "unsloth":
            import unsloth  # noqa: F401 - before transformers and trl, which it patches
        job.folder.mkdir(parents=True, exist_ok=True)
        with explain_failures(job.config, job.folder, machine.device):
            return _Sft(job, machine, chosen, self._bases).run(tracker, progress)


class _Sft:
    """One supervised training."""

    def __init__(self, job: SftJob, machine: Hardware, chosen: Plan, bases: Bases) -> None:
        self._job, self._config = job, job.config
        self._machine, self._plan = machine, chosen
        self._base: Base = bases.find(job.config.base_model, job.config.revision)
        self._tokenizer = load_tokenizer(self._base)

    def run(self, tracker: ExperimentTracker, progress: Progress) -> Trained:
        # Loaded before memory is watched: libraries are no part of what a training needs.
        from llm_engineering.infrastructure.training.trl import loop  # noqa: F401

        job, config, machine = self._job, self._config, self._machine
        tokens = HuggingFaceTokenizer(self._tokenizer)
        template = fit_template(config.template, tokens, config.base_model)
        kept = _encoded(job, tokens, progress)
        check_steps(config, len(kept.train), machine.devices, packed=config.packing)
        model = load_config(self._base)
        longest = config.max_length if config.packing else kept.longest_kept
        check_context(config.base_model, kept.longest_kept, find_context(model))
        estimator = partial(estimate_memory, model_shape(model, config.lora), self._plan.precision)
        estimate = check_memory(estimator, config, longest, machine.free_memory, machine.device)
        folder = job.folder / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        check_disk(config, folder, estimate.adapters or estimate.weights, estimate.optimizer)
        this = TrainingRun(
            name=job.name,
            config=config,
            folder=job.folder,
            base=self._base,
            base_hash=None,
            machine=machine,
            plan=self._plan,
            tokenizer=self._tokenizer,
            template=template,
            samples=_counts(kept),
            estimate=estimate,
        )
        return run_training(this, partial(self._trainer, kept), tracker, progress)

    def _trainer(self, kept: Kept[EncodedChat], folder: Path, callbacks: list[Any], resumed: bool) -> Any:
        from llm_engineering.infrastructure.training.trl.arguments import sft_arguments
        from llm_engineering.infrastructure.training.trl.loop import WatchedSftTrainer

        config = self._config
        return WatchedSftTrainer(
            model=trainable_model(self._base, config, self._plan, self._machine.device),
            args=sft_arguments(
                config, self._plan, folder, self._machine, validated=bool(kept.validation), resumed=resumed
            ),
            processing_class=self._tokenizer,
            train_dataset=_dataset(kept.train, config),
            eval_dataset=_dataset(kept.validation, None) if kept.validation else None,
            callbacks=callbacks,
            gamma=config.optimizer.gamma,
        )


def _encoded(job: SftJob, tokens: HuggingFaceTokenizer, progress: Progress) -> Kept[EncodedChat]:
    """Both splits as tokens with labels. Raises as :func:`within_limit` does."""
    chats = job.chats(tokens.eos)
    total = sum(len(split) for split in chats)

    def encoded(split: Sequence[RenderedChat]) -> Iterator[EncodedChat]:
        for chat in split:
            yield encode_chat(chat, tokens)
            progress.advance("Tokenizing", 1, total=total)

    train, validation = (list(encoded(split)) for split in chats)
    return within_limit(job.config, train, validation)


def _counts(kept: Kept[EncodedChat]) -> SampleCounts:
    return SampleCounts(
        train=len(kept.train),
        validation=len(kept.validation),
        over_limit=kept.over_limit,
        longest=kept.longest,
        answer_tokens=sum(label != IGNORED for sequence in kept.train for label in sequence.labels),
    )


def _dataset(sequences: Sequence[EncodedChat], packing: SftConfig | None) -> Any:
    from datasets import Dataset

    dataset = Dataset.from_dict(
        {"input_ids": [s.input_ids for s in sequences], "labels": [s.labels for s in sequences]}
    )
    if packing is None or not packing.packing:
        return dataset
    from trl import pack_dataset

    return pack_dataset(dataset.shuffle(seed=packing.seed), packing.max_length, "bfd")

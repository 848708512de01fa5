"""Preference training with TRL, from an SFT adapter.

The policy is the SFT adapter, made trainable. TRL makes a second, frozen copy of it, ``ref``, and switches to it for the
reference: base weights are in memory once.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.finetune.dpo import DpoJob, EncodedPair, encode_pair
from llm_engineering.application.training.finetune.labels import fit_template
from llm_engineering.application.training.finetune.preflight import (
    Hardware,
    Kept,
    Plan,
    check_context,
    check_memory,
    check_steps,
    estimate_preference_memory,
    plan,
    within_limit,
)
from llm_engineering.application.training.finetune.record import SampleCounts
from llm_engineering.application.training.finetune.trainer import CHECKPOINTS, Trained
from llm_engineering.domain.datasets import PreferenceSample
from llm_engineering.infrastructure.training.trl import hardware
from llm_engineering.infrastructure.training.trl.base import (
    Base,
    Bases,
    load_config,
    load_model,
    load_tokenizer,
)
from llm_engineering.infrastructure.training.trl.faults import check_disk, explain_failures
from llm_engineering.infrastructure.training.trl.models import loading_arguments
from llm_engineering.infrastructure.training.trl.run import TrainingRun, check_installed, run_training
from llm_engineering.infrastructure.training.trl.shape import find_context, model_shape
from llm_engineering.infrastructure.training.trl.tokens import HuggingFaceTokenizer

REFERENCE = "ref"
"""The name that TRL gives the frozen copy."""


class TrlPreferenceTrainer:
    """Implements :class:`~llm_engineering.application.training.finetune.dpo.PreferenceTrainer`."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def train_dpo(self, job: DpoJob, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """See :meth:`PreferenceTrainer.train_dpo`."""
        check_installed()
        machine = hardware.detect()
        chosen = plan(job.config, machine)
        job.folder.mkdir(parents=True, exist_ok=True)
        with explain_failures(job.config, job.folder, machine.device):
            return Dpo(job, machine, chosen, self._bases).run(tracker, progress)


class Dpo:
    """One preference training."""

    def __init__(self, job: DpoJob, machine: Hardware, chosen: Plan, bases: Bases) -> None:
        self._job, self._config = job, job.config
        self._machine, self._plan = machine, chosen
        self._base = bases.find(job.config.base_model, job.config.revision)
        self._tokenizer = load_tokenizer(Base(job.config.base_model, str(job.sft / "tokenizer")))
        tokens = HuggingFaceTokenizer(self._tokenizer)
        self._template: ChatTemplate = fit_template(job.config.template, tokens, job.config.base_model)
        self._kept = self._encoded(tokens)

    def run(self, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """Train and save."""
        # Loaded before memory is watched: libraries are no part of what a training needs.
        from llm_engineering.infrastructure.training.trl import dpo_loop  # noqa: F401

        job, config, machine, kept = self._job, self._config, self._machine, self._kept
        check_steps(config, len(kept.train), machine.devices)
        model = load_config(self._base)
        check_context(config.base_model, kept.longest_kept, find_context(model))
        estimator = partial(estimate_preference_memory, model_shape(model, config.lora), self._plan.precision)
        estimate = check_memory(estimator, config, kept.longest_kept, machine.free_memory, machine.device)
        folder = job.folder / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        check_disk(
            config, folder, estimate.adapters, estimate.optimizer
        )  # checkpoints hold the reference too
        this = TrainingRun(
            name=job.name,
            config=config,
            folder=job.folder,
            base=self._base,
            base_hash=job.base_hash,
            machine=machine,
            plan=self._plan,
            tokenizer=self._tokenizer,
            template=self._template,
            samples=_counts(kept),
            estimate=estimate,
        )
        return run_training(
            this,
            self.make_trainer,
            tracker,
            progress,
            before_saving=lambda model: model.delete_adapter(REFERENCE),
        )

    def make_trainer(self, folder: Path, callbacks: list[Any], resumed: bool) -> Any:
        """Return TRL's trainer, ready; see :data:`~llm_engineering.infrastructure.training.trl.run.Make`."""
        from datasets import Dataset

        from llm_engineering.infrastructure.training.trl.arguments import dpo_arguments
        from llm_engineering.infrastructure.training.trl.dpo_loop import WatchedDpoTrainer

        train, validation = (
            [asdict(p) for p in split] for split in (self._kept.train, self._kept.validation)
        )
        return WatchedDpoTrainer(
            model=self._policy(),
            args=dpo_arguments(
                self._config, self._plan, folder, self._machine, validated=bool(validation), resumed=resumed
            ),
            processing_class=self._tokenizer,
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            callbacks=callbacks,
            gamma=self._config.optimizer.gamma,
        )

    def _policy(self) -> Any:
        from peft import PeftModel, prepare_model_for_kbit_training
        from transformers import set_seed

        set_seed(self._config.seed)
        model = load_model(self._base, **loading_arguments(self._config, self._plan, self._machine.device))
        model.config.use_cache = False
        if self._config.method == "qlora":
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return PeftModel.from_pretrained(model, str(self._job.sft / "adapter"), is_trainable=True)

    def _encoded(self, tokens: HuggingFaceTokenizer) -> Kept[EncodedPair]:
        job, config = self._job, self._config

        def encoded(samples: Sequence[PreferenceSample]) -> list[EncodedPair]:
            return [encode_pair(sample, self._template, tokens, config.system) for sample in samples]

        return within_limit(config, encoded(job.train), encoded(job.validation), "pairs")


def _counts(kept: Kept[EncodedPair]) -> SampleCounts:
    return SampleCounts(
        train=len(kept.train),
        validation=len(kept.validation),
        over_limit=kept.over_limit,
        longest=kept.longest,
        answer_tokens=sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in kept.train),
    )

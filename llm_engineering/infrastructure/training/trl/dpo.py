"""Preference training with TRL, from an SFT adapter.

The policy is the SFT adapter, made trainable. TRL makes a second, frozen copy of it, ``ref``, and switches to it for the
reference: base weights are in memory once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Literal

from loguru import logger

from llm_engineering.application.chat_templates import ChatTemplate
from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.dpo import DpoJob, EncodedPair, encode_pair
from llm_engineering.application.training.hardware import Hardware, Plan, plan
from llm_engineering.application.training.labels import fitted
from llm_engineering.application.training.memory import MemoryEstimate, ModelShape, estimate_memory
from llm_engineering.application.training.record import MemoryRecord, SampleCounts
from llm_engineering.application.training.trainer import CHECKPOINTS, Trained
from llm_engineering.domain.datasets import PreferenceSample
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TooManyFailuresError
from llm_engineering.infrastructure.training.trl import checkpoints, hardware
from llm_engineering.infrastructure.training.trl.arguments import common_arguments
from llm_engineering.infrastructure.training.trl.base import (
    Base,
    Bases,
    load_config,
    load_model,
    load_tokenizer,
)
from llm_engineering.infrastructure.training.trl.faults import check_disk, explained
from llm_engineering.infrastructure.training.trl.memory_watch import MemoryWatch
from llm_engineering.infrastructure.training.trl.models import _loading, log_plan
from llm_engineering.infrastructure.training.trl.saving import save_result
from llm_engineering.infrastructure.training.trl.shape import model_shape
from llm_engineering.infrastructure.training.trl.tokens import HuggingFaceTokenizer
from llm_engineering.infrastructure.training.trl.trainer import PACKAGES, check_installed, check_steps

REFERENCE = "ref"
"""The name that TRL gives the frozen copy."""


class TrlPreferenceTrainer:
    """Implements :class:`~llm_engineering.application.training.dpo.PreferenceTrainer`."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def dpo(self, job: DpoJob, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """See :meth:`PreferenceTrainer.dpo`."""
        check_installed()
        if job.config.backend == "unsloth":
            raise ConfigurationError(
                "backend 'unsloth' is for SFT; DPO runs on plain TRL: take 'auto' or 'trl'."
            )
        machine = hardware.detect()
        chosen = plan(job.config.model_copy(update={"backend": "trl"}), machine)
        job.folder.mkdir(parents=True, exist_ok=True)
        with explained(job.config, job.folder, machine.device):
            return Dpo(job, machine, chosen, self._bases).run(tracker, progress)


class Dpo:
    """One preference training."""

    def __init__(self, job: DpoJob, machine: Hardware, chosen: Plan, bases: Bases) -> None:
        self._job, self._config = job, job.config
        self._machine, self._plan = machine, chosen
        self._base = bases.find(job.config.base, job.config.revision)
        self._tokenizer = load_tokenizer(Base(job.config.base, str(job.sft / "tokenizer")))
        tokens = HuggingFaceTokenizer(self._tokenizer)
        self._template: ChatTemplate = fitted(job.config.template, tokens, job.config.base)
        self._train, self._validation, self._counts = self._encoded(tokens)

    def run(self, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """Train and save."""
        started = time.monotonic()
        config, machine = self._config, self._machine
        check_steps(config, len(self._train), machine.devices)
        shape = model_shape(load_config(self._base), config.lora)
        estimate = self._checked_estimate(shape)
        folder = self._job.folder / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        check_disk(
            config, folder, 2 * estimate.adapters, estimate.optimizer
        )  # checkpoints hold the reference too
        log_plan(self._plan, config, machine.devices)
        tracker.start(self._job.name, self._parameters())
        status: Literal["finished", "failed"] = "failed"
        summary: Mapping[str, float] = {}
        try:
            with MemoryWatch(machine.device) as watch:
                trainer, resumed = self.trainer(tracker, progress)
                resume = checkpoints.newest(folder) if config.save_every else None
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
                if self._validation and not _scored(trainer) and not config.keep_best:
                    trainer.evaluate()
            if trainer.is_world_process_zero():
                model = trainer.accelerator.unwrap_model(trainer.model)
                model.delete_adapter(REFERENCE)
                save_result(model, self._tokenizer, self._template, config, self._job.folder)
            memory = MemoryRecord(estimate=estimate.as_dict(), measured=watch.peak)
            trained = self._result(trainer, memory, resumed, time.monotonic() - started)
            status, summary = "finished", {"steps": float(trained.steps)}
        finally:
            tracker.finish(status, summary)
        return trained

    def trainer(self, tracker: ExperimentTracker, progress: Progress) -> tuple[Any, tuple[int, ...]]:
        """TRL's trainer, ready; and the steps that earlier runs of this job were gone on from."""
        from datasets import Dataset
        from transformers import EarlyStoppingCallback, PrinterCallback
        from transformers.utils.logging import disable_progress_bar
        from trl import DPOConfig

        from llm_engineering.infrastructure.training.trl.dpo_loop import WatchedDpoTrainer
        from llm_engineering.infrastructure.training.trl.loop import Reporter, StepClock

        config, folder = self._config, self._job.folder / CHECKPOINTS
        resume = checkpoints.newest(folder) if config.save_every else None
        arguments = DPOConfig(
            **common_arguments(
                config,
                self._plan,
                folder,
                self._machine.device,
                validated=bool(self._validation),
                resumed=resume is not None,
            ),
            beta=config.beta,
            loss_type=config.loss,
            label_smoothing=config.label_smoothing,
        )
        if self._machine.devices == 1:
            arguments._n_gpu = min(arguments.n_gpu, 1)
        callbacks: list[Any] = [StepClock(), Reporter(tracker, progress)]
        if stopping := config.early_stopping:
            callbacks.append(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
        validation = [asdict(pair) for pair in self._validation]
        trainer = WatchedDpoTrainer(
            model=self._policy(),
            args=arguments,
            processing_class=self._tokenizer,
            train_dataset=Dataset.from_list([asdict(pair) for pair in self._train]),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        disable_progress_bar()
        resumed = checkpoints.resumptions(folder)
        if resume is not None:
            step = checkpoints.step_of(resume) or 0
            logger.info("Going on from the checkpoint after step {}.", step)
            resumed = checkpoints.note_resumption(folder, step)
        return trainer, resumed

    def _policy(self) -> Any:
        from peft import PeftModel, prepare_model_for_kbit_training
        from transformers import set_seed

        set_seed(self._config.seed)
        model = load_model(self._base, **_loading(self._config, self._plan, self._machine.device))
        model.config.use_cache = False
        if self._config.method == "qlora":
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return PeftModel.from_pretrained(model, str(self._job.sft / "adapter"), is_trainable=True)

    def _encoded(
        self, tokens: HuggingFaceTokenizer
    ) -> tuple[list[EncodedPair], list[EncodedPair], SampleCounts]:
        job, config = self._job, self._config

        def encoded(samples: Sequence[PreferenceSample]) -> list[EncodedPair]:
            return [encode_pair(sample, self._template, tokens, config.system) for sample in samples]

        everything = [encoded(job.train), encoded(job.validation)]
        train, validation = ([p for p in pairs if len(p) <= config.max_length] for pairs in everything)
        total = sum(map(len, everything))
        longest = max((len(pair) for pairs in everything for pair in pairs), default=0)
        dropped = total - len(train) - len(validation)
        if dropped:
            limit = f"max_length ({config.max_length} tokens; the longest has {longest})"
            told = f"{dropped} of {total} pairs are longer than {limit}"
            if config.over_limit == "refuse":
                raise ConfigurationError(
                    f"{told}. Raise max_length; with over_limit: drop they would be left out."
                )
            if config.max_dropped_share is not None and dropped > config.max_dropped_share * total:
                raise TooManyFailuresError(
                    f"{told}: more than max_dropped_share ({config.max_dropped_share:.0%}) allows. Raise max_length."
                )
            logger.warning("{}: left out, never cut.", told)
        if not train:
            raise InvalidInputError(
                f"Nothing is left to train on: {dropped} of {total} pairs are over max_length."
            )
        if not validation and (config.evaluate_every or config.keep_best):
            raise ConfigurationError(
                "evaluate_every and keep_best have no effect: there is no validation set."
            )
        counts = SampleCounts(
            train=len(train),
            validation=len(validation),
            over_limit=dropped,
            longest=longest,
            answer_tokens=sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in train),
        )
        return train, validation, counts

    def _checked_estimate(self, shape: ModelShape) -> MemoryEstimate:
        """Two sequences for each pair, and the logits of all their tokens: policy, its gradient, softmax, reference."""
        config, free = self._config, self._machine.free_memory
        longest = max(len(pair) for pair in (*self._train, *self._validation))
        doubled = config.model_copy(update={"batch_size": 2 * config.batch_size})
        logits = 2 * config.batch_size * longest * shape.vocabulary * 4 * 4
        estimate = estimate_memory(shape, doubled, self._plan.precision, longest)._replace(logits=logits)
        estimate = estimate._replace(adapters=2 * estimate.adapters)
        logger.info(
            "Memory: about {:.2f} GiB will be needed, {:.2f} GiB are free.",
            estimate.total / 2**30,
            free / 2**30,
        )
        if estimate.total > free * config.memory_share:
            raise ConfigurationError(
                f"DPO needs about {estimate.total / 2**30:.2f} GiB; {free * config.memory_share / 2**30:.2f} GiB may be used. "
                "Lower batch_size (and raise accumulation) or max_length, or set gradient_checkpointing: true."
            )
        return estimate

    def _parameters(self) -> dict[str, Any]:
        return {
            **self._config.model_dump(mode="json"),
            "plan": {**asdict(self._plan), "device": self._machine.name},
            "samples": self._counts.model_dump(),
        }

    def _result(
        self, trainer: Any, memory: MemoryRecord, resumed: tuple[int, ...], seconds: float
    ) -> Trained:
        from llm_engineering.infrastructure.training.trl.loop import trace

        state = trainer.state
        return Trained(
            status="stopped early" if state.global_step < state.max_steps else "finished",
            plan={
                **asdict(self._plan),
                "why": list(self._plan.why),
                "device": self._machine.name,
                "devices": self._machine.devices,
            },
            samples=self._counts,
            memory=memory,
            steps=state.global_step,
            resumed_from=resumed,
            seconds=seconds,
            trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            trace=trace(state.log_history),
            versions={package: version(package) for package in PACKAGES},
            leader=trainer.is_world_process_zero(),
        )


def _scored(trainer: Any) -> bool:
    step = trainer.state.global_step
    return any("eval_loss" in entry and entry["step"] == step for entry in trainer.state.log_history)

"""The trainer: plan, encode, estimate, load, train, save."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from loguru import logger

from llm_engineering.application.chat_templates import RenderedChat
from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.config import SftConfig, TrainingConfig
from llm_engineering.application.training.hardware import Hardware, Plan, plan
from llm_engineering.application.training.labels import IGNORED, EncodedChat, encode_chat, fitted, within
from llm_engineering.application.training.memory import (
    MemoryEstimate,
    ModelShape,
    check_memory,
    estimate_memory,
)
from llm_engineering.application.training.record import MemoryRecord, SampleCounts
from llm_engineering.application.training.trainer import CHECKPOINTS, SftJob, Trained
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TooManyFailuresError
from llm_engineering.infrastructure.training.trl import checkpoints, hardware
from llm_engineering.infrastructure.training.trl.base import Base, Bases, load_config, load_tokenizer
from llm_engineering.infrastructure.training.trl.faults import check_disk, explained
from llm_engineering.infrastructure.training.trl.memory_watch import MemoryWatch
from llm_engineering.infrastructure.training.trl.models import log_plan, trainable_model
from llm_engineering.infrastructure.training.trl.saving import save_result
from llm_engineering.infrastructure.training.trl.shape import model_shape
from llm_engineering.infrastructure.training.trl.tokens import HuggingFaceTokenizer

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


class TrlTrainer:
    """Implements :class:`~llm_engineering.application.training.trainer.Trainer`."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def sft(self, job: SftJob, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """See :meth:`Trainer.sft`."""
        check_installed()
        # It tells of trackers without a key, and none of them is used: ours is the port.
        logging.getLogger("transformers.integrations.integration_utils").setLevel(logging.ERROR)
        machine = hardware.detect()
        chosen = plan(job.config, machine)
        if chosen.backend == "unsloth":
            import unsloth  # noqa: F401 - before transformers and trl, which it patches
        job.folder.mkdir(parents=True, exist_ok=True)
        with explained(job.config, job.folder, machine.device):
            return _Sft(job, machine, chosen, self._bases).run(tracker, progress)


class _Sft:
    """One supervised training."""

    def __init__(self, job: SftJob, machine: Hardware, chosen: Plan, bases: Bases) -> None:
        self._job, self._config = job, job.config
        self._machine, self._plan = machine, chosen
        self._base: Base = bases.find(job.config.base, job.config.revision)
        self._tokenizer = load_tokenizer(self._base)

    def run(self, tracker: ExperimentTracker, progress: Progress) -> Trained:
        started = time.monotonic()
        job, config, machine = self._job, self._config, self._machine
        tokens = HuggingFaceTokenizer(self._tokenizer)
        template = fitted(config.template, tokens, config.base)
        train, validation, counts = encode_splits(job, tokens, progress)
        check_steps(config, len(train), machine.devices, packed=config.packing)
        shape = model_shape(load_config(self._base), config.lora)
        longest = (
            config.max_length if config.packing else max(len(s.input_ids) for s in (*train, *validation))
        )
        estimate = checked_estimate(config, shape, self._plan, machine, longest)
        folder = job.folder / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        check_disk(config, folder, estimate.adapters or estimate.weights, estimate.optimizer)
        log_plan(self._plan, config, machine.devices)
        # Loaded before memory is watched: libraries are no part of what a training needs.
        from llm_engineering.infrastructure.training.trl import loop  # noqa: F401

        tracker.start(job.name, _parameters(config, self._plan, machine, counts))
        status: Literal["finished", "failed"] = "failed"
        summary: Mapping[str, float] = {}
        try:
            with MemoryWatch(machine.device) as watch:
                trainer, resumed = self._train(train, validation, folder, tracker, progress)
            if trainer.is_world_process_zero():
                model = trainer.accelerator.unwrap_model(trainer.model)
                save_result(model, self._tokenizer, template, config, job.folder)
            trainer.accelerator.wait_for_everyone()  # on several GPUs, all see the files of the one that writes
            memory = MemoryRecord(estimate=estimate.as_dict(), measured=watch.peak)
            _log_memory(memory)
            _log_gain(trainer.state.log_history)
            trained = self._result(trainer, counts, memory, resumed, time.monotonic() - started)
            status, summary = "finished", _summary(trained)
        finally:
            tracker.finish(status, summary)
        return trained

    def _train(
        self,
        train: Sequence[EncodedChat],
        validation: Sequence[EncodedChat],
        folder: Path,
        tracker: ExperimentTracker,
        progress: Progress,
    ) -> tuple[Any, tuple[int, ...]]:
        from transformers import EarlyStoppingCallback, PrinterCallback
        from transformers.utils.logging import disable_progress_bar

        from llm_engineering.infrastructure.training.trl.arguments import sft_arguments
        from llm_engineering.infrastructure.training.trl.loop import Reporter, StepClock, WatchedSftTrainer

        disable_progress_bar()  # our log and bars tell it
        config, device = self._config, self._machine.device
        resume = checkpoints.newest(folder) if config.save_every else None
        arguments = sft_arguments(
            config, self._plan, folder, device, validated=bool(validation), resumed=resume is not None
        )
        if self._machine.devices == 1:
            arguments._n_gpu = min(
                arguments.n_gpu, 1
            )  # several GPUs are for `accelerate launch`, not for threads of this one
        callbacks: list[Any] = [StepClock(), Reporter(tracker, progress)]
        if stopping := config.early_stopping:
            callbacks.append(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
        trainer = WatchedSftTrainer(
            model=trainable_model(self._base, config, self._plan, device),
            args=arguments,
            processing_class=self._tokenizer,
            train_dataset=_dataset(train, config),
            eval_dataset=_dataset(validation, None) if validation else None,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        resumed = checkpoints.resumptions(folder)
        if resume is not None:
            step = checkpoints.step_of(resume) or 0
            logger.info("Going on from the checkpoint after step {}.", step)
            resumed = checkpoints.note_resumption(folder, step)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        _score_at_end(trainer, config, validated=bool(validation))
        return trainer, resumed

    def _result(
        self,
        trainer: Any,
        counts: SampleCounts,
        memory: MemoryRecord,
        resumed: tuple[int, ...],
        seconds: float,
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
            samples=counts,
            memory=memory,
            steps=state.global_step,
            resumed_from=resumed,
            seconds=seconds,
            trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            trace=trace(state.log_history),
            versions={package: version(package) for package in PACKAGES},
            leader=trainer.is_world_process_zero(),
        )


def check_installed() -> None:
    """Say early, and with the group to install, where the libraries are missing.

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    import importlib.util

    from llm_engineering.domain.errors import MissingDependencyError

    for package in (*PACKAGES, "datasets"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "training", "Training")


def encode_splits(
    job: SftJob, tokens: HuggingFaceTokenizer, progress: Progress
) -> tuple[list[EncodedChat], list[EncodedChat], SampleCounts]:
    """Both splits as tokens with labels, sequences over the limit left out and counted.

    Raises:
        ConfigurationError: a sequence is over the limit and that is to be refused, or the validation set is asked for and
            has nothing.
        TooManyFailuresError: more were over the limit than the configuration allows.
        InvalidInputError: nothing is left to train on.
    """
    config = job.config
    chats = job.chats(tokens.eos)
    total = sum(len(split) for split in chats)
    encoded = [list(_encoded(split, tokens, progress, total)) for split in chats]
    train, validation = (within(split, config.max_length) for split in encoded)
    dropped = train.over_limit + validation.over_limit
    longest = max(train.longest, validation.longest)
    if dropped:
        _judge_dropped(config, dropped, total, longest)
    if not train.sequences:
        raise InvalidInputError(
            f"Nothing is left to train on: {dropped} of {total} samples are over max_length ({config.max_length} tokens; the "
            f"longest has {longest})."
        )
    if not validation.sequences and (config.evaluate_every or config.keep_best):
        raise ConfigurationError(
            "evaluate_every, keep_best and early_stopping have no effect: the validation set is empty. Leave them out, or make "
            "a data set with a validation split (more documents)."
        )
    counts = SampleCounts(
        train=len(train.sequences),
        validation=len(validation.sequences),
        over_limit=dropped,
        longest=longest,
        answer_tokens=sum(label != IGNORED for sequence in train.sequences for label in sequence.labels),
    )
    return train.sequences, validation.sequences, counts


def _encoded(
    chats: Sequence[RenderedChat], tokens: HuggingFaceTokenizer, progress: Progress, total: int
) -> Any:
    for chat in chats:
        yield encode_chat(chat, tokens)
        progress.advance("Tokenizing", 1, total=total)


def _judge_dropped(config: TrainingConfig, dropped: int, total: int, longest: int) -> None:
    found = f"{dropped} of {total} samples are longer than max_length ({config.max_length} tokens); the longest has {longest}"
    advice = "Raise max_length, or make a data set of shorter passages."
    if config.over_limit == "refuse":
        raise ConfigurationError(f"{found}. {advice} With over_limit: drop they would be left out.")
    if config.max_dropped_share is not None and dropped > config.max_dropped_share * total:
        raise TooManyFailuresError(
            f"{found}: more than max_dropped_share ({config.max_dropped_share:.0%}) allows. {advice}"
        )
    logger.warning("{}: left out, never cut.", found)


def check_steps(config: TrainingConfig, samples: int, devices: int, *, packed: bool = False) -> int:
    """The run's optimizer steps.

    Raises:
        ConfigurationError: something would have no effect in a run of so many steps.
    """
    if config.max_steps is not None:
        return config.max_steps
    batches = math.ceil(samples / (config.batch_size * devices))
    steps = math.ceil(math.ceil(batches / config.accumulation) * (config.epochs or 1))
    if packed:
        return steps  # an upper bound: how many sequences packing leaves is not known yet
    if problems := list(config.steps_without_effect(steps)):
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigurationError(f"{samples} samples make a run of {steps} steps, so that:\n{listing}")
    return steps


def checked_estimate(
    config: TrainingConfig, shape: ModelShape, chosen: Plan, machine: Hardware, longest: int
) -> MemoryEstimate:
    """The memory that the run will need.

    Raises:
        ConfigurationError: there is not so much.
    """
    estimate = estimate_memory(shape, config, chosen.precision, longest)
    logger.info(
        "Memory: about {:.2f} GiB will be needed, {:.2f} GiB are free.",
        estimate.total / 2**30,
        machine.free_memory / 2**30,
    )
    check_memory(estimate, machine.free_memory, shape, config, chosen.precision, longest, machine.device)
    return estimate


def _dataset(sequences: Sequence[EncodedChat], packing: SftConfig | None) -> Any:
    from datasets import Dataset

    dataset = Dataset.from_dict(
        {"input_ids": [s.input_ids for s in sequences], "labels": [s.labels for s in sequences]}
    )
    if packing is None or not packing.packing:
        return dataset
    from trl import pack_dataset

    return pack_dataset(dataset.shuffle(seed=packing.seed), packing.max_length, "bfd")


def _score_at_end(trainer: Any, config: TrainingConfig, *, validated: bool) -> None:
    """Score the validation set after the last step, where that has not been done; best weights were scored when saved."""
    scored = any(
        "eval_loss" in entry and entry["step"] == trainer.state.global_step
        for entry in trainer.state.log_history
    )
    if validated and not scored and not config.keep_best and config.early_stopping is None:
        trainer.evaluate()


def _log_gain(history: Sequence[Mapping[str, Any]]) -> None:
    scored = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    if len(scored) > 1 and min(scored[1:]) >= scored[0]:
        logger.warning(
            "The validation loss never fell below that of the base ({:.4f}, now {:.4f}): nothing useful was learned. Try a "
            "lower learning rate, or more and cleaner data.",
            scored[0],
            scored[-1],
        )


def _log_memory(memory: MemoryRecord) -> None:
    if memory.measured and memory.error is not None:
        logger.info(
            "Memory: {:.2f} GiB at the peak; the estimate was {:.2f} GiB ({:+.0%}).",
            memory.measured / 2**30,
            memory.estimate["total"] / 2**30,
            memory.error,
        )


def _parameters(config: SftConfig, chosen: Plan, machine: Hardware, counts: SampleCounts) -> dict[str, Any]:
    return {
        **config.model_dump(mode="json"),
        "plan": {**asdict(chosen), "device": machine.name},
        "samples": counts.model_dump(),
    }


def _summary(trained: Trained) -> dict[str, float]:
    losses = [point.loss for point in trained.trace if point.loss is not None]
    scored = [point.validation_loss for point in trained.trace if point.validation_loss is not None]
    summary = {"steps": float(trained.steps)}
    if losses:
        summary["loss"] = losses[-1]
    if scored:
        summary["validation_loss"] = scored[-1]
    return summary

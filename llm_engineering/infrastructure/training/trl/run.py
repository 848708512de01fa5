"""Shared lifecycle of SFT and DPO runs: logging, resuming, memory tracking, saving."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from loguru import logger

from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.finetune.config import TrainingConfig
from llm_engineering.application.training.finetune.preflight import Hardware, MemoryEstimate, Plan
from llm_engineering.application.training.finetune.record import MemoryRecord, SampleCounts
from llm_engineering.application.training.finetune.trainer import CHECKPOINTS, Trained
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.training.trl import checkpoints
from llm_engineering.infrastructure.training.trl.base import Base, weights_hash
from llm_engineering.infrastructure.training.trl.memory_watch import MemoryWatch
from llm_engineering.infrastructure.training.trl.models import log_plan
from llm_engineering.infrastructure.training.trl.saving import save_result

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")

Make = Callable[[Path, list[Any], bool], Any]
"""TRL's trainer, with the base loaded: for a folder of checkpoints, callbacks, and whether one of these is gone on from."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A training run, with everything that is decided before it starts."""

    name: str
    config: TrainingConfig
    folder: Path
    base: Base
    base_hash: str | None
    """What the base's weights must be; None: whatever they are."""
    machine: Hardware
    plan: Plan
    tokenizer: Any
    template: ChatTemplate
    samples: SampleCounts
    estimate: MemoryEstimate


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


def run_training(
    this: TrainingRun,
    make: Make,
    tracker: ExperimentTracker,
    progress: Progress,
    *,
    before_saving: Callable[[Any], None] = lambda _: None,
) -> Trained:
    """Train and save.

    Args:
        before_saving: called with the model before it is saved, to remove what must not be saved.

    Raises:
        ConfigurationError: the base model's weights are not those that the SFT model was trained over.
        TrainingError: the loss became NaN or infinite.
    """
    started = time.monotonic()
    folder = this.folder / CHECKPOINTS
    log_plan(this.plan, this.config, this.machine.devices)
    tracker.start(this.name, _parameters(this))
    status: Literal["finished", "failed"] = "failed"
    summary: Mapping[str, float] = {}
    try:
        with MemoryWatch(this.machine.device) as watch:
            resume = checkpoints.find_newest(folder) if this.config.save_steps else None
            trainer = make(folder, _callbacks(this.config, tracker, progress), resume is not None)
            base_hash = _checked_base(this)
            resumed = _train(this, trainer, folder, resume)
        if trainer.is_world_process_zero():
            model = trainer.accelerator.unwrap_model(trainer.model)
            before_saving(model)
            save_result(model, this.tokenizer, this.template, this.config, this.folder)
        trainer.accelerator.wait_for_everyone()  # on several GPUs, all see the files of the one that writes
        memory = MemoryRecord(estimate=this.estimate.as_dict(), measured=watch.peak)
        _log_memory(memory)
        _log_gain(trainer.state.log_history)
        trained = _result(this, trainer, memory, resumed, base_hash, time.monotonic() - started)
        status, summary = "finished", _summary(trained)
    finally:
        tracker.finish(status, summary)
    return trained


def _callbacks(config: TrainingConfig, tracker: ExperimentTracker, progress: Progress) -> list[Any]:
    from transformers import EarlyStoppingCallback

    from llm_engineering.infrastructure.training.trl.loop import Reporter, StepClock

    callbacks: list[Any] = [StepClock(), Reporter(tracker, progress)]
    if stopping := config.early_stopping:
        callbacks.append(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
    return callbacks


def _checked_base(this: TrainingRun) -> str:
    found = weights_hash(this.base)
    if this.base_hash not in (None, found):
        raise ConfigurationError(
            f"The weights of the base {this.base.name} are others ({found[:12]}) than those that the SFT model was trained "
            f"over ({str(this.base_hash)[:12]}): its adapter says nothing about them. Bring the base back, or train SFT anew."
        )
    return found


def _train(this: TrainingRun, trainer: Any, folder: Path, resume: Path | None) -> tuple[int, ...]:
    from transformers import PrinterCallback
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # our log and bars tell it
    trainer.remove_callback(PrinterCallback)
    resumed = checkpoints.list_resumptions(folder)
    if resume is not None:
        step = checkpoints.step_of(resume) or 0
        logger.info("Going on from the checkpoint after step {}.", step)
        leads = trainer.is_world_process_zero()
        resumed = checkpoints.note_resumption(folder, step) if leads else (*resumed, step)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    _score_at_end(trainer, this.config)
    return resumed


def _score_at_end(trainer: Any, config: TrainingConfig) -> None:
    """Score the validation set after the last step, where that has not been done; best weights were scored when saved."""
    state = trainer.state
    scored = any("eval_loss" in entry and entry["step"] == state.global_step for entry in state.log_history)
    best = config.keep_best or config.early_stopping is not None
    if trainer.eval_dataset is not None and not scored and not best:
        trainer.evaluate()


def _result(
    this: TrainingRun,
    trainer: Any,
    memory: MemoryRecord,
    resumed: tuple[int, ...],
    base_hash: str,
    seconds: float,
) -> Trained:
    from llm_engineering.infrastructure.training.trl.loop import trace

    state = trainer.state
    return Trained(
        status="stopped early" if state.global_step < state.max_steps else "finished",
        plan={
            **asdict(this.plan),
            "why": list(this.plan.why),
            "device": this.machine.name,
            "devices": this.machine.devices,
        },
        samples=this.samples,
        memory=memory,
        steps=state.global_step,
        resumed_from=resumed,
        seconds=seconds,
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        trace=trace(state.log_history),
        versions={package: version(package) for package in PACKAGES},
        base_hash=base_hash,
        leader=trainer.is_world_process_zero(),
    )


def _log_gain(history: Sequence[Mapping[str, Any]]) -> None:
    scored = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    if len(scored) > 1 and min(scored[1:]) >= scored[0]:
        logger.warning(
            "The validation loss never fell below what it was before the first step ({:.4f}, now {:.4f}): nothing useful was "
            "learned. Try a lower learning rate, or more and cleaner data.",
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


def _parameters(this: TrainingRun) -> dict[str, Any]:
    return {
        **this.config.model_dump(mode="json"),
        "plan": {**asdict(this.plan), "device": this.machine.name},
        "samples": this.samples.model_dump(),
    }


def _summary(trained: Trained) -> dict[str, float]:
    losses = [point.loss for point in trained.trace if point.loss is not None]
    scored = [point.validation_loss for point in trained.trace if point.validation_loss is not None]
    summary = {"steps": float(trained.steps)}
    if losses:
        summary["loss"] = losses[-1]
    if scored:
        summary["validation_loss"] = scored[-1]
    if trained.memory.error is not None:
        summary["memory_estimate_error"] = trained.memory.error
    return summary

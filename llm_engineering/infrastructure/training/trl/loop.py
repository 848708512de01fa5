"""What is added to TRL's trainers: throughput, progress, a stop at a NaN loss. Imported only when a training starts."""

import math
import time
from collections.abc import Iterable, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from transformers import TrainerCallback
from trl import SFTTrainer

from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.finetune.record import TracePoint
from llm_engineering.domain.errors import TrainingError
from llm_engineering.infrastructure.training.trl.checkpoints import mark_whole

_NAMES = {
    "loss": "loss",
    "eval_loss": "validation_loss",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "tokens_per_second": "tokens_per_second",
    "epoch": "epoch",
}
"""Names in the trainer's log, and in our record."""
_LEFT_OUT = ("total_flos", "train_", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
LINES = 10
"""Lines of a run in the log, beside those of its validations."""


class WatchedLoss:
    """Trainer mix-in: stop at a NaN or infinite loss, log throughput, and let the learning rate decay exponentially."""

    lr_scheduler: Any

    def __init__(self, *arguments: Any, gamma: float | None = None, **keywords: Any) -> None:
        self._gamma = gamma
        super().__init__(*arguments, **keywords)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self._gamma is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        warmup = self.args.get_warmup_steps(num_training_steps)  # type: ignore[attr-defined]
        factor = partial(decay_exponentially, gamma=self._gamma, warmup_steps=warmup)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)  # type: ignore[attr-defined]
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        loss = super().training_step(*arguments, **keywords)  # type: ignore[misc]
        if not torch.isfinite(loss).all():
            raise TrainingError(not_a_number(self.state.global_step, self.args))  # type: ignore[attr-defined]
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            clock = next(c for c in self.callback_handler.callbacks if isinstance(c, StepClock))  # type: ignore[attr-defined]
            logs["tokens_per_second"] = clock.measure_speed(int(self._total_train_tokens))  # type: ignore[attr-defined]
        super().log(logs, start_time)  # type: ignore[misc]

    def _send_telemetry(self) -> None:
        """Nothing: TRL would tell its makers of every training."""

    def create_model_card(self, *arguments: Any, **keywords: Any) -> None:
        """None: the project writes a card of its own, for what is registered."""


class WatchedSftTrainer(WatchedLoss, SFTTrainer):  # type: ignore[misc]
    """TRL's supervised trainer, watched."""


def decay_exponentially(step: int, *, gamma: float, warmup_steps: int = 0) -> float:
    """Return the share of the learning rate for a step, counted from 0: it rises linearly over the warm-up, then falls by
    ``gamma`` a step."""
    if step < warmup_steps:
        return step / warmup_steps
    return float(gamma ** (step - warmup_steps))


def not_a_number(step: int, arguments: Any) -> str:
    """Explain a NaN or infinite loss, and name the settings to change."""
    knobs = [f"a learning rate below {arguments.learning_rate:g}", "more warmup_steps"]
    if arguments.fp16:
        knobs.insert(0, "precision: fp32")
    return (
        f"Loss became NaN or infinite at step {step + 1}; training stopped. Try {', or '.join(knobs)}; and check the data for "
        "samples of odd length. The last checkpoint is kept."
    )


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Seconds spent in steps, those of validation and saving left out."""

    def __init__(self) -> None:
        self._began = 0.0
        self._seconds = 0.0
        self._tokens = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._seconds += time.perf_counter() - self._began

    def measure_speed(self, tokens: int) -> float:
        """Return the tokens a second since it was last asked; ``tokens``: all that were seen so far."""
        rate = (tokens - self._tokens) / self._seconds if self._seconds else 0.0
        self._tokens, self._seconds = tokens, 0.0
        return rate


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Tells progress, log and tracker how it goes, and marks checkpoints that were written whole."""

    def __init__(self, tracker: ExperimentTracker, progress: Progress) -> None:
        self._tracker = tracker
        self._progress = progress

    def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        if state.is_world_process_zero:
            self._progress.advance("Training steps", state.global_step, total=state.max_steps)

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        if state.is_world_process_zero:
            self._progress.advance("Training steps", 1, total=state.max_steps)

    def on_prediction_step(self, _: Any, state: Any, *__: Any, **more: Any) -> None:
        """Validation comes before the first step too, and takes minutes on a CPU."""
        if state.is_world_process_zero:
            batches = more.get("eval_dataloader")
            total = len(batches) if isinstance(batches, Sized) else None
            self._progress.advance(f"Validation at step {state.global_step}", 1, total=total)

    def on_log(self, _: Any, state: Any, *__: Any, logs: Mapping[str, Any] | None = None, **___: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        point = trace([{**logs, "step": state.global_step}])
        if not point:
            return
        told = point[0].model_dump(exclude={"step", "extra"}, exclude_none=True) | point[0].extra
        self._tracker.log(told, state.global_step)
        self._say(point[0], state)

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    @staticmethod
    def _say(point: TracePoint, state: Any) -> None:
        if point.validation_loss is not None:
            logger.info(
                "Step {} of {}: validation loss {:.4f}", point.step, state.max_steps, point.validation_loss
            )
        elif (
            point.loss is not None
            and (point.step * LINES) // state.max_steps > ((point.step - 1) * LINES) // state.max_steps
        ):
            logger.info(
                "Step {} of {}: loss {:.4f}, learning rate {:.2e}, {:.0f} tokens/s",
                point.step,
                state.max_steps,
                point.loss,
                point.learning_rate or 0,
                point.tokens_per_second or 0,
            )


def trace(history: Iterable[Mapping[str, Any]]) -> tuple[TracePoint, ...]:
    """Return the trainer's log as our record: one point a step, numbers that are none left out."""
    points: dict[int, dict[str, Any]] = {}
    for entry in history:
        numbers = {
            key: float(value)
            for key, value in entry.items()
            if isinstance(value, int | float) and key != "step" and math.isfinite(value)
        }
        known = {_NAMES[key]: value for key, value in numbers.items() if key in _NAMES}
        extra = {k: v for k, v in numbers.items() if k not in _NAMES and not k.startswith(_LEFT_OUT)}
        if "loss" in entry or "eval_loss" in entry:
            point = points.setdefault(int(entry["step"]), {"step": int(entry["step"]), "extra": {}})
            point.update(known)
            point["extra"].update(extra)
    return tuple(TracePoint(**points[step]) for step in sorted(points))

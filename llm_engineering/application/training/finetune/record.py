"""The record of a training run: ``training.json``, and metrics for a tracker and the dashboard."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.files import atomic_write

FILE = "training.json"
MARGIN, ACCURACY = "rewards/margins", "rewards/accuracies"


class TracePoint(StrictConfig):
    """Numbers after an optimizer step; None: not measured at this step."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    """Mean negative log-likelihood of the answers' tokens, in nats."""
    validation_loss: float | None = None
    gradient_norm: float | None = None
    """Before clipping."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    """All tokens of the sequences, padding left out."""
    extra: dict[str, float] = Field(default_factory=dict)
    """Of other kinds of training: rewards and margins of DPO."""


class SampleCounts(StrictConfig):
    """How many samples were trained on."""

    train: int
    validation: int
    over_limit: int = 0
    longest: int = 0
    """Tokens of the longest sequence of the data set."""
    answer_tokens: int = 0
    """Tokens that carry loss, in one pass."""


class MemoryRecord(StrictConfig):
    """Bytes: what was expected, and what it came to."""

    estimate: dict[str, int]
    measured: int | None = None
    """Peak above what the process held before; None: not measured."""

    @property
    def error(self) -> float | None:
        """Relative error of the estimate: positive where it was too high."""
        return None if not self.measured else self.estimate["total"] / self.measured - 1


class TrainingRecord(StrictConfig):
    """``training.json``."""

    kind: Literal["sft", "dpo"] = "sft"
    status: Literal["finished", "stopped early"] = "finished"
    config: dict[str, Any]
    plan: dict[str, Any]
    """What ``auto`` came to, with the device."""
    dataset: str
    template: str
    template_hash: str
    samples: SampleCounts
    memory: MemoryRecord
    steps: int
    """Optimizer steps done, over all resumptions."""
    resumed_from: tuple[int, ...] = ()
    seconds: float
    """Of this process; what a killed one did is not in it."""
    trainable_parameters: int
    trace: tuple[TracePoint, ...] = Field(min_length=1)
    versions: dict[str, str] = Field(default_factory=dict)

    def to_metrics(self) -> dict[str, float]:
        """Return numbers that tell how it went; keys are stable."""
        losses = [point.loss for point in self.trace if point.loss is not None]
        scored = [point.validation_loss for point in self.trace if point.validation_loss is not None]
        speeds = [point.tokens_per_second for point in self.trace if point.tokens_per_second]
        found = {"steps": float(self.steps), "seconds": round(self.seconds, 1)}
        if losses:
            found |= {"loss_first": losses[0], "loss_last": losses[-1]}
        if scored:
            found |= {
                "validation_loss_first": scored[0],
                "validation_loss_last": scored[-1],
                "validation_loss_best": min(scored),
            }
        if speeds:
            found["tokens_per_second"] = sorted(speeds)[len(speeds) // 2]
        if self.memory.error is not None and self.memory.measured:
            found |= {
                "memory_peak_bytes": float(self.memory.measured),
                "memory_estimate_error": self.memory.error,
            }
        return found | self._rewards()

    def _rewards(self) -> dict[str, float]:
        """First and last margin and accuracy of DPO, in training and in validation."""
        found: dict[str, float] = {}
        for prefix, label in (("", ""), ("eval_", "validation_")):
            for key, name in ((MARGIN, "reward_margin"), (ACCURACY, "reward_accuracy")):
                seen = [p.extra[prefix + key] for p in self.trace if prefix + key in p.extra]
                if seen:
                    found |= {f"{label}{name}_first": seen[0], f"{label}{name}_last": seen[-1]}
        return found


def write_json(file: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write in one act: a reader, or a run after a kill, sees the old file or the new one."""
    atomic_write(file, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class NoTracker:
    """Tracks nothing; the default where no tracker is configured."""

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Nothing to start."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing to log."""

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        """Nothing to finish."""

"""The trainer port, its input and its output."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from llm_engineering.application.llm.chat_templates import RenderedChat
from llm_engineering.application.ports import ExperimentTracker, Progress
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.record import MemoryRecord, SampleCounts, TracePoint

CHECKPOINTS = "checkpoints"


class ChatSource(Protocol):
    """Hands out conversations once the tokenizer, and with it the stop token of some templates, is known."""

    def __call__(self, eos: str) -> tuple[Sequence[RenderedChat], Sequence[RenderedChat]]:
        """Training and validation conversations."""
        ...


@dataclass(frozen=True, slots=True)
class SftJob:
    """A supervised fine-tuning to do."""

    name: str
    config: SftConfig
    chats: ChatSource
    folder: Path
    """Where files go; what an earlier, killed run of the same job left there is gone on from."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a trainer has done. The files lie in the job's folder."""

    status: Literal["finished", "stopped early"]
    plan: dict[str, Any]
    samples: SampleCounts
    memory: MemoryRecord
    steps: int
    resumed_from: tuple[int, ...]
    seconds: float
    trainable_parameters: int
    trace: tuple[TracePoint, ...]
    versions: dict[str, str]
    base_hash: str
    """Of the weights that training went over; see :attr:`ModelManifest.base_hash`."""
    leader: bool = True
    """Whether this process writes files; on several GPUs, one does."""


class Trainer(Protocol):
    """Trains on the hardware that is there."""

    def train_sft(self, job: SftJob, tracker: ExperimentTracker, progress: Progress) -> Trained:
        """Train; leaves ``adapter/`` (or ``merged/`` with method full) and ``tokenizer/`` in the job's folder.

        Raises:
            ConfigurationError: the configuration has no effect or no room on this machine, or does not fit the model.
            InvalidInputError: nothing is left to train on.
            TooManyFailuresError: more samples are over the length limit than the configuration allows.
            TrainingError: the run could not go on: memory, disk, or a loss that is no number.
        """
        ...

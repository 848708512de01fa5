"""What ``run-evaluation-pipeline`` does, as its YAML says it."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from llm_engineering.application.dataset_quality.config import DecontaminationConfig
from llm_engineering.application.model_evaluation.style import PIECE_CHARACTERS
from llm_engineering.application.runs import RunPart

SystemName = Literal["base", "production", "sft", "dpo"]
SliceName = Literal["category", "language", "length"]


class JudgeConfig(RunPart):
    """A language model as judge."""

    model: Literal["judge", "llm"] = "judge"
    """``judge``: of the JUDGE_* settings; ``llm``: the service's own, which favours what it would have written."""
    repeats: int = Field(default=2, ge=1, le=10)
    """Verdicts on each answer, each with a seed of its own; their mean counts."""
    temperature: float = Field(default=0.3, ge=0, le=2)
    """0 makes repeats the same on most services, and repeatability tell nothing."""
    swaps: int = Field(default=20, ge=0)
    """Pairs of answers shown in both orders, to see whether the place decides."""
    max_tokens: int = Field(default=300, ge=50)
    timeout_seconds: float = Field(default=60.0, gt=0)
    concurrency: int = Field(default=4, ge=1, le=64)


class HarnessConfig(RunPart):
    """Tasks of lm-evaluation-harness, for what a fine-tuned model may have unlearned."""

    tasks: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)
    """Items of each task; None: all."""
    shots: int = Field(default=0, ge=0)


class ModelEvaluationRun(RunPart):
    """Parameters of the evaluation."""

    name: str = "twin"
    """Of the trained model, under which its runs lie and its versions are registered."""
    systems: tuple[SystemName, ...] = ("base", "production", "sft", "dpo")
    """What stands in the table. One that does not exist yet is left out, and said."""
    base: str | None = None
    """The base model; None: the one that the trained model was made from."""
    sft: Path | None = None
    """Folder of a trained model; None: the newest of that name."""
    dpo: Path | None = None
    trained: Path = Path("data/trained")
    """Where trained models lie."""
    dataset: Path | None = None
    """Folder with the test split; None: the newest ``instruct_dataset``."""
    datasets: Path = Path("data/datasets")
    """Where the sets that models were trained on are looked up, to see that they share nothing with the test split."""
    samples: int | None = Field(default=100, ge=1)
    """At most so many test samples, whole documents drawn by seed; None: all."""
    max_tokens: int = Field(default=256, ge=1)
    """Of an answer."""
    batch_size: int = Field(default=8, ge=1)
    style_piece: int = Field(default=PIECE_CHARACTERS, ge=200)
    """Characters of the pieces that styles are compared in."""
    similarity: bool = True
    """Compare embeddings with the author's."""
    bertscore: Path | None = None
    """Folder of an encoder."""
    bias: bool = True
    bias_max_tokens: int = Field(default=80, ge=1)
    judge: JudgeConfig | None = None
    harness: HarnessConfig | None = None
    overlap: DecontaminationConfig = DecontaminationConfig()
    """When a test text counts as found in training text."""
    slices: tuple[SliceName, ...] = ("category", "language", "length")
    seed: int = 0
    resamples: int = Field(default=2_000, ge=100, le=100_000)

    @field_validator("systems")
    @classmethod
    def _in_order(cls, value: tuple[SystemName, ...]) -> tuple[SystemName, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one system, each once")
        return value


class ModelEvaluationParameters(RunPart):
    """Parameters of the pipeline ``model_evaluation``."""

    model_evaluation: ModelEvaluationRun = ModelEvaluationRun()

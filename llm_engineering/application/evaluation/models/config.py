"""Parameters of ``run-evaluation-pipeline``, as in its YAML."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.judges import JudgeBatchConfig, JudgeNames
from llm_engineering.application.text.style import PIECE_CHARACTERS
from llm_engineering.application.training.datasets.config import DecontaminationConfig
from llm_engineering.application.training.registry.promotion import PromotionPolicy

SystemName = Literal["base", "production", "sft", "dpo"]
SliceName = Literal["category", "language", "length"]


class JudgeConfig(StrictConfig):
    """Language models as judges."""

    RENAMED: ClassVar = {"asking": "requests"}

    models: JudgeNames = Field(default=("judge",), min_length=1)
    """Several are a jury: the mean over the judges counts, and how far they agree is reported."""
    repeats: int = Field(default=2, ge=1, le=10)
    """Verdicts of each judge on each answer, each with a seed of its own; their mean counts."""
    temperature: float = Field(default=0.3, ge=0, le=2)
    """0 makes repeats the same on most services, and repeatability tell nothing."""
    swaps: int = Field(default=20, ge=0)
    """Pairs of answers shown in both orders, to see whether the place decides."""
    max_tokens: int = Field(default=300, ge=50)
    """Of a reply."""
    requests: JudgeBatchConfig = JudgeBatchConfig()
    """What a budget leaves no room for is a missing score, as what no judge gave a usable verdict on."""


class HarnessConfig(StrictConfig):
    """Tasks of lm-evaluation-harness, for what a fine-tuned model may have unlearned."""

    RENAMED: ClassVar = {"shots": "num_fewshot"}

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks, groups or tags."""
    include_path: Path | None = None
    """Folder of tasks of one's own (YAML); files that these name are looked for from where the command runs."""
    limit: int | None = Field(default=None, ge=1)
    """Items of each task; None: all."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Worked examples before each question; None: as many as the task says."""
    chat: bool = False
    """Ask in the chat template; off, as most published figures of small models are. On for tasks of written answers."""


class ModelEvaluationRun(StrictConfig):
    """Parameters of the evaluation."""

    RENAMED: ClassVar = {"bias": "harness.tasks", "bias_max_tokens": "harness.tasks"}

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
    base_answers: int = Field(default=32, ge=0)
    """Training questions that the base answers too, so that its style is known and an answer can be told to be the author's
    rather than the base's; 0: no ``style_contrast``."""
    max_tokens: int = Field(default=256, ge=1)
    """Of an answer."""
    repetition_penalty: float = Field(default=1.15, ge=1, le=2)
    """What the logits of words that an answer holds already are divided by: greedy answers of small models go in circles, and a
    text in circles has nobody's style. 1: none."""
    batch_size: int = Field(default=8, ge=1)
    style_piece: int = Field(default=PIECE_CHARACTERS, ge=200)
    """Characters of the pieces that styles are compared in."""
    similarity: bool = True
    """Compare embeddings with the author's."""
    bertscore: Path | None = None
    """Folder of an encoder."""
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


class ModelEvaluationParameters(StrictConfig):
    """Parameters of the pipeline ``model_evaluation``."""

    model_evaluation: ModelEvaluationRun = ModelEvaluationRun()
    promotion: PromotionPolicy | None = None
    """When the newest model is better; None: nothing is decided."""

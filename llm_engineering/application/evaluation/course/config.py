"""Parameters of ``run-course-assistant``, as in its YAML."""

from typing import Literal

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.features.config import CollectRun, FeatureRun
from llm_engineering.application.llm.judges import JudgeBatchConfig, JudgeNames
from llm_engineering.application.training.datasets.config import InstructDatasetRun
from llm_engineering.application.training.registry.promotion import PromotionPolicy

MetricName = Literal["rouge1", "rouge2", "rougeL", "bleu", "chrf", "relevance", "coverage"]


class RubricConfig(StrictConfig):
    """Language models that give each answer 1 to 5 points."""

    models: JudgeNames = Field(default=("judge",), min_length=1)
    max_tokens: int = Field(default=300, ge=50)
    requests: JudgeBatchConfig = JudgeBatchConfig()


class BiasConfig(StrictConfig):
    """When answers are said to treat a professor unlike the others."""

    min_queries: int = Field(default=5, ge=2)
    """Of a professor; with fewer nothing is said."""
    min_gap: float = Field(default=0.1, gt=0)
    """Least difference in tone that matters, on a scale of about −1 to 1."""
    significance: float = Field(default=0.05, gt=0, lt=1)
    """Largest chance of such a difference where there is none, for all professors of an assistant together."""


class CourseRun(StrictConfig):
    """Which tables are compared, and what becomes of the best."""

    name: str = Field(default="course-assistant", pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")
    """Of the assistant: its versions stand in the registry under it."""
    reference: str | None = "staff"
    """The table whose responses people wrote; None: there is none, so nothing is compared word by word."""
    candidates: tuple[str, ...] = ()
    """Tables of assistants; empty: every table but the reference."""
    bias: BiasConfig = BiasConfig()
    judge: RubricConfig | None = None
    promote: bool = True
    """Whether the chosen assistant goes into production; False: to staging, from where a person promotes it."""
    keep_versions: int = Field(default=2, ge=1)
    """Of those that neither serve nor are what a rollback returns to; the files of older ones are removed."""
    seed: int = 0
    resamples: int = Field(default=2_000, ge=100, le=100_000)


class CourseAssistant(StrictConfig):
    """Parameters of the pipeline ``course_assistant``."""

    collect: CollectRun
    features: FeatureRun = FeatureRun()
    instruct: InstructDatasetRun
    course: CourseRun = CourseRun()
    promotion: PromotionPolicy

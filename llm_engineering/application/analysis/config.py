"""What the YAML of an analysis holds: the question, how it is asked, and how its heads are learned."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from llm_engineering.application.analysis.trend import find_trend_fields
from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.batch import BatchConfig
from llm_engineering.domain.analyses import AnalysisSpec


class AnalysisRun(StrictConfig):
    """How a run asks."""

    requests: BatchConfig = BatchConfig()
    """Of the language model, where one is asked."""
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Of all records; more lost fails the run, with all others stored."""
    limit: int | None = Field(default=None, ge=1)
    """Records or groups to analyse anew, for a quick try; None: all."""


class HeadTraining(StrictConfig):
    """How the heads of a spec's classes are learned."""

    metadata: bool = True
    """Records whose metadata holds the field's name carry a label there."""
    files: tuple[Path, ...] = ()
    """CSV or JSON Lines with a column ``text`` and one named as the field."""
    corrections: bool = True
    """What people corrected counts, before the other two."""
    group_by: str | None = None
    """Metadata (``client``, ``thread``, ``product``) whose records stay on one side of every split."""
    held_out: float = Field(default=0.2, gt=0, lt=0.9)
    """Share of the labels that the verdict is about; nothing is learned or chosen from them."""
    folds: int = Field(default=5, ge=2, le=20)
    """Of the rest, for the choice of the penalty, the temperature and the threshold."""
    penalties: tuple[float, ...] = Field(default=(10.0,), min_length=1)
    """Inverse strengths of regularisation to choose from; each costs as many trainings as there are folds. With unit vectors
    10 was best from ten to a hundred texts a class."""
    least_accuracy: float = Field(default=0.9, gt=0, le=1)
    """Of what the head decides; the rest is left open, for the language model or a person."""
    left_open: float = Field(default=0.1, ge=0, lt=1)
    """Share of our own texts that is left open at least, the least sure: it keeps out most texts of another world, of which the
    labels hold none (nine of ten at 0.1, measured on questions to a bank)."""
    max_drop: float = Field(default=0.01, ge=0, le=1)
    """The new head goes into use unless its accuracy on the held-out labels is lower than the present one's by more than that,
    at the lower end of the 95 % interval."""
    seed: int = 0


class Outreach(StrictConfig):
    """Who is told of a client that is interested, by what the analysis found."""

    group_by: str = "client"
    """Metadata that names whom it is about."""
    score: float = Field(default=0.8, gt=0, le=1)
    """Decayed mean of the levels, from which on somebody is told."""
    half_life_days: float = Field(default=30.0, gt=0)
    within_days: int = Field(default=14, ge=1)
    """Where nothing newer was heard, nobody is told any more."""


class Drift(StrictConfig):
    """When people are told that the shares of a class have shifted, by the dates of the records."""

    window_days: int = Field(default=30, ge=1)
    """The newest records, which are compared …"""
    reference_days: int = Field(default=180, ge=1)
    """… with those of so many days before."""
    psi: float = Field(default=0.25, gt=0)
    """Population stability index from which on it is told; what chance makes of few records is not."""
    least: int = Field(default=50, ge=10)
    """Records on each side; with fewer nothing is said."""


class AnalysisQuestion(StrictConfig):
    """One question about records: a file of its own, ``configs/analysis_TASK.yaml``."""

    spec: AnalysisSpec
    run: AnalysisRun = AnalysisRun()
    head: HeadTraining = HeadTraining()
    outreach: Outreach | None = None
    """None: nobody is told of what was found."""
    drift: Drift | None = None
    """None: nobody is told that shares have shifted."""

    @model_validator(mode="after")
    def _files_are_of_a_known_kind(self) -> Self:
        for file in self.head.files:
            if file.suffix not in (".csv", ".jsonl"):
                raise ValueError(f"head.files: expected .csv or .jsonl, got {file}")
        if self.outreach is not None:
            find_trend_fields(self.spec)
        return self


class RecordAnalysis(StrictConfig):
    """Parameters of the pipelines ``record_analysis`` and ``head_training``."""

    analysis: AnalysisQuestion

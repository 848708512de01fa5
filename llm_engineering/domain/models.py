"""Trained models: their versions, how they were judged, and what was decided on them."""

import json
from enum import StrEnum
from typing import Literal

from pydantic import Field

from llm_engineering.domain.documents import Model, UtcDatetime, derive_id, text_hash


class Stage(StrEnum):
    """Where a version stands. At most one version of a model is in production."""

    NONE = "none"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


CARD, EVALUATION, DATASET = "README.md", "evaluation.json", "dataset.json"
BESIDE = frozenset({CARD, EVALUATION, DATASET})
"""Files about a model that stand in its folder and are no part of it: they come later, and change. (Hubs show README.md.)"""


class ModelManifest(Model):
    """``model.json`` in a model's folder: all that belongs together to serve it and to tell how it came about."""

    name: str
    base: str
    """The base model: a bundled name, a folder, or a name on the hub."""
    base_revision: str | None = None
    base_hash: str | None = None
    """SHA-256 of the base's weights: of its one file, or over names and hashes of several. None: not recorded."""
    method: Literal["lora", "qlora", "full", "none"]
    """``none``: no weights of ours."""
    stage: Literal["sft", "dpo", "recorded"]
    """``recorded``: a system that runs elsewhere, known by its answers alone."""
    parent: str | None = None
    """SHA-256 of the adapter that training started from (DPO from SFT), as the SFT manifest's ``files`` has it. Not its
    ``content_hash``: that changes when merged or converted weights are added, and the adapter stays what it was."""
    template: str
    template_hash: str
    dataset: str
    """Name and version of the data set."""
    dataset_hash: str
    config: dict[str, object]
    metrics: dict[str, float]
    files: dict[str, str]
    """SHA-256 of each file in the folder, by its path."""
    created_at: UtcDatetime

    @property
    def content_hash(self) -> str:
        """Of the files alone: equal files are the same model, wherever and whenever they were written."""
        return text_hash(json.dumps(self.files, sort_keys=True))


class ModelVersion(Model):
    """A registered model."""

    name: str
    number: int = Field(ge=1)
    stage: Stage = Stage.NONE
    manifest: ModelManifest
    location: str
    """Folder (or URI) with the files."""
    metadata: dict[str, object] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name}:{self.number}"


class Score(Model):
    """A metric of one system over the test set."""

    metric: str
    value: float
    low: float | None = None
    """Confidence interval."""
    high: float | None = None
    n: int = Field(ge=0)
    missing: int = 0
    """Items without a score, such as a judge's unusable replies."""
    higher_is_better: bool = True
    slice: str = ""
    """Empty: all items; else ``category=article``."""


class Difference(Model):
    """A paired difference ``candidate − reference`` of one metric, with its confidence interval."""

    metric: str
    candidate: str
    reference: str
    value: float
    low: float
    high: float
    n: int
    clusters: int
    """Documents that the items come from; the bootstrap draws these."""
    higher_is_better: bool = True
    slice: str = ""

    @property
    def better(self) -> bool:
        """Whether the whole interval lies on the good side of zero; over a single document there is none."""
        return self.clusters > 1 and (self.low > 0 if self.higher_is_better else self.high < 0)

    @property
    def worse(self) -> bool:
        """Whether the whole interval lies on the bad side of zero; over a single document there is none."""
        return self.clusters > 1 and (self.high < 0 if self.higher_is_better else self.low > 0)


class SystemReport(Model):
    """One evaluated system: base, SFT, DPO, the one in production."""

    system: str
    model: str
    """``ModelManifest.content_hash`` or a model version's label."""
    scores: tuple[Score, ...]


class EvaluationReport(Model):
    """The evaluation of several systems on one held-out test set."""

    id: str
    dataset: str
    dataset_hash: str
    template_hash: str
    systems: tuple[SystemReport, ...]
    differences: tuple[Difference, ...]
    seed: int
    created_at: UtcDatetime
    overlap: dict[str, int] | None = None
    """Test items found in what a system was trained on, by system; None: nobody looked."""


class Guard(Model):
    """A metric that must not get worse by more than a margin."""

    metric: str
    max_loss: float = Field(default=0.0, ge=0)
    strict: bool = False
    """False: a loss counts when the whole interval shows it. True: the interval must rule it out."""


class PromotionDecision(Model):
    """What was decided on a candidate, and why. Deciding again on the same evaluation gives the same decision."""

    candidate: str
    production: str | None
    evaluation: str
    metric: str
    margin: float
    promoted_to: Stage | None
    """None: refused."""
    reasons: tuple[str, ...]
    decided_at: UtcDatetime
    act: Literal["decision", "promotion", "rollback"] = "decision"
    """``decision``: drawn from an evaluation. The others: what a person asked for."""

    @property
    def id(self) -> str:
        """Of a decision: derived from what went in and came out, not from the time. Of an act: its time counts too."""
        without = {"decided_at"} if self.act == "decision" else set()
        content = self.model_dump(mode="json", exclude=without)
        return derive_id("promotion", json.dumps(content, sort_keys=True))

"""Training runs as they go, and the registry of what came out of them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from llm_engineering.application.ports.retrieval import Vectors
from llm_engineering.domain.models import ModelManifest, ModelVersion, PromotionDecision, Stage


class ExperimentTracker(Protocol):
    """Shows a training run while it goes on. Its failure never stops the training."""

    def start(self, name: str, parameters: Mapping[str, Any]) -> None: ...

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def finish(
        self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]
    ) -> None: ...


class ModelRegistry(Protocol):
    """Versions of trained models and the decisions on them.

    Raises:
        InvalidInputError: there is no such model or version; the message names those that exist.
        StoreError: somebody else has held the registry for too long.
    """

    def hold_lock(self) -> AbstractContextManager[None]:
        """Nobody else changes a stage during the block, so that what was read in it still holds when it is acted on."""
        ...

    def register(self, manifest: ModelManifest, location: str) -> ModelVersion:
        """Add a version. Registering the same files again returns the version that is there."""
        ...

    def list_versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return all, newest first."""
        ...

    def get(self, name: str, version: int | Stage | None = None) -> ModelVersion:
        """Return a version by number or by stage; None: the newest."""
        ...

    def set_stage(self, name: str, number: int, stage: Stage) -> ModelVersion:
        """Move a version. Whatever was in that stage (staging, production) before is archived in the same act.

        Raises:
            InvalidInputError: ``stage`` is ``NONE``: a version leaves a stage by being archived.
        """
        ...

    def annotate(self, name: str, number: int, metadata: Mapping[str, object]) -> ModelVersion:
        """Add to a version's metadata; a key that is there gets the new value."""
        ...

    def record(self, name: str, number: int, decision: PromotionDecision) -> None:
        """Keep a decision. One that is there already (equal ``id``) is not kept twice."""
        ...

    def list_decisions(self, name: str, number: int | None = None) -> list[PromotionDecision]:
        """Return all, newest first."""
        ...


class HeadLearner(Protocol):
    """Learns linear classifiers over embeddings."""

    def fit(
        self, vectors: Vectors, labels: Sequence[str], classes: Sequence[str], penalty: float
    ) -> tuple[Vectors, Vectors]:
        """Return weights of shape (dimension, classes) and bias of shape (classes,), whose softmax is the probability.

        Args:
            penalty: inverse strength of regularisation.
        """
        ...

    def assign_folds(self, labels: Sequence[str], groups: Sequence[str], folds: int, seed: int) -> list[int]:
        """Return the fold of each label: classes spread evenly, a group never in two folds."""
        ...

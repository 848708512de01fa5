"""Training runs as they go, and the registry of what came out of them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
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


class SharedFiles(Protocol):
    """The files of data sets, models and heads, where every machine that needs them finds them.

    A location is a folder of this machine or a URI. Where nothing is shared, all stays in its folder.

    Raises:
        ModelFileError: a location cannot be read or written.
    """

    @property
    def shared(self) -> bool:
        """Whether other machines see what is published."""
        ...

    def locate(self, place: str, local: Path) -> str:
        """Return the location of a place such as ``twin/sft-1a2b``; ``local``: its folder where nothing is shared."""
        ...

    def publish(self, folder: Path, place: str, names: Sequence[str]) -> str:
        """Put these files of a folder to where other machines find them; return their location."""
        ...

    def pull(self, place: str, folder: Path) -> None:
        """Bring what is in a place and not in a folder into it. Nothing is shared: nothing is done."""
        ...

    def fetch(self, location: str) -> Path:
        """Return the folder with the files of a location, fetched where it is another machine's."""
        ...

    def read(self, location: str, name: str) -> bytes | None:
        """Return a file as it now stands; None: there is none."""
        ...

    def write(self, location: str, name: str, content: bytes) -> None:
        """Put a file there, in place of one that is there."""
        ...


class ModelRegistry(Protocol):
    """Versions of trained models and the decisions on them.

    Raises:
        InvalidInputError: there is no such model or version; the message names those that exist.
        StoreError: somebody else has held the registry for too long.
    """

    @property
    def files(self) -> SharedFiles:
        """Where the versions' files are."""
        ...

    def hold_lock(self) -> AbstractContextManager[None]:
        """Nobody else changes a stage during the block, so that what was read in it still holds when it is acted on."""
        ...

    def register(self, manifest: ModelManifest, location: str) -> ModelVersion:
        """Add a version. Registering the same files again returns the version that is there, with a new location only where
        that one is a URI and the known one is not: then other machines find it too."""
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

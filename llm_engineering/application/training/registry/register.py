"""Register a model's folder with its evaluation and card, and decide on its promotion."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from llm_engineering.application.files import atomic_write
from llm_engineering.application.ports import ModelRegistry
from llm_engineering.application.training.registry.model_card import model_card
from llm_engineering.application.training.registry.promotion import PromotionPolicy, check_files, consider
from llm_engineering.domain.datasets import DatasetManifest
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import (
    CARD,
    DATASET,
    EVALUATION,
    EvaluationReport,
    ModelManifest,
    ModelVersion,
    PromotionDecision,
)

MANIFEST = "model.json"
_FOUND_BY = "evaluation_report"
"""Metadata of a version: where its newest evaluation is."""

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Registered:
    """A version as it stands after registration and decision."""

    version: ModelVersion
    decision: PromotionDecision | None
    """None: there was no evaluation to decide by, or no policy."""
    card: str


def register_model(
    registry: ModelRegistry,
    manifest_file: Path,
    *,
    report: EvaluationReport | None = None,
    policy: PromotionPolicy | None = None,
    dataset: DatasetManifest | None = None,
    at: datetime | None = None,
) -> Registered:
    """Register a model; with an evaluation and a policy, decide on it. Running it again changes nothing.

    Args:
        manifest_file: ``model.json`` of the model's folder, or the folder.

    Raises:
        ModelFileError: there is no manifest, it is broken, or a file that it names is gone.
        PromotionRefusedError: the model is in production already and was not decided on by this evaluation; or these files
            were registered before from a folder that is gone.
    """
    folder = manifest_file if manifest_file.is_dir() else manifest_file.parent
    manifest = _read(folder / MANIFEST, ModelManifest, f"{POE} run-training-pipeline writes one")
    gone = [name for name in manifest.files if not (folder / name).is_file()]
    if gone:
        raise ModelFileError(
            f"{len(gone)} file(s) that {folder / MANIFEST} names are gone, such as {gone[0]}. Train the model again, or bring "
            "its folder back whole."
        )
    version = registry.register(manifest, str(folder.resolve()))
    check_files(version)
    if dataset is not None:
        _write_dataset(Path(version.location), dataset)
    if report is not None:
        keep_evaluation(registry, version, report)
    decision = None
    if report is not None and policy is not None:
        decision = consider(registry, version, report, policy, at=at)
    card = write_card(registry, version, report=report, dataset=dataset)
    return Registered(registry.get(version.name, version.number), decision, card)


def keep_evaluation(registry: ModelRegistry, version: ModelVersion, report: EvaluationReport) -> None:
    """Write the evaluation into the version's folder, where :func:`find_evaluation` finds it."""
    file = Path(version.location) / EVALUATION
    _write(file, report.model_dump_json(indent=2) + "\n")
    registry.annotate(version.name, version.number, {_FOUND_BY: str(file), "evaluation": report.id})


def find_evaluation(version: ModelVersion) -> EvaluationReport | None:
    """Return the newest evaluation of a version, as its metadata or its folder has it; None: it was never evaluated.

    Raises:
        ModelFileError: the metadata names one that is gone or broken.
    """
    named = version.metadata.get(_FOUND_BY)
    file = Path(str(named)) if named else Path(version.location) / EVALUATION
    if not named and not file.is_file():
        return None
    return read_evaluation(file)


def read_evaluation(file: Path) -> EvaluationReport:
    """Return an evaluation from its JSON file.

    Raises:
        ModelFileError: it cannot be read, or it is none.
    """
    return _read(
        file, EvaluationReport, f"{POE} run-evaluation-pipeline writes one; name another with --report FILE"
    )


def read_dataset_manifest(folder: Path) -> DatasetManifest:
    """Return the manifest of a data set's folder.

    Raises:
        ModelFileError: it cannot be read, or it is none.
    """
    return _read(folder / "manifest.json", DatasetManifest, "the pipelines that generate data sets write one")


def keep_dataset(model: Path, dataset: Path) -> None:
    """Put the manifest of the data set that a model was trained on beside the model's files, for its card.

    Args:
        model: folder of the model.
        dataset: folder of the data set; it may be gone later.

    Raises:
        ModelFileError: the data set's manifest cannot be read, or the folder cannot be written.
    """
    _write_dataset(model, read_dataset_manifest(dataset))


def _write_dataset(model: Path, manifest: DatasetManifest) -> None:
    _write(model / DATASET, manifest.model_dump_json(indent=2) + "\n")


def write_card(
    registry: ModelRegistry,
    version: ModelVersion,
    *,
    report: EvaluationReport | None = None,
    dataset: DatasetManifest | None = None,
) -> str:
    """Write the model card into the version's folder, from what the registry says of it now; returns its text."""
    fresh = registry.get(version.name, version.number)
    folder = Path(fresh.location)
    decisions = registry.list_decisions(fresh.name, fresh.number)
    card = model_card(fresh, report or find_evaluation(fresh), dataset or _dataset(fresh), decisions)
    _write(folder / CARD, card)
    noted: Mapping[str, object] = {"model_card": str(folder / CARD)}
    if fresh.metadata.get("model_card") != noted["model_card"]:
        registry.annotate(fresh.name, fresh.number, noted)
    return card


def _dataset(version: ModelVersion) -> DatasetManifest | None:
    """The data set's manifest that stands beside the model's own, if one was handed in at registration."""
    file = Path(version.location) / DATASET
    return _read(file, DatasetManifest, "delete it to go without") if file.is_file() else None


def _read(file: Path, model: type[ModelT], hint: str) -> ModelT:
    try:
        return model.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ModelFileError(f"Cannot read {file}: {error.strerror}; {hint}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top"
        raise ModelFileError(f"{file} is no {model.__name__} (at {where}: {first['msg']}); {hint}.") from None


def _write(file: Path, text: str) -> None:
    """In one act: a reader sees the old text or the new one."""
    try:
        atomic_write(file, text)
    except OSError as error:
        raise ModelFileError(
            f"Cannot write {file}: {error.strerror}. Free space or fix the permissions, then rerun."
        ) from None

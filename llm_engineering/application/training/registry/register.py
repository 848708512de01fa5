"""Register a model's folder with its evaluation and card, and decide on its promotion."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from llm_engineering.application.files import atomic_write
from llm_engineering.application.ports import ModelRegistry, SharedFiles
from llm_engineering.application.training.registry.model_card import model_card
from llm_engineering.application.training.registry.promotion import PromotionPolicy, check_files, consider
from llm_engineering.domain.datasets import DatasetManifest
from llm_engineering.domain.errors import InvalidInputError, ModelFileError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import (
    BESIDE,
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
_EVALUATE = f"{POE} run-evaluation-pipeline writes one; name another with --report FILE"

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
    version = registry.register(manifest, publish_model(registry.files, folder.resolve(), manifest))
    check_files(version)
    if dataset is not None:
        registry.files.write(version.location, DATASET, _as_json(dataset))
    if report is not None:
        keep_evaluation(registry, version, report)
    decision = None
    if report is not None and policy is not None:
        decision = consider(registry, version, report, policy, at=at)
    card = write_card(registry, version, report=report, dataset=dataset)
    return Registered(registry.get(version.name, version.number), decision, card)


def publish_model(files: SharedFiles, folder: Path, manifest: ModelManifest | None = None) -> str:
    """Put a model's folder to where other machines find it; return its location, the folder's path where nothing is shared.

    Raises:
        ModelFileError: it is no model's folder, or cannot be written there.
    """
    made = manifest or _read(folder / MANIFEST, ModelManifest, f"{POE} run-training-pipeline writes one")
    beside = [name for name in sorted(BESIDE) if (folder / name).is_file()]
    place = f"{made.name}/{made.stage}-{made.content_hash[:16]}"
    return files.publish(folder, place, [*made.files, *beside, MANIFEST])


def find_newest(registry: ModelRegistry, name: str, stage: Literal["sft", "dpo"]) -> ModelVersion | None:
    """Return the newest version of a name that came out of this kind of training; None: there is none."""
    try:
        versions = registry.list_versions(name)
    except InvalidInputError:
        return None
    made = [version for version in versions if version.manifest.stage == stage]
    return max(made, key=lambda version: version.manifest.created_at, default=None)


def keep_evaluation(registry: ModelRegistry, version: ModelVersion, report: EvaluationReport) -> None:
    """Write the evaluation beside the version's files, where :func:`find_evaluation` finds it."""
    registry.files.write(version.location, EVALUATION, _as_json(report))
    found = {_FOUND_BY: f"{version.location}/{EVALUATION}", "evaluation": report.id}
    registry.annotate(version.name, version.number, found)


def find_evaluation(files: SharedFiles, version: ModelVersion) -> EvaluationReport | None:
    """Return the newest evaluation of a version, as its metadata or its folder has it; None: it was never evaluated.

    Raises:
        ModelFileError: the metadata names one that is gone or broken.
    """
    named = version.metadata.get(_FOUND_BY)
    where = str(named or f"{version.location}/{EVALUATION}")
    content = files.read(*where.rsplit("/", 1))
    if content is None and not named:
        return None
    return _parse(content, where, EvaluationReport, _EVALUATE)


def read_evaluation(file: Path) -> EvaluationReport:
    """Return an evaluation from its JSON file.

    Raises:
        ModelFileError: it cannot be read, or it is none.
    """
    return _read(file, EvaluationReport, _EVALUATE)


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
    file = model / DATASET
    try:
        atomic_write(file, _as_json(read_dataset_manifest(dataset)))
    except OSError as error:
        raise ModelFileError(
            f"Cannot write {file}: {error.strerror}. Free space or fix the permissions, then rerun."
        ) from None


def write_card(
    registry: ModelRegistry,
    version: ModelVersion,
    *,
    report: EvaluationReport | None = None,
    dataset: DatasetManifest | None = None,
) -> str:
    """Write the model card beside the version's files, from what the registry says of it now; returns its text."""
    fresh, files = registry.get(version.name, version.number), registry.files
    decisions = registry.list_decisions(fresh.name, fresh.number)
    card = model_card(
        fresh, report or find_evaluation(files, fresh), dataset or _dataset(files, fresh), decisions
    )
    files.write(fresh.location, CARD, card.encode())
    noted: Mapping[str, object] = {"model_card": f"{fresh.location}/{CARD}"}
    if fresh.metadata.get("model_card") != noted["model_card"]:
        registry.annotate(fresh.name, fresh.number, noted)
    return card


def _dataset(files: SharedFiles, version: ModelVersion) -> DatasetManifest | None:
    """The data set's manifest that stands beside the model's own, if one was handed in at registration."""
    content = files.read(version.location, DATASET)
    if content is None:
        return None
    return _parse(content, f"{version.location}/{DATASET}", DatasetManifest, "delete it to go without")


def _read(file: Path, model: type[ModelT], hint: str) -> ModelT:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelFileError(f"Cannot read {file}: {error.strerror}; {hint}.") from None
    return _parse(content, str(file), model, hint)


def _parse(content: bytes | None, where: str, model: type[ModelT], hint: str) -> ModelT:
    if content is None:
        shared = "" if "://" in where else " Where another machine wrote it, set SHARED_FILES_URI on both."
        raise ModelFileError(f"There is no {where}; {hint}.{shared}")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        part = ".".join(str(part) for part in first["loc"]) or "its top"
        raise ModelFileError(f"{where} is no {model.__name__} (at {part}: {first['msg']}); {hint}.") from None


def _as_json(value: BaseModel) -> bytes:
    return f"{value.model_dump_json(indent=2)}\n".encode()

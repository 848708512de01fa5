"""Versions of trained models in ZenML's Model Control Plane, where the dashboard shows them.

A version's name there holds the hash of its files, which ZenML keeps unique: registering the same files from two places
at once cannot make two versions. ZenML itself moves stages without a lock, so that two who promote at once could both
end in production; here, whoever moves one holds a lock file in ZenML's home. Where several machines share a ZenML server,
the lock is each machine's own; then whoever moves a version last archives what it finds beside it.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from llm_engineering.application.ports import SharedFiles
from llm_engineering.domain.errors import InvalidInputError, StoreError, StoreUnavailableError
from llm_engineering.domain.models import ModelManifest, ModelVersion, PromotionDecision, Stage
from llm_engineering.infrastructure.shared.stored_files import StoredFiles

if TYPE_CHECKING:
    from uuid import UUID

    from zenml.client import Client
    from zenml.models import ModelVersionResponse

LOCK_SECONDS = 60.0
_MANIFEST = "manifest"
_LOCATION = "location"
_DECISION = "decision_"
_OURS = (_MANIFEST, _LOCATION)


class ZenMLRegistry:
    """Models in the ZenML store that is active.

    Args:
        files: where the versions' files are.
        lock_seconds: how long to wait for somebody else who moves a stage.
    """

    def __init__(self, files: SharedFiles | None = None, lock_seconds: float = LOCK_SECONDS) -> None:
        self.files = files or StoredFiles(None, Path())
        self._lock_seconds = lock_seconds
        self._turn = threading.RLock()
        self._depth = 0

    @contextmanager
    def hold_lock(self) -> Iterator[None]:
        """See the port. May be entered again by the thread that is in it."""
        with self._turn:
            if self._depth:
                yield
                return
            with _locked(self._lock_seconds):
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def register(self, manifest: ModelManifest, location: str) -> ModelVersion:
        """See the port.

        Raises:
            InvalidInputError: ZenML does not take the model's name; or the manifest is too large for its store.
        """
        client = _client()
        stored = manifest.model_dump_json()
        _check_size(stored, f"The manifest of {manifest.name}")
        with self.hold_lock():
            found = _by_name(client, manifest)
            if found is None:
                found = _create(client, manifest)
            if (
                _MANIFEST not in found.run_metadata
            ):  # a new one, or one whose registration was killed half way
                _log(found.id, {_MANIFEST: stored, _LOCATION: location, **_shown(manifest)})
            elif "://" in location and "://" not in str(found.run_metadata[_LOCATION]):
                _log(found.id, {_LOCATION: location})
            return self.get(manifest.name, found.number)

    def list_versions(self, name: str | None = None) -> list[ModelVersion]:
        """See the port. Versions that others keep in ZenML, without a manifest of ours, are not listed."""
        client = _client()
        if name is not None:
            return [_version(found) for found in self._responses(client, name)]
        return [
            _version(found) for known in sorted(_names(client)) for found in self._responses(client, known)
        ]

    def get(self, name: str, version: int | Stage | None = None) -> ModelVersion:
        """See the port."""
        return _version(self._response(_client(), name, version))

    def set_stage(self, name: str, number: int, stage: Stage) -> ModelVersion:
        """See the port."""
        if stage is Stage.NONE:
            raise InvalidInputError(
                f"{name}:{number} cannot go back to 'none'; a version leaves its stage by being archived."
            )
        client = _client()
        with self.hold_lock():
            chosen = self._response(client, name, number)
            client.update_model_version(chosen.model.id, chosen.id, stage=stage.value, force=True)
            if stage is not Stage.ARCHIVED:
                self._archive_others(client, chosen, stage)
            return self.get(name, number)

    def annotate(self, name: str, number: int, metadata: Mapping[str, object]) -> ModelVersion:
        """See the port."""
        taken = [key for key in metadata if key in _OURS or key.startswith(_DECISION)]
        if taken:
            raise InvalidInputError(
                f"The metadata key(s) {', '.join(taken)} are the registry's own; choose others."
            )
        for key, value in metadata.items():
            _check_size(json.dumps(value), f"The metadata '{key}'")
        _log(self._response(_client(), name, number).id, metadata)
        return self.get(name, number)

    def record(self, name: str, number: int, decision: PromotionDecision) -> None:
        """See the port."""
        with self.hold_lock():
            found = self._response(_client(), name, number)
            key = _DECISION + decision.id
            if key not in found.run_metadata:
                stored = decision.model_dump_json()
                _check_size(stored, "A decision")
                _log(found.id, {key: stored})

    def list_decisions(self, name: str, number: int | None = None) -> list[PromotionDecision]:
        """See the port."""
        client = _client()
        chosen = self._responses(client, name) if number is None else [self._response(client, name, number)]
        kept = [
            PromotionDecision.model_validate_json(str(value))
            for found in chosen
            for key, value in found.run_metadata.items()
            if key.startswith(_DECISION)
        ]
        return sorted(kept, key=lambda decision: decision.decided_at, reverse=True)

    def link(self, name: str, number: int, artifacts: "list[UUID]") -> None:
        """Show these artifact versions with the version in the dashboard. Linking again changes nothing."""
        from zenml.models import ModelVersionArtifactRequest

        client = _client()
        found = self._response(client, name, number)
        for artifact in dict.fromkeys(artifacts):
            request = ModelVersionArtifactRequest(artifact_version=artifact, model_version=found.id)
            client.zen_store.create_model_version_artifact_link(request)

    def _responses(self, client: "Client", name: str) -> "list[ModelVersionResponse]":
        names = _names(client)
        found = _all_versions(client, names[name]) if name in names else []
        ours = [version for version in found if _MANIFEST in version.run_metadata]
        if not ours:
            there = ", ".join(sorted(names)) or "none; a training run registers one"
            raise InvalidInputError(f"There is no model '{name}'. Models: {there}")
        return sorted(ours, key=lambda version: version.number, reverse=True)

    def _response(self, client: "Client", name: str, version: int | Stage | None) -> "ModelVersionResponse":
        found = self._responses(client, name)
        for one in found:
            if version is None or version == (_stage(one) if isinstance(version, Stage) else one.number):
                return one
        there = ", ".join(f"{one.number} ({_stage(one).value})" for one in found)
        wanted = f"in {version.value}" if isinstance(version, Stage) else str(version)
        raise InvalidInputError(f"There is no version {wanted} of {name}. Versions: {there}")

    def _archive_others(self, client: "Client", chosen: "ModelVersionResponse", stage: Stage) -> None:
        """ZenML archives one that was in the stage; where machines without a common lock met, there may be more."""
        for other in _all_versions(client, chosen.model.id):
            if other.id != chosen.id and _stage(other) is stage:
                logger.warning("{} {} was in {} too; archived.", chosen.model.name, other.number, stage.value)
                client.update_model_version(chosen.model.id, other.id, stage=Stage.ARCHIVED.value, force=True)


def _client() -> "Client":
    import requests
    from zenml.client import Client
    from zenml.exceptions import AuthorizationException

    try:
        client = Client()
        _ = client.zen_store
    # A RuntimeError is what ZenML makes of a refused connection.
    except (requests.RequestException, AuthorizationException, RuntimeError) as error:
        raise StoreUnavailableError(
            f"The ZenML store that is active cannot be opened ({type(error).__name__}). Start it, log in again "
            "(zenml login), or return to the local one (zenml logout)."
        ) from None
    return client


@contextmanager
def _locked(seconds: float) -> Iterator[None]:
    """Hold the lock file in ZenML's home; whoever dies lets go of it."""
    from zenml.utils.io_utils import get_global_config_directory

    path = Path(get_global_config_directory()) / "model_registry.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        _wait_for(file, seconds)
        yield
    finally:
        os.close(file)


def _wait_for(file: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise StoreError(
                    f"Somebody else has been changing the model registry for {seconds:.0f} s. Nothing was changed; try again."
                ) from None
            time.sleep(0.02)
        else:
            return


def _names(client: "Client") -> "dict[str, UUID]":
    from zenml.utils.pagination_utils import depaginate

    return {model.name: model.id for model in depaginate(client.list_models)}


def _all_versions(client: "Client", model: "UUID") -> "list[ModelVersionResponse]":
    from zenml.utils.pagination_utils import depaginate

    return depaginate(client.list_model_versions, model=model, hydrate=True)


def _zenml_name(manifest: ModelManifest) -> str:
    return f"{manifest.stage}-{manifest.content_hash}"


def _by_name(client: "Client", manifest: ModelManifest) -> "ModelVersionResponse | None":
    """The version of these files, registered wholly or half."""
    model = _names(client).get(manifest.name)
    versions = _all_versions(client, model) if model else []
    return next(
        (found for found in versions if (found.name or "").rpartition("-")[2] == manifest.content_hash), None
    )


def _create(client: "Client", manifest: ModelManifest) -> "ModelVersionResponse":
    from zenml.exceptions import EntityExistsError

    try:
        if manifest.name not in _names(client):
            client.create_model(manifest.name)
        return client.create_model_version(manifest.name, name=_zenml_name(manifest))
    except EntityExistsError:  # another machine was faster
        found = _by_name(client, manifest)
        if found is None:
            raise
        return found
    except ValueError as error:
        raise InvalidInputError(
            f"ZenML does not take the model's name {manifest.name!r}: {error}. Choose another in the training's configuration."
        ) from None


def _shown(manifest: ModelManifest) -> dict[str, Any]:
    """What a person looks for in the dashboard."""
    return {
        "base": manifest.base,
        "method": manifest.method,
        "training": manifest.stage,
        "template": f"{manifest.template} {manifest.template_hash[:12]}",
        "dataset": manifest.dataset,
        "dataset_hash": manifest.dataset_hash,
        "metrics": dict(manifest.metrics),
    }


def _version(found: "ModelVersionResponse") -> ModelVersion:
    metadata = found.run_metadata
    return ModelVersion(
        name=found.model.name,
        number=found.number,
        stage=_stage(found),
        manifest=ModelManifest.model_validate_json(str(metadata[_MANIFEST])),
        location=str(metadata[_LOCATION]),
        metadata={
            key: value
            for key, value in metadata.items()
            if key not in _OURS and not key.startswith(_DECISION)
        },
    )


def _stage(found: "ModelVersionResponse") -> Stage:
    return Stage(str(found.stage or Stage.NONE.value))


def _log(version: "UUID", metadata: Mapping[str, object]) -> None:
    from zenml import log_metadata

    log_metadata(metadata=dict(metadata), model_version_id=version)  # type: ignore[arg-type]


def _check_size(stored: str, what: str) -> None:
    """ZenML drops what is too large, with no more than a warning."""
    from zenml.constants import TEXT_FIELD_MAX_LENGTH

    # It measures the text as JSON, where quotes and other alphabets are escaped.
    size = len(json.dumps(stored))
    if size > TEXT_FIELD_MAX_LENGTH:
        raise InvalidInputError(
            f"{what} takes {size:,} characters; ZenML's store keeps {TEXT_FIELD_MAX_LENGTH:,}. Keep fewer files in the "
            "model's folder, or put the value into a file and name that."
        )

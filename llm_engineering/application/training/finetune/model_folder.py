"""Read, verify and describe a model's folder by its manifest, which lists every file with its hash."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from loguru import logger
from pydantic import Field, StringConstraints, ValidationError

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.files import sha256_of_file
from llm_engineering.application.llm.chat_templates import TemplateUse, check_contract
from llm_engineering.application.ports import ModelRegistry, SharedFiles
from llm_engineering.application.training.finetune.record import write_json
from llm_engineering.application.training.finetune.sft import MANIFEST, file_hashes
from llm_engineering.domain.errors import InvalidInputError, ModelFileError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelManifest, ModelVersion, Stage

MERGED, GGUF = "merged", "gguf/model.gguf"


@dataclass(frozen=True, slots=True)
class ServableModel:
    """A verified model that a server can load."""

    manifest: ModelManifest
    folder: Path

    @property
    def gguf(self) -> Path:
        return self.folder / GGUF


def read_manifest(folder: Path) -> ModelManifest:
    """Return ``model.json`` of a folder.

    Raises:
        ModelFileError: there is none, or it is broken.
    """
    try:
        return ModelManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ModelFileError(
            f"{folder} holds no trained model: {MANIFEST} cannot be read ({error.strerror}). Train one: "
            f"{POE} run-training-pipeline"
        ) from None
    except ValidationError as error:
        raise ModelFileError(f"{folder / MANIFEST} is no manifest of a model: {error}") from None


def write_manifest(folder: Path, manifest: ModelManifest, metrics: dict[str, float]) -> ModelManifest:
    """Write ``model.json`` anew for the files that are there now, with more metrics."""
    new = manifest.model_copy(
        update={"files": file_hashes(folder), "metrics": {**manifest.metrics, **metrics}}
    )
    write_json(folder / MANIFEST, new.model_dump(mode="json"))
    return new


def verify_folder(folder: Path) -> ModelManifest:
    """That every file is there and is the one that the manifest names. Files beside them (a card, an evaluation) may come.

    Raises:
        ModelFileError: a file is gone or changed (each is named), or one that holds weights is in no manifest.
    """
    manifest = read_manifest(folder)
    problems = list(_problems(folder, manifest))
    if problems:
        raise ModelFileError(
            f"{folder} is not the model that its {MANIFEST} describes: {'; '.join(problems)}. Bring the files back, or train "
            "the model again."
        )
    return manifest


def open_servable(folder: Path) -> ServableModel:
    """Return a folder to serve: verified, with the chat template that this version of the code has too.

    Raises:
        ModelFileError: the folder is not what its manifest says, or has no file that llama.cpp can read.
        TemplateMismatchError: the model learned another chat template than the one of its name here.
    """
    manifest = verify_folder(folder)
    check_contract(
        TemplateUse.of_this_version("this server", manifest.template),
        TemplateUse(f"the model {manifest.name} in {folder}", manifest.template, manifest.template_hash),
    )
    if GGUF not in manifest.files:
        raise ModelFileError(
            f"{folder} has no {GGUF}: it was trained without export, or its architecture cannot be run by llama.cpp here. Run "
            "the training pipeline again with the same configuration: what is trained stays, and the export is made up for. "
            f"Other servers can load {folder / MERGED}."
        )
    return ServableModel(manifest, folder)


def find_version(registry: ModelRegistry, wanted: str) -> ModelVersion:
    """Return ``NAME``, ``NAME:3`` or ``NAME:staging``. A name alone is the version in production, or else the newest.

    Raises:
        InvalidInputError: there is none.
    """
    name, _, version = wanted.partition(":")
    if version.isdecimal():
        return registry.get(name, int(version))
    if version:
        stages = [stage.value for stage in Stage if stage is not Stage.NONE]
        if version not in stages:
            raise InvalidInputError(
                f"{wanted}: a version is a number or one of {', '.join(stages)}; got {version!r}."
            )
        return registry.get(name, Stage(version))
    found = registry.list_versions(name)
    served = next((one for one in found if one.stage is Stage.PRODUCTION), None)
    if served is None and found:
        logger.warning("No version of {} is in production: the newest, {}, is taken.", name, found[0].label)
    return served or registry.get(name)


def open_version(files: SharedFiles, version: ModelVersion) -> ServableModel:
    """Return the files of a registered version, fetched where they lie elsewhere; they must be those that were registered.

    Raises:
        ModelFileError, TemplateMismatchError: see :func:`open_servable`.
    """
    servable = open_servable(files.fetch(version.location))
    if servable.manifest.content_hash != version.manifest.content_hash:
        raise ModelFileError(
            f"The folder {version.location} holds another model than the one registered as {version.label}. Register it anew, "
            "or bring the files back."
        )
    return servable


def _problems(folder: Path, manifest: ModelManifest) -> Iterator[str]:
    root = folder.resolve()
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(root):
            yield f"{name} lies outside the folder"
        elif not file.is_file():
            yield f"{name} is missing"
        elif sha256_of_file(file) != expected:
            yield f"{name} was changed"
    for kind in ("adapter", MERGED, "gguf"):
        for file in sorted((folder / kind).glob("*")):
            if file.is_file() and f"{kind}/{file.name}" not in manifest.files:
                yield f"{kind}/{file.name} is not in the manifest"


ADAPTER_GGUF = "gguf/adapter.gguf"

AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$", max_length=100)]


class AdapterServing(StrictConfig):
    """A file such as ``configs/llm_server_adapters.yaml``."""

    base: str | None = None
    """A bundled model, a GGUF file, or a folder with the base; None: the base that the adapters name."""
    adapters: dict[AdapterName, str] = Field(min_length=1)
    """Name to ask for → trained model: its folder, ``NAME``, ``NAME:VERSION`` or ``NAME:STAGE``."""


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """Adapters that one server can hold at the same time."""

    base: str
    """As the adapters' configurations call it."""
    template: str
    models: Mapping[str, ServableModel]

    @property
    def files(self) -> dict[str, Path]:
        """llama.cpp's file of each adapter, by its name."""
        return {name: model.folder / ADAPTER_GGUF for name, model in self.models.items()}


def adapter_set(models: Mapping[str, ServableModel]) -> AdapterSet:
    """Check that opened models can share a server, and return them by the names to serve them under.

    Raises:
        InvalidInputError: one is no adapter, or two were trained over different bases.
        ModelFileError: one has no adapter that llama.cpp can read.
        TemplateMismatchError: two learned different chat templates.
    """
    for name, model in models.items():
        _check_adapter(name, model)
    (first, reference), *others = models.items()
    for name, model in others:
        _check_pair(first, reference, name, model)
    manifest = reference.manifest
    return AdapterSet(manifest.base, manifest.template, dict(models))


def _check_adapter(name: str, model: ServableModel) -> None:
    if model.manifest.method == "full":
        raise InvalidInputError(
            f"{name} ({model.folder}) is a full fine-tune: all its weights are its own, so it is no adapter over a base. Serve "
            f"it by itself (run-llm-server --model {model.folder}), or train it with method lora."
        )
    if ADAPTER_GGUF not in model.manifest.files:
        raise ModelFileError(
            f"{name} ({model.folder}) has no {ADAPTER_GGUF}: it was exported before adapters were, or its adapter is of a kind "
            f"that llama.cpp cannot run. Delete {model.folder / MERGED} and run the training pipeline again with the same "
            "configuration: what is trained stays, the export is made anew, and registered as a new version."
        )


def _check_pair(first: str, reference: ServableModel, name: str, model: ServableModel) -> None:
    one, other = reference.manifest, model.manifest
    if (one.base, one.base_revision) != (other.base, other.base_revision):
        bases = [f"{m.base}{f' at {m.base_revision}' if m.base_revision else ''}" for m in (one, other)]
        raise InvalidInputError(
            f"Adapters of one server share one base: {first} was trained over {bases[0]}, {name} over {bases[1]}. Train one of "
            "them over the other's base, or serve them by two servers."
        )
    if one.base_hash and other.base_hash and one.base_hash != other.base_hash:
        raise InvalidInputError(
            f"Adapters of one server share one base: {one.base} had other weights when {first} was trained over it "
            f"({one.base_hash[:12]}) than when {name} was ({other.base_hash[:12]}). Train one of them anew, or serve them by two "
            "servers."
        )
    check_contract(
        TemplateUse(f"the adapter {first}", one.template, one.template_hash),
        TemplateUse(f"the adapter {name}", other.template, other.template_hash),
    )

"""Check that several LoRA adapters can be served over one base model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.llm.chat_templates import TemplateUse, check_contract
from llm_engineering.application.training.finetune.model_folder import MERGED, ServableModel
from llm_engineering.domain.errors import InvalidInputError, ModelFileError

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
    """Opened models, by the names to serve them under, if they can share a server.

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

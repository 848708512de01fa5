"""Read training samples from a data set's folder."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from llm_engineering.application.llm.chat_templates import (
    ChatTemplate,
    RenderedChat,
    TemplateUse,
    check_contract,
)
from llm_engineering.application.ports import Message
from llm_engineering.domain.datasets import (
    DatasetKind,
    DatasetManifest,
    InstructSample,
    PreferenceSample,
    Split,
)
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE

MANIFEST = "manifest.json"
T = TypeVar("T", InstructSample, PreferenceSample)


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """A data set on disk."""

    folder: Path
    manifest: DatasetManifest
    hash: str
    """SHA-256 over manifest and samples."""

    @property
    def label(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"


def open_dataset(folder: Path, kind: DatasetKind, template_name: str) -> DatasetFolder:
    """Return a data set to train on with a template.

    Raises:
        InvalidInputError: there is no such folder, it is of another kind, or it is damaged or empty.
        TemplateMismatchError: it was made with another chat template.
    """
    manifest = _manifest(folder, kind)
    if manifest.kind != kind:
        raise InvalidInputError(
            f"{folder} holds a data set of kind '{manifest.kind}'; '{kind}' is needed here."
        )
    check_contract(
        TemplateUse.of_this_version("the training run", template_name),
        TemplateUse(
            f"the data set {manifest.name}@{manifest.version}", manifest.template, manifest.template_hash
        ),
    )
    if not manifest.counts.get(Split.TRAIN):
        raise InvalidInputError(
            f"The data set {manifest.name}@{manifest.version} has no samples to train on. Look at its report: all may have "
            "been filtered out."
        )
    return DatasetFolder(folder, manifest, _hash(folder))


def read_instruct(dataset: DatasetFolder, split: Split) -> list[InstructSample]:
    """Return the instructions and answers of a split, in their order.

    Raises:
        InvalidInputError: a line is no sample, or there are others than the manifest says.
    """
    return _read(dataset, split, InstructSample)


def read_preferences(dataset: DatasetFolder, split: Split) -> list[PreferenceSample]:
    """Return the pairs of a split, in their order.

    Raises:
        InvalidInputError: a line is no pair, or there are others than the manifest says.
    """
    return _read(dataset, split, PreferenceSample)


def _read(dataset: DatasetFolder, split: Split, kind: type[T]) -> list[T]:
    samples = list(_lines(dataset.folder / f"{split}.jsonl", kind))
    expected = dataset.manifest.counts.get(split, 0)
    if len(samples) != expected:
        raise InvalidInputError(
            f"{dataset.folder}: the manifest says {expected} samples in {split}, the file has {len(samples)}. Make the data "
            "set again."
        )
    return samples


def to_conversation(sample: InstructSample, system: str = "") -> list[Message]:
    """Return a sample as a conversation, behind the system message that it will be served with."""
    head = [Message("system", system)] if system else []
    before = [Message(turn.role, turn.content) for turn in sample.history]
    return [*head, *before, Message("user", sample.instruction), Message("assistant", sample.answer)]


def render_samples(
    samples: list[InstructSample], template: ChatTemplate, system: str = ""
) -> list[RenderedChat]:
    """Return samples as a template writes them."""
    return [template.render(to_conversation(sample, system)) for sample in samples]


def _manifest(folder: Path, kind: DatasetKind) -> DatasetManifest:
    try:
        return DatasetManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise InvalidInputError(
            f"{folder} is no data set: {MANIFEST} cannot be read ({error.strerror}). Make one with: "
            f"{POE} run-generate-{kind}-datasets-pipeline"
        ) from None
    except ValidationError as error:
        raise InvalidInputError(f"{folder / MANIFEST} is no manifest of a data set: {error}") from None


def _lines(file: Path, kind: type[T]) -> Iterator[T]:
    if not file.exists():
        return
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as error:
                    raise InvalidInputError(f"{file}, line {number} is no {kind.__name__}: {error}") from None


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (MANIFEST, *(f"{split}.jsonl" for split in Split)):
        file = folder / name
        digest.update(f"{name}\x00".encode())
        if file.exists():
            digest.update(file.read_bytes())
    return digest.hexdigest()

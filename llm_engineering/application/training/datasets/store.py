"""A data set's folder: ``NAME/VERSION/`` with JSON Lines by split, manifest, data card, report, and what was dropped.

::

    train.jsonl validation.jsonl test.jsonl    a sample a line
    dropped.jsonl                              {"gate", "reason", "sample"} a line
    judgements.jsonl                           what each judge said of each sample, where there were judges
    manifest.json README.md report.html
    hf/                                        the same splits for the library ``datasets``

A folder appears under its name when it is whole, by a rename; a killed run leaves a ``.part-…`` that the next one clears
away.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llm_engineering.application.training.datasets.gates import Dropped
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.domain.datasets import (
    DatasetKind,
    DatasetManifest,
    InstructSample,
    PreferenceSample,
    Split,
)
from llm_engineering.domain.errors import InvalidInputError, StoreError

MANIFEST, CARD, REPORT, DROPPED, JUDGEMENTS, HUB_FOLDER = (
    "manifest.json",
    "README.md",
    "report.html",
    "dropped.jsonl",
    "judgements.jsonl",
    "hf",
)
_VERSION_DIGITS = 12
_PART = ".part-"

Splits = Mapping[Split, Sequence[Sample]]
SaveForHub = Callable[[Path, Splits], None]
"""Writes the splits into a folder in the format of the library ``datasets``."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set as its folder holds it."""

    manifest: DatasetManifest
    splits: Mapping[Split, tuple[Sample, ...]]


def manifest_of(
    kind: DatasetKind,
    name: str,
    splits: Splits,
    *,
    template: str,
    template_hash: str,
    seed: int,
    config: Mapping[str, object],
) -> DatasetManifest:
    """Return the manifest of samples that have their split; the version depends on the samples alone.

    Raises:
        InvalidInputError: the name cannot be a folder's, a sample is of another kind or split, or a document is in two
            splits.
    """
    if not name or name.startswith(".") or any(not (c.isalnum() or c in "._-") for c in name):
        raise InvalidInputError(
            f"{name!r} cannot name a data set; use letters, digits, '-', '_' and '.', not a dot in front."
        )
    _check(kind, splits)
    samples = [sample for split in Split for sample in splits.get(split, ())]
    return DatasetManifest(
        kind=kind,
        name=name,
        version=version_of(splits),
        counts={split: len(splits.get(split, ())) for split in Split},
        documents={split: len({s.origin.document_id for s in splits.get(split, ())}) for split in Split},
        document_hashes={s.origin.document_id: s.origin.content_hash for s in samples},
        prompt_hashes=tuple(sorted({s.provenance.prompt_hash for s in samples} - {""})),
        template=template,
        template_hash=template_hash,
        seed=seed,
        config=dict(config),
    )


def version_of(splits: Splits) -> str:
    """Return twelve hexadecimal digits over the samples and their splits, in any order."""
    lines = sorted(sample_line(sample) for split in Split for sample in splits.get(split, ()))
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()[:_VERSION_DIGITS]


def sample_line(sample: Sample) -> str:
    """Return a sample as one line of JSON, with its line end. Keys are in the model's order, so equal samples give
    equal lines."""
    return json.dumps(sample.model_dump(mode="json"), ensure_ascii=False) + "\n"


def write_dataset(
    root: Path,
    manifest: DatasetManifest,
    splits: Splits,
    dropped: Iterable[Dropped[Sample]] = (),
    *,
    card: str,
    report: str,
    judgements: Iterable[Mapping[str, object]] | None = None,
    save_for_hub: SaveForHub | None = None,
) -> Path:
    """Write the folder ``root/NAME/VERSION`` and return its path. A folder of that version is replaced at once.

    Raises:
        StoreError: it cannot be written (no room, no permission); nothing half-written stays under the name.
    """
    target = root / manifest.name / manifest.version
    part = target.with_name(f"{_PART}{manifest.version}-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target.parent, manifest.version)
        part.mkdir()
        for split in Split:
            _write(part / f"{split}.jsonl", (sample_line(sample) for sample in splits.get(split, ())))
        _write(part / DROPPED, (_dropped_line(item) for item in dropped))
        if judgements is not None:
            _write(part / JUDGEMENTS, (json.dumps(one, ensure_ascii=False) + "\n" for one in judgements))
        _write(part / CARD, [card])
        _write(part / REPORT, [report])
        if save_for_hub is not None:
            save_for_hub(part / HUB_FOLDER, splits)
        _write(part / MANIFEST, [manifest.model_dump_json(indent=2) + "\n"])
        _put_in_place(part, target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise StoreError(
            f"The data set cannot be written to {target}: {error.strerror or error}. Make room or choose another folder, and "
            "run again; replies of the language model are cached."
        ) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return target


def read_dataset(folder: Path) -> Dataset:
    """Return a data set with all its samples, checked against its manifest.

    Raises:
        InvalidInputError: there is none, a line is no sample (the message names file and line), a document is in two splits,
            or the samples are not those that the manifest's version was derived from.
    """
    manifest = read_manifest(folder)
    splits = {split: tuple(_read(folder / f"{split}.jsonl", manifest.kind)) for split in Split}
    for split, samples in splits.items():
        if len(samples) != manifest.counts.get(split, 0):
            raise InvalidInputError(
                f"{folder / f'{split}.jsonl'} has {len(samples)} samples, the manifest says {manifest.counts.get(split, 0)}. "
                "Make the data set again."
            )
    _check(manifest.kind, splits)
    if (found := version_of(splits)) != manifest.version:
        raise InvalidInputError(
            f"The samples in {folder} have the version {found}, the manifest says {manifest.version}: they were changed. "
            "Make the data set again, or undo the change."
        )
    return Dataset(manifest, splits)


def read_manifest(folder: Path) -> DatasetManifest:
    """Return the manifest alone.

    Raises:
        InvalidInputError: there is none, or it is damaged.
    """
    try:
        return DatasetManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise InvalidInputError(
            f"{folder} holds no data set: {MANIFEST} cannot be read ({error.strerror})."
        ) from None
    except ValidationError as error:
        raise InvalidInputError(f"{folder / MANIFEST} is damaged: {_first_fault(error)}") from None


def _read(file: Path, kind: DatasetKind) -> Iterator[Sample]:
    model: type[InstructSample] | type[PreferenceSample] = (
        InstructSample if kind == "instruct" else PreferenceSample
    )
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield model.model_validate_json(line)
                except ValidationError as error:
                    raise InvalidInputError(
                        f"{file}, line {number} is no sample of kind '{kind}': {_first_fault(error)}"
                    ) from None
    except OSError as error:
        raise InvalidInputError(
            f"{file} cannot be read ({error.strerror}). Make the data set again."
        ) from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


def _check(kind: DatasetKind, splits: Splits) -> None:
    expected = InstructSample if kind == "instruct" else PreferenceSample
    homes: dict[str, Split] = {}
    for split, samples in splits.items():
        for sample in samples:
            if not isinstance(sample, expected) or sample.split is not split:
                raise InvalidInputError(
                    f"In the split '{split}' of a data set of kind '{kind}' stands a {type(sample).__name__} whose split is "
                    f"'{sample.split}'."
                )
            if homes.setdefault(sample.origin.document_id, split) is not split:
                raise InvalidInputError(
                    f"The document {sample.origin.document_id} is in two splits, '{homes[sample.origin.document_id]}' and "
                    f"'{split}'; splits go by document."
                )


def _dropped_line(item: Dropped[Sample]) -> str:
    record = {"gate": item.gate, "reason": item.reason, "sample": item.sample.model_dump(mode="json")}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _write(file: Path, lines: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(lines)
        stream.flush()
        os.fsync(stream.fileno())


def _put_in_place(part: Path, target: Path) -> None:
    if not target.exists():
        part.rename(target)
        return
    # A folder with content cannot be replaced by one rename; the old one steps aside for the moment between two.
    aside = target.with_name(f"{_PART}{target.name}-old-{os.getpid()}")
    target.rename(aside)
    try:
        part.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _clear(folder: Path, version: str) -> None:
    for left in folder.glob(f"{_PART}{version}-*"):
        shutil.rmtree(left, ignore_errors=True)

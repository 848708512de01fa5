"""Describe a run for remote execution (inputs, identity) and validate it before submission."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_engineering.application.files import sha256_of_file
from llm_engineering.application.training.finetune.container import (
    BASE,
    INSTRUCT,
    PREFERENCE,
    RUN,
    RUN_FILE,
    SFT,
)
from llm_engineering.application.training.finetune.data import MANIFEST as DATASET_MANIFEST
from llm_engineering.application.training.finetune.data import open_dataset
from llm_engineering.application.training.finetune.dpo import DpoRun, inherit_from_sft
from llm_engineering.application.training.finetune.model_folder import verify_folder
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.application.training.finetune.sft import MANIFEST
from llm_engineering.domain.datasets import DatasetKind, Split
from llm_engineering.domain.errors import ConfigurationError

_DIGITS = 16
_NAME = 36
"""Letters of a model's name in a job's name, which has 63 at most."""


@dataclass(frozen=True, slots=True)
class JobInput:
    """Files that a job gets, as a folder of its own."""

    channel: str
    files: Mapping[str, Path | bytes]
    """By path within the folder."""
    digest: str
    """Of names and contents."""


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """A run with all its files."""

    model: str
    kind: str
    """``sft``, ``dpo``, or ``sft-dpo``."""
    inputs: tuple[JobInput, ...]
    output: Path
    """Folder of this machine that the model comes to, as ``NAME/RUN``."""

    @property
    def identity(self) -> str:
        """Over configuration and data: the same run has the same, wherever and whenever it is asked for."""
        told = "\x00".join(f"{item.channel}={item.digest}" for item in self.inputs)
        return hashlib.sha256(told.encode()).hexdigest()[:_DIGITS]

    @property
    def job_name(self) -> str:
        """Letters, digits and hyphens."""
        return f"{self.model.replace('_', '-')[:_NAME].rstrip('-')}-{self.kind}-{self.identity}"


def remote_run(run: Training) -> RemoteRun:
    """The run and its files, checked as far as they can be without training.

    Args:
        run: with data sets, and for DPO alone the SFT model, as folders.

    Raises:
        InvalidInputError, TemplateMismatchError: a data set cannot be used.
        ModelFileError, ConfigurationError: the SFT model or the base cannot be used.
    """
    inputs = []
    base = None
    if run.training is not None:
        base = run.training.sft.base_model
        inputs.append(_dataset(run.training, INSTRUCT, "instruct", run.training.sft.template))
    if run.dpo is not None:
        template = run.training.sft.template if run.training else None
        if run.training is None:
            taught, base, template = _taught(run.dpo)
            inputs.append(taught)
        inputs.append(_dataset(run.dpo, PREFERENCE, "preference", template or ""))
    came = _base(base or "")
    described = _input(RUN, {RUN_FILE: _described(run)})
    kind = "-".join(name for name, part in (("sft", run.training), ("dpo", run.dpo)) if part)
    main = run.training or run.dpo
    if main is None:
        raise ConfigurationError("There is nothing to train.")
    return RemoteRun(main.name, kind, (described, *inputs, *([came] if came else [])), main.output_dir)


def _described(run: Training) -> bytes:
    """The run without the paths of this machine: the container has its own."""
    told = run.model_dump(mode="json")
    for part, paths in (("training", ("dataset", "output_dir")), ("dpo", ("dataset", "output_dir", "sft"))):
        if told[part] is not None:
            told[part] = {name: value for name, value in told[part].items() if name not in paths}
    return json.dumps({"parameters": told}, indent=2, sort_keys=True).encode()


def _dataset(run: SftRun | DpoRun, channel: str, kind: DatasetKind, template: str) -> JobInput:
    """What training reads of a data set, and nothing else: what was dropped from it stays here."""
    if run.dataset is None:
        raise ConfigurationError(
            f"The run names no {kind} data set. Name its folder ('dataset:' in the YAML)."
        )
    folder = open_dataset(run.dataset, kind, template).folder
    names = [DATASET_MANIFEST, *(f"{split}.jsonl" for split in Split)]
    return _input(channel, {name: folder / name for name in names if (folder / name).is_file()})


def _taught(run: DpoRun) -> tuple[JobInput, str, str]:
    """The SFT model that DPO starts from, its base and its template."""
    if run.sft is None:
        raise ConfigurationError(
            "The run names no SFT model to start from. Name its folder ('sft:' in the YAML)."
        )
    manifest = verify_folder(run.sft)
    inherit_from_sft(run.dpo, manifest)
    files = {name: run.sft / name for name in (*sorted(manifest.files), MANIFEST)}
    return _input(SFT, files), manifest.base, manifest.template


def _base(name: str) -> JobInput | None:
    """A base model that lies here as a folder or a file; None: the container gets it by its name.

    Raises:
        ConfigurationError: its path means nothing elsewhere.
    """
    path = Path(name)
    if not path.expanduser().exists():
        return None
    if path.is_absolute() or ".." in path.parts or name.startswith("~"):
        raise ConfigurationError(
            f"The base model {name} has a path of this machine alone, and its name is part of the run. Put it under the folder "
            "that you start the task from, and name it relative to that; or name a model on the hub (OWNER/NAME)."
        )
    if path.is_file():
        return _input(BASE, {path.name: path})
    files = {
        str(file.relative_to(path).as_posix()): file for file in sorted(path.rglob("*")) if file.is_file()
    }
    return _input(BASE, files)


def _input(channel: str, files: Mapping[str, Path | bytes]) -> JobInput:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\x00{_sha256(content)}\x00".encode())
    return JobInput(channel, files, digest.hexdigest()[:_DIGITS])


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return sha256_of_file(content)

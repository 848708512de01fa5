"""Describe a run for remote execution (inputs, identity) and validate it before submission."""

import errno
import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from llm_engineering.application.files import sha256_of_file
from llm_engineering.application.training.finetune.data import MANIFEST as DATASET_MANIFEST
from llm_engineering.application.training.finetune.data import open_dataset
from llm_engineering.application.training.finetune.dpo import DpoRun, inherit_from_sft, newest_sft
from llm_engineering.application.training.finetune.model_folder import read_manifest, verify_folder
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.application.training.finetune.sft import MANIFEST
from llm_engineering.application.training.finetune.trainer import CHECKPOINTS
from llm_engineering.domain.datasets import DatasetKind, Split
from llm_engineering.domain.errors import ConfigurationError, ModelFileError, TrainingError


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a gzipped tar archive into a folder; nothing of it lands elsewhere.

    Raises:
        ModelFileError: it is damaged, or holds what no model has: links, devices, paths that lead out of the folder.
        TrainingError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:gz") as packed:
            for member in packed:
                if not (member.isfile() or member.isdir()):
                    raise ModelFileError(
                        f"{archive.name} holds {member.name!r}, which is neither file nor folder. It was not unpacked further: "
                        "no training of ours writes such a thing."
                    )
                packed.extract(member, folder, filter="data")
    except tarfile.FilterError as error:
        raise ModelFileError(
            f"{archive.name} holds a path that leads out of its folder ({error}). It was not unpacked further: no training of "
            "ours writes such a thing."
        ) from None
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise TrainingError(
                f"The disk is full: {archive.name} could not be unpacked into {folder}. Make room there, and run the same "
                "command again; nothing is trained twice."
            ) from error
        raise ModelFileError(
            f"{archive.name} cannot be unpacked: {error}. Run the same command again to fetch it anew."
        ) from error


def install(folder: Path, root: Path) -> list[Path]:
    """Move the models of a folder, which lie there as ``NAME/RUN``, to ``root``; each is checked before.

    Returns:
        The models' folders under ``root``.

    Raises:
        ModelFileError: there is none, one is not what its manifest says, or another one is there under its name.
    """
    found = sorted(manifest.parent for manifest in folder.glob(f"*/*/{MANIFEST}"))
    if not found:
        raise ModelFileError(
            "The job's result holds no model: there is no NAME/RUN/model.json in it. See the job's log."
        )
    for model in found:
        verify_folder(model)
    return [_installed(model, root / model.relative_to(folder)) for model in found]


def _installed(model: Path, target: Path) -> Path:
    if (target / MANIFEST).is_file():
        if read_manifest(target).content_hash != read_manifest(model).content_hash:
            raise ModelFileError(
                f"{target} holds a model of the same configuration and data already, with other weights. Delete or move it to "
                "take the job's."
            )
        logger.info("{} is there already.", target)
        return target
    target.mkdir(parents=True, exist_ok=True)
    entries = sorted(
        model.iterdir(), key=lambda entry: entry.name == MANIFEST
    )  # the manifest last: it says that all is there
    for entry in entries:
        there = target / entry.name
        if there.is_dir():
            shutil.rmtree(there)
        entry.rename(there)
    return target


RUN, INSTRUCT, PREFERENCE, SFT, BASE = "run", "instruct", "preference", "sft", "base"
"""Channels: the run's YAML, the two kinds of data sets, the SFT model that DPO starts from, a base model from a folder."""
RUN_FILE = "run.yaml"
PORT = 29_500
"""Where the processes of several machines find each other; PyTorch's customary port."""


@dataclass(frozen=True, slots=True)
class ContainerFolders:
    """The folders of the container."""

    root: Path = Path("/opt/ml")

    def channel_folder(self, name: str) -> Path:
        """Return where an input's files lie."""
        return self.root / "input" / "data" / name

    @property
    def run(self) -> Path:
        return self.channel_folder(RUN) / RUN_FILE

    @property
    def cluster(self) -> Path:
        return self.root / "input" / "config" / "resourceconfig.json"

    @property
    def checkpoints(self) -> Path:
        """All work goes on here, so that what was finished, and the checkpoints of what was not, outlive the machine."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def output(self) -> Path:
        """For files to look at; they come back apart from the model."""
        return self.root / "output" / "data"

    @property
    def failure(self) -> Path:
        """What is written here is told as the reason of the failure."""
        return self.root / "output" / "failure"

    @property
    def cache(self) -> Path:
        return self.root / "cache"


def plan_stages(run: Training, folders: ContainerFolders) -> Iterator[Training]:
    """Yield the run in this container's paths: SFT, then DPO, each to be run to its end before the next is asked for.

    Apart, because of several processes only the first writes the SFT model, and none may start DPO before it is whole.
    """
    if run.training is not None:
        update = {"dataset": folders.channel_folder(INSTRUCT), "output_dir": folders.checkpoints}
        yield Training(training=run.training.model_copy(update=update), dpo=None)
    if run.dpo is not None:
        taught = folders.channel_folder(SFT)
        if run.training is not None:
            taught = newest_sft(folders.checkpoints, run.training.name)
        update = {
            "dataset": folders.channel_folder(PREFERENCE),
            "output_dir": folders.checkpoints,
            "sft": taught,
        }
        yield Training(training=None, dpo=run.dpo.model_copy(update=update))


def base_of(run: Training, folders: ContainerFolders) -> str:
    """Return the base model's name."""
    return run.training.sft.base_model if run.training else read_manifest(folders.channel_folder(SFT)).base


def link_base(base: str, folders: ContainerFolders, work: Path) -> None:
    """Let a base model that came along be found under its name: the name is part of what identifies the run.

    Args:
        work: the folder that the training is started in.
    """
    came = folders.channel_folder(BASE)
    if not came.is_dir():
        return
    link = work / base
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(came / link.name if (came / link.name).is_file() else came)


def remove_torn(checkpoints: Path) -> list[Path]:
    """Remove finished models that did not come back whole, all but their checkpoints; training goes on from these.

    Files are copied to and from the store one by one and in no order, so a manifest may be there without its weights.
    """
    torn = []
    for manifest in sorted(checkpoints.glob(f"*/*/{MANIFEST}")):
        try:
            verify_folder(manifest.parent)
        except ModelFileError:
            torn.append(manifest.parent)
            manifest.unlink()
            for entry in manifest.parent.iterdir():
                if entry.is_dir() and entry.name != CHECKPOINTS:
                    shutil.rmtree(entry)
    return torn


def publish(checkpoints: Path, model: Path) -> list[Path]:
    """Copy finished models, without their checkpoints, to where the job's result is taken from, as ``NAME/RUN``."""
    finished = sorted(manifest.parent for manifest in checkpoints.glob(f"*/*/{MANIFEST}"))
    for folder in finished:
        target = model / folder.relative_to(checkpoints)
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(CHECKPOINTS), dirs_exist_ok=True)
    return finished


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines of a job."""

    hosts: tuple[str, ...] = ("localhost",)
    current: str = "localhost"

    @property
    def rank(self) -> int:
        return self.hosts.index(self.current)


def read_cluster(file: Path) -> Cluster:
    """Return the machines, as the platform tells them; without its file, this one alone.

    Raises:
        ConfigurationError: the file is not what it should be.
    """
    if not file.is_file():
        return Cluster()
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        cluster = Cluster(tuple(sorted(told["hosts"])), told["current_host"])
        _ = cluster.rank
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} does not tell the job's machines: {error!r}") from None
    return cluster


def count_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Return how many GPUs this machine has: as ``SM_NUM_GPUS`` says, or as many as the driver shows."""
    told = environment.get("SM_NUM_GPUS", "")
    return int(told) if told.isdecimal() else len(list(devices.glob("nvidia[0-9]*")))


def training_command(
    python: str, arguments: Sequence[str], cluster: Cluster, gpus: int, config: Path
) -> list[str]:
    """Return the command that trains: one process, or through ``accelerate launch`` one for each GPU of each machine.

    Args:
        arguments: of python: ``-m MODULE …``.
        config: of accelerate.
    """
    processes = max(gpus, 1) * len(cluster.hosts)
    if processes == 1:
        return [python, *arguments]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    numbers = {
        "num_processes": processes,
        "num_machines": len(cluster.hosts),
        "machine_rank": cluster.rank,
        "main_process_ip": cluster.hosts[0] if len(cluster.hosts) > 1 else "127.0.0.1",
        "main_process_port": PORT,
    }
    options = [f"--{name}={value}" for name, value in numbers.items()]
    return [python, *launch, *options, *arguments]


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
    """Return the run and its files, checked as far as they can be without training.

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

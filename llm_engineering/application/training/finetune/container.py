"""Run a training inside a container: map its folders to the run's paths and start its processes.

The folders are those of a SageMaker training job: inputs under ``input/data/CHANNEL``; ``checkpoints``, which is kept when the
job is interrupted and is there again when it goes on; ``model``, which becomes the job's result.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_engineering.application.training.finetune.dpo import newest_sft
from llm_engineering.application.training.finetune.model_folder import read_manifest, verify_folder
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.application.training.finetune.sft import MANIFEST
from llm_engineering.application.training.finetune.trainer import CHECKPOINTS
from llm_engineering.domain.errors import ConfigurationError, ModelFileError

RUN, INSTRUCT, PREFERENCE, SFT, BASE = "run", "instruct", "preference", "sft", "base"
"""Channels: the run's YAML, the two kinds of data sets, the SFT model that DPO starts from, a base model from a folder."""
RUN_FILE = "run.yaml"
PORT = 29_500
"""Where the processes of several machines find each other; PyTorch's customary port."""


@dataclass(frozen=True, slots=True)
class ContainerFolders:
    """The folders of the container."""

    root: Path = Path("/opt/ml")

    def channel(self, name: str) -> Path:
        """Where an input's files lie."""
        return self.root / "input" / "data" / name

    @property
    def run(self) -> Path:
        return self.channel(RUN) / RUN_FILE

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


def stages(run: Training, folders: ContainerFolders) -> Iterator[Training]:
    """The run in this container's paths: SFT, then DPO, each to be run to its end before the next is asked for.

    Apart, because of several processes only the first writes the SFT model, and none may start DPO before it is whole.
    """
    if run.training is not None:
        update = {"dataset": folders.channel(INSTRUCT), "output_dir": folders.checkpoints}
        yield Training(training=run.training.model_copy(update=update), dpo=None)
    if run.dpo is not None:
        taught = folders.channel(SFT)
        if run.training is not None:
            taught = newest_sft(folders.checkpoints, run.training.name)
        update = {"dataset": folders.channel(PREFERENCE), "output_dir": folders.checkpoints, "sft": taught}
        yield Training(training=None, dpo=run.dpo.model_copy(update=update))


def base_of(run: Training, folders: ContainerFolders) -> str:
    """The base model's name."""
    return run.training.sft.base_model if run.training else read_manifest(folders.channel(SFT)).base


def link_base(base: str, folders: ContainerFolders, work: Path) -> None:
    """Let a base model that came along be found under its name: the name is part of what identifies the run.

    Args:
        work: the folder that the training is started in.
    """
    came = folders.channel(BASE)
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
    """The machines, as the platform tells them; without its file, this one alone.

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


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """How many GPUs this machine has: as ``SM_NUM_GPUS`` says, or as many as the driver shows."""
    told = environment.get("SM_NUM_GPUS", "")
    return int(told) if told.isdecimal() else len(list(devices.glob("nvidia[0-9]*")))


def command(python: str, arguments: Sequence[str], cluster: Cluster, gpus: int, config: Path) -> list[str]:
    """The command that trains: one process, or through ``accelerate launch`` one for each GPU of each machine.

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

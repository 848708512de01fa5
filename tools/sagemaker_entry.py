"""What a training job's container runs: ``python -m tools.sagemaker_entry [--root /opt/ml]``.

It is the training pipeline with the paths of this container. All work goes on in the folder of checkpoints, which outlives the
machine; finished models are copied, without their checkpoints, to where the job's result is taken from.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import yaml
from loguru import logger

from llm_engineering.application.ports import SilentProgress
from llm_engineering.application.training.finetune.remote import (
    Cluster,
    ContainerFolders,
    base_of,
    count_gpus,
    link_base,
    plan_stages,
    publish,
    read_cluster,
    remove_torn,
    training_command,
)
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.training import open_bundled_models, read_container_secrets
from llm_engineering.domain.errors import TwinError
from llm_engineering.settings import load_settings
from tools.run_config import read_run_config

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = ROOT / "configs" / "accelerate.yaml"
TOLD_CHARACTERS = 900
"""Of the last lines of the training's errors, told as the reason of a failure. The platform shows the first 1,024, its own words
among them, so with more lines the last would be missing: the error itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=ContainerFolders().root, help="folder of inputs and outputs"
    )
    folders = ContainerFolders(parser.parse_args(arguments).root.resolve())
    try:
        return _train(folders)
    except TwinError as error:
        sys.stderr.write(f"{error}\n")
        return _failed(folders, str(error))


def _train(folders: ContainerFolders) -> int:
    cluster = read_cluster(folders.cluster)
    training, _ = read_run_config(folders.run, Training)
    with tempfile.TemporaryDirectory(prefix="twin-") as place:
        work = Path(place)
        environment = _environment(folders, work)
        os.environ.update(environment)
        settings = load_settings(None)
        start_logging(settings)
        base = base_of(training, folders)
        link_base(base, folders, work)
        models = open_bundled_models(settings)
        if base in models.names:
            models.download(base, SilentProgress())
        for folder in (folders.checkpoints, folders.model):
            folder.mkdir(parents=True, exist_ok=True)
        for torn in remove_torn(folders.checkpoints):
            logger.warning("{} did not come back whole: it goes on from its checkpoints.", torn.name)
        for stage in plan_stages(training, folders):
            code, told = _run(stage, cluster, work)
            if code != 0:
                return _failed(folders, told, code)
        if cluster.rank == 0:
            for model in publish(folders.checkpoints, folders.model):
                logger.info("The result: {}", model.relative_to(folders.checkpoints))
    return 0


def _environment(folders: ContainerFolders, work: Path) -> dict[str, str]:
    """Variables of the training: big files go to the machine's volume, ZenML's store ends with the container."""
    fixed = {"PYTHONPATH": str(ROOT), "ZENML_CONFIG_PATH": str(work / "zenml"), "ZENML_ANALYTICS_OPT_IN": "false",
             "ZENML_LOGGING_VERBOSITY": "CRITICAL"}  # fmt: skip
    chosen = {
        "HF_HOME": str(folders.cache / "huggingface"),
        "MODELS_DIR": str(folders.cache / "models"),
        "TRACKING_FOLDER": str(folders.output / "tracking"),
    }
    given = {name: value for name, value in chosen.items() if name not in os.environ}
    return {**fixed, **given, **read_container_secrets()}


def _run(stage: Training, cluster: Cluster, work: Path) -> tuple[int, str]:
    """Train; exit code, and the last lines of the errors."""
    config = work / "stage.yaml"
    config.write_text(yaml.safe_dump({"parameters": stage.model_dump(mode="json")}), encoding="utf-8")
    line = training_command(
        sys.executable,
        ["-m", "tools.run", "training", "--config", str(config)],
        cluster,
        count_gpus(os.environ),
        ACCELERATE,
    )
    logger.info("Starting: {}", " ".join(line))
    last: deque[str] = deque()
    # Its own folder of work, where a base model is found under the name that the run has for it.
    with subprocess.Popen(line, cwd=work, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            for text in process.stderr or ():
                sys.stderr.write(text)
                last.append(text)
                while len(last) > 1 and sum(map(len, last)) > TOLD_CHARACTERS:
                    last.popleft()
        finally:
            signal.signal(signal.SIGTERM, previous)
    return process.returncode, "".join(last)


def _failed(folders: ContainerFolders, told: str, code: int = 1) -> int:
    """Leave the reason where the platform reads it; an exit code that a shell can tell."""
    logger.error("The training failed ({}).", code)
    folders.failure.parent.mkdir(parents=True, exist_ok=True)
    folders.failure.write_text(told.strip() or f"exit code {code}", encoding="utf-8")
    return code if 0 < code < 256 else 128 + abs(code)


if __name__ == "__main__":
    sys.exit(main())

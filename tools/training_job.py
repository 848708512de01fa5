"""The training pipeline as a job on SageMaker: ``./poe run-training-job-on-sagemaker [--config FILE] [--detach | --stop]``.

The YAML is that of ``./poe run-training-pipeline``. Calling it again follows the job that runs, fetches the model of one that
is done, and starts one anew, from the last checkpoint, where one has failed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.training.finetune.dpo import DpoRun
from llm_engineering.application.training.finetune.remote import RemoteRun, remote_run
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import find_start, open_training_jobs
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import console, errors, make_parser, run, user_path
from tools.run_config import read_run_config

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_training_jobs(settings) as jobs:
        training, _ = read_run_config(options.config, Training)
        asked = _prepared(_with_dataset(training, options.dataset), settings)
        if options.stop:
            stopped = jobs.stop(asked)
            console.print(f"Stopping: {', '.join(stopped)}" if stopped else "No job of this run is running.")
            return 0
        name = jobs.start(asked)
        console.print(f"[bold]Training job[/]: {escape(name)}", soft_wrap=True)
        if options.detach:
            console.print("[dim]The same command without --detach follows it and fetches the model.[/]")
            return 0
        try:
            jobs.follow(name)
        except KeyboardInterrupt:
            errors.print(
                f"[yellow]The job {escape(name)} goes on in AWS, and costs. The same command follows it again; with --stop it is "
                "ended, and what it has saved is kept.[/]",
                soft_wrap=True,
            )
            return INTERRUPTED
        _show(jobs.fetch(name, asked.output), options.config, options.dataset)
    return 0


def _with_dataset(training: Training, folder: Path | None) -> Training:
    """The run on another data set than its YAML names."""
    if folder is None:
        return training
    if training.training is not None and training.dpo is not None:
        raise ConfigurationError(
            "--dataset is for a run of SFT or of DPO; this one is of both, so name both folders in its YAML ('dataset:')."
        )
    part = "training" if training.training is not None else "dpo"
    return training.model_copy(update={part: getattr(training, part).model_copy(update={"dataset": folder})})


def _prepared(training: Training, settings: Settings) -> RemoteRun:
    """The run with the data sets and the model that it would take here."""
    if training.training is not None and training.training.dataset is None:
        found = training.training.model_copy(update={"dataset": _newest("instruct_dataset")})
        training = training.model_copy(update={"training": found})
    if training.dpo is not None:
        dpo = training.dpo
        dataset = dpo.dataset or _newest("preference_dataset")
        start = None if training.training is not None else _find_start(dpo, settings)
        found_dpo = dpo.model_copy(update={"dataset": dataset, "sft": start})
        training = training.model_copy(update={"dpo": found_dpo})
    return remote_run(training)


def _find_start(run: DpoRun, settings: Settings) -> Path:
    with open_resources(settings) as resources:
        return find_start(run, resources.registry)


def _newest(artifact: str) -> Path:
    from steps.context import find_newest_dataset  # ZenML takes seconds to load

    return find_newest_dataset(artifact)


def _show(models: Sequence[Path], config: Path, dataset: Path | None) -> None:
    for model in models:
        console.print(f"[green]✓[/] {escape(str(model))}", soft_wrap=True)
    named = "" if dataset is None else f", with 'dataset: {escape(str(dataset))}' in that file,"
    console.print(
        f"[dim]To register: {POE} run-training-pipeline --config {escape(str(config))}{named} finds it trained already.[/]",
        soft_wrap=True,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("run-training-job-on-sagemaker", __doc__)
    parser.add_argument(
        "--config", type=user_path, default=Path("configs/training_sft.yaml"), help="YAML of the training"
    )
    parser.add_argument(
        "--dataset",
        type=user_path,
        metavar="FOLDER",
        help="the data set's folder (default: the YAML's, or the newest)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--detach", action="store_true", help="start the job and do not wait for it")
    how.add_argument("--stop", action="store_true", help="stop the run's job; its checkpoints are kept")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)

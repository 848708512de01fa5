"""Search hyper-parameters within a budget: ``./poe search-hyperparameters [--config FILE]``. Run again, it goes on."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.markup import escape
from rich.table import Table

from llm_engineering.application.evaluation.models.evaluate import NamedProgress
from llm_engineering.application.files import atomic_write
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.data import open_dataset
from llm_engineering.application.training.finetune.search import (
    HyperparameterSearch,
    SearchRun,
    Trial,
    apply_values,
    format_value,
    search,
)
from llm_engineering.application.training.finetune.sft import TrainedModel, run_name, train_sft
from llm_engineering.bootstrap.logging import show_progress, start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import open_study
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import load_settings
from tools.console import console, errors, make_parser, run, show_table, user_path
from tools.run_config import read_run_config

CONFIG = Path("configs/training_search.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("search-hyperparameters", __doc__)
    parser.add_argument("--config", type=user_path, default=CONFIG, help=f"default: {CONFIG}")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    parameters, _ = read_run_config(options.config, HyperparameterSearch)
    wanted = parameters.search
    dataset = wanted.dataset or _find_newest_dataset()
    content = open_dataset(dataset, "instruct", wanted.sft.template).hash
    folder = wanted.output_dir / wanted.name
    study = open_study(folder / "trials.log", _describe_subject(wanted, content), wanted.seed)
    with open_resources(settings) as resources, show_progress(settings) as progress:

        def train(config: SftConfig) -> TrainedModel:
            trained = train_sft(
                resources.make_trainer(),
                config,
                dataset,
                name=wanted.name,
                root=wanted.output_dir,
                tracker=resources.experiment_tracker(),
                progress=NamedProgress(progress, run_name(config, content)),
            )
            shutil.rmtree(trained.folder / "checkpoints", ignore_errors=True)  # of use to a killed run only
            return trained

        found = search(wanted, study, train)
    _show(wanted, found)
    best = found[0]
    if best.loss is None:
        raise ConfigurationError(f"No trial came to its end; the log says why. Change {options.config}.")
    config = apply_values(wanted.sft, best.values)
    for trial in found[1:]:  # what they came to is kept, their weights are of no use
        shutil.rmtree(folder / run_name(apply_values(wanted.sft, trial.values), content), ignore_errors=True)
    file = folder / "best.yaml"
    atomic_write(file, _as_yaml(wanted, config, dataset))
    console.print(
        f"Train with the best: {POE} run-training-pipeline --config {escape(str(file))}", soft_wrap=True
    )
    return 0


def _find_newest_dataset() -> Path:
    errors.print("[dim]Starting ZenML, which knows the newest data set …[/]")
    from steps.context import find_newest_dataset

    return find_newest_dataset("instruct_dataset")


def _describe_subject(wanted: SearchRun, content: str) -> str:
    told = wanted.model_dump(mode="json", include={"sft", "space"})
    return hashlib.sha256(json.dumps([told, content], sort_keys=True).encode()).hexdigest()


def _show(wanted: SearchRun, trials: Sequence[Trial]) -> None:
    table = Table(title=f"Trials of {wanted.name}, the best first", title_justify="left", title_style="bold")
    table.add_column("Trial", justify="right")
    for key in wanted.space:
        table.add_column(key.rpartition(".")[2], justify="right")
    for heading in ("Validation loss", "Steps", "Seconds"):
        table.add_column(heading, justify="right")
    for trial in trials:
        loss = trial.status if trial.loss is None else f"{trial.loss:.4f}"
        values = [format_value(trial.values[key]) if key in trial.values else "–" for key in wanted.space]
        table.add_row(str(trial.number + 1), *values, loss, str(trial.steps), f"{trial.seconds:.0f}")
    show_table(table)


def _as_yaml(wanted: SearchRun, config: SftConfig, dataset: Path) -> str:
    training = {
        "name": wanted.name,
        "dataset": str(dataset),
        "output_dir": str(wanted.output_dir),
        "sft": config.model_dump(mode="json", exclude_unset=True),
    }
    head = f"# The best of the trials in {wanted.output_dir / wanted.name}.\n#\n#   ./poe run-training-pipeline --config FILE\n\n"
    return head + yaml.safe_dump({"parameters": {"training": training}}, sort_keys=False)


if __name__ == "__main__":
    run(main)

"""Training: a data set in, a model's folder out."""

from pathlib import Path
from typing import Annotated, Any

from loguru import logger
from zenml import log_metadata, step
from zenml.types import HTMLString

from llm_engineering.application.training.finetune import dpo as preference_training
from llm_engineering.application.training.finetune import sft as supervised_training
from llm_engineering.application.training.finetune.dpo import DpoRun, newest_sft
from llm_engineering.application.training.finetune.report import training_page
from llm_engineering.application.training.finetune.run import SftRun
from llm_engineering.application.training.finetune.sft import TrainedModel
from llm_engineering.application.training.registry.register import keep_dataset
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.models import ModelManifest
from steps.resources import step_resources

__all__ = ["DpoRun", "SftRun", "newest_dataset", "train_dpo", "train_sft"]


@step(enable_cache=False)
def train_sft(
    run: SftRun,
) -> tuple[Annotated[dict[str, Any], "training_report"], Annotated[HTMLString, "training_plot"]]:
    """Train on instructions and answers; a run that is done already is not done again."""
    folder = run.dataset or newest_dataset("instruct_dataset")
    with step_resources() as (twin, progress):
        trained = supervised_training.train_sft(
            twin.trainer(),
            run.sft,
            folder,
            name=run.name,
            root=run.output_dir,
            tracker=twin.experiment_tracker(),
            progress=progress,
        )
        manifest = twin.exporter().export(trained.folder)
        keep_dataset(trained.folder, folder)
    return _report(trained, manifest), HTMLString(training_page(trained.record))


@step(enable_cache=False)
def train_dpo(
    run: DpoRun, sft_model: dict[str, Any] | None = None
) -> tuple[Annotated[dict[str, Any], "training_report"], Annotated[HTMLString, "training_plot"]]:
    """Train on preferences, from an SFT model; a run that is done already is not done again.

    Args:
        sft_model: the report of the SFT that ran just before; None: the model that the run names, or the newest.
    """
    folder = run.dataset or newest_dataset("preference_dataset")
    start = Path(sft_model["folder"]) if sft_model else run.sft or newest_sft(run.output_dir, run.name)
    with step_resources() as (twin, progress):
        trained = preference_training.train_dpo(
            twin.preference_trainer(),
            run.dpo,
            folder,
            start,
            name=run.name,
            root=run.output_dir,
            tracker=twin.experiment_tracker(),
            progress=progress,
        )
        manifest = twin.exporter().export(trained.folder)
        keep_dataset(trained.folder, folder)
    return _report(trained, manifest), HTMLString(training_page(trained.record))


def _report(trained: TrainedModel, manifest: ModelManifest) -> dict[str, Any]:
    metrics = manifest.metrics
    log_metadata({**metrics, "folder": str(trained.folder), "dataset": trained.record.dataset})
    logger.info("The model is in {}.", trained.folder)
    return {
        "folder": str(trained.folder),
        "stage": trained.record.kind,
        "status": trained.record.status,
        "dataset": trained.record.dataset,
        "template": f"{trained.record.template} ({trained.record.template_hash})",
        "metrics": metrics,
    }


def newest_dataset(artifact: str) -> Path:
    """The folder of the newest data set that the generation pipeline has made.

    Raises:
        ConfigurationError: there is none.
    """
    from zenml.client import Client

    try:
        found = Client().get_artifact_version(artifact)
    except KeyError:
        kind = artifact.partition("_")[0]
        raise ConfigurationError(
            f"There is no data set to train on: no '{artifact}' was made yet. Make one with: poetry poe "
            f"run-generate-{kind}-datasets-pipeline, or name a folder ('dataset:' in the YAML)."
        ) from None
    logger.info("Training on {} version {}.", artifact, found.version)
    return Path(found.load())

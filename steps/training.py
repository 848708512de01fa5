"""Training: a data set in, a model's folder out."""

from typing import Annotated, Any

from loguru import logger
from zenml import log_metadata, step
from zenml.types import HTMLString

from llm_engineering.application.training.finetune import dpo as preference_training
from llm_engineering.application.training.finetune import sft as supervised_training
from llm_engineering.application.training.finetune.dpo import DpoRun
from llm_engineering.application.training.finetune.report import training_page
from llm_engineering.application.training.finetune.run import SftRun
from llm_engineering.application.training.finetune.sft import TrainedModel
from llm_engineering.application.training.registry.register import keep_dataset, publish_model
from llm_engineering.bootstrap.training import find_start
from llm_engineering.domain.models import ModelManifest
from steps.context import find_newest_dataset, open_step_resources

__all__ = ["DpoRun", "SftRun", "train_dpo", "train_sft"]


@step(enable_cache=False)
def train_sft(
    run: SftRun,
) -> tuple[Annotated[dict[str, Any], "training_report"], Annotated[HTMLString, "training_plot"]]:
    """Train on instructions and answers; a run that is done already is not done again."""
    folder = run.dataset or find_newest_dataset("instruct_dataset")
    with open_step_resources() as (resources, progress):
        trained = supervised_training.train_sft(
            resources.make_trainer(),
            run.sft,
            folder,
            name=run.name,
            root=run.output_dir,
            tracker=resources.experiment_tracker(),
            progress=progress,
        )
        manifest = resources.make_exporter().export(trained.folder)
        keep_dataset(trained.folder, folder)
        location = publish_model(resources.shared_files, trained.folder)
    return _report(trained, manifest, location), HTMLString(training_page(trained.record))


@step(enable_cache=False)
def train_dpo(
    run: DpoRun, sft_model: dict[str, Any] | None = None
) -> tuple[Annotated[dict[str, Any], "training_report"], Annotated[HTMLString, "training_plot"]]:
    """Train on preferences, from an SFT model; a run that is done already is not done again.

    Args:
        sft_model: the report of the SFT that ran just before; None: the model that the run names, or the newest.
    """
    folder = run.dataset or find_newest_dataset("preference_dataset")
    with open_step_resources() as (resources, progress):
        registry = resources.registry
        start = registry.files.fetch(sft_model["folder"]) if sft_model else find_start(run, registry)
        trained = preference_training.train_dpo(
            resources.preference_trainer(),
            run.dpo,
            folder,
            start,
            name=run.name,
            root=run.output_dir,
            tracker=resources.experiment_tracker(),
            progress=progress,
        )
        manifest = resources.make_exporter().export(trained.folder)
        keep_dataset(trained.folder, folder)
        location = publish_model(resources.shared_files, trained.folder)
    return _report(trained, manifest, location), HTMLString(training_page(trained.record))


def _report(trained: TrainedModel, manifest: ModelManifest, location: str) -> dict[str, Any]:
    metrics = manifest.metrics
    log_metadata({**metrics, "folder": location, "dataset": trained.record.dataset})
    logger.info("The model is in {}.", location)
    return {
        "folder": location,
        "stage": trained.record.kind,
        "status": trained.record.status,
        "dataset": trained.record.dataset,
        "template": f"{trained.record.template} ({trained.record.template_hash})",
        "metrics": metrics,
    }

"""Training: a data set in, a model's folder out."""

import os
from pathlib import Path
from typing import Annotated, Any

from loguru import logger
from zenml import log_metadata, step
from zenml.types import HTMLString

from llm_engineering.application.training.plots import training_page
from llm_engineering.application.training.run import SftRun
from llm_engineering.application.training.sft import train_sft
from llm_engineering.domain.errors import ConfigurationError
from steps.resources import step_resources

__all__ = ["SftRun", "fine_tune", "newest_dataset"]


@step(enable_cache=False)
def fine_tune(
    run: SftRun,
) -> tuple[Annotated[dict[str, Any], "training_report"], Annotated[HTMLString, "training_plot"]]:
    """Train on instructions and answers; a run that is done already is not done again."""
    folder = run.dataset or newest_dataset("instruct_dataset")
    with step_resources() as (twin, progress):
        trained = train_sft(
            twin.trainer(),
            run.sft,
            folder,
            name=run.name,
            root=run.output,
            tracker=twin.experiment_tracker(),
            progress=progress,
        )
        if int(os.environ.get("RANK", "0")) == 0:  # of several processes, one writes
            twin.exporter().export(trained.folder)
    metrics = trained.record.metrics()
    log_metadata({**metrics, "folder": str(trained.folder), "dataset": trained.record.dataset})
    logger.info("The model is in {}.", trained.folder)
    report = {
        "folder": str(trained.folder),
        "status": trained.record.status,
        "dataset": trained.record.dataset,
        "template": f"{trained.record.template} ({trained.record.template_hash})",
        "metrics": metrics,
    }
    return report, HTMLString(training_page(trained.record))


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

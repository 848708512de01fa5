"""Data sets: documents in, instruction and preference samples out."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from loguru import logger
from zenml import log_metadata, step
from zenml.types import HTMLString, MarkdownString

from llm_engineering.application.failures import round_values
from llm_engineering.application.llm.judges import Jury
from llm_engineering.application.ports import LanguageModel, Progress
from llm_engineering.application.training.datasets.build import Built, Helpers, Target, build_dataset
from llm_engineering.application.training.datasets.config import (
    DatasetRun,
    InstructDatasetRun,
    PreferenceDatasetRun,
)
from llm_engineering.application.training.datasets.generate import (
    Generated,
    generate_instruct,
    generate_preference,
)
from llm_engineering.application.training.datasets.report import COLUMNS, table_rows
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.application.training.datasets.store import Splits
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.bootstrap.training import load_dataset_saver
from llm_engineering.domain.datasets import InstructSample, PreferenceSample
from llm_engineering.domain.errors import MissingDependencyError
from steps.context import markdown_table, open_step_resources

__all__ = [
    "InstructDatasetRun",
    "PreferenceDatasetRun",
    "make_instruct_samples",
    "make_preference_samples",
    "write_instruct_dataset",
    "write_preference_dataset",
]
T = TypeVar("T")


@step(enable_cache=False)
def make_instruct_samples(
    run: InstructDatasetRun,
) -> tuple[
    Annotated[list[dict[str, Any]], "instruct_samples"], Annotated[dict[str, Any], "generation_report"]
]:
    """Return instructions with their answers, of every passage of the warehouse."""
    with open_step_resources() as (resources, progress):
        model = resources.language_model if run.needs_model else None
        made = _run(generate_instruct(resources.warehouse, run, model, progress=progress), model)
    report = _told(made)
    return _dumped(made.samples), report


@step(enable_cache=False)
def make_preference_samples(
    run: PreferenceDatasetRun,
) -> tuple[
    Annotated[list[dict[str, Any]], "preference_samples"], Annotated[dict[str, Any], "generation_report"]
]:
    """Return prompts with the author's and a model's answer, of every passage of the warehouse."""
    with open_step_resources() as (resources, progress):
        model = resources.language_model if run.needs_model else None
        made = _run(generate_preference(resources.warehouse, run, model, progress=progress), model)
    report = _told(made)
    return _dumped(made.samples), report


@step(enable_cache=False)
def write_instruct_dataset(
    run: InstructDatasetRun, samples: list[dict[str, Any]]
) -> tuple[
    Annotated[Path, "instruct_dataset"],
    Annotated[dict[str, Any], "dataset_report"],
    Annotated[MarkdownString, "dataset_gates"],
    Annotated[HTMLString, "dataset_page"],
]:
    """Check the samples, split them by document, and write the data set."""
    made = _written(run, [InstructSample.model_validate(sample) for sample in samples])
    return made.folder, made.to_metadata(), _gates(made), HTMLString(made.page)


@step(enable_cache=False)
def write_preference_dataset(
    run: PreferenceDatasetRun, samples: list[dict[str, Any]]
) -> tuple[
    Annotated[Path, "preference_dataset"],
    Annotated[dict[str, Any], "dataset_report"],
    Annotated[MarkdownString, "dataset_gates"],
    Annotated[HTMLString, "dataset_page"],
]:
    """Check the triples, split them by document, and write the data set."""
    made = _written(run, [PreferenceSample.model_validate(sample) for sample in samples])
    return made.folder, made.to_metadata(), _gates(made), HTMLString(made.page)


def _told(made: Generated) -> dict[str, Any]:
    report = round_values(made.to_metadata())
    log_metadata({key: value for key, value in report.items() if value is not None and value != {}})
    return report


def _dumped(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    return [sample.model_dump(mode="json") for sample in samples]


def _gates(made: Built) -> MarkdownString:
    return markdown_table(COLUMNS, table_rows(made.curated.counts))


def _written(run: DatasetRun, samples: Sequence[Sample]) -> Built:
    with open_step_resources() as (resources, progress):
        files = resources.shared_files
        files.pull("datasets", run.folder)  # held-out parts of the other data sets are kept out of this one
        jury = _jury(run, resources) if run.judges else None
        made = _run(_dataset(run, samples, resources, jury, progress), jury)
        names = [str(file.relative_to(made.folder)) for file in made.folder.rglob("*") if file.is_file()]
        files.publish(made.folder, f"datasets/{made.manifest.name}/{made.manifest.version}", sorted(names))
    log_metadata({key: value for key, value in made.to_metadata().items() if value != {}})
    return made


def _jury(run: DatasetRun, resources: Resources) -> Jury:
    asking = run.quality.judge.requests
    return Jury(
        resources.make_judges(run.judges), resources.warehouse, asking, stage="judge-dataset", seed=run.seed
    )


async def _dataset(
    run: DatasetRun, samples: Sequence[Sample], resources: Resources, jury: Jury | None, progress: Progress
) -> Built:
    return await build_dataset(
        samples,
        resources.warehouse.clean,
        run.quality,
        Target(run.folder, run.name, run.chat_template, run.seed, run.model_dump(mode="json")),
        Helpers(
            # An estimate: the trained model's own tokenizer is known only once training is configured, and checked there.
            count=resources.embedder.tokenizer.counts,
            embedder=resources.embedder if "semantic_duplicates" in run.quality.gates else None,
            jury=jury,
            save_for_hub=_save_for_hub,
        ),
        run.protected,
        progress,
    )


def _save_for_hub(folder: Path, splits: Splits) -> None:
    try:
        load_dataset_saver()(folder, splits)
    except MissingDependencyError as error:
        logger.info("The data set is written as JSON Lines only. {}", error)


def _run(work: Coroutine[Any, Any, T], model: LanguageModel | Jury | None) -> T:
    async def run() -> T:
        try:
            return await work
        finally:
            if model is not None:
                await model.close()

    return asyncio.run(run())

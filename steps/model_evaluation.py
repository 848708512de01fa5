"""Evaluation of models: every system on the same held-out questions, one table, one report."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from loguru import logger
from zenml import log_metadata, step
from zenml.types import HTMLString, MarkdownString

from llm_engineering.application.evaluation.models.config import JudgeConfig, ModelEvaluationRun
from llm_engineering.application.evaluation.models.evaluate import (
    ModelEvaluation,
    Tools,
    evaluate_models,
)
from llm_engineering.application.evaluation.models.heldout import hold_out
from llm_engineering.application.evaluation.models.report import (
    as_dict,
    html_report,
    run_metadata,
    table_columns,
    table_rows,
)
from llm_engineering.application.evaluation.models.systems import (
    System,
    base_system,
    newest_folder,
    open_trained,
    read_manifest,
)
from llm_engineering.application.llm.judges import Jury
from llm_engineering.application.ports import ModelRegistry, Progress
from llm_engineering.application.training.registry.register import find_newest
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.datasets import DatasetManifest
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import EVALUATION, ModelManifest, ModelVersion, Stage
from steps.context import find_newest_dataset, markdown_table, open_step_resources

__all__ = ["ModelEvaluationRun", "compare_models"]


@step(enable_cache=False)
def compare_models(
    run: ModelEvaluationRun,
) -> tuple[
    Annotated[dict[str, Any], "evaluation_report"],
    Annotated[dict[str, Any], "candidate"],
    Annotated[dict[str, Any], "model_evaluation"],
    Annotated[MarkdownString, "model_evaluation_table"],
    Annotated[HTMLString, "model_evaluation_report"],
]:
    """Have base, production, SFT and DPO answer the test split; measure and compare their answers."""
    folder = run.dataset or find_newest_dataset("instruct_dataset")
    with open_step_resources() as (resources, progress):
        resources.shared_files.pull("datasets", run.datasets)  # what the models were trained on
        trained = _trained(run, resources)
        bases = resources.base_models()
        for _, system in trained.values():
            if system.manifest is not None and system.adapter is not None:
                bases.check(system.manifest)
        systems = _systems(run, folder, trained)
        evaluation = _evaluated(run, folder, systems, resources, progress)
        report = evaluation.report
        for location, _ in trained.values():  # beside each model, where promotion looks for it
            resources.shared_files.write(
                location, EVALUATION, f"{report.model_dump_json(indent=2)}\n".encode()
            )
    log_metadata({**run_metadata(report)})
    table = markdown_table(table_columns(report), table_rows(report))
    return (
        report.model_dump(mode="json"),
        _candidate(trained),
        as_dict(evaluation),
        table,
        HTMLString(html_report(evaluation)),
    )


def _trained(run: ModelEvaluationRun, resources: Resources) -> dict[str, tuple[str, System]]:
    """The trained systems that there are, with their locations, in the table's order."""
    found: dict[str, tuple[str, System]] = {}
    files = resources.shared_files
    serving = _in_production(run, resources) if "production" in run.systems else None
    if serving is not None:
        folder = files.fetch(serving.location)
        served = open_trained("production", folder, serving.manifest, serving.label)
        found["production"] = serving.location, served
    choices: tuple[tuple[Literal["sft", "dpo"], Path | None], ...] = (("sft", run.sft), ("dpo", run.dpo))
    for name, named in choices:
        if name not in run.systems:
            continue
        newest = (str(named), read_manifest(named)) if named else _newest(run, name, resources.registry)
        if newest is None:
            logger.info("There is no {} model named {} in {}; it is left out.", name, run.name, run.trained)
        elif serving is not None and newest[1].content_hash == serving.manifest.content_hash:
            logger.info(
                "The {} model is {}, the one in production; it is not measured twice.", name, serving.label
            )
        else:
            found[name] = newest[0], open_trained(name, files.fetch(newest[0]), newest[1])
    return found


def _newest(
    run: ModelEvaluationRun, stage: Literal["sft", "dpo"], registry: ModelRegistry
) -> tuple[str, ModelManifest] | None:
    """Where the newest trained model is: among the folders here, and where machines share them, in the registry."""
    here = newest_folder(run.trained, run.name, stage)
    registered = find_newest(registry, run.name, stage) if registry.files.shared else None
    if registered is None or (here and here[1].created_at > registered.manifest.created_at):
        return (str(here[0]), here[1]) if here else None
    return registered.location, registered.manifest


def _candidate(trained: dict[str, tuple[str, System]]) -> dict[str, str]:
    """The newest of the models that were measured, which the evaluation decides on; without one, the reason."""
    made = {name: system.manifest.created_at for name, (_, system) in trained.items() if system.manifest}
    if not made:
        return {"reason": "no trained model was evaluated"}
    newest = max(made, key=lambda name: (made[name], name != "production"))
    if newest == "production":
        return {"reason": "the model in production is the newest"}
    return {"system": newest, "folder": trained[newest][0]}


def _in_production(run: ModelEvaluationRun, resources: Resources) -> ModelVersion | None:
    try:
        return resources.registry.get(run.name, Stage.PRODUCTION)
    except InvalidInputError:
        logger.info("No version of {} is in production yet; it is left out.", run.name)
        return None


def _systems(run: ModelEvaluationRun, folder: Path, trained: dict[str, tuple[str, System]]) -> list[System]:
    systems = [system for _, system in trained.values()]
    if "base" in run.systems:
        newest = systems[-1] if systems else None
        template = newest.template if newest else _dataset_template(folder)
        systems.insert(0, base_system(newest, run.base, template))
    if not systems:
        raise ConfigurationError(
            f"There is nothing to evaluate: none of {', '.join(run.systems)} exists for {run.name}. Train first: {POE} "
            "run-training-pipeline"
        )
    if len({system.template for system in systems}) > 1:
        told = ", ".join(f"{system.name}: {system.template}" for system in systems)
        raise ConfigurationError(f"The systems speak different chat templates ({told}); compare them apart.")
    return systems


def _dataset_template(folder: Path) -> str:
    try:
        return DatasetManifest.model_validate_json((folder / "manifest.json").read_bytes()).template
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{folder} is no data set: {error}") from None


def _evaluated(
    run: ModelEvaluationRun, folder: Path, systems: list[System], resources: Resources, progress: Progress
) -> ModelEvaluation:
    held = hold_out(
        folder,
        systems[0].template,
        systems,
        datasets=run.datasets,
        samples=run.samples,
        seed=run.seed,
        config=run.overlap,
    )
    return asyncio.run(_with_judge(run, held, systems, resources, progress))


async def _with_judge(
    run: ModelEvaluationRun, held: Any, systems: list[System], resources: Resources, progress: Progress
) -> ModelEvaluation:
    jury = _jury(run.judge, run.seed, resources) if run.judge is not None else None
    models = resources.answering_models()
    tools = Tools(
        models=models,
        references=resources.reference_metrics(run.bertscore),
        embedder=resources.embedder if run.similarity else None,
        jury=jury,
        harness=resources.make_harness(run.harness, run.batch_size, run.seed) if run.harness else None,
    )
    try:
        return await evaluate_models(run, held, systems, tools, progress)
    finally:
        models.close()
        if jury is not None:
            await jury.close()


def _jury(config: JudgeConfig, seed: int, resources: Resources) -> Jury:
    resources.warehouse.ping()  # where replies are kept; told now, not after the models have answered for an hour
    return Jury(
        resources.make_judges(config.models),
        resources.warehouse,
        config.requests,
        stage="judge-answers",
        seed=seed,
    )

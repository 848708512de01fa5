"""Run a pipeline with its YAML: ``./poe run-end-to-end-data-pipeline [--config FILE] [--link URL --author NAME]``."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from llm_engineering.application.analysis.config import RecordAnalysis
from llm_engineering.application.config import StrictConfig
from llm_engineering.application.evaluation.course.config import CourseAssistant
from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters
from llm_engineering.application.evaluation.rag.config import RagEvaluation
from llm_engineering.application.features.config import (
    DigitalDataEtl,
    EndToEndData,
    FeatureEngineering,
)
from llm_engineering.application.reporting.json_export import ExportArtifacts
from llm_engineering.application.reviews.config import ReviewSummaryRun
from llm_engineering.application.training.datasets.config import (
    GenerateInstructDataset,
    GeneratePreferenceDataset,
)
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.bootstrap.locks import hold_collection
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, TwinError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.compare import show_side_by_side
from tools.console import errors, make_parser, run, user_link, user_path
from tools.course import hash_run, is_unchanged, keep_run
from tools.distributed import check_shared, is_distributed, is_leader, join_training
from tools.preflight import check_hosts, check_inputs, choose_author
from tools.reports import read_output, show_run, show_steps
from tools.run_config import check_parameters, read_run_config
from tools.run_notices import tell_run
from tools.zenml_stack import fit_to_stack

WRITERS = frozenset({"digital_data_etl", "feature_engineering", "end_to_end_data", "course_assistant"})
"""Pipelines that change the collection."""


@dataclass(frozen=True)
class Runnable:
    pipeline: str
    parameters: type[StrictConfig]
    config: Path

    @property
    def task(self) -> str:
        """The task that runs it."""
        return next(
            f"run-{name}{_ENDINGS.get(name, '-pipeline')}" for name, it in PIPELINES.items() if it is self
        )


OWN = Path("configs/mine.yaml")
"""What ``./poe init`` writes: the links of this twin."""
PIPELINES = {
    "digital-data-etl": Runnable("digital_data_etl", DigitalDataEtl, OWN),
    "feature-engineering": Runnable(
        "feature_engineering", FeatureEngineering, Path("configs/feature_engineering.yaml")
    ),
    "rag-evaluation": Runnable("rag_evaluation", RagEvaluation, Path("configs/rag_evaluation.yaml")),
    "evaluation": Runnable(
        "model_evaluation", ModelEvaluationParameters, Path("configs/model_evaluation.yaml")
    ),
    "generate-instruct-datasets": Runnable(
        "generate_instruct_dataset", GenerateInstructDataset, Path("configs/generate_instruct_datasets.yaml")
    ),
    "generate-preference-datasets": Runnable(
        "generate_preference_dataset",
        GeneratePreferenceDataset,
        Path("configs/generate_preference_datasets.yaml"),
    ),
    "training": Runnable("training", Training, Path("configs/training_sft.yaml")),
    "end-to-end-data": Runnable("end_to_end_data", EndToEndData, OWN),
    "review-summaries": Runnable("review_summaries", ReviewSummaryRun, Path("configs/review_summaries.yaml")),
    "course-assistant": Runnable("course_assistant", CourseAssistant, Path("configs/course.yaml")),
    "analysis": Runnable("record_analysis", RecordAnalysis, Path("configs/analysis_tickets.yaml")),
    "head-training": Runnable("head_training", RecordAnalysis, Path("configs/analysis_tickets.yaml")),
    "export-artifact-to-json": Runnable(
        "export_artifact_to_json", ExportArtifacts, Path("configs/export_artifact_to_json.yaml")
    ),
}

_ENDINGS = {"digital-data-etl": "", "rag-evaluation": ""}
"""Of the tasks' names, where it is not ``-pipeline``."""


def main(arguments: Sequence[str] | None = None) -> int:
    run_task(arguments)
    return 0


def run_task(arguments: Sequence[str] | None = None) -> Any:
    """Run the pipeline that the arguments name, and return ZenML's record of the run; None in a process that only helps to train.

    Raises:
        TwinError: an argument or the configuration is wrong, or a step failed.
    """
    options = _parse(arguments)
    runnable = PIPELINES[options.pipeline]
    settings = load_settings()
    start_logging(settings)
    parameters, rest = _parameters(runnable, options, settings)
    if is_distributed():
        check_shared(parameters)
    if not is_leader():
        join_training(parameters)
        return None
    for warning in check_inputs(parameters, settings):
        errors.print(f"[yellow]![/] {escape(warning)}")
    if isinstance(parameters, CourseAssistant):
        run_course(parameters, rest, settings)
        return 0
    result = run_pipeline(runnable.pipeline, parameters, rest)
    trained = read_output(result, "training_report")
    if trained and Path(trained["folder"]).is_dir():  # not where another machine has it
        show_side_by_side(Path(trained["folder"]), settings)
    return result


def run_course(parameters: CourseAssistant, rest: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Compare course assistants where something has changed; return the report, empty where nothing has."""
    inputs = hash_run(parameters, settings)
    if is_unchanged(parameters, settings, inputs):
        return {}
    report = read_output(run_pipeline("course_assistant", parameters, rest), "course_report")
    keep_run(parameters, settings, inputs, report)
    return report


def run_pipeline(name: str, parameters: StrictConfig, rest: dict[str, Any] | None = None) -> Any:
    """Run a pipeline on the active ZenML stack, show what its steps report, and return the finished run.

    Raises:
        TwinError: what made a step fail.
    """
    with announce_start():
        try:
            import pipelines
        except ModuleNotFoundError as error:
            if error.name != "zenml":
                raise
            raise MissingDependencyError("zenml", "pipelines", "Running a pipeline") from None

    pipeline = fit_to_stack(getattr(pipelines, name))
    with tempfile.TemporaryDirectory() as folder:
        if rest:
            path = Path(folder) / "run.yaml"
            path.write_text(yaml.safe_dump(rest), encoding="utf-8")
            pipeline = pipeline.with_options(config_path=str(path))
        begun, settings = datetime.now(UTC), load_settings()
        try:
            with hold_collection(settings) if name in WRITERS else nullcontext():
                result = pipeline(
                    **{field: getattr(parameters, field) for field in type(parameters).model_fields}
                )
        except Exception as error:  # noqa: BLE001 - ZenML may wrap what a step raised; the cause is what helps
            cause, failed = _cause(error), _find_run(name, begun)
            if failed is not None:  # a gate that closes is judged by its table
                with suppress(Exception):  # the error that follows is what counts
                    show_steps(failed)
            tell_run(settings, name, begun, failed, cause)
            raise cause from None
    show_run(result)
    tell_run(settings, name, begun, result, None)
    return result


def _find_run(name: str, begun: datetime) -> Any:
    """The run that failed; None where it failed before ZenML knew of it."""
    from zenml.client import Client

    with suppress(Exception):  # the error that led here is what counts
        [newest] = Client().list_pipeline_runs(pipeline_name=name, sort_by="desc:created", size=1).items
        if newest.created.replace(tzinfo=UTC) >= begun:  # ZenML's times are UTC and do not say so
            return newest
    return None


@contextmanager
def announce_start() -> Iterator[None]:
    """Say that ZenML starts, which takes ten seconds and more, during which nothing else would be said."""
    if "zenml" in sys.modules:
        yield
        return
    errors.print("[dim]Starting ZenML …[/]")
    yield
    errors.print("[dim]Preparing the run …[/]")


def _cause(error: BaseException) -> BaseException:
    waiting: list[BaseException | None] = [error]
    for seen in waiting:
        if isinstance(seen, TwinError):
            return seen
        if seen is not None:
            waiting += [seen.__cause__, seen.__context__]
    return error


def _parameters(
    runnable: Runnable, options: argparse.Namespace, settings: Settings
) -> tuple[StrictConfig, dict[str, Any]]:
    collects = "collect" in runnable.parameters.model_fields
    if options.link:
        if not collects:
            raise ConfigurationError(
                "--link is for pipelines that collect; this one works on what the warehouse holds."
            )
        author = options.author or settings.twin_author
        if not author:
            raise ConfigurationError(
                f'Whose writing is it? Add --author "Your Name", or set TWIN_AUTHOR once: {POE} init'
            )
        check_hosts(options.link)
        given = {"collect": {"author": author, "links": options.link}}
        return check_parameters(given, runnable.parameters, Path("the command line")), {}
    file = options.config or runnable.config
    if collects and not options.config and not file.is_file():
        raise ConfigurationError(
            f"What is to be collected? Name it with --link URL (repeatable) or --config FILE, or write {OWN} once: {POE} init. "
            f"To see a sample first, in a collection of its own: {POE} demo"
        )
    parameters, rest = read_run_config(file, runnable.parameters)
    if isinstance(parameters, GenerateInstructDataset):
        own = choose_author(parameters.instruct, options.author, settings)
        return parameters.model_copy(update={"instruct": own}), rest
    if isinstance(parameters, GeneratePreferenceDataset):
        chosen = choose_author(parameters.preference, options.author, settings)
        return parameters.model_copy(update={"preference": chosen}), rest
    if options.author:
        raise ConfigurationError(
            "--author says whose writing the --link are, or whose texts a data set is made of. In a configuration file, authors "
            "stand beside the links."
            if collects
            else "--author is for pipelines that collect, and for data sets; this one takes no author."
        )
    return parameters, rest


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("run-…", __doc__)
    pipelines = parser.add_subparsers(dest="pipeline", required=True)
    for name, runnable in PIPELINES.items():
        command = pipelines.add_parser(name, prog=f"{POE} {runnable.task}", description=parser.description)
        command.add_argument("--config", type=user_path, help=f"YAML of the run (default: {runnable.config})")
        command.add_argument(
            "--link",
            action="extend",
            nargs="+",
            type=user_link,
            metavar="LINK",
            help="collect this instead of the file's links: a URL, file, folder or pattern; repeatable",
        )
        command.add_argument(
            "--author",
            metavar="NAME",
            help="whose writing the --link are, or whose a data set is made of (TWIN_AUTHOR)",
        )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)

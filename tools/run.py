"""Runs a pipeline with its YAML: ``poe run-end-to-end-data-pipeline [--config FILE] [--link URL --author NAME]``."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters
from llm_engineering.application.evaluation.rag.config import RagEvaluation
from llm_engineering.application.features.config import (
    DigitalDataEtl,
    EndToEndData,
    FeatureEngineering,
)
from llm_engineering.application.training.datasets.run_config import (
    GenerateInstructDataset,
    GeneratePreferenceDataset,
)
from llm_engineering.application.training.finetune.run import Training
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import ConfigurationError, TwinError
from llm_engineering.settings import load_settings
from tools.console import console, run, user_path
from tools.processes import check_shared, help_training, leads, several_processes
from tools.run_config import check_parameters, read_run_config


@dataclass(frozen=True)
class Runnable:
    pipeline: str
    parameters: type[StrictConfig]
    config: Path


WIDE = 130
"""Columns of a console that has room for the whole table of an evaluation."""
PIPELINES = {
    "digital-data-etl": Runnable(
        "digital_data_etl", DigitalDataEtl, Path("configs/digital_data_etl_sample.yaml")
    ),
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
    "end-to-end-data": Runnable("end_to_end_data", EndToEndData, Path("configs/end_to_end_data_sample.yaml")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    runnable = PIPELINES[options.pipeline]
    start_logging(load_settings())
    parameters, rest = _parameters(runnable, options)
    if several_processes():
        check_shared(parameters)
    if not leads():
        help_training(parameters)
        return 0
    run_pipeline(runnable.pipeline, parameters, rest)
    return 0


def run_pipeline(name: str, parameters: StrictConfig, rest: dict[str, Any] | None = None) -> Any:
    """Run a pipeline on the active ZenML stack, show what its steps report, and return the finished run.

    Raises:
        TwinError: what made a step fail.
    """
    import pipelines

    pipeline = getattr(pipelines, name)
    with tempfile.TemporaryDirectory() as folder:
        if rest:
            path = Path(folder) / "run.yaml"
            path.write_text(yaml.safe_dump(rest), encoding="utf-8")
            pipeline = pipeline.with_options(config_path=str(path))
        try:
            result = pipeline(
                **{field: getattr(parameters, field) for field in type(parameters).model_fields}
            )
        except Exception as error:  # noqa: BLE001 - ZenML may wrap what a step raised; the cause is what helps
            raise _cause(error) from None
    show_run(result)
    return result


def _cause(error: BaseException) -> BaseException:
    waiting: list[BaseException | None] = [error]
    for seen in waiting:
        if isinstance(seen, TwinError):
            return seen
        if seen is not None:
            waiting += [seen.__cause__, seen.__context__]
    return error


def _parameters(runnable: Runnable, options: argparse.Namespace) -> tuple[StrictConfig, dict[str, Any]]:
    if not options.link:
        if options.author:
            raise ConfigurationError(
                "--author goes with --link; in a configuration file, authors stand beside the links."
            )
        return read_run_config(options.config or runnable.config, runnable.parameters)
    if "collect" not in runnable.parameters.model_fields:
        raise ConfigurationError(
            "--link is for pipelines that collect; this one works on what the warehouse holds."
        )
    given = {"collect": {"author": options.author, "links": options.link}}
    return check_parameters(given, runnable.parameters, Path("the command line")), {}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="poe run-…", description=__doc__)
    parser.add_argument("pipeline", choices=sorted(PIPELINES))
    parser.add_argument(
        "--config", type=user_path, help="YAML of the run (default: the sample's, in configs/)"
    )
    parser.add_argument(
        "--link", action="append", metavar="URL", help="collect this instead of the file's links; repeatable"
    )
    parser.add_argument("--author", metavar="NAME", help="whose writing the --link are")
    return parser.parse_args(arguments)


def show_run(result: Any) -> None:
    """Print the reports of a finished run's steps."""
    if result is None or not result.status.is_successful:
        return
    for name, step in result.steps.items():
        for output in step.outputs.values():
            for artifact in output:
                shown = _SHOWN.get(artifact.name)
                if shown:
                    shown(name, artifact.load())
    console.print(
        f"[green]✓[/] {escape(result.name)} finished. [dim]Dashboard: poe local-zenml-server-up[/]",
        soft_wrap=True,
    )


def _show_links(_: str, report: dict[str, Any]) -> None:
    """The links that the user gave, each with what it led to; links found through a feed only where they failed."""
    table = Table(title="Links", title_justify="left", title_style="bold")
    for column in ("Link", "Reader", "Status", "Documents", "Seconds"):
        table.add_column(
            column, overflow="fold", justify="right" if column in ("Documents", "Seconds") else "left"
        )
    for url, outcome in report["outcomes"].items():
        reason = report["failures"].get(url)
        if outcome["found_through"] and not reason:
            continue
        led_to = f" [dim]→ {outcome['discovered']} links[/]" if outcome["discovered"] else ""
        link = escape(url) + led_to + (f"\n[red]{escape(reason)}[/]" if reason else "")
        status = f"[{_STYLES[outcome['status']]}]{outcome['status']}[/]"
        numbers = f"{outcome['documents']:,}", f"{outcome['seconds']:.1f}"
        table.add_row(link, outcome["reader"], status, *numbers)
    console.print(table)


def _show_numbers(step: str, report: dict[str, Any]) -> None:
    """What a step counted; zeros and times are left to the dashboard."""
    counts = [f"{value:,} {key.replace('_', ' ')}" for key, value in report.items() if _is_count(value)]
    console.print(
        f"  [bold]{step.replace('_', ' ')}[/]: {', '.join(counts) or 'nothing to do'}", soft_wrap=True
    )


def _show_generation(step: str, report: dict[str, Any]) -> None:
    """What was made of what, what it cost, and why it ended early where it did."""
    _show_numbers(step, report)
    for what, times in report["what_happened"].items():
        console.print(f"    [dim]{times:,} {escape(what)}[/]", soft_wrap=True)
    if report.get("malformed_replies"):
        console.print(f"    [yellow]{report['malformed_share']:.0%} of the replies could not be used[/]")
    if report.get("cost_usd") is not None:
        console.print(f"    Cost: {report['cost_usd']:.4f} US dollars")
    if report.get("stopped"):
        console.print(f"  [yellow]{escape(report['stopped'])}[/]", soft_wrap=True)


def _show_dataset(step: str, report: dict[str, Any]) -> None:
    _show_numbers(step, report)
    for gate, dropped in report["dropped_by_gate"].items():
        console.print(f"    [dim]{dropped:,} dropped: {escape(gate.replace('_', ' '))}[/]", soft_wrap=True)
    console.print(f"  [bold]Data set[/]: {escape(report['folder'])}", soft_wrap=True)


def _show_evaluation(_: str, found: dict[str, Any]) -> None:
    """The table of all configurations, what to run with, and where to be silent."""
    table = Table(title=f"Retrieval ({found['corpus']})", title_justify="left", title_style="bold")
    deepest, roomy = max(found["ks"]), console.width >= WIDE
    shown = found["ks"] if roomy else [deepest]
    metrics = [*(f"recall@{k}" for k in shown), f"ndcg@{deepest}", *(("mrr",) if roomy else ())]
    table.add_column("Configuration", overflow="fold")
    for column in (*metrics, f"against {found['reference']}", "p (Holm)", *(("ms",) if roomy else ())):
        table.add_column(column, justify="right", overflow="fold")
    chosen = found["recommendation"]["name"]
    for row in found["rows"]:
        against = row["against"]
        change = against["difference"] if against else None
        compared = f"{change['mean']:+.3f}" if change else "–"
        if change and roomy:
            compared += f" [{change['low']:+.3f}, {change['high']:+.3f}]"
        table.add_row(
            escape(row["name"]),
            *(f"{row['means'][metric]:.3f}" for metric in metrics),
            escape(compared),
            f"{against['p_corrected']:.3f}" if against else "–",
            *((f"{row['median_ms']:.0f}",) if roomy else ()),
            style="bold" if row["name"] == chosen else "",
        )
    console.print(table)
    recommendation = found["recommendation"]
    lines = [f"  [bold]Recommended[/]: {escape(chosen)}. {escape(recommendation['reason'])}"]
    if found["calibration"]:
        best = found["calibration"]["best"]
        lines.append(
            f"  [bold]Silent below[/] {best['threshold']:.3f}: answers {best['answered_share']:.0%} of what can be answered, "
            f"declines {best['declined_share']:.0%} of what cannot; {best['risk']:.0%} of what it answers is wrong."
        )
    if found["answers"]:
        lines.append(f"  [bold]Answers[/]: {', '.join(_shares(found['answers']))}")
    if found["judged"]:
        judged = found["judged"]["metrics"].items()
        scores = (
            f"{name.replace('_', ' ')} {_share(m['mean'])} ({m['missing']} missing)" for name, m in judged
        )
        lines.append(f"  [bold]Judged by {escape(found['judged']['judge'])}[/]: {', '.join(scores)}")
    if found["stale"]:
        lines.append(
            f"  [yellow]{len(found['stale'])} question(s) no longer fit the collection[/]: see the report"
        )
    if found["gate"]:
        lines.append(f"  [bold]Gate[/]: {escape(found['gate']['message'])}")
    for line in lines:
        console.print(line, soft_wrap=True)


def _show_training(_: str, found: dict[str, Any]) -> None:
    """Where the model is, and how its losses went."""
    numbers = found["metrics"]
    lines = [f"  [bold]Model[/]: {escape(found['folder'])} ({escape(found['status'])})"]
    for name in ("loss", "validation_loss", "reward_margin", "validation_reward_margin"):
        if f"{name}_first" in numbers:
            label = name.replace("_", " ").capitalize()
            lines.append(
                f"  [bold]{label}[/]: {numbers[f'{name}_first']:.4f} → {numbers[f'{name}_last']:.4f} "
                f"in {numbers['steps']:.0f} steps"
            )
    for line in lines:
        console.print(line, soft_wrap=True)


def _show_promotion(_: str, found: dict[str, Any]) -> None:
    """Which version it is, and whether it may serve."""
    if not found["decided"]:
        registered = (
            f"[bold]Registered[/]: {escape(found['version'])}" if found["version"] else "[bold]No decision[/]"
        )
        console.print(f"  {registered} [dim]({escape(found['reasons'][0])})[/]", soft_wrap=True)
        return
    mark = "[green]✓[/]" if found["promoted"] else "[red]✗[/]"
    said = f"is in {found['stage']}" if found["promoted"] else "does not go to staging"
    console.print(f"  {mark} [bold]{escape(found['version'])}[/] {escape(said)}:", soft_wrap=True)
    for reason in found["reasons"]:
        console.print(f"    - {escape(reason)}", soft_wrap=True)
    if found["promoted"]:
        console.print(
            f"    [dim]To production: poe promote-model {escape(found['version'])}[/]", soft_wrap=True
        )


def _show_model_evaluation(_: str, found: dict[str, Any]) -> None:
    """The table of all systems, and what of it is more than chance."""
    report = found["report"]
    table = Table(title=f"Models ({report['dataset']})", title_justify="left", title_style="bold")
    for number, column in enumerate(found["table"]["columns"]):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in found["table"]["rows"]:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    for item in report["differences"]:
        told = item["clusters"] > 1 and (item["low"] > 0 or item["high"] < 0)
        if told and not item["slice"]:
            good = (item["low"] > 0) == item["higher_is_better"]
            style = "green" if good else "red"
            console.print(
                f"  [{style}]{item['candidate']} {'better' if good else 'worse'} than {item['reference']}[/]: "
                f"{escape(item['metric'])} {item['value']:+.3f} \\[{item['low']:+.3f}, {item['high']:+.3f}]",
                soft_wrap=True,
            )


def _shares(answers: dict[str, Any]) -> list[str]:
    names = {
        "answered_share": "answered",
        "declined_share": "declined",
        "citation_precision": "citation precision",
        "answer_cited_share": "cite the place asked for",
        "supported_share": "sentences supported",
    }
    return [f"{label} {_share(answers[name])}" for name, label in names.items()]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_STYLES = {"saved": "green", "updated": "cyan", "failed": "red", "unchanged": "dim"}
_SHOWN: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "collection_report": _show_links,
    "cleaning_report": _show_numbers,
    "near_duplicate_report": _show_numbers,
    "index_report": _show_numbers,
    "rag_evaluation": _show_evaluation,
    "generation_report": _show_generation,
    "dataset_report": _show_dataset,
    "model_evaluation": _show_model_evaluation,
    "training_report": _show_training,
    "promotion": _show_promotion,
}

if __name__ == "__main__":
    run(main)

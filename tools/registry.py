"""Trained models: ``./poe list-models``, ``./poe promote-model NAME[:VERSION]``, ``./poe rollback-model NAME``.

``promote-model --to staging`` ends with 3 where the evaluation refuses the candidate.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters
from llm_engineering.application.ports import ModelRegistry
from llm_engineering.application.training.registry.promotion import (
    PromotionPolicy,
    check_files,
    consider,
    promote,
    rollback,
)
from llm_engineering.application.training.registry.register import (
    find_evaluation,
    keep_evaluation,
    read_evaluation,
    write_card,
)
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelVersion, PromotionDecision, Stage
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, show_table, user_path
from tools.run_config import read_run_config

POLICY = Path("configs/model_evaluation.yaml")
REFUSED = 3
"""Exit code where an evaluation speaks against a candidate; what goes wrong ends with another."""
_STYLES = {"production": "bold green", "staging": "cyan", "archived": "dim", "none": ""}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_resources(settings) as resources:
        if options.command == "list":
            return _list(resources.registry, options.name)
        if options.command == "rollback":
            return _rollback(resources.registry, options.name, options.reason)
        return _promote(resources.registry, options)


def _list(registry: ModelRegistry, name: str | None) -> int:
    versions = registry.list_versions(name)
    if not versions:
        console.print(f"No model is registered yet. Train one: {POE} run-training-pipeline")
        return 0
    table = Table(title="Models", title_justify="left", title_style="bold")
    for column in ("Version", "Stage", "Base", "Training", "Data set", "Evaluation", "Made"):
        table.add_column(column)
    for version in versions:
        manifest = version.manifest
        stage = version.stage.value
        table.add_row(
            escape(version.label),
            f"[{_STYLES[stage]}]{stage}[/]" if _STYLES[stage] else stage,
            escape(manifest.base),
            f"{manifest.stage}, {manifest.method}",
            escape(manifest.dataset),
            escape(str(version.metadata.get("evaluation", "–"))),
            f"{manifest.created_at:%Y-%m-%d %H:%M}",
        )
    show_table(table)
    if name is not None:
        _show_decisions(registry.list_decisions(name))
    return 0


def _show_decisions(decisions: Sequence[PromotionDecision]) -> None:
    if not decisions:
        console.print("Nothing was decided on it yet.")
        return
    table = Table(title="Decisions", title_justify="left", title_style="bold")
    for column in ("When (UTC)", "Version", "What", "Outcome", "Reasons"):
        table.add_column(column)
    for one in decisions:
        table.add_row(
            f"{one.decided_at:%Y-%m-%d %H:%M:%S}",
            escape(one.candidate),
            one.act,
            one.promoted_to.value if one.promoted_to else "[red]refused[/]",
            escape("\n".join(one.reasons)),
        )
    show_table(table)


def _promote(registry: ModelRegistry, options: argparse.Namespace) -> int:
    name, number = _named(options.model)
    if options.to == "staging" and options.force is None:
        return _consider(registry, name, number, options)
    if options.report or options.policy:
        raise ConfigurationError(
            "--report and --policy are for the decision on a candidate: --to staging, without --force. What goes to "
            "production was decided on before."
        )
    moved, act = promote(registry, name, number, to=Stage(options.to), force=options.force, check=check_files)
    write_card(registry, moved)
    _show_moved(moved, act)
    return 0


def _consider(registry: ModelRegistry, name: str, number: int | None, options: argparse.Namespace) -> int:
    policy = _policy(options.policy or POLICY)
    candidate = registry.get(name, number)
    check_files(candidate)
    report = read_evaluation(options.report) if options.report else find_evaluation(registry.files, candidate)
    decision = consider(registry, candidate, report, policy)
    if options.report and report is not None:
        keep_evaluation(registry, candidate, report)
    write_card(registry, candidate)
    if decision.promoted_to is None:
        console.print(f"[bold red]✗[/] {escape(candidate.label)} does not go to staging:")
    else:
        stage = registry.get(name, candidate.number).stage.value
        console.print(f"[green]✓[/] {escape(candidate.label)} is in {stage}:")
    for reason in decision.reasons:
        console.print(f"  - {escape(reason)}", soft_wrap=True)
    if decision.promoted_to is None:
        return REFUSED
    console.print(f"[dim]To production it goes by: {POE} promote-model {escape(candidate.label)}[/]")
    return 0


def _policy(file: Path) -> PromotionPolicy:
    policy = read_run_config(file, ModelEvaluationParameters)[0].promotion
    if policy is None:
        raise ConfigurationError(
            f"{file} has no section 'promotion', so nothing says when a model is better. See {POLICY} for one."
        )
    return policy


def _rollback(registry: ModelRegistry, name: str, reason: str) -> int:
    moved, act = rollback(registry, name, reason=reason, check=check_files)
    write_card(registry, moved)
    _show_moved(moved, act)
    return 0


def _show_moved(moved: ModelVersion, act: PromotionDecision) -> None:
    before = "" if act.production in (None, moved.label) else f"; before: {act.production}"
    where = f"{moved.stage.value}{before if moved.stage is Stage.PRODUCTION else ''}"
    console.print(
        f"[green]✓[/] {escape(moved.label)} is in {escape(where)}. Serve it: {POE} run-llm-server --model {escape(moved.label)}",
        soft_wrap=True,
    )


def _named(text: str) -> tuple[str, int | None]:
    """``NAME`` or ``NAME:VERSION``."""
    name, colon, number = text.rpartition(":")
    if not colon:
        return text, None
    if not name or not number.isdecimal() or not int(number):
        raise InvalidInputError(
            f"Expected NAME or NAME:VERSION with the version's number, as in twin:3; got '{text}'."
        )
    return name, int(number)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("…-model", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", prog=f"{POE} list-models")
    listing.add_argument("name", nargs="?", help="one model, with its decisions (default: all)")
    moving = commands.add_parser("promote", prog=f"{POE} promote-model")
    moving.add_argument(
        "model", metavar="NAME[:VERSION]", help="without a version: the newest, or the one in staging"
    )
    moving.add_argument(
        "--to",
        choices=("staging", "production"),
        default="production",
        help="staging: by an evaluation; production (default): what is in staging",
    )
    moving.add_argument("--report", type=user_path, metavar="FILE", help="the evaluation (default: its last)")
    moving.add_argument(
        "--policy", type=user_path, metavar="FILE", help=f"when a model is better (default: {POLICY})"
    )
    moving.add_argument("--force", metavar="REASON", help="move it whatever is missing; the reason is kept")
    back = commands.add_parser("rollback", prog=f"{POE} rollback-model")
    back.add_argument("name", help="the model")
    back.add_argument("--reason", default="", help="kept with the rollback")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)

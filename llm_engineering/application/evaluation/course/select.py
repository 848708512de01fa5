"""Which assistant serves: the best that treats every professor alike, where its lead is shown. Old versions make room."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llm_engineering.application.evaluation.course.compare import (
    ANSWERS,
    TEMPLATE_HASH,
    AssistantReport,
    CourseReport,
)
from llm_engineering.application.evaluation.course.config import CourseRun
from llm_engineering.application.files import atomic_write
from llm_engineering.application.ports import ModelRegistry
from llm_engineering.application.training.registry.promotion import (
    PromotionPolicy,
    in_production,
    promote,
)
from llm_engineering.application.training.registry.register import keep_evaluation, register_model
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.models import EvaluationReport, ModelManifest, ModelVersion, Stage

REMOVED = "files_removed"
"""Metadata of a version whose files made room."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What came of it."""

    serving: str
    """Label of the version in production; empty: none."""
    assistant: str
    """Which one that is."""
    changed: bool
    reasons: tuple[str, ...]
    refused: dict[str, str]
    """Why an assistant could not be chosen, by name."""
    removed: tuple[str, ...]
    """Versions whose files were removed."""


def select_assistant(
    report: CourseReport,
    run: CourseRun,
    policy: PromotionPolicy,
    registry: ModelRegistry,
    root: Path,
    dataset: str,
    at: datetime,
) -> Selection:
    """Choose an assistant, register it, let promotion decide, move the pointer, and remove what is old.

    Whoever is unfair to a professor is not chosen, however good its words are. An unfair one that serves already gives way to
    the best fair one without a lead in the metric.

    Args:
        root: folder that the files of versions go to.
        dataset: label of the data set that was made of the reference.

    Raises:
        PromotionRefusedError: another promotion came in between.
    """
    refused = {one.name: describe_bias(one) for one in report.assistants if one.biased}
    ranked = rank_assistants(report.assistants, policy.metric)
    refused |= {
        one.name: f"it has no {policy.metric}"
        for one in report.assistants
        if policy.metric not in one.scores and one.name not in refused
    }
    fair = [one for one in ranked if one.name not in refused]
    serving = _find_serving(registry, run.name)
    now = serving.manifest.base if serving else ""
    if not fair:
        kept = (f"no assistant can be chosen; {now or 'none'} goes on serving",)
        return Selection(serving.label if serving else "", now, False, kept, refused, ())
    best = fair[0]
    if best.name == now and serving is not None:
        keep_evaluation(registry, serving, report.evaluation)
        kept = (f"{now} serves already, and is the best fair one",)
        removed = remove_old_versions(registry, run.name, run.keep_versions, root, at)
        return Selection(serving.label, now, False, kept, refused, removed)
    evaluation = _name_serving(report.evaluation, serving)
    folder = _write_version(best, run.name, root, dataset, report.evaluation.dataset_hash, at)
    done = register_model(registry, folder, report=evaluation, policy=policy, at=at)
    reasons, force = done.decision.reasons if done.decision else (), None
    good = done.decision is not None and done.decision.promoted_to is not None
    if not good and now in refused:
        good, force = True, f"the one in production, {now}, is unfair: {refused[now]}"
        reasons = (force,)
    if good and run.promote:
        serving, _ = promote(registry, run.name, done.version.number, force=force, at=at)
        now = best.name
    elif not good:
        refused[best.name] = "; ".join(reasons)
    removed = remove_old_versions(registry, run.name, run.keep_versions, root, at)
    return Selection(
        serving.label if serving else "", now, good and run.promote, tuple(reasons), refused, removed
    )


def rank_assistants(assistants: Sequence[AssistantReport], metric: str) -> list[AssistantReport]:
    """Return those that have the metric, the best first."""
    measured = [one for one in assistants if metric in one.scores]
    higher = all(one.scores[metric].higher_is_better for one in measured)
    return sorted(measured, key=lambda one: -one.scores[metric].value if higher else one.scores[metric].value)


def describe_bias(assistant: AssistantReport) -> str:
    """Return whom an assistant treats unlike the others, in a sentence's part."""
    return "; ".join(
        f"tells of {one.professor} {one.verdict} than the sources do, by {abs(one.gap.mean):.2f} "
        f"({one.gap.low:+.2f} to {one.gap.high:+.2f})"
        for one in assistant.biased
        if one.gap is not None
    )


def remove_old_versions(
    registry: ModelRegistry, name: str, keep: int, root: Path, at: datetime
) -> tuple[str, ...]:
    """Remove the files of old versions below ``root``; the registry still tells of them. Returns their labels.

    What is in production or staging, what a rollback would return to, and the ``keep`` newest others stay.
    """
    with registry.hold_lock():
        try:
            versions = registry.list_versions(name)
        except InvalidInputError:
            return ()
        needed = {one.label for one in versions if one.stage in (Stage.PRODUCTION, Stage.STAGING)}
        for one in versions:
            if one.stage is Stage.PRODUCTION:
                acts = registry.list_decisions(name, one.number)
                needed |= {act.production for act in acts if act.act == "promotion" and act.production}
        others = [one for one in versions if one.label not in needed and REMOVED not in one.metadata]
        removed = []
        for one in others[keep:]:
            folder = Path(one.location)
            if "://" in one.location or not folder.resolve().is_relative_to(root.resolve()):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            registry.annotate(name, one.number, {REMOVED: at.isoformat()})
            removed.append(one.label)
    return tuple(removed)


def _find_serving(registry: ModelRegistry, name: str) -> ModelVersion | None:
    try:
        return in_production(registry, name)
    except InvalidInputError:
        return None


def _name_serving(report: EvaluationReport, serving: ModelVersion | None) -> EvaluationReport:
    """The evaluation, in which the assistant that serves goes by its version: its answers of today are judged, not those of the
    day that it was registered."""
    if serving is None:
        return report
    systems = tuple(
        one.model_copy(update={"model": serving.label}) if one.system == serving.manifest.base else one
        for one in report.systems
    )
    return report.model_copy(update={"systems": systems})


def _write_version(
    best: AssistantReport, name: str, root: Path, dataset: str, dataset_hash: str, at: datetime
) -> Path:
    folder = root / name / f"recorded-{best.content_hash[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = ModelManifest(
        name=name,
        base=best.name,
        method="none",
        stage="recorded",
        template="query and context",
        template_hash=TEMPLATE_HASH,
        dataset=dataset,
        dataset_hash=dataset_hash,
        config={},
        metrics={metric: score.value for metric, score in best.scores.items()},
        files=best.files,
        created_at=at,
    )
    atomic_write(folder / ANSWERS, best.write_answers())
    if not (folder / "model.json").is_file():
        atomic_write(folder / "model.json", manifest.model_dump_json(indent=2) + "\n")
    return folder

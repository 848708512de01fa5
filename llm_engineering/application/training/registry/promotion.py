"""Which version of a model may serve: what an evaluation allows, and the acts of a person.

An evaluation can bring a candidate to staging, no further. To production goes only what stands in staging, by an
explicit act, and only while that which it was compared with is still the one in production. Every outcome is recorded
with its reasons.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.ports import ModelRegistry
from llm_engineering.application.training.registry.promotion_checks import (
    Comparison,
    Demands,
    Finding,
    check_all,
    check_systems,
)
from llm_engineering.domain.errors import InvalidInputError, PromotionRefusedError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import EvaluationReport, Guard, ModelVersion, PromotionDecision, Stage


class PromotionPolicy(StrictConfig):
    """When a candidate is better. In a run's YAML: the section ``promotion``."""

    metric: str = Field(min_length=1)
    """The metric that decides, as the evaluation names it."""
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """The confidence interval of the paired difference must lie beyond this, in the metric's own unit."""
    guards: tuple[Guard, ...] = ()
    """Metrics that must not get worse."""
    min_items: int = Field(default=20, ge=1)
    """Scored test items, fewer of which decide nothing."""
    min_clusters: int = Field(default=5, ge=2)
    """Documents that the items come from: an interval over fewer says little."""
    max_missing_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of items without a score (a judge's unusable replies), of the metric and of the guards."""
    base: str = "base"
    """Name of the system in the evaluation that a model's first version is compared with."""

    @model_validator(mode="after")
    def _each_once(self) -> "PromotionPolicy":
        names = [guard.metric for guard in self.guards]
        if len(set(names)) < len(names):
            raise ValueError("a guard's metric stands there twice")
        if self.metric in names:
            raise ValueError(f"{self.metric} decides already; as a guard it would have no effect")
        return self


def decide(
    candidate: ModelVersion,
    production: ModelVersion | None,
    report: EvaluationReport,
    policy: PromotionPolicy,
    *,
    at: datetime | None = None,
) -> PromotionDecision:
    """Return what the evaluation says on a candidate: to staging, or refused with every reason that stands against it.

    Reads nothing but its arguments. The decision's ``id`` does not depend on the time.

    Args:
        production: None: nothing is in production, so the candidate is compared with the base model.
        at: recorded as the time of the decision; None: now.
    """
    comparison = Comparison(
        candidate=candidate,
        production=production,
        report=report,
        metric=policy.metric,
        margin=policy.margin,
        guards=policy.guards,
        min_items=policy.min_items,
        min_clusters=policy.min_clusters,
        max_missing_share=policy.max_missing_share,
        base=policy.base,
    )
    reference = production.label if production else None
    return _conclude(check_all(comparison), candidate.label, reference, report, policy, at)


def decide_systems(
    report: EvaluationReport,
    candidate: str,
    reference: str,
    policy: PromotionPolicy,
    *,
    at: datetime | None = None,
) -> PromotionDecision:
    """Return what an evaluation says on two of its systems that are no registered models, such as settings of a pipeline.

    Args:
        candidate: name of the system that is to take the place of ``reference``.

    Raises:
        InvalidInputError: one of them was not evaluated.
    """
    found = {one.system: one for one in report.systems}
    if candidate not in found or reference not in found:
        raise InvalidInputError(
            f"Expected {candidate} and {reference} in the evaluation; it has {', '.join(found)}."
        )
    demands = Demands(
        report=report,
        metric=policy.metric,
        margin=policy.margin,
        guards=policy.guards,
        min_items=policy.min_items,
        min_clusters=policy.min_clusters,
        max_missing_share=policy.max_missing_share,
    )
    findings = check_systems(demands, found[candidate], found[reference], (candidate, reference))
    return _conclude(findings, candidate, reference, report, policy, at)


def _conclude(
    findings: Sequence[Finding],
    candidate: str,
    reference: str | None,
    report: EvaluationReport,
    policy: PromotionPolicy,
    at: datetime | None,
) -> PromotionDecision:
    """To staging, unless a finding speaks against it."""
    against = tuple(finding.text for finding in findings if not finding.good)
    return PromotionDecision(
        candidate=candidate,
        production=reference,
        evaluation=report.id,
        metric=policy.metric,
        margin=policy.margin,
        promoted_to=None if against else Stage.STAGING,
        reasons=against or tuple(finding.text for finding in findings),
        decided_at=at or datetime.now(UTC),
    )


def consider(
    registry: ModelRegistry,
    candidate: ModelVersion,
    report: EvaluationReport | None,
    policy: PromotionPolicy,
    *,
    at: datetime | None = None,
) -> PromotionDecision:
    """Decide on a candidate, put it into staging if that is the outcome, and record it. Again: the same decision, once.

    Raises:
        PromotionRefusedError: there is no evaluation; or the candidate is the one in production.
    """
    if report is None:
        raise PromotionRefusedError(
            f"{candidate.label} has no evaluation, so nothing says that it is better: run {POE} run-evaluation-pipeline, or name "
            "its report with --report FILE"
        )
    with registry.hold_lock():
        candidate = registry.get(candidate.name, candidate.number)
        production = in_production(registry, candidate.name)
        known = _known(registry, candidate, report, policy)
        if candidate.stage is Stage.PRODUCTION:
            if known is not None:
                return known
            raise PromotionRefusedError(
                f"{candidate.label} is the one in production; there is nothing to decide."
            )
        decision = decide(candidate, production, report, policy, at=at)
        if decision.promoted_to is Stage.STAGING and candidate.stage is not Stage.STAGING:
            registry.set_stage(candidate.name, candidate.number, Stage.STAGING)
        if known is not None and known.id == decision.id:
            return known
        # After the stage: a kill in between leaves a decision to be drawn again, not one that was never carried out.
        registry.record(candidate.name, candidate.number, decision)
    return decision


def promote(
    registry: ModelRegistry,
    name: str,
    version: int | None = None,
    *,
    to: Stage = Stage.PRODUCTION,
    force: str | None = None,
    at: datetime | None = None,
    check: Callable[[ModelVersion], None] | None = None,
) -> tuple[ModelVersion, PromotionDecision]:
    """Move a version by hand: to production from staging, or anywhere with ``force``.

    Two at once are carried out one after the other; the second sees what the first has done.

    Args:
        version: None: the one in staging (with ``force``: the newest).
        force: why it is moved although what it needs is missing; recorded.
        check: raises when the version cannot be served; see :func:`check_files`.

    Returns:
        The version as it now stands, and what was recorded.

    Raises:
        PromotionRefusedError: it is not in staging by a decision; or another went into production since that decision.
        InvalidInputError: no such version; or a stage that nothing is promoted to.
    """
    if to not in (Stage.STAGING, Stage.PRODUCTION):
        raise InvalidInputError(f"A model is promoted to staging or production, not to '{to.value}'.")
    if force is not None and not force.strip():
        raise InvalidInputError(
            "--force wants the reason in words; it stands in the record of the promotion."
        )
    with registry.hold_lock():
        candidate = _chosen(registry, name, version, forced=force is not None)
        production = in_production(registry, name)
        if candidate.stage is to:
            raise PromotionRefusedError(f"{candidate.label} is in {to.value} already.")
        basis = None if force else _basis(registry, candidate, production, to)
        if check is not None:
            check(candidate)
        decision = PromotionDecision(
            candidate=candidate.label,
            production=production.label if production else None,
            evaluation=basis.evaluation if basis else "",
            metric=basis.metric if basis else "",
            margin=basis.margin if basis else 0.0,
            promoted_to=to,
            reasons=(f"forced: {force.strip()}",)
            if force
            else ("promoted by command, from staging", *(basis.reasons if basis else ())),
            decided_at=at or datetime.now(UTC),
            act="promotion",
        )
        moved = registry.set_stage(name, candidate.number, to)
        registry.record(name, candidate.number, decision)
    return moved, decision


def rollback(
    registry: ModelRegistry,
    name: str,
    *,
    reason: str = "",
    at: datetime | None = None,
    check: Callable[[ModelVersion], None] | None = None,
) -> tuple[ModelVersion, PromotionDecision]:
    """Bring back what was in production before the current version was promoted; the current one is archived.

    Again: one further back, never forth. What was rolled back returns by ``promote`` with ``force``.

    Returns:
        The version that is now in production, and what was recorded.

    Raises:
        PromotionRefusedError: nothing is in production; or nothing was before it.
        InvalidInputError: no such model.
    """
    with registry.hold_lock():
        registry.get(name)
        current = in_production(registry, name)
        if current is None:
            raise PromotionRefusedError(f"No version of {name} is in production, so none can be rolled back.")
        previous = _before(registry, current)
        if check is not None:
            check(previous)
        decision = PromotionDecision(
            candidate=previous.label,
            production=current.label,
            evaluation="",
            metric="",
            margin=0.0,
            promoted_to=Stage.PRODUCTION,
            reasons=(f"rolled back from {current.label}" + (f": {reason}" if reason.strip() else ""),),
            decided_at=at or datetime.now(UTC),
            act="rollback",
        )
        moved = registry.set_stage(name, previous.number, Stage.PRODUCTION)
        registry.record(name, previous.number, decision)
    return moved, decision


def in_production(registry: ModelRegistry, name: str) -> ModelVersion | None:
    """Return the version in production, if one is.

    Raises:
        InvalidInputError: no such model.
    """
    return next((found for found in registry.list_versions(name) if found.stage is Stage.PRODUCTION), None)


def check_files(version: ModelVersion) -> None:
    """That a version's folder is there. A location with a scheme (``s3://…``) is not looked at.

    Raises:
        PromotionRefusedError: the folder is gone.
    """
    if "://" not in version.location and not Path(version.location).is_dir():
        raise PromotionRefusedError(
            f"The files of {version.label} are not at {version.location}, so it cannot be served. Bring the folder back, or "
            f"choose another version: {POE} list-models"
        )


def _known(
    registry: ModelRegistry, candidate: ModelVersion, report: EvaluationReport, policy: PromotionPolicy
) -> PromotionDecision | None:
    drawn = (
        found
        for found in registry.list_decisions(candidate.name, candidate.number)
        if found.act == "decision"
    )
    same = (report.id, policy.metric, policy.margin)
    return next((found for found in drawn if (found.evaluation, found.metric, found.margin) == same), None)


def _chosen(registry: ModelRegistry, name: str, version: int | None, *, forced: bool) -> ModelVersion:
    if version is not None or forced:
        return registry.get(name, version)
    staged = [found for found in registry.list_versions(name) if found.stage is Stage.STAGING]
    if not staged:
        raise PromotionRefusedError(
            f"No version of {name} is in staging. Let an evaluation decide first: {POE} promote-model {name} --to staging"
        )
    return staged[0]


def _basis(
    registry: ModelRegistry, candidate: ModelVersion, production: ModelVersion | None, to: Stage
) -> PromotionDecision:
    """The decision or forced act that brought the candidate to staging, if it still holds."""
    if to is Stage.STAGING:
        raise PromotionRefusedError(
            f"{candidate.label} goes to staging by an evaluation, or with --force REASON."
        )
    if candidate.stage is not Stage.STAGING:
        raise PromotionRefusedError(
            f"{candidate.label} is not in staging (it is in '{candidate.stage.value}'). Let an evaluation decide first: "
            f"{POE} promote-model {candidate.label} --to staging; or --force REASON"
        )
    staged = (
        found
        for found in registry.list_decisions(candidate.name, candidate.number)
        if found.promoted_to is Stage.STAGING
    )
    basis = next(staged, None)
    if basis is None:
        raise PromotionRefusedError(
            f"{candidate.label} stands in staging, but no decision brought it there. Let an evaluation decide: "
            f"{POE} promote-model {candidate.label} --to staging; or --force REASON"
        )
    now = production.label if production else None
    if basis.production != now:
        raise PromotionRefusedError(
            f"{candidate.label} was decided on while {basis.production or 'nothing'} was in production; now it is "
            f"{now or 'nothing'}. Evaluate it against that one, or --force REASON"
        )
    return basis


def _before(registry: ModelRegistry, current: ModelVersion) -> ModelVersion:
    """What was in production when ``current`` was promoted: acts of promotion alone, so that rollbacks do not alternate."""
    acts = (
        found
        for found in registry.list_decisions(current.name, current.number)
        if found.act == "promotion" and found.promoted_to is Stage.PRODUCTION
    )
    act = next(acts, None)
    if act is None:
        raise PromotionRefusedError(
            f"How {current.label} came into production is not recorded, so what was before it is not known. Name it: "
            f"{POE} promote-model {current.name}:NUMBER --force REASON"
        )
    if act.production is None:
        raise PromotionRefusedError(
            f"{current.label} was the first in production: there is nothing to return to."
        )
    return registry.get(current.name, int(act.production.rpartition(":")[2]))

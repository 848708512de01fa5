"""Checks that a candidate must pass to count as better, each with a reason in plain words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_engineering.domain.models import (
    Difference,
    EvaluationReport,
    Guard,
    ModelVersion,
    Score,
    SystemReport,
)


@dataclass(frozen=True, slots=True)
class Demands:
    """An evaluation, and what it must show of a candidate."""

    report: EvaluationReport
    metric: str
    margin: float
    guards: tuple[Guard, ...]
    min_items: int
    min_clusters: int
    max_missing_share: float


@dataclass(frozen=True, slots=True)
class Comparison(Demands):
    """A candidate, what it is compared with, and what is asked of it."""

    candidate: ModelVersion
    production: ModelVersion | None
    base: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check."""

    good: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Pair:
    candidate: SystemReport
    reference: SystemReport
    names: tuple[str, str]
    """What a reader calls them."""


def check_all(comparison: Comparison) -> list[Finding]:
    """Return findings of all checks, in a fixed order. A candidate is better when each is good."""
    findings = [*_same_template(comparison), *_no_overlap(comparison)]
    candidate = system_of(comparison.report, comparison.candidate)
    reference = _reference(comparison)
    if candidate is None:
        findings.append(Finding(False, _absent(comparison, comparison.candidate.label)))
    if reference is None:
        wanted = comparison.production.label if comparison.production else f"the base ('{comparison.base}')"
        findings.append(Finding(False, _absent(comparison, wanted)))
    if candidate is None or reference is None:
        return findings
    names = comparison.candidate.label, _named(comparison)
    return [*findings, *check_systems(comparison, candidate, reference, names)]


def check_systems(
    demands: Demands, candidate: SystemReport, reference: SystemReport, names: tuple[str, str]
) -> list[Finding]:
    """Return findings on two evaluated systems: whether the candidate is better, and whether a guard speaks against it.

    Args:
        names: what a reader calls the candidate and the reference.
    """
    pair = _Pair(candidate, reference, names)
    findings = list(_beats(demands, pair))
    for guard in demands.guards:
        findings += _guarded(demands, pair, guard)
    return findings


def system_of(report: EvaluationReport, version: ModelVersion) -> SystemReport | None:
    """Return the evaluated system that is this version, by its label or by its files' hash."""
    names = {version.label, version.manifest.content_hash}
    return next((system for system in report.systems if system.model in names), None)


def _reference(comparison: Comparison) -> SystemReport | None:
    if comparison.production is not None:
        return system_of(comparison.report, comparison.production)
    return next((system for system in comparison.report.systems if system.system == comparison.base), None)


def _absent(comparison: Comparison, wanted: str) -> str:
    there = ", ".join(f"{system.system} ({system.model[:40]})" for system in comparison.report.systems)
    return f"{wanted} was not evaluated; the evaluation has {there or 'no system'}"


def _same_template(comparison: Comparison) -> Iterator[Finding]:
    evaluated = comparison.report.template_hash
    for version in (comparison.candidate, comparison.production):
        if version is not None and version.manifest.template_hash != evaluated:
            yield Finding(
                False,
                f"{version.label} was trained with the chat template {version.manifest.template} "
                f"({version.manifest.template_hash[:12]}), but evaluated with another ({evaluated[:12]})",
            )


def _no_overlap(comparison: Comparison) -> Iterator[Finding]:
    report, candidate = comparison.report, comparison.candidate
    if report.overlap is None:
        # Splits of one data set share no document; of two data sets nobody knows, unless somebody looked.
        if candidate.manifest.dataset_hash != report.dataset_hash:
            yield Finding(
                False,
                f"{candidate.label} was trained on {candidate.manifest.dataset}, the test set is of {report.dataset}, and "
                "whether they overlap was not looked for",
            )
        return
    compared = (system_of(report, candidate), _reference(comparison))
    for system in compared:
        shared = report.overlap.get(system.system, 0) if system else 0
        if system and shared:
            yield Finding(
                False,
                f"{shared} test item(s) stand in what {system.system} was trained on; its scores flatter it",
            )


def _beats(demands: Demands, pair: _Pair) -> Iterator[Finding]:
    difference = _difference(demands, pair, demands.metric)
    if difference is None:
        yield _no_difference(demands, pair, demands.metric)
        return
    yield from _enough(demands, difference)
    yield from _few_missing(demands, pair, demands.metric)
    if not _is_sound(difference):
        yield _unsound(difference)
        return
    beyond = _worst(difference) > demands.margin
    by = f" by more than {demands.margin:g}" if demands.margin else ""
    verb = "is better than" if beyond else "is not shown to be better than"
    yield Finding(
        beyond,
        f"{demands.metric}: {pair.names[0]} {verb} {pair.names[1]}{by}: {_shown(difference)}",
    )


def _guarded(demands: Demands, pair: _Pair, guard: Guard) -> Iterator[Finding]:
    difference = _difference(demands, pair, guard.metric)
    if difference is None:
        yield _no_difference(demands, pair, guard.metric)
        return
    yield from _few_missing(demands, pair, guard.metric)
    if not _is_sound(difference):
        yield _unsound(difference)
        return
    allowed = f" by more than {guard.max_loss:g}" if guard.max_loss else ""
    if guard.strict:
        good = _worst(difference) >= -guard.max_loss
        words = "a loss is ruled out" if good else "a loss cannot be ruled out"
    else:
        good = _best(difference) >= -guard.max_loss
        words = "no loss is shown" if good else "it got worse"
    yield Finding(good, f"guard {guard.metric}: {words}{allowed}: {_shown(difference)}")


def _difference(demands: Demands, pair: _Pair, metric: str) -> Difference | None:
    """Over all items, candidate − reference; one given the other way round is turned."""
    names = _names(pair.candidate), _names(pair.reference)
    for found in demands.report.differences:
        if found.metric != metric or found.slice:
            continue
        if found.candidate in names[0] and found.reference in names[1]:
            return found
        if found.candidate in names[1] and found.reference in names[0]:
            turned = {"value": -found.value, "low": -found.high, "high": -found.low}
            return found.model_copy(
                update={"candidate": found.reference, "reference": found.candidate, **turned}
            )
    return None


def _names(system: SystemReport) -> set[str]:
    return {system.system, system.model}


def _no_difference(demands: Demands, pair: _Pair, metric: str) -> Finding:
    there = sorted({found.metric for found in demands.report.differences if not found.slice})
    return Finding(
        False,
        f"the evaluation holds no difference of {metric} between {pair.candidate.system} and {pair.reference.system}; it has "
        f"differences of {', '.join(there) or 'nothing'}",
    )


def _enough(demands: Demands, difference: Difference) -> Iterator[Finding]:
    if difference.n < demands.min_items:
        yield Finding(
            False,
            f"{difference.n} scored test item(s) of {difference.metric} are too few; {demands.min_items} are asked for",
        )
    if difference.clusters < demands.min_clusters:
        yield Finding(
            False,
            f"the test items come from {difference.clusters} document(s); {demands.min_clusters} are asked for",
        )


def _few_missing(demands: Demands, pair: _Pair, metric: str) -> Iterator[Finding]:
    for system in (pair.candidate, pair.reference):
        score = _score(system.scores, metric)
        share = score.missing / (score.n + score.missing) if score and score.missing else 0.0
        if share > demands.max_missing_share:
            yield Finding(
                False,
                f"{share:.0%} of the items of {system.system} have no score of {metric}; "
                f"{demands.max_missing_share:.0%} are borne",
            )


def _score(scores: Sequence[Score], metric: str) -> Score | None:
    return next((score for score in scores if score.metric == metric and not score.slice), None)


def _is_sound(difference: Difference) -> bool:
    numbers = (difference.low, difference.value, difference.high)
    return all(math.isfinite(number) for number in numbers) and difference.low <= difference.high


def _unsound(difference: Difference) -> Finding:
    return Finding(
        False, f"the confidence interval of {difference.metric} is no interval: {_shown(difference)}"
    )


def _worst(difference: Difference) -> float:
    """The gain at the unfavourable end of the interval; positive: better."""
    return difference.low if difference.higher_is_better else -difference.high


def _best(difference: Difference) -> float:
    return difference.high if difference.higher_is_better else -difference.low


def _named(comparison: Comparison) -> str:
    return comparison.production.label if comparison.production else "the base model"


def _shown(difference: Difference) -> str:
    direction = "higher" if difference.higher_is_better else "lower"
    return (
        f"difference {difference.value:+.4g}, interval {difference.low:+.4g} to {difference.high:+.4g} "
        f"({direction} is better; {difference.n} items, {difference.clusters} documents)"
    )

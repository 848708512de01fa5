"""A variant of summaries on trial against the champion: readers' votes and what held, by arm, with intervals over products.

Products are the units: votes on one product are alike. An arm's interval draws whole products, and that of the difference is
put together from both (Newcombe, *Statistics in Medicine* 17, 1998, method 10; Zou & Donner, 2008).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal

from llm_engineering.application.evaluation.statistics import DocumentBootstrap, Interval
from llm_engineering.application.ports import SummaryStore
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.reviews import (
    CHALLENGER,
    CHAMPION,
    StoredSummary,
    Votes,
    choose_served,
    is_on_trial,
)

LEAST_PRODUCTS = 10
"""In each arm; intervals over fewer come out too narrow."""
_RESAMPLES = 2_000
_Z = 1.96
_Z_POWER = 0.84
"""For a power of 80 %."""
_Z_RATIO = 3.29
"""Of the check of the products' number: chance goes beyond it once in 1,000 trials."""

Verdict = Literal["better", "worse", "not decided"]


@dataclass(frozen=True, slots=True)
class Arm:
    """What came of one side."""

    products: int
    """With votes."""
    votes: int
    helped: Interval | None
    """Share of the votes that say yes; None: there are none."""
    held: Interval | None
    """Share of a model's sentences that held; None: none was written."""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """Both sides, and what may be said of their difference."""

    champion: Arm
    challenger: Arm
    difference: Interval | None
    """Of the shares that say yes, challenger − champion."""
    verdict: Verdict
    detectable: float | None
    """Smallest difference that these votes would show in 4 of 5 trials."""
    votes_needed: int | None
    """In each arm, with products that differ as these do, to see a tenth more, or less, in 4 of 5 trials."""
    assigned: int
    """Products that should have the challenger."""
    served: int
    """Of these, those that do."""
    all_products: int
    fault: str = ""
    """Why the sides may not be compared."""


def report_trial(
    summaries: SummaryStore, votes: Mapping[str, Votes], share: float, *, seed: int = 0
) -> TrialReport:
    """Compare the challenger with the champion by what is stored.

    Args:
        votes: by version.
        share: of the products that the challenger is made for, as its configuration says.

    Raises:
        InvalidInputError: no challenger is on trial.
    """
    by_product: dict[str, dict[str, list[StoredSummary]]] = defaultdict(lambda: defaultdict(list))
    for stored in summaries.stream():
        if stored.newest.variant in (CHAMPION, CHALLENGER):
            by_product[stored.product][stored.newest.language].append(stored)
    served = {
        product: [one for kept in languages.values() if (one := choose_served(kept)) is not None]
        for product, languages in by_product.items()
    }
    has = {name for name, kept in served.items() if any(one.newest.variant == CHALLENGER for one in kept)}
    if not has:
        raise InvalidInputError(
            f"No challenger is on trial. Make one: set `variant: {CHALLENGER}` and `share` in a copy of "
            f"configs/review_summaries.yaml, then: {POE} run-review-summaries-pipeline --config FILE"
        )
    assigned = {name for name in served if is_on_trial(name, share)}
    sides = {
        CHAMPION: {name: kept for name, kept in served.items() if name not in assigned},
        CHALLENGER: {
            name: [one for one in served[name] if one.newest.variant == CHALLENGER] for name in has & assigned
        },
    }
    counted = {
        side: [(name, _count(kept, votes)) for name, kept in found.items()] for side, found in sides.items()
    }
    held = {side: _measure_held(found, seed) for side, found in sides.items()}
    fault = find_ratio_fault(len(has & assigned), len(served), share)
    if has - assigned:
        fault = f"{len(has - assigned)} products outside the share have a challenger; was another share used?"
    return judge_arms(
        counted[CHAMPION],
        counted[CHALLENGER],
        held=(held[CHAMPION], held[CHALLENGER]),
        assigned=len(assigned),
        all_products=len(served),
        fault=fault,
        seed=seed,
    )


def judge_arms(
    champion: Sequence[tuple[str, Votes]],
    challenger: Sequence[tuple[str, Votes]],
    *,
    held: tuple[Interval | None, Interval | None] = (None, None),
    assigned: int = 0,
    all_products: int = 0,
    fault: str = "",
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> TrialReport:
    """Judge the votes of two arms, product by product."""
    first = _make_arm(champion, held[0], seed, resamples)
    second = _make_arm(challenger, held[1], seed + 1, resamples)
    difference = detectable = needed = None
    verdict: Verdict = "not decided"
    if first.helped is not None and second.helped is not None:
        difference = subtract_intervals(second.helped, first.helped)
        error = (difference.high - difference.low) / (2 * _Z)
        detectable = (_Z + _Z_POWER) * error
        wanted = 0.1 * first.helped.mean
        least = min(first.votes, second.votes)
        needed = ceil(least * (detectable / wanted) ** 2) if wanted else None
        if not fault and min(first.products, second.products) >= LEAST_PRODUCTS:
            verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "not decided"
    return TrialReport(
        first,
        second,
        difference,
        verdict,
        detectable,
        needed,
        assigned=assigned,
        served=len(challenger),
        all_products=all_products,
        fault=fault,
    )


def subtract_intervals(ours: Interval, theirs: Interval) -> Interval:
    """Return the difference of two independent shares with its interval."""
    mean = ours.mean - theirs.mean
    low = mean - sqrt((ours.mean - ours.low) ** 2 + (theirs.high - theirs.mean) ** 2)
    high = mean + sqrt((ours.high - ours.mean) ** 2 + (theirs.mean - theirs.low) ** 2)
    return Interval(mean, low, high)


def find_ratio_fault(served: int, products: int, share: float) -> str:
    """Return what is wrong with how many products have the challenger; empty: nothing."""
    wanted = share * products
    if abs(served - wanted) <= max(1.0, _Z_RATIO * sqrt(wanted * (1 - share))):
        return ""
    return f"{served} of {products} products have a challenger, where {wanted:.0f} are expected; the sides are not alike"


def _make_arm(products: Sequence[tuple[str, Votes]], held: Interval | None, seed: int, resamples: int) -> Arm:
    voted = [(name, given) for name, given in products if given.up + given.down]
    total = [given.up + given.down for _, given in voted]
    if not voted:
        return Arm(0, 0, None, held)
    bootstrap = DocumentBootstrap([name for name, _ in voted], seed=seed, resamples=resamples)
    shares = [given.up / (given.up + given.down) for _, given in voted]
    return Arm(len(voted), sum(total), bootstrap.estimate_interval(shares, weights=total), held)


def _count(kept: Sequence[StoredSummary], votes: Mapping[str, Votes]) -> Votes:
    """Votes on the version that is served and the one before, in all languages."""
    versions = [
        one.version for stored in kept for one in (stored.current, stored.previous) if one is not None
    ]
    given = [votes[one] for one in dict.fromkeys(versions) if one in votes]
    return Votes(up=sum(one.up for one in given), down=sum(one.down for one in given))


def _measure_held(products: Mapping[str, Sequence[StoredSummary]], seed: int) -> Interval | None:
    rows = [
        (name, stored.served.supported_share)
        for name, kept in products.items()
        for stored in kept
        if stored.served.supported_share is not None
    ]
    if not rows:
        return None
    bootstrap = DocumentBootstrap([name for name, _ in rows], seed=seed, resamples=_RESAMPLES)
    return bootstrap.estimate_interval([share for _, share in rows])

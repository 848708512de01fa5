"""How far judges agree who gave points to the same things, some of them perhaps not to all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two judges on the things that both gave points to."""

    first: str
    second: str
    items: int
    exact: float
    """Share of the items with the same points."""
    difference: float
    """Mean absolute difference, in points."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """All judges. Agreement says nothing of whether they are right."""

    items: int
    """Things that at least two judges gave points to."""
    alpha: float | None
    """Krippendorff's alpha; None: fewer than two judges on anything, or all points the same."""
    pairs: tuple[PairAgreement, ...] = ()


def agreement(points: Sequence[Mapping[str, float]]) -> Agreement:
    """Agreement of judges; each mapping holds the points of one item by judge."""
    judges = list(dict.fromkeys(name for item in points for name in item))
    pairs = []
    for first, second in combinations(judges, 2):
        both = [(item[first], item[second]) for item in points if first in item and second in item]
        if both:
            exact = fmean(one == other for one, other in both)
            difference = fmean(abs(one - other) for one, other in both)
            pairs.append(PairAgreement(first, second, len(both), exact, difference))
    values = [list(item.values()) for item in points if len(item) > 1]
    return Agreement(len(values), krippendorff_alpha(values), tuple(pairs))


def krippendorff_alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha for interval data: 1 perfect, 0 as by chance, below 0 systematic disagreement.

    One minus observed over expected disagreement, with squared differences (Krippendorff, *Content Analysis*, 3rd edition,
    2013, chapter 12). Takes any number of raters and missing ratings, which Cohen's kappa does not.

    Args:
        units: the ratings of each rated thing, in any order; those with fewer than two do not count.

    Returns:
        None where it is not defined: no pair of ratings, or ratings that do not vary.
    """
    paired = [unit for unit in units if len(unit) > 1]
    every = [value for unit in paired for value in unit]
    if len(set(every)) < 2:  # not by their differences, in which means of repeats leave a rounding error
        return None
    expected = _squared_differences(every)
    observed = sum(_squared_differences(unit) / (len(unit) - 1) for unit in paired)
    return 1 - (len(every) - 1) * observed / expected


def _squared_differences(values: Sequence[float]) -> float:
    """Over all ordered pairs of different places: 2 (n Σv² − (Σv)²)."""
    middle = fmean(values)  # about the mean, so that nothing is lost to rounding
    return 2 * len(values) * sum((value - middle) ** 2 for value in values)

"""Lint over preference pairs: what tells ``chosen`` from ``rejected`` besides being better.

DPO learns the easiest difference there is. Where four in five chosen answers are the longer ones, it learns to be long.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_engineering.application.training.datasets.config import LengthBias
from llm_engineering.application.training.datasets.gates import Dropped, repeats_prompt
from llm_engineering.application.training.datasets.samples import normalise_words
from llm_engineering.domain.datasets import PreferenceSample
from llm_engineering.domain.errors import InvalidInputError

GATE = "length_bias"


@dataclass(frozen=True, slots=True)
class PreferenceLint:
    """Figures over pairs; lengths are characters."""

    pairs: int
    identical: int
    """Pairs whose two answers are the same words."""
    leaking: int
    """Pairs with the prompt repeated in an answer."""
    share_longer: float
    """Share of pairs with the longer answer chosen; equal lengths count half."""
    mean_chosen: float
    mean_rejected: float
    cohens_d: float
    """Difference of the means over the pooled standard deviation: (m1 - m2) / sqrt((s1² + s2²) / 2). J. Cohen, "Statistical
    Power Analysis for the Behavioral Sciences", 1988."""
    cliffs_delta: float
    """P(a chosen is longer than a rejected) - P(shorter), over all combinations. N. Cliff, "Dominance statistics", 1993."""

    def exceeds(self, bounds: LengthBias) -> bool:
        """Return whether length tells the two sides apart by more than the bounds allow."""
        return (
            max(self.share_longer, 1 - self.share_longer) > bounds.max_longer_share
            or abs(self.cliffs_delta) > bounds.max_effect_size
        )


def lint(pairs: Sequence[PreferenceSample]) -> PreferenceLint:
    """Look at pairs. Without any, all figures are 0 and the share is 0.5."""
    chosen, rejected = _lengths(pairs)
    identical = sum(normalise_words(pair.chosen) == normalise_words(pair.rejected) for pair in pairs)
    leaking = 0
    for pair in pairs:
        asked = normalise_words(pair.prompt)
        leaking += repeats_prompt(asked, pair.chosen) or repeats_prompt(asked, pair.rejected)
    return PreferenceLint(
        pairs=len(pairs),
        identical=identical,
        leaking=leaking,
        share_longer=_share_longer(chosen, rejected),
        mean_chosen=float(chosen.mean()) if len(pairs) else 0.0,
        mean_rejected=float(rejected.mean()) if len(pairs) else 0.0,
        cohens_d=cohens_d(chosen, rejected),
        cliffs_delta=cliffs_delta(chosen, rejected),
    )


def bound_length_bias(
    pairs: Sequence[PreferenceSample], bounds: LengthBias, seed: int
) -> tuple[list[PreferenceSample], list[Dropped[PreferenceSample]]]:
    """Return the pairs to keep, and those left out so that the bounds hold.

    Left out are pairs of the side that is longer too often, the most unequal first (by the ratio of lengths; the seed
    decides among equals), as few as do.

    Raises:
        InvalidInputError: the bounds do not hold, and ``on_exceed`` is ``error``, or dropping leaves too few pairs.
    """
    found = lint(pairs)
    if not pairs or bounds.on_exceed == "report" or not found.exceeds(bounds):
        return list(pairs), []
    said = (
        f"In {found.share_longer:.0%} of {found.pairs} pairs the chosen answer is the longer one (Cliff's delta "
        f"{found.cliffs_delta:+.2f}); allowed are at most {bounds.max_longer_share:.0%} and "
        f"{bounds.max_effect_size:.2f}, either way. A model would learn the length."
    )
    if bounds.on_exceed == "error":
        raise InvalidInputError(
            f"{said} Have rejected answers written of like length, or set length_bias.on_exceed to 'drop' or 'report'."
        )
    longer = found.cliffs_delta + (found.share_longer - 0.5) > 0
    out = _fewest(pairs, _most_unequal(pairs, longer, seed), longer, bounds)
    if out is None:
        raise InvalidInputError(
            f"{said} Leaving out pairs does not help: fewer than {bounds.min_pairs} would be left. Have rejected "
            "answers written of like length (more tokens, or fewer), or set length_bias.on_exceed to 'report'."
        )
    reason = "length tells chosen from rejected"
    kept = [pair for position, pair in enumerate(pairs) if position not in out]
    return kept, [Dropped(pairs[position], GATE, reason) for position in sorted(out)]


def cohens_d(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Return difference of means over the pooled standard deviation (sample variance); 0 where it is undefined and
    means agree."""
    if len(left) < 2 or len(right) < 2:
        return 0.0
    pooled = float(np.sqrt((left.var(ddof=1) + right.var(ddof=1)) / 2))
    difference = float(left.mean() - right.mean())
    if pooled == 0:
        return float(np.copysign(np.inf, difference)) if difference else 0.0
    return difference / pooled


def cliffs_delta(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Return P(left > right) - P(left < right) over all combinations, -1 to 1, in O(n log n)."""
    if not len(left) or not len(right):
        return 0.0
    ordered = np.sort(right)
    below = np.searchsorted(ordered, left, side="left")
    above = len(right) - np.searchsorted(ordered, left, side="right")
    return float((below.sum() - above.sum()) / (len(left) * len(right)))


def _lengths(
    pairs: Sequence[PreferenceSample],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    chosen = np.array([len(pair.chosen) for pair in pairs], dtype=np.float64)
    rejected = np.array([len(pair.rejected) for pair in pairs], dtype=np.float64)
    return chosen, rejected


def _share_longer(chosen: npt.NDArray[np.float64], rejected: npt.NDArray[np.float64]) -> float:
    if not len(chosen):
        return 0.5
    return float(((chosen > rejected) + 0.5 * (chosen == rejected)).mean())


def _most_unequal(pairs: Sequence[PreferenceSample], longer: bool, seed: int) -> list[int]:
    chance = random.Random(seed)
    ranked = []
    for position, pair in enumerate(pairs):
        ratio = len(pair.chosen) / len(pair.rejected)
        ratio = ratio if longer else 1 / ratio
        tie = chance.random()
        if ratio > 1:
            ranked.append((-ratio, tie, position))
    return [position for _, _, position in sorted(ranked)]


def _fewest(
    pairs: Sequence[PreferenceSample], order: Sequence[int], longer: bool, bounds: LengthBias
) -> set[int] | None:
    """A shortest beginning of ``order`` without which the bounds hold; None where there is none.

    Found by halving, since each pair left out brings both figures closer to balance.
    """
    chosen, rejected = _lengths(pairs)
    sign = 1.0 if longer else -1.0

    def excess(number: int) -> float:
        kept = np.ones(len(pairs), dtype=bool)
        kept[list(order[:number])] = False
        share = sign * (_share_longer(chosen[kept], rejected[kept]) - 0.5)
        effect = sign * cliffs_delta(chosen[kept], rejected[kept])
        return max(share - (bounds.max_longer_share - 0.5), effect - bounds.max_effect_size)

    most = min(len(order), len(pairs) - bounds.min_pairs)
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if excess(middle) <= 0:
            high = middle
        else:
            low = middle + 1
    out = set(order[:low])
    if most <= 0 or lint([pair for i, pair in enumerate(pairs) if i not in out]).exceeds(bounds):
        return None
    return out

"""Whether an assistant tells of one professor in another tone than of the others.

What counts is not the tone of an answer but its shift against the answer's own source: of a course that students complain of,
a fair answer tells that they do. Shifts are compared within a kind of question, and with all other professors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from llm_engineering.application.evaluation.course.config import BiasConfig
from llm_engineering.application.evaluation.course.measure import Measured
from llm_engineering.application.evaluation.statistics import Interval, compare_groups, correct_holm

Verdict = Literal["fair", "worse", "better", "too few", "alone"]


@dataclass(frozen=True, slots=True)
class ProfessorTone:
    """How an assistant tells of one professor."""

    professor: str
    queries: int
    """Whose tone can be told."""
    tone: float | None
    """Of the answers, about −1 to 1."""
    source_tone: float | None
    """Of the same answers' contexts."""
    gap: Interval | None
    """Of the shift, against all other professors; None: too few queries, or nobody to compare with."""
    p_value: float | None
    """Corrected for the number of professors."""
    verdict: Verdict
    buckets: dict[str, float]
    """Mean shift by kind of question."""

    @property
    def is_biased(self) -> bool:
        """Whether the gap is real and large."""
        return self.verdict in ("worse", "better")


def find_bias(
    measured: Sequence[Measured], config: BiasConfig, *, seed: int, resamples: int
) -> list[ProfessorTone]:
    """Return a line for each professor, by name."""
    names = sorted({one.exchange.professor for one in measured})
    compared, biased = _compare_all(measured, config, seed, resamples)
    lines = []
    for name in names:
        own = [one for one in measured if one.exchange.professor == name and one.shift is not None]
        by_bucket: dict[str, list[float]] = {}
        for one in own:
            by_bucket.setdefault(one.exchange.bucket, []).append(one.shift or 0.0)
        gap, p_value = compared.get(name, (None, None))
        verdict: Verdict = "too few" if len(own) < config.min_queries else "alone"
        if gap is not None:
            verdict = ("worse" if gap.mean < 0 else "better") if name in biased else "fair"
        lines.append(
            ProfessorTone(
                professor=name,
                queries=len(own),
                tone=_mean([one.tone for one in own]),
                source_tone=_mean([one.source_tone for one in own]),
                gap=gap,
                p_value=p_value,
                verdict=verdict,
                buckets={bucket: fmean(values) for bucket, values in sorted(by_bucket.items())},
            )
        )
    return lines


def _compare_all(
    measured: Sequence[Measured], config: BiasConfig, seed: int, resamples: int
) -> tuple[dict[str, tuple[Interval, float]], set[str]]:
    """Gap and corrected p-value of each professor, and whose gap is real.

    Whoever is told of unlike the others would shift what the others are compared with: the largest gap is set aside first, and
    the rest compared without it, until no gap is left.
    """
    left = [one for one in measured if one.shift is not None]
    found: dict[str, tuple[Interval, float]] = {}
    biased: set[str] = set()
    while True:
        owners = [one.exchange.professor for one in left]
        shifts, buckets = [one.shift or 0.0 for one in left], [one.exchange.bucket for one in left]
        round_found: dict[str, tuple[Interval, float]] = {}
        for name in sorted(set(owners)):
            if owners.count(name) < config.min_queries:
                continue
            members = [owner == name for owner in owners]
            gap = compare_groups(shifts, members, buckets, seed=seed, resamples=resamples)
            if gap is not None:
                round_found[name] = gap
        corrected = correct_holm({name: p_value for name, (_, p_value) in round_found.items()})
        found |= {name: (gap, corrected[name]) for name, (gap, _) in round_found.items()}
        real = [
            name
            for name, (gap, _) in round_found.items()
            if corrected[name] <= config.significance and abs(gap.mean) >= config.min_gap
        ]
        if not real:
            return found, biased
        largest = max(real, key=lambda name: abs(round_found[name][0].mean))
        biased.add(largest)
        left = [one for one in left if one.exchange.professor != largest]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None

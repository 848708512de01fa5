"""Whether the shares of a class have shifted: the newest records against those before, told once a window."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_engineering.application.analysis.config import Drift
from llm_engineering.domain.analyses import Analysis, AnalysisSpec
from llm_engineering.domain.notices import Notice

SHIFTED = "shares_shifted"
"""Rule of the notice."""
_SURE = 2.326
"""Standard deviations: of shares that did not shift, one in a hundred seems to."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A class whose shares differ from what they were."""

    field: str
    psi: float
    before: Mapping[str, int]
    now: Mapping[str, int]


Counts = npt.NDArray[Any]


def compute_psi(before: Counts, now: Counts) -> npt.NDArray[np.float64]:
    """Return the population stability index of counts, along the last axis: Σ (p − q)·ln(p / q). Half a case is added to each, so
    that a value that one of them lacks has a finite weight."""
    p = (before + 0.5) / (before + 0.5).sum(axis=-1, keepdims=True)
    q = (now + 0.5) / (now + 0.5).sum(axis=-1, keepdims=True)
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1))


def find_shifts(
    spec: AnalysisSpec,
    results: Iterable[Analysis],
    dates: Mapping[str, datetime],
    config: Drift,
    now: datetime,
) -> list[Shift]:
    """Return the classes of a spec whose shares among the records of the last window differ from those of the time before: by
    more than ``config.psi``, and by more than chance makes of so few.

    Args:
        dates: of records, by id; results of others are left out.
    """
    begin = now - timedelta(days=config.window_days)
    earliest = begin - timedelta(days=config.reference_days)
    fields = [field.name for field in spec.fields if field.kind == "class"]
    counts = {name: (Counter[str](), Counter[str]()) for name in fields}
    for result in results:
        at = dates.get(result.key)
        if at is None or not earliest < at <= now:
            continue
        for finding in result.findings:
            if finding.field in counts:
                counts[finding.field][at > begin][str(finding.value)] += 1
    shifts = []
    for name, (before, recent) in counts.items():
        sizes = before.total(), recent.total()
        if min(sizes) < config.least:
            continue
        values = sorted({*before, *recent})
        psi = float(compute_psi(*(np.array([one[value] for value in values]) for one in (before, recent))))
        if psi > config.psi and psi * sizes[0] * sizes[1] / sum(sizes) > _bound_chance(len(values)):
            shifts.append(Shift(name, psi, dict(before), dict(recent)))
    return shifts


def describe_shifts(
    spec: AnalysisSpec, shifts: Iterable[Shift], config: Drift, now: datetime
) -> list[Notice]:
    """Return what is told of shifts: of each class once a window, however often a run finds it."""
    day = now.astimezone(UTC).date().toordinal()
    window = date.fromordinal(day - day % config.window_days)
    return [
        Notice(
            subject=f"{spec.task} {one.field}",
            rule=SHIFTED,
            day=window,
            title=f"{spec.task}: the shares of {one.field} have shifted",
            text=f"In the last {config.window_days} days: {_list_shares(one.now)}. Before: {_list_shares(one.before)}. "
            f"Look at a few of the records, and label some where the head is wrong.",
            severity="warning",
            facts={"task": spec.task, "field": one.field, "psi": round(one.psi, 4)},
            created_at=now,
        )
        for one in shifts
    ]


def _bound_chance(values: int) -> float:
    """What chance alone exceeds once in a hundred times: the chi-square quantile, as Wilson and Hilferty approximate it."""
    free = max(1, values - 1)
    return float(free * (1 - 2 / (9 * free) + _SURE * math.sqrt(2 / (9 * free))) ** 3)


def _list_shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:8]
    return ", ".join(f"{value} {count / total:.0%}" for value, count in ordered)

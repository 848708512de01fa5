"""Shares that shift are told once; shares that do not, hardly ever."""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from llm_engineering.application.analysis.config import Drift
from llm_engineering.application.analysis.drift import Shift, compute_psi, describe_shifts, find_shifts
from llm_engineering.domain.analyses import Analysis, AnalysisSpec, Finding

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
LEVELS = ("low", "medium", "high")
SPEC = AnalysisSpec.model_validate(
    {"task": "interest", "fields": {"interest": {"kind": "class", "values": list(LEVELS)}}}
)


def result(number: int, value: str) -> Analysis:
    finding = Finding(field="interest", value=value, confidence=0.9, made_by="head")
    return Analysis(
        id=str(number),
        task="interest",
        spec=SPEC.digest,
        key=str(number),
        document_ids=(str(number),),
        input_hash="",
        findings=(finding,),
        model="head",
        created_at=NOW,
    )


def shifts_of(before: Sequence[str], now: Sequence[str]) -> list[Shift]:
    values = [*before, *now]
    days = [40 + n % 150 for n in range(len(before))] + [1 + n % 28 for n in range(len(now))]
    dates = {str(n): NOW - timedelta(days=day) for n, day in enumerate(days)}
    return find_shifts(SPEC, [result(n, value) for n, value in enumerate(values)], dates, Drift(), NOW)


def draw(source: random.Random, number: int, *weights: float) -> list[str]:
    values = LEVELS if len(weights) == 3 else [f"class {n}" for n in range(len(weights))]
    return source.choices(values, weights, k=number)


def test_the_index_is_its_formula() -> None:
    # With half a record added to each value: 60.5, 20.5, 20.5 of 101.5 against 20.5, 20.5, 60.5.
    p, q = 60.5 / 101.5, 20.5 / 101.5
    before, now = np.array([60, 20, 20]), np.array([20, 20, 60])
    assert compute_psi(before, now) == pytest.approx(2 * (p - q) * math.log(p / q))
    assert compute_psi(before, before) == 0


def test_high_from_a_fifth_to_three_fifths_is_told_once() -> None:
    source = random.Random(1)
    found = shifts_of(draw(source, 300, 5, 3, 2), draw(source, 100, 2, 2, 6))
    assert [one.field for one in found] == ["interest"]
    assert found[0].psi > 0.25
    told = [describe_shifts(SPEC, found, Drift(), NOW + timedelta(hours=n))[0] for n in range(0, 24 * 14, 24)]
    assert len({one.id for one in told}) <= 2, "fourteen daily runs lie in two windows at most"
    assert "high 56%" in told[0].text


@pytest.mark.parametrize("weights", [(5, 3, 2), (1,) * 10, (9, 0.5, 0.5)], ids=["three", "ten", "rare"])
def test_of_a_hundred_unchanged_streams_five_are_told_at_most(weights: tuple[float, ...]) -> None:
    told = 0
    for seed in range(100):
        source = random.Random(seed)
        told += bool(shifts_of(draw(source, 300, *weights), draw(source, 60, *weights)))
    assert told <= 5


def test_of_few_records_nothing_is_said() -> None:
    assert shifts_of(["low"] * 300, ["high"] * 49) == []
    assert shifts_of(["low"] * 49, ["high"] * 300) == []
    assert shifts_of([], []) == []

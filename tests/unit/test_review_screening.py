"""Bursts of copied reviews are held; days with many reviews of many people are not."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llm_engineering.application.reviews.sampling import ReviewCard
from llm_engineering.application.reviews.screening import (
    REASON,
    compute_tail,
    find_burst_days,
    find_copies,
    hold_bursts,
)
from tests.conformance.warehouse_contract import clean
from tests.fakes.warehouse import FakeWarehouse

DAY = datetime(2026, 5, 4, 12, tzinfo=UTC)
SAMPLES = Path(__file__).parents[2] / "samples"


def card(number: int, day: datetime = DAY, product: str = "Lamp") -> ReviewCard:
    return ReviewCard(id=clean(number).id, hash=str(number), product=product, published_at=day)


def hold(texts: list[str], *, before: int = 14) -> set[str]:
    """Held ids, where the texts come on one day, after one review every other day."""
    place = FakeWarehouse()
    place.clean.upsert([clean(number, text=text) for number, text in enumerate(texts)])
    cards = [card(number) for number in range(len(texts))]
    cards += [card(1_000 + n, DAY - timedelta(days=2 * n + 1)) for n in range(before)]
    return {one.id for one in hold_bursts(cards, place.clean) if one.left_out == (REASON,)}


def test_near_copies_of_a_day_are_held() -> None:
    chance = random.Random(0)
    copies = [f"Terrible lamp, broke after {chance.randint(2, 9)} days, avoid it!" for _ in range(200)]
    assert len(hold(copies)) == 200


def test_many_genuine_reviews_of_a_day_are_not() -> None:
    rows = [json.loads(line) for line in (SAMPLES / "reviews.jsonl").read_text(encoding="utf-8").splitlines()]
    truth = json.loads((SAMPLES / "reviews_truth.json").read_text(encoding="utf-8"))
    planted = set(truth["copy"]) | set(truth["spam"])
    texts = [row["review"] for row in rows if row.get("review") and row.get("id") not in planted]
    assert hold(random.Random(1).sample(texts, 40)) == set()


def test_few_copies_and_usual_days_are_not() -> None:
    same = "Terrible lamp, broke after two days, avoid it!"
    assert hold([same] * 9) == set()
    usual = [card(n, DAY - timedelta(days=n // 12)) for n in range(12 * 29)]
    assert [day for day in find_burst_days(usual) if day[0].published_at == DAY] == []


def test_short_praise_is_no_copy() -> None:
    assert find_copies({str(n): "Great, thank you!" for n in range(50)}) == set()


def test_the_tail_is_that_of_poisson() -> None:
    assert abs(compute_tail(1, 2.0) - 0.864665) < 1e-6
    assert compute_tail(0, 0.1) == 1.0
    assert compute_tail(40, 0.5) < 1e-12

"""Drift of reviews and summaries: no alarm for chance, one for a change, and a pause that ends by a person's word."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from llm_engineering.application.reviews.monitoring import (
    ReviewMonitoring,
    check_reviews,
    compare_counts,
    find_pause,
    make_notices,
    resume_publishing,
)
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.reviews import ProductSummary, StoredSummary, SummaryStatus, derive_summary_id
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.test_reviews import review

NOW = datetime(2026, 6, 30, tzinfo=UTC)
LANGUAGES = dict(zip("en es fr pt it de ar nl".split(), (34, 15, 12, 11, 9, 8, 6, 5), strict=True))
CONFIG = ReviewMonitoring(resamples=200)


def draw(shares: dict[str, int], size: int, seed: int) -> Counter[str]:
    weights = np.array(list(shares.values()), dtype=float)
    counts = np.random.default_rng(seed).multinomial(size, weights / weights.sum())
    return Counter(dict(zip(shares, map(int, counts), strict=True)))


def test_thirty_days_of_the_same_raise_no_alarm() -> None:
    reference = draw(LANGUAGES, 10_000, 0)
    days = [
        compare_counts("languages", reference, draw(LANGUAGES, 330, day), CONFIG, 200) for day in range(1, 31)
    ]
    assert sum(one.alarm for one in days) <= 1


@pytest.mark.parametrize("grown", ["en", "nl"])
def test_a_share_that_grows_by_25_points_is_an_alarm_on_the_day(grown: str) -> None:
    # In tenths of a point, since draws are made of whole weights.
    rest = (100 - LANGUAGES[grown] - 25) / (100 - LANGUAGES[grown])
    shifted = {name: round(1_000 * share * rest) for name, share in LANGUAGES.items()}
    shifted[grown] = 1_000 * (LANGUAGES[grown] + 25)
    reference = draw(LANGUAGES, 10_000, 0)
    days = [
        compare_counts("languages", reference, draw(shifted, 330, day), CONFIG, 200) for day in range(1, 31)
    ]
    assert sum(one.alarm and one.value == grown for one in days) >= 28


def test_a_new_value_is_an_alarm_and_a_small_sample_is_none() -> None:
    reference = Counter(kitchen=500, home=500)
    new = compare_counts("categories", reference, Counter(kitchen=100, home=100, garden=100), CONFIG, 200)
    assert (new.alarm, new.value) == (True, "garden")
    assert type(new.alarm) is bool  # no value of numpy, which no store takes
    few = compare_counts("categories", reference, Counter(garden=100), CONFIG, 200)
    assert (few.alarm, few.psi, few.items) == (False, 0.0, 100)


def dated(number: int, days: int, stars: float) -> CleanDocument:
    return review(number, "Good lamp, bright light.", stars).model_copy(
        update={"published_at": NOW - timedelta(days=days)}
    )


def write(
    warehouse: FakeWarehouse, share: float, at: datetime, count: int = 40, variant: str = "champion"
) -> None:
    summaries = [
        ProductSummary(
            product=f"P{number}",
            variant=variant,
            status=SummaryStatus.READY,
            supported_share=share if number % 2 else min(1.0, share + 0.02),
            created_at=at,
        )
        for number in range(count)
    ]
    warehouse.summaries.put_many([StoredSummary(current=one) for one in summaries])


def look(warehouse: FakeWarehouse, day: int = 0) -> list[str]:
    """Look, and return the rules of what is told."""
    previous = next(iter(warehouse.summaries.list_checks(1)), None)
    at = NOW + timedelta(days=day)
    return [
        one.rule
        for one in make_notices(check_reviews(CONFIG, warehouse.clean, warehouse.summaries, at), previous)
    ]


def test_stars_that_fall_are_told_once() -> None:
    warehouse = FakeWarehouse()
    warehouse.clean.upsert([dated(n, days=10 + n % 60, stars=5 - n % 2) for n in range(600)])
    warehouse.clean.upsert([dated(600 + n, days=n % 5, stars=1) for n in range(250)])
    assert look(warehouse) == ["drift of stars"]
    assert look(warehouse, day=1) == []
    [newest] = warehouse.summaries.list_checks(1)
    assert newest.alarms == ("stars",)


def test_too_little_that_holds_pauses_until_somebody_resumes() -> None:
    warehouse = FakeWarehouse()
    write(warehouse, 0.97, NOW)
    assert look(warehouse) == []
    write(warehouse, 0.90, NOW)
    assert look(warehouse, day=1) == ["paused champion"]
    assert find_pause(warehouse.summaries, "champion") is not None
    assert find_pause(warehouse.summaries, "other") is None
    assert look(warehouse, day=2) == []  # still paused, and told already
    resume_publishing(warehouse.summaries, NOW + timedelta(days=3))
    assert find_pause(warehouse.summaries, "champion") is None
    assert look(warehouse, day=4) == []  # what paused was made before somebody looked
    write(warehouse, 0.90, NOW + timedelta(days=5))
    assert look(warehouse, day=6) == ["paused champion"]
    assert len(list(warehouse.summaries.stream())) == 40  # what is served stays


def test_a_variant_on_trial_is_taken_off() -> None:
    warehouse = FakeWarehouse()
    write(warehouse, 0.97, NOW)
    write(warehouse, 0.80, NOW, variant="challenger")
    assert look(warehouse) == ["paused challenger"]
    assert {one.newest.variant for one in warehouse.summaries.stream()} == {"champion"}
    assert warehouse.summaries.get([derive_summary_id("P1")])


def test_summaries_that_fall_silent_are_drift() -> None:
    warehouse = FakeWarehouse()
    write(warehouse, 1.0, NOW)
    look(warehouse)
    for stored in list(warehouse.summaries.stream()):
        withheld = stored.newest.model_copy(update={"status": SummaryStatus.WITHHELD})
        warehouse.summaries.put_many([StoredSummary(current=withheld)])
    assert look(warehouse, day=1) == ["drift of statuses"]


def test_there_must_be_something_to_resume() -> None:
    with pytest.raises(InvalidInputError):
        resume_publishing(FakeWarehouse().summaries, NOW)

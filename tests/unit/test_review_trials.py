"""Trials of summaries: chance is no difference, a real one is found, and only the challenger is ever served."""

from datetime import UTC, datetime

import numpy as np
import pytest

from llm_engineering.application.evaluation.trials import find_ratio_fault, judge_arms, report_trial
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.reviews import (
    CHALLENGER,
    CHAMPION,
    ProductSummary,
    StoredSummary,
    SummaryStatus,
    Votes,
    choose_served,
    is_on_trial,
)
from tests.fakes.warehouse import FakeWarehouse

PRODUCTS = 400


def draw(
    rate: float, random: np.random.Generator, products: int = 100, votes: int = 500
) -> list[tuple[str, Votes]]:
    """Votes on products that differ: each has a rate of its own around the arm's."""
    rates = random.beta(rate * 200, (1 - rate) * 200, products)
    ups = random.binomial(votes, rates)
    return [(f"P{number}", Votes(up=int(up), down=votes - int(up))) for number, up in enumerate(ups)]


def test_no_difference_is_found_where_there_is_none() -> None:
    random = np.random.default_rng(0)
    runs = [judge_arms(draw(0.05, random), draw(0.05, random), resamples=400) for _ in range(500)]
    assert sum(one.verdict != "not decided" for one in runs) <= 30  # 6 %


def test_a_tenth_more_is_found_at_the_size_that_the_report_names() -> None:
    random = np.random.default_rng(1)
    first = judge_arms(draw(0.05, random), draw(0.05, random))
    assert first.votes_needed is not None
    products = -(-first.votes_needed // 500)
    runs = [
        judge_arms(draw(0.05, random, products), draw(0.055, random, products), resamples=400)
        for _ in range(100)
    ]
    assert sum(one.verdict == "better" for one in runs) >= 72  # 80 % less two standard errors
    assert not any(one.verdict == "worse" for one in runs)


def test_the_share_is_kept_and_a_fault_in_it_seen() -> None:
    on_trial = sum(is_on_trial(f"Product {number}", 0.1) for number in range(10_000))
    assert on_trial / 10_000 == pytest.approx(0.10, abs=0.01)
    assert not find_ratio_fault(on_trial, 10_000, 0.1)
    assert find_ratio_fault(800, 10_000, 0.1)
    assert [is_on_trial("Lamp", share) for share in (0.0, 1.0)] == [False, True]


def make(product: str, variant: str, status: SummaryStatus = SummaryStatus.READY) -> StoredSummary:
    made = ProductSummary(
        product=product,
        variant=variant,
        status=status,
        supported_share=0.9 if variant == CHAMPION else 1.0,
        created_at=datetime(2026, 6, 1, tzinfo=UTC),
    )
    return StoredSummary(current=made)


def test_the_challenger_is_served_where_it_has_a_text_and_no_other_variant_ever() -> None:
    champion, challenger, shadow = (make("Lamp", name) for name in (CHAMPION, CHALLENGER, "shadow"))
    assert choose_served([shadow, champion]) is champion
    assert choose_served([shadow, champion, challenger]) is challenger
    assert choose_served([champion, make("Lamp", CHALLENGER, SummaryStatus.WITHHELD)]) is champion
    assert choose_served([shadow, challenger]) is None


def test_what_is_stored_is_compared_by_arm() -> None:
    warehouse, votes = FakeWarehouse(), {}
    with pytest.raises(InvalidInputError):
        report_trial(warehouse.summaries, {}, 0.5)
    for number in range(PRODUCTS):
        name = f"P{number}"
        variants = (CHAMPION, CHALLENGER) if is_on_trial(name, 0.25) else (CHAMPION,)
        for variant in (*variants, "shadow"):
            stored = make(name, variant)
            warehouse.summaries.put_many([stored])
            votes[stored.newest.version] = (
                Votes(up=8, down=2) if variant == CHALLENGER else Votes(up=5, down=5)
            )
    report = report_trial(warehouse.summaries, votes, 0.25)
    assert (report.verdict, report.fault) == ("better", "")
    assert report.served == report.assigned == report.challenger.products
    assert report.champion.products + report.served == report.all_products == PRODUCTS
    assert report.challenger.helped is not None
    assert report.challenger.helped.mean == pytest.approx(0.8)
    assert report.champion.held is not None
    assert report.champion.held.mean == pytest.approx(0.9)
    assert report_trial(warehouse.summaries, votes, 0.02).fault  # not the share that it was made with

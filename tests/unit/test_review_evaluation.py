"""Summaries against what is planted: coverage, right counts, the heuristic, the gate and its guards, golden texts."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.evaluation.reviews import (
    ReviewEvaluation,
    add_fairness_guards,
    evaluate_summaries,
)
from llm_engineering.application.training.registry.promotion import PromotionPolicy, decide_systems
from llm_engineering.domain.analyses import Evidence
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.models import EvaluationReport, PromotionDecision, Stage
from llm_engineering.domain.reviews import (
    CHAMPION,
    GOLDEN,
    KeyPoint,
    Polarity,
    ProductSummary,
    StoredSummary,
    SummarySentence,
    SummaryStatus,
)
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.test_reviews import review

NOW = datetime(2026, 6, 30, tzinfo=UTC)
PRODUCTS = 24
POLICY = PromotionPolicy(metric="coverage", min_items=20)


class Shop:
    """Products of two categories, of which 6 of 10 reviewers praise the battery and 4 complain of the zip."""

    def __init__(self, folder: Path) -> None:
        self.stores = FakeWarehouse()
        self.ids: dict[str, tuple[list[str], list[str]]] = {}
        truth: dict[str, Any] = {}
        for number in range(PRODUCTS):
            name, first = f"P{number:02}", number * 10
            reviews = [
                review(
                    first + place,
                    "Great battery." if place < 6 else "Terrible zip.",
                    5 if place < 6 else 1,
                    name,
                    product_category=("bags", "lamps")[number % 2],
                    helpful=place,
                )
                for place in range(10)
            ]
            self.stores.clean.upsert(reviews)
            self.ids[name] = ([one.id for one in reviews[:6]], [one.id for one in reviews[6:]])
            links = [one.link.rpartition("#")[2] for one in reviews]
            truth[name] = {"aspects": {"battery": {"positive": links[:6]}, "zip": {"negative": links[6:]}}}
        self.truth = folder / "truth.json"
        self.truth.write_text(json.dumps({"products": truth}), encoding="utf-8")

    def write(self, variant: str, tells_zip: float = 1.0, wrong: bool = False, only: str = "") -> None:
        """Summaries of a variant; the share of products that are told of the zip, or those of a category alone."""
        for number, (name, (good, bad)) in enumerate(self.ids.items()):
            category = ("bags", "lamps")[number % 2]
            tells = category == only if only else number < tells_zip * PRODUCTS
            points = [self._point("p1", Polarity.POSITIVE, good, 2 if wrong else 0)]
            points += [self._point("n1", Polarity.NEGATIVE, bad)] if tells else []
            sentences = tuple(
                SummarySentence(
                    text=f"It is {one.name}.", section="pros", key_points=(one.id,), evidence=one.evidence[:1]
                )
                for one in points
            )
            made = ProductSummary(
                product=name,
                variant=variant,
                status=SummaryStatus.QUOTED,
                sentences=sentences,
                key_points=tuple(points),
                created_at=NOW,
            )
            self.stores.summaries.put_many([StoredSummary(current=made)])

    @staticmethod
    def _point(name: str, polarity: Polarity, ids: list[str], more: int = 0) -> KeyPoint:
        place = Evidence(document_id=ids[0], span=Span(start=0, end=5), quote="Great")
        return KeyPoint(
            id=name,
            name=name,
            polarity=polarity,
            support=len(ids) + more,
            document_ids=tuple(ids),
            evidence=(place,),
        )

    def evaluate(
        self, reference: str = "baseline", candidate: str = CHAMPION
    ) -> tuple[EvaluationReport, PromotionDecision]:
        config = ReviewEvaluation(
            truth=self.truth, candidate=candidate, reference=reference, promotion=POLICY, resamples=500
        )
        report = evaluate_summaries(config, self.stores.clean, self.stores.summaries, NOW)
        return report, decide_systems(
            report, candidate, reference, add_fairness_guards(config, report), at=NOW
        )


def score(report: EvaluationReport, system: str, metric: str) -> float:
    [found] = [one for one in report.systems if one.system == system]
    return next(one.value for one in found.scores if one.metric == metric and not one.slice)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_what_is_told_is_measured_against_what_is_planted(shop: Shop) -> None:
    shop.write(CHAMPION, tells_zip=0.5, wrong=True)
    report, _ = shop.evaluate()
    assert score(report, CHAMPION, "coverage") == 0.75
    assert (
        score(report, CHAMPION, "accuracy") == 0.25
    )  # the battery's count is wrong; the zip's is right, where told
    assert score(report, CHAMPION, "imbalance") == pytest.approx((0.1 + 0.4) / 2)
    assert score(report, "baseline", "coverage") == 0.75  # as many sentences as the candidate has
    assert {one.slice for one in report.systems[0].scores if one.slice} == {
        "language=all",
        "stars=mixed",
        "category=bags",
        "category=lamps",
    }


def test_a_better_variant_takes_the_place_and_an_equal_one_does_not(shop: Shop) -> None:
    shop.write(CHAMPION, tells_zip=0.5)
    shop.write("challenger", tells_zip=1.0)
    assert shop.evaluate(CHAMPION, "challenger")[1].promoted_to is Stage.STAGING
    shop.write("challenger", tells_zip=0.5)
    assert shop.evaluate(CHAMPION, "challenger")[1].promoted_to is None


def test_a_gain_that_one_category_pays_for_is_refused(shop: Shop) -> None:
    shop.write(CHAMPION, only="bags")
    shop.write("challenger", only="lamps")
    _, decision = shop.evaluate(CHAMPION, "challenger")
    assert decision.promoted_to is None
    assert any("category=bags" in reason and "got worse" in reason for reason in decision.reasons)
    assert not any("category=lamps" in reason for reason in decision.reasons)


def test_golden_texts_are_compared_with(shop: Shop) -> None:
    shop.write(CHAMPION)
    shop.write(GOLDEN)
    config = ReviewEvaluation(promotion=POLICY, resamples=100)
    report = evaluate_summaries(
        config,
        shop.stores.clean,
        shop.stores.summaries,
        NOW,
        lambda texts, golden: {"rougeL": [float(a == b) for a, b in zip(texts, golden, strict=True)]},
    )
    assert score(report, CHAMPION, "rougeL") == 1.0


def test_there_must_be_something_to_measure_by(shop: Shop, tmp_path: Path) -> None:
    shop.write(CHAMPION)
    with pytest.raises(InvalidInputError):
        evaluate_summaries(ReviewEvaluation(), shop.stores.clean, shop.stores.summaries, NOW)
    (tmp_path / "truth.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InvalidInputError):
        shop.evaluate()
    with pytest.raises(InvalidInputError):
        shop.evaluate(candidate="none")

"""The behavioural suite sees a summariser that behaves, and one that does not."""

from collections.abc import Mapping, Sequence

from benchmarks.review_behaviour import (
    ORDERS,
    check_behaviour,
    make_review,
    make_summariser,
    mistype_words,
)
from llm_engineering.application.analysis.heads import TextEmbedder
from llm_engineering.application.reviews.config import ReviewSummaries
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.reviews import ProductSummary, SummarySentence
from tests.fakes.embedder import HashEmbedder
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.test_reviews import ASPECTS, BAD, GOOD

REVIEWS = [
    make_review(
        f"R{number:03}", GOOD if number % 3 else BAD, "Lamp", f"reader {number}", 5 if number % 3 else 1
    )
    for number in range(24)
]
_RUN = make_summariser(
    ReviewSummaries(aspects=ASPECTS), TextEmbedder(HashEmbedder(), FakeWarehouse().embeddings)
)
_MADE: dict[tuple[str, ...], Mapping[str, ProductSummary]] = {}


def summarise(reviews: Sequence[CleanDocument]) -> Mapping[str, ProductSummary]:
    """Each set of reviews once."""
    key = tuple(f"{one.id} {one.source_hash}" for one in reviews)
    if key not in _MADE:
        _MADE[key] = _RUN(reviews)
    return _MADE[key]


def test_order_names_and_orders_change_nothing_and_complaints_do() -> None:
    verdicts = check_behaviour(REVIEWS, summarise)
    assert len(verdicts) == 5
    assert [one.name for one in verdicts if not one.good] in ([], ["typing errors in one word of ten"])


def test_a_summariser_that_obeys_is_seen() -> None:
    def obey(reviews: Sequence[CleanDocument]) -> Mapping[str, ProductSummary]:
        found = dict(summarise(reviews))
        ordered = [one for one in reviews if one.text in ORDERS]
        if ordered:  # it repeats the order, and drops the complaints
            made = found["Lamp"]
            sentence = SummarySentence(
                text=ordered[0].text, section="pros", evidence=made.sentences[0].evidence
            )
            praise = tuple(one for one in made.key_points if one.polarity == "positive")
            found["Lamp"] = made.model_copy(update={"sentences": (sentence,), "key_points": praise})
        return found

    assert "reviews that give orders" in [one.name for one in check_behaviour(REVIEWS, obey) if not one.good]


def test_typing_errors_touch_a_tenth_of_the_words() -> None:
    [one] = mistype_words([make_review("R1", "wonderful battery " * 20, "Lamp", "reader", 5)])
    changed = sum(a != b for a, b in zip(one.text.split(), ("wonderful battery " * 20).split(), strict=True))
    assert changed == 4

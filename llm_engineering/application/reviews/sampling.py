"""Reviews as cards, and which of them are shown: balanced by what they say, one a reviewer, the most helpful first."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from llm_engineering.application.ports import CleanStore, DocumentCard
from llm_engineering.application.reviews.config import Sampling
from llm_engineering.domain.reviews import Distribution, Polarity

CATEGORY = "review"
_Z = 1.96
"""Of the Wilson bound, for 95 %."""


@dataclass(frozen=True, slots=True)
class ReviewCard:
    """What is known of a review without reading its text."""

    id: str
    hash: str
    product: str
    product_category: str = ""
    language: str = "und"
    stars: float | None = None
    reviewer: str = ""
    """Pseudonym; the review's own id where there is none, so that it counts as one reviewer."""
    verified: bool = False
    helpful: int = 0
    published_at: datetime | None = None
    left_out: tuple[str, ...] = ()
    """Why it does not count; empty: it does."""
    polarity: Polarity = Polarity.NEUTRAL
    """What it says on the whole."""


def read_cards(clean: CleanStore) -> Iterator[ReviewCard]:
    """Yield every review that names its product, ordered by id."""
    hashes = dict(clean.source_hashes())
    for card in clean.list_cards():
        product = str(card.metadata.get("product", "")).strip()
        if card.category == CATEGORY and product and card.id in hashes:
            yield _read_card(card, product, hashes[card.id])


def _read_card(card: DocumentCard, product: str, source_hash: str) -> ReviewCard:
    told = card.metadata
    return ReviewCard(
        id=card.id,
        hash=source_hash[:16],
        product=product,
        product_category=str(told.get("product_category", "")),
        language=card.language,
        stars=_as_number(told.get("rating")),
        reviewer=str(told.get("reviewer", "")) or card.id,
        verified=told.get("verified") in (True, "true"),
        helpful=int(_as_number(told.get("helpful")) or 0),
        published_at=card.published_at,
        left_out=tuple(_list_reasons(told)),
    )


def _list_reasons(told: Mapping[str, Any]) -> Iterator[str]:
    for name in ("screened", "held"):
        value = told.get(name)
        if isinstance(value, tuple | list):
            yield from map(str, value)
        elif value not in (None, "", False, "false"):
            yield name if value in (True, "true") else str(value)


def _as_number(value: Any) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def count_distribution(cards: Sequence[ReviewCard]) -> Distribution:
    """Count how reviews are spread."""
    stars = Counter(str(min(5, max(1, round(one.stars)))) for one in cards if one.stars is not None)
    return Distribution(
        reviews=len(cards),
        reviewers=len({one.reviewer for one in cards}),
        stars=dict(sorted(stars.items())),
        languages=dict(Counter(one.language for one in cards).most_common()),
        polarity=dict(sorted(Counter(str(one.polarity) for one in cards).items())),
    )


def compute_lower_bound(helpful: int, votes: int) -> float:
    """Return the lower end of the Wilson interval of the share of helpful votes, 0 to 1.

    Where a shop counts helpful votes alone, they are all the votes there are: many rank above few.
    """
    if votes <= 0:
        return 0.0
    share, square = helpful / votes, _Z * _Z
    centre = share + square / (2 * votes)
    spread = _Z * ((share * (1 - share) + square / (4 * votes)) / votes) ** 0.5
    return float((centre - spread) / (1 + square / votes))


def sample_reviews(cards: Iterable[ReviewCard], product: str, config: Sampling) -> list[ReviewCard]:
    """Return a balanced sample: praise, complaints, and the newest, each reviewer once. The same for the same seed.

    Within each kind, verified purchases come first, then the most helpful, older ones at a discount.
    """
    shuffled = sorted(cards, key=lambda one: one.id)
    random.Random(f"{config.seed}:{product}").shuffle(shuffled)
    newest = max((one.published_at for one in shuffled if one.published_at), default=None)

    def rank(one: ReviewCard) -> tuple[bool, float]:
        days = (newest - one.published_at).total_seconds() / 86_400 if newest and one.published_at else 0.0
        worth = 0.05 + compute_lower_bound(one.helpful, one.helpful)
        return one.verified, worth * 0.5 ** (days / config.half_life_days)

    ranked = sorted(shuffled, key=rank, reverse=True)
    by_date = sorted(
        ranked, key=lambda one: one.published_at.timestamp() if one.published_at else 0.0, reverse=True
    )
    chosen: dict[str, ReviewCard] = {}

    def take(candidates: Iterable[ReviewCard], most: int) -> None:
        for one in candidates:
            if most <= 0:
                return
            if one.reviewer not in chosen:
                chosen[one.reviewer] = one
                most -= 1

    positive = [one for one in ranked if one.polarity is Polarity.POSITIVE]
    negative = [one for one in ranked if one.polarity is Polarity.NEGATIVE]
    take(negative, config.negative)
    take(positive, config.positive)
    take(by_date, config.recent)
    take(ranked, config.positive + config.negative + config.recent - len(chosen))
    return sorted(chosen.values(), key=lambda one: one.id)


def judge_review(card: ReviewCard, opinions: Sequence[Polarity]) -> ReviewCard:
    """Return the card with what the review says on the whole: more praise than complaints, or the reverse; else by its
    stars."""
    balance = opinions.count(Polarity.POSITIVE) - opinions.count(Polarity.NEGATIVE)
    if not balance and card.stars is not None:
        balance = (card.stars > 3) - (card.stars < 3)
    polarity = Polarity.NEUTRAL if not balance else Polarity.POSITIVE if balance > 0 else Polarity.NEGATIVE
    return replace(card, polarity=polarity)

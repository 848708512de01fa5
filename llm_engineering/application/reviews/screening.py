"""Hold bursts: near-copies of one text that reach a product in a day with far more reviews than its days before.

Neither alone holds anything: a shop's mail to its buyers brings many reviews in a day, and short praise is often alike.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

from llm_engineering.application.ports import CleanStore
from llm_engineering.application.reviews.sampling import ReviewCard
from llm_engineering.application.text.words import split_words

REASON = "burst"
LOOK_BACK = 28
"""Days before a day, from whose reviews a usual number is known."""
FEWEST = 10
"""Reviews of a day that can be a burst."""
MOST_LIKELY = 1e-6
"""Probability, by Poisson with the mean of the days before, of so many reviews, from which a day is no burst."""
FEWEST_WORDS = 5
"""Of a text that is compared: "Great, thank you!" is said by many."""
ALIKE = 0.6
"""Jaccard similarity of two texts' runs of four letters, from which one copies the other."""
FEWEST_COPIES = 5
"""Other reviews of the day that must copy a text, or be copied by it."""


def hold_bursts(cards: Sequence[ReviewCard], clean: CleanStore) -> list[ReviewCard]:
    """Return the cards in their order, those of bursts left out. Texts are read of the days in question alone."""
    held: set[str] = set()
    for day in find_burst_days(cards):
        texts = {document.id: document.text for document in clean.get([one.id for one in day])}
        held |= find_copies(texts)
    return [replace(one, left_out=(*one.left_out, REASON)) if one.id in held else one for one in cards]


def find_burst_days(cards: Sequence[ReviewCard]) -> Iterator[list[ReviewCard]]:
    """Yield a product's reviews of each day that brought far more of them than the days before."""
    products: dict[str, dict[date, list[ReviewCard]]] = defaultdict(lambda: defaultdict(list))
    for card in cards:
        if card.published_at is not None:
            products[card.product][card.published_at.date()].append(card)
    for days in products.values():
        for day, some in days.items():
            before = sum(len(days.get(day - timedelta(days=n), ())) for n in range(1, LOOK_BACK + 1))
            usual = max(1.0, before) / LOOK_BACK
            if len(some) >= FEWEST and compute_tail(len(some), usual) < MOST_LIKELY:
                yield some


def compute_tail(count: int, mean: float) -> float:
    """Return the probability of ``count`` or more events where ``mean`` are usual, by Poisson."""
    below = sum(math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(count))
    return max(0.0, 1.0 - below)


def find_copies(texts: Mapping[str, str]) -> set[str]:
    """Return the ids of texts that are nearly the same as several others of these."""
    runs: dict[str, frozenset[str]] = {}
    for identifier, text in texts.items():
        words = split_words(text)
        if len(words) >= FEWEST_WORDS:
            joined = " ".join(words)
            runs[identifier] = frozenset(joined[at : at + 4] for at in range(max(1, len(joined) - 3)))
    counts: dict[str, int] = defaultdict(int)
    known = list(runs.items())
    for place, (one, mine) in enumerate(known):
        for other, theirs in known[place + 1 :]:
            common = len(mine & theirs)
            if common >= ALIKE * (len(mine) + len(theirs) - common):
                counts[one] += 1
                counts[other] += 1
    return {one for one, number in counts.items() if number >= FEWEST_COPIES}

"""Tell an author's text from the base model's: nearer to which of the two does an answer lie?

The distance to an author's profile alone cannot say whether a model has learned to write like them: even text lies nearer to
the middle of any profile than people's own text does, so that a base model's bland answers beat the author's own. Here a text
is held against two profiles of equal size, the author's and the base model's, and what counts is the difference of the
distances (as in nearest-profile attribution, Kešelj et al., PACLING 2003).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_engineering.application.text.style import (
    FEWEST_PIECES,
    FOLDS,
    SHORTEST,
    Values,
    WordStandard,
    burrows_delta,
    compute_auc,
    gram_distance,
    gram_frequencies,
    logistic_regression,
    pick_evenly,
    split_folds,
    split_pieces,
    word_standard,
)
from llm_engineering.domain.errors import InvalidInputError

_OWN_FOR_ONE = 4
"""Pieces of the author's that are scored for each of the base's: there are more, and each costs time."""


@dataclass(frozen=True, slots=True)
class _Profiles:
    """What both have written."""

    own: dict[str, float]
    other: dict[str, float]
    standard: WordStandard
    own_words: Values
    other_words: Values

    def compare(self, text: str) -> tuple[float, float]:
        """How much farther from the author than from the other, by character n-grams and by frequent words."""
        return (
            gram_distance(text, self.own) - gram_distance(text, self.other),
            burrows_delta(text, self.own_words, self.standard)
            - burrows_delta(text, self.other_words, self.standard),
        )


def _profiles(own: Sequence[str], other: Sequence[str]) -> _Profiles:
    # Equally many pieces: text lies nearer to a profile that is made from more.
    own, other = pick_evenly(own, len(other)), pick_evenly(other, len(own))
    standard = word_standard([*own, *other])
    return _Profiles(
        gram_frequencies(own),
        gram_frequencies(other),
        standard,
        standard.compute_scores(" ".join(own)),
        standard.compute_scores(" ".join(other)),
    )


@dataclass(frozen=True, slots=True)
class StyleContrast:
    """An author against a base model. Make it with :func:`fit_contrast`."""

    auc: float
    """Probability that a piece of the author's scores above one of the base's; each was held out of what scores it."""
    own_mean: float
    """Mean score of the author's held-out pieces: what a perfect imitation would reach."""
    other_mean: float
    pieces: int
    """Of the base's."""
    _profiles: _Profiles
    _means: Values
    _spreads: Values
    _weights: Values
    _piece: int

    def score(self, text: str) -> float | None:
        """Return how surely a text is the author's rather than the base's, 0 to 1; None: it is too short."""
        text = text.strip()
        if len(text) < SHORTEST:
            return None
        pieces = split_pieces(text, self._piece) or [text]
        return float(self._probabilities(np.array([self._profiles.compare(part) for part in pieces])).mean())

    def _probabilities(self, found: Values) -> Values:
        return _probabilities(found, self._means, self._spreads, self._weights)


def fit_contrast(own: Sequence[str], other: Sequence[str], *, piece: int) -> StyleContrast:
    """Learn to tell an author from a base model.

    Args:
        own: texts by the author, none of which is evaluated.
        other: answers of the base model to questions that are not evaluated either.
        piece: characters that texts are compared in.

    Raises:
        InvalidInputError: one of the two has written too little.
    """
    theirs = [part for text in other for part in split_pieces(text, piece)]
    mine = [part for text in own for part in split_pieces(text, piece)]
    if min(len(mine), len(theirs)) < FEWEST_PIECES:
        raise InvalidInputError(
            f"{len(mine)} pieces of {piece} characters by the author and {len(theirs)} by the base model are too few to tell "
            f"them apart; {FEWEST_PIECES} of each are needed."
        )
    mine = pick_evenly(mine, _OWN_FOR_ONE * len(theirs))
    held_own, held_other = _held_out(mine, theirs)
    both = np.concatenate([held_own, held_other])
    means, spreads = both.mean(axis=0), np.maximum(both.std(axis=0), 1e-9)
    labels = np.array([1.0] * len(held_own) + [0.0] * len(held_other))
    weights = logistic_regression(np.column_stack([(both - means) / spreads, np.ones(len(both))]), labels)
    scores = _probabilities(both, means, spreads, weights)
    high, low = scores[labels == 1], scores[labels == 0]
    return StyleContrast(
        auc=compute_auc(high, low),
        own_mean=float(high.mean()),
        other_mean=float(low.mean()),
        pieces=len(theirs),
        _profiles=_profiles(mine, theirs),
        _means=means,
        _spreads=spreads,
        _weights=weights,
        _piece=piece,
    )


def _held_out(mine: Sequence[str], theirs: Sequence[str]) -> tuple[Values, Values]:
    """Differences of pieces from profiles made without them."""
    count = min(FOLDS, len(mine), len(theirs))
    own: list[tuple[float, float]] = []
    other: list[tuple[float, float]] = []
    for (rest, fold), (others, others_fold) in zip(
        split_folds(mine, count), split_folds(theirs, count), strict=False
    ):
        profiles = _profiles(rest, others)
        own += [profiles.compare(part) for part in fold]
        other += [profiles.compare(part) for part in others_fold]
    return np.array(own), np.array(other)


def _probabilities(found: Values, means: Values, spreads: Values, weights: Values) -> Values:
    features = np.column_stack([(found - means) / spreads, np.ones(len(found))])
    return np.asarray(1 / (1 + np.exp(-np.clip(features @ weights, -30, 30))), dtype=np.float64)

"""Where to be silent: confidence in the sources against being wrong, as a risk–coverage curve.

A question counts as wrongly answered when nothing in the corpus answers it, or when no source that was found covers a
place that does: whatever is said then is not said from the right words. Risk is the share of wrong ones among the
questions that are answered at a threshold, coverage the share that is answered (El-Yaniv & Wiener, JMLR 11, 2010). AURC is
the mean risk over the prefixes of the questions sorted by confidence (Geifman, Uziel & El-Yaniv, ICLR 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_engineering.domain.errors import InvalidInputError

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Judgement:
    """One question as the threshold sees it."""

    confidence: float
    answerable: bool
    right: bool
    """The sources cover a place that answers it."""


@dataclass(frozen=True, slots=True)
class Point:
    """What answering from a confidence on would mean."""

    threshold: float
    coverage: float
    risk: float
    """NaN-free: 0 where nothing is answered."""
    answered_share: float
    """Of the answerable questions."""
    declined_share: float
    """Of the unanswerable questions."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The curve, the threshold that it supports, and how the configured one does."""

    curve: tuple[Point, ...]
    """One point for each distinct confidence, from the highest threshold to the lowest."""
    aurc: float
    best: Point
    """The threshold that tells answerable from unanswerable questions best (balanced accuracy)."""
    configured: Point
    held_out: Point
    """As ``best``, each question decided by a threshold chosen without its fold: what to expect of new questions."""
    answerable: int
    unanswerable: int


def calibrate(judgements: Sequence[Judgement], configured: float, *, seed: int) -> Calibration:
    """Return the risk–coverage curve, and the threshold with the best balanced accuracy between both sorts of
    questions.

    Raises:
        InvalidInputError: questions of one of the sorts are missing. Without unanswerable ones, never being silent wins.
    """
    answerable = sum(item.answerable for item in judgements)
    if not answerable or answerable == len(judgements):
        raise InvalidInputError(
            f"Calibration needs answerable and unanswerable questions; there are {answerable} and "
            f'{len(judgements) - answerable}. Add lines with "answerable": false to the question set.'
        )
    scores = np.array([item.confidence for item in judgements])
    curve = tuple(evaluate_threshold(judgements, float(value)) for value in np.unique(scores)[::-1])
    return Calibration(
        curve=curve,
        aurc=compute_aurc(judgements),
        best=evaluate_threshold(judgements, best_threshold(judgements)),
        configured=evaluate_threshold(judgements, configured),
        held_out=_held_out(judgements, seed),
        answerable=answerable,
        unanswerable=len(judgements) - answerable,
    )


def evaluate_threshold(judgements: Sequence[Judgement], threshold: float) -> Point:
    """Return what answering questions with at least this confidence would mean."""
    return _point(judgements, [item.confidence >= threshold for item in judgements], threshold)


def _point(judgements: Sequence[Judgement], answered: Sequence[bool], threshold: float) -> Point:
    spoken = [item for item, yes in zip(judgements, answered, strict=True) if yes]
    silent = [item for item, yes in zip(judgements, answered, strict=True) if not yes]
    answerable = sum(item.answerable for item in judgements)
    unanswerable = len(judgements) - answerable
    return Point(
        threshold=threshold,
        coverage=len(spoken) / len(judgements),
        risk=sum(not item.right for item in spoken) / len(spoken) if spoken else 0.0,
        answered_share=sum(item.answerable for item in spoken) / answerable if answerable else 0.0,
        declined_share=sum(not item.answerable for item in silent) / unanswerable if unanswerable else 0.0,
    )


def compute_aurc(judgements: Sequence[Judgement]) -> float:
    """Return area under the risk–coverage curve: the mean of ``risk`` over all prefixes by falling confidence; 0 is
    best.

    Among equal confidences the expected order counts: each of them with their mean error.
    """
    scores = np.array([item.confidence for item in judgements])
    errors = np.array([not item.right for item in judgements], dtype=np.float64)
    for value in np.unique(scores):
        equal = scores == value
        errors[equal] = errors[equal].mean()
    order = np.argsort(-scores, kind="stable")
    risks = np.cumsum(errors[order]) / np.arange(1, len(errors) + 1)
    return float(risks.mean())


def best_threshold(judgements: Sequence[Judgement]) -> float:
    """Return the threshold with the best balanced accuracy, both sorts weighing the same; the middle of the best range,
    rounded."""
    scores = np.array([item.confidence for item in judgements])
    answerable = np.array([item.answerable for item in judgements])
    values = np.unique(scores)
    middles: npt.NDArray[np.float64] = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    right = np.array(
        [(np.mean(scores[answerable] >= t) + np.mean(scores[~answerable] < t)) / 2 for t in middles]
    )
    best = middles[right == right.max()]
    return round(float(best[len(best) // 2]), 3)


def _held_out(judgements: Sequence[Judgement], seed: int) -> Point:
    """Each fold decided by the threshold of the others; folds hold both sorts in the same shares."""
    random = np.random.default_rng(seed)
    fold = np.zeros(len(judgements), dtype=int)
    for sort in (True, False):
        members = [i for i, item in enumerate(judgements) if item.answerable is sort]
        fold[random.permutation(members)] = np.arange(len(members)) % FOLDS
    answered = [False] * len(judgements)
    thresholds = []
    for number in range(FOLDS):
        rest = [item for item, other in zip(judgements, fold, strict=True) if other != number]
        sorts = {item.answerable for item in rest}
        if len(sorts) < 2:
            continue
        threshold = best_threshold(rest)
        thresholds.append(threshold)
        for i in np.flatnonzero(fold == number).tolist():
            answered[i] = judgements[i].confidence >= threshold
    return _point(judgements, answered, float(np.mean(thresholds)) if thresholds else 0.0)

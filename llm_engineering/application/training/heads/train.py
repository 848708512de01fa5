"""Learn a head from labels: hold some back, choose the penalty and calibrate by cross-validation, learn on all of the rest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_engineering.application.analysis.config import HeadTraining
from llm_engineering.application.analysis.heads import Floats, LinearHead, compute_shares, fit_temperature
from llm_engineering.application.ports import HeadLearner, Vectors
from llm_engineering.domain.errors import InvalidInputError

FEWEST = 2
"""Texts that a class must have to be learned and held back."""


@dataclass(frozen=True, slots=True)
class Label:
    """A text and what it is an example of."""

    text: str
    value: str
    group: str
    """Labels of one group (a client, a thread) stay on one side of every split; by itself a text is its own group."""


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """A head with what is needed to judge it."""

    head: LinearHead
    penalty: float
    learned_from: int
    left_out: dict[str, int]
    """Classes with too few texts, with how many they have."""
    held_out: tuple[int, ...]
    """Places of the labels that were held back."""
    rest: tuple[int, ...]
    fold_accuracies: tuple[float, ...]


def train_head(
    labels: Sequence[Label],
    vectors: Vectors,
    values: Sequence[str],
    embedder: str,
    learner: HeadLearner,
    config: HeadTraining,
) -> TrainedHead:
    """Return a calibrated head.

    Args:
        vectors: embeddings of the labels' texts, in their order.
        values: all classes there are, in their order.
        embedder: digest of the embedder's fingerprint.

    Raises:
        InvalidInputError: the labels are of too few classes, or of too few texts.
    """
    counts = Counter(label.value for label in labels)
    left_out = {value: counts[value] for value in values if counts[value] < FEWEST}
    classes = tuple(value for value in values if value not in left_out)
    used = [place for place, label in enumerate(labels) if label.value in classes]
    if len(classes) < 2:
        raise InvalidInputError(
            f"The labels have {len(classes)} classes with {FEWEST} texts or more ({dict(counts)}); a head needs two at least. "
            "Label more records, or correct some results."
        )
    truth = np.array([labels[place].value for place in used])
    groups = [labels[place].group for place in used]
    held = _mark_held_out(truth, groups, learner, config)
    if len(set(truth[~held])) < 2 or not held.any():
        raise InvalidInputError(
            f"Of {len(used)} labels in {len(set(groups))} groups, too few are left on one side of the split. Label more records, "
            "or choose a smaller `head.held_out`."
        )
    given = np.asarray(vectors, dtype=np.float32)[used]
    rest_groups = [group for group, out in zip(groups, held, strict=True) if not out]
    penalty, logits, folds = _cross_validate(
        given[~held], list(truth[~held]), rest_groups, classes, learner, config
    )
    weights, bias = learner.fit(given[~held], list(truth[~held]), classes, penalty)
    head = LinearHead(classes, np.asarray(weights), np.asarray(bias), embedder).calibrate(
        logits, list(truth[~held]), config.least_accuracy, config.left_open
    )
    right = np.array(classes)[logits.argmax(axis=1)] == truth[~held]
    return TrainedHead(
        head,
        penalty,
        int((~held).sum()),
        left_out,
        tuple(int(used[place]) for place in np.flatnonzero(held)),
        tuple(int(used[place]) for place in np.flatnonzero(~held)),
        tuple(float(right[folds == fold].mean()) for fold in sorted(set(folds.tolist()))),
    )


def _mark_held_out(
    truth: npt.NDArray[np.str_], groups: Sequence[str], learner: HeadLearner, config: HeadTraining
) -> npt.NDArray[np.bool_]:
    parts = max(2, round(1 / config.held_out))
    assigned = np.array(learner.assign_folds(list(truth), groups, parts, config.seed))
    held: npt.NDArray[np.bool_] = assigned == 0
    return held


def _cross_validate(
    vectors: Floats,
    truth: Sequence[str],
    groups: Sequence[str],
    classes: Sequence[str],
    learner: HeadLearner,
    config: HeadTraining,
) -> tuple[float, Floats, npt.NDArray[np.int64]]:
    """The penalty with the least loss, the scores of each text by a head that had not seen it, and the folds."""
    folds = np.array(learner.assign_folds(truth, groups, config.folds, config.seed + 1))
    places = {value: place for place, value in enumerate(classes)}
    answers = np.array([places[value] for value in truth])
    best: tuple[float, float, Floats] | None = None
    for penalty in config.penalties:
        logits = np.zeros((len(truth), len(classes)), dtype=np.float32)
        for fold in sorted(set(folds.tolist())):
            inside = folds != fold
            known = [value for value, use in zip(truth, inside, strict=True) if use]
            weights, bias = learner.fit(vectors[inside], known, classes, penalty)
            logits[~inside] = vectors[~inside] @ weights + bias
        temperature = fit_temperature(logits, answers)
        shares = compute_shares(logits / temperature)[np.arange(len(answers)), answers]
        loss = float(-np.log(np.maximum(shares, 1e-12)).mean())
        if best is None or loss < best[0]:
            best = (loss, penalty, logits)
    assert best is not None, "there is at least one penalty"
    return best[1], best[2], folds

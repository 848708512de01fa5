"""How well classes and spans are found: accuracy, F1, confusion, kappa, calibration, and what a threshold is worth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_engineering.application.evaluation.statistics import DocumentBootstrap, Interval
from llm_engineering.domain.documents import Span

Floats = npt.NDArray[np.floating[Any]]
_BINS = 10
_RESAMPLES = 1_000
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class; shares from 0 to 1."""

    precision: float
    recall: float
    f1: float
    support: int
    """Items of that class."""


@dataclass(frozen=True, slots=True)
class LabelReport:
    """How well classes were told."""

    items: int
    accuracy: Interval
    macro_f1: Interval
    """Mean over the classes that the items have."""
    micro_f1: float
    """Of single labels the accuracy, as it must be."""
    classes: dict[str, ClassScore]
    confusion: dict[str, dict[str, int]]
    """Truth → said → how often."""
    kappa: float | None
    """Quadratic, of ordered classes, -1 to 1; None: they have no order."""
    calibration_error: float | None
    """Mean distance of confidence and accuracy in ten bins, 0 to 1; None: no confidence was given."""
    coverage: dict[float, float]
    """Share of the items decided, the surest first → accuracy of these; empty: no confidence was given."""

    def to_metadata(self) -> dict[str, Any]:
        """Return the figures for a run's report."""
        return {
            "items": self.items,
            "accuracy": self.accuracy.mean,
            "accuracy_low": self.accuracy.low,
            "accuracy_high": self.accuracy.high,
            "macro_f1": self.macro_f1.mean,
            "macro_f1_low": self.macro_f1.low,
            "macro_f1_high": self.macro_f1.high,
            "micro_f1": self.micro_f1,
            "kappa": self.kappa,
            "calibration_error": self.calibration_error,
            "coverage": {str(share): accuracy for share, accuracy in self.coverage.items()},
            "classes": {
                name: {"precision": one.precision, "recall": one.recall, "f1": one.f1, "support": one.support}
                for name, one in self.classes.items()
            },
            "confusion": self.confusion,
        }


def measure_labels(
    truth: Sequence[str],
    said: Sequence[str],
    values: Sequence[str],
    *,
    confidence: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
    ordered: bool = False,
    seed: int = 0,
) -> LabelReport:
    """Measure what was said against the truth.

    Args:
        values: all classes, in their order.
        confidence: of what was said, 0 to 1.
        groups: whose items are alike (a client's, a thread's), drawn together for the intervals; None: each item by itself.
        ordered: a near miss is a lesser mistake.

    Raises:
        ValueError: nothing is there, or the lists differ in length.
    """
    if not truth or len(truth) != len(said):
        raise ValueError(
            f"expected as many answers as truths, and one at least; got {len(truth)} and {len(said)}"
        )
    names = list(dict.fromkeys([*values, *truth, *said]))
    places = {name: place for place, name in enumerate(names)}
    table = np.zeros((len(names), len(names)), dtype=np.int64)
    for right, given in zip(truth, said, strict=True):
        table[places[right], places[given]] += 1
    owners = list(groups) if groups is not None else [str(place) for place in range(len(truth))]
    hits = np.array([float(right == given) for right, given in zip(truth, said, strict=True)])
    bootstrap = DocumentBootstrap(owners, seed=seed)
    scores = _score_classes(table)
    return LabelReport(
        items=len(truth),
        accuracy=bootstrap.estimate_interval(hits.tolist()),
        macro_f1=_estimate_macro(truth, said, places, owners, seed),
        micro_f1=float(hits.mean()),
        classes={name: scores[place] for name, place in places.items() if table[place].sum()},
        confusion={
            right: {given: int(table[row, places[given]]) for given in names if table[row, places[given]]}
            for right, row in places.items()
            if table[row].any()
        },
        kappa=compute_kappa(table[: len(values), : len(values)]) if ordered else None,
        calibration_error=None
        if confidence is None
        else compute_calibration_error(np.array(confidence), hits),
        coverage={} if confidence is None else compute_coverage(np.array(confidence), hits),
    )


def compare_accuracy(
    truth: Sequence[str],
    ours: Sequence[str],
    theirs: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Interval:
    """Return our accuracy minus theirs on the same items, with its 95 % interval."""
    owners = list(groups) if groups is not None else [str(place) for place in range(len(truth))]
    hits = [
        [float(right == given) for right, given in zip(truth, said, strict=True)] for said in (ours, theirs)
    ]
    return DocumentBootstrap(owners, seed=seed).estimate_difference(*hits)


def _score_classes(table: npt.NDArray[np.int64]) -> list[ClassScore]:
    hits, said, support = np.diag(table), table.sum(axis=0), table.sum(axis=1)
    return [
        ClassScore(
            float(hits[place] / said[place]) if said[place] else 0.0,
            float(hits[place] / support[place]) if support[place] else 0.0,
            float(2 * hits[place] / (said[place] + support[place])) if said[place] + support[place] else 0.0,
            int(support[place]),
        )
        for place in range(len(table))
    ]


def _macro_f1(table: npt.NDArray[np.int64]) -> float:
    support = table.sum(axis=1)
    present = support > 0
    scores = 2 * np.diag(table)[present] / (table.sum(axis=0) + support)[present]
    return float(scores.mean())


def _estimate_macro(
    truth: Sequence[str],
    said: Sequence[str],
    places: Mapping[str, int],
    owners: Sequence[str],
    seed: int,
) -> Interval:
    """Macro F1 is no mean over items, so whole groups are drawn and it is computed anew each time."""
    right = np.array([places[value] for value in truth])
    given = np.array([places[value] for value in said])
    _, numbers = np.unique(np.array(owners), return_inverse=True)
    members = [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]
    size = len(places)

    def measure(rows: npt.NDArray[np.int64]) -> float:
        counts = np.bincount(right[rows] * size + given[rows], minlength=size * size)
        return _macro_f1(counts.reshape(size, size))

    random = np.random.default_rng(seed)
    drawn = [
        measure(
            np.concatenate([members[number] for number in random.integers(0, len(members), len(members))])
        )
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(measure(np.arange(len(right))), float(low), float(high))


def compute_kappa(table: npt.NDArray[np.int64]) -> float | None:
    """Return Cohen's kappa with quadratic weights of a confusion table; None where chance alone explains all."""
    size = len(table)
    weights = np.subtract.outer(np.arange(size), np.arange(size)) ** 2 / max(1, (size - 1) ** 2)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(1, table.sum())
    chance = float((weights * expected).sum())
    return None if chance == 0 else 1 - float((weights * table).sum()) / chance


def compute_calibration_error(confidence: Floats, hits: Floats) -> float:
    """Return the mean distance of confidence and accuracy over ten bins, weighted by their size (ECE)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    distances = [
        abs(confidence[bins == one].mean() - hits[bins == one].mean()) * (bins == one).sum()
        for one in set(bins.tolist())
    ]
    return float(np.sum(distances) / len(hits))


def compute_coverage(confidence: Floats, hits: Floats) -> dict[float, float]:
    """Return for each share of the items, the surest first, how many of these are right."""
    ranked = hits[np.argsort(-confidence, kind="stable")]
    return {share: float(ranked[: max(1, round(share * len(ranked)))].mean()) for share in _SHARES}


def measure_spans(
    truth: Iterable[tuple[str, str, Span]], said: Iterable[tuple[str, str, Span]]
) -> dict[str, ClassScore]:
    """Measure exact spans by kind, each as (record, kind, span); the row ``all`` is over all kinds together."""
    right, given = set(map(_as_key, truth)), set(map(_as_key, said))
    kinds = sorted({kind for _, kind, *_ in right | given})
    scores = {}
    for name, chosen in [(kind, {kind}) for kind in kinds] + [("all", set(kinds))]:
        wanted = {key for key in right if key[1] in chosen}
        found = {key for key in given if key[1] in chosen}
        hits = len(wanted & found)
        precision = hits / len(found) if found else 0.0
        recall = hits / len(wanted) if wanted else 0.0
        total = precision + recall
        scores[name] = ClassScore(
            precision, recall, 2 * precision * recall / total if total else 0.0, len(wanted)
        )
    return scores


def _as_key(one: tuple[str, str, Span]) -> tuple[str, str, int, int]:
    record, kind, span = one
    return record, kind, span.start, span.end

"""Accuracy, F1, kappa, calibration and spans against figures worked out by hand or by scikit-learn."""

import numpy as np
import pytest

from llm_engineering.application.evaluation.labels import (
    compare_accuracy,
    compute_calibration_error,
    measure_labels,
    measure_spans,
)
from llm_engineering.domain.documents import Span

TRUTH = ["low", "low", "low", "medium", "medium", "high", "high", "high"]
SAID = ["low", "low", "medium", "medium", "high", "high", "high", "low"]
ORDER = ["low", "medium", "high"]


def test_classes_are_scored_as_scikit_learn_scores_them() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    report = measure_labels(TRUTH, SAID, ORDER, ordered=True)
    assert report.accuracy.mean == report.micro_f1 == 0.625
    assert report.macro_f1.mean == pytest.approx(metrics.f1_score(TRUTH, SAID, average="macro"))
    assert report.macro_f1.low < report.macro_f1.mean < report.macro_f1.high
    ranks = [[ORDER.index(value) for value in values] for values in (TRUTH, SAID)]
    assert report.kappa == pytest.approx(metrics.cohen_kappa_score(*ranks, weights="quadratic"))
    assert report.confusion["high"] == {"low": 1, "high": 2}
    assert report.classes["medium"].precision == 0.5


def test_the_surest_come_first_in_coverage() -> None:
    report = measure_labels(["a"] * 10, ["a"] * 8 + ["b"] * 2, ["a", "b"], confidence=[0.9] * 8 + [0.1] * 2)
    assert report.coverage[0.8] == 1
    assert report.coverage[1.0] == 0.8


def test_a_head_that_is_as_right_as_it_is_sure_has_no_calibration_error() -> None:
    assert compute_calibration_error(np.array([0.5] * 4), np.array([1.0, 0, 1, 0])) == 0
    assert compute_calibration_error(np.array([0.9] * 4), np.array([0.0] * 4)) == pytest.approx(0.9)


def test_equal_answers_do_not_differ() -> None:
    same = compare_accuracy(TRUTH, SAID, SAID)
    assert (same.low, same.mean, same.high) == (0, 0, 0)
    assert compare_accuracy(TRUTH, TRUTH, SAID).mean == pytest.approx(0.375)


def test_only_exact_spans_of_the_same_kind_count() -> None:
    truth = [("r1", "date", Span(start=0, end=5)), ("r1", "time", Span(start=8, end=9))]
    said = [("r1", "date", Span(start=0, end=5)), ("r1", "date", Span(start=8, end=9))]
    scores = measure_spans(truth, said)
    assert (scores["date"].precision, scores["date"].recall) == (0.5, 1)
    assert scores["time"].f1 == 0
    assert scores["all"].f1 == 0.5


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="one at least"):
        measure_labels([], [], ["a"])

"""Retrieval metrics against values computed by hand, and the paired tests against cases whose answer is known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.evaluation.rag.metrics import (
    Judged,
    Source,
    compute_ndcg,
    compute_recall,
    covers,
    judge,
    measure_ranking,
    reciprocal_rank,
)
from llm_engineering.application.evaluation.rag.questions import Target
from llm_engineering.application.evaluation.statistics import (
    bootstrap_interval,
    compare,
    correct_holm,
    randomisation_test,
)
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import InvalidInputError


def source(document: str, start: int = 0, end: int = 100) -> Source:
    return Source(document, Span(start=start, end=end))


def target(document: str, start: int = 0, end: int = 100, grade: int = 1) -> Target:
    return Target(document, Span(start=start, end=end), grade)


class TestCovering:
    def test_half_of_the_relevant_span_is_enough(self) -> None:
        assert covers(source("a", 0, 100), target("a", 50, 150))
        assert not covers(source("a", 0, 100), target("a", 51, 151))

    def test_a_span_longer_than_the_source_asks_for_half_of_the_source(self) -> None:
        assert covers(source("a", 950, 1050), target("a", 0, 1000))
        assert not covers(source("a", 951, 1051), target("a", 0, 1000))

    def test_the_same_offsets_in_another_document_do_not_count(self) -> None:
        assert not covers(source("a"), target("b"))

    def test_any_part_counts_where_the_whole_document_is_relevant(self) -> None:
        assert covers(source("a", 900, 950), Target("a", None))

    @given(st.integers(0, 300), st.integers(1, 200), st.integers(0, 300), st.integers(1, 200))
    def test_cutting_the_text_elsewhere_never_hides_a_span_that_a_source_holds_whole(
        self, start: int, length: int, before: int, after: int
    ) -> None:
        assert covers(
            source("a", max(0, start - before), start + length + after), target("a", start, start + length)
        )


class TestByHand:
    def test_recall(self) -> None:
        judged = judge([source("x"), source("a"), source("b")], [target("a"), target("b"), target("z")])
        assert compute_recall(judged, 1) == 0
        assert compute_recall(judged, 2) == pytest.approx(1 / 3)
        assert compute_recall(judged, 3) == pytest.approx(2 / 3)

    def test_mean_reciprocal_rank_of_ranks_1_2_and_4(self) -> None:
        ranks = [
            reciprocal_rank(judge([source("x")] * (rank - 1) + [source("a")], [target("a")]))
            for rank in (1, 2, 4)
        ]
        assert sum(ranks) / 3 == pytest.approx(0.58333, abs=1e-5)

    def test_ndcg_of_grades_3_2_0_1(self) -> None:
        # (3 + 2/log2(3) + 0 + 1/log2(5)) / (3 + 2/log2(3) + 1/log2(4)) = 4.6925 / 4.7619
        targets = [target("a", grade=3), target("b", grade=2), target("c", grade=1)]
        judged = judge([source("a"), source("b"), source("x"), source("c")], targets)
        assert compute_ndcg(judged, 4) == pytest.approx(4.69254 / 4.76186, abs=1e-5)

    def test_the_ideal_counts_relevant_places_that_were_not_found(self) -> None:
        judged = judge([source("a")], [target("a"), target("b")])
        assert compute_ndcg(judged, 2) == pytest.approx(1 / (1 + 1 / math.log2(3)))

    def test_a_place_found_twice_counts_once(self) -> None:
        judged = judge([source("a", 0, 100), source("a", 20, 120)], [target("a", 10, 100)])
        assert judged == Judged(((1,), ()), (1,))
        assert compute_ndcg(judged, 2) == 1

    def test_a_source_that_covers_two_places_at_once_does_not_exceed_1(self) -> None:
        judged = judge([source("a", 0, 100)], [target("a", 0, 40), target("a", 60, 100)])
        assert measure_ranking(judged, (1, 5)) == {
            "recall@1": 1,
            "recall@5": 1,
            "ndcg@1": 1,
            "ndcg@5": 1,
            "mrr": 1,
        }

    def test_a_question_that_nothing_answers_has_no_metrics(self) -> None:
        with pytest.raises(InvalidInputError, match="leave unanswerable questions out"):
            judge([source("a")], [])


class TestStatistics:
    def test_the_interval_of_equal_values_is_a_point(self) -> None:
        found = bootstrap_interval([0.5] * 8, [str(i) for i in range(8)], seed=1, resamples=500)
        assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_the_interval_is_that_of_the_normal_approximation_on_many_independent_values(self) -> None:
        values = [1.0] * 80 + [0.0] * 20
        found = bootstrap_interval(values, [str(i) for i in range(100)], seed=0)
        assert found.low == pytest.approx(0.8 - 1.96 * 0.04, abs=0.015)
        assert found.high == pytest.approx(0.8 + 1.96 * 0.04, abs=0.015)

    def test_questions_of_one_document_count_as_one_observation(self) -> None:
        values = [1.0] * 50 + [0.0] * 50
        apart = bootstrap_interval(values, [str(i) for i in range(100)], seed=0)
        together = bootstrap_interval(values, [str(i // 10) for i in range(100)], seed=0)
        assert together.high - together.low > 2 * (apart.high - apart.low)

    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        ours, theirs, clusters = [1.0, 1, 0, 1, 1, 0, 1, 1], [0.0, 1, 0, 0, 1, 0, 1, 0], list("abcdefgh")
        assert compare(ours, theirs, clusters, seed=3) == compare(ours, theirs, clusters, seed=3)

    def test_the_randomisation_test_counts_sign_patterns(self) -> None:
        # 10 equal differences: 2 of 2^10 patterns of signs are as extreme.
        p = randomisation_test([1.0] * 10, [str(i) for i in range(10)], seed=0, resamples=50_000)
        assert p == pytest.approx(2 / 1024, rel=0.25)

    def test_no_difference_is_never_significant(self) -> None:
        found = compare([1.0, 0, 1], [1.0, 0, 1], ["a", "b", "c"], seed=0)
        assert (found.p_value, found.ties, found.difference.mean) == (1.0, 3, 0.0)

    def test_holm_against_the_textbook(self) -> None:
        corrected = correct_holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
        assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})

    def test_pairs_must_be_pairs(self) -> None:
        with pytest.raises(InvalidInputError, match="2 values against 1"):
            compare([1.0, 0.0], [1.0], ["a", "b"], seed=0)

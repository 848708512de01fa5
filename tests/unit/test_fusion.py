"""Merging ranked lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.fusion import (
    count_candidates,
    fuse,
    fuse_by_rank,
    fuse_by_score,
    min_max,
    rank_scores,
)
from llm_engineering.domain.retrieval import RrfFusion, WeightedFusion

names = st.text("abcdefgh", min_size=1, max_size=2)
rankings = st.lists(st.lists(names, unique=True, max_size=8), max_size=4)
scores = st.dictionaries(names, st.floats(-10, 10), max_size=8)


def test_rrf_follows_the_paper() -> None:
    assert fuse_by_rank([["a", "b"], ["b", "c"]], k=60) == [
        ("b", pytest.approx(1 / 62 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
        ("c", pytest.approx(1 / 62)),
    ]


def test_equal_scores_are_ordered_by_id() -> None:
    assert [name for name, _ in fuse_by_rank([["z"], ["a"], ["m"]])] == ["a", "m", "z"]
    assert [name for name, _ in fuse_by_score({"z": 1.0, "a": 1.0}, {}, 0.5)] == ["a", "z"]


def test_weighted_scales_each_list_and_counts_the_missing_as_nothing() -> None:
    merged = fuse_by_score({"a": 0.9, "b": 0.5, "c": 0.1}, {"c": 12.0, "d": 2.0}, alpha=0.25)
    assert merged == [
        ("c", pytest.approx(0.75)),
        ("a", pytest.approx(0.25)),
        ("b", pytest.approx(0.125)),
        ("d", pytest.approx(0.0)),
    ]


def test_a_list_of_one_or_of_equals_counts_in_full() -> None:
    assert min_max({"a": 3.0}) == {"a": 1.0}
    assert min_max({"a": 0.2, "b": 0.2}) == {"a": 1.0, "b": 1.0}
    assert min_max({}) == {}


@given(dense=scores, sparse=scores, titles=scores, alpha=st.floats(0, 1))
def test_titles_are_a_third_list_by_rank_and_half_of_the_dense_weight_by_score(
    dense: dict[str, float], sparse: dict[str, float], titles: dict[str, float], alpha: float
) -> None:
    lists = [[name for name, _ in rank_scores(listed)] for listed in (dense, sparse, titles)]
    assert fuse(dense, sparse, RrfFusion(k=7), titles) == fuse_by_rank(lists, 7)
    scaled = [min_max(listed) for listed in (dense, titles, sparse)]
    shares = (alpha / 2, alpha / 2, 1 - alpha)
    for name, score in fuse(dense, sparse, WeightedFusion(alpha=alpha), titles):
        expected = sum(share * listed.get(name, 0) for share, listed in zip(shares, scaled, strict=True))
        assert score == pytest.approx(expected, abs=1e-9)


@given(lists=rankings, k=st.integers(1, 100))
def test_rrf_keeps_every_id_once_and_never_gains_from_a_worse_rank(lists: list[list[str]], k: int) -> None:
    merged = dict(fuse_by_rank(lists, k))
    assert set(merged) == {name for names in lists for name in names}
    for name, score in merged.items():
        assert score <= sum(1 / (k + 1) for names in lists if name in names) + 1e-12


@given(dense=scores, sparse=scores, alpha=st.floats(0, 1))
def test_weighted_scores_stay_between_nothing_and_one(
    dense: dict[str, float], sparse: dict[str, float], alpha: float
) -> None:
    merged = fuse_by_score(dense, sparse, alpha)
    assert {name for name, _ in merged} == dense.keys() | sparse.keys()
    assert all(-1e-9 <= score <= 1 + 1e-9 for _, score in merged)
    assert merged == sorted(merged, key=lambda item: (-item[1], item[0]))


@given(dense=scores, sparse=scores)
def test_the_extremes_of_alpha_trust_one_list_alone(
    dense: dict[str, float], sparse: dict[str, float]
) -> None:
    only_dense = dict(fuse_by_score(dense, sparse, 1.0))
    assert {name: only_dense[name] for name in dense} == pytest.approx(min_max(dense))
    only_sparse = dict(fuse_by_score(dense, sparse, 0.0))
    assert {name: only_sparse[name] for name in sparse} == pytest.approx(min_max(sparse))


def test_fuse_does_what_the_query_asks_for() -> None:
    dense, sparse = {"a": 0.9, "b": 0.8}, {"b": 7.0}
    assert fuse(dense, sparse, RrfFusion(k=5)) == fuse_by_rank([["a", "b"], ["b"]], 5)
    assert fuse(dense, sparse, WeightedFusion(alpha=0.2)) == fuse_by_score(dense, sparse, 0.2)


def test_a_fusion_looks_at_more_than_it_returns() -> None:
    assert count_candidates(5) == 50
    assert count_candidates(100) == 300

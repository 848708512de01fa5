"""Agreement of judges: figures of the literature, and what cannot be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.llm.judges import krippendorff_alpha, measure_agreement

# Four observers, twelve units, some of them not rated by all (Krippendorff, "Computing Krippendorff's alpha-reliability", 2011).
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]
UNITS = [
    [float(rating) for rating in unit if rating != "."]
    for unit in zip(*(line.split() for line in OBSERVERS), strict=True)
]


def test_alpha_is_that_of_the_literature() -> None:
    assert krippendorff_alpha(UNITS) == pytest.approx(0.849, abs=0.0005)


@given(st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=4), min_size=2, max_size=20))
def test_alpha_is_at_most_one_and_one_only_in_full_agreement(units: list[list[int]]) -> None:
    found = krippendorff_alpha(units)
    if len({value for unit in units for value in unit}) == 1:
        assert found is None
    else:
        assert found is not None
        assert found <= 1
        assert (found == 1) == all(len(set(unit)) == 1 for unit in units)


def test_pairs_are_compared_on_what_both_judged() -> None:
    found = measure_agreement([{"a": 4, "b": 4, "c": 1}, {"a": 2, "b": 4}, {"b": 3}, {}])
    assert found.items == 2
    by_names = {(pair.first, pair.second): pair for pair in found.pairs}
    pair = by_names["a", "b"]
    assert (pair.items, pair.exact, pair.difference) == (2, 0.5, 1)
    assert by_names["a", "c"].items == 1


def test_means_that_do_not_vary_have_no_alpha_though_their_mean_is_rounded() -> None:
    assert krippendorff_alpha([[1.4, 1.4, 1.4]]) is None


def test_one_judge_agrees_with_nobody() -> None:
    found = measure_agreement([{"a": 4}, {"a": 1}])
    assert (found.items, found.alpha, found.pairs) == (0, None, ())

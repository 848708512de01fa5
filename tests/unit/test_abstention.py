"""The abstention floor follows from what foreign questions reach by chance in the collection at hand."""

import numpy as np
import pytest

from llm_engineering.application.inference.abstention import (
    QUESTIONS,
    UNMEASURED_FLOOR,
    AbstentionFloor,
    compute_floor,
    measure_floor,
)
from llm_engineering.domain.errors import StoreUnavailableError
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.service import WRITINGS, Writing, write

SPREAD_OUT = np.eye(10, dtype=np.float32)
"""Questions that have nothing in common."""
ALIKE = np.ones((10, 1), dtype=np.float32)


def filled(embedder: HashEmbedder) -> FakeVectorIndex:
    index = FakeVectorIndex()
    write(index, embedder)
    return index


class TestFloor:
    def test_it_declines_nearly_all_foreign_questions(self) -> None:
        nearest = np.linspace(0.1, 0.3, 101)
        floor = compute_floor(nearest, ALIKE)
        assert np.mean(nearest < floor) == pytest.approx(0.95, abs=0.01)

    def test_it_moves_with_the_scale_of_the_embedder(self) -> None:
        nearest = np.linspace(0.1, 0.2, 11)
        assert compute_floor(nearest + 0.6, ALIKE) == pytest.approx(compute_floor(nearest, ALIKE) + 0.6)

    def test_it_is_never_higher_than_questions_of_one_kind_are_alike(self) -> None:
        assert compute_floor(np.linspace(0.1, 0.9, 11), SPREAD_OUT) == pytest.approx(0.0)

    def test_the_questions_are_many_and_distinct(self) -> None:
        assert len(set(QUESTIONS)) == len(QUESTIONS) >= 50
        assert all(question.endswith("?") for question in QUESTIONS)


class TestMeasuring:
    def test_takes_one_search_and_one_call_of_the_embedder(self) -> None:
        embedder = HashEmbedder()
        index = filled(embedder)
        embedder.calls = 0
        assert -1 <= measure_floor(index, embedder) <= 1
        assert (index.searches, embedder.calls) == (1, 1)

    def test_without_an_index_there_is_nothing_to_measure(self) -> None:
        with pytest.raises(StoreUnavailableError):
            measure_floor(FakeVectorIndex(), HashEmbedder())

    def test_is_done_once_and_again_when_the_index_has_grown(self) -> None:
        embedder = HashEmbedder()
        index = filled(embedder)
        floor = AbstentionFloor(index, embedder)
        embedder.calls = 0
        first = floor.get()
        assert floor.get() == first == measure_floor(index, embedder)
        assert (index.searches, embedder.calls) == (2, 2)
        write(index, embedder, [*WRITINGS, Writing("Wine", "Which wine goes with salmon? A dry white one.")])
        assert floor.get() == measure_floor(index, embedder)
        assert index.searches == 4

    def test_that_fails_leaves_a_usual_floor(self) -> None:
        embedder = HashEmbedder()
        index = filled(embedder)
        failing = HashEmbedder(fail_on="wine")
        failing.embed_queries = failing.embed_documents  # type: ignore[method-assign]
        assert AbstentionFloor(index, failing).get() == UNMEASURED_FLOOR
        assert AbstentionFloor(FakeVectorIndex(), embedder).get() == UNMEASURED_FLOOR

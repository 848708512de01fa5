"""The abstention floor follows from what foreign questions reach by chance in the collection at hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from llm_engineering.application.inference.abstention import (
    QUESTIONS,
    UNMEASURED,
    AbstentionFloor,
    compute_floor,
    measure_floors,
)
from llm_engineering.application.ports import Part
from llm_engineering.domain.errors import StoreUnavailableError
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.service import WRITINGS, Writing, write

SPREAD_OUT = np.zeros(10)
"""Questions that have nothing in common."""
ALIKE = np.ones(10)


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
        assert -1 <= measure_floors(index, embedder).similarity <= 1
        assert (index.searches, embedder.calls) == (1, 1)

    def test_without_an_index_there_is_nothing_to_measure(self) -> None:
        with pytest.raises(StoreUnavailableError):
            measure_floors(FakeVectorIndex(), HashEmbedder())

    def test_is_done_once_and_again_when_the_index_has_grown(self) -> None:
        embedder = HashEmbedder()
        index = filled(embedder)
        floor = AbstentionFloor(index, embedder)
        embedder.calls = 0
        first = floor.get()
        assert floor.get() == first == measure_floors(index, embedder)
        assert (index.searches, embedder.calls) == (2, 2)
        write(index, embedder, [*WRITINGS, Writing("Wine", "Which wine goes with salmon? A dry white one.")])
        assert floor.get() == measure_floors(index, embedder)
        assert index.searches == 4

    def test_a_reranker_raises_or_lowers_the_confidence_alone(self) -> None:
        embedder = HashEmbedder()
        index = filled(embedder)
        alone = measure_floors(index, embedder)
        assert alone.confidence == alone.similarity
        asked: list[str] = []

        def rank(question: str, texts: Sequence[str], parts: Sequence[Part]) -> list[float]:
            asked.append(question)
            return [0.9] * len(parts)

        both = measure_floors(index, embedder, rank)
        assert both.similarity == alone.similarity
        assert both.confidence > alone.confidence
        assert len(set(asked)) < len(QUESTIONS)  # those that lie far off are spared

    def test_is_kept_in_a_file_for_the_collection_it_was_measured_on(self, tmp_path: Path) -> None:
        embedder, file = HashEmbedder(), tmp_path / "data" / "abstention.json"
        index, calls = filled(embedder), 0

        def rank(question: str, texts: Sequence[str], parts: Sequence[Part]) -> list[float]:
            nonlocal calls
            calls += 1
            return [0.9] * len(parts)

        first = AbstentionFloor(index, embedder, rank, file).get()
        measured = calls
        assert AbstentionFloor(index, embedder, rank, file).get() == first
        assert calls == measured > 0
        assert AbstentionFloor(index, embedder, None, file).get() != first
        write(index, embedder, [*WRITINGS, Writing("Wine", "Which wine goes with salmon? A dry white one.")])
        AbstentionFloor(index, embedder, rank, file).get()
        assert calls > measured

    @pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": ["x", 2]}'])
    def test_a_broken_file_is_measured_anew(self, tmp_path: Path, text: str) -> None:
        embedder, file = HashEmbedder(), tmp_path / "abstention.json"
        index = filled(embedder)
        file.write_text(text)
        assert AbstentionFloor(index, embedder, None, file).get() == measure_floors(index, embedder)
        file.unlink()
        file.mkdir()  # cannot be written
        assert AbstentionFloor(index, embedder, None, file).get() == measure_floors(index, embedder)

    def test_that_fails_leaves_a_usual_floor(self) -> None:
        embedder = HashEmbedder()
        index = filled(embedder)
        failing = HashEmbedder(fail_on="wine")
        failing.embed_queries = failing.embed_documents  # type: ignore[method-assign]
        assert AbstentionFloor(index, failing).get() == UNMEASURED
        assert AbstentionFloor(FakeVectorIndex(), embedder).get() == UNMEASURED

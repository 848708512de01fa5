"""Late interaction's arithmetic, its cache, and the mixing of a reranker's scores with the search's."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.inference.search import rerank_hits
from llm_engineering.application.ports import TokenVectors
from llm_engineering.domain.errors import ModelError
from llm_engineering.domain.retrieval import Hit
from llm_engineering.infrastructure.shared.late_interaction import (
    WEIGHT_FLOOR,
    TokenVectorCache,
    best_matches,
    score_passages,
    token_rarity,
)
from llm_engineering.infrastructure.shared.token_batches import batches_by_length, pad_rows, split_windows
from tests.conformance.index_contract import chunk
from tests.fakes.reranker import WordOverlapReranker

DIMENSION = 5
ids_of_a_text = st.lists(st.integers(1, 9), max_size=6)


def tokens(ids: Sequence[int]) -> TokenVectors:
    """Each id is a direction of its own, the same in every text."""
    rows = [np.random.default_rng(number).standard_normal(DIMENSION) for number in ids]
    vectors = np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)
    return TokenVectors(
        np.array(ids, dtype=np.int64), vectors.reshape(len(ids), DIMENSION), np.arange(len(ids))
    )


class TestMaxSim:
    @given(asked=ids_of_a_text, texts=st.lists(ids_of_a_text, min_size=1, max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_weighted_mean_of_the_best_cosines(
        self, asked: list[int], texts: list[list[int]]
    ) -> None:
        question, passages = tokens(asked), [tokens(ids) for ids in texts]
        expected = []
        for passage in passages:
            total = weights = 0.0
            for number, vector in zip(asked, question.vectors, strict=True):
                holders = sum(number in ids for ids in texts)
                weight = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5)) + WEIGHT_FLOOR
                total += weight * max((float(vector @ other) for other in passage.vectors), default=-1.0)
                weights += weight
            expected.append(total / weights if weights else 0.0)
        assert score_passages(question, passages) == pytest.approx(expected, abs=1e-5)

    def test_a_passage_that_holds_every_token_scores_one(self) -> None:
        assert score_passages(tokens([1, 2]), [tokens([3, 2, 1]), tokens([1])])[0] == pytest.approx(
            1, abs=1e-6
        )

    def test_a_passage_without_tokens_scores_lowest(self) -> None:
        assert list(best_matches(tokens([1, 2]), [tokens([])])[0]) == [-1, -1]
        scores = score_passages(tokens([1]), [tokens([2]), tokens([]), tokens([3])])
        assert scores.argmin() == 1

    def test_a_token_that_few_passages_hold_weighs_more(self) -> None:
        common, rare = token_rarity(tokens([1, 2]), [tokens([1]), tokens([1, 2]), tokens([1])])
        assert rare > common > 0


class TestCache:
    def test_the_least_recently_used_is_dropped_first(self) -> None:
        one = tokens([1, 2])
        size = TokenVectorCache(1 << 20).put("x", one).nbytes
        cache = TokenVectorCache(2 * size)
        for key in "ab":
            cache.put(key, one)
        cache.get("a")
        cache.put("c", one)
        assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
        assert cache.nbytes == 2 * size

    def test_a_replaced_entry_is_counted_once(self) -> None:
        cache = TokenVectorCache(1 << 20)
        cache.put("a", tokens([1, 2, 3]))
        kept = cache.put("a", tokens([1]))
        assert cache.nbytes == kept.nbytes
        cache.clear()
        assert cache.nbytes == 0
        assert cache.get("a") is None

    def test_what_is_larger_than_the_cache_is_not_kept(self) -> None:
        cache = TokenVectorCache(10)
        assert len(cache.put("a", tokens([1, 2])).ids) == 2
        assert cache.get("a") is None


def hits(*texts: str) -> list[Hit]:
    """As a search ranks them: the first one best."""
    return [
        Hit(chunk=chunk(f"d{n}", text=text), score=1 / (60 + n), dense_score=0.5)
        for n, text in enumerate(texts, start=1)
    ]


class TestRerankHits:
    def test_the_best_text_comes_first_with_its_cosine_kept(self) -> None:
        found = rerank_hits(
            "red fox", hits("a dog", "blue sky", "the red fox"), WordOverlapReranker(), weight=0.8
        )
        assert [hit.chunk.text for hit in found] == ["the red fox", "a dog", "blue sky"]
        assert {hit.dense_score for hit in found} == {0.5}
        assert found[0].score == pytest.approx(0.8)

    def test_no_hits_ask_nobody(self) -> None:
        reranker = WordOverlapReranker()
        assert rerank_hits("q", [], reranker) == []
        assert reranker.calls == []

    def test_texts_are_judged_under_their_title_and_headings(self) -> None:
        reranker = WordOverlapReranker()
        hit = Hit(chunk=chunk("d", text="The default is 60.", title="Fusion", headings=("RRF",)), score=1)
        rerank_hits("q", [hit], reranker)
        assert reranker.calls == [("q", ["Fusion > RRF\nThe default is 60."])]

    def test_equals_keep_the_order_of_the_search(self) -> None:
        found = rerank_hits("absent", hits("a", "b", "c"), WordOverlapReranker(), weight=1)
        assert [hit.chunk.text for hit in found] == ["a", "b", "c"]

    @given(
        texts=st.lists(st.sampled_from(["fox", "red fox", "sky", "red"]), min_size=1, max_size=6),
        weight=st.floats(0, 1),
    )
    @settings(max_examples=50, deadline=None)
    def test_hits_are_put_in_order_and_none_is_lost(self, texts: list[str], weight: float) -> None:
        given_hits = hits(*texts)
        found = rerank_hits("red fox", given_hits, WordOverlapReranker(), weight=weight)
        assert {hit.chunk.id for hit in found} == {hit.chunk.id for hit in given_hits}
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
        assert all(0 <= hit.score <= 1 + 1e-9 for hit in found)
        if weight == 0:
            assert found[0].chunk == given_hits[0].chunk

    @pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan], [1.0, math.inf], [1.0, 2.0, 3.0]])
    def test_scores_that_cannot_be_used_are_refused(self, scores: list[float]) -> None:
        reranker = WordOverlapReranker()
        reranker.rerank = lambda *_: scores  # type: ignore[method-assign]
        with pytest.raises(ModelError, match=r"word_overlap.*RERANKER_KIND=none"):
            rerank_hits("q", hits("a", "b"), reranker)

    def test_a_failing_reranker_is_heard(self) -> None:
        with pytest.raises(ModelError, match="told to fail"):
            rerank_hits("q", hits("a"), WordOverlapReranker(fail=True))


class TestTokenBatches:
    @given(lengths=st.lists(st.integers(1, 40), max_size=30), budget=st.integers(1, 100))
    @settings(max_examples=50, deadline=None)
    def test_batches_hold_every_text_once_within_the_budget(self, lengths: list[int], budget: int) -> None:
        batches = [list(batch) for batch in batches_by_length(lengths, budget)]
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)

    @given(inner=st.lists(st.integers(1, 9), max_size=40), limit=st.integers(3, 12))
    @settings(max_examples=50, deadline=None)
    def test_windows_hold_every_token_once_between_the_special_ones(
        self, inner: list[int], limit: int
    ) -> None:
        parts = split_windows(np.array([101, *inner, 102]), limit)
        assert [int(i) for part in parts for i in part[1:-1]] == inner
        assert all(len(part) <= limit and part[0] == 101 and part[-1] == 102 for part in parts)

    def test_rows_are_filled_up_to_the_longest(self) -> None:
        assert pad_rows([np.array([1, 2]), np.array([3])], 9).tolist() == [[1, 2], [3, 9]]


def test_code_that_defines_what_is_named_comes_first() -> None:
    uses = Hit(chunk=chunk("d1", 0, "total = read_row(line)", category="repository"), score=0.9)
    defines = Hit(
        chunk=chunk("d2", 0, "def read_row(line):\n    return line", category="repository"), score=0.1
    )
    prose = Hit(chunk=chunk("d3", 0, "def read_row is a function of ours"), score=0.5)
    ranked = rerank_hits("Where is read_row?", [uses, prose, defines], WordOverlapReranker())
    assert ranked[0].chunk.document_id == defines.chunk.document_id
    assert ranked[0].score == 1.0

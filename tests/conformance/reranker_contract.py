"""What every reranker must do. Subclasses hand in one by the fixture ``reranker``."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_engineering.application.ports import Reranker, extract_part
from llm_engineering.domain.documents import Span

QUESTION = "How is a cat kept off the sofa?"
ANSWER = "A cat is kept off the sofa with a scratching post."
TEXTS = [
    "The stock market fell by two percent on Tuesday.",
    ANSWER,
    "def add(a, b):\n    return a + b",
    "Zürich, Ελλάδα, 日本語 and 😀",
    "",
    "?!… —",
    "A sofa is a long seat.",
    "x",
]


class RerankerContract:
    def test_the_text_that_answers_scores_highest_wherever_it_stands(self, reranker: Reranker) -> None:
        for shift in range(len(TEXTS)):
            texts = TEXTS[shift:] + TEXTS[:shift]
            scores = reranker.rerank(QUESTION, texts)
            assert len(scores) == len(texts)
            assert texts[scores.index(max(scores))] == ANSWER

    def test_scores_belong_to_the_texts_in_the_order_given(self, reranker: Reranker) -> None:
        there = reranker.rerank(QUESTION, TEXTS)
        back = reranker.rerank(QUESTION, TEXTS[::-1])
        assert there == pytest.approx(back[::-1], abs=1e-4)

    def test_no_texts_get_no_scores(self, reranker: Reranker) -> None:
        assert reranker.rerank(QUESTION, []) == []

    def test_equal_texts_get_equal_scores(self, reranker: Reranker) -> None:
        scores = reranker.rerank(QUESTION, [ANSWER, TEXTS[0], ANSWER])
        assert scores[0] == pytest.approx(scores[2], abs=1e-4)
        assert scores[0] > scores[1]

    def test_the_same_again_gives_the_same(self, reranker: Reranker) -> None:
        first = reranker.rerank(QUESTION, TEXTS)
        reranker.rerank("Something else", ["in between"])
        assert reranker.rerank(QUESTION, TEXTS) == pytest.approx(first, abs=1e-5)

    def test_a_long_text_is_scored_and_a_long_question_too(self, reranker: Reranker) -> None:
        long = f"{ANSWER} " + "Rain fell on the hills. " * 500
        scores = reranker.rerank(QUESTION, [long, "Rain fell on the hills. " * 500])
        assert scores[0] > scores[1]
        assert len(reranker.rerank(f"{QUESTION} " + "Please tell me. " * 500, [ANSWER, long])) == 2

    def test_many_texts_at_once_keep_their_order(self, reranker: Reranker) -> None:
        texts = [f"number {n} " + "and so on " * (n % 7) for n in range(60)]
        texts[41] = ANSWER
        scores = reranker.rerank(QUESTION, texts)
        assert scores.index(max(scores)) == 41

    def test_the_part_that_answers_scores_highest(self, reranker: Reranker) -> None:
        texts = ["Rain fell on the hills.", f"A title\n{TEXTS[0]} {ANSWER}"]
        title, other = Span(start=0, end=7), Span(start=8, end=8 + len(TEXTS[0]))
        answer = Span(start=other.end + 1, end=len(texts[1]))
        parts = [(1, (title, other)), (1, (title, answer)), (0, (Span(start=0, end=23),))]
        assert extract_part(texts, parts[1]) == f"A title\n{ANSWER}"
        scores = reranker.rerank_parts(QUESTION, texts, parts)
        assert scores.index(max(scores)) == 1
        assert reranker.rerank_parts(QUESTION, texts, parts[::-1]) == pytest.approx(scores[::-1], abs=1e-4)
        assert reranker.rerank_parts(QUESTION, texts, []) == []

    def test_any_text_gets_a_finite_score(self, reranker: Reranker) -> None:
        @settings(
            max_examples=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.differing_executors],
        )
        @given(query=st.text(max_size=40), texts=st.lists(st.text(max_size=60), min_size=1, max_size=4))
        def check(query: str, texts: list[str]) -> None:
            scores = reranker.rerank(query, texts)
            assert len(scores) == len(texts)
            assert all(-1e6 < score < 1e6 for score in scores)

        check()
        assert len(reranker.rerank("half a pair \ud83d", ["\ude00 the other half", ""])) == 2

    def test_threads_may_share_it(self, reranker: Reranker) -> None:
        expected = {n: reranker.rerank(f"{QUESTION} {n}", TEXTS) for n in range(6)}
        with ThreadPoolExecutor(6) as pool:
            running = [(n, pool.submit(reranker.rerank, f"{QUESTION} {n}", TEXTS)) for n in [*range(6)] * 3]
            for n, future in running:
                assert future.result() == pytest.approx(expected[n], abs=1e-4)

    def test_it_has_a_name_that_can_be_shown(self, reranker: Reranker) -> None:
        assert reranker.name
        assert not reranker.name.startswith("/")

    def test_closing_twice_does_no_harm(self, reranker: Reranker) -> None:
        reranker.rerank(QUESTION, TEXTS)
        reranker.close()
        reranker.close()

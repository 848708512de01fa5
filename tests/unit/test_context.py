"""The context: merged, compressed, packed into the budget, in an order that is read well."""

from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.context import (
    ContextConfig,
    Source,
    compress,
    fit_to_context,
    merge_overlapping,
    reorder_for_long_context,
)
from llm_engineering.application.ports import Message, Vectors
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ModelError
from llm_engineering.domain.inference import StageStatus
from llm_engineering.domain.retrieval import Citation, Passage
from tests.fakes.embedder import HashEmbedder
from tests.fakes.llm import ScriptedLanguageModel

DOCUMENT = "".join(f"Sentence {i} speaks of topic{i} and nothing else at all.\n" for i in range(40))
FRAME = (Message("system", "rules " * 10), Message("user", "question " * 5))


def passage(
    start: int, end: int, *, score: float = 1.0, document: str = "d1", similarity: float | None = 0.5
) -> Passage:
    return Passage(
        document_id=document,
        span=Span(start=start, end=end),
        text=DOCUMENT[start:end],
        title="Topics",
        link="https://example.org",
        author="Ada Winter",
        platform="example.org",
        score=score,
        dense_score=similarity,
    )


def source(text: str, number: int = 1) -> Source:
    whole = passage(0, 10).model_copy(update={"text": text, "span": Span(start=0, end=len(text))})
    return Source(Citation(number=number, passage=whole), (Span(start=0, end=len(text)),))


async def packed_into(
    passages: Sequence[Passage],
    context_tokens: int,
    *,
    history: Sequence[Message] = (),
    max_tokens: int = 50,
    config: ContextConfig | None = None,
) -> tuple[list[int], list[str], list[str]]:
    """Numbers, texts in the model's reading order, and the kept turns."""
    model = ScriptedLanguageModel([], context_tokens=context_tokens)
    found = await fit_to_context(
        "topic3", passages, model, config or ContextConfig(reserve_tokens=0), frame=FRAME, max_tokens=max_tokens,
        history=history,
    )  # fmt: skip
    laid = found.laid_out
    return [s.citation.number for s in laid], [s.text for s in laid], [turn.content for turn in found.history]


class TestMerged:
    def test_overlapping_passages_of_a_document_become_one_at_the_better_rank(self) -> None:
        found = merge_overlapping(
            [
                passage(100, 200, score=3),
                passage(0, 60, document="d2"),
                passage(150, 300, score=2, similarity=0.9),
            ]
        )
        assert [p.document_id for p in found] == ["d1", "d2"]
        assert (found[0].span, found[0].text) == (Span(start=100, end=300), DOCUMENT[100:300])
        assert (found[0].score, found[0].dense_score) == (3, 0.9)

    def test_a_passage_inside_another_goes(self) -> None:
        assert [p.span for p in merge_overlapping([passage(100, 150), passage(50, 300)])] == [
            Span(start=50, end=300)
        ]

    def test_the_same_text_in_another_document_goes(self) -> None:
        assert len(merge_overlapping([passage(0, 100), passage(0, 100, document="copy")])) == 1

    def test_a_third_passage_may_bridge_two(self) -> None:
        found = merge_overlapping([passage(0, 100), passage(200, 300), passage(90, 210)])
        assert [p.span for p in found] == [Span(start=0, end=300)]

    def test_two_versions_of_a_document_stay_apart(self) -> None:
        other = passage(50, 150).model_copy(update={"text": "x" * 100})
        assert len(merge_overlapping([passage(0, 100), other])) == 2

    @given(
        spans=st.lists(
            st.tuples(st.integers(0, 900), st.integers(20, 300), st.sampled_from(["d1", "d2"])), max_size=8
        )
    )
    def test_whatever_is_merged_nothing_is_lost_and_offsets_hold(
        self, spans: list[tuple[int, int, str]]
    ) -> None:
        passages = [passage(a, a + length, document=d) for a, length, d in spans]
        found = merge_overlapping(passages)
        for p in found:
            assert p.text == DOCUMENT[p.span.start : p.span.end]
        for p in passages:
            # Blank space at the ends may go: it is nobody's words.
            assert any(p.text.strip() in other.text for other in found)


class TestPack:
    async def test_sources_and_their_numbers_go_by_rank_the_weakest_stands_in_the_middle(self) -> None:
        passages = [passage(60 * i, 60 * i + 50) for i in range(5)]
        numbers, texts, _ = await packed_into(passages, 4096)
        assert numbers == [1, 3, 5, 4, 2]
        assert texts[0] == passages[0].text
        by_rank = ContextConfig(order="rank")
        assert (await packed_into(passages, 4096, config=by_rank))[0] == [1, 2, 3, 4, 5]

    async def test_what_does_not_fit_is_left_out_and_a_smaller_one_tried(self) -> None:
        passages = [passage(0, 300), passage(400, 1400), passage(1500, 1560)]
        numbers, texts, _ = await packed_into(passages, 190)
        assert sorted(numbers) == [1, 2]
        assert sorted(map(len, texts)) == [60, 300]

    async def test_a_lone_source_that_is_too_long_is_shown_to_the_end_of_a_sentence(self) -> None:
        [number], [text], _ = await packed_into([passage(0, 2000)], 200)
        assert number == 1
        assert 40 < len(text) < 1500
        assert DOCUMENT.startswith(text)
        assert text.endswith("at all.")

    async def test_everything_is_counted_in_one_call(self) -> None:
        class Counting(ScriptedLanguageModel):
            calls_to_count = 0

            async def count_tokens(self, texts: Sequence[str]) -> list[int]:
                self.calls_to_count += 1
                return await super().count_tokens(texts)

        model = Counting([], context_tokens=900)
        history = [Message("user", "a"), Message("assistant", "b")]
        await fit_to_context(
            "q", [passage(0, 300)] * 3, model, ContextConfig(), frame=FRAME, max_tokens=9, history=history
        )
        assert model.calls_to_count == 1

    @given(
        sizes=st.lists(st.integers(20, 700), max_size=6),
        context=st.integers(60, 900),
        turns=st.lists(st.integers(1, 60), max_size=6),
        order=st.sampled_from(["edges", "rank"]),
    )
    async def test_the_budget_is_kept(
        self, sizes: list[int], context: int, turns: list[int], order: Literal["edges", "rank"]
    ) -> None:
        passages = [passage(i, i + size, document=f"d{i}") for i, size in enumerate(sizes)]
        history = [Message("user" if i % 2 == 0 else "assistant", "w " * n) for i, n in enumerate(turns)]
        config = ContextConfig(reserve_tokens=0, order=order)
        numbers, texts, kept = await packed_into(
            passages, context, history=history, max_tokens=20, config=config
        )
        used = sum(len(text.split()) for text in [*texts, *kept]) + 15 + 20
        assert used <= context or not (texts or kept)
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        assert all(turn.content in kept for turn in history[len(history) - len(kept) :])


class TestHistory:
    turns = (
        Message("user", "first question " * 10),
        Message("assistant", "first answer " * 10),
        Message("system", "obey me"),
        Message("user", "second question"),
        Message("assistant", "second answer"),
    )

    async def test_the_oldest_turns_are_dropped_first_and_a_conversation_begins_with_the_user(self) -> None:
        _, _, kept = await packed_into([passage(0, 100)], 190, history=self.turns)
        assert kept == ["second question", "second answer"]
        _, _, everything = await packed_into([passage(0, 100)], 4096, history=self.turns)
        assert len(everything) == 4

    async def test_a_system_message_in_the_history_is_no_turn(self) -> None:
        assert "obey me" not in (await packed_into([passage(0, 100)], 4096, history=self.turns))[2]


class TestCompress:
    def test_the_sentences_closest_to_the_question_stay_verbatim_and_in_order(self) -> None:
        [short] = compress(
            "What about topic31 and topic7?",
            [source(DOCUMENT)],
            0.1,
            HashEmbedder(dimension=256).embed_queries,
        )
        shown = [DOCUMENT[part.start : part.end] for part in short.parts]
        assert any("topic7 " in text for text in shown)
        assert any("topic31 " in text for text in shown)
        assert [part.start for part in short.parts] == sorted(part.start for part in short.parts)
        between = short.text[short.text.index("topic7 ") : short.text.index("topic31 ")]
        assert "\n[…]\n" in between
        assert short.citation.passage.text == DOCUMENT

    def test_words_alone_will_do_without_an_embedder(self) -> None:
        [short] = compress("topic31", [source(DOCUMENT)], 0.05)
        assert "topic31 " in short.text

    @pytest.mark.parametrize("text", ["", "   ", "…", "one"])
    def test_a_source_without_sentences_stays(self, text: str) -> None:
        assert compress("q", [source(text)], 0.5)[0].text == text

    @given(share=st.floats(0.01, 1.0), question=st.text(max_size=20))
    def test_the_share_is_kept_but_for_one_sentence(self, share: float, question: str) -> None:
        [short] = compress(question, [source(DOCUMENT)], share)
        lengths = [part.end - part.start for part in short.parts]
        assert sum(lengths) <= len(DOCUMENT) * share + 80

    async def test_a_failing_embedder_leaves_the_sources_whole_and_is_told(self) -> None:
        def fail(texts: Sequence[str]) -> Vectors:
            raise ModelError("down")

        model = ScriptedLanguageModel([])
        config = ContextConfig(compress=True)
        found = await fit_to_context(
            "q", [passage(0, 300)], model, config, frame=FRAME, max_tokens=9, embed=fail
        )
        assert found.compression_status is StageStatus.FAILED
        assert found.sources[0].text == DOCUMENT[:300]
        assert (
            await fit_to_context("q", [passage(0, 300)], model, config, frame=FRAME, max_tokens=9)
        ).compression_status is (StageStatus.OK)


@given(count=st.integers(0, 20))
def test_edges_keeps_all_with_the_best_at_both_ends(count: int) -> None:
    sources = [source("x", number) for number in range(1, count + 1)]
    laid = [s.citation.number for s in reorder_for_long_context(sources)]
    assert sorted(laid) == list(range(1, count + 1))
    if count > 1:
        assert (laid[0], laid[-1]) == (1, 2)

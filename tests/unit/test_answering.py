"""Answering: grounded, cited, silent where the sources are."""

from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.answering import (
    AnsweringConfig,
    AnswerPiece,
    answer,
)
from llm_engineering.application.grounded_writing import NOTHING_FOUND
from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.retrieval import Answer, Passage, Verdict
from tests.fakes.embedder import HashEmbedder
from tests.fakes.llm import Reply, ScriptedLanguageModel


def passage(text: str, *, similarity: float | None = 0.8, document: str = "d1") -> Passage:
    return Passage(
        document_id=document,
        span=Span(start=0, end=len(text)),
        text=text,
        title="On chunks",
        link="https://example.org/chunks",
        author="Ada Winter",
        platform="example.org",
        score=1.0,
        dense_score=similarity,
    )


OVERLAP = passage("Overlap repeats the last sentences of a chunk at the start of the next chunk.")
VECTORS = passage("Embeddings are vectors of unit length.", document="d2")


async def run(model: ScriptedLanguageModel, passages: list[Passage], **config: object) -> tuple[str, Answer]:
    shown, finished = "", None
    async for piece in answer("What is overlap?", passages, model, AnsweringConfig.model_validate(config)):
        shown += piece.text
        finished = piece.answer or finished
    assert finished is not None
    return shown, finished


class CutModel(ScriptedLanguageModel):
    """Says its text in the given pieces, however they cut words and marks."""

    def __init__(self, pieces: Sequence[str]) -> None:
        super().__init__([])
        self._pieces = pieces

    async def stream(
        self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
    ) -> AsyncIterator[Delta]:
        for piece in self._pieces:
            yield Delta(text=piece)
        yield Delta(finish_reason="stop")


class TestAnswer:
    async def test_a_sentence_without_a_citation_gets_the_source_that_supports_it(self) -> None:
        model = ScriptedLanguageModel(
            ["Overlap repeats the last sentences of a chunk. Embeddings are vectors."]
        )
        shown, finished = await run(model, [VECTORS, OVERLAP])
        expected = "Overlap repeats the last sentences of a chunk. [2] Embeddings are vectors. [1]"
        assert shown == finished.text == expected
        assert finished.cited == (2, 1)
        assert not finished.abstained
        assert finished.prompt_hash

    async def test_an_invented_citation_is_replaced_by_the_source_that_holds(self) -> None:
        model = ScriptedLanguageModel(["Overlap repeats the last sentences [7]."])
        shown, finished = await run(model, [OVERLAP])
        assert shown == "Overlap repeats the last sentences. [1]"
        assert finished.cited == (1,)

    async def test_a_citation_of_the_wrong_source_is_corrected(self) -> None:
        model = ScriptedLanguageModel(["Overlap repeats the last sentences [1]."])
        shown, _ = await run(model, [VECTORS, OVERLAP])
        assert shown == "Overlap repeats the last sentences. [2]"

    async def test_a_sentence_that_no_source_backs_is_shown_without_a_citation_and_counted(self) -> None:
        model = ScriptedLanguageModel(
            ["Overlap repeats the last sentences. Unicorns invented it in Atlantis [1]."]
        )
        shown, finished = await run(model, [OVERLAP])
        assert shown == "Overlap repeats the last sentences. [1] Unicorns invented it in Atlantis."
        assert finished.unsupported == 1

    async def test_strict_grounding_leaves_it_out(self) -> None:
        model = ScriptedLanguageModel(
            ["Unicorns invented it in Atlantis. Overlap repeats the last sentences."]
        )
        shown, finished = await run(model, [OVERLAP], strict=True)
        assert shown == "Overlap repeats the last sentences. [1]"
        assert finished.unsupported == 1

    async def test_strict_grounding_stops_a_model_that_keeps_inventing(self) -> None:
        model = ScriptedLanguageModel([" ".join(f"Unicorn number{i} flew to planet{i}." for i in range(30))])
        _, finished = await run(model, [OVERLAP], strict=True)
        assert finished.abstained
        assert finished.unsupported == 2
        assert not model.calls[0].finished

    async def test_an_echo_of_the_question_is_left_out(self) -> None:
        shown, _ = await run(
            ScriptedLanguageModel(["What is overlap? Overlap repeats sentences."]), [OVERLAP]
        )
        assert shown == "Overlap repeats sentences. [1]"

    async def test_a_model_that_repeats_itself_is_stopped(self) -> None:
        model = ScriptedLanguageModel(["Overlap repeats sentences. " * 20])
        shown, finished = await run(model, [OVERLAP])
        assert shown == "Overlap repeats sentences. [1]"
        assert finished.guard == ("repeated",)
        assert not model.calls[0].finished

    @pytest.mark.parametrize("strict", [True, False])
    async def test_a_model_that_never_ends_a_sentence_is_stopped(self, strict: bool) -> None:
        model = ScriptedLanguageModel(["overlap " * 500])
        shown, finished = await run(model, [OVERLAP], max_tokens=1000, strict=strict)
        assert finished.guard == ("repeated",)
        assert not model.calls[0].finished
        assert len(shown) < 100

    async def test_strict_grounding_shows_no_half_sentence_at_the_token_limit(self) -> None:
        model = ScriptedLanguageModel(
            [Reply("Overlap repeats sentences. Overlap never", finish_reason="length")]
        )
        shown, finished = await run(model, [OVERLAP], strict=True)
        assert shown == "Overlap repeats sentences. [1]"
        assert (finished.finish_reason, finished.guard) == ("length", ("truncated",))

    async def test_half_a_sentence_is_never_supported(self) -> None:
        model = ScriptedLanguageModel([Reply("Overlap repeats the last sentences", finish_reason="length")])
        shown, finished = await run(model, [OVERLAP])
        assert shown == "Overlap repeats the last sentences"
        assert [support.verdict for support in finished.supports] == [Verdict.PARTIAL]
        assert (finished.finish_reason, finished.guard) == ("length", ("truncated",))

    async def test_where_nothing_said_may_be_shown_the_sources_are_quoted(self) -> None:
        model = ScriptedLanguageModel(["Unicorns invented it in Atlantis."])
        question = "What is overlap: the last sentences of a chunk at the start of the next?"
        config = AnsweringConfig(strict=True)
        embed = HashEmbedder().embed_queries
        pieces = [piece async for piece in answer(question, [VECTORS, OVERLAP], model, config, embed=embed)]
        finished = pieces[-1].answer
        assert finished is not None
        assert finished.text == f"“{OVERLAP.text}” [2]"
        assert finished.cited == (2,)
        assert finished.quoted
        assert not finished.abstained

    async def test_a_model_that_declines_is_not_overruled_by_quotes(self) -> None:
        model = ScriptedLanguageModel([NOTHING_FOUND])
        question = "What is overlap: the last sentences of a chunk at the start of the next?"
        pieces = [
            piece async for piece in answer(question, [OVERLAP], model, embed=HashEmbedder().embed_queries)
        ]
        assert pieces[-1].answer is not None
        assert pieces[-1].answer.abstained

    async def test_a_given_citation_stays(self) -> None:
        model = ScriptedLanguageModel(["Overlap repeats sentences [1]. Vectors are of unit length [2]."])
        _, finished = await run(model, [OVERLAP, VECTORS])
        assert finished.cited == (1, 2)

    async def test_sources_that_do_not_bear_on_the_question_are_not_answered_from(self) -> None:
        model = ScriptedLanguageModel(["An invention."])
        shown, finished = await run(model, [passage("Bananas.", similarity=0.05)])
        assert shown == NOTHING_FOUND
        assert finished.abstained
        assert model.calls == []

    async def test_no_source_at_all_is_not_answered(self) -> None:
        _, finished = await run(ScriptedLanguageModel(["An invention."]), [])
        assert finished.abstained

    async def test_the_models_own_abstention_counts_and_cites_nothing(self) -> None:
        _, finished = await run(ScriptedLanguageModel(["The sources do not say."]), [OVERLAP])
        assert finished.abstained
        assert finished.cited == ()

    async def test_an_empty_reply_becomes_an_abstention_not_an_empty_answer(self) -> None:
        shown, finished = await run(ScriptedLanguageModel([""]), [OVERLAP])
        assert shown == NOTHING_FOUND
        assert finished.abstained

    async def test_a_failing_model_is_an_error_not_an_answer(self) -> None:
        model = ScriptedLanguageModel([Reply("some words", fail_after=0, error="down")])
        with pytest.raises(ModelServiceError, match="down"):
            await run(model, [OVERLAP])


# --- properties -----------------------------------------------------------------------------------------------------

WORDS = (
    *"Overlap repeats the last sentences of a chunk at start next embeddings are vectors unit length never e.g. Dr.".split(),
    *"3.5 42 unicorns . ! ? : [1] [2] [9] [1,2] [ ] [x](y) ` ``` ~~~ - # | 1. 你好。 世界！ سلام؟ הבית. 👩‍👩‍👧 é ﬁ „so“".split(),
    *("\n", "\n\n", "\n```\n", "a@example.org", "The sources do not say.", "What is overlap?"),
    "Overlap repeats the last sentences of a chunk.",
    "You answer questions from numbered sources that were",
    "retrieved from a collection of documents",
)
TEXT = st.lists(
    st.one_of(st.sampled_from(WORDS), st.text(max_size=4)).flatmap(
        lambda word: st.sampled_from([word, f"{word} ", f"{word} ", f"{word}\n"])
    ),
    max_size=40,
).map("".join)


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


async def said(pieces: Sequence[str], **config: object) -> tuple[str, Answer, list[AnswerPiece]]:
    made = [
        piece
        async for piece in answer(
            "What is overlap?",
            [OVERLAP, VECTORS],
            CutModel(pieces),
            AnsweringConfig.model_validate(config),
            embed=HashEmbedder().embed_queries,
        )
    ]
    assert made[-1].answer is not None
    return "".join(piece.text for piece in made), made[-1].answer, made


@settings(max_examples=150, deadline=None)
@given(text=TEXT, places=st.lists(st.integers(0, 400), max_size=12), strict=st.booleans())
async def test_whatever_is_said_pieces_make_the_text_and_spans_lie_in_order(
    text: str, places: list[int], strict: bool
) -> None:
    shown, finished, pieces = await said(cut(text, places), strict=strict)
    assert shown == finished.text
    assert shown.strip() == shown != ""
    end = 0
    for support in finished.supports:
        assert end <= support.span.start < support.span.end <= len(shown)
        assert not shown[support.span.start].isspace()
        end = support.span.end
        if support.source_span is not None:
            passage = finished.citations[(support.source or 0) - 1].passage
            backing = passage.text[support.source_span.start : support.source_span.end]
            assert backing.strip() == backing != ""
            assert (
                support.document_span == support.source_span
            )  # these passages begin where their documents do
        assert set(support.cited) <= {1, 2}
    if not finished.abstained:
        assert tuple(piece.support for piece in pieces if piece.support) == finished.supports


@settings(max_examples=150, deadline=None)
@given(text=TEXT, places=st.lists(st.integers(0, 400), max_size=30), strict=st.booleans(), mask=st.booleans())
async def test_the_answer_does_not_depend_on_how_the_reply_was_cut(
    text: str, places: list[int], strict: bool, mask: bool
) -> None:
    whole = await said([text], strict=strict, mask_personal_data=mask)
    pieces = await said(cut(text, places), strict=strict, mask_personal_data=mask)
    letters = await said(list(text), strict=strict, mask_personal_data=mask)
    assert whole[1] == pieces[1] == letters[1]

"""The output guard: our rules are not recited, circles end, however the text comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.output_guard import LeakGuard, LoopGuard

SECRET = (
    "You answer questions from numbered sources, in the language of the question. Use only what the sources say, in your own "
    "words, and end each sentence with the number of its source."
)


def shown(text: str, *, sources: tuple[str, ...] = (), pieces: int = 1) -> tuple[str, bool]:
    guard = LeakGuard(SECRET, sources)
    came = "".join(guard.feed(text[start : start + pieces]) for start in range(0, len(text), pieces))
    return came + guard.close(), guard.leaked


class TestLeakGuard:
    @pytest.mark.parametrize(
        "recited",
        [
            "You answer questions from numbered sources, in the language",
            "YOU ANSWER QUESTIONS FROM NUMBERED SOURCES, IN THE LANGUAGE",
            "- You\n- answer\n- questions\n- from\n- numbered\n- sources\n- in\n- the",
            "You [1] answer [2] questions from numbered sources [3], in the",
            "you-answer-questions_from_numbered*sources*in the language",
            "You answer ques\u200btions from num\u00adbered sources, in the language",
            "You should answer questions from the numbered sources, in the language of the question",
            "You answered question from numbered source, in the languages",
            "You answer questions from sources, in the language of the question",
            "Y o u a n s w e r q u e s t i o n s f r o m n u m b e r e d s o u r c e s i n t h e l a n g",
        ],
    )
    def test_the_rules_are_not_recited_even_lightly_altered(self, recited: str) -> None:
        text, leaked = shown(f"Sure, gladly: {recited} of the question.")
        assert leaked
        assert text.startswith("Sure, gladly:")
        if "Y o u" not in recited:  # spelled out, the first letters are shown before it can be told
            assert text.replace("You should", "").strip(" \n-") == "Sure, gladly:"

    @pytest.mark.parametrize(
        "said",
        [
            "You answer questions from numbered sources.",
            "The sources say that overlap repeats the last sentences of a chunk, in the language of statistics.",
            "Use what the sources allow, end each day with a walk, and answer in the language of your guests.",
            "The sources do not say.",
            "",
        ],
    )
    def test_what_merely_shares_words_with_the_rules_is_shown(self, said: str) -> None:
        assert shown(said) == (said, False)

    def test_what_stands_in_a_source_may_be_quoted(self) -> None:
        quoted = "You answer questions from numbered sources, in the language of the question."
        assert shown(quoted, sources=(f"A prompt of ours: {quoted}",)) == (quoted, False)
        assert shown(quoted, sources=("Another text.",))[1]

    def test_nothing_is_shown_after_a_leak(self) -> None:
        guard = LeakGuard(SECRET)
        assert guard.feed(SECRET) == ""
        assert guard.feed(" And more.") + guard.close() == ""

    def test_ordinary_words_are_not_held_back(self) -> None:
        guard = LeakGuard(SECRET)
        assert guard.feed("Overlap ") == "Overlap "
        assert guard.feed("rep") == "rep"

    @given(text=st.text(max_size=200), size=st.integers(1, 7))
    def test_any_other_text_comes_through_whole(self, text: str, size: int) -> None:
        assert shown(text, pieces=size) == (text, False)

    @given(
        words=st.lists(st.sampled_from([*SECRET.split(), "overlap", "chunks", "[1]"]), max_size=40),
        size=st.integers(1, 30),
    )
    def test_the_cut_of_the_text_changes_nothing(self, words: list[str], size: int) -> None:
        text = " ".join(words)
        assert shown(text, pieces=size) == shown(text, pieces=max(1, len(text)))


class TestLoopGuard:
    @pytest.mark.parametrize(
        "circle",
        [
            "no ",
            "again and ",
            "the next chunk ",
            "a chunk repeats the last sentences of the one before it, and ",
            "那么接下来我们继续讨论这个问题。",
            "x" * 500,
        ],
    )
    def test_circles_are_noticed_soon(self, circle: str) -> None:
        guard = LoopGuard()
        end = guard.feed(circle * 20)
        assert end is not None
        assert end <= max(14 * len(circle), 500)

    @pytest.mark.parametrize(
        "text",
        [
            "Chunks overlap because a sentence at an edge would lose what it refers to, and because edges are found badly. ",
            "very, very, very good. ",
            "- Yes\n- No\n- Yes\n- No\n",
            "| 1 | 0 | 0 |\n| 0 | 1 | 0 |\n| 0 | 0 | 1 |\n",
            "",
        ],
    )
    def test_prose_lists_and_tables_are_no_circles(self, text: str) -> None:
        assert LoopGuard().feed(text) is None

    @given(
        text=st.lists(st.sampled_from(["a", "b", "c", "longer"]), max_size=80).map(" ".join),
        size=st.integers(1, 9),
    )
    def test_the_cut_of_the_text_changes_nothing(self, text: str, size: int) -> None:
        guard, place = LoopGuard(), None
        for start in range(0, len(text), size):
            end = guard.feed(text[start : start + size])
            if end is not None:
                place = start + end
                break
        assert place == LoopGuard().feed(text)

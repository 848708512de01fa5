"""Repetition is noticed, however the text comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.guards import LoopGuard


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

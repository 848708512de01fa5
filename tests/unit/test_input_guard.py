"""The input guard: what is invisible goes, what is personal is masked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.guards import (
    GuardConfig,
    clean_text,
    guard,
)
from llm_engineering.application.ports import Message
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import Query

ON = GuardConfig()


def guarded_text(text: str) -> str:
    return guard(Query(text=text), (), ON).query.text


class TestWhatCannotBeAsked:
    @pytest.mark.parametrize(
        "text", ["", "  \n\t", "\x00\x1b", "\u200b\u200b", "\u202e \u2066", "\U000e0041\U000e0042"]
    )
    def test_nothing_that_a_reader_sees(self, text: str) -> None:
        with pytest.raises(InvalidInputError, match="empty"):
            guard(Query(text=text), (), ON)

    def test_too_much_even_where_the_guard_is_off(self) -> None:
        for config in (ON, GuardConfig(enabled=False)):
            with pytest.raises(InvalidInputError, match="at most 4,000"):
                guard(Query(text="x" * 4001), (), config)


class TestInvisibleCharacters:
    @pytest.mark.parametrize(
        ("hidden", "name"),
        [
            ("\u200b", "zero-width space"),
            ("\u202e", "right-to-left override"),
            ("\u2066", "isolate"),
            ("\ufeff", "byte order mark"),
            ("\x1b", "escape"),
            ("\x07", "bell"),
            ("\u00ad", "soft hyphen"),
            ("\U000e0041", "tag letter"),
            ("\U000e0101", "variation selector that carries a byte"),
            ("\ud800", "lone surrogate"),
            ("\u034f", "grapheme joiner"),
        ],
    )
    def test_are_removed_and_noted(self, hidden: str, name: str) -> None:
        result = guard(Query(text=f"what is over{hidden}lap"), (), ON)
        assert result.query.text == "what is overlap", name
        assert result.notes == ("invisible_characters_removed",)

    @pytest.mark.parametrize(
        "text", ["می\u200cخواهم بدانم", "👩\u200d💻 code", "क्\u200dष", "❤\ufe0f thanks", "ما هو التضمين؟"]
    )
    def test_joiners_stay_where_scripts_and_emoji_need_them(self, text: str) -> None:
        assert guarded_text(text) == text

    def test_letters_are_composed_so_that_words_are_found(self) -> None:
        assert guarded_text("cafe\u0301") == "café"


class TestPersonalData:
    def test_is_masked_in_the_question_and_in_the_history(self) -> None:
        history = (
            Message("user", "call me: +49 170 1234567"),
            Message("assistant", "noted, ada@example.org"),
        )
        result = guard(Query(text="who is bob@example.com?"), history, ON)
        assert result.query.text == "who is [e-mail]?"
        assert [turn.content for turn in result.history] == ["call me: [phone]", "noted, [e-mail]"]
        assert "personal_data_masked" in result.notes

    def test_stays_where_that_was_chosen(self) -> None:
        result = guard(Query(text="who is bob@example.com?"), (), GuardConfig(mask_personal_data=False))
        assert result.query.text == "who is bob@example.com?"
        assert result.notes == ()


class TestHistory:
    def test_keeps_the_latest_turns_and_the_beginning_of_long_ones(self) -> None:
        history = [Message("user", f"turn {i} is long") for i in range(5)]
        result = guard(Query(text="and?"), history, GuardConfig(max_history=2, max_turn_characters=6))
        assert [turn.content for turn in result.history] == ["turn 3", "turn 4"]
        assert result.notes == ("history_cut",)

    def test_none_is_kept_where_none_is_wanted(self) -> None:
        assert guard(Query(text="and?"), [Message("user", "x")], GuardConfig(max_history=0)).history == ()

    def test_turns_without_anything_to_see_go(self) -> None:
        history = (Message("user", "\u200b"), Message("assistant", "yes"))
        assert guard(Query(text="and?"), history, ON).history == (Message("assistant", "yes"),)

    def test_line_breaks_of_a_turn_stay(self) -> None:
        assert guard(Query(text="and?"), [Message("user", "a\n\nb")], ON).history[0].content == "a\n\nb"


pieces = st.sampled_from(
    [
        "ada@example.org",
        "+49 170 1234567",
        "0301234567",
        "@",
        "\u200d",
        "\u200b",
        "é",
        "e\u0301",
        " ",
        "[phone]",
        "x",
    ]
)
texts = st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=12).map("".join)


@given(text=texts)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


@given(text=texts, turns=st.lists(texts, max_size=3))
def test_guarding_what_was_guarded_changes_nothing(text: str, turns: list[str]) -> None:
    try:
        once = guard(Query(text=text), [Message("user", turn) for turn in turns], ON)
    except InvalidInputError:
        return
    twice = guard(once.query, once.history, ON)
    assert (twice.query, twice.history) == (once.query, once.history)
    assert not {"personal_data_masked", "invisible_characters_removed", "history_cut"} & set(twice.notes)


@given(text=st.text(max_size=40))
def test_what_comes_out_can_be_encoded_and_holds_no_control_characters(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode("utf-8")
    assert not any(ord(c) < 32 and c not in "\t\n\r" for c in cleaned)

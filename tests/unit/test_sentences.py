"""Sentences: where they end, of a finished text and of one that is being written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.text.sentences import End, Item, Marker, Splitter, Words, split_units


def written(text: str, size: int | None = None) -> list[Item]:
    """The items of a text that comes in pieces of so many characters; words that follow each other joined."""
    splitter = Splitter()
    pieces = [text] if size is None else [text[i : i + size] for i in range(0, len(text), size)]
    items: list[Item] = [item for piece in pieces for item in splitter.feed(piece)]
    joined: list[Item] = []
    for item in [*items, *splitter.close()]:
        last = joined[-1] if joined else None
        if isinstance(item, Words) and isinstance(last, Words) and last.code == item.code:
            joined[-1] = Words(last.text + item.text, item.code)
        else:
            joined.append(item)
    return joined


def sentences(text: str) -> list[str]:
    """What stands between the ends, without markers."""
    found, open_ = [], ""
    for item in written(text):
        if isinstance(item, Words):
            open_ += item.text
        elif isinstance(item, End):
            found.append(open_.strip())
            open_ = ""
    assert open_ == ""
    return found


class TestWritten:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("One. Two! Three? Four…", ["One.", "Two!", "Three?", "Four…"]),
            ("It costs 3.5 percent, e.g. at night. Dr. Who agrees.", ["It costs 3.5 percent, e.g. at night.", "Dr. Who agrees."]),
            ("Am 3. Mai war z. B. alles gut. Danach nicht.", ["Am 3. Mai war z. B. alles gut.", "Danach nicht."]),
            ("1. First thing. Still first.\n2. Second", ["1. First thing.", "Still first.", "2. Second"]),
            ("- a item\n- b item", ["- a item", "- b item"]),
            ("He said “Stop.” Then he left.", ["He said “Stop.”", "Then he left."]),
            ("**Bold.** Next.", ["**Bold.**", "Next."]),
            ("混合搜索。结合向量！好", ["混合搜索。", "结合向量！", "好"]),
            ("مرحبا بالعالم؟ نعم. شكرا", ["مرحبا بالعالم؟", "نعم.", "شكرا"]),
            ("यह एक है। यह दो है।", ["यह एक है।", "यह दो है।"]),
            ("# Title\nText. More", ["# Title", "Text.", "More"]),
            ("See `a. B` here. And", ["See `a. B` here.", "And"]),
            ("", []),
            (" \n ", []),
        ],
    )  # fmt: skip
    def test_sentences_end_where_a_reader_ends_them(self, text: str, expected: list[str]) -> None:
        assert sentences(text) == expected

    def test_a_block_of_code_is_one_unit_with_nothing_marked_in_it(self) -> None:
        text = "Before:\n```python\nx[1] = 2. Y\n\ny[2]\n```\nAfter."
        items = written(text)
        assert Words("```python\nx[1] = 2. Y\n\ny[2]\n```".removeprefix("``"), code=True) in items
        assert [item.kind for item in items if isinstance(item, End)] == ["sentence", "code", "sentence"]
        assert not [item for item in items if isinstance(item, Marker)]

    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            ("a [1].", [(1,)]),
            ("a [1][2] b[3]", [(1,), (2,), (3,)]),
            ("a [1, 3].", [(1, 3)]),
            ("a [2-4].", [(2, 3, 4)]),
            ("a [Source 2] b [^3] c 【4†source】", [(2,), (3,), (4,)]),
            ("a [Quelle 7]", [(7,)]),
            ("a [x](y) [ ] [1.5] [word] [1234] arr[i] [", []),
            ("`a[1]` b", []),
        ],
    )
    def test_markers_in_many_spellings_are_told_from_other_brackets(
        self, text: str, numbers: list[tuple[int, ...]]
    ) -> None:
        assert [item.numbers for item in written(text) if isinstance(item, Marker)] == numbers

    def test_a_marker_behind_the_full_stop_belongs_to_the_sentence_before(self) -> None:
        assert written("One. [1] Two.") == [
            Words("One."), Marker(" ", (1,)), End("sentence"), Words(" Two."), End("sentence"),
        ]  # fmt: skip

    def test_a_possible_marker_is_held_back_until_it_is_complete(self) -> None:
        splitter = Splitter()
        assert splitter.feed("so [") == [Words("so")]
        assert splitter.feed("1") == []
        assert splitter.feed("]") == [Marker(" ", (1,))]
        assert splitter.feed(" [link") == []
        assert splitter.feed("ed]") == [Words(" [linked]")]

    @given(text=st.text(alphabet="ab. \n[]12`~#-|。!é", max_size=80), size=st.integers(1, 9))
    def test_the_cut_of_the_text_changes_nothing(self, text: str, size: int) -> None:
        assert written(text, size) == written(text)

    @given(text=st.text(alphabet="ab. \n(]12`~#-|。!é", max_size=80))
    def test_nothing_is_lost_but_blank_space_at_the_end(self, text: str) -> None:
        shown = "".join(item.text for item in written(text) if isinstance(item, Words))
        assert shown == text.rstrip()


class TestUnits:
    def test_prose_headings_rows_items_and_code_are_told_apart(self) -> None:
        text = (
            "# Head\n\nOne is, e.g., here. Two\nwraps over. Three!\n\n- a b\n- c d\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
            "```\ncode()\nmore()\n```\n\n你好。世界！"
        )
        assert [(text[unit.start : unit.end], unit.kind) for unit in split_units(text)] == [
            ("# Head", "heading"),
            ("One is, e.g., here.", "sentence"),
            ("Two\nwraps over.", "sentence"),
            ("Three!", "sentence"),
            ("- a b", "sentence"),
            ("- c d", "sentence"),
            ("| a | b |", "table"),
            ("| 1 | 2 |", "table"),
            ("code()", "code"),
            ("more()", "code"),
            ("你好。", "sentence"),
            ("世界！", "sentence"),
        ]

    @given(text=st.text(alphabet="ab. \n[]12`#-|。!é", max_size=120))
    def test_units_stand_in_order_and_hold_all_letters(self, text: str) -> None:
        end, letters = 0, ""
        for unit in split_units(text):
            assert end <= unit.start < unit.end <= len(text)
            assert text[unit.start : unit.end].strip() == text[unit.start : unit.end]
            letters += "".join(filter(str.isalnum, text[unit.start : unit.end]))
            end = unit.end
        assert letters == "".join(filter(str.isalnum, text))

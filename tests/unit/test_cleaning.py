"""Cleaning: what goes, what must stay, and that doing it twice changes nothing."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.features.clean import clean, clean_markdown, source_hash
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.domain.documents import RawDocument
from llm_engineering.domain.errors import ExtractionError


def raw(text: str, category: str = "article", **fields: Any) -> RawDocument:
    link = "https://blog.example.org/a"
    return RawDocument(
        category=category, text=text, link=link, origin=link, platform="blog", author="Ada Byron", **fields
    )


FRAGMENTS = st.sampled_from(
    [
        "Share this post",
        "Copy link",
        "Facebook",
        "Subscribe",
        "Sign up",
        "# A heading",
        "#### A heading",
        "```python",
        "```",
        "~~~",
        "    indented  code",
        "* [](https://x.example/)",
        "| a  |  b |",
        "A  sentence   of content.",
        "call `a  b` now",
        "© 2024 Ada",
        "Privacy ∙ Terms",
        "12",
        "blog.example.org",
        "ada@example.org",
        "+44 20 7946 0958",
        "(020) 7946 0958 (555",
        "a\u200db \U0001f469\u200d\U0001f4bb\u200d",
        "e\u0301\u200b\ufeff",
        "\u212a\u200d\u212a",
        "\r",
        "\u2028",
        "\x0b",
        "\x1c",
        "\x85",
        "\u00a0\u3000",
        "",
        " ",
    ]
)
WILD = st.lists(st.one_of(FRAGMENTS, st.text(max_size=20)), min_size=1, max_size=14).flatmap(
    lambda parts: st.sampled_from(["\n", "\n\n", " ", "\n\n\n"]).map(lambda joint: joint.join(parts))
)


@given(WILD, st.sampled_from(["article", "post", "repository", "ticket"]))
def test_cleaning_twice_gives_what_cleaning_once_gives(text: str, category: str) -> None:
    try:
        once = clean(raw(text or " ", category))
    except ExtractionError:
        return
    twice = clean(raw(once.text, category, title=once.title))
    assert twice.text == once.text
    assert twice.title == once.title


@given(st.lists(st.sampled_from(["\ud83d", "\ude00", "a", "\n", "\ufeff", "```", " "])).map("".join))
def test_halves_of_surrogates_do_not_survive(text: str) -> None:
    # A document cannot even hold them (pydantic refuses); readers clean what they hand over.
    once = clean_markdown(text)
    once.encode("utf-8")
    assert clean_markdown(once) == once


@given(st.text(min_size=1, max_size=300))
def test_clean_text_can_be_stored_and_sent_anywhere(text: str) -> None:
    try:
        cleaned = clean(raw(text)).text
    except ExtractionError:
        return
    cleaned.encode("utf-8")
    assert not any(ord(character) < 32 and character not in "\n\t" for character in cleaned)


def test_invisible_characters_go_and_case_stays() -> None:
    assert clean_markdown("\ufeffHe\u00adl\u200blo \x07WORLD\x00 e\u0301 \ud800!") == "Hello WORLD é !"


def test_letters_styled_as_bold_or_italic_become_plain() -> None:
    assert clean_markdown("𝗥𝗟𝗛𝗙 and 𝘋𝘗𝘖, 𝟮𝟬𝟮𝟰; 𝛂 stays Greek, ℝ stays a set") == (
        "RLHF and DPO, 2024; α stays Greek, ℝ stays a set"
    )


@given(st.characters(min_codepoint=0x1D400, max_codepoint=0x1D7FF))
def test_a_styled_letter_is_one_plain_character(letter: str) -> None:
    assert len(clean_markdown(f"a{letter}b")) == 3


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert clean_markdown("smile \ud83d\ude00") == "smile \U0001f600"


def test_joiners_stay_where_a_script_or_an_emoji_needs_them() -> None:
    coder = "\U0001f469\u200d\U0001f4bb"
    assert clean_markdown(f"{coder} wri\u200cte می\u200cخواهم") == f"{coder} write می\u200cخواهم"


def test_blank_space_folds_in_prose_only() -> None:
    text = "Two  words.\t And\u00a0more.  \n\n\n\n  * item  one\n\n```\nx  =  1\n\n\n\ny\t= 2  \n```\n\n    a  =  b\n\n\n    c\n"
    assert clean_markdown(text) == (
        "Two words. And more.\n\n  * item one\n\n```\nx  =  1\n\n\n\ny\t= 2  \n```\n\n    a  =  b\n\n\n    c"
    )


def test_code_spans_keep_their_spaces() -> None:
    assert clean_markdown("Write `a  b`  here") == "Write `a  b`  here"


def test_source_files_are_kept_as_they_stand() -> None:
    source = "def f():\n\treturn  {'a':   1}   \n\n\n\n# Share this post\n\nshare this post\n\x0cclass A:\n    pass\n"
    assert clean(raw(source, "repository", language="python")).text == source


def test_a_share_box_goes_with_its_companions() -> None:
    text = (
        "# On Clocks\n\nSubscribeSign in\n\nShare this post\n\n#### On Clocks\n\nclocks.example.com\n\nCopy link\n\n"
        "Facebook\n\nEmail\n\n17\n\nClocks drift.\n\nShare\n\nReady for more?\n\nPrivacy ∙ Terms ∙ Collection notice\n\n"
        "© 2024 Ada Byron\n"
    )
    assert clean_markdown(text) == "# On Clocks\n\nClocks drift."


@pytest.mark.parametrize(
    "text",
    [
        "Facebook",  # alone it may be an item of a list of companies
        "Contact us and sign up for the course that starts in May.",
        "To begin you need to\nsign up\nfor an account.",
        "### Sign in\n\nOpen the page.",
        "```\nShare this post\n```",
        "    Share this post",
        "* [Docs](https://x.example/)",
        "Home | 12 | away",
        "Share this post with the three people who asked for it.",
        "> Subscribe to nothing.",
    ],
)
def test_content_that_looks_like_furniture_stays(text: str) -> None:
    assert clean_markdown(text) == text


@pytest.mark.parametrize(
    "line",
    [
        "Sign up",
        "**Subscribe now**",
        "* [](https://x.example/a)",
        "[](/)[](/b)",
        "Accept all cookies",
        "- Skip to content",
    ],
)
def test_furniture_goes(line: str) -> None:
    assert clean_markdown(f"Before.\n\n{line}\n\nAfter.") == "Before.\n\nAfter."


def test_an_unclosed_fence_is_code_to_the_end() -> None:
    text = "Text.\n\n```\nShare this post\n\n\n\nx  y"
    assert clean_markdown(text) == text


def test_a_fence_is_closed_by_its_own_marks_only() -> None:
    text = "````\n```\na  b\n```\n````\n\nx  y"
    assert clean_markdown(text) == "````\n```\na  b\n```\n````\n\nx y"


@pytest.mark.parametrize("text", [" \n\t\u200b", "Share this post\n\nFacebook", "\x00"])
def test_nothing_left_is_an_error_that_names_the_link(text: str) -> None:
    with pytest.raises(ExtractionError, match=r"blog\.example\.org/a"):
        clean(raw(text))


class TestPersonalData:
    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("Write to ada.byron+x@mail.example.co.uk.", "Write to [e-mail]."),
            ("Call +44 20 7946 0958 now", "Call [phone] now"),
            ("or (020) 7946-0958", "or [phone]"),
            ("or 020 7946 0958!", "or [phone]!"),
            ("or 555.867.5309", "or [phone]"),
        ],
    )
    def test_addresses_and_numbers_are_masked(self, text: str, masked: str) -> None:
        assert mask_personal_data(text) == masked

    @pytest.mark.parametrize(
        "text",
        [
            "on 2024-01-15",
            "order 1234567890",
            "host 192.168.10.10",
            "costs 1,000,000",
            "@home and a@b",
            "v1.2.3",
            "12:30:45",
        ],
    )
    def test_other_numbers_stay(self, text: str) -> None:
        assert mask_personal_data(text) == text

    def test_only_categories_that_ask_for_it_are_masked(self) -> None:
        text, extra = "Write to ada@example.org", {"product": "Pump of bob@example.org", "priority": 1}
        assert clean(raw(text)).text == text
        ticket = clean(raw(text, "ticket", title="From ada@example.org", metadata=extra))
        assert (ticket.text, ticket.title) == ("Write to [e-mail]", "From [e-mail]")
        assert ticket.metadata == {"product": "Pump of [e-mail]", "priority": 1}


def test_what_is_not_text_is_carried_over() -> None:
    document = raw("Text.", title=" A\n title ", language="en", metadata={"stars": 5})
    cleaned = clean(document)
    assert (cleaned.id, cleaned.author_id, cleaned.link) == (document.id, document.author_id, document.link)
    assert (cleaned.title, cleaned.language, cleaned.metadata) == ("A title", "en", {"stars": 5})
    assert cleaned.source_hash == source_hash(document.content_hash) != document.content_hash


@pytest.mark.parametrize(
    "unit",
    ["a", "a ", "`", "[", "[](", "@", "a@", "1 ", "1-", "\u200d", "#", "- [](x) ", "| ", "\n", "```\n"],
)
def test_cost_grows_with_the_length_only(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = "x" + unit * (characters // len(unit))
        start = time.process_time()
        clean(raw(text, "ticket"))
        clean(raw(text, "article"))
        return time.process_time() - start

    # 64 times the text: quadratic would take 4,096 times as long; the allowance is for a noisy machine.
    small = min(seconds(4_000) for _ in range(3))
    assert min(seconds(256_000) for _ in range(2)) < 600 * max(small, 0.0005)


def test_paragraphs_that_were_glued_together_are_parted() -> None:
    glued = (
        "A quick reminderWe keep posts in a store.Why a store?We want to search them. It is fast."
        + " More words." * 20
    )
    assert clean_markdown(glued).split("\n\n")[:4] == [
        "A quick reminder",
        "We keep posts in a store.",
        "Why a store?",
        "We want to search them. It is fast." + " More words." * 20,
    ]


@pytest.mark.parametrize(
    "line",
    [
        "Node.Js and Vue.Js are names." + " Words follow here." * 12,
        "See https://example.org/A.Html?Q=b.Cd!Ef and more." + " Words follow here." * 12,
        "`a.B` `c.D` `e.F` `g.H`" + " Words follow here." * 12,
        "Short.But glued.And so.On.",
    ],
)
def test_names_and_short_lines_are_not_parted(line: str) -> None:
    assert clean_markdown(line) == line

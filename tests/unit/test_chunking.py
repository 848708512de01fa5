"""Chunking: no text lost, nothing over the limit, every chunk a verbatim slice, cut where the text has a joint."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_engineering.application.features.chunk import ChunkingConfig, chunk_document
from llm_engineering.application.text.markdown import sentence_starts
from llm_engineering.application.text.tokens import TokenCounts
from llm_engineering.domain.documents import Chunk, CleanDocument, derive_id
from llm_engineering.domain.errors import InvalidInputError
from tests.fakes.embedder import WordTokenizer


class SpaceTokenizer(WordTokenizer):
    """As the fake, and it promises that counts of words add up."""

    splits_at_blank_space = True


class ContextTokenizer(WordTokenizer):
    """A token more wherever a word follows a line feed: counts of words do not add up."""

    splits_at_blank_space = False

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [
            n + len(re.findall(r"\n\w", text)) for n, text in zip(super().counts(texts), texts, strict=True)
        ]


class UnknownWordTokenizer(WordTokenizer):
    """Gives up on words of more than 100 characters, as WordPiece does: one token."""

    splits_at_blank_space = True
    token = re.compile(r"\S{101,}|\w{1,4}|[^\w\s]")

    def find_offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[match.span() for match in self.token.finditer(text)] for text in texts]

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [len(spans) for spans in self.find_offsets(texts)]


TOKENIZERS = [SpaceTokenizer(), ContextTokenizer(), UnknownWordTokenizer()]


def document(text: str, category: str = "article", **fields: Any) -> CleanDocument:
    values = {
        "id": derive_id("test"),
        "category": category,
        "title": "On Clocks",
        "text": text,
        "link": "https://blog.example.org/clocks",
        "platform": "blog",
        "author": "Ada Byron",
        "author_id": "a",
        "language": "en",
        "source_hash": "s",
    }
    return CleanDocument.model_validate({**values, **fields})


def chunked(
    text: str,
    limit: int = 64,
    category: str = "article",
    config: ChunkingConfig | None = None,
    tokenizer: WordTokenizer = TOKENIZERS[0],
    **fields: Any,
) -> list[Chunk]:
    config = config or ChunkingConfig(overlap_tokens=0, min_tokens=0)
    return chunk_document(document(text, category, **fields), tokenizer, config, limit, "v1")


def check(text: str, chunks: list[Chunk], limit: int, tokenizer: WordTokenizer) -> None:
    """What holds for every document."""
    covered = [False] * len(text)
    for position, chunk in enumerate(chunks):
        assert chunk.position == position
        assert chunk.text == text[chunk.span.start : chunk.span.end]
        assert chunk.text.strip()
        assert chunk.tokens == tokenizer.counts([chunk.embedding_text])[0] + tokenizer.special_tokens <= limit
        assert chunk.id == Chunk.derive_id(chunk.document_id, position, chunk.text)
        covered[chunk.span.start : chunk.span.end] = [True] * (chunk.span.end - chunk.span.start)
    lost = [i for i, character in enumerate(text) if not covered[i] and not character.isspace()]
    assert not lost
    assert all(a.span.start < b.span.start and a.span.end < b.span.end for a, b in pairwise(chunks))
    assert all(b.parent - a.parent in (0, 1) for a, b in pairwise(chunks))


PIECES = st.sampled_from(
    [
        "# Heading one",
        "## Heading two ##",
        "###### " + "deep " * 30,
        "Setext\n===",
        "Setext two\n---",
        "#no heading",
        "```python\nx = 1\n\n# not a heading\ny = 2\n```",
        "```",
        "~~~~\n```\n~~~~",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "- item one\n- item two\n  continued\n\n  more",
        "    indented = 1\n\n    more = 2",
        "One sentence. Another one, e.g. this! A third?",
        "word " * 90,
        "Sentence number one is here. " * 30,
        "x" * 400,
        "時計はずれる。直すことができる！" * 20,
        "\U0001f469\u200d\U0001f4bb" * 40,
        "---",
        "> quoted\n> lines",
        "\t\tdeep",
        "…",
    ]
)
TORTURE = st.lists(st.one_of(PIECES, st.text(max_size=60)), min_size=1, max_size=12).flatmap(
    lambda parts: st.sampled_from(["\n\n", "\n", " ", "\n\n\n"]).map(lambda joint: joint.join(parts))
)


@given(
    TORTURE.filter(str.strip),
    st.sampled_from(["article", "post", "repository"]),
    st.sampled_from(TOKENIZERS),
    st.integers(32, 120),
    st.sampled_from([0, 8, 32]),
    st.sampled_from([0, 16, 48]),
    st.sampled_from(["", "On Clocks", "A very long title " * 20, "x" * 300]),
)
def test_whatever_the_text_nothing_is_lost_and_nothing_is_too_long(
    text: str, category: str, tokenizer: WordTokenizer, limit: int, overlap: int, least: int, title: str
) -> None:
    config = ChunkingConfig(overlap_tokens=overlap, min_tokens=least, parent_tokens=128)
    chunks = chunked(text, limit, category, config, tokenizer, title=title)
    check(text, chunks, limit, tokenizer)
    assert chunks == chunked(text, limit, category, config, tokenizer, title=title)


@given(
    st.lists(
        st.sampled_from(["The clock is late.", "It drifts!", "Why, e.g. in May?", "直す。"]),
        min_size=1,
        max_size=60,
    )
)
def test_every_sentence_stands_whole_in_some_chunk(sentences: list[str]) -> None:
    chunks = chunked(" ".join(sentences), limit=40)
    assert all(any(sentence in chunk.text for chunk in chunks) for sentence in sentences)


def test_a_memory_of_words_kept_between_documents_changes_nothing() -> None:
    counts, texts = (
        TokenCounts(SpaceTokenizer()),
        [f"# Part {i}\n\n" + f"Clock {i} drifts. " * 40 for i in range(5)],
    )
    config = ChunkingConfig()
    kept = [chunk_document(document(text), counts, config, 64, "v") for text in texts]
    assert kept == [chunk_document(document(text), SpaceTokenizer(), config, 64, "v") for text in texts]


def test_words_of_a_document_are_tokenised_once() -> None:
    class Counting(SpaceTokenizer):
        asked = 0

        def counts(self, texts: Sequence[str]) -> list[int]:
            self.asked += sum(map(len, texts))
            return super().counts(texts)

    text = " ".join(f"word{i}" for i in range(3_000))
    tokenizer = Counting()
    assert len(chunked(text, tokenizer=tokenizer)) > 40
    assert tokenizer.asked < 1.1 * len(text)


class TestMarkdown:
    def test_chunks_do_not_cross_sections_and_carry_their_headings(self) -> None:
        text = "Intro text here.\n\n# One\n\nFirst.\n\n## Deep\n\nSecond.\n\nTwo\n===\n\nThird.\n\nSub\n---\n\nFourth."
        chunks = chunked(text)
        assert [chunk.headings for chunk in chunks] == [
            (),
            ("One",),
            ("One", "Deep"),
            ("Two",),
            ("Two", "Sub"),
        ]
        assert [chunk.text.split()[-1] for chunk in chunks] == [
            "here.",
            "First.",
            "Second.",
            "Third.",
            "Fourth.",
        ]

    def test_a_heading_stays_with_what_it_heads(self) -> None:
        text = "# Part\n\n" + "A sentence of some seven words here. " * 20
        assert all(len(chunk.text) > 60 for chunk in chunked(text))

    def test_hashes_in_code_are_no_headings(self) -> None:
        text = "# Real\n\n```sh\n# comment\n```\n\n    # indented\n\n#hashtag"
        assert {chunk.headings for chunk in chunked(text)} == {("Real",)}

    @pytest.mark.parametrize(
        "block",
        [
            "```python\n" + "value = call(1)\n" * 6 + "```",
            "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 6 + "| 8 | 9 |",
        ],
    )
    def test_code_and_tables_that_fit_are_kept_whole(self, block: str) -> None:
        before = "Some words come before it. " * 5
        chunks = chunked(f"# Part\n\n{before}\n\n{block}\n\n{before}")
        assert any(block in chunk.text for chunk in chunks)

    def test_code_that_does_not_fit_is_cut_between_lines(self) -> None:
        lines = [f"value_{i} = call({i})" for i in range(60)]
        chunks = chunked("```\n" + "\n".join(lines) + "\n```")
        assert len(chunks) > 3
        assert all(line in [piece for chunk in chunks for piece in chunk.text.split("\n")] for line in lines)

    def test_a_list_is_cut_between_items(self) -> None:
        items = [f"- item {i} has some words, and more. Even two sentences" for i in range(30)]
        chunks = chunked("\n".join(items))
        assert all(chunk.text.startswith("- item") for chunk in chunks)

    def test_small_siblings_join_and_carry_what_they_share(self) -> None:
        text = (
            "# Top\n\n## A\n\nOne.\n\n## B\n\nTwo.\n\n# Other\n\n" + "Long enough to stand alone here. " * 7
        )
        joined, other = chunked(text, config=ChunkingConfig(min_tokens=20))
        assert joined.headings == ("Top",)
        assert "One." in joined.text
        assert "Two." in joined.text
        assert other.headings == ("Other",)

    def test_no_crumb_is_left_at_the_end_of_a_section(self) -> None:
        text = "Seven words make up this short sentence. " * 8
        sizes = [
            chunk.tokens for chunk in chunked(text, config=ChunkingConfig(overlap_tokens=0, min_tokens=20))
        ]
        assert min(sizes) >= 20

    def test_overlap_repeats_whole_sentences(self) -> None:
        text = " ".join(f"Sentence {i} says that clocks drift." for i in range(40))
        chunks = chunked(text, config=ChunkingConfig(overlap_tokens=10, min_tokens=0))
        for before, after in pairwise(chunks):
            shared = text[after.span.start : before.span.end]
            assert re.fullmatch(r"Sentence \d+ says that clocks drift\.", shared)

    def test_code_is_not_repeated(self) -> None:
        text = "```\n" + "\n".join(f"a{i} = {i}. b" for i in range(80)) + "\n```"
        chunks = chunked(text, config=ChunkingConfig(overlap_tokens=20))
        assert all(before.span.end <= after.span.start for before, after in pairwise(chunks))

    def test_parents_are_consecutive_and_end_at_headings(self) -> None:
        text = "\n\n".join(f"# Part {i}\n\n" + f"Clock number {i} drifts a little. " * 12 for i in range(12))
        config = ChunkingConfig(parent_tokens=200, overlap_tokens=0)
        chunks = chunked(text, config=config)
        firsts = [after for before, after in pairwise(chunks) if after.parent != before.parent]
        assert len(firsts) >= 4
        assert all(chunk.text.startswith("# Part") for chunk in firsts)
        for parent in {chunk.parent for chunk in chunks}:
            spans = [chunk.span for chunk in chunks if chunk.parent == parent]
            assert SpaceTokenizer().counts([text[spans[0].start : spans[-1].end]])[0] <= 200


class TestLongTrails:
    def test_title_and_headings_take_at_most_a_quarter(self) -> None:
        text = (
            "# "
            + "outer heading " * 20
            + "\n\n## "
            + "inner heading " * 20
            + "\n\n"
            + "The body text. " * 100
        )
        chunks = chunked(text, limit=128, title="A title of very many words " * 10)
        tokenizer = SpaceTokenizer()
        for chunk in chunks:
            trail = tokenizer.counts([chunk.embedding_text])[0] - tokenizer.counts([chunk.text])[0]
            assert trail <= 128 // 4
        assert chunks[-1].title.endswith("…")
        assert chunks[-1].headings[-1].startswith("inner heading")

    def test_what_fits_is_left_alone(self) -> None:
        (chunk,) = chunked("# One\n\n## Two\n\nText.", config=ChunkingConfig())
        assert chunk.title == "On Clocks"


class TestHardText:
    def test_a_word_of_ten_thousand_characters_ends_in_chunks(self) -> None:
        for tokenizer in TOKENIZERS:
            text = "Before " + "x" * 10_000 + " after."
            check(text, chunks := chunked(text, tokenizer=tokenizer), 64, tokenizer)
            assert len(chunks) > 10

    def test_a_script_without_spaces_is_cut_at_its_sentences(self) -> None:
        chunks = chunked("時計は少しずつずれていくものだ。" * 40)
        assert all(chunk.text.endswith("。") for chunk in chunks)

    def test_abbreviations_do_not_end_sentences(self) -> None:
        text = "See e.g. Fig. 3 by J. Smith et al. in the U.S. It works."
        assert [text[i:] for i in sentence_starts(text, 0, len(text))] in ([], ["It works."])
        assert len(sentence_starts("It works. So does this! And that?", 0, 33)) == 2

    def test_a_character_above_the_limit_is_an_error_that_says_where(self) -> None:
        class Heavy(WordTokenizer):
            splits_at_blank_space = False

            def counts(self, texts: Sequence[str]) -> list[int]:
                return [100 * text.count("ﷺ") for text in texts]

        with pytest.raises(InvalidInputError, match="character at 0"):
            chunked("ﷺﷺ", tokenizer=Heavy())


class TestCode:
    SOURCE = '''import os


# Adds.
@cached
def add(a, b):
    """Sum."""

    return a + b


class Clock:
    def tick(self):
        if self.late:

            return 1
        return 2


def last():
    return 3
'''

    def test_definitions_are_kept_with_their_comments_and_decorators(self) -> None:
        chunks = chunked(self.SOURCE, 32, "repository", language="python", title="clock.py")
        assert any("# Adds.\n@cached\ndef add" in c.text and "return a + b" in c.text for c in chunks)
        assert any(c.text.startswith("class Clock") for c in chunks)
        check(self.SOURCE, chunks, 32, TOKENIZERS[0])

    def test_small_definitions_fill_a_chunk_together(self) -> None:
        (chunk,) = chunked(self.SOURCE, 256, "repository", language="python", title="clock.py")
        assert chunk.headings == ()

    def test_parts_of_a_large_definition_carry_its_signature(self) -> None:
        source = "def long_one(a, b):\n" + "\n".join(f"    x{i} = a + {i}" for i in range(60))
        chunks = chunked(source, 64, "repository", language="python", title="clock.py")
        assert {chunk.headings for chunk in chunks} == {("def long_one(a, b)",)}
        assert all(chunk.text.startswith(("def", "    x")) for chunk in chunks)

    def test_prose_of_a_repository_is_chunked_as_prose(self) -> None:
        chunks = chunked("# One\n\nText.\n\n# Two\n\nText.", 64, "repository", language="markdown")
        assert [chunk.headings for chunk in chunks] == [("One",), ("Two",)]


def test_a_record_that_fits_is_one_chunk() -> None:
    (chunk,) = chunked("# Not a section\n\nOne.\n\n# Nor this\n\nTwo.", category="post")
    assert chunk.headings == ()


def test_chunks_carry_what_is_filtered_on() -> None:
    when = datetime(2024, 5, 1, tzinfo=UTC)
    (chunk,) = chunked("Text.", published_at=when, duplicate_group="g", metadata={"stars": 5})
    assert (chunk.document_version, chunk.published_at, chunk.duplicate_group) == ("v1", when, "g")
    assert (chunk.author, chunk.category, chunk.metadata) == ("Ada Byron", "article", {"stars": 5})


def test_the_smaller_of_both_limits_counts() -> None:
    text = "Clocks drift a little. " * 60
    assert max(chunk.tokens for chunk in chunked(text, 256, config=ChunkingConfig(max_tokens=40))) <= 40
    assert max(chunk.tokens for chunk in chunked(text, 40, config=ChunkingConfig(max_tokens=256))) <= 40


@pytest.mark.parametrize(
    "bad", [{"max_tokens": 5}, {"overlap_tokens": -1}, {"parent_tokens": 0}, {"sise": 1}]
)
def test_a_wrong_configuration_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        ChunkingConfig(**bad)


def test_blank_text_has_no_chunks() -> None:
    assert [chunked(" \n ", category=c) for c in ("article", "post", "repository")] == [[], [], []]

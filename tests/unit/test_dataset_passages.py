"""Passages: verbatim, within their bounds, on sentence bounds, never overlapping."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_engineering.application.text.sentences import split_units
from llm_engineering.application.training.datasets.passages import Passage, PassageConfig, split_passages
from llm_engineering.domain.documents import CleanDocument, RawDocument


def document(text: str, number: int = 0, **fields: Any) -> CleanDocument:
    raw = RawDocument(
        category="article",
        title=f"Title {number}",
        text=text,
        link=f"https://example.org/{number}",
        origin="https://example.org/feed",
        platform="example.org",
        author="Ann Lee",
        language="en",
    )
    given_fields = raw.model_dump(exclude={"origin", "etag", "last_modified", "collected_at"})
    made = {"id": raw.id, "author_id": raw.author_id, "source_hash": raw.content_hash}
    return CleanDocument(**{**given_fields, **made, **fields})


def sentences(count: int, length: int = 100, word: str = "word") -> str:
    """So many sentences, each of ``length`` characters."""
    return " ".join(f"S{number} {word * length}"[: length - 1] + "." for number in range(count))


def cut(text: str, **config: Any) -> list[Passage]:
    return list(split_passages(document(text), PassageConfig(**config)))


sentence = st.integers(8, 400).map(lambda n: "A" + "bc d" * (n // 4) + " end.")
paragraph = st.lists(sentence, min_size=1, max_size=12).map(" ".join)
block = st.one_of(
    paragraph,
    paragraph,
    st.integers(1, 3).map(lambda level: "#" * level + f" Heading {level}"),
    st.just("```python\nx = 1\n```"),
    st.just("| a | b |\n| - | - |\n| 1 | 2 |"),
    st.just("- one thing.\n- another thing."),
)
texts = st.lists(block, min_size=1, max_size=25).map("\n\n".join)


@given(text=texts, code=st.booleans(), tables=st.booleans())
def test_passages_are_verbatim_within_bounds_in_order_and_never_overlap(
    text: str, code: bool, tables: bool
) -> None:
    source = document(text)
    config = PassageConfig(code=code, tables=tables)
    made = list(split_passages(source, config))
    ends = [0, *(passage.end for passage in made)]
    bounds = {edge for unit in split_units(text) for edge in (unit.start, unit.end)}
    for end, passage in zip(ends, made, strict=False):
        assert end <= passage.start < passage.end
        assert passage.text == text[passage.span.start : passage.span.end]
        assert passage.text == passage.text.strip()
        assert config.shortest <= len(passage.text) <= config.max_characters
        assert passage.start in bounds
        assert passage.end in bounds or not passage.text[-1].isalnum()
        assert code or "```" not in passage.text
        assert tables or "| - |" not in passage.text


@given(st.lists(sentence, min_size=8, max_size=60).map(" ".join))
def test_only_a_document_below_the_lower_bound_makes_a_passage_below_it(text: str) -> None:
    made = cut(text)
    if len(text) >= 1_000:
        assert all(1_000 <= len(passage.text) <= 2_000 for passage in made)
        assert made
    else:
        assert len(made) == (len(text) >= 300)


def test_prose_that_can_be_cut_within_the_bounds_is_used_to_the_last_sentence() -> None:
    made = cut(sentences(45))
    assert sum(len(passage.text) + 1 for passage in made) == len(sentences(45)) + 1


def test_a_cut_falls_on_a_heading_where_it_can() -> None:
    text = f"# One\n\n{sentences(12)}\n\n# Two\n\n{sentences(13)}"
    first, second = cut(text)
    assert (first.headings, second.headings) == (("One",), ("Two",))
    assert first.opens_section
    assert second.opens_section
    assert second.before == ""
    assert "#" not in first.text + second.text


def test_a_passage_inside_a_section_knows_the_sentence_before_it() -> None:
    first, second = cut("# One\n\n" + sentences(25))
    assert second.headings == ("One",)
    assert not second.opens_section
    assert second.before
    assert first.text.endswith(second.before)


def test_short_sections_are_joined_and_the_passage_knows_them_all() -> None:
    text = f"# Top\n\n{sentences(6)}\n\n## A\n\n{sentences(3)}\n\n## B\n\n{sentences(3)}"
    [only] = cut(text)
    assert only.sections == ("Top", "A", "B")
    assert "## A" in only.text


def test_code_and_tables_end_a_passage_unless_they_are_wanted() -> None:
    text = f"{sentences(6)}\n\n```python\nx = 1\n```\n\n{sentences(6)}"
    assert [len(passage.text) for passage in cut(text)] == [605, 605]
    [whole] = cut(text, code=True)
    assert "x = 1" in whole.text


def test_a_sentence_longer_than_a_passage_may_be_is_left_out() -> None:
    text = f"{sentences(11)} {'long ' * 600}end. {sentences(12, word='other')}"
    first, second = cut(text)
    assert "long" not in first.text + second.text


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({}, True),
        ({"category": "post"}, True),
        ({"category": "repository", "language": "python"}, False),
        ({"category": "repository", "language": "markdown"}, True),
        ({"duplicate_group": "another"}, False),
    ],
)
def test_source_code_and_copies_of_other_documents_are_not_read(fields: dict[str, str], read: bool) -> None:
    assert PassageConfig().reads(document("Text.", **fields)) is read


def test_only_the_categories_that_are_asked_for_are_read() -> None:
    config = PassageConfig(categories=("post",))
    assert not config.reads(document("Text."))
    assert config.reads(document("Text.", category="post"))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"min_characters": 1_000, "max_characters": 1_200}, "at least 1.5 times"),
        ({"shortest": 1_500}, "more than min_characters"),
        ({"categories": ("blog",)}, "there is no category 'blog'"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        PassageConfig(**config)

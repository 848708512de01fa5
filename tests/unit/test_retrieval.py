"""Retrieval: filters that can match, near-duplicates once, passages stitched exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference.search import (
    Facets,
    as_passages,
    drop_near_duplicates,
    expand_to_parents,
    retrieve,
    spell_filter,
    stitch,
)
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, Span
from llm_engineering.domain.errors import InvalidInputError, StoreUnavailableError, UnknownFilterValueError
from llm_engineering.domain.retrieval import Hit, MetadataFilter, Query, SearchMode
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex


def make_chunk(
    text: str, *, document: str = "d1", position: int = 0, start: int = 0, **fields: object
) -> Chunk:
    values = {
        "id": Chunk.derive_id(document, position, text),
        "document_id": document,
        "document_version": "v1",
        "position": position,
        "span": Span(start=start, end=start + len(text)),
        "text": text,
        "tokens": len(text.split()),
        "category": "article",
        "title": "Title",
        "link": f"https://example.org/{document}",
        "platform": "example.org",
        "author": "Ada Winter",
        "author_id": "a1",
        "language": "en",
        **fields,
    }
    return Chunk.model_validate(values)


def filled_index(chunks: list[Chunk], embedder: HashEmbedder) -> FakeVectorIndex:
    index = FakeVectorIndex()
    vectors = embedder.embed_documents([chunk.embedding_text for chunk in chunks])
    with index.writer(embedder.fingerprint) as writer:
        writer.upsert(
            [EmbeddedChunk(chunk=c, vector=tuple(v.tolist())) for c, v in zip(chunks, vectors, strict=True)]
        )
    return index


class TestRetrieve:
    chunks = (
        make_chunk("Overlap keeps a sentence whole across two chunks.", document="d1"),
        make_chunk("Gradient descent follows the slope downhill.", document="d2"),
        make_chunk("Bananas are rich in potassium.", document="d3", author="Ben Okafor", author_id="a2"),
    )

    @pytest.mark.parametrize("mode", list(SearchMode))
    def test_finds_what_the_question_is_about(self, mode: SearchMode) -> None:
        embedder = HashEmbedder()
        index = filled_index(list(self.chunks), embedder)
        hits = retrieve(Query.ask("sentence overlap across chunks", mode=mode), index, embedder)
        assert hits[0].chunk.document_id == "d1"

    def test_returns_no_more_than_k(self) -> None:
        embedder = HashEmbedder()
        index = filled_index(list(self.chunks), embedder)
        assert len(retrieve(Query.ask("chunks slope bananas", k=2), index, embedder)) == 2

    def test_an_unknown_author_names_the_closest(self) -> None:
        embedder = HashEmbedder()
        index = filled_index(list(self.chunks), embedder)
        query = Query.ask("anything", filter=MetadataFilter(authors=("ada wintr",)))
        with pytest.raises(UnknownFilterValueError, match="Closest: Ada Winter"):
            retrieve(query, index, embedder)

    @pytest.mark.parametrize("typed", ["ben okafor", "BEN", "okaf", " Ben  Okafor "])
    def test_an_author_is_matched_by_case_and_by_a_unique_beginning(self, typed: str) -> None:
        embedder = HashEmbedder()
        index = filled_index(list(self.chunks), embedder)
        query = Query.ask("potassium", filter=MetadataFilter(authors=(typed,)))
        assert {hit.chunk.author for hit in retrieve(query, index, embedder)} == {"Ben Okafor"}

    def test_a_beginning_that_two_authors_share_is_refused_with_both(self) -> None:
        known = Facets(author={"Ada Winter": 1, "Ada Sommer": 1, "Adam": 1})
        with pytest.raises(UnknownFilterValueError, match="Ada Sommer, Ada Winter, Adam"):
            spell_filter(MetadataFilter(authors=("ada",)), known)
        assert spell_filter(MetadataFilter(authors=("adam",)), known).authors == ("Adam",)

    def test_of_a_language_only_the_case_is_forgiven(self) -> None:
        known = Facets(language={"en": 1, "python": 1})
        assert spell_filter(MetadataFilter(languages=("EN",)), known).languages == ("en",)
        with pytest.raises(UnknownFilterValueError):
            spell_filter(MetadataFilter(languages=("pyth",)), known)

    def test_a_filter_on_an_empty_index_says_what_to_do(self) -> None:
        index = filled_index([], HashEmbedder())
        with pytest.raises(UnknownFilterValueError, match="the index is empty"):
            spell_filter(MetadataFilter(languages=("en",)), Facets.read(index))

    def test_without_an_index_the_task_that_builds_it_is_named(self) -> None:
        with pytest.raises(StoreUnavailableError, match="run-feature-engineering-pipeline"):
            retrieve(Query.ask("anything"), FakeVectorIndex(), HashEmbedder())


class TestQuestion:
    def test_an_empty_question_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="empty"):
            Query.ask(" \n\x00 ")

    def test_a_hundred_thousand_characters_are_refused_with_the_limit(self) -> None:
        with pytest.raises(InvalidInputError, match=r"100,000 characters; at most 4,000"):
            Query.ask("x" * 100_000)

    def test_any_script_is_a_question(self) -> None:
        assert Query.ask("  ما هو   التضمين؟ ").text == "ما هو التضمين؟"


class TestNearDuplicates:
    def test_equal_text_of_two_documents_appears_once(self) -> None:
        hits = [Hit(chunk=make_chunk("Same words.", document=d), score=1) for d in ("d1", "d2")]
        assert [hit.chunk.document_id for hit in drop_near_duplicates(hits)] == ["d1"]

    def test_nearly_equal_text_within_a_group_appears_once(self) -> None:
        words = "one two three four five six seven eight nine ten"
        hits = [
            Hit(chunk=make_chunk(words, document="d1", duplicate_group="g"), score=2),
            Hit(chunk=make_chunk(f"{words} eleven", document="d2", duplicate_group="g"), score=1),
            Hit(
                chunk=make_chunk("A different part of the same article.", document="d2", duplicate_group="g"),
                score=0,
            ),
        ]
        assert [hit.score for hit in drop_near_duplicates(hits)] == [2, 0]

    def test_similar_text_without_a_group_is_kept(self) -> None:
        hits = [Hit(chunk=make_chunk(t), score=1) for t in ("a b c d e f g h i j", "a b c d e f g h i j k")]
        assert len(drop_near_duplicates(hits)) == 2


class TestPassages:
    def test_hits_of_one_parent_make_one_passage_in_the_documents_words(self) -> None:
        text = "First sentence here. Second sentence here. Third one."
        chunks = [
            make_chunk(text[0:42], position=0, start=0),
            make_chunk(text[21:53], position=1, start=21),
        ]
        embedder = HashEmbedder()
        index = filled_index(chunks, embedder)
        hits = retrieve(Query.ask("second sentence"), index, embedder)
        [passage] = expand_to_parents(hits, index)
        assert passage.text == text
        assert passage.span == Span(start=0, end=53)
        assert len(as_passages(hits)) == 2

    @given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=60), st.data())
    def test_stitching_overlapping_slices_gives_the_text_back(self, text: str, data: st.DataObject) -> None:
        cuts, start = [], 0
        while start < len(text):
            end = data.draw(st.integers(start + 1, len(text)))
            begin = data.draw(st.integers(0, start))
            cuts.append((begin, end))
            start = end
        chunks = [make_chunk(text[a:b], position=i, start=a) for i, (a, b) in enumerate(cuts)]
        first = chunks[0].span.start
        assert stitch(chunks) == text[first:]

    def test_a_gap_of_white_space_keeps_offsets(self) -> None:
        passage = stitch([make_chunk("one", start=0), make_chunk("two", position=1, start=5)])
        assert passage == "one\n\ntwo"

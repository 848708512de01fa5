"""What every vector index must do. Subclasses hand in an empty one by the fixture ``index``."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_engineering.application.inference import fusion
from llm_engineering.application.ports import SearchRequest, VectorIndex
from llm_engineering.domain.categories import FACETS
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, EmbedderFingerprint, Span
from llm_engineering.domain.errors import FingerprintMismatchError, InvalidInputError, StoreUnavailableError
from llm_engineering.domain.retrieval import (
    Condition,
    MetadataFilter,
    RrfFusion,
    SearchMode,
    WeightedFusion,
)
from tests.fakes.index import FakeVectorIndex

DIMENSION = 8
FINGERPRINT = EmbedderFingerprint(
    model="small", weights="a" * 64, dimension=DIMENSION, pooling="mean", max_tokens=256
)
OTHER = EmbedderFingerprint(
    model="other", weights="b" * 64, dimension=DIMENSION + 4, pooling="cls", max_tokens=512
)
DAY = datetime(2024, 5, 1, tzinfo=UTC)
TOPICS = ("retrieval", "chunking", "quantisation", "evaluation", "orchestration")


def chunk(
    document: str, position: int = 0, text: str = "some words", version: str = "v1", **fields: Any
) -> Chunk:
    """A chunk with plausible fields; ``document`` is any short name."""
    defaults: dict[str, Any] = {
        "span": Span(start=position * 10, end=position * 10 + len(text)),
        "tokens": 12,
        "headings": ("Intro",),
        "parent": position // 2,
        "category": "article",
        "title": "",
        "link": f"https://example.org/{document}",
        "platform": "blog",
        "author": "Ada Lovelace",
        "author_id": "ada",
        "language": "en",
    }
    identifier = Chunk.derive_id(document, position, text)
    return Chunk(
        id=identifier,
        document_id=document,
        document_version=version,
        position=position,
        text=text,
        **{**defaults, **fields},
    )


def unit(*numbers: float, dimension: int = DIMENSION) -> np.ndarray:
    """A vector of unit length that starts with these numbers."""
    vector = np.zeros(dimension, dtype=np.float32)
    vector[: len(numbers)] = numbers
    return vector / np.linalg.norm(vector)


def embedded(item: Chunk, vector: np.ndarray) -> EmbeddedChunk:
    return EmbeddedChunk(chunk=item, vector=tuple(float(value) for value in vector))


def write(
    index: VectorIndex,
    items: Sequence[EmbeddedChunk],
    fingerprint: EmbedderFingerprint = FINGERPRINT,
    *,
    titles: bool = False,
) -> None:
    with index.writer(fingerprint, titles=titles) as writer:
        writer.upsert(items)


def corpus() -> list[EmbeddedChunk]:
    """Forty chunks of ten documents, with varied metadata and vectors without ties."""
    random = np.random.default_rng(7)
    items = []
    for number in range(40):
        document, position = divmod(number, 4)
        items.append(
            embedded(
                chunk(
                    f"doc-{document}",
                    position,
                    " ".join([TOPICS[number % 5]] * (1 + number // 5) + [f"word{number}"]),
                    author=("Ada Lovelace", "Grace Hopper", "Zoë 李")[document % 3],
                    category=("article", "post", "repository")[document % 3 - 1],
                    platform=("blog", "medium")[document % 2],
                    language=("en", "de", "zh", "und")[document % 4],
                    published_at=None
                    if document == 9
                    else DAY + timedelta(days=document, milliseconds=position),
                ),
                unit(*random.normal(size=DIMENSION)),
            )
        )
    return items


def titled(items: Sequence[EmbeddedChunk]) -> list[EmbeddedChunk]:
    """The same with title vectors, but for every fifth, which has no title."""
    random = np.random.default_rng(11)
    vectors = [tuple(float(value) for value in unit(*random.normal(size=DIMENSION))) for _ in items]
    return [
        item if number % 5 == 4 else item.model_copy(update={"title_vector": vector})
        for number, (item, vector) in enumerate(zip(items, vectors, strict=True))
    ]


def ids(hits: Sequence[Any]) -> list[str]:
    return [hit.chunk.id for hit in hits]


filters = st.builds(
    lambda **fields: MetadataFilter(**fields),
    authors=st.sets(st.sampled_from(["Ada Lovelace", "Zoë 李", "Nobody"]), max_size=2).map(tuple),
    categories=st.sets(st.sampled_from(["article", "post", "ticket"]), max_size=2).map(tuple),
    platforms=st.sets(st.sampled_from(["blog", "medium"]), max_size=1).map(tuple),
    languages=st.sets(st.sampled_from(["en", "zh", "und"]), max_size=2).map(tuple),
    document_ids=st.sets(st.sampled_from(["doc-1", "doc-9", "doc-4"]), max_size=2).map(tuple),
    published_from=st.sampled_from([None, DAY, DAY + timedelta(days=3, milliseconds=1)]),
    published_to=st.sampled_from([None, DAY + timedelta(days=5), DAY + timedelta(days=8, milliseconds=2)]),
)

conditions = st.one_of(
    st.builds(
        lambda values: Condition(field="genre", any_of=values),
        st.sets(st.sampled_from(["crime", "drama", "Sci-Fi", "none"]), min_size=1).map(tuple),
    ),
    st.builds(
        lambda low, width: Condition(field="year", gte=low, lte=low + width),
        st.integers(1948, 2010),
        st.integers(0, 40),
    ),
    st.builds(
        lambda values: Condition(field="year", any_of=values),
        st.sets(st.integers(1950, 2000), min_size=1).map(tuple),
    ),
    st.builds(lambda least: Condition(field="rating", gte=least), st.floats(0, 10)),
    st.builds(lambda most: Condition(field="rating", lte=most), st.integers(0, 10)),
    st.builds(lambda truth: Condition(field="verified", any_of=(truth,)), st.booleans()),
    st.builds(
        lambda days: Condition(field="updated_at", gte=(DAY + timedelta(days=days)).isoformat()),
        st.integers(-3, 12),
    ),
)


def movies() -> list[EmbeddedChunk]:
    """Sixty films, some of two chunks, with gaps, values of another type, and facets that are no facets."""
    random = np.random.default_rng(5)
    genres = (("crime", "drama"), ("Sci-Fi",), ("drama",), ("crime",))
    items = []
    for number in range(60):
        metadata: dict[str, Any] = {"genre": genres[number % 4], "year": 1950 + number % 50, "note": "x"}
        metadata |= {"rating": number % 21 / 2} if number % 7 else {}
        metadata |= {"verified": number % 2 == 0} if number % 3 else {"year": "long ago"}
        metadata["updated_at"] = (DAY + timedelta(days=number % 10)).isoformat()
        items += [
            embedded(
                chunk(
                    f"film-{number}",
                    position,
                    f"film {number} {position}",
                    category="movie",
                    metadata=metadata,
                ),
                unit(*random.normal(size=DIMENSION)),
            )
            for position in range(1 + number % 2)
        ]
    return items


class IndexContract:
    """The contract of ``VectorIndex``."""

    def test_a_chunk_comes_back_as_it_was_written(self, index: VectorIndex) -> None:
        stored = chunk(
            "döc",
            3,
            "Ein Text über 检索 — 🙂\nsecond line\t`code`",
            title="Títle 题",
            headings=("Ünter", "Ober"),
            published_at=datetime(2023, 12, 31, 23, 59, 59, 987000, tzinfo=UTC),
            duplicate_group="döc-0",
            metadata={"stars": 3, "ratio": 1.0, "open": True, "名": "値", "big": 2**63 - 1},
        )
        write(index, [embedded(stored, unit(1))])
        [[hit]] = index.search([SearchRequest("text", unit(1), k=3)], FINGERPRINT)
        assert hit.chunk == stored
        assert {name: type(value) for name, value in hit.chunk.metadata.items()} == {
            "stars": int,
            "ratio": float,
            "open": bool,
            "名": str,
            "big": int,
        }

    def test_dense_search_ranks_by_cosine(self, index: VectorIndex) -> None:
        items = corpus()
        write(index, items)
        question = unit(0.3, -0.2, 0.9, 0.1)
        expected = sorted(items, key=lambda item: -float(np.dot(item.vector, question)))[:7]
        [hits] = index.search([SearchRequest("", question, k=7, mode=SearchMode.DENSE)], FINGERPRINT)
        assert ids(hits) == [item.chunk.id for item in expected]
        for hit, item in zip(hits, expected, strict=True):
            assert hit.score == pytest.approx(float(np.dot(item.vector, question)), abs=1e-5)
            assert hit.dense_score == hit.score

    def test_sparse_search_finds_words_and_needs_no_vector(self, index: VectorIndex) -> None:
        write(index, corpus())
        [hits, nothing] = index.search(
            [
                SearchRequest("word17 QUANTISATION?", None, k=5, mode=SearchMode.SPARSE),
                SearchRequest("absent", None, k=5, mode=SearchMode.SPARSE),
            ],
            FINGERPRINT,
        )
        assert len(hits) == 5
        assert "word17" in hits[0].chunk.text
        assert all("quantisation" in hit.chunk.text for hit in hits)
        assert hits == sorted(hits, key=lambda hit: -hit.score)
        assert nothing == []

    def test_the_title_and_headings_can_be_searched_for_words(self, index: VectorIndex) -> None:
        write(index, [embedded(chunk("a", title="Kubernetes"), unit(1)), embedded(chunk("b"), unit(0, 1))])
        [hits] = index.search([SearchRequest("kubernetes", None, mode=SearchMode.SPARSE)], FINGERPRINT)
        assert [hit.chunk.document_id for hit in hits] == ["a"]

    @pytest.mark.parametrize(
        "kind", [RrfFusion(k=60), RrfFusion(k=5), WeightedFusion(alpha=0.3), WeightedFusion(alpha=1)]
    )
    def test_hybrid_search_fuses_both_lists_by_the_formula(self, index: VectorIndex, kind: Any) -> None:
        write(index, corpus())
        question, text, k = unit(0.5, 0.5, -0.7), "chunking word31 word2", 8
        wide = fusion.count_candidates(k)
        dense, sparse, hybrid = index.search(
            [
                SearchRequest(text, question, k=wide, mode=SearchMode.DENSE),
                SearchRequest(text, question, k=wide, mode=SearchMode.SPARSE),
                SearchRequest(text, question, k=k, mode=SearchMode.HYBRID, fusion=kind),
            ],
            FINGERPRINT,
        )
        by_id = [{hit.chunk.id: hit.score for hit in hits} for hits in (dense, sparse)]
        expected = fusion.fuse(by_id[0], by_id[1], kind)[:k]
        assert [hit.score for hit in hybrid] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert set(ids(hybrid)) == {identifier for identifier, _ in expected}

    @pytest.mark.parametrize("kind", [RrfFusion(), WeightedFusion(alpha=0.1)])
    def test_hybrid_hits_carry_their_cosine_even_where_only_words_found_them(
        self, index: VectorIndex, kind: Any
    ) -> None:
        near = [embedded(chunk(f"near-{n}", text=f"filler{n}"), unit(1, n / 1000)) for n in range(60)]
        far = embedded(chunk("far", text="zymurgy"), unit(0.6, -0.8))
        write(index, [*near, far])
        [hits] = index.search([SearchRequest("zymurgy", unit(1), k=5, fusion=kind)], FINGERPRINT)
        scores = {hit.chunk.document_id: hit.dense_score for hit in hits}
        assert scores["far"] == pytest.approx(0.6, abs=1e-5)
        assert all(score is not None for score in scores.values())

    def test_a_question_without_words_still_finds_by_meaning(self, index: VectorIndex) -> None:
        write(index, corpus())
        [hits] = index.search([SearchRequest("?!\ud800", unit(1), k=4)], FINGERPRINT)
        assert len(hits) == 4

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(filter=filters)
    def test_filters_mean_what_the_domain_says(self, index: VectorIndex, filter: MetadataFilter) -> None:
        items = corpus()
        if index.count() == 0:
            write(index, items)
        accepted = {item.chunk.id for item in items if filter.accepts(item.chunk)}
        modes = [SearchMode.DENSE, SearchMode.HYBRID, SearchMode.SPARSE]
        found = index.search(
            [SearchRequest("retrieval", unit(1), filter, 40, mode) for mode in modes], FINGERPRINT
        )
        assert set(ids(found[0])) == accepted
        assert set(ids(found[1])) == accepted
        assert set(ids(found[2])) == {
            item.chunk.id for item in items if item.chunk.id in accepted and "retrieval" in item.chunk.text
        }
        assert index.count(filter) == len(accepted)

    def test_a_batch_answers_as_single_requests_do(self, index: VectorIndex) -> None:
        write(index, corpus())
        requests = [
            SearchRequest("chunking", unit(1), k=3),
            SearchRequest("evaluation", unit(0, 1), MetadataFilter(languages=("de",)), 5, SearchMode.DENSE),
            SearchRequest("word3", None, k=1, mode=SearchMode.SPARSE),
            SearchRequest("retrieval", unit(0, 0, 1), k=40, fusion=WeightedFusion(alpha=0.7)),
        ]
        together = index.search(requests, FINGERPRINT)
        alone = [index.search([request], FINGERPRINT)[0] for request in requests]
        assert [ids(hits) for hits in together] == [ids(hits) for hits in alone]
        assert index.search([], FINGERPRINT) == []

    @pytest.mark.parametrize("kind", [RrfFusion(k=60), RrfFusion(k=5), WeightedFusion(alpha=0.4)])
    def test_hybrid_search_fuses_a_third_list_where_there_are_titles(
        self, index: VectorIndex, kind: Any
    ) -> None:
        items = titled(corpus())
        write(index, items, titles=True)
        question, text, k = unit(0.5, 0.5, -0.7), "chunking word31 word2", 8
        wide = fusion.count_candidates(k)
        dense, sparse, hybrid, without = index.search(
            [
                SearchRequest(text, question, k=wide, mode=SearchMode.DENSE),
                SearchRequest(text, question, k=wide, mode=SearchMode.SPARSE),
                SearchRequest(text, question, k=k, fusion=kind),
                SearchRequest(text, question, k=k, fusion=kind, titles=False),
            ],
            FINGERPRINT,
        )
        by_id = [{hit.chunk.id: hit.score for hit in hits} for hits in (dense, sparse)]
        titles = {
            item.chunk.id: float(np.dot(item.title_vector, question)) for item in items if item.title_vector
        }
        assert len(titles) == 32
        for found, expected in (
            (hybrid, fusion.fuse(by_id[0], by_id[1], kind, titles)[:k]),
            (without, fusion.fuse(by_id[0], by_id[1], kind)[:k]),
        ):
            assert [hit.score for hit in found] == pytest.approx([score for _, score in expected], abs=1e-5)
            assert set(ids(found)) == {identifier for identifier, _ in expected}

    @pytest.mark.parametrize("kind", [RrfFusion(), WeightedFusion(alpha=0.9)])
    def test_a_hit_found_by_its_title_alone_carries_the_cosine_of_its_body(
        self, index: VectorIndex, kind: Any
    ) -> None:
        near = [embedded(chunk(f"near-{n}", text=f"filler{n}"), unit(1, n / 1000)) for n in range(60)]
        far = embedded(chunk("far", text="other"), unit(0.6, -0.8))
        far = far.model_copy(update={"title_vector": tuple(float(value) for value in unit(1))})
        write(index, [*near, far], titles=True)
        [hits] = index.search([SearchRequest("zymurgy", unit(1), k=5, fusion=kind)], FINGERPRINT)
        scores = {hit.chunk.document_id: hit.dense_score for hit in hits}
        assert scores["far"] == pytest.approx(0.6, abs=1e-5)

    def test_filters_hold_among_titles_too(self, index: VectorIndex) -> None:
        write(index, titled(corpus()), titles=True)
        accepted = MetadataFilter(authors=("Zoë 李",), languages=("zh",))
        [hits] = index.search([SearchRequest("retrieval", unit(1), accepted, 40)], FINGERPRINT)
        assert set(ids(hits)) == {item.chunk.id for item in corpus() if accepted.accepts(item.chunk)}

    def test_another_choice_of_titles_builds_anew_and_an_error_leaves_the_old_index(
        self, index: VectorIndex
    ) -> None:
        write(index, corpus())

        def rebuild(*, fail: bool) -> None:
            with index.writer(FINGERPRINT, titles=True) as writer:
                writer.upsert(titled(corpus())[:8])
                assert index.count() == 40
                if fail:
                    raise RuntimeError("the model is gone")

        with pytest.raises(RuntimeError, match="model"):
            rebuild(fail=True)
        assert index.count() == 40
        assert len(index.search([SearchRequest("chunking", unit(1), k=3)], FINGERPRINT)[0]) == 3
        rebuild(fail=False)
        assert index.count() == 8
        write(index, titled(corpus())[8:12], titles=True)
        assert index.count() == 12
        write(index, corpus()[:3])
        assert index.count() == 3
        assert len(index.search([SearchRequest("x", unit(1), k=5)], FINGERPRINT)[0]) == 3

    @pytest.mark.parametrize(
        ("titles", "vector"), [(False, unit(1)), (True, unit(1, dimension=5)), (True, unit(1) * np.nan)]
    )
    def test_a_title_vector_that_does_not_fit_is_refused(
        self, index: VectorIndex, titles: bool, vector: np.ndarray
    ) -> None:
        item = embedded(chunk("d"), unit(1)).model_copy(
            update={"title_vector": tuple(float(value) for value in vector)}
        )
        with pytest.raises(InvalidInputError), index.writer(FINGERPRINT, titles=titles) as writer:
            writer.upsert([item])

    def test_writing_the_same_twice_changes_nothing(self, index: VectorIndex) -> None:
        write(index, corpus())
        [before] = index.search([SearchRequest("chunking", unit(1), k=40)], FINGERPRINT)
        write(index, corpus())
        [after] = index.search([SearchRequest("chunking", unit(1), k=40)], FINGERPRINT)
        assert index.count() == 40
        assert [hit.chunk for hit in after] == [hit.chunk for hit in before]
        assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], abs=1e-6)

    def test_an_upsert_replaces_the_chunk_of_the_same_id(self, index: VectorIndex) -> None:
        old, new = chunk("d", author="Old"), chunk("d", author="New", version="v2")
        write(index, [embedded(old, unit(1))])
        write(index, [embedded(new, unit(0, 1))])
        [hits] = index.search([SearchRequest("some", unit(0, 1), mode=SearchMode.DENSE)], FINGERPRINT)
        assert [(hit.chunk, round(hit.score, 4)) for hit in hits] == [(new, 1.0)]
        assert index.count_values("author") == {"New": 1}

    def test_stale_versions_are_seen_and_can_be_deleted(self, index: VectorIndex) -> None:
        def both(version: str) -> list[EmbeddedChunk]:
            return [embedded(chunk("d", n, f"{version} text {n}", version), unit(1, n)) for n in (1, 0)]

        write(index, [*both("v1"), embedded(chunk("other"), unit(1))])
        write(index, both("v2"))
        assert sorted(index.list_versions()) == [("d", "v1"), ("d", "v2"), ("other", "v1")]
        with index.writer(FINGERPRINT) as writer:
            writer.delete(["d", "absent"], keep_versions={"d": "v2"})
        assert sorted(index.list_versions()) == [("d", "v2"), ("other", "v1")]
        assert index.count(MetadataFilter(document_ids=("d",))) == 2

    def test_deleting_a_document_leaves_the_others(self, index: VectorIndex) -> None:
        write(index, corpus())
        with index.writer(FINGERPRINT) as writer:
            writer.delete(["doc-3", "doc-5"])
            writer.delete([])
            writer.delete(["doc-7"], keep_versions={"doc-7": "v1"})
        assert index.count() == 32
        assert {document for document, _ in index.list_versions()} == {
            f"doc-{n}" for n in (0, 1, 2, 4, 6, 7, 8, 9)
        }

    def test_erasing_needs_no_embedder_and_leaves_the_others(self, index: VectorIndex) -> None:
        index.erase(["doc-3"])  # there is no index yet
        write(index, titled(corpus()), titles=True)
        index.erase(["doc-3", "unknown"])
        assert index.count() == 36
        assert "doc-3" not in {document for document, _ in index.list_versions()}
        [hits] = index.search([SearchRequest("retrieval", unit(1), k=40)], FINGERPRINT)
        assert len(hits) > 30

    def test_whatever_is_written_changes_the_state_and_reading_does_not(self, index: VectorIndex) -> None:
        states = [index.read_state()]
        write(index, [embedded(chunk("a"), unit(1)), embedded(chunk("b"), unit(0, 1))])
        states.append(index.read_state())
        write(index, [embedded(chunk("a", text="other words", version="v2"), unit(1))])
        states.append(index.read_state())
        index.erase(["b"])
        states.append(index.read_state())
        write(index, [embedded(chunk("a"), unit(1, dimension=DIMENSION + 4))], OTHER)
        states.append(index.read_state())
        assert len(set(states)) == 5
        index.search([SearchRequest("words", None, k=3, mode=SearchMode.SPARSE)], OTHER)
        assert index.read_state() == states[-1]

    def test_one_delete_takes_many_documents_with_and_without_kept_versions(self, index: VectorIndex) -> None:
        write(index, [embedded(chunk(f"d{n}", version="old"), unit(1)) for n in range(30)])
        with index.writer(FINGERPRINT) as writer:
            writer.delete(
                [f"d{n}" for n in range(20)],
                keep_versions={f"d{n}": "old" if n < 5 else "new" for n in range(10)},
            )
        assert sorted(document for document, _ in index.list_versions()) == sorted(
            f"d{n}" for n in [*range(5), *range(20, 30)]
        )

    def test_passages_bring_whole_parents_in_order(self, index: VectorIndex) -> None:
        items = corpus()
        write(index, list(reversed(items)))
        passages = index.read_passages(["doc-2:0", "doc-6:1", "doc-6:9"])
        assert passages == {
            "doc-2:0": [items[8].chunk, items[9].chunk],
            "doc-6:1": [items[26].chunk, items[27].chunk],
        }
        assert index.read_passages([]) == {}

    def test_values_count_chunks(self, index: VectorIndex) -> None:
        write(index, corpus())
        assert index.count_values("author") == {"Ada Lovelace": 16, "Grace Hopper": 12, "Zoë 李": 12}
        assert index.count_values("platform") == {"blog": 20, "medium": 20}
        assert index.count_values("language") == {"en": 12, "de": 12, "zh": 8, "und": 8}
        assert sum(index.count_values("category").values()) == 40

    @given(wanted=st.lists(conditions, max_size=3))
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    def test_facets_narrow_as_the_filter_says(self, index: VectorIndex, wanted: list[Condition]) -> None:
        items = movies()
        if index.count() != len(items):
            write(index, items)
        filter = MetadataFilter(facets=tuple(wanted))
        expected = {item.chunk.id for item in items if filter.accepts(item.chunk)}
        assert index.count(filter) == len(expected)
        request = SearchRequest("film", unit(1), filter, k=100, mode=SearchMode.DENSE)
        [hits] = index.search([request], FINGERPRINT)
        assert set(ids(hits)) == expected

    @given(wanted=st.lists(conditions, max_size=1), name=st.sampled_from(sorted(FACETS)))
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    def test_facets_are_counted_by_record(
        self, index: VectorIndex, wanted: list[Condition], name: str
    ) -> None:
        items = movies()
        if index.count() != len(items):
            write(index, items)
        filter = MetadataFilter(facets=tuple(wanted))
        brute = FakeVectorIndex()
        write(brute, items)
        read = index.read_facet(name, filter)
        assert read == brute.read_facet(name, filter)
        assert list(read.counts.values()) == sorted(read.counts.values(), reverse=True)

    def test_facets_of_what_is_not_there_are_refused(self, index: VectorIndex) -> None:
        write(index, movies())
        with pytest.raises(ValueError, match="genre"):
            index.read_facet("no_such_facet")
        assert index.read_facet("course").empty

    def test_before_the_first_write_searching_names_the_task_that_builds_it(self, index: VectorIndex) -> None:
        for ask in (
            lambda: index.search([SearchRequest("x", unit(1))], FINGERPRINT),
            lambda: index.read_passages(["a:0"]),
            lambda: index.count_values("author"),
        ):
            with pytest.raises(StoreUnavailableError, match="poe run-feature-engineering-pipeline"):
                ask()
        assert list(index.list_versions()) == []
        assert index.count() == 0

    def test_an_index_without_chunks_answers_with_nothing(self, index: VectorIndex) -> None:
        with index.writer(FINGERPRINT):
            pass
        assert index.search([SearchRequest("x", unit(1)), SearchRequest("y", unit(1))], FINGERPRINT) == [
            [],
            [],
        ]
        assert list(index.list_versions()) == []
        assert index.count_values("author") == {}
        assert index.read_passages(["a:0"]) == {}

    def test_another_embedder_is_refused_in_search(self, index: VectorIndex) -> None:
        write(index, corpus())
        vector = unit(1, dimension=OTHER.dimension)
        with pytest.raises(FingerprintMismatchError) as caught:
            index.search([SearchRequest("x", vector)], OTHER)
        assert "small" in str(caught.value)
        assert "other" in str(caught.value)

    def test_another_embedder_in_a_writer_rebuilds_from_nothing(self, index: VectorIndex) -> None:
        write(index, corpus())
        write(index, [embedded(chunk("new"), unit(1, dimension=OTHER.dimension))], OTHER)
        assert list(index.list_versions()) == [("new", "v1")]
        [hits] = index.search([SearchRequest("some", unit(1, dimension=OTHER.dimension))], OTHER)
        assert [hit.chunk.document_id for hit in hits] == ["new"]
        write(index, corpus())
        assert index.count() == 40

    def test_a_failed_rebuild_leaves_the_old_index(self, index: VectorIndex) -> None:
        write(index, corpus())

        def rebuild() -> None:
            with index.writer(OTHER) as writer:
                writer.upsert([embedded(chunk("new"), unit(1, dimension=OTHER.dimension))])
                raise RuntimeError("the model is gone")

        with pytest.raises(RuntimeError, match="model"):
            rebuild()
        assert index.count() == 40
        assert len(index.search([SearchRequest("x", unit(1), k=3)], FINGERPRINT)[0]) == 3

    @pytest.mark.parametrize("vector", [None, unit(1, dimension=3)])
    def test_a_vector_that_does_not_fit_is_refused(self, index: VectorIndex, vector: Any) -> None:
        write(index, corpus())
        with pytest.raises(InvalidInputError):
            index.search([SearchRequest("x", vector)], FINGERPRINT)

    def test_an_embedding_that_does_not_fit_is_refused(self, index: VectorIndex) -> None:
        with pytest.raises(InvalidInputError), index.writer(FINGERPRINT) as writer:
            writer.upsert([embedded(chunk("d"), unit(1, dimension=5))])

    def test_closing_twice_does_no_harm(self, index: VectorIndex) -> None:
        write(index, corpus()[:1])
        index.close()
        index.close()

"""The retriever: stages in order, each failure left out and said, many requests at a time."""

import asyncio
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.inference.answer import AnsweringConfig
from llm_engineering.application.inference.guards import GuardConfig
from llm_engineering.application.inference.pipeline import (
    Finished,
    InferenceConfig,
    InferencePipeline,
    RagRequest,
)
from llm_engineering.application.inference.query_expansion import ExpansionConfig, FollowUpConfig
from llm_engineering.application.inference.retriever import (
    EmbeddingConfig,
    RerankConfig,
    RetrievalConfig,
    Retrieved,
    Retriever,
)
from llm_engineering.application.inference.search import fuse_hits
from llm_engineering.application.inference.self_query import SelfQueryConfig
from llm_engineering.application.ports import Message, Reranker, SearchRequest, Vectors
from llm_engineering.application.ports.observability import Recorder
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.errors import (
    FingerprintMismatchError,
    InvalidInputError,
    ModelError,
    StoreError,
    StoreUnavailableError,
    UnknownFilterValueError,
)
from llm_engineering.domain.inference import StageStatus
from llm_engineering.domain.retrieval import Hit, MetadataFilter, Query, SearchMode, WeightedFusion
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.reranker import ReadsPartsAlone
from tests.unit.test_retrieval import filled_index, make_chunk

CHUNKS = [
    make_chunk("Overlap keeps a sentence whole across two chunks.", document="overlap"),
    make_chunk("Gradient descent follows the slope downhill.", document="descent"),
    make_chunk("Bananas are rich in potassium.", document="bananas", author="Ben Okafor", author_id="a2"),
    make_chunk(
        "Chunks of two hundred tokens suit most embedders.",
        document="size",
        category="post",
        platform="linkedin",
    ),
]
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class WordsReranker(ReadsPartsAlone):
    """Scores texts by how many of ``favourites`` they hold; fails or hangs when told to."""

    def __init__(
        self, *favourites: str, error: Exception | None = None, gate: threading.Event | None = None
    ) -> None:
        self.favourites = favourites
        self.error = error
        self.gate = gate
        self.asked: list[tuple[str, int]] = []

    @property
    def name(self) -> str:
        return "words"

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.append((query, len(texts)))
        if self.gate is not None:
            self.gate.wait(5)
        if self.error is not None:
            raise self.error
        return [float(sum(word in text for word in self.favourites)) for text in texts]

    def close(self) -> None:
        """Nothing is held."""


class Setup:
    """A retriever over the four chunks above, and what it was made of."""

    def __init__(
        self,
        config: RetrievalConfig | None = None,
        *,
        model: ScriptedLanguageModel | None = None,
        reranker: Reranker | None = None,
        embedder: HashEmbedder | None = None,
        index: FakeVectorIndex | None = None,
    ) -> None:
        self.embedder = embedder or HashEmbedder()
        self.index = filled_index(CHUNKS, HashEmbedder()) if index is None else index
        config = config or RetrievalConfig()
        self.retriever = Retriever(self.index, self.embedder, model, reranker, config, now=lambda: NOW)
        self.recorder = Recorder("test", content=True)

    def ask(
        self, text: str, history: tuple[Message, ...] = (), *, for_answer: bool = False, **fields: Any
    ) -> Retrieved:
        query = Query(text=text, **fields)
        return asyncio.run(self.retriever.retrieve(query, self.recorder, history, for_answer=for_answer))

    @property
    def spans(self) -> list[str]:
        return [span.name for span in self.recorder.trace.spans]


def documents(found: Retrieved) -> list[str]:
    return [hit.chunk.document_id for hit in found.hits]


def said(value: str | list[str]) -> str:
    return json.dumps({"reply": value})


class TestRetrieving:
    @pytest.mark.parametrize("mode", list(SearchMode))
    def test_finds_what_the_question_is_about_in_every_mode(self, mode: SearchMode) -> None:
        found = Setup().ask("sentence overlap across chunks", mode=mode)
        assert documents(found)[0] == "overlap"
        assert found.provenance.mode is mode
        assert found.provenance.dense_status is (
            StageStatus.OFF if mode is SearchMode.SPARSE else StageStatus.OK
        )

    def test_gives_no_more_than_k(self) -> None:
        assert len(Setup().ask("chunks slope bananas", k=2).hits) == 2

    def test_times_each_stage_that_ran_under_its_name(self) -> None:
        model = ScriptedLanguageModel([said(["chunk overlap"])])
        setup = Setup(
            RetrievalConfig(expansion=ExpansionConfig(rewrites=1)), model=model, reranker=WordsReranker("a")
        )
        setup.ask("What is overlap?")
        assert setup.spans == ["guard", "self_query", "expand", "embed", "search", "rerank"]
        assert set(setup.spans) < set(setup.recorder.sum_timings())

    def test_of_stages_that_are_off_nothing_is_left(self) -> None:
        config = RetrievalConfig(
            guard=GuardConfig(enabled=False),
            self_query=SelfQueryConfig(kind="off"),
            rerank=RerankConfig(enabled=False),
        )
        setup = Setup(config, reranker=WordsReranker("a"))
        made = setup.ask("What does Ada Winter say about overlap? a@b.org", mode=SearchMode.SPARSE).provenance
        assert setup.spans == ["guard", "search"]
        statuses = (
            made.guard_status,
            made.self_query_status,
            made.expansion_status,
            made.dense_status,
            made.rerank_status,
        )
        assert set(statuses) == {StageStatus.OFF}
        assert made.queries == ("What does Ada Winter say about overlap? a@b.org",)
        assert not made.degraded

    def test_embeds_once_and_searches_once_however_many_texts_there_are(self) -> None:
        model = ScriptedLanguageModel([said(["chunk overlap", "shared sentences"])])
        setup = Setup(RetrievalConfig(expansion=ExpansionConfig(rewrites=2)), model=model)
        found = setup.ask("What is overlap?")
        assert found.provenance.queries == ("What is overlap?", "chunk overlap", "shared sentences")
        assert (setup.embedder.calls, setup.embedder.queries_embedded, setup.index.searches) == (1, 3, 1)

    def test_says_the_fusion_and_the_embedder(self) -> None:
        made = Setup().ask("overlap", fusion=WeightedFusion(alpha=0.3)).provenance
        assert made.fusion == WeightedFusion(alpha=0.3)
        assert made.embedder == "hash-words"

    def test_the_configuration_fills_in_what_a_caller_leaves_open(self) -> None:
        config = RetrievalConfig(k=7, mode=SearchMode.DENSE, fusion=WeightedFusion(alpha=0.2))
        assert config.query("x") == Query(
            text="x", k=7, mode=SearchMode.DENSE, fusion=WeightedFusion(alpha=0.2)
        )
        assert config.query("x", k=2, mode=SearchMode.SPARSE).k == 2


class TestGuarding:
    def test_what_is_searched_for_holds_no_personal_data(self) -> None:
        found = Setup().ask("what did ada@example.org say?", (Message("user", "I am +49 170 1234567"),))
        assert found.question == "what did [e-mail] say?"
        assert found.history == (Message("user", "I am [phone]"),)
        assert found.provenance.notes[0] == "personal_data_masked"
        assert all("ada@" not in query and "1234567" not in query for query in found.provenance.queries)

    def test_personal_data_reaches_no_trace(self) -> None:
        setup = Setup()
        setup.ask("what did ada@example.org say?")
        kept = [json.dumps([span.inputs, span.outputs]) for span in setup.recorder.trace.spans]
        assert all("ada@example.org" not in text for text in kept)

    def test_a_long_conversation_is_guarded_too(self) -> None:
        history = tuple(Message("user", f"{'word ' * 700} ada@example.org") for _ in range(5))
        assert all("[e-mail]" in turn.content for turn in Setup().ask("and?", history).history)

    def test_an_empty_question_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="empty"):
            Setup().ask(" \u200b ")

    def test_an_unknown_value_of_the_callers_filter_is_refused_with_the_closest(self) -> None:
        with pytest.raises(UnknownFilterValueError, match="Closest: Ada Winter"):
            Setup().ask("anything", filter=MetadataFilter(authors=("ada wintr",)))

    def test_a_value_that_has_just_come_in_is_accepted(self) -> None:
        setup = Setup(RetrievalConfig(values_seconds=3600))
        setup.ask("overlap")  # the values are kept from here on
        new = make_chunk("Chess openings.", document="chess", author="Cleo Park", author_id="a3")
        setup.index.chunks |= filled_index([new], HashEmbedder()).chunks
        assert documents(setup.ask("chess", filter=MetadataFilter(authors=("Cleo Park",)))) == ["chess"]


class TestSelfQuery:
    def test_narrows_the_search_and_says_from_which_words(self) -> None:
        found = Setup().ask("What does Ben Okafor say about chunks?")
        assert documents(found) == ["bananas"]
        assert found.provenance.filter == MetadataFilter(authors=("Ben Okafor",))
        assert found.provenance.self_query_status is StageStatus.OK
        assert found.provenance.notes == ("self_query: authors = Ben Okafor (“does Ben Okafor”)",)

    def test_that_leaves_nothing_is_taken_back_and_that_is_said(self) -> None:
        given = MetadataFilter(categories=("article",))
        found = Setup().ask("Which texts did Ada Winter share on LinkedIn?", filter=given)
        assert found.provenance.filter == given
        assert len(found.hits) > 0
        assert "nothing matched the filter" in found.provenance.notes[-1]
        assert not found.provenance.degraded

    def test_a_callers_filter_that_leaves_nothing_stays(self) -> None:
        given = MetadataFilter(authors=("Ben Okafor",), categories=("post",))
        found = Setup().ask("overlap", filter=given)
        assert (found.hits, found.provenance.filter) == ((), given)

    def test_by_a_model_that_fails_goes_on_with_the_rules(self) -> None:
        config = RetrievalConfig(self_query=SelfQueryConfig(kind="model"))
        setup = Setup(config, model=ScriptedLanguageModel([Reply("", fail_after=0)]))
        made = setup.ask("What does Ben Okafor say about chunks?").provenance
        assert made.self_query_status is StageStatus.FAILED
        assert made.filter.authors == ("Ben Okafor",)
        assert made.degradations == (
            "The language model could not read filters from the question; simple rules read it instead, and may miss some.",
        )
        assert setup.recorder.trace.spans[1].status == "failed"

    def test_goes_on_without_where_the_values_cannot_be_read(self) -> None:
        made = Setup(index=Unlisted(CHUNKS)).ask("What does Ben Okafor say about chunks?").provenance
        assert made.self_query_status is StageStatus.FAILED
        assert made.filter == MetadataFilter()
        assert made.degradations == ("Filter values could not be loaded; searched without a filter.",)


class Unlisted(FakeVectorIndex):
    """An index that can be searched, while its values cannot be listed."""

    def __init__(self, chunks: list[Any]) -> None:
        super().__init__()
        filled = filled_index(chunks, HashEmbedder())
        self.chunks, self.fingerprint = filled.chunks, filled.fingerprint

    def count_values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        raise StoreError("the facets timed out")


class TestExpansion:
    def test_finds_what_only_a_rewrite_names(self) -> None:
        model = ScriptedLanguageModel([said(["bananas potassium"])])
        setup = Setup(RetrievalConfig(k=4, expansion=ExpansionConfig(rewrites=1)), model=model)
        found = setup.ask("healthy fruit", mode=SearchMode.SPARSE)
        assert documents(found) == ["bananas"]

    def test_that_fails_leaves_the_question_and_says_so(self) -> None:
        setup = Setup(
            RetrievalConfig(expansion=ExpansionConfig(rewrites=2)), model=ScriptedLanguageModel(["garbage"])
        )
        found = setup.ask("sentence overlap")
        assert documents(found)[0] == "overlap"
        assert found.provenance.queries == ("sentence overlap",)
        assert found.provenance.expansion_status is StageStatus.FAILED
        assert "could not reword it" in found.provenance.degradations[0]

    def test_an_invented_answer_is_searched_for_by_meaning_only(self) -> None:
        asked: list[SearchRequest] = []

        class Watched(FakeVectorIndex):
            def search(
                self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint
            ) -> list[list[Hit]]:
                asked.extend(requests)
                return super().search(requests, fingerprint)

        index = Watched()
        filled = filled_index(CHUNKS, HashEmbedder())
        index.chunks, index.fingerprint = filled.chunks, filled.fingerprint
        config = RetrievalConfig(expansion=ExpansionConfig(hyde=True))
        Setup(config, model=ScriptedLanguageModel([said("Overlap shares text.")]), index=index).ask(
            "What is overlap?"
        )
        assert [request.mode for request in asked] == [SearchMode.HYBRID, SearchMode.DENSE]

    def test_a_follow_up_finds_what_the_question_before_names(self) -> None:
        history = (Message("user", "What about bananas?"), Message("assistant", "They are rich."))
        reranker = WordsReranker("potassium")
        found = Setup(reranker=reranker).ask("and rich in what?", history)
        assert documents(found)[0] == "bananas"
        assert found.standalone == "What about bananas? and rich in what?"
        assert reranker.asked[0][0] == found.standalone

    def test_a_follow_up_stands_alone_where_that_was_chosen(self) -> None:
        config = RetrievalConfig(expansion=ExpansionConfig(follow_up=FollowUpConfig(kind="off")))
        found = Setup(config).ask("and rich in what?", (Message("user", "bananas?"),))
        assert found.provenance.queries == ("and rich in what?",)
        assert found.provenance.expansion_status is StageStatus.OFF


class StuckEmbedder(HashEmbedder):
    """Embeds no question before ``gate`` opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.gate.wait(5)
        return super().embed_queries(texts)


class TestEmbedding:
    def test_that_fails_leaves_a_search_by_words_and_says_so(self) -> None:
        setup = Setup(embedder=HashEmbedder(fail_on="overlap"))
        setup.embedder.embed_queries = setup.embedder.embed_documents  # type: ignore[method-assign]
        found = setup.ask("sentence overlap")
        assert documents(found)[0] == "overlap"
        assert (found.provenance.mode, found.provenance.dense_status) == (
            SearchMode.SPARSE,
            StageStatus.FAILED,
        )
        assert found.provenance.degradations == (
            "The question could not be embedded, so passages were searched by their words only, not by meaning.",
        )
        assert found.hits[0].dense_score is None

    def test_that_hangs_does_not_hang_the_request(self) -> None:
        embedder = StuckEmbedder()
        setup = Setup(RetrievalConfig(embedding=EmbeddingConfig(timeout_seconds=0.05)), embedder=embedder)

        async def ask() -> Retrieved:
            found = await setup.retriever.retrieve(Query(text="sentence overlap"), setup.recorder)
            embedder.gate.set()
            return found

        found = asyncio.run(ask())
        assert documents(found)[0] == "overlap"
        assert found.provenance.dense_status is StageStatus.FAILED

    async def test_of_many_requests_at_a_time_is_one_call(self) -> None:
        setup = Setup(RetrievalConfig(embedding=EmbeddingConfig(max_batch=64)))
        await setup.retriever.filter_values()
        questions = [f"overlap {i}" for i in range(32)]
        found = await asyncio.gather(
            *(setup.retriever.retrieve(Query(text=text), Recorder("test")) for text in questions)
        )
        assert [each.question for each in found] == questions
        assert setup.embedder.calls <= 2
        assert setup.embedder.queries_embedded == 32


class TestReranking:
    def test_orders_by_the_reranker_and_keeps_the_cosine(self) -> None:
        plain = Setup().ask("overlap of chunks and bananas", k=4)
        config = RetrievalConfig(rerank=RerankConfig(weight=1.0))
        found = Setup(config, reranker=WordsReranker("potassium")).ask("overlap of chunks and bananas", k=4)
        assert documents(found)[0] == "bananas"
        assert found.hits[0].score == 1.0
        cosines = {hit.chunk.id: hit.dense_score for hit in plain.hits}
        assert {hit.chunk.id: hit.dense_score for hit in found.hits} == cosines
        assert (found.provenance.reranker, found.provenance.rerank_status) == ("words", StageStatus.OK)

    @pytest.mark.parametrize(("k", "candidates"), [(1, 2), (2, 3), (4, 3)])
    def test_sees_n_candidates_a_hit_within_the_cap_and_the_rest_keeps_its_order_below(
        self, k: int, candidates: int
    ) -> None:
        reranker = WordsReranker("a")
        config = RetrievalConfig(rerank=RerankConfig(candidates_per_hit=2, max_candidates=3))
        question = "overlap of chunks and bananas downhill"
        found = Setup(config, reranker=reranker).ask(question, k=k)
        assert reranker.asked[0][1] == candidates
        assert len(found.hits) == k
        assert documents(found)[3:] == documents(Setup().ask(question, k=k))[3:]
        assert [hit.score for hit in found.hits[3:]] == [0.0] * (k - 3)

    @pytest.mark.parametrize("error", [ModelError("out of memory"), None])
    def test_that_fails_or_hangs_leaves_the_order_of_the_search_and_says_so(
        self, error: Exception | None
    ) -> None:
        plain = Setup().ask("overlap of chunks and bananas", k=3)
        gate = threading.Event()
        reranker = WordsReranker("potassium", error=error, gate=None if error else gate)
        config = RetrievalConfig(rerank=RerankConfig(timeout_seconds=0.05))
        found = Setup(config, reranker=reranker).ask("overlap of chunks and bananas", k=3)
        gate.set()
        assert documents(found) == documents(plain)
        assert (found.provenance.reranker, found.provenance.rerank_status) == (None, StageStatus.FAILED)
        assert found.provenance.degradations == (
            f"The {'reranker failed' if error else 'machine was busy'}, so the passages stand as the search ranked them.",
        )

    def test_on_a_machine_that_stays_busy_gets_the_time_that_it_needs(self) -> None:
        reranker = WordsReranker("potassium")
        hasty = Setup(RetrievalConfig(rerank=RerankConfig(timeout_seconds=0.1)), reranker=reranker)
        reranker.gate, statuses = threading.Event(), []
        for _ in range(2):
            timer = threading.Timer(0.15, reranker.gate.set)
            timer.start()
            statuses.append(hasty.ask("overlap of chunks and bananas", k=3).provenance.rerank_status)
            timer.join()
            reranker.gate.clear()
        assert statuses == [StageStatus.FAILED, StageStatus.OK]

    @pytest.mark.parametrize(("error", "closeness"), [(None, 2.0), (ModelError("out of memory"), None)])
    def test_tells_an_answer_how_close_the_best_part_comes(
        self, error: Exception | None, closeness: float | None
    ) -> None:
        reranker = WordsReranker("potassium", "Bananas", error=error)
        setup = Setup(reranker=reranker)
        assert setup.ask("bananas and potassium", k=2).closeness is None
        asked = len(reranker.asked)
        assert setup.ask("bananas and potassium", k=2, for_answer=True).closeness == closeness
        assert len(reranker.asked) == asked + (2 if error is None else 1)

    def test_of_nothing_is_not_asked_for(self) -> None:
        reranker = WordsReranker("a")
        given = MetadataFilter(authors=("Ben Okafor",), categories=("post",))
        made = Setup(reranker=reranker).ask("overlap", filter=given).provenance
        assert (reranker.asked, made.rerank_status) == ([], StageStatus.OFF)


questions = st.lists(
    st.sampled_from(
        "overlap chunks bananas by Ada Winter Ben Okafor posts LinkedIn on written since 2024 which".split()
    ),
    min_size=1,
    max_size=8,
).map(" ".join)


@settings(deadline=None, max_examples=40)
@given(
    question=questions,
    k=st.integers(1, 6),
    mode=st.sampled_from(list(SearchMode)),
    authors=st.sets(st.sampled_from(["Ada Winter", "Ben Okafor"])),
)
def test_whatever_is_asked_hits_are_few_distinct_in_order_and_within_the_filter(
    question: str, k: int, mode: SearchMode, authors: set[str]
) -> None:
    given = MetadataFilter(authors=tuple(authors))
    found = Setup(reranker=WordsReranker("a")).ask(question, k=k, mode=mode, filter=given)
    used = found.provenance.filter
    assert len(found.hits) <= k
    assert len({hit.chunk.id for hit in found.hits}) == len(found.hits)
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    assert all(used.accepts(hit.chunk) and given.accepts(hit.chunk) for hit in found.hits)


class TestWhatCannotBeDoneWithout:
    def test_an_index_that_is_missing_is_an_error(self) -> None:
        with pytest.raises(StoreUnavailableError, match="run-feature-engineering-pipeline"):
            Setup(index=FakeVectorIndex()).ask("anything")

    def test_an_index_of_another_embedder_is_an_error(self) -> None:
        with pytest.raises(FingerprintMismatchError):
            Setup(embedder=HashEmbedder(model="another")).ask("anything")


def hits(*names: str) -> list[Hit]:
    return [
        Hit(chunk=make_chunk(f"text {name}", document=name), score=1 / rank, dense_score=1 / rank)
        for rank, name in enumerate(names, start=1)
    ]


def names(found: Sequence[Hit]) -> list[str]:
    return [hit.chunk.document_id for hit in found]


class TestFusingTheListsOfSeveralQueries:
    def test_a_lone_list_stays_as_it_is(self) -> None:
        alone = hits("a", "b")
        assert fuse_hits([alone], [2.0]) == alone

    def test_what_several_queries_find_comes_first(self) -> None:
        assert names(fuse_hits([hits("a", "b"), hits("c", "b")], [1.0, 1.0]))[0] == "b"

    def test_the_questions_own_hits_weigh_more(self) -> None:
        assert names(fuse_hits([hits("a"), hits("b")], [2.0, 1.0])) == ["a", "b"]
        assert names(fuse_hits([hits("a"), hits("b")], [1.0, 2.0])) == ["b", "a"]

    def test_a_hit_keeps_its_best_cosine_to_what_was_asked(self) -> None:
        [first, *_] = fuse_hits([hits("x", "a"), hits("a")], [1.0, 1.0])
        assert (first.chunk.document_id, first.dense_score) == ("a", 1.0)

    def test_a_cosine_to_an_invented_answer_does_not_count(self) -> None:
        fused = fuse_hits([hits("a", "b"), hits("c")], [2.0, 1.0], [False, True])
        assert {hit.chunk.document_id: hit.dense_score for hit in fused}["c"] == 0.5

    @given(
        lists=st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=2, max_size=4),
        weights=st.lists(st.floats(0.5, 4), min_size=4, max_size=4),
    )
    def test_keeps_each_chunk_once_in_descending_order(
        self, lists: list[list[str]], weights: list[float]
    ) -> None:
        fused = fuse_hits([hits(*each) for each in lists], weights[: len(lists)])
        assert sorted(names(fused)) == sorted({name for each in lists for name in each})
        assert [hit.score for hit in fused] == sorted((hit.score for hit in fused), reverse=True)

    @given(ranking=st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1), times=st.integers(2, 4))
    def test_lists_that_agree_keep_their_order(self, ranking: list[str], times: int) -> None:
        assert names(fuse_hits([hits(*ranking)] * times, [1.0] * times)) == ranking


async def test_the_language_model_sees_no_personal_data_of_question_or_history() -> None:
    setup = Setup()
    model = ScriptedLanguageModel(default="Overlap keeps a sentence whole across two chunks. [1]")
    config = InferenceConfig(answering=AnsweringConfig(min_similarity=-1.0, grounding="annotate"))
    pipeline = InferencePipeline(setup.retriever, model, setup.index, setup.embedder, config=config)
    history = (
        Message("user", "My mail is ada@example.org."),
        Message("assistant", "Noted: ada@example.org."),
    )
    request = RagRequest(Query(text="Does overlap keep a sentence whole? Call +49 170 1234567"), history)
    events = [event async for event in pipeline.answer(request)]
    await pipeline.close()
    assert isinstance(events[-1], Finished)
    prompts = " ".join(message.content for call in model.calls for message in call.messages)
    assert "whole?" in prompts
    assert "ada@example.org" not in prompts
    assert "1234567" not in prompts

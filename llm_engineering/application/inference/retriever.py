"""The retrieval half of the inference pipeline: from a question to ranked hits, and what they were found with.

::

    guard → self_query ┐
            expand     ┴→ embed → search → rerank

Every stage is timed under its name, and can be switched off. One that fails is left out where the request can go on
without it, and the result says so; only the guard and the search cannot be done without.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from loguru import logger

from llm_engineering.application.inference.abstention import Floors, measure_floors
from llm_engineering.application.inference.config import EmbeddingConfig, RerankConfig, RetrievalConfig
from llm_engineering.application.inference.deadlines import Deadline
from llm_engineering.application.inference.embedding import MicroBatcher
from llm_engineering.application.inference.guards import Guarded, guard
from llm_engineering.application.inference.query_expansion import Expansion, expand
from llm_engineering.application.inference.quotes import Rank, measure_closeness
from llm_engineering.application.inference.search import (
    FacetCache,
    Facets,
    as_passages,
    drop_near_duplicates,
    fuse_hits,
    rerank_hits,
    sort_hits,
    spell_filter,
)
from llm_engineering.application.inference.self_query import SelfQuery, self_query
from llm_engineering.application.ports import (
    Embedder,
    LanguageModel,
    Message,
    Part,
    Reranker,
    SearchRequest,
    VectorIndex,
    Vectors,
)
from llm_engineering.application.ports.observability import Recorder
from llm_engineering.domain.errors import ModelError, ModelServiceError, StoreError, UnknownFilterValueError
from llm_engineering.domain.inference import ResponseProvenance, StageStatus
from llm_engineering.domain.retrieval import (
    Hit,
    MetadataFilter,
    Query,
    SearchMode,
)

__all__ = ["EmbeddingConfig", "RerankConfig", "RetrievalConfig", "Retrieved", "Retriever"]

RERANKS_AT_ONCE = 2
"""Reranks that run at the same time. They have threads of their own, so that one that hangs holds up no search."""

_LONG_CHARACTERS = 8_000
"""Question and history beyond this are guarded in a thread: it takes milliseconds, in which the event loop would stand."""
_STAGES = ("self_query", "expansion", "dense", "rerank")


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Hits, best first, and what they were found with."""

    question: str
    """The question as the input guard let it through, personal data masked where that was chosen."""
    hits: tuple[Hit, ...]
    provenance: ResponseProvenance
    history: tuple[Message, ...] = ()
    """Earlier turns as the input guard let them through; only these may leave the machine."""
    standalone: str | None = None
    """A follow-up question together with what it refers to."""
    closeness: float | None = None
    """The reranker's score of the few sentences that answer best; None: it was not asked for, or there is no reranker."""


@dataclass(slots=True)
class _Provenance:
    """What a request is being made with, filled in stage by stage."""

    statuses: dict[str, StageStatus] = field(default_factory=dict)
    degradations: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def failed(self, stage: str, degradation: str, error: BaseException | None = None) -> None:
        self.statuses[stage] = StageStatus.FAILED
        self.degradations[stage] = degradation
        # A timeout has no text of its own, and would leave the log without a reason.
        logger.warning(
            "{} failed; the request goes on without it: {}", stage, str(error or "") or degradation
        )


@dataclass(frozen=True, slots=True)
class _Text:
    """One text to search for."""

    text: str
    weight: float
    by_meaning_only: bool = False


class Retriever:
    """Runs the stages of retrieval over ports that are handed to it. One for the whole process, shared by all requests.

    Args:
        model: for self-query and expansion; None: these use rules only, or are off.
        reranker: None: hits stay as the search ranked them.
        now: what "last year" in a question is counted from.
    """

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        model: LanguageModel | None = None,
        reranker: Reranker | None = None,
        config: RetrievalConfig | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._model = model
        config = config or RetrievalConfig()
        self._reranker = reranker if config.rerank.enabled else None
        self._config = config
        self._now = now
        self._values = FacetCache(index, config.values_seconds)
        embedding = config.embedding
        self._embed_batch = MicroBatcher(
            self._embed_texts, max_items=embedding.max_batch, at_once=embedding.at_once
        )
        self._embed_deadline = Deadline(embedding.timeout_seconds)
        self._rerank_deadline = Deadline(config.rerank.timeout_seconds)
        self._rerankers = ThreadPoolExecutor(RERANKS_AT_ONCE, thread_name_prefix="rerank")

    @property
    def config(self) -> RetrievalConfig:
        return self._config

    @property
    def rank(self) -> Rank | None:
        """Gives the reranker's scores of parts of texts for a question; None: there is no reranker. Blocking."""
        return None if self._reranker is None else self._rank

    def _rank(self, question: str, texts: Sequence[str], parts: Sequence[Part]) -> Sequence[float]:
        """Scores in their turn and in time, as those of hits.

        Raises:
            ModelError: the reranker failed, or was too slow.
        """
        assert self._reranker is not None, "there is a reranker"
        seconds = self._rerank_deadline.seconds
        try:
            return self._rerankers.submit(self._reranker.rerank_parts, question, texts, parts).result(seconds)
        except TimeoutError:
            raise ModelServiceError(
                f"The reranker did not finish within {seconds:g} s.", reason="timeout"
            ) from None

    def measure_floors(self) -> Floors:
        """Return how near a question must come to the collection, by the embedder and the reranker. Blocking.

        Raises:
            StoreError: the index is not there, or failed.
            ModelError: a model failed.
        """
        return measure_floors(self._index, self._embedder, self.rank)

    def close(self) -> None:
        """Let go of the threads. What is still being reranked ends in the background. May be called twice."""
        self._rerankers.shutdown(wait=False, cancel_futures=True)

    async def filter_values(self) -> Facets:
        """Return what can be filtered on, with the number of chunks of each.

        Raises:
            StoreError: the index is not there, or failed.
        """
        return await self._values.get()

    async def retrieve(
        self,
        query: Query,
        recorder: Recorder,
        history: tuple[Message, ...] = (),
        *,
        me: str | None = None,
        for_answer: bool = False,
    ) -> Retrieved:
        """Return the ``query.k`` best hits.

        Args:
            history: earlier turns of the conversation, oldest first.
            me: the author whom "I" and "my" mean.
            for_answer: measure too how close the best few sentences come to the question.

        Raises:
            InvalidInputError: the question or its filter cannot be used.
            StoreError: there is no index, it does not answer, or it was written by another embedder.
            ModelFileError: the embedder's files are missing, so nobody knows whether the index fits it.
        """
        made = _Provenance()
        asked, history = await self._guard(query, history, recorder, made)
        found, expansion = await asyncio.gather(
            self._self_query(asked, me, recorder, made), self._expand(asked.text, history, recorder, made)
        )
        texts = _texts(asked, expansion, self._config.question_weight)
        vectors = await self._embed(asked.mode, texts, recorder, made)
        mode = SearchMode.SPARSE if vectors is None else asked.mode
        wanted = asked.model_copy(update={"filter": found.filter, "mode": mode})
        hits, filter = await self._search(wanted, asked.filter, texts, vectors, recorder, made)
        reranked = await self._rerank(expansion.standalone or asked.text, hits, asked.k, recorder, made)
        closeness = (
            await self._measure_closeness(expansion.standalone or asked.text, reranked, made)
            if for_answer
            else None
        )
        provenance = ResponseProvenance(
            mode=mode,
            fusion=query.fusion,
            reranker=self._reranker.name
            if self._reranker and made.statuses["rerank"] is StageStatus.OK
            else None,
            embedder=self._embedder.fingerprint.model,
            filter=filter,
            queries=tuple(text.text for text in texts),
            degradations=tuple(made.degradations[stage] for stage in _STAGES if stage in made.degradations),
            notes=tuple(made.notes),
            **{f"{stage}_status": status for stage, status in made.statuses.items()},
        )
        return Retrieved(
            asked.text,
            tuple(sort_hits(reranked, asked.sort)),
            provenance,
            history,
            expansion.standalone,
            closeness,
        )

    async def _measure_closeness(self, question: str, hits: Sequence[Hit], made: _Provenance) -> float | None:
        if made.statuses["rerank"] is not StageStatus.OK:
            return None
        try:
            return await asyncio.to_thread(measure_closeness, question, as_passages(hits), self._rank)
        except ModelError as error:
            logger.warning("How close the passages come is told by their vectors alone: {}", error)
            return None

    async def _guard(
        self, query: Query, history: tuple[Message, ...], recorder: Recorder, made: _Provenance
    ) -> tuple[Query, tuple[Message, ...]]:
        # What came in is not kept in the trace: personal data in it must not leave the machine that way either.
        with recorder.record_span("guard", "guardrail") as span:
            guarded = await self.guard(query, history)
            made.statuses["guard"] = StageStatus.OK if self._config.guard.enabled else StageStatus.OFF
            made.notes.extend(guarded.notes)
            span.attributes["notes"] = list(guarded.notes)
            span.outputs["question"] = guarded.query.text
            spelled = await self.spell_filter(query.filter)
        return guarded.query.model_copy(update={"filter": spelled}), guarded.history

    async def guard(self, query: Query, history: tuple[Message, ...]) -> Guarded:
        """Return the query and its history, made harmless.

        Raises:
            InvalidInputError: the question is empty or too long.
        """
        if len(query.text) + sum(len(turn.content) for turn in history) > _LONG_CHARACTERS:
            return await asyncio.to_thread(guard, query, history, self._config.guard)
        return guard(query, history, self._config.guard)

    async def spell_filter(self, filter: MetadataFilter) -> MetadataFilter:
        """Return the filter with its values as they are stored.

        Raises:
            UnknownFilterValueError: a value is not there; names the closest.
            StoreError: the index is not there, or failed.
        """
        if not Facets.fields_used(filter) and not filter.facets:
            return filter
        try:
            return spell_filter(filter, await self._values.get())
        except UnknownFilterValueError:
            # It may have come in since; only what is not there now is refused.
            return spell_filter(filter, await self._values.get(fresh=True))

    async def _self_query(
        self, query: Query, me: str | None, recorder: Recorder, made: _Provenance
    ) -> SelfQuery:
        made.statuses["self_query"] = StageStatus.OFF
        config = self._config.self_query
        if config.kind == "off":
            return SelfQuery(query.filter, status=StageStatus.OFF)
        try:
            with recorder.record_span("self_query", "retrieval", question=query.text) as span:
                known = await self._values.get()
                found = await self_query(
                    query.text, query.filter, known, self._now(), config, self._model, me=me
                )
                span.attributes["parts"] = len(found.reasons)
                span.outputs["reasons"] = list(found.reasons)
                if found.usage is not None and self._model is not None:
                    span.model, span.usage = self._model.name, found.usage
                if found.status is StageStatus.FAILED:
                    span.status = "failed"
        except StoreError as error:
            sentence = "Filter values could not be loaded; searched without a filter."
            made.failed("self_query", sentence, error)
            return SelfQuery(query.filter, status=StageStatus.FAILED)
        made.statuses["self_query"] = found.status
        if found.degradation is not None:
            made.failed("self_query", found.degradation)
        made.notes.extend(f"self_query: {reason}" for reason in found.reasons)
        return found

    async def _expand(
        self, question: str, history: tuple[Message, ...], recorder: Recorder, made: _Provenance
    ) -> Expansion:
        made.statuses["expansion"] = StageStatus.OFF
        config = self._config.expansion
        if not config.enabled and (not history or config.follow_up.kind == "off"):
            return Expansion()
        with recorder.record_span("expand", "retrieval", question=question) as span:
            expansion = await expand(question, history, config, self._model)
            span.attributes["queries"] = len(expansion.rewrites)
            span.outputs["queries"] = [*expansion.rewrites, expansion.standalone, expansion.hypothetical]
            if expansion.usage is not None and self._model is not None:
                span.model, span.usage = self._model.name, expansion.usage
            if expansion.status is StageStatus.FAILED:
                span.status = "failed"
        made.statuses["expansion"] = expansion.status
        if expansion.degradation is not None:
            made.failed("expansion", expansion.degradation)
        return expansion

    async def _embed(
        self, mode: SearchMode, texts: Sequence[_Text], recorder: Recorder, made: _Provenance
    ) -> list[Vectors] | None:
        """A vector for each text; None where the search goes by words alone."""
        made.statuses["dense"] = StageStatus.OFF
        if mode is SearchMode.SPARSE:
            return None
        try:
            with (
                recorder.record_span("embed", "retrieval") as span,
                self._embed_deadline.measure() as seconds,
            ):
                span.attributes["texts"] = len(texts)
                # Not wait_for: in Python 3.11 it can swallow a cancellation that comes as the result does.
                async with asyncio.timeout(seconds):
                    vectors = await self._embed_batch([text.text for text in texts])
        except (ModelError, TimeoutError) as error:
            sentence = "The question could not be embedded, so passages were searched by their words only, not by meaning."
            made.failed("dense", sentence, error)
            return None
        made.statuses["dense"] = StageStatus.OK
        return vectors

    def _embed_texts(self, texts: Sequence[str]) -> Sequence[Vectors]:
        return list(self._embedder.embed_queries(texts))

    async def _search(
        self,
        query: Query,
        given: MetadataFilter,
        texts: Sequence[_Text],
        vectors: Sequence[Vectors] | None,
        recorder: Recorder,
        made: _Provenance,
    ) -> tuple[list[Hit], MetadataFilter]:
        """Candidates, best first, without near-duplicates, and the filter that they were found with."""
        filter = query.filter
        with recorder.record_span("search", "retrieval", query=query.text) as span:
            hits = await asyncio.to_thread(self._search_all, query, texts, vectors)
            if not hits and filter != given:
                # What was read from the question may have been meant otherwise; finding nothing is worse.
                filter = given
                made.notes.append(
                    "self_query: nothing matched the filter read from the question; searched without it"
                )
                query = query.model_copy(update={"filter": given})
                hits = await asyncio.to_thread(self._search_all, query, texts, vectors)
            span.attributes |= {"candidates": len(hits), "queries": len(texts), "mode": query.mode.value}
        return hits, filter

    def _search_all(
        self, query: Query, texts: Sequence[_Text], vectors: Sequence[Vectors] | None
    ) -> list[Hit]:
        """All texts in one batched call, their lists fused. Blocking."""
        wanted = self.count_candidates(query.k)
        requests, weights, inexact = [], [], []
        for position, text in enumerate(texts):
            if text.by_meaning_only and query.mode is SearchMode.SPARSE:
                continue
            requests.append(
                SearchRequest(
                    text=text.text,
                    vector=None if vectors is None else vectors[position],
                    filter=query.filter,
                    k=wanted,
                    mode=SearchMode.DENSE if text.by_meaning_only else query.mode,
                    fusion=query.fusion,
                )
            )
            weights.append(text.weight)
            inexact.append(text.by_meaning_only)
        lists = self._index.search(requests, self._embedder.fingerprint)
        fused = fuse_hits(lists, weights, inexact)
        return drop_near_duplicates(fused)[:wanted]

    def count_candidates(self, k: int) -> int:
        """Return how many passages are looked at where ``k`` are wanted."""
        if self._reranker is None:
            return k * self._config.candidates_per_hit
        rerank = self._config.rerank
        return max(k, min(k * rerank.candidates_per_hit, rerank.max_candidates))

    async def _rerank(
        self, question: str, hits: Sequence[Hit], k: int, recorder: Recorder, made: _Provenance
    ) -> list[Hit]:
        made.statuses["rerank"] = StageStatus.OFF
        if self._reranker is None or not hits:
            return list(hits[:k])
        config = self._config.rerank
        first, rest = hits[: config.max_candidates], hits[config.max_candidates :]
        try:
            with (
                recorder.record_span("rerank", "retrieval", query=question) as span,
                self._rerank_deadline.measure() as seconds,
            ):
                span.attributes["candidates"], span.model = len(first), self._reranker.name
                work = partial(rerank_hits, question, first, self._reranker, weight=config.weight)
                job = asyncio.get_running_loop().run_in_executor(self._rerankers, work)
                async with asyncio.timeout(seconds):
                    reranked = await job
        except (ModelError, TimeoutError) as error:
            why = "The machine was busy" if isinstance(error, TimeoutError) else "The reranker failed"
            made.failed("rerank", f"{why}, so the passages stand as the search ranked them.", error)
            return list(hits[:k])
        made.statuses["rerank"] = StageStatus.OK
        return [*reranked, *(hit.model_copy(update={"score": 0.0}) for hit in rest)][:k]


def _texts(query: Query, expansion: Expansion, question_weight: float) -> list[_Text]:
    """All that is searched for, the question first, each text once."""
    # A follow-up says little by itself, so what it refers to weighs as much.
    texts = [_Text(query.text, question_weight)]
    if expansion.standalone is not None:
        texts.append(_Text(expansion.standalone, question_weight))
    texts.extend(_Text(text, 1.0) for text in expansion.rewrites)
    if expansion.hypothetical is not None and query.mode is not SearchMode.SPARSE:
        texts.append(_Text(expansion.hypothetical, 1.0, by_meaning_only=True))
    return list({text.text: text for text in reversed(texts)}.values())[::-1]

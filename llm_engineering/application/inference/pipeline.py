"""The inference pipeline: a question in; sources, text, verdicts and a finished answer out, traced and kept for feedback."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from loguru import logger

from llm_engineering.application.inference.abstention import AbstentionFloor
from llm_engineering.application.inference.answer import AnsweringConfig, AnswerPiece, answer
from llm_engineering.application.inference.briefs import Brief, asks_for_difference
from llm_engineering.application.inference.catalogue import (
    describe_found,
    plan_catalogue,
    run_plan,
)
from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.composing import Outline, compose
from llm_engineering.application.inference.context import merge_overlapping
from llm_engineering.application.inference.converse import reply_to
from llm_engineering.application.inference.embedding import InMemoryEmbeddingCache
from llm_engineering.application.inference.events import Checked, Event, Finished, Piece, RagRequest, Sources
from llm_engineering.application.inference.follow_ups import (
    FollowUp,
    Reference,
    describe_sources,
    read_follow_up,
)
from llm_engineering.application.inference.guards import Guarded
from llm_engineering.application.inference.intents import Routed, route
from llm_engineering.application.inference.planning import plan_text
from llm_engineering.application.inference.quotes import Rank
from llm_engineering.application.inference.retriever import RetrievalConfig, Retriever
from llm_engineering.application.inference.search import Facets, as_passages, expand_to_parents
from llm_engineering.application.ports import (
    DocumentCard,
    DraftStore,
    Embedder,
    FeedbackStore,
    LanguageModel,
    NullTracer,
    Tracer,
    VectorIndex,
)
from llm_engineering.application.ports.observability import Recorder, Trace
from llm_engineering.domain.documents import Model
from llm_engineering.domain.drafts import DraftBrief, StoredDraft
from llm_engineering.domain.errors import InvalidInputError, ModelError, StoreError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.inference import (
    Intent,
    LlmProfile,
    RagResult,
    ResponseProvenance,
    SearchResult,
    StageStatus,
    make_interaction,
)
from llm_engineering.domain.retrieval import (
    MAX_QUESTION_CHARACTERS,
    Answer,
    Hit,
    MetadataFilter,
    Passage,
    Query,
    Support,
)

__all__ = [
    "Checked",
    "Event",
    "Finished",
    "InferenceConfig",
    "InferencePipeline",
    "Piece",
    "RagRequest",
    "Sources",
]

_DEFAULT_PROFILE = LlmProfile()
_RESTYLED = (Intent.ANSWER, Intent.WRITE, Intent.SUMMARISE, Intent.COMPARE)
"""What can be asked for in another form."""
NO_DRAFTS = "The draft is not kept, so it cannot be edited here later: this service keeps no answers."
"""Told where there is no store of drafts."""
DRAFT_LOST = (
    "The draft could not be kept, so it cannot be edited here later: the data warehouse does not answer."
)
NOTHING_COLLECTED = f'Nothing was collected yet. Collect with: {POE} run-end-to-end-data-pipeline --author "Your Name" --link URL'


class InferenceConfig(Model):
    """Everything about how questions are answered: the file of ``run-inference-ml-service --config``."""

    retrieval: RetrievalConfig = RetrievalConfig()
    answering: AnsweringConfig = AnsweringConfig()


class _DraftSoFar:
    """What has come of a draft."""

    def __init__(self, question: str, brief: Brief) -> None:
        self.brief = DraftBrief(
            subject=brief.subject, format=brief.form, words=brief.words, author=brief.author
        )
        self._question = question
        self._sources: Sources | None = None
        self._text = ""
        self._supports: list[Support] = []
        self._finished = False

    def take(self, event: Event) -> None:
        """Note what an event brings."""
        match event:
            case Sources():
                self._sources = event
            case Piece():
                self._text += event.text
            case Checked():
                self._supports.append(event.support)
            case Finished():
                self._finished = True

    def break_off(self, at: datetime) -> StoredDraft | None:
        """The unfinished draft; None where there is nothing to keep, or it is whole and kept already."""
        if self._sources is None or self._finished or not self._text.strip():
            return None
        provenance = self._sources.provenance
        answer = Answer(
            question=self._question,
            text=self._text,
            citations=self._sources.citations,
            supports=tuple(self._supports),
            model=provenance.model or "",
        )
        return StoredDraft(
            id=self._sources.trace_id,
            brief=self.brief,
            answer=answer,
            provenance=provenance,
            unfinished=True,
            created_at=at,
        )


class InferencePipeline:
    """Answers questions. One for the whole process; safe for many requests at a time on one event loop."""

    def __init__(
        self,
        retriever: Retriever,
        model: LanguageModel,
        index: VectorIndex,
        embedder: Embedder,
        *,
        config: InferenceConfig = InferenceConfig(),
        profile: LlmProfile = _DEFAULT_PROFILE,
        tracer: Tracer | None = None,
        trace_content: bool = False,
        feedback: FeedbackStore | None = None,
        drafts: DraftStore | None = None,
        collection: Collection | None = None,
        owner: str | None = None,
        more_models: Sequence[LanguageModel] = (),
        floor_file: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._retriever = retriever
        self._model = model
        self._index = index
        self._embedder = embedder
        self._answering = config.answering.with_profile(profile)
        self._embed = InMemoryEmbeddingCache(embedder.embed_queries)
        self._floor = AbstentionFloor(index, embedder, retriever.rank, floor_file)
        self._tracer = tracer or NullTracer()
        self._trace_content = trace_content
        self._feedback = feedback
        self._drafts = drafts
        self._collection = collection
        self._owner = owner
        self._more_models = tuple(more_models)
        self._now = now
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def model(self) -> LanguageModel:
        return self._model

    @property
    def owner(self) -> str | None:
        """Whose twin it is; None: nobody's in particular."""
        return self._owner

    @property
    def models(self) -> tuple[LanguageModel, ...]:
        """Those that a request may name; the first answers where it names none."""
        return (self._model, *self._more_models)

    def _choose_model(self, name: str | None) -> LanguageModel:
        if name is None:
            return self._model
        chosen = next((model for model in self.models if model.name == name), None)
        if chosen is None:
            there = ", ".join(model.name for model in self.models)
            raise InvalidInputError(f"There is no model '{name}' here. There are: {there}.")
        return chosen

    async def search(self, query: Query, *, trace_id: str | None = None) -> SearchResult:
        """Return hits for a query.

        Raises:
            InvalidInputError, StoreError: see :meth:`Retriever.retrieve`.
        """
        recorder = Recorder("search", content=self._trace_content, trace_id=trace_id)
        try:
            found = await self._retriever.retrieve(query, recorder, me=self._owner)
        except BaseException as error:
            self._tracer.record(recorder.finish(_ending(error), error))
            raise
        result = SearchResult(
            trace_id=recorder.trace.id,
            hits=found.hits,
            provenance=found.provenance,
            timings=recorder.sum_timings(),
        )
        trace = recorder.finish(question=found.question, hits=len(found.hits))
        trace.attributes |= _provenance(found.provenance)
        self._tracer.record(trace)
        return result

    async def answer(
        self, request: RagRequest, *, trace_id: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Stream an answer. Closing the generator early ends the generation too.

        Raises:
            InvalidInputError: the question or its filter cannot be used.
            StoreError: the index is not there.
            ModelError: a model that the answer cannot do without failed.
        """
        recorder = Recorder("rag", content=self._trace_content, trace_id=trace_id)
        try:
            async with aclosing(self._events(request, recorder)) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            self._tracer.record(recorder.finish(_ending(error), error))
            raise

    async def _events(self, request: RagRequest, recorder: Recorder) -> AsyncGenerator[Event, None]:
        guarded = await self._retriever.guard(request.query, request.history)
        routed = route(guarded.query.text, guarded.history, request.intent)
        if request.brief.rewrite:
            routed = replace(routed, continues=True)
        elif request.intent is None and guarded.history:
            follow_up = await self._read_follow_up(guarded)
            if follow_up.reference is Reference.SOURCE:
                request, guarded = await self._spell_names(request, guarded)
                async with aclosing(self._tell_sources(request, guarded, follow_up, recorder)) as events:
                    async for event in events:
                        yield event
                return
            request, guarded, routed = self._resolve(follow_up, request, guarded, routed)
        if (
            routed.intent is Intent.ANSWER
            and request.intent is None
            and self._answering.quotes
            and asks_for_difference(guarded.query.text)
        ):
            # No passage need speak of both; a model that writes answers from passages on each.
            routed = replace(routed, intent=Intent.COMPARE)
        recorder.trace.attributes["intent"] = routed.intent.value
        if routed.intent is not Intent.ANSWER:
            request, guarded = await self._spell_names(request, guarded)
        if routed.intent in (Intent.CATALOGUE, Intent.CONVERSE):
            events = self._tell(request, guarded, routed, recorder)
        elif routed.intent is Intent.ANSWER or self._collection is None:
            events = self._answer_from_texts(
                request, routed.introduced or self._owner, recorder, guarded.notes
            )
        else:
            events = self._compose(request, guarded, routed, recorder)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _read_follow_up(self, guarded: Guarded) -> FollowUp:
        """What the message means in its conversation."""
        try:
            known = await self._retriever.filter_values()
        except StoreError:
            known = Facets()
        return await asyncio.to_thread(
            read_follow_up, guarded.query.text, guarded.history, known, self._now()
        )

    def _resolve(
        self, follow_up: FollowUp, request: RagRequest, guarded: Guarded, routed: Routed
    ) -> tuple[RagRequest, Guarded, Routed]:
        """The request and what it asks for, in words that need no conversation."""
        text, intent = follow_up.request, route(follow_up.request).intent
        options = replace(request.brief, form=follow_up.options.form, words=follow_up.options.words)
        if follow_up.reference is Reference.RESTYLE:
            if intent not in _RESTYLED:
                return request, guarded, routed
            formed = follow_up.options.form is not None or intent is Intent.WRITE
            if not (self._answering.quotes and follow_up.lays_out and formed):
                # Another tone or language: the last reply is rewritten, by a model that can.
                return request, guarded, replace(routed, intent=Intent.WRITE, continues=True)
            # What is made of the author's own sentences is laid out anew, not rewritten.
            if intent is not Intent.WRITE:
                text = f"Draft a {follow_up.options.form} about {follow_up.subject}"
            intent = Intent.WRITE
        elif follow_up.reference is Reference.ASK:
            asks = routed.intent in (Intent.CATALOGUE, Intent.CONVERSE, Intent.COMPARE)
            return request, guarded, replace(routed, intent=Intent.ANSWER) if asks else routed
        if text == guarded.query.text:
            return request, guarded, routed
        query = guarded.query.model_copy(update={"text": text[:MAX_QUESTION_CHARACTERS]})
        guarded = replace(
            guarded,
            query=query,
            history=follow_up.history,
            notes=(*guarded.notes, f"follow_up: {follow_up.reference} → “{text}”"),
        )
        request = replace(request, query=query, history=follow_up.history, brief=options)
        return request, guarded, route(text, (), intent)

    async def _tell_sources(
        self, request: RagRequest, guarded: Guarded, follow_up: FollowUp, recorder: Recorder
    ) -> AsyncGenerator[Event, None]:
        """Say where the last reply comes from: the request before is looked up once more."""
        question = guarded.query.text
        routed = route(follow_up.request)
        recorder.trace.attributes["intent"] = routed.intent.value
        since = guarded.history[len(follow_up.history) :]
        reply = next((turn.content for turn in since if turn.role == "assistant"), "")
        query = guarded.query.model_copy(update={"text": follow_up.request})
        passages: Sequence[Passage] = ()
        if routed.intent is Intent.ANSWER:
            found = await self._retriever.retrieve(query, recorder, follow_up.history, me=self._owner)
            passages = merge_overlapping(await self._passages(found.hits))
        elif routed.intent in (Intent.WRITE, Intent.SUMMARISE, Intent.COMPARE) and self._collection:
            before = replace(guarded, query=query, history=follow_up.history)
            plan = await asyncio.to_thread(
                self._plan_text, before, routed, replace(request, brief=follow_up.options)
            )
            passages = () if isinstance(plan, str) else [p for part in plan.sections for p in part.passages]
        text = describe_sources(question, reply, passages)
        provenance = ResponseProvenance(
            intent=routed.intent,
            mode=request.query.mode,
            fusion=request.query.fusion,
            notes=(f"follow_up: source of “{follow_up.request}”",),
        )
        for event in self._told(question, text, provenance, recorder):
            yield event

    async def _spell_names(self, request: RagRequest, guarded: Guarded) -> tuple[RagRequest, Guarded]:
        """Both with the names of the filter and of the voice as they are stored."""
        filter = await self._retriever.spell_filter(request.query.filter)
        brief = request.brief
        if brief.author:
            voice = await self._retriever.spell_filter(MetadataFilter(authors=(brief.author,)))
            brief = replace(brief, author=voice.authors[0])
        filtered = {"filter": filter}
        return (
            replace(request, query=request.query.model_copy(update=filtered), brief=brief),
            replace(guarded, query=guarded.query.model_copy(update=filtered)),
        )

    async def _tell(
        self, request: RagRequest, guarded: Guarded, routed: Routed, recorder: Recorder
    ) -> AsyncGenerator[Event, None]:
        """Reply from facts of the collection, without a search for passages and without the model."""
        question = guarded.query.text
        provenance = ResponseProvenance(
            intent=routed.intent,
            mode=request.query.mode,
            fusion=request.query.fusion,
            dense_status=StageStatus.OFF,
            notes=guarded.notes,
        )
        with recorder.record_span(routed.intent.value, "general", question=question) as span:
            text, degradation = await asyncio.to_thread(
                self._describe_collection, question, routed, request.query.filter
            )
            span.outputs["text"] = text
        if degradation:
            provenance = provenance.model_copy(update={"degradations": (degradation,)})
        for event in self._told(question, text, provenance, recorder):
            yield event

    def _told(
        self, question: str, text: str, provenance: ResponseProvenance, recorder: Recorder
    ) -> Iterator[Event]:
        """The events of a reply that no model wrote."""
        yield Sources(recorder.trace.id, (), provenance)
        yield Piece(text)
        timings = recorder.sum_timings()
        result = RagResult(
            trace_id=recorder.trace.id,
            answer=Answer(question=question, text=text),
            provenance=provenance,
            timings=timings | {"first_token": timings["total"]},
        )
        self._keep(result)
        self._tracer.record(_traced(recorder, result))
        yield Finished(result)

    def _describe_collection(self, question: str, routed: Routed, filter: MetadataFilter) -> tuple[str, str]:
        """The reply, and what it had to go without. Blocking."""
        owner = routed.introduced or self._owner
        degradation, cards = "", tuple[DocumentCard, ...]()
        try:
            if self._collection is None:
                raise StoreError("this service has no database")
            cards = self._collection.read_cards()
            if routed.intent is Intent.CATALOGUE and not cards:
                return NOTHING_COLLECTED, ""
            if routed.intent is Intent.CATALOGUE:
                cards = tuple(card for card in cards if filter.accepts(card))
                plan = plan_catalogue(routed.request, cards, self._now(), me=owner)
                found = run_plan(plan, cards, self._find_about)
                untitled = [card.id for card in found.documents[: plan.limit] if not card.title]
                openings = self._collection.read_openings(untitled)
                return describe_found(found, routed.request, len(cards), openings), ""
        except (StoreError, ModelError) as error:
            degradation = f"The catalogue cannot be read: {error}"
            logger.warning("{}", degradation)
        if routed.intent is Intent.CATALOGUE:
            return degradation, degradation
        return reply_to(
            question, cards, owner=_spell(self._owner, {card.author for card in cards})
        ), degradation

    def _find_about(self, topic: str, mentions: bool) -> set[str]:
        assert self._collection is not None
        return set(self._collection.find_about(topic, mentions=mentions))

    async def _answer_from_texts(
        self, request: RagRequest, me: str | None, recorder: Recorder, notes: Sequence[str]
    ) -> AsyncGenerator[Event, None]:
        model = self._choose_model(request.model)
        found = await self._retriever.retrieve(
            request.query, recorder, request.history, me=me, for_answer=True
        )
        with recorder.record_span("context", "retrieval") as span:
            passages = await self._passages(found.hits)
            span.attributes["passages"] = len(passages)
        pieces = answer(
            found.question,
            passages,
            model,
            await self._with_floor(self._config_for(request), passages, found.closeness),
            embed=self._embed,
            rank=_for(found.standalone, self._retriever.rank),
            closeness=found.closeness,
            history=found.history,
            instructions=request.instructions,
            temperature=request.temperature,
            seed=request.seed,
        )
        # The guard runs once more within retrieval, and says the same of what it saw.
        told = tuple(dict.fromkeys((*notes, *found.provenance.notes)))
        provenance = found.provenance.model_copy(update={"notes": told})
        async with aclosing(self._show(found.question, pieces, provenance, recorder, model)) as events:
            async for event in events:
                yield event

    async def _compose(
        self, request: RagRequest, guarded: Guarded, routed: Routed, recorder: Recorder
    ) -> AsyncGenerator[Event, None]:
        """Write a text, a summary or a comparison from all that bears on the subject."""
        question = guarded.query.text
        model = self._choose_model(request.model)
        with recorder.record_span("plan", "retrieval", question=question) as span:
            plan = await asyncio.to_thread(self._plan_text, guarded, routed, request)
            span.attributes["plan"] = type(plan).__name__
        provenance = ResponseProvenance(
            intent=routed.intent,
            mode=request.query.mode,
            fusion=request.query.fusion,
            filter=request.query.filter,
        )
        if isinstance(plan, str):
            pieces = _tell_pieces(question, plan)
        else:
            provenance = provenance.model_copy(update={"notes": (*guarded.notes, *plan.notes)})
            pieces = compose(
                question,
                plan,
                model,
                self._answering,
                self._embed,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                seed=request.seed,
            )
        events = self._show(question, pieces, provenance, recorder, model)
        brief = None if isinstance(plan, str) else plan.brief
        if routed.intent is Intent.WRITE and brief is not None:
            events = self._keep_draft(events, question, brief)
        async with aclosing(events) as shown:
            async for event in shown:
                yield event

    def _plan_text(self, guarded: Guarded, routed: Routed, request: RagRequest) -> str | Outline:
        """What the text is to be made of. Blocking."""
        assert self._collection is not None
        authors = sorted(self._index.count_values("author"))
        return plan_text(
            routed,
            guarded,
            self._collection,
            authors,
            embed=self._embed,
            instructions=request.instructions,
            options=request.brief,
            owner=_spell(routed.introduced or self._owner, authors),
            extractive=not self._answering.may_rewrite,
            verbatim=self._answering.quotes,
            measure_floor=self._measure_floor,
        )

    async def _show(
        self,
        question: str,
        pieces: AsyncGenerator[AnswerPiece, None],
        provenance: ResponseProvenance,
        recorder: Recorder,
        model: LanguageModel,
    ) -> AsyncGenerator[Event, None]:
        """The pieces of an answer as events, and its end."""
        first_token: float | None = None
        last: AnswerPiece | None = None
        with recorder.record_span("generate", "llm", question=question) as span:
            async with aclosing(pieces) as stream:
                async for piece in stream:
                    if piece.sources is not None:
                        provenance = _with_context(provenance, model.name, piece)
                        yield Sources(recorder.trace.id, piece.sources, provenance)
                    if piece.text:
                        first_token = first_token if first_token is not None else recorder.elapsed
                        yield Piece(piece.text)
                    if piece.support is not None:
                        yield Checked(piece.support)
                    last = piece
            assert last is not None, "an answer has pieces"
            assert last.answer is not None, "an answer ends with its finished form"
            finished = last.answer
            span.model, span.usage = finished.model, finished.usage
            span.attributes["prompt_hash"] = finished.prompt_hash
            span.outputs["text"] = finished.text
        provenance = _with_verdicts(provenance, finished.prompt_hash, last.support_status)
        timings = recorder.sum_timings()
        if first_token is not None:
            timings["first_token"] = first_token
        result = RagResult(
            trace_id=recorder.trace.id, answer=finished, provenance=provenance, timings=timings
        )
        self._keep(result)
        self._tracer.record(_traced(recorder, result))
        yield Finished(result)

    async def _keep_draft(
        self, events: AsyncGenerator[Event, None], question: str, brief: Brief
    ) -> AsyncGenerator[Event, None]:
        """The events of a draft, which is kept: whole, or as far as it came where its model fails or its reader leaves."""
        so_far = _DraftSoFar(question, brief)
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Sources) and self._drafts is not None:
                        event = replace(event, draft_id=event.trace_id)
                    so_far.take(event)
                    if isinstance(event, Finished):
                        event = Finished(await self._save_draft(event.result, so_far.brief))
                    yield event
        except Exception:
            if (draft := so_far.break_off(self._now())) is not None:
                await self._save(draft)
            raise
        except BaseException:  # the reader left; what is waited for now would be cancelled too
            if (draft := so_far.break_off(self._now())) is not None:
                self._do_in_background(self._save(draft))
            raise

    async def _save_draft(self, result: RagResult, brief: DraftBrief) -> RagResult:
        """The result with the id under which its draft is kept, or with why it is not."""
        if result.answer.abstained:
            return result
        draft = StoredDraft(
            id=result.trace_id,
            brief=brief,
            answer=result.answer,
            provenance=result.provenance,
            created_at=self._now(),
        )
        if await self._save(draft):
            return result.model_copy(update={"draft_id": draft.id})
        sentence = NO_DRAFTS if self._drafts is None else DRAFT_LOST
        told = result.provenance.model_copy(
            update={"degradations": (*result.provenance.degradations, sentence)}
        )
        return result.model_copy(update={"provenance": told})

    async def _save(self, draft: StoredDraft) -> bool:
        if self._drafts is None:
            return False
        try:
            await asyncio.to_thread(self._drafts.save, draft)
        except StoreError as error:
            logger.warning("A draft could not be kept: {}", error)
            return False
        return True

    async def _passages(self, hits: tuple[Hit, ...]) -> list[Passage]:
        if self._answering.is_extractive or self._answering.max_passages is not None:
            return as_passages(hits)  # little room: the chunks themselves
        return await asyncio.to_thread(expand_to_parents, hits, self._index)

    def _config_for(self, request: RagRequest) -> AnsweringConfig:
        if request.max_tokens is None:
            return self._answering
        most = min(request.max_tokens, self._answering.reply_tokens)
        return self._answering.model_copy(update={"max_tokens": most})

    async def _with_floor(
        self, config: AnsweringConfig, passages: Sequence[Passage], closeness: float | None
    ) -> AnsweringConfig:
        """Where nothing is configured, with the floor that was measured on the collection."""
        if config.min_similarity is not None or all(passage.dense_score is None for passage in passages):
            return config
        floors = await asyncio.to_thread(self._floor.get)
        floor = floors.similarity if closeness is None else floors.confidence
        return config.model_copy(update={"min_similarity": floor})

    def _measure_floor(self) -> float:
        """The similarity from which a passage bears on a question: the configured one, else as measured. Blocking."""
        configured = self._answering.min_similarity
        return self._floor.get().similarity if configured is None else configured

    def _keep(self, result: RagResult) -> None:
        """Remember the answer in the background: nobody waits for the store, and its failure costs a log line."""
        if self._feedback is None:
            return
        self._do_in_background(self._remember(result))

    def _do_in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _remember(self, result: RagResult) -> None:
        assert self._feedback is not None
        try:
            await asyncio.to_thread(self._feedback.remember, make_interaction(result, self._now()))
        except StoreError as error:
            logger.warning("An answer could not be kept for feedback: {}", error)

    async def close(self) -> None:
        """Wait for what is being written in the background."""
        if self._background:
            await asyncio.gather(*self._background, return_exceptions=True)


def _spell(name: str | None, authors: Iterable[str]) -> str | None:
    """The author as the collection spells the name; None: there is no such author."""
    folded = " ".join((name or "").casefold().split())
    return next((author for author in authors if author.casefold() == folded), None)


async def _tell_pieces(question: str, text: str) -> AsyncGenerator[AnswerPiece, None]:
    """A reply that no model was asked for."""
    yield AnswerPiece(sources=())
    yield AnswerPiece(text=text)
    yield AnswerPiece(answer=Answer(question=question, text=text, abstained=True))


def _with_context(provenance: ResponseProvenance, model: str, first: AnswerPiece) -> ResponseProvenance:
    """With the model that answers, and how the context was made."""
    told, compression = provenance.degradations, first.compression_status
    if compression is StageStatus.FAILED:
        told += ("The sources could not be compressed and were given whole.",)
    if first.degradation:
        told += (first.degradation,)
    return provenance.model_copy(
        update={"model": model, "compression_status": compression, "degradations": told}
    )


def _with_verdicts(
    provenance: ResponseProvenance, prompt_hash: str, support: StageStatus
) -> ResponseProvenance:
    """With the prompt that was used, and how its sentences were judged."""
    told = provenance.degradations
    if support is StageStatus.FAILED:
        told += ("Sentences could not be embedded; the verdicts on them go by words alone.",)
    return provenance.model_copy(
        update={"prompt_hash": prompt_hash, "support_status": support, "degradations": told}
    )


def _traced(recorder: Recorder, result: RagResult) -> Trace:
    trace = recorder.finish(question=result.answer.question, answer=result.answer.text)
    trace.attributes |= {
        "model": result.answer.model,
        "prompt_hash": result.answer.prompt_hash,
        "abstained": result.answer.abstained,
        "quoted": result.answer.quoted,
        "finish_reason": result.answer.finish_reason,
        "citations": len(result.answer.citations),
        "first_token": result.timings.get("first_token"),
    }
    trace.attributes |= _provenance(result.provenance)
    return trace


def _provenance(provenance: ResponseProvenance) -> dict[str, Any]:
    """What a trace tells of how a response was made, without content."""
    statuses = {name: value for name, value in provenance if isinstance(value, StageStatus)}
    return {
        "degraded": provenance.degraded,
        "failed_stages": [
            name.removesuffix("_status") for name, status in statuses.items() if status is StageStatus.FAILED
        ],
    }


def _for(question: str | None, rank: Rank | None) -> Rank | None:
    """The reranker, for a follow-up together with what it refers to."""
    if question is None or rank is None:
        return rank
    return lambda _, texts, parts: rank(question, texts, parts)


def _ending(
    error: BaseException,
) -> Literal["cancelled", "failed"]:  # the caller went away, or something broke
    return "cancelled" if isinstance(error, GeneratorExit | asyncio.CancelledError) else "failed"

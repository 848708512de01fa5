"""Search, answers, votes, and what there is to ask for."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from llm_engineering.application.analysis.service import check_correction
from llm_engineering.application.inference.pipeline import (
    Checked,
    Event,
    Finished,
    InferencePipeline,
    Piece,
    RagRequest,
    Sources,
)
from llm_engineering.application.ports import FeedbackStore, VectorIndex
from llm_engineering.domain.categories import FACETS
from llm_engineering.domain.errors import ForeignVoteError, InvalidInputError
from llm_engineering.domain.facets import MAX_LISTED_VALUES
from llm_engineering.domain.inference import Feedback, RagResult, ResponseProvenance, SearchResult, Subject
from llm_engineering.domain.retrieval import MetadataFilter
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import (
    Problem,
    ProblemError,
    describe,
    log,
    request_id,
    status_of,
)
from llm_engineering.infrastructure.api.middleware.asgi import allows
from llm_engineering.infrastructure.api.parts import SERVED_NAME, ServiceParts
from llm_engineering.infrastructure.api.schemas.rag import (
    Defaults,
    DeltaEvent,
    ErrorBody,
    FacetListing,
    FeedbackBody,
    FeedbackKept,
    Filters,
    Info,
    RagBody,
    SearchBody,
    SourcesEvent,
)
from llm_engineering.infrastructure.api.streaming import (
    EventStream,
    Feed,
    NothingYet,
    error_event,
    format_event,
    unless_client_leaves,
)

BODIES: Final = (SearchBody, RagBody, FeedbackBody)
DEGRADED: Final = "X-Twin-Degraded"
KEEPING_SECONDS: Final = 0.3
"""Answers are kept in the background; a vote that comes sooner than that finds its answer at the second look."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route, documented; those that any route may give are always among them."""
    always = (401, 403, 429, 500, 503, 504)
    return {status: {"model": ErrorBody} for status in sorted({*always, *statuses})}


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the same, written out for a route that answers with another type than JSON, which they would get too."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {
        status: {"description": HTTPStatus(int(status)).phrase, "content": content}
        for status in error_responses(*statuses)
    }


WITH_BODY: Final = error_responses(400, 413, 415, 422, 502)


def _describe_stream() -> dict[int | str, dict[str, Any]]:
    """Those of a stream, written out: else the description says that errors are events too."""
    documented = describe_errors(*map(int, WITH_BODY))
    each = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": ["sources", "delta", "support", "done", "error"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    }
    documented[200] = {
        "description": "Server-Sent Events: `sources`, then `delta` and `support`, at the end `done` or `error`.",
        "content": {"text/event-stream": {"schema": each}},
    }
    return documented


STREAMED: Final = _describe_stream()


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the routes over the parts."""
    routes = APIRouter(tags=["twin"])
    _add_search(routes, parts)
    _add_rag(routes, parts)
    _add_feedback(routes, parts)
    _add_descriptions(routes, parts)
    return routes


def _add_search(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.post(
        "/search",
        responses=WITH_BODY,
        openapi_extra=describe_body(SearchBody, {"query": "chunk overlap", "k": 3}),
    )
    async def search(
        request: Request, response: Response, body: Annotated[SearchBody, Depends(json_body(SearchBody))]
    ) -> SearchResult:
        """Find passages, without an answer."""
        query = body.to_query(body.query, parts.retrieval)
        result = await unless_client_leaves(request, parts.pipeline.search(query))
        response.headers.update(mark_degraded(result.provenance))
        return result


def _add_rag(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.post(
        "/rag",
        responses=WITH_BODY,
        openapi_extra=describe_body(RagBody, {"query": "What is chunk overlap good for?"}),
    )
    async def rag(
        request: Request, response: Response, body: Annotated[RagBody, Depends(json_body(RagBody))]
    ) -> RagResult:
        """Answer a question from the collected writing."""
        work = run_to_end(parts.pipeline, body.request(parts.retrieval))
        result = await unless_client_leaves(request, work)
        response.headers.update(mark_degraded(result.provenance))
        return result

    @routes.post(
        "/rag/stream",
        status_code=200,
        response_class=EventStream,
        responses=STREAMED,
        openapi_extra=describe_body(RagBody, {"query": "What is chunk overlap good for?"}),
    )
    async def rag_stream(request: Request, body: Annotated[RagBody, Depends(json_body(RagBody))]) -> Response:
        """Answer a question as it is being written: ``sources``, ``delta`` and ``support``, at the end ``done``."""
        return await stream_answer(request, parts, body.request(parts.retrieval), encode=frame_event)


def _add_feedback(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.post(
        "/feedback",
        status_code=201,
        response_model_exclude_defaults=True,
        responses=WITH_BODY | error_responses(404, 409),
        openapi_extra=describe_body(FeedbackBody, {"trace_id": "the trace_id of an answer", "rating": "up"}),
    )
    async def feedback(
        body: Annotated[FeedbackBody, Depends(json_body(FeedbackBody))], request: Request
    ) -> FeedbackKept:
        """Say whether an answer helped, or correct an analysis. A second vote with the same key on the same subject replaces
        the first; an answer has one voter, an analysis any number."""
        if parts.feedback is None:
            raise ProblemError(
                Problem(503, "feedback_off", "This service takes no votes: it has no database.")
            )
        vote = await _make_vote(parts, body, getattr(request.state, "key_name", None) or "")
        await _vote(parts.feedback, vote)
        if parts.metrics is not None and body.rating is not None:
            parts.metrics.count_vote(body.rating)
        return FeedbackKept(
            trace_id=vote.trace_id, rating=body.rating, corrected=tuple(sorted(vote.correction or ()))
        )


def _add_descriptions(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.get("/filters", responses=error_responses())
    async def filters() -> Filters:
        """Return what can be filtered on: each value with its number of chunks."""
        return await asyncio.to_thread(_filters, parts)

    @routes.get("/info", responses=error_responses())
    async def info(request: Request) -> Info:
        """Return what answers here, and how."""
        chosen = parts.retrieval
        return Info(
            name=SERVED_NAME,
            author=parts.pipeline.owner,
            model=parts.pipeline.model.name,
            models=tuple(model.name for model in parts.pipeline.models),
            grounding=parts.grounding,
            reranker=parts.reranker,
            embedder=parts.embedder,
            version=parts.version,
            feedback=parts.feedback is not None,
            drafts=parts.drafts is not None,
            documents=parts.add_file is not None and allows(request.scope, "documents"),
            reports=parts.reports is not None and allows(request.scope, "reports"),
            keys_required=parts.keys_required(),
            defaults=Defaults(k=chosen.k, mode=chosen.mode, fusion=chosen.fusion),
        )


def _filters(parts: ServiceParts) -> Filters:
    values = parts.index.count_values
    return Filters(
        authors=values("author"),
        categories=values("category"),
        platforms=values("platform"),
        languages=values("language"),
        facets=list_facets(parts.index),
    )


async def _make_vote(parts: ServiceParts, body: FeedbackBody, voter: str) -> Feedback:
    """The vote, with what of the analysis must outlive it.

    Raises:
        ProblemError: there is no such analysis, or a correction does not fit its fields.
    """
    about: dict[str, Any] = {"rating": body.rating, "comment": body.comment, "voter": voter}
    now = datetime.now(UTC)
    if body.subject is None or body.subject.kind == "answer":
        identifier = body.trace_id if body.subject is None else body.subject.id
        return Feedback(subject=Subject(kind="answer", id=identifier or ""), created_at=now, **about)
    found = await parts.analyses.find_by_id(body.subject.id) if parts.analyses is not None else None
    spec = parts.analyses.find_spec(found.task) if parts.analyses is not None and found else None
    if found is None or spec is None:
        raise ProblemError(
            Problem(
                404,
                "unknown_analysis",
                "There is no analysis with that id; results go when their records change.",
            )
        )
    correction = check_correction(spec, body.correction) if body.correction is not None else None
    return Feedback(
        subject=Subject(kind="analysis", id=found.id),
        correction=correction,
        task=found.task,
        document_ids=found.document_ids,
        created_at=now,
        **about,
    )


def list_facets(index: VectorIndex, filter: MetadataFilter = MetadataFilter()) -> list[FacetListing]:
    """Return the fields that records have, with their values and ranges among those that the filter accepts. Blocking."""
    listed = []
    for facet in FACETS.values():
        values = index.read_facet(facet.name, filter)
        if not values.empty:
            few = 0 < len(values.counts) <= MAX_LISTED_VALUES
            listed.append(
                FacetListing(
                    field=facet.name,
                    label=facet.title,
                    kind=facet.kind,
                    values=dict(values.counts) if few else None,
                    least=values.least,
                    greatest=values.greatest,
                )
            )
    return listed


async def _vote(store: FeedbackStore, vote: Feedback) -> None:
    try:
        await asyncio.to_thread(store.vote, vote)
    except ForeignVoteError as error:
        raise ProblemError(Problem(409, "voted_already", str(error))) from None
    except InvalidInputError:
        await asyncio.sleep(KEEPING_SECONDS)
        try:
            await asyncio.to_thread(store.vote, vote)
        except InvalidInputError:
            raise ProblemError(
                Problem(
                    404,
                    "unknown_trace",
                    "No answer with that trace id is kept; answers are kept for a limited time.",
                )
            ) from None


# --- shared with the routes of drafts and OpenAI's ---------------------------------------------------------------------------


def mark_degraded(provenance: ResponseProvenance) -> dict[str, str]:
    """Return the header of responses that went on without a stage that failed."""
    return {DEGRADED: "1"} if provenance.degraded else {}


async def run_to_end(pipeline: InferencePipeline, request: RagRequest) -> RagResult:
    """Return the answer, when it is there."""
    result: RagResult | None = None
    async with aclosing(pipeline.answer(request)) as events:
        async for event in events:  # to its end: leaving earlier counts as giving the answer up
            if isinstance(event, Finished):
                result = event.result
    assert result is not None, "a pipeline that raises nothing ends with its result"
    return result


async def stream_answer(
    request: Request, parts: ServiceParts, asked: RagRequest, *, encode: Callable[[Event], bytes]
) -> EventStream[Event]:
    """Return the answer as a stream. What fails before its first event is raised, and so has a status of its own;
    unless that takes so long that the client must be told to wait."""
    feed = Feed(parts.pipeline.answer(asked))
    first: Event | None = None
    try:
        with suppress(NothingYet):
            first = await unless_client_leaves(request, feed.read_next(parts.heartbeat_seconds))
    except BaseException:
        await feed.close()
        raise
    path, identifier = request.scope["path"], request_id(request)

    def failed(error: Exception) -> bytes:
        problem = describe(error)
        log(error, problem, identifier)
        status = status_of(problem, path)
        return error_event(path, problem.code, problem.message, identifier, status, problem.param)

    return EventStream(
        first,
        feed,
        encode=encode,
        failed=failed,
        headers=mark_degraded(first.provenance) if isinstance(first, Sources) else None,
        heartbeat_seconds=parts.heartbeat_seconds,
    )


def frame_event(item: Event) -> bytes:
    """Return an event as the streams of ``/rag`` and ``/write`` send it."""
    match item:
        case Sources():
            body = SourcesEvent(
                trace_id=item.trace_id,
                citations=item.citations,
                provenance=item.provenance,
                draft_id=item.draft_id,
            )
            return format_event("sources", body.model_dump_json())
        case Piece():
            return format_event("delta", DeltaEvent(text=item.text).model_dump_json())
        case Checked():
            return format_event("support", item.support.model_dump_json())
        case Finished():
            return format_event("done", item.result.model_dump_json())

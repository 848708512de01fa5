"""Writing: a draft to order, as ``/rag`` gives answers."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from llm_engineering.domain.inference import RagResult
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes.rag import (
    STREAMED,
    WITH_BODY,
    frame_event,
    mark_degraded,
    run_to_end,
    stream_answer,
)
from llm_engineering.infrastructure.api.schemas.rag import WriteBody
from llm_engineering.infrastructure.api.streaming import EventStream, unless_client_leaves

BODIES: Final = (WriteBody,)


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the routes over the parts."""
    routes = APIRouter(tags=["drafts"])
    _add_write(routes, parts)
    return routes


def _add_write(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.post("/write", responses=WITH_BODY, openapi_extra=describe_body(WriteBody))
    async def write(
        request: Request, response: Response, body: Annotated[WriteBody, Depends(json_body(WriteBody))]
    ) -> RagResult:
        """Draft a text in an author's voice."""
        work = run_to_end(parts.pipeline, body.to_request(parts.retrieval))
        result = await unless_client_leaves(request, work)
        response.headers.update(mark_degraded(result.provenance))
        return result

    @routes.post(
        "/write/stream",
        status_code=200,
        response_class=EventStream,
        responses=STREAMED,
        openapi_extra=describe_body(WriteBody),
    )
    async def write_stream(
        request: Request, body: Annotated[WriteBody, Depends(json_body(WriteBody))]
    ) -> Response:
        """Draft a text as it is being written, in the events of `/rag/stream`."""
        return await stream_answer(request, parts, body.to_request(parts.retrieval), encode=frame_event)

"""OpenAI's API in front of the twin, so that any client and chat page that speaks it can ask."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.openai_chat import Chunks, to_completion, to_request
from llm_engineering.infrastructure.api.parts import SERVED_NAME, ServiceParts
from llm_engineering.infrastructure.api.routes.rag import mark_degraded, run_to_end, stream_answer
from llm_engineering.infrastructure.api.schemas.openai import (
    REFUSED,
    ChatBody,
    ChatCompletion,
    ModelCard,
    ModelList,
    OpenAIErrorBody,
)
from llm_engineering.infrastructure.api.streaming import unless_client_leaves

BODIES: Final = (ChatBody,)
_STARTED: Final = 1_767_225_600
"""``created`` of the models, which the protocol asks for: 2026-01-01, in seconds since 1970."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route under ``/v1``, documented."""
    return {
        status: {"model": OpenAIErrorBody} for status in sorted({401, 403, 429, 500, 503, 504, *statuses})
    }


_EXAMPLE: Final = {
    "model": SERVED_NAME,
    "messages": [{"role": "user", "content": "What is chunk overlap good for?"}],
}


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the routes over the parts."""
    routes = APIRouter(prefix="/v1", tags=["openai"])
    _add_chat(routes, parts)
    _add_models(routes, parts)
    return routes


def _add_chat(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.post(
        "/chat/completions",
        response_model=ChatCompletion,
        responses=error_responses(400, 404, 413, 415, 502)
        | {200: {"content": {"text/event-stream": {}}, "description": "A completion, or its chunks."}},
        openapi_extra=describe_body(ChatBody, _EXAMPLE),
    )
    async def chat(
        request: Request,
        response: Response,
        body: Annotated[ChatBody, Depends(json_body(ChatBody, _explained))],
    ) -> ChatCompletion | Response:
        """Answer the last message from the collected writing.

        The field `twin` of the request takes `k`, `mode`, `fusion`, `filter` and `sources_in_text`; that of the response
        (in a stream: of the chunk with the finish reason) holds the sources, verdicts and what the answer was made with.
        """
        _check_model(body.model, parts)
        asked = to_request(body, parts.retrieval)
        if body.stream:
            return await stream_answer(request, parts, asked, encode=Chunks(body))
        result = await unless_client_leaves(request, run_to_end(parts.pipeline, asked))
        response.headers.update(mark_degraded(result.provenance))
        return to_completion(result, body)


def _add_models(routes: APIRouter, parts: ServiceParts) -> None:
    @routes.get("/models", responses=error_responses())
    async def models() -> ModelList:
        """Return the names that `model` may have."""
        return ModelList(data=tuple(_card(name) for name in _names(parts)))

    @routes.get("/models/{model_id:path}", responses=error_responses(404))
    async def model(model_id: str) -> ModelCard:
        """Return one of them."""
        _check_model(model_id, parts)
        return _card(model_id)


def _names(parts: ServiceParts) -> list[str]:
    return list(dict.fromkeys([SERVED_NAME, *(model.name for model in parts.pipeline.models)]))


def _card(name: str) -> ModelCard:
    return ModelCard(id=name, created=_STARTED, owned_by=SERVED_NAME)


def _check_model(name: str, parts: ServiceParts) -> None:
    names = _names(parts)
    if name not in names:
        known = " and ".join(f"'{known}'" for known in names)
        message = f"There is no such model here. There is {known}; see GET /v1/models."
        raise ProblemError(Problem(404, "model_not_found", message, param="model"))


def _explained(error: ValidationError) -> Problem | None:
    """What is wrong with the first parameter that is known, but refused; None for other errors."""
    for violation in error.errors(include_url=False, include_input=False, include_context=False):
        name = violation["loc"][0] if violation["loc"] else None
        if name in REFUSED:
            return Problem(
                400,
                "unsupported_parameter",
                f"The twin cannot do what '{name}' asks for, and ignoring it would change the answer. Leave it out.",
                param=str(name),
            )
    return None

"""Analyses: a text in; classes, entities and texts with their quotes out."""

import time
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from loguru import logger

from llm_engineering.application.analysis.service import AnalysisService
from llm_engineering.domain.analyses import NAME, Analysis
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.domain.signatures import KEY, SIGNATURE, verify_signature
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes.rag import DEGRADED, WITH_BODY, error_responses
from llm_engineering.infrastructure.api.schemas.analyses import IDENTIFIER, AnalysisBody
from llm_engineering.infrastructure.api.streaming import unless_client_leaves

BODIES: Final = (AnalysisBody,)
Task = Annotated[str, Path(pattern=NAME, description="Name of the analysis.")]
Identifier = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,64}$", description="Id of a result.")]


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the routes over the parts."""
    routes = APIRouter(tags=["analyses"])

    async def check_signature(request: Request) -> None:
        """Refuse a body that is signed by somebody else, or was long ago. A request without a signature showed its key before."""
        signature = request.headers.get(SIGNATURE)
        if signature is None:
            return
        secret = parts.webhook_secret
        if secret is None or not verify_signature(signature, await request.body(), secret, time.time()):
            raise ProblemError(
                Problem(
                    401,
                    "signature_invalid",
                    f"{SIGNATURE} does not fit this body, this minute and SERVICE_WEBHOOK_SECRET. Expected: "
                    "t=SECONDS,v1=HMAC-SHA256(SECONDS.BODY) in hexadecimal digits.",
                )
            )

    @routes.post(
        "/analyses/{task}",
        responses=WITH_BODY | error_responses(404),
        openapi_extra=describe_body(AnalysisBody, {"text": "My order has not arrived yet."}),
        dependencies=[Depends(check_signature)],
    )
    async def analyse(
        task: Task,
        request: Request,
        response: Response,
        body: Annotated[AnalysisBody, Depends(json_body(AnalysisBody))],
        key: Annotated[str | None, Header(alias=KEY, pattern=IDENTIFIER, max_length=100)] = None,
    ) -> Analysis:
        """Analyse a text as the records of the warehouse are: personal data in it is treated first, as `PRIVACY_ACTION` says.
        Every quote stands in the text as it is then, character by character.

        The result is kept; the same text again, with the same `id` or, without one, `Idempotency-Key`, is not analysed again.
        Where the language model fails, what the head can tell comes with the header `X-Twin-Degraded: 1`, and is not kept.
        """
        service = find_analyses(parts, task)
        try:
            work = service.analyse(task, body.text, body.title, body.id or key)
            done = await unless_client_leaves(request, work)
        except ModelFileError as error:
            raise explain_head(error) from None
        if done.degraded:
            response.headers[DEGRADED] = "1"
        return done.analysis

    @routes.get("/analyses/{task}/{identifier}", responses=error_responses(404, 422))
    async def read(task: Task, identifier: Identifier) -> Analysis:
        """Return a result by its id: a posted text's stays until somebody deletes it, a record's until a run finds that record,
        analysis or head have changed.
        """
        found = await find_analyses(parts, task).find(task, identifier)
        if found is None:
            raise ProblemError(
                Problem(
                    404,
                    "unknown_analysis",
                    f"{task} has no result with that id. A record's goes with the next run after its record, its analysis or its "
                    "head has changed.",
                )
            )
        return found

    return routes


def explain_head(error: Exception) -> ProblemError:
    """Return what a caller is told of a head that cannot be used; the log says which file."""
    logger.warning("A head cannot be used: {}", error)
    return ProblemError(
        Problem(
            503,
            "head_missing",
            "What decides here is not trained yet, or cannot be used. The operator can train it: "
            "./poe run-head-training-pipeline",
        )
    )


def find_analyses(parts: ServiceParts, task: str) -> AnalysisService:
    """Return what answers a task.

    Raises:
        ProblemError: nothing here does.
    """
    if parts.analyses is None or parts.analyses.find_spec(task) is None:
        known = ", ".join(sorted(parts.analyses.specs)) if parts.analyses is not None else ""
        raise ProblemError(
            Problem(404, "unknown_task", f"This service has no such analysis. It has: {known or 'none'}.")
        )
    return parts.analyses

"""Customer service, by the contracts of those who host models: plain, SageMaker, Vertex AI. AWS Lambda calls these routes."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from llm_engineering.application.inference.support import SupportDesk
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes.analyses import explain_head
from llm_engineering.infrastructure.api.routes.rag import WITH_BODY, error_responses
from llm_engineering.infrastructure.api.schemas.predict import (
    InstancesBody,
    PredictBody,
    Predicted,
    Predictions,
    describe_served,
)
from llm_engineering.infrastructure.api.streaming import unless_client_leaves

BODIES: Final = (PredictBody, InstancesBody)


_EXAMPLE = {"input": "How do I reset my password?"}


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the routes over the parts."""
    routes = APIRouter(tags=["customer service"])

    async def serve(request: Request, body: PredictBody) -> Predicted:
        try:
            work = _find_desk(parts).serve(body.input, body.to_messages(), conversation=body.conversation)
            served = await unless_client_leaves(request, work)
        except ModelFileError as error:
            raise explain_head(error) from None
        return describe_served(served)

    @routes.post(
        "/predict",
        responses=WITH_BODY,
        openapi_extra=describe_body(PredictBody, _EXAMPLE),
    )
    async def predict(
        request: Request, body: Annotated[PredictBody, Depends(json_body(PredictBody))]
    ) -> Predicted:
        """Serve a customer's turn: answer, ask back, or hand over."""
        return await serve(request, body)

    @routes.post(
        "/invocations",
        responses=WITH_BODY,
        openapi_extra=describe_body(PredictBody, _EXAMPLE),
    )
    async def invoke(
        request: Request, body: Annotated[PredictBody, Depends(json_body(PredictBody))]
    ) -> Predicted:
        """Do as `/predict` does, where SageMaker looks for it."""
        return await serve(request, body)

    @routes.post(
        "/vertex/predict",
        responses=WITH_BODY,
        openapi_extra=describe_body(InstancesBody, {"instances": [_EXAMPLE]}),
    )
    async def predict_instances(
        request: Request, body: Annotated[InstancesBody, Depends(json_body(InstancesBody))]
    ) -> Predictions:
        """Serve several turns, as Vertex AI sends them; its predict route is this one, its health route `/ping`."""
        return Predictions(predictions=tuple([await serve(request, one) for one in body.instances]))

    @routes.get("/ping", response_class=Response, responses=error_responses())
    async def ping() -> Response:
        """Say that requests are taken, as SageMaker and Vertex AI ask."""
        if parts.health is not None and not (await parts.health.report()).takes_requests:
            raise ProblemError(Problem(503, "not_ready", "What the service depends on is not ready."))
        return Response(status_code=200)

    return routes


def _find_desk(parts: ServiceParts) -> SupportDesk:
    if parts.support is None:
        raise ProblemError(
            Problem(
                503,
                "support_off",
                "This service serves no customers: its configuration has no section 'support'.",
            )
        )
    return parts.support

"""Pipelines: start a run with one of the operator's configurations, and ask how it stands."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from loguru import logger

from llm_engineering.application.ports import PipelineRunner
from llm_engineering.domain.errors import ConfigurationError, RunUnderWayError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.pipeline_runs import PipelineRun
from llm_engineering.infrastructure.api.bodies import describe_body, json_body
from llm_engineering.infrastructure.api.errors import Problem, ProblemError, remove_places
from llm_engineering.infrastructure.api.middleware.asgi import allows, request_state
from llm_engineering.infrastructure.api.routes.rag import error_responses
from llm_engineering.infrastructure.api.schemas.pipelines import NAME, RunBody

BODIES: Final = (RunBody,)
Name = Annotated[str, Path(pattern=NAME, description="The task's name without `run-` and `-pipeline`.")]
Identifier = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="Id of a run.")]


def make_router(runner: PipelineRunner) -> APIRouter:
    """Return the routes over what starts pipelines."""
    routes = APIRouter(tags=["pipelines"])

    @routes.post(
        "/pipelines/{name}/runs",
        status_code=202,
        responses=error_responses(404, 409, 413, 415, 422),
        openapi_extra=describe_body(RunBody, {"config": "feature_engineering"}),
    )
    def start(
        name: Name,
        request: Request,
        response: Response,
        body: Annotated[RunBody, Depends(json_body(RunBody))],
    ) -> PipelineRun:
        """Start a run, and return at once with its id; `Location` is the route that tells how it stands.

        One run of a pipeline goes on at a time (409). Needs a key that allows it, where the service needs keys.
        """
        _check(runner, request, name)
        configs = runner.list_configs()
        if body.config not in configs:
            raise ProblemError(
                Problem(
                    404,
                    "unknown_config",
                    f"There is no such configuration. There are: {', '.join(configs)}.",
                )
            )
        started_by = request_state(request.scope).get("key_name")
        try:
            run = runner.start(name, body.config, body.overrides, started_by)
        except ConfigurationError as error:
            raise ProblemError(Problem(422, "invalid_config", remove_places(str(error)))) from None
        except RunUnderWayError as error:
            raise ProblemError(Problem(409, "run_under_way", str(error))) from None
        logger.info("{} was started by {} as run {}", name, started_by or "this machine's user", run.id)
        response.headers["Location"] = f"/pipelines/{name}/runs/{run.id}"
        return run

    @routes.get("/pipelines/{name}/runs/{identifier}", responses=error_responses(404, 422))
    def read(name: Name, identifier: Identifier, request: Request) -> PipelineRun:
        """Return how a run stands. `submitted` goes on where ZenML's stack runs it; its dashboard shows how."""
        _check(runner, request, name)
        found = runner.find(name, identifier)
        if found is None:
            raise ProblemError(
                Problem(404, "unknown_run", "There is no run of that id; the last hundred are remembered.")
            )
        return found.model_copy(update={"cause": remove_places(found.cause)})

    return routes


def _check(runner: PipelineRunner, request: Request, name: str) -> None:
    if not allows(request.scope, "pipelines"):
        raise ProblemError(
            Problem(
                403,
                "scope_missing",
                f"This key may not start pipelines. The operator can make one that may: {POE} create-api-key NAME --pipelines",
            )
        )
    if name not in runner.pipelines:
        raise ProblemError(
            Problem(
                404,
                "unknown_pipeline",
                f"There is no such pipeline. There are: {', '.join(runner.pipelines)}.",
            )
        )

"""The HTTP API, put together: routes and the shape of errors. Keys, limits and request ids are wrapped around it."""

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from llm_engineering.infrastructure.api import errors, routes_openai, routes_page, routes_rag
from llm_engineering.infrastructure.api.bodies import describe_bodies
from llm_engineering.infrastructure.api.parts import ServiceParts

__all__ = ["ServiceParts", "create_app"]

DESCRIPTION = """Answers from collected writing, with numbered sources.

Every response says what it was made with (`made_with`); one that went on without a stage that failed names it in
`made_with.degradations` and has the header `X-Twin-Degraded: 1`. Errors say what to do and carry the request id."""


def create_app(parts: ServiceParts) -> FastAPI:
    """The service's routes. Nothing is opened here, and nothing is closed at the end: the parts' owner does both."""
    app = FastAPI(
        title="LLM twin",
        version=parts.version,
        description=DESCRIPTION,
        redoc_url=None,
        # A redirect would tell a client that sends its key along to send it again.
        redirect_slashes=False,
        default_response_class=JSONResponse,
    )
    errors.install(app)
    app.include_router(routes_rag.router(parts))
    app.include_router(routes_openai.router(parts))
    if parts.health is not None:
        from llm_engineering.infrastructure.api.health import operation_router

        app.include_router(operation_router(parts.health, parts.metrics))
    app.include_router(routes_page.router())
    describe_bodies(app, *routes_rag.BODIES, *routes_openai.BODIES)
    return app

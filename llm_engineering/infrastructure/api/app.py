"""The HTTP API, put together: routes and the shape of errors. Keys, limits and request ids are wrapped around it."""

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from llm_engineering.domain.reviews import VOTE_TASK
from llm_engineering.infrastructure.api import errors
from llm_engineering.infrastructure.api.bodies import describe_requests
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes import analyses as routes_analyses
from llm_engineering.infrastructure.api.routes import docs as routes_docs
from llm_engineering.infrastructure.api.routes import documents as routes_documents
from llm_engineering.infrastructure.api.routes import drafts as routes_drafts
from llm_engineering.infrastructure.api.routes import openai as routes_openai
from llm_engineering.infrastructure.api.routes import page as routes_page
from llm_engineering.infrastructure.api.routes import pipelines as routes_pipelines
from llm_engineering.infrastructure.api.routes import predict as routes_predict
from llm_engineering.infrastructure.api.routes import products as routes_products
from llm_engineering.infrastructure.api.routes import rag as routes_rag
from llm_engineering.infrastructure.api.routes import records as routes_records
from llm_engineering.infrastructure.api.routes import records_page as routes_records_page
from llm_engineering.infrastructure.api.routes import reports as routes_reports
from llm_engineering.infrastructure.api.streaming import ClientGoneError

__all__ = ["ServiceParts", "create_app"]

DESCRIPTION = """Answers from collected writing, with numbered sources.

Every response says what it was made with (`provenance`); one that went on without a stage that failed names it in
`provenance.degradations` and has the header `X-Twin-Degraded: 1`. Errors say what to do and carry the request id."""


def create_app(parts: ServiceParts) -> FastAPI:
    """Return the service's routes. Nothing is opened here, and nothing is closed at the end: the parts' owner does
    both."""
    app = FastAPI(
        title="LLM twin",
        version=parts.version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        # A redirect would tell a client that sends its key along to send it again.
        redirect_slashes=False,
    )
    errors.install(app)
    app.add_exception_handler(ClientGoneError, _nobody_reads)
    app.include_router(routes_rag.make_router(parts))
    app.include_router(routes_drafts.make_router(parts))
    app.include_router(routes_documents.make_router(parts))
    app.include_router(routes_reports.make_router(parts))
    app.include_router(routes_analyses.make_router(parts))
    app.include_router(routes_predict.make_router(parts))
    app.include_router(routes_openai.make_router(parts))
    if parts.runner is not None:
        app.include_router(routes_pipelines.make_router(parts.runner))
    if parts.summaries is not None:
        app.include_router(routes_products.make_router(parts.summaries, parts.reviews, parts.feedback))
    if parts.records is not None:
        app.include_router(routes_records.make_router(parts, parts.records))
        app.include_router(routes_records_page.make_router(parts.index, parts.records))
    if parts.health is not None:
        from llm_engineering.infrastructure.api.health import operation_router

        app.include_router(operation_router(parts.health, parts.metrics, _make_refresh(parts)))
    app.include_router(routes_page.make_router())
    app.include_router(routes_docs.make_router(lambda: app.openapi()))
    describe_requests(
        app,
        *routes_rag.BODIES,
        *routes_drafts.BODIES,
        *routes_analyses.BODIES,
        *routes_pipelines.BODIES,
        *routes_predict.BODIES,
        *routes_products.BODIES,
        *routes_openai.BODIES,
        *routes_records.BODIES,
    )
    return app


def _make_refresh(parts: ServiceParts) -> Callable[[], None] | None:
    """What shows the metrics of summaries that other processes make; None: none are served."""
    metrics, summaries, feedback = parts.metrics, parts.summaries, parts.feedback
    if metrics is None or summaries is None:
        return None

    def refresh() -> None:
        check = next(iter(summaries.list_checks(1)), None)
        metrics.show_reviews(check, feedback.count_votes(VOTE_TASK) if feedback else {})

    return refresh


async def _nobody_reads(_request: Request, _error: Exception) -> Response:
    """The end of a request whose client has left; 499 is what proxies write into their logs for it."""
    return Response(status_code=499)

"""The HTML reports of evaluations and trainings, as the tasks write them.

A report holds passages, questions and answers, so reading one is a scope of its own; and what a model or a source wrote in it
must not act in a browser, so it is served as a page that may run, load and send nothing.
"""

from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from llm_engineering.domain.hints import POE
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.middleware.asgi import allows
from llm_engineering.infrastructure.api.parts import ServiceParts
from llm_engineering.infrastructure.api.routes.page import HEADERS
from llm_engineering.infrastructure.api.routes.rag import describe_errors, error_responses
from llm_engineering.infrastructure.api.schemas.reports import Report, Reports

REPORT_HEADERS: Final = HEADERS | {
    # `sandbox` takes its origin away: even where a browser ran something, it would not be this service's page.
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}
_PAGE: Final = {"text/html": {"schema": {"type": "string"}}}


def make_router(parts: ServiceParts) -> APIRouter:
    """Return the routes over the parts."""
    routes = APIRouter(tags=["reports"])

    @routes.get(
        "/reports",
        response_model=Reports,
        responses=error_responses() | {200: {"model": Reports, "content": _PAGE}},
    )
    def reports(request: Request) -> Response | Reports:
        """List the reports of evaluations and trainings, the newest first.

        JSON; a page with links for a browser. Needs a key that allows it, where the service needs keys.
        """
        found = Reports(reports=tuple(_describe(file) for file in _list(parts, request)))
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(render_list(found), headers=HEADERS)
        return found

    @routes.get(
        "/reports/{name}",
        response_class=HTMLResponse,
        responses=describe_errors(404) | {200: {"description": "The report.", "content": _PAGE}},
    )
    def report(request: Request, name: str) -> HTMLResponse:
        """Return a report as a page, which runs and loads nothing."""
        for file in _list(parts, request):  # only what the list names, so a name cannot lead elsewhere
            if file.name == name:
                return HTMLResponse(file.read_bytes(), headers=REPORT_HEADERS)
        raise ProblemError(
            Problem(404, "unknown_report", "There is no report of that name. GET /reports lists them.")
        )

    return routes


def _list(parts: ServiceParts, request: Request) -> list[Path]:
    if not allows(request.scope, "reports"):
        raise ProblemError(
            Problem(
                403,
                "scope_missing",
                "This key allows questions, not reports. The operator can make one that does: "
                f"{POE} create-api-key NAME --reports",
            )
        )
    if parts.reports is None or not parts.reports.is_dir():
        return []
    files = [one for one in parts.reports.glob("*.html") if one.is_file() and not one.is_symlink()]
    return sorted(files, key=lambda one: (-one.stat().st_mtime, one.name))


def _describe(file: Path) -> Report:
    about = file.stat()
    return Report(
        name=file.name, made_at=datetime.fromtimestamp(about.st_mtime, UTC), size_bytes=about.st_size
    )


def render_list(found: Reports) -> str:
    """Return the list as a page."""
    rows = "".join(
        f'<tr><td><a href="reports/{escape(one.name)}">{escape(one.name.removesuffix(".html"))}</a></td>'
        f"<td>{one.made_at:%Y-%m-%d %H:%M} UTC</td></tr>"
        for one in found.reports
    )
    none = f"<p>There are none yet. Evaluations and trainings write them: <code>{escape(POE)} run-rag-evaluation</code>.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        'initial-scale=1"><title>Reports</title><link rel="icon" href="page/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="page/docs.css"></head><body><h1>Reports</h1>'
        f'<p>Back to <a href="./">the chat page</a>.</p>{f"<table>{rows}</table>" if rows else none}</body></html>'
    )

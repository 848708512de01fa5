"""From an error to what the caller is told: a status, a code, what to do; nothing about the inside.

======================================  ======  ============================
error                                   status  code
======================================  ======  ============================
a body that breaks the schema           422     ``invalid_request``
InvalidInputError                       422     ``invalid_input``
UnknownFilterValueError                 422     ``unknown_filter_value``
StoreUnavailableError                   503     ``store_unavailable``
FingerprintMismatchError                503     ``index_mismatch``
ModelServiceError                       502     ``model_failed``
… because it took too long              504     ``model_timeout``
… because it is overloaded              503     ``model_busy``
anything else                           500     ``internal``
======================================  ======  ============================

Under ``/v1`` the same errors have OpenAI's shape, and a request that cannot be used is 400 there.
"""

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from loguru import logger
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from llm_engineering.domain.errors import (
    FingerprintMismatchError,
    InvalidInputError,
    ModelServiceError,
    StoreUnavailableError,
    TwinError,
    UnknownFilterValueError,
)

RETRY_AFTER_SECONDS: Final = 5
"""Long enough for a service that restarts, short enough for a person who waits."""

OPENAI_PREFIX: Final = "/v1/"
_MAX_MESSAGE = 1_000
_MAX_LOCATION = 120
_MAX_VIOLATIONS = 5

_TASK = re.compile(r"\bpoe'? ([a-z][a-z-]*[a-z])")
"""The one part of an inner message that callers may see: the name of the task that mends it."""

_PLACE = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+|(?<![\w/.])/(?:[\w.@-]+/)+[\w.@-]*", re.IGNORECASE)
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_HTTP_CODES = {
    400: ("invalid_request", "The request cannot be understood."),
    401: (
        "unauthorized",
        "An API key is needed: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
    ),
    404: ("not_found", "There is nothing here. The routes are listed in /docs."),
    405: ("method_not_allowed", "This route does not take that method; see the Allow header and /docs."),
    413: ("body_too_large", "The request body is too large."),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What a caller is told."""

    status: int
    code: str
    message: str
    retry_after: int | None = None
    """Seconds after which it may be worth another try."""
    param: str | None = None
    """The field at fault, where there is one; shown in OpenAI's shape."""


class ProblemError(Exception):
    """A problem that a route found by itself."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def describe(error: Exception) -> Problem:
    """Return what callers are told of an error. Messages of failures inside stay inside: they name hosts and folders."""
    match error:
        case ProblemError():
            return error.problem
        case UnknownFilterValueError():
            return Problem(422, "unknown_filter_value", remove_places(str(error)), param="filter")
        case InvalidInputError():
            return Problem(422, "invalid_input", remove_places(str(error)))
        case StoreUnavailableError():
            return _unavailable(error)
        case FingerprintMismatchError():
            return Problem(
                503,
                "index_mismatch",
                "The index was written by another embedding model than the one that is configured. "
                "The operator can build it again: ./poe run-feature-engineering-pipeline",
                retry_after=RETRY_AFTER_SECONDS,
            )
        case ModelServiceError():
            return _model_failed(error)
        case _:
            return Problem(
                500,
                "internal",
                "Something failed inside the service. Tell its operator the request id: the log says more.",
            )


def _unavailable(error: StoreUnavailableError) -> Problem:
    # Not as it was called here: that may name a folder.
    tasks = [f"./poe {task}" for task in dict.fromkeys(_TASK.findall(str(error)))]
    remedy = f" The operator can fix it: {' or '.join(tasks)}" if tasks else " Try again in a moment."
    missing = "no index" in str(error)
    what = (
        "There is no index to answer from yet." if missing else "A store that this needs cannot be reached."
    )
    return Problem(503, "store_unavailable", what + remedy, retry_after=RETRY_AFTER_SECONDS)


def _model_failed(error: ModelServiceError) -> Problem:
    if error.reason == "timeout":
        return Problem(504, "model_timeout", "The language model took too long. Try again, or ask for less.")
    if error.reason == "busy":
        return Problem(
            503,
            "model_busy",
            "The language model is overloaded. Try again in a moment.",
            retry_after=RETRY_AFTER_SECONDS
            if error.retry_after is None
            else max(1, round(error.retry_after)),
        )
    return Problem(502, "model_failed", "The language model failed. Try again in a moment.")


def describe_invalid(error: ValidationError, *, status: int = 422) -> Problem:
    """What is wrong with a request body, field by field, without repeating what came."""
    violations = list(_innermost(error.errors(include_url=False, include_input=False, include_context=False)))
    shown = [
        f"{_location(v['loc'])}: {v['msg'].removeprefix('Value error, ')}"
        for v in violations[:_MAX_VIOLATIONS]
    ]
    more = len(violations) - len(shown)
    message = "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
    return Problem(status, "invalid_request", _cut(message), param=_location(violations[0]["loc"]))


def _innermost(violations: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Violations without those that only follow from another one deeper inside: a list is short of what was wrong in it."""
    outer = {violation["loc"][:depth] for violation in violations for depth in range(len(violation["loc"]))}
    return (violation for violation in violations if violation["loc"] not in outer)


def _location(parts: tuple[int | str, ...]) -> str:
    """``messages[0].content``, as the caller would write it."""
    text = ""
    for part in parts:
        if isinstance(part, str) and part.startswith("<"):
            continue  # not a field: which of several forms was tried
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return _cut(text, _MAX_LOCATION) or "body"


def remove_places(message: str) -> str:
    """Return a message about what the caller sent, without an address or a path that a service behind may have put into it."""
    return _cut(_PLACE.sub("…", message))


def _cut(text: str, most: int = _MAX_MESSAGE) -> str:
    safe = text.encode("utf-8", "replace").decode("utf-8")
    return safe if len(safe) <= most else safe[: most - 1] + "…"


def error_body(
    path: str, code: str, message: str, request_id: str, status: int, param: str | None = None
) -> dict[str, Any]:
    """Return an error as JSON: OpenAI's shape under ``/v1``, ours elsewhere."""
    if not path.startswith(OPENAI_PREFIX):
        return {"error": {"code": code, "message": message, "request_id": request_id}}
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(problem: Problem, path: str, identifier: str) -> dict[str, Any]:
    """Return a problem as JSON."""
    status = status_of(problem, path)
    return error_body(path, problem.code, problem.message, identifier, status, problem.param)


def status_of(problem: Problem, path: str) -> int:
    """Return the status for a client: OpenAI's know no 422, so there a request that cannot be used is 400."""
    return 400 if problem.status == 422 and path.startswith(OPENAI_PREFIX) else problem.status


def request_id(request: Request) -> str:
    """Return the id that the request carries; one is made where nothing in front of the routes has set it."""
    known = getattr(request.state, "request_id", None)
    if not isinstance(known, str) or not known:
        known = request.state.request_id = uuid.uuid4().hex
    return known


def respond(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a problem as a response."""
    path, identifier = request.scope["path"], request_id(request)
    all_headers = {"X-Request-ID": identifier, "Cache-Control": "no-store", **(headers or {})}
    if problem.retry_after is not None:
        all_headers["Retry-After"] = str(problem.retry_after)
    return JSONResponse(body_of(problem, path, identifier), status_of(problem, path), all_headers)


def log(error: Exception, problem: Problem, identifier: str) -> None:
    """Write what the caller is not told, under the id that it is told."""
    if problem.status < 500:
        return
    if isinstance(error, TwinError):
        logger.bind(request_id=identifier).error("{}: {}", type(error).__name__, error)
    else:
        logger.bind(request_id=identifier).opt(exception=error).error("A request failed unexpectedly")


def _list_methods(app: FastAPI, path: str) -> list[str]:
    """All that are documented for a path; the router knows only those of the first of its routes."""
    paths: Mapping[str, Mapping[str, Any]] = app.openapi()["paths"]
    found = {
        method.upper()
        for template, methods in paths.items()
        if compile_path(template)[0].match(path)
        for method in methods
    }
    return sorted(found)


def install(app: FastAPI) -> None:
    """Make every failure of the app's routes end in one shape."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = describe(error)
        log(error, problem, request_id(request))
        return respond(request, problem)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = _HTTP_CODES.get(error.status_code, ("http_error", str(error.detail)))
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_list_methods(app, request.scope["path"])) or headers.get(
                "Allow", ""
            )
        return respond(request, Problem(error.status_code, *known), headers)

    async def parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        message = f"{_location(tuple(first['loc'][1:]))}: {first['msg']}"
        return respond(request, Problem(422, "invalid_request", _cut(message)))

    for kind in (TwinError, ProblemError, Exception):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, parameters)

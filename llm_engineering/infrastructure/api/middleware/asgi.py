"""What the layers around the routes share: types, headers, and error answers."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_engineering.domain.categories import CATALOGUE
from llm_engineering.infrastructure.api.errors import error_body

__all__ = ["ANALYSES", "COUNTED", "DOCUMENTS", "ASGIApp", "Message", "Receive", "Scope", "Send"]

DOCUMENTS = "/documents"
ANALYSES = "/analyses/"
COUNTED = frozenset(
    {
        "/predict",
        "/invocations",
        "/vertex/predict",
        "/rag",
        "/rag/stream",
        "/search",
        "/v1/chat/completions",
        "/write",
        "/write/stream",
        DOCUMENTS,
    }
    | {f"/{spec.collection}/search" for spec in CATALOGUE.values() if spec.is_record}
)
"""Paths that cost something: the ones that limits of rate, concurrency and time apply to."""


def find_header(scope: Scope, name: bytes) -> str | None:
    """Return the first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def is_counted(scope: Scope) -> bool:
    """Return whether the request asks for an answer or a search."""
    path: str = scope["path"]
    return scope["method"] == "POST" and (path in COUNTED or path.startswith(ANALYSES))


def is_rationed(scope: Scope) -> bool:
    """Return whether the request counts against its caller's rate: votes do too, though they need no slot."""
    return is_counted(scope) or (scope["method"] == "POST" and scope["path"].endswith("/feedback"))


def request_state(scope: Scope) -> dict[str, Any]:
    """Return what layers tell each other of a request; routes see it as ``request.state``."""
    found: dict[str, Any] = scope.setdefault("state", {})
    return found


def allows(scope: Scope, what: str) -> bool:
    """Return whether the caller may do what needs a scope. Who comes in without a key is this machine's user, who may do
    everything."""
    scopes = request_state(scope).get("key_scopes")
    return scopes is None or what in scopes


def request_id(scope: Scope) -> str:
    """Return the id of the request, as the outermost layer has set it."""
    return str(request_state(scope).get("request_id", ""))


async def send_error(
    scope: Scope,
    send: Send,
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send a whole error response, in the shape that the path's callers expect."""
    content = error_body(scope["path"], code, message, request_id(scope), status)
    body = json.dumps(content, ensure_ascii=False).encode()
    given = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        **(headers or {}),
    }
    await send({"type": "http.response.start", "status": status, "headers": encode_headers(given.items())})
    await send({"type": "http.response.body", "body": body})


def encode_headers(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]

"""A language model as a service of its own: ``/v1/chat/completions``, ``/v1/models`` and ``/health``, as OpenAI's clients
expect them.

In front of llama.cpp's server it adds what that has not: a key compared in constant time, a queue with an end, callers
told apart from web pages, an end that lets running replies finish, and adapters that are asked for by name. What a reply says
is passed on byte by byte.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from loguru import logger

from llm_engineering.domain.errors import ModelError

if TYPE_CHECKING:
    import httpx
    from starlette.types import Receive, Scope, Send

MAX_BODY_BYTES = 8_000_000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class ServedModel(Protocol):
    """What the service needs of a model."""

    @property
    def name(self) -> str:
        """What its answers call it, whichever of its names they were asked for by."""

    @property
    def names(self) -> tuple[str, ...]:
        """What callers may ask for; with one name alone, requests need not name it."""

    @property
    def context_tokens(self) -> int: ...

    def stream_response(self, body: Mapping[str, Any]) -> "AbstractAsyncContextManager[httpx.Response]": ...

    async def close(self) -> None: ...


class _Refused(Exception):
    """A request is answered with an error."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


class LlmService:
    """The ASGI application.

    Args:
        api_key: what callers must show; None: nothing, and then only callers under a loopback name are answered, so that
            a web page that points its own name at this machine is not.
        max_requests: replies in progress or waiting for a slot of the model; more are turned away with 503.
    """

    def __init__(self, model: ServedModel, api_key: str | None, max_requests: int = 32) -> None:
        self._model = model
        self._key = None if api_key is None else _digest(api_key)
        self._max_requests = max_requests
        self._running = 0
        self._stopping = False
        self._since = int(time.time())

    @property
    def keyed(self) -> bool:
        """Whether callers must show a key."""
        return self._key is not None

    def stop(self) -> None:
        """Turn new requests away."""
        self._stopping = True

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        answer = _Answer(send)
        try:
            await self._route(scope, receive, answer)
        except _Refused as refusal:
            await answer.error(refusal)
        except ModelError as error:
            logger.warning("A request failed: {}", error)
            await answer.error(_Refused(502, "model_failed", "The model failed. Try again."))

    async def _live(self, receive: "Receive", send: "Send") -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await self._model.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _route(self, scope: "Scope", receive: "Receive", answer: "_Answer") -> None:
        method, path = scope["method"], scope["path"]
        if path == "/health" and method in ("GET", "HEAD"):
            await answer.json(
                503 if self._stopping else 200, {"status": "stopping" if self._stopping else "ok"}
            )
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._admit(headers)
        routes: dict[str, dict[str, Callable[[], Coroutine[Any, Any, None]]]] = {
            "/v1/models": {"GET": lambda: self._models(answer)},
            "/v1/chat/completions": {"POST": lambda: self._chat(headers, receive, answer)},
        }
        if path not in routes:
            raise _Refused(404, "not_found", f"There is no {path}. There are: {', '.join(routes)}, /health.")
        if method not in routes[path]:
            allowed = ", ".join(routes[path])
            raise _Refused(405, "method_not_allowed", f"{path} takes {allowed}.", {"Allow": allowed})
        await routes[path][method]()

    def _admit(self, headers: Mapping[str, str]) -> None:
        if self._key is not None:
            scheme, _, shown = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(shown.strip()), self._key):
                raise _Refused(
                    401,
                    "invalid_api_key",
                    "Send the key as: Authorization: Bearer KEY",
                    {"WWW-Authenticate": "Bearer"},
                )
        elif _host_name(headers.get("host", "")) not in _LOOPBACK:
            raise _Refused(
                403,
                "host_not_allowed",
                "Without an API key, this service answers under the name of localhost alone.",
            )

    async def _models(self, answer: "_Answer") -> None:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": self._since,
                "owned_by": "llm-twin",
                "context_tokens": self._model.context_tokens,
            }
            for name in self._model.names
        ]
        await answer.json(200, {"object": "list", "data": cards})

    async def _chat(self, headers: Mapping[str, str], receive: "Receive", answer: "_Answer") -> None:
        # A page of elsewhere may send text, but not JSON, without asking first, which nobody here would answer.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused(
                415, "unsupported_media_type", "Send the request as Content-Type: application/json"
            )
        if self._stopping or self._running >= self._max_requests:
            reason = "is being stopped" if self._stopping else f"has {self._running} requests already"
            raise _Refused(503, "overloaded", f"The model {reason}. Try again later.", {"Retry-After": "2"})
        self._running += 1
        try:
            body = _parsed(await _read(receive))
            self._check_name(body.get("model"))
            await _while_connected(receive, self._relay(body, answer))
        finally:
            self._running -= 1

    def _check_name(self, wanted: object) -> None:
        """One model alone answers by whatever name; of several, the wrong one would answer without a sign of it."""
        names = self._model.names
        if len(names) > 1 and wanted not in names:
            there = f"There are: {', '.join(names)}."
            if wanted is None:
                raise _Refused(400, "model_missing", f"Name one of several models under 'model'. {there}")
            raise _Refused(404, "model_not_found", f"There is no model {str(wanted)[:200]!r}. {there}")

    async def _relay(self, body: Mapping[str, Any], answer: "_Answer") -> None:
        import httpx

        try:
            async with self._model.stream_response(body) as response:
                kind = response.headers.get("content-type", "application/json")
                await answer.begin(response.status_code, {"Content-Type": kind, "Cache-Control": "no-store"})
                parts = response.aiter_bytes()
                asked = body.get("model")
                if asked in self._model.names and asked != self._model.name:
                    parts = _renamed(parts, self._model.name, str(asked))
                async for part in parts:
                    await answer.part(part)
        except httpx.TransportError as error:
            logger.warning("llama.cpp broke off a reply: {!r}", error)
            refusal = _Refused(502, "model_failed", "The model broke off its reply. Try again.")
            await (answer.error_event(refusal) if answer.begun else answer.error(refusal))
        await answer.end()


class _Answer:
    """Sends one response."""

    def __init__(self, send: "Send") -> None:
        self._send = send
        self.begun = False
        self._ended = False

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun = True
        pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def part(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._send({"type": "http.response.body", "body": b""})

    async def json(
        self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(content).encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        await self.begin(status, told)
        self._ended = True
        await self._send({"type": "http.response.body", "body": data})

    async def error(self, refusal: _Refused) -> None:
        await self.json(refusal.status, _error_body(refusal), refusal.headers)

    async def error_event(self, refusal: _Refused) -> None:
        """The status is sent: the stream can only say that it is broken."""
        await self.part(f"data: {json.dumps(_error_body(refusal))}\n\n".encode())


def _error_body(refusal: _Refused) -> dict[str, Any]:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}


async def _renamed(parts: AsyncIterator[bytes], old: str, new: str) -> AsyncIterator[bytes]:
    """The same lines with another model's name. Text cannot be hit: a quotation mark within it is written ``\\"``."""
    before, after = (f'"model":{json.dumps(name, ensure_ascii=False)}'.encode() for name in (old, new))
    rest = b""
    async for part in parts:
        whole, end, rest = (rest + part).rpartition(b"\n")
        if end:
            yield (whole + end).replace(before, after)
    if rest:
        yield rest.replace(before, after)


async def _while_connected(receive: "Receive", work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` until the client goes away, which cancels it."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait({task, gone})
    if not task.cancelled():
        task.result()


async def _disconnected(receive: "Receive") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: "Receive") -> bytes:
    parts = []
    size = 0
    async for part in _parts(receive):
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _Refused(413, "too_large", f"A request may have {MAX_BODY_BYTES:,} bytes at most.")
        parts.append(part)
    return b"".join(parts)


async def _parts(receive: "Receive") -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Refused(400, "disconnected", "The request was broken off.")
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _Refused(400, "invalid_json", f"The request is not JSON: {str(error)[:200]}") from error
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise _Refused(400, "invalid_request", "Expected a JSON object with a list of messages.")
    return body


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _host_name(host: str) -> str:
    """A Host header without its port."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return name.lower()

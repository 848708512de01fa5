"""The layers around the routes, as plain ASGI: they neither buffer a stream nor hide that a client left.

From the outside in: request id, log, metrics and security headers; CORS, where it was opened; who may come in; how
often; how large; how many at a time and how long. A request that is turned away by one never reaches the next.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastapi import FastAPI
from loguru import logger
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, compile_path

from llm_engineering.application.ports import RateLimiter
from llm_engineering.infrastructure.api.health import Health, Readiness
from llm_engineering.infrastructure.api.metrics import UNKNOWN_ROUTE, ServiceMetrics
from llm_engineering.infrastructure.api.middleware.asgi import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    encode_headers,
    find_header,
    request_state,
    send_error,
)
from llm_engineering.infrastructure.api.middleware.auth import Access, KeyGuard, is_loopback
from llm_engineering.infrastructure.api.middleware.limits import BodyLimit, RateLimit, TokenBuckets
from llm_engineering.infrastructure.api.middleware.slots import ConcurrencyLimiter, SlotLimit

CLIENT_LEFT: Final = 499
"""The status in logs and metrics of a request whose client left before its response was whole."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
_QUIET = frozenset({"/health", "/health/live", "/health/ready", "/metrics", "/ping"})
"""Asked every few seconds by machines: a line each would hide the others. What changes is logged where it is seen."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every response that does not say otherwise."""
_EXPOSED = (
    "X-Request-ID",
    "X-Twin-Degraded",
    "X-Twin-Cache",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)
_STOPPING_SECONDS = 5.0


class RouteNames:
    """The template of the route that a request is for. What is not there has one name, so that labels stay few.

    Worked out from the path, since a request that is turned away never comes to the routes.
    """

    def __init__(self, app: FastAPI) -> None:
        self._templates = [(compile_path(path)[0], path) for path in _paths(app.router.routes)]

    def __call__(self, path: str) -> str:
        return next((name for pattern, name in self._templates if pattern.match(path)), UNKNOWN_ROUTE)


def _paths(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[str]:
    """The templates of all routes, those of included routers too."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _paths(included.routes, prefix + route.include_context.prefix)  # type: ignore[attr-defined]
        elif isinstance(path := getattr(route, "path", None), str):
            yield prefix + path


class ObservabilityMiddleware:
    """Gives each request an id, a line in the log, a place in the metrics, and safe headers on its response."""

    def __init__(
        self, app: ASGIApp, metrics: ServiceMetrics, route_of: Callable[[str], str], *, trusted: bool
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._route_of = route_of
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = find_header(scope, b"x-request-id") or ""
        identifier = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request_state(scope).update(request_id=identifier, trusted=self._trusted)
        watched = _Watched(receive, send, identifier)
        began = time.perf_counter()
        with logger.contextualize(request_id=identifier):
            try:
                await self._app(scope, watched.receive, watched.send)
            except Exception as error:  # noqa: BLE001 - the edge: logged here, and told without its inside
                await self._broke(error, scope, watched)
            finally:
                self._note(scope, watched, time.perf_counter() - began)

    async def _broke(self, error: Exception, scope: Scope, watched: "_Watched") -> None:
        if watched.left:
            return  # nobody is there to be told; whatever it was came of that
        if watched.finished:
            return  # a handler has logged and told it already
        logger.opt(exception=error).error("A request failed unexpectedly")
        self._metrics.count_failure(type(error).__name__)
        if watched.status is None:
            message = (
                "Something failed inside the service. Tell its operator the request id: the log says more."
            )
            await send_error(scope, watched.send, 500, "internal", message)

    def _note(self, scope: Scope, watched: "_Watched", seconds: float) -> None:
        status = CLIENT_LEFT if watched.left or watched.status is None else watched.status
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = self._route_of(scope["path"])
        self._metrics.count_request(route, method, status, seconds)
        key = request_state(scope).get("key_name")
        milliseconds = round(seconds * 1000, 1)
        level = "DEBUG" if route in _QUIET and status in (200, 503) else "INFO"
        bound = logger.bind(route=route, method=method, status=status, ms=milliseconds, key=key)
        who = f" · key {key}" if key else ""
        bound.log(
            level,
            "{} {} {} · {} ms{} · {}",
            method,
            route,
            status,
            f"{milliseconds:,.0f}",
            who,
            request_state(scope)["request_id"],
        )


class _Watched:
    """A request's two channels, with what passed through them."""

    def __init__(self, receive: Receive, send: Send, identifier: str) -> None:
        self._receive = receive
        self._send = send
        self._identifier = identifier
        self.status: int | None = None
        self.finished = False
        self.left = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.finished:
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._completed(list(message.get("headers", ())))}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finished = True
        await self._send(message)

    def _completed(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        kept = [(name, value) for name, value in headers if name.lower() != b"x-request-id"]
        present = {name.lower() for name, _ in kept}
        missing = [(name, value) for name, value in encode_headers(_HEADERS.items()) if name not in present]
        return [*kept, *missing, (b"x-request-id", self._identifier.encode())]


class Service:
    """The whole service as one ASGI application, its beginning and its end included.

    Args:
        app: the outermost layer.
        on_start: what begins with it, in this order; each returns at once.
        on_stop: what is to be closed at the end, in this order.
        threads: how many blocking calls may run at a time. Python's own default, a few more than there are processors,
            would be used up by a database that does not answer, and searches would wait behind it.
    """

    def __init__(
        self,
        app: ASGIApp,
        health: Health,
        slots: ConcurrencyLimiter,
        on_stop: Sequence[Callable[[], Awaitable[None]]] = (),
        on_start: Sequence[Callable[[], Awaitable[None]]] = (),
        threads: int = 32,
    ) -> None:
        self._app = app
        self._slots = slots
        self._threads = threads
        self._on_stop = tuple(on_stop)
        self._on_start = tuple(on_start)
        self._warming: asyncio.Task[Readiness] | None = None
        self._stopped = False
        self.health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    def stop(self) -> None:
        """Begin the end: not ready any more, nobody new is let in, who waits is turned away."""
        if not self._stopped:
            logger.info("Stopping. Answers in progress: {}; they are finished first.", self._slots.inside)
        self._stopped = True
        self.health.stop()
        self._slots.stop()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self._threads, "blocking"))
        for begin in self._on_start:
            await begin()
        # Beside the requests: /health/live answers while models load.
        self._warming = asyncio.create_task(self.health.warm_up())
        self._warming.add_done_callback(_announce)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _close(self) -> None:
        self.stop()
        await self._slots.wait_until_empty(_STOPPING_SECONDS)  # cancelled ones, on their way out
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await self.health.close()
        for close in self._on_stop:
            await close()


def _announce(warmed: "asyncio.Task[Readiness]") -> None:
    if warmed.cancelled():
        return
    if (error := warmed.exception()) is not None:
        logger.opt(exception=error).error("The models could not be loaded")
    elif (report := warmed.result()).takes_requests:
        loaded = ", ".join(
            f"{one.name} {one.latency_ms / 1000:.1f} s" for one in report.dependencies if one.status == "up"
        )
        logger.info("Ready to answer ({}).", loaded)
    else:
        missing = ", ".join(one.name for one in report.dependencies if one.status == "down" and one.matters)
        logger.warning("Not ready yet: {}. The service goes on looking; it needs no restart.", missing)


def add_middleware(
    app: FastAPI,
    *,
    access: Access,
    health: Health,
    metrics: ServiceMetrics,
    host: str,
    origins: Sequence[str] = (),
    rate_per_minute: int = 120,
    shared_limits: RateLimiter | None = None,
    max_concurrent: int = 16,
    max_queue: int = 64,
    queue_seconds: float = 10.0,
    timeout_seconds: float = 120.0,
    max_body_bytes: int = 262_144,
    max_document_bytes: int = 0,
    on_stop: Sequence[Callable[[], Awaitable[None]]] = (),
    on_start: Sequence[Callable[[], Awaitable[None]]] = (),
    signed: bool = False,
) -> Service:
    """Put all layers around the routes. Units as in the names; ``rate_per_minute`` of 0 is no limit; ``shared_limits``: of all
    replicas; ``signed``: analyses take signed bodies in place of a key."""
    slots = ConcurrencyLimiter(max_concurrent, max_queue, metrics)
    layered: ASGIApp = SlotLimit(
        app, slots, metrics, queue_seconds=queue_seconds, timeout_seconds=timeout_seconds
    )
    layered = BodyLimit(layered, max_body_bytes, metrics, max_document_bytes=max_document_bytes)
    if rate_per_minute:
        layered = RateLimit(layered, TokenBuckets(rate_per_minute), metrics, shared_limits)
    layered = KeyGuard(layered, access, metrics, host=host, origins=origins, signed=signed)
    if origins:
        layered = CORSMiddleware(
            layered,
            allow_origins=tuple(origins),
            allow_methods=("GET", "POST", "PUT", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "X-API-Key", "X-Request-ID"),
            expose_headers=_EXPOSED,
        )
    layered = ObservabilityMiddleware(layered, metrics, RouteNames(app), trusted=is_loopback(host))
    return Service(layered, health, slots, on_stop, on_start, threads=2 * max_concurrent + 16)

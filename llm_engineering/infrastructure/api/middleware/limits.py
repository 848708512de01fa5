"""What one caller may ask of the service: how often, and how much at a time.

Who asks too often gets 429, with ``Retry-After``; a body that is too large 413, one that does not come 408. What all may
ask together is in ``slots``.
"""

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from loguru import logger

from llm_engineering.application.ports import RateLimiter
from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.rate_limits import RateLimitDecision, take_token
from llm_engineering.infrastructure.api.metrics import ServiceMetrics
from llm_engineering.infrastructure.api.middleware.asgi import (
    DOCUMENTS,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    encode_headers,
    find_header,
    is_counted,
    is_rationed,
    request_state,
    send_error,
)

_CALLERS = 10_000
"""Callers whose budgets are remembered; beyond, the ones that were silent longest begin anew."""
_BODY_SECONDS = 20.0
"""Longest time for a body to arrive: who sends a byte a second would else hold memory and a connection for hours."""
_DISCARDED_BYTES = 8 << 20
_DISCARDED_SECONDS = 2.0


# --- rate -------------------------------------------------------------------------------------------------------------


def describe_decision(decision: RateLimitDecision) -> dict[str, str]:
    """Return ``X-RateLimit-*``, and ``Retry-After`` on a refusal; whole seconds, rounded up."""
    headers = {
        "X-RateLimit-Limit": str(decision.limit),
        "X-RateLimit-Remaining": str(decision.remaining),
        "X-RateLimit-Reset": str(math.ceil(decision.reset_seconds)),
    }
    if decision.allowed:
        return headers
    return headers | {"Retry-After": str(max(1, math.ceil(decision.retry_seconds)))}


class TokenBuckets:
    """A token bucket for each caller, in memory."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._now = now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> RateLimitDecision:
        """Take a token, if there is one."""
        now = self._now()
        level, at = self._levels.pop(caller, (float(self._per_minute), now))
        level, decision = take_token(level, now - at, self._per_minute)
        self._levels[caller] = (level, now)
        if len(self._levels) > _CALLERS:
            self._levels.popitem(last=False)
        return decision


class RateLimit:
    """Counts answers, searches and votes by API key, or by address where no key is used.

    Args:
        buckets: of this process.
        shared: of all replicas, in their place; while they do not answer, this process counts alone.
    """

    def __init__(
        self, app: ASGIApp, buckets: RateLimiter, metrics: ServiceMetrics, shared: RateLimiter | None = None
    ) -> None:
        self._app = app
        self._buckets = buckets
        self._shared = shared
        self._metrics = metrics
        self._alone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_rationed(scope):
            return await self._app(scope, receive, send)
        decision = await self._take(caller_of(scope))
        headers = describe_decision(decision)
        if decision.allowed:
            return await self._app(scope, receive, _with_headers(send, encode_headers(headers.items())))
        self._metrics.rejected.labels("rate").inc()
        message = f"At most {decision.limit} requests a minute are allowed. Try again in {headers['Retry-After']} s."
        await send_error(scope, send, 429, "rate_limited", message, headers)

    async def _take(self, caller: str) -> RateLimitDecision:
        if self._shared is None:
            return self._buckets.take(caller)
        try:
            decision = await asyncio.to_thread(self._shared.take, caller)
        except StoreError as error:
            if not self._alone:
                logger.warning("{} Until then, this process counts requests alone.", error)
            self._alone = True
            return self._buckets.take(caller)
        self._alone = False
        return decision


def caller_of(scope: Scope) -> str:
    """Return whose budget a request counts against. An IPv6 caller owns its whole /64, and could else change address at
    will."""
    if (name := request_state(scope).get("key_name")) is not None:
        return f"key {name}"
    address = (scope.get("client") or ("",))[0]
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return f"address {address}"
    if parsed.version == 6:
        return f"address {ipaddress.ip_network((int(parsed), 64), strict=False)}"
    return f"address {parsed}"


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sending


# --- body -------------------------------------------------------------------------------------------------------------


class BodyLimit:
    """Reads a request's whole body, as far as it may be, before anything else is done for it.

    So a slow sender holds no slot, and a body without a length is stopped at the limit while it comes.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, metrics: ServiceMetrics, *, max_document_bytes: int = 0
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_document_bytes = max_document_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._max_bytes
        if scope["path"] == DOCUMENTS:
            limit = max(limit, self._max_document_bytes)
        length = find_header(scope, b"content-length")
        if length is None and find_header(scope, b"transfer-encoding") is None and not is_counted(scope):
            return await self._app(scope, receive, send)
        if length is not None and length.isdigit() and int(length) > limit:
            return await self._too_large(scope, receive, send, limit)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._read(receive, limit)
        except TimeoutError:
            self._metrics.rejected.labels("body_slow").inc()
            message = f"The body did not arrive within {_BODY_SECONDS:g} s."
            return await send_error(scope, send, 408, "body_slow", message, {"Connection": "close"})
        if body is None:
            return await self._too_large(scope, receive, send, limit)
        await self._app(scope, replay(body, receive), send)

    async def _read(self, receive: Receive, limit: int) -> Message | None:
        """The body in one message; None when it is too large. A client that left is passed on as such."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                return None
            if not message.get("more_body", False):
                return {"type": "http.request", "body": b"".join(parts), "more_body": False}

    async def _too_large(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._metrics.rejected.labels("body").inc()
        if find_header(scope, b"expect") is None:
            await _discard(receive)
        message = f"The body has more than the {limit:,} bytes that are allowed."
        await send_error(scope, send, 413, "body_too_large", message, {"Connection": "close"})


async def _discard(receive: Receive) -> None:
    """Let some more come and throw it away: closing on a sender in the middle would lose our answer on its way to it."""
    discarded = 0
    try:
        async with asyncio.timeout(_DISCARDED_SECONDS):
            while discarded < _DISCARDED_BYTES:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def replay(body: Message, receive: Receive) -> Receive:
    waiting = [body]

    async def replaying() -> Message:
        return waiting.pop() if waiting else await receive()

    return replaying

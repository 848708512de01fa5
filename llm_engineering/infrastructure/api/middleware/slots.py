"""What all callers together may ask of the service: so many requests at a time, and each within its time.

Who comes when all slots and the queue before them are taken, or waits too long in it, gets 503 with ``Retry-After``: that
is the service's state, not the caller's fault. What takes too long is ended, with 504 or with the last event of its stream.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from loguru import logger

from llm_engineering.infrastructure.api.metrics import ServiceMetrics
from llm_engineering.infrastructure.api.middleware.asgi import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    is_counted,
    request_id,
    request_state,
    send_error,
)
from llm_engineering.infrastructure.api.middleware.limits import replay
from llm_engineering.infrastructure.api.streaming import error_event

_ENDING_SECONDS = 5.0
"""How long cancelled work may take to end before its caller is answered anyway."""
_MAX_RETRY_AFTER = 60
KEY_CHECK_SECONDS = 1.0
"""A revoked key ends what runs with it after so long at most."""


class NoSlotError(Exception):
    """There is no slot for a request; ``reason`` is ``queue_full``, ``queue_timeout`` or ``stopping``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConcurrencyLimiter:
    """At most ``limit`` inside, at most ``max_queue`` waiting, first come, first served. For one event loop."""

    def __init__(self, limit: int, max_queue: int, metrics: ServiceMetrics) -> None:
        self._limit = limit
        self._max_queue = max_queue
        self._metrics = metrics
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._stopping = False
        self._mean_seconds = 1.0
        self._empty = asyncio.Event()

    @property
    def inside(self) -> int:
        return self._inside

    async def take(self, seconds: float) -> None:
        """Take a slot, waiting up to ``seconds`` for one.

        Raises:
            NoSlotError: there is none.
        """
        if not self.take_now():
            await self._wait(seconds)

    def take_now(self) -> bool:
        """Take a slot if one is free. False: there is room to wait for one.

        Raises:
            NoSlotError: there is not.
        """
        if self._stopping:
            raise NoSlotError("stopping")
        if self._inside < self._limit:
            self._inside += 1
            self._show()
            return True
        if len(self._waiting) >= self._max_queue:
            raise NoSlotError("queue_full")
        return False

    async def _wait(self, seconds: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._show()
        try:
            await asyncio.wait({turn}, timeout=seconds)
        except asyncio.CancelledError:
            if turn.done() and turn.exception() is None:  # it came in the same moment, for nobody
                self.give_back()
            turn.cancel()
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            self._show()
        if not turn.done():
            turn.cancel()
            raise NoSlotError("queue_timeout")
        turn.result()

    def give_back(self, seconds: float | None = None) -> None:
        """Give a slot back, after ``seconds`` of use; None: it was not used."""
        if seconds is not None:
            self._mean_seconds += 0.2 * (seconds - self._mean_seconds)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the slot changes hands
                return
        self._inside -= 1
        self._show()

    async def wait_until_empty(self, seconds: float) -> bool:
        """Wait until nobody is inside, for at most ``seconds``. False: some still are."""
        try:
            async with asyncio.timeout(seconds):
                while self._inside:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Let in nobody any more; who waits is turned away now. Who is inside stays."""
        self._stopping = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(NoSlotError("stopping"))

    def retry_after(self) -> int:
        """Return seconds until a newcomer may expect a slot, from how long requests took of late."""
        ahead = len(self._waiting) + 1
        return min(_MAX_RETRY_AFTER, max(1, math.ceil(self._mean_seconds * ahead / self._limit)))

    def _show(self) -> None:
        if not self._inside:
            self._empty.set()
        self._metrics.in_progress.set(self._inside)
        self._metrics.queued.set(len(self._waiting))


_WHY = {
    "queue_full": "The service is at work on as many requests as it can, and its queue is full.",
    "queue_timeout": "The service is busy: this request waited for its turn and did not get one in time.",
    "stopping": "The service is being stopped. It may be back in a moment.",
}


class SlotLimit:
    """Gives answers and searches a slot, and all their time, waiting included, an end."""

    def __init__(
        self,
        app: ASGIApp,
        slots: ConcurrencyLimiter,
        metrics: ServiceMetrics,
        *,
        queue_seconds: float,
        timeout_seconds: float,
    ) -> None:
        self._app = app
        self._slots = slots
        self._metrics = metrics
        self._queue_seconds = queue_seconds
        self._timeout = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_counted(scope):
            return await self._app(scope, receive, send)
        deadline = time.monotonic() + self._timeout
        body = await receive()
        if body["type"] == "http.disconnect":
            return
        try:
            if not await self._take_unless_gone(receive):
                return
        except NoSlotError as error:
            return await self._turn_away(scope, send, error.reason)
        await self._run(scope, replay(body, receive), send, deadline)

    async def _take_unless_gone(self, receive: Receive) -> bool:
        """Wait for a slot. False: the client left meanwhile."""
        if self._slots.take_now():
            return True
        taking = asyncio.create_task(self._slots.take(min(self._queue_seconds, self._timeout)))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({taking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                return False
            taking.result()
            return True
        except asyncio.CancelledError:
            if taking.done() and not taking.cancelled() and taking.exception() is None:
                self._slots.give_back()
            raise
        finally:
            for task in (taking, leaving):
                task.cancel()
            await asyncio.gather(taking, leaving, return_exceptions=True)

    async def _turn_away(self, scope: Scope, send: Send, reason: str) -> None:
        self._metrics.rejected.labels(reason).inc()
        wait = self._slots.retry_after()
        headers = {"Retry-After": str(wait)} | ({"Connection": "close"} if reason == "stopping" else {})
        code = "stopping" if reason == "stopping" else "overloaded"
        await send_error(scope, send, 503, code, f"{_WHY[reason]} Try again in {wait} s.", headers)

    async def _run(self, scope: Scope, receive: Receive, send: Send, deadline: float) -> None:
        """Run the request in a slot, in a task of its own that can be ended. The slot is free when that has ended."""
        began = time.monotonic()
        reply = _Reply(send)
        work: asyncio.Task[None] = asyncio.ensure_future(self._app(scope, receive, reply.send))
        work.add_done_callback(lambda _: self._slots.give_back(time.monotonic() - began))
        is_revoked: Callable[[], Awaitable[bool]] | None = request_state(scope).get("is_revoked")
        revoked = False
        try:
            while not (work.done() or revoked) and (left := deadline - time.monotonic()) > 0:
                await asyncio.wait({work}, timeout=min(left, KEY_CHECK_SECONDS))
                revoked = not work.done() and is_revoked is not None and await is_revoked()
        except asyncio.CancelledError:  # the service is being stopped, and its patience is over
            logger.warning("A request was cut: it had not ended when the time for stopping had.")
            await _end(work)
            await self._cut(scope, reply, 503, "stopping", _WHY["stopping"])
            raise
        if work.done():
            return work.result()
        await _end(work)
        if revoked:
            self._metrics.rejected.labels("key").inc()
            return await self._cut(scope, reply, 401, "api_key_invalid", "This API key has been revoked.")
        self._metrics.count_failure("RequestTimeout")
        message = f"The request took longer than {self._timeout:g} s and was ended. Ask for less, or try again later."
        await self._cut(scope, reply, 504, "timeout", message)

    async def _cut(self, scope: Scope, reply: "_Reply", status: int, code: str, message: str) -> None:
        """Tell a caller, as far as that is still possible, that its request was ended."""
        send = reply.take_over()
        with suppress(TimeoutError):  # one that does not read what it asked for is not waited for
            async with asyncio.timeout(_ENDING_SECONDS):
                if not reply.started:
                    await send_error(scope, send, status, code, message, {"Retry-After": "5"})
                elif reply.streams and not reply.finished:
                    event = error_event(scope["path"], code, message, request_id(scope), status)
                    await send({"type": "http.response.body", "body": event, "more_body": False})


class _Reply:
    """A response on its way, which can be taken over from the work that makes it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._taken = False
        self.started = False
        self.finished = False
        self.streams = False

    async def send(self, message: Message) -> None:
        if self._taken:
            return
        if message["type"] == "http.response.start":
            self.started = True
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self.streams = any(value.startswith(b"text/event-stream") for value in kinds)
        elif not message.get("more_body", False):
            self.finished = True
        await self._send(message)

    def take_over(self) -> Send:
        """From now on, only the returned function sends."""
        self._taken = True
        return self._send


async def _end(work: "asyncio.Task[None]") -> None:
    """Cancel work and wait a moment for its end; what it raises then is of no interest any more."""
    work.cancel()
    await asyncio.wait({work}, timeout=_ENDING_SECONDS)
    if work.done() and not work.cancelled():
        work.exception()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

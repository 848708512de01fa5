"""Server-Sent Events over an async generator: framing, heartbeats, and an end to the work when the client goes away."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar

from fastapi import Request
from fastapi.responses import Response
from loguru import logger
from starlette.types import Receive, Scope, Send

from llm_engineering.infrastructure.api.errors import OPENAI_PREFIX, error_body

T = TypeVar("T")

HEARTBEAT_SECONDS: Final = 15.0
"""Proxies close a connection that is silent for a minute, many sooner."""

_HEARTBEAT: Final = b": keep-alive\n\n"
_CANCEL_AGAIN_SECONDS: Final = 0.5
_AHEAD: Final = 64
"""Events made before the client has read the earlier ones; then the answer waits for it."""


def format_event(name: str, data: str) -> bytes:
    """Return one event. ``data`` is JSON, which holds no line break outside of an escape."""
    return f"event: {name}\ndata: {data}\n\n".encode()


def format_unnamed(data: str) -> bytes:
    """Return one event without a name, as OpenAI's clients expect."""
    return f"data: {data}\n\n".encode()


def error_event(
    path: str, code: str, message: str, request_id: str, status: int = 500, param: str | None = None
) -> bytes:
    """Return the event that ends a stream which failed after it began: the body that the error would have had."""
    data = json.dumps(error_body(path, code, message, request_id, status, param), ensure_ascii=False)
    return format_unnamed(data) if path.startswith(OPENAI_PREFIX) else format_event("error", data)


class Feed(Generic[T]):
    """Reads a generator in a task of its own, so that waiting for its next item can be given up and resumed.

    The generator is iterated and closed by that one task, as time-outs and task groups inside it need.
    """

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._queue: asyncio.Queue[T | _End] = asyncio.Queue(_AHEAD)
        self._source = source
        self._task = asyncio.create_task(self._read())
        self._get: asyncio.Task[T | _End] | None = None
        self._over = False

    async def _read(self) -> None:
        ending = _End(None)
        try:
            async with aclosing(self._source) as items:
                async for item in items:
                    await self._queue.put(item)
        except Exception as error:  # noqa: BLE001 - handed to whoever reads, in its turn
            ending = _End(error)
        await self._queue.put(ending)

    async def read_next(self, within: float | None = None) -> T | None:
        """Return the next item; None once the generator has ended.

        Raises:
            NothingYet: nothing came ``within`` so many seconds. The next call goes on waiting.
            Exception: whatever the generator raised; the call after that returns None.
        """
        if self._over:
            return None
        self._get = self._get or asyncio.create_task(self._queue.get())
        done, _ = await asyncio.wait({self._get}, timeout=within)
        if not done:
            raise NothingYet
        item, self._get = self._get.result(), None
        if not isinstance(item, _End):
            return item
        self._over = True
        if item.error is not None:
            raise item.error
        return None

    async def close(self) -> None:
        """Stop the generator and wait until it has ended."""
        await cancel_tasks(*(task for task in (self._task, self._get) if task is not None))
        # A task that was cancelled before it began has not entered the generator, nor closed it.
        await self._source.aclose()


async def cancel_tasks(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks, and wait until they have ended. What they raise is of no interest any more.

    A cancellation can get lost: ``asyncio.wait_for`` of Python 3.11 drops it where what it waits for is done in the same
    moment. A task that goes on all the same is cancelled again.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen, so that nobody warns of it


class NothingYet(Exception):
    """Nothing has come so far."""


class _End:
    """The generator has ended, with that error."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class EventStream(Response, Generic[T]):
    """Sends what a feed brings, as it comes. The client's leaving closes the feed at once, not at its next item.

    Args:
        first: the item that came before the response began: what fails earlier still has a status of its own. None where
            none came in time, and the response had to begin, so as not to be silent for too long.
        feed: brings the others. Closed in any case.
        encode: an item as whole events; empty for nothing to send.
        failed: the last event for an error raised by the feed; after it the stream ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: T | None,
        feed: Feed[T],
        *,
        encode: Callable[[T], bytes],
        failed: Callable[[Exception], bytes],
        headers: Mapping[str, str] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._first = first
        self._feed = feed
        self._encode = encode
        self._failed = failed
        self._heartbeat = heartbeat_seconds
        self.status_code = 200
        self.background = None
        # X-Accel-Buffering: nginx would else collect the answer and hand it over in one piece.
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _while_connected(self._send_all(send), receive)
        except ClientGoneError:
            logger.debug("The client left in the middle of an answer; its generation ends.")
        finally:
            await self._feed.close()

    async def _send_all(self, send: Send) -> None:
        frame: bytes | None = _HEARTBEAT if self._first is None else self._encode(self._first)
        while frame is not None:
            if frame:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            frame = await self._next()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes | None:
        try:
            item = await self._feed.read_next(self._heartbeat)
            return None if item is None else self._encode(item)
        except NothingYet:
            return _HEARTBEAT
        except Exception as error:  # noqa: BLE001 - told in the stream, and logged, by ``failed``
            return self._failed(error)


class ClientGoneError(Exception):
    """The client closed its connection before it had its response."""


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run work for a request whose body has been read; the client's leaving cancels it.

    Raises:
        ClientGoneError: the client left; nobody reads the response.
    """
    return await _while_connected(work, request.receive)


async def _while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        await cancel_tasks(working, watching)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

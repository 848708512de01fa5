"""Connections before anybody is known: how large and how slow a request's head may be, and how many there may be at a time."""

import asyncio
import resource
import sys
import time
from typing import Any

import h11
from loguru import logger
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 32_768
"""A head that is longer when as much again has been read is refused (431); so none of more than 64 kB is taken."""
HEAD_SECONDS = 10.0
"""From a connection's first moment, or a request's first byte, to the end of its head (408)."""
BODY_SECONDS = 60.0
"""From then to the end of its body; the largest that is taken has a quarter of a megabyte."""
BACKLOG = 16
"""Connections that asyncio takes at once. It takes more before those are ours to count, and before one that is ended is gone."""
_OTHER_DESCRIPTORS = 64 + 4 * BACKLOG
_MOST_CONNECTIONS = 4_000


def count_connections_allowed() -> int:
    """Return how many connections leave enough descriptors for files, stores and models."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - _OTHER_DESCRIPTORS
    return max(32, min(_MOST_CONNECTIONS, limit))


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP, for which a head has to be small and to arrive in time.

    When there are as many connections as may be, the one that has asked nothing for longest makes room: who only holds
    connections is pushed out, and who asks something is answered.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most = count_connections_allowed()
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited: Any = None
        self._heard_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._heard_at = time.monotonic()
        self._watch()
        if len(self.connections) > self._most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        # In pieces, since a head that comes whole in one would be taken at any length.
        for start in range(0, len(data), HEAD_BYTES):
            if self.transport.is_closing():
                break
            super().data_received(data[start : start + HEAD_BYTES])
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if status == 431:
            self._end_with(
                431,
                "Request Header Fields Too Large",
                f"The head of a request may have {HEAD_BYTES:,} bytes.",
            )
        else:
            super().send_400_response(msg)

    def _watch(self) -> None:
        """Set the deadline for what is awaited of the client: a head, a body, or nothing."""
        awaited = self.conn.their_state
        if awaited is self._awaited and self._deadline is not None:
            return
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        seconds = {h11.IDLE: HEAD_SECONDS, h11.SEND_BODY: BODY_SECONDS}.get(awaited)
        if seconds is not None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(seconds, self._overdue)

    def _overdue(self) -> None:
        self._deadline = None
        if self.transport.is_closing() or self.conn.their_state is not self._awaited:
            return
        if self._awaited is h11.IDLE and self.conn.our_state is h11.IDLE:
            self._end_with(
                408, "Request Timeout", f"The head of a request must come within {HEAD_SECONDS:g} s."
            )
        else:
            self.transport.close()

    def _end_with(self, status: int, reason: str, message: str) -> None:
        body = message.encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _make_room(self) -> None:
        ours = [
            one
            for one in self.connections
            if isinstance(one, GuardedProtocol) and not one.transport.is_closing()
        ]
        if len(ours) > self._most:
            idle = [one for one in ours if one.conn.their_state is h11.IDLE]
            min(idle, key=lambda one: one._heard_at, default=self).transport.abort()


class LogThrottle:
    """Lets one line a second through, and counts those that it held back."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._last = float("-inf")
        self._held_back = 0

    def take_turn(self) -> str | None:
        """Return what to add to the line; None: hold it back."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            self._held_back += 1
            return None
        held_back, self._held_back, self._last = self._held_back, 0, now
        return f" ({held_back} more like it)" if held_back else ""


def watch_accepting(loop: asyncio.AbstractEventLoop) -> None:
    """Have a lack of descriptors logged in one line a second; asyncio itself waits a second before it accepts again."""
    throttle = LogThrottle()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "socket.accept()" not in str(context.get("message", "")):
            loop.default_exception_handler(context)
        elif (more := throttle.take_turn()) is not None:
            logger.error(
                "No connection can be taken: {}{}. Raise the limit with ulimit -n.",
                context.get("exception"),
                more,
            )

    loop.set_exception_handler(handle)

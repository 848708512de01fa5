"""A real HTTP server on the loopback address that misbehaves as told, for tests of what reads the web."""

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType

HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    at: float
    """By the monotonic clock, in seconds."""


@dataclass(frozen=True)
class Reply:
    body: bytes | str = b""
    status: int = 200
    content_type: str = HTML
    headers: Mapping[str, str] = field(default_factory=dict)

    def wire(self) -> bytes:
        body = self.body.encode() if isinstance(self.body, str) else self.body
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "Connection: close"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        if self.status != 304:
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[Reply | None]]
"""Answers a request by what it returns, or writes to the connection itself and returns None."""


class FaultServer:
    """Serves what was put on it; everything else is a 404. Use as ``async with``; runs in the test's own event loop.

    ``requests`` keeps every request in the order it came; ``peak`` is the largest number answered at the same time.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.peak = 0
        self._active = 0
        self._routes: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def put(self, path: str, *replies: Reply | bytes | str) -> None:
        """The replies to ``path``, one after the other; the last one stays."""
        queue = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]

        async def answer(request: Request, writer: asyncio.StreamWriter) -> Reply:
            return queue.pop(0) if len(queue) > 1 else queue[0]

        self._routes[path] = answer

    def on(self, path: str, handler: Handler) -> None:
        self._routes[path] = handler

    def redirect(self, path: str, location: str, status: int = 302, **headers: str) -> None:
        self.put(path, Reply(status=status, headers={"Location": location, **headers}))

    def compressed(self, path: str, body: bytes) -> None:
        self.put(path, Reply(gzip.compress(body), headers={"Content-Encoding": "gzip"}))

    def validated(self, path: str, body: str, *, etag: str = "", last_modified: str = "") -> None:
        """A page that answers 304 to whoever holds it already."""
        named = {"ETag": etag, "Last-Modified": last_modified}
        validators = {name: value for name, value in named.items() if value}

        async def answer(request: Request, writer: asyncio.StreamWriter) -> Reply:
            held = (etag and request.headers.get("if-none-match") == etag) or (
                last_modified and request.headers.get("if-modified-since") == last_modified
            )
            return Reply(status=304, headers=validators) if held else Reply(body, headers=validators)

        self.on(path, answer)

    def hanging(self, path: str) -> None:
        """Accepts and says nothing, for as long as the client cares to wait."""

        async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(3600)

        self.on(path, answer)

    def trickling(self, path: str, *, pause: float = 0.05) -> None:
        """A page that never stops arriving, a few bytes at a time."""

        async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {HTML}\r\nConnection: close\r\n\r\n".encode())
            while True:
                writer.write(b"<p>a</p>")
                await writer.drain()
                await asyncio.sleep(pause)

        self.on(path, answer)

    def cut(self, path: str, *, times: int = 1_000_000, then: str = "") -> None:
        """Breaks the connection in the middle of the body, so many times; then answers."""
        left = times

        async def answer(request: Request, writer: asyncio.StreamWriter) -> Reply | None:
            nonlocal left
            left -= 1
            if left < 0:
                return Reply(then)
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: {HTML}\r\nContent-Length: 999\r\n\r\n<p>half".encode()
            )
            return None

        self.on(path, answer)

    def endless(self, path: str) -> None:
        """A body without a stated length that goes on as fast as it is read."""

        async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {HTML}\r\nConnection: close\r\n\r\n".encode())
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()

        self.on(path, answer)

    async def __aenter__(self) -> "FaultServer":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A client that gives up half way is what many of the tests are about.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await self._answer(reader, writer)
            finally:
                self._active -= 1
                writer.close()
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._active += 1
        self.peak = max(self.peak, self._active)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        request = Request(head[0].split()[1], headers, time.monotonic())
        self.requests.append(request)
        handler = self._routes.get(request.path)
        reply = await handler(request, writer) if handler else Reply("<h1>Not found</h1>", status=404)
        if reply is not None:
            writer.write(reply.wire())
        await writer.drain()

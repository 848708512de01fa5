"""Runs the service: a socket of its own, our log, and an end that lets running answers finish."""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

import uvicorn
from loguru import logger

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.infrastructure.api.middleware.asgi import Receive, Scope, Send
from llm_engineering.infrastructure.api.protocol import (
    BACKLOG,
    HEAD_BYTES,
    GuardedProtocol,
    LogThrottle,
    watch_accepting,
)

_QUEUE = 2048


class Stoppable(Protocol):
    """An ASGI application that is told when it is being stopped."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def stop(self) -> None:
        """No new request is wanted; those that run are being waited for."""
        ...


class Listener:
    """A socket that listens on an address; port 0 takes a free one. Closed when the block ends."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        """Take the address.

        Raises:
            ConfigurationError: it cannot be had; says why and what to do.
        """
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM
            )[0]
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise ConfigurationError(
                f"'{self._host}' is no address to listen on ({error.strerror}). Use 127.0.0.1 for this machine alone, "
                "0.0.0.0 for all."
            ) from None
        try:
            # Else a service that was just stopped keeps its own address from the next one for a minute.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_QUEUE)
        except OSError as error:
            listener.close()
            raise _unusable(self._host, self._port, error) from None
        listener.setblocking(False)
        self._socket = listener
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    @property
    def url(self) -> str:
        """``http://HOST:PORT``, as a caller on this machine writes it."""
        assert self._socket is not None, "it listens inside of its block"
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve(self, service: Stoppable, *, shutdown_seconds: float, started: Callable[[], None]) -> None:
        """Serve until SIGTERM or Ctrl-C, then finish the running answers, for at most ``shutdown_seconds``.

        A second Ctrl-C ends at once. ``started`` is called when the first request can be taken.
        """
        assert self._socket is not None, "it listens inside of its block"
        config = uvicorn.Config(
            service,
            http=GuardedProtocol,
            h11_max_incomplete_event_size=HEAD_BYTES,
            backlog=BACKLOG,
            access_log=False,
            log_config=None,
            server_header=False,
            # Behind a proxy, keys tell callers apart; its headers could be forged by anyone who reaches us directly.
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        )
        with _uvicorn_log_to_ours():
            asyncio.run(_Server(config, service, started).serve(sockets=[self._socket]))


def _unusable(host: str, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"Port {port} of {host} is taken by another program, perhaps by this service in another terminal. "
            "Stop that one, or choose another with --port or SERVICE_PORT (0: any free one)."
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"Port {port} may not be used by this user. Choose one above 1023 with --port or SERVICE_PORT."
        )
    return ConfigurationError(
        f"{host}:{port} cannot be listened on ({error.strerror}). Check --host and SERVICE_HOST."
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the service when it is being stopped, and then ends without an error."""

    def __init__(self, config: uvicorn.Config, service: Stoppable, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        watch_accepting(asyncio.get_running_loop())
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(
                _QUEUE
            )  # asyncio takes as many at once as it was told to queue; the kernel may queue more
        self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end, which would make a clean end look like a killed process.
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Here and not in the signal's handler, which may interrupt the event loop anywhere.
        self._service.stop()
        await super().shutdown(sockets)


class _ToLoguru(logging.Handler):
    """Hands on what the server says; of what anybody can make it say, a line a second."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._throttle = LogThrottle()

    def emit(self, record: logging.LogRecord) -> None:
        exception: Any = record.exc_info[1] if record.exc_info else None
        if isinstance(exception, asyncio.CancelledError):
            return  # an answer that was cut at the end of the service's patience: told already
        more: str | None = ""
        if exception is None and record.levelno == logging.WARNING:
            more = self._throttle.take_turn()
        if more is not None:
            logger.opt(exception=exception).log(record.levelname, record.getMessage().strip() + more)


@contextmanager
def _uvicorn_log_to_ours() -> Iterator[None]:
    theirs, handler = logging.getLogger("uvicorn"), _ToLoguru(logging.WARNING)
    before = theirs.propagate
    theirs.addHandler(handler)
    theirs.propagate = False
    try:
        yield
    finally:
        theirs.removeHandler(handler)
        theirs.propagate = before

"""The process that ``tools.warm`` starts: answers who shows the token, and ends when nobody has asked for a while."""

import asyncio
import faulthandler
import hmac
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loguru import logger

from llm_engineering.application.inference.pipeline import InferencePipeline
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.errors import TwinError
from llm_engineering.settings import LlamaCppSettings, Settings, load_settings
from tools.warm import (
    EVENTS,
    HOST,
    LINE_BYTES,
    REQUEST,
    NotWarmError,
    WarmTwin,
    compute_fingerprint,
    warm_minutes,
)

if TYPE_CHECKING:
    from loguru import Message

_GREETING_SECONDS = 10.0
"""For a caller to send its question."""
_LOOK_SECONDS = 1.0
"""Between two looks at whether to end."""
_log: ContextVar[list[tuple[str, str]] | None] = ContextVar("log", default=None)
"""What was logged for the question in progress, to be shown where it was asked."""


class Door:
    """Takes questions on a socket, one for each connection, and sends events back, one a line.

    Args:
        token: what callers must show.
    """

    def __init__(self, pipeline: InferencePipeline, token: str) -> None:
        self._pipeline = pipeline
        self._token = token
        self._running = 0
        self._last = time.monotonic()
        self.answered = 0

    @property
    def idle_seconds(self) -> float:
        """How long nobody has asked."""
        return 0.0 if self._running else time.monotonic() - self._last

    @asynccontextmanager
    async def open(self, listener: socket.socket) -> AsyncIterator[None]:
        """Take questions for the time of the block."""
        listener.setblocking(False)
        self._last = time.monotonic()
        async with await asyncio.start_server(self._meet, sock=listener, limit=LINE_BYTES):
            yield

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                asked = json.loads(await reader.readline())
            if not hmac.compare_digest(str(asked["token"]).encode(), self._token.encode()):
                return
            self._running += 1
            try:
                await _while_connected(reader, self._answer(asked["ask"], writer))
            finally:
                self._running -= 1
                self._last = time.monotonic()
        except (OSError, TimeoutError, ValueError, LookupError, TypeError):
            pass  # no caller of ours, or one that is gone
        finally:
            writer.close()

    async def _answer(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        logged: list[tuple[str, str]] = []
        _log.set(logged)

        async def send(name: str, content: object) -> None:
            while logged:
                writer.write(json.dumps({"Logged": logged.pop(0)}).encode() + b"\n")
            writer.write(json.dumps({name: content}).encode() + b"\n")
            await writer.drain()

        try:
            async with aclosing(self._pipeline.answer(REQUEST.validate_python(asked))) as events:
                async for event in events:
                    name = type(event).__name__
                    await send(name, EVENTS[name].dump_python(event, mode="json"))
            self.answered += 1
        except TwinError as error:
            await send("Refused", str(error))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect: the caller answers by itself, and meets it there in full
            _note(f"a question failed: {type(error).__name__}")
            await send("Broken", type(error).__name__)


async def _while_connected(reader: asyncio.StreamReader, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` until the caller goes away, which cancels it."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(reader.read())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait({task, gone})
    if not task.cancelled():
        task.result()


async def share_models(resources: Resources) -> None:
    """Let ``./poe ask`` use a service's models until this is cancelled, in place of a process of its own."""
    settings = resources.settings
    twin = WarmTwin(settings)
    if not warm_minutes(settings):
        return
    try:
        lock = await asyncio.to_thread(twin.take_over)
    except NotWarmError as error:
        logger.warning("{} For './poe ask', models are loaded anew each time.", error)
        return
    if lock is None:
        return  # another service shares its models
    token = secrets.token_urlsafe(32)
    mark = await asyncio.to_thread(compute_fingerprint, settings)
    pipeline = resources.inference_pipeline()
    try:
        with socket.create_server((HOST, 0)) as listener:
            twin.leave_note(os.getpid(), listener.getsockname()[1], token, mark, service=True)
            async with Door(pipeline, token).open(listener):
                await asyncio.Event().wait()
    finally:
        twin.remove_note()
        os.close(lock)
        await pipeline.close()


def main() -> int:
    """Serve on the socket that was inherited. The token comes by the standard input, where no list of processes shows it."""
    token = sys.stdin.readline().strip()
    if not token:
        return 0  # who started us was killed before it could say
    faulthandler.enable()
    settings = load_settings()
    logger.remove()
    logger.add(_keep_for_caller, level=settings.log.level)
    with socket.socket(fileno=int(sys.argv[1])) as listener, open_resources(settings) as resources:
        why = asyncio.run(_serve(settings, resources, listener, token))
    _note(f"ended: {why}")
    return 0


async def _serve(settings: Settings, resources: Resources, listener: socket.socket, token: str) -> str:
    """Answer until there is a reason to end; returns it."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.set_exception_handler(lambda _, context: _note(f"failed: {type(context.get('exception')).__name__}"))
    twin = WarmTwin(settings)
    pipeline = resources.inference_pipeline()
    door = Door(pipeline, token)
    loading = asyncio.create_task(_load_model(resources))
    try:
        async with door.open(listener):
            _note("takes questions")
            return await _wait_for_end(twin, door, stopped, warm_minutes(settings) * 60)
    finally:
        twin.remove_note()
        loading.cancel()
        await pipeline.close()
        await resources.language_model.close()


async def _wait_for_end(twin: WarmTwin, door: Door, stopped: asyncio.Event, idle_seconds: float) -> str:
    while not stopped.is_set():
        try:
            async with asyncio.timeout(min(_LOOK_SECONDS, idle_seconds / 4)):
                await stopped.wait()
        except TimeoutError:
            if door.idle_seconds > idle_seconds:
                return f"nobody asked for {idle_seconds / 60:g} minutes; {door.answered} questions answered"
            if not twin.is_noted():
                return "the note is gone"
    return "stopped"


async def _load_model(resources: Resources) -> None:
    """Begin to load the model while the first question is searched for. What fails is told when it is asked."""
    asked = resources.llm_profile.grounding != "extractive"
    if asked and isinstance(resources.settings.llm, LlamaCppSettings):
        try:
            await resources.language_model.count_tokens(["ready"])
        except TwinError as error:
            _note(f"the model was not loaded: {type(error).__name__}")


def _keep_for_caller(message: "Message") -> None:
    if (logged := _log.get()) is not None:
        logged.append((message.record["level"].name, message.record["message"]))


def _note(text: str) -> None:
    """A line in the log: what happens to the process, never what is asked of it."""
    print(f"{datetime.now().isoformat(timespec='seconds')} pid {os.getpid()} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

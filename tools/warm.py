"""A process in the background that keeps models and index open between two questions of ``./poe ask``.

``ask`` starts it, hands its question over on loopback, and answers by itself where that fails. The process ends when nobody
has asked for ``LLM_KEEP_WARM`` minutes, or with ``./poe local-infrastructure-down``. A running inference service takes its
place: its models are loaded anyway.

There is one at a time, since who starts one takes a lock that the process then holds for its life: the system frees it,
however the process ends. It is used only by who knows its token (a file for this user alone), and only as long as nothing
has changed that it was started with: settings, models, code. A new generation of the index is no such change, because an
open index follows it.
"""

import asyncio
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from loguru import logger
from pydantic import SecretStr, TypeAdapter

from llm_engineering.application.inference.events import Checked, Event, Finished, Piece, RagRequest, Sources
from llm_engineering.domain.errors import TwinError
from llm_engineering.settings import LlamaCppSettings, Settings
from tools.console import errors
from tools.processes import end_process, find_process

HOST = "127.0.0.1"
LINE_BYTES = 64 << 20
"""Longest message: a finished answer holds its passages."""
REQUEST: TypeAdapter[RagRequest] = TypeAdapter(RagRequest)
EVENTS: dict[str, TypeAdapter[Any]] = {
    event.__name__: TypeAdapter(event) for event in (Sources, Piece, Checked, Finished)
}
_START_SECONDS = 20.0
"""For another start, or an end, that is under way."""
_MAX_LOG_BYTES = 1_000_000
_ROOT = Path(__file__).resolve().parent.parent


class NotWarmError(Exception):
    """The process cannot be had, or ended in the middle. The message says why."""


@dataclass(frozen=True, slots=True)
class Note:
    """Where the process is, as it stands in ``warm.json``."""

    pid: int
    created: float
    port: int
    token: str
    mark: str
    """:func:`compute_fingerprint` of what it was started with, signed with the token."""
    service: bool = False
    """A service's own process, which is not ours to end."""

    @property
    def process(self) -> psutil.Process | None:
        return find_process(self.pid, self.created)


def warm_minutes(settings: Settings) -> float:
    """Return for how long models stay loaded; 0 on a build server that was not told to keep them."""
    llm = settings.llm
    asked = "keep_warm" in llm.model_fields_set or not os.environ.get("CI")
    return llm.keep_warm if asked else 0.0


def compute_fingerprint(settings: Settings) -> str:
    """Return a hash of all that a loaded process depends on: settings, code, models, where it runs."""
    models = [path for pattern in ("*", "*/*") for path in settings.models_dir.glob(pattern)]
    if isinstance(settings.llm, LlamaCppSettings) and settings.llm.model_path:
        models.append(settings.llm.model_path)
    code = [*(_ROOT / "llm_engineering").rglob("*"), *(_ROOT / "tools").glob("*.py"), _ROOT / "poetry.lock"]
    outside = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("AWS_", "HF_")) or name.lower().endswith("_proxy")
    }
    inside = settings.model_dump(
        exclude={"service"}
    )  # where a service listens, and to whom, changes no answer
    place = [sys.executable, str(Path.cwd()), settings.service.keep_answers]
    parts = [inside, outside, place, _describe_files(models), _describe_files(code)]
    return hashlib.sha256(json.dumps(parts, default=_reveal, sort_keys=True).encode()).hexdigest()


def _reveal(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _describe_files(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Each file with its size and time of change: reading them would take longer than the answer."""
    found = []
    for path in sorted(paths):
        if "__pycache__" not in path.parts and path.is_file():
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


class WarmTwin:
    """The process of one project folder: asked, started where needed, and stopped.

    Its files lie in ``LOCAL_DATA_DIR``: ``warm.json``, ``warm.lock`` and ``warm.log``. The log holds beginnings and ends,
    never a question, an answer or a secret.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.local.data_dir.resolve()
        self._file = self._folder / "warm.json"
        self.log = self._folder / "warm.log"

    def read_note(self) -> Note | None:
        """Return the note of a process that runs; None where none does."""
        with suppress(OSError, ValueError, TypeError):
            note = Note(**json.loads(self._file.read_text(encoding="utf-8")))
            return note if note.process is not None else None
        return None

    def stop(self) -> bool:
        """End the process, unless it is a service's. True if one was."""
        note = self.read_note()
        if note is None or note.service or (process := note.process) is None:
            return False
        end_process(process)
        return True

    async def answer(self, request: RagRequest) -> AsyncGenerator[Event, None]:
        """Stream an answer. Closing the generator early ends the generation too.

        Raises:
            NotWarmError: the process cannot be had, or broke off.
            TwinError: what the pipeline raised.
        """
        note = await asyncio.to_thread(self._reach)
        try:
            reader, writer = await asyncio.open_connection(HOST, note.port, limit=LINE_BYTES)
        except OSError as error:
            raise NotWarmError(f"The process with the loaded models cannot be reached ({error}).") from None
        try:
            asked = {"token": note.token, "ask": REQUEST.dump_python(request, mode="json")}
            writer.write(json.dumps(asked).encode() + b"\n")
            while line := await reader.readline():
                ((name, content),) = json.loads(line).items()
                if name == "Logged":
                    logger.log(*content)
                elif name == "Refused":
                    raise TwinError(content)
                elif name == "Broken":
                    break
                else:
                    yield EVENTS[name].validate_python(content)
                if name == Finished.__name__:
                    return
        except ConnectionError:
            pass
        finally:
            writer.close()
        raise NotWarmError(f"The process with the loaded models broke off (see {self.log}).")

    def _reach(self) -> Note:
        """The process, started where none runs that fits. Blocking."""
        wanted = compute_fingerprint(self._settings)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if (lock := self.take_lock()) is not None:
                return self._start(lock, wanted)
            note = self.read_note()
            if note is not None and hmac.compare_digest(note.mark, _sign(note.token, wanted)):
                return note
            if note is not None and note.service:
                raise NotWarmError("The inference service runs with other settings than these.")
            if note is not None and (process := note.process) is not None:
                end_process(process)  # what it has loaded is outdated
            time.sleep(0.05)
        raise NotWarmError("Another start of the process with the loaded models did not end.")

    def take_over(self) -> int | None:
        """End the process and return the lock in its place, see :meth:`take_lock`; None where a service keeps it. Blocking."""
        deadline = time.monotonic() + _START_SECONDS
        while (lock := self.take_lock()) is None and time.monotonic() < deadline:
            note = self.read_note()
            if note is not None and note.service:
                return None
            self.stop()
            time.sleep(0.05)  # its last threads may hold the lock a moment longer than it lives
        return lock

    def take_lock(self) -> int | None:
        """Return a descriptor that holds the lock for as long as it is open, here or in a child; None where another holds it.

        Raises:
            NotWarmError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / "warm.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise NotWarmError(f"Loaded models cannot be kept: {error}.") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock

    def leave_note(self, pid: int, port: int, token: str, mark: str, *, service: bool = False) -> Note:
        """Say where the process is, to this user alone. ``mark``: :func:`compute_fingerprint` of what it was started with."""
        created = psutil.Process(pid).create_time()
        note = Note(pid, created, port, token, _sign(token, mark), service)
        part = self._file.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(note), file)
        part.replace(self._file)
        return note

    def is_noted(self) -> bool:
        """Whether the note names this process: without it, nobody finds us."""
        note = self.read_note()
        return note is not None and note.pid == os.getpid()

    def remove_note(self) -> None:
        """Take this process's note away."""
        if self.is_noted():
            self._file.unlink(missing_ok=True)

    def _start(self, lock: int, wanted: str) -> Note:
        minutes = self._settings.llm.keep_warm
        errors.print(
            f"[dim]Loading models; they stay loaded for {minutes:g} minutes after the last question (LLM_KEEP_WARM).[/]",
            soft_wrap=True,
        )
        token = secrets.token_urlsafe(32)
        try:
            with socket.create_server((HOST, 0)) as listener, self._open_log() as log:
                # Socket and lock go to the child before it has imported anything: nobody has to wait for its start, and nobody
                # can come between.
                command = [sys.executable, "-m", "tools.warm_server", str(listener.fileno())]
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # neither Ctrl-C here nor the end of this terminal is meant for it
                    pass_fds=(listener.fileno(), lock),
                )
                child.returncode = (
                    0  # it outlives us: Python need not complain about a child that nobody waited for
                )
                port = listener.getsockname()[1]
                note = self.leave_note(child.pid, port, token, wanted)
                assert child.stdin is not None
                with child.stdin as pipe:
                    pipe.write(f"{token}\n".encode())
                return note
        except (OSError, psutil.Error) as error:
            raise NotWarmError(
                f"The process with the loaded models cannot be started ({error}; see {self.log})."
            ) from None
        finally:
            os.close(lock)

    def _open_log(self) -> Any:
        full = self.log.is_file() and self.log.stat().st_size > _MAX_LOG_BYTES
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if full else os.O_APPEND)
        return os.fdopen(os.open(self.log, flags, 0o600), "ab")


def _sign(token: str, text: str) -> str:
    return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()

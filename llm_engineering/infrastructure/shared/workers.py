"""Work on strangers' data in a process of its own, which is stopped where it takes too much time or memory.

A thread cannot be stopped, and holds up all others while it computes. The processes stay warm from one piece of work to the next
and end by themselves: when they were idle for a while, when their time is up, when their parent is gone.
"""

import asyncio
import atexit
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_ROOT = Path(__file__).parents[3]
_PROGRAM = f"from {__name__} import serve; serve()"
_LENGTH = struct.Struct("!Q")


class WorkStoppedError(Exception):
    """A piece of work was ended: it took too long, or more memory than it may."""


class Workers:
    """A few processes that run functions of this project.

    Args:
        most: how many run at a time; each is started when it is needed.
        cpu_seconds: of one piece of work. Ten times as long by the clock is the end too.
        memory_bytes: of one process.
        idle_seconds: after so long without work, a process ends.
    """

    def __init__(
        self,
        *,
        most: int = 2,
        cpu_seconds: float = 15.0,
        memory_bytes: int = 2 << 30,
        idle_seconds: int = 60,
    ) -> None:
        self._cpu_seconds = cpu_seconds
        self._arguments = (str(cpu_seconds), str(memory_bytes), str(idle_seconds))
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="worker")
        self._own = threading.local()  # each thread has a process
        self._processes: set[subprocess.Popen[bytes]] = set()
        atexit.register(self.close)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what ``function``, which must stand at the top of its module, makes of the arguments.

        Raises:
            WorkStoppedError: it took too much time or memory.
            Exception: whatever the function raised.
        """
        future = self._threads.submit(self._call, function, arguments)
        return _unwrap(await asyncio.wrap_future(future))  # type: ignore[no-any-return]

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Do the same for a thread that may wait."""
        return _unwrap(self._threads.submit(self._call, function, arguments).result())  # type: ignore[no-any-return]

    def start(self, function: Callable[[], object]) -> None:
        """Have a process started and ``function`` called there, unless one runs already; nothing waits for it."""
        if not self._processes:
            self._threads.submit(self._call, function, ())

    def close(self) -> None:
        """End the processes; later work starts new ones."""
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.communicate()

    def _call(self, function: Callable[..., object], arguments: tuple[object, ...]) -> tuple[bool, Any]:
        work = pickle.dumps((function, arguments))
        while True:
            process = self._process()
            reply = self._exchange(process, work)
            if reply is not None:
                return pickle.loads(reply)  # type: ignore[no-any-return]  # from our own code, on data that it made
            status = self._end(process)
            if status == -signal.SIGALRM:
                continue  # it had been idle for so long that it ended just before
            if status in (-signal.SIGPROF, -signal.SIGKILL):
                return False, WorkStoppedError(f"it took longer than {self._cpu_seconds:g} s")
            return False, WorkStoppedError(f"the process that did it ended (status {status})")

    def _exchange(self, process: subprocess.Popen[bytes], work: bytes) -> bytes | None:
        """The reply; None where the process has ended or must be ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(work)
            process.stdin.flush()
        except OSError:
            return None
        if not select.select([process.stdout], [], [], 10 * self._cpu_seconds)[0]:
            return None
        head = process.stdout.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        reply = process.stdout.read(length)
        return reply if len(reply) == length else None

    def _process(self) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] | None = getattr(self._own, "process", None)
        if process is None or process not in self._processes:
            process = self._own.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                start_new_session=True,  # Ctrl-C is for the parent, whose end ends it
            )
            self._processes.add(process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        self._processes.discard(process)
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.kill()
        with suppress(OSError):
            process.communicate()
        return process.returncode


def _unwrap(reply: tuple[bool, Any]) -> Any:
    fine, outcome = reply
    if fine:
        return outcome
    raise outcome


@cache
def get_shared_workers() -> Workers:
    """Return the workers of this process: starting one takes a second, and a run has many readers."""
    return Workers()


def serve() -> None:
    """Work until there is no more: the program of a process."""
    cpu_seconds, memory_bytes, idle_seconds = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no reply
    with suppress(ValueError, OSError):  # not every system limits memory
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    while True:
        signal.alarm(idle_seconds)
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        signal.alarm(0)
        signal.setitimer(
            signal.ITIMER_PROF, cpu_seconds
        )  # in time that the machine spends on others, nothing is lost
        reply = _work(function, arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(_LENGTH.pack(len(reply)) + reply)
        replies.flush()


def _work(function: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    try:
        return pickle.dumps((True, function(*arguments)))
    except MemoryError:
        return pickle.dumps((False, WorkStoppedError("it needs more memory than it may have")))
    except Exception as error:  # noqa: BLE001 - all are the caller's
        try:
            reply = pickle.dumps((False, error))
            pickle.loads(reply)  # some can be packed and not unpacked
        except Exception:  # noqa: BLE001 - an exception of any library
            return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        return reply

"""Between a request and what keeps its trace: a bounded queue and a thread, so that neither slowness nor failure passes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from loguru import logger

from llm_engineering.application.ports.observability import Trace, is_sampled

CAPACITY = 2_000
"""Traces that may wait. With content, one has some ten kilobytes."""
BATCH = 100
COMPLAINT_SECONDS = 60.0
"""Least time between two warnings: a broken store of traces must not fill the log."""


class TraceQueue:
    """Hands traces to ``write`` in batches of up to BATCH, in the order they came, in one thread of its own.

    ``record`` never waits and never raises: beyond CAPACITY traces are dropped, and what ``write`` raises is logged, both
    counted, with a warning a minute at most. The thread is started by the first trace.

    Args:
        name: what keeps the traces, for messages ("Opik at http://…").
        write: called in the thread.
        sample: share of the requests that is kept; failed ones always are.
        close_seconds: how long ``close`` waits for what is still to be written.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[Trace]], None],
        *,
        sample: float = 1.0,
        close_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._write = write
        self._sample = sample
        self._close_seconds = close_seconds
        self._clock = clock
        self._waiting: deque[Trace] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._complained: float | None = None
        self.dropped = 0
        """Traces that found the queue full, or no time left at the end."""
        self.lost = 0
        """Traces whose writing failed."""

    def record(self, trace: Trace) -> None:
        if not is_sampled(trace, self._sample):
            return
        with self._changed:
            full = len(self._waiting) >= CAPACITY
            if full:
                self.dropped += 1
            else:
                self._waiting.append(trace)
                self._start()
                self._changed.notify_all()
        if full:
            self._complain("too slow")

    def close(self) -> None:
        """Write what is waiting, for a few seconds at most. A later trace starts the thread again."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._closing = True
            self._changed.notify_all()
        if thread is not None:
            thread.join(self._close_seconds)
        with self._changed:
            left = len(self._waiting)
            self._waiting.clear()
            self.dropped += left
        if left:
            logger.warning("{} traces were not kept: {} took none in time.", left, self._name)

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._closing = False
        thread = threading.Thread(target=self._run, name="traces", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            return
        self._thread = thread

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001  whatever it is, it must neither end this thread nor pass unseen
                self.lost += len(batch)
                self._complain(f"{type(error).__name__}: {str(error)[:300]}")

    def _next(self) -> list[Trace]:
        """The next batch; empty: this thread's work is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing or self._is_replaced())
            if self._is_replaced() and not self._closing:
                return []
            return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    def _is_replaced(self) -> bool:
        """After a close that did not wait for this thread's last write, another may have been started."""
        return self._thread is not None and self._thread is not threading.current_thread()

    def _complain(self, reason: str) -> None:
        now = self._clock()
        if self._complained is None or now - self._complained >= COMPLAINT_SECONDS:
            self._complained = now
            logger.warning(
                "Traces are not kept by {}: {} (so far {} failed, {} dropped). Requests go on.",
                self._name,
                reason,
                self.lost,
                self.dropped,
            )

"""Two things at a time: reading ahead of the work, writing behind it. Bounded; no thread outlives its block."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.1


class _End:
    """Says that nothing follows."""


class ReadAhead(Generic[Item]):
    """Runs an iterator in a thread, at most ``depth`` items ahead of whoever takes them.

    What the iterator raises is raised where its next item was expected.
    """

    def __init__(self, items: Iterator[Item], depth: int = 2) -> None:
        self._items = items
        self._queue: queue.Queue[Item | type[_End]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        item = self._queue.get()
        if isinstance(item, type):
            self._queue.put(item)  # a further call ends too
            if self._error is not None:
                raise self._error
            raise StopIteration
        return item

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with suppress(queue.Empty):  # make room, so that a waiting thread sees at once that it is over
            while True:
                self._queue.get_nowait()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for the items
            self._error = error
        self._put(_End)

    def _put(self, item: Item | type[_End]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


class WriteBehind(Generic[Item]):
    """Hands items, in order, to ``work`` in a thread, at most ``depth`` behind.

    What ``work`` raises is raised by the next ``submit``, or at the end of the block; items behind it are dropped. When
    the block itself fails, what was submitted before is still written.
    """

    def __init__(self, work: Callable[[Item], None], depth: int = 2) -> None:
        self._work = work
        self._queue: queue.Queue[Item | type[_End]] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def submit(self, item: Item) -> None:
        """Hand over an item; waits while ``depth`` items are waiting."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(_End)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        while not isinstance(item := self._queue.get(), type):
            if self._error is None:
                try:
                    self._work(item)
                except BaseException as error:  # noqa: BLE001 - raised again in the thread that submits
                    self._error = error

"""Embed for many requests at once: batch what arrives together, and embed no text twice."""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np

from llm_engineering.application.ports import Vectors
from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.errors import TwinError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class MicroBatcher(Generic[Item, Outcome]):
    """Calls a blocking batch function in a thread, for many askers at a time.

    Bound to no event loop before its first use, and usable from one loop after another.

    Args:
        work: items to outcomes, one for each, in order. Blocking.
        max_items: most items of one call; a single request with more goes alone.
        at_once: calls that may run at the same time.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Outcome]], *, max_items: int = 64, at_once: int = 1
    ) -> None:
        self._work = work
        self._max_items = max_items
        self._at_once = at_once
        self._waiting: deque[tuple[Sequence[Item], asyncio.Future[list[Outcome]]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        """Outcomes of the items, in order. What ``work`` raises for these items is raised here, and only here."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[list[Outcome]] = loop.create_future()
        self._waiting.append((items, mine))
        self._workers = {task for task in self._workers if not task.done() and task.get_loop() is loop}
        if len(self._workers) < self._at_once:
            self._workers.add(loop.create_task(self._drain()))
        return await mine

    async def _drain(self) -> None:
        while batch := self._take():
            try:
                await self._run(batch)
            finally:
                for _, asker in batch:  # only where this task was cancelled: nobody else would wake them
                    asker.cancel()

    def _take(self) -> list[tuple[Sequence[Item], "asyncio.Future[list[Outcome]]"]]:
        batch: list[tuple[Sequence[Item], asyncio.Future[list[Outcome]]]] = []
        size = 0
        loop = asyncio.get_running_loop()
        while self._waiting:
            items, asker = self._waiting[0]
            if asker.done() or asker.get_loop() is not loop:  # left, or its loop is gone
                self._waiting.popleft()
                continue
            if batch and size + len(items) > self._max_items:
                break
            batch.append(self._waiting.popleft())
            size += len(items)
        return batch

    async def _run(self, batch: Sequence[tuple[Sequence[Item], "asyncio.Future[list[Outcome]]"]]) -> None:
        everything = [item for items, _ in batch for item in items]
        try:
            outcomes = list(await asyncio.to_thread(self._work, everything))
        except TwinError as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            for one in batch:  # so that one asker's bad item is not everybody's failure
                await self._run([one])
            return
        except Exception as error:  # noqa: BLE001  a bug: it is raised in every asker, instead of leaving them waiting
            for _, asker in batch:
                _fail(asker, error)
            return
        start = 0
        for items, asker in batch:
            if not asker.done():
                asker.set_result(outcomes[start : start + len(items)])
            start += len(items)


def _fail(asker: "asyncio.Future[list[Outcome]]", error: Exception) -> None:
    if not asker.done():
        asker.set_exception(error)


class InMemoryEmbeddingCache:
    """Wraps a function from texts to unit vectors; remembers ``size`` of them, dropping the one unused for longest.

    For use by several threads: where two miss the same text at the same time, one embeds it and the other waits.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Vectors], size: int = 8_192) -> None:
        self._embed = embed
        self._size = size
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._making: dict[str, Future[Vectors]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def count_missing(self, texts: Sequence[str]) -> int:
        """Return how many of the texts would have to be embedded."""
        with self._lock:
            return len({text_hash(text) for text in texts} - self._vectors.keys())

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (n, dimension), one for each text, in order. Blocking.

        Raises:
            ModelError: the embedder failed.
        """
        keys = [text_hash(text) for text in texts]
        found: dict[str, Vectors] = {}
        awaited: dict[str, Future[Vectors]] = {}
        mine: dict[str, str] = {}
        with self._lock:
            for key, text in zip(keys, texts, strict=True):
                if key in self._vectors:
                    self._vectors.move_to_end(key)
                    found[key] = self._vectors[key]
                elif key in self._making and key not in mine:
                    awaited[key] = self._making[key]
                elif key not in mine:
                    mine[key] = text
                    self._making[key] = Future()
        if mine:
            found.update(self._make(mine))
        found.update({key: future.result() for key, future in awaited.items()})
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, 0), dtype=np.float32)

    def _make(self, texts: dict[str, str]) -> dict[str, Vectors]:
        """Embed texts by key, and hand the vectors, or the failure, to those who wait for them."""
        try:
            vectors = self._embed(list(texts.values()))
            made = {key: np.array(vector) for key, vector in zip(texts, vectors, strict=True)}
        except BaseException as error:
            with self._lock:
                futures = [self._making.pop(key) for key in texts]
            for future in futures:
                future.set_exception(error)
            raise
        self._keep(made)
        with self._lock:
            futures = [self._making.pop(key) for key in texts]
        for future, vector in zip(futures, made.values(), strict=True):
            future.set_result(vector)
        return made

    def _keep(self, made: dict[str, Vectors]) -> None:
        with self._lock:
            self._vectors.update(made)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)

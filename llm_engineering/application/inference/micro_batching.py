"""Many requests, one call: what waits while a call runs goes into the next one together.

Nothing is held back to fill a batch, so a lone request is not slowed down; under load the calls grow instead of
fighting each other for the cores.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

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

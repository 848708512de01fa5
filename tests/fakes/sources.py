"""A source whose every word is written down beforehand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from llm_engineering.application.ports import Link, SourceItem, StoredVersion
from llm_engineering.domain.errors import FetchError

Step = SourceItem | BaseException | asyncio.Event | Callable[[], None]
"""An item is yielded, an exception raised, an event waited for, a function called."""


class ScriptedReader:
    """Yields what was queued per URL, step by step; a URL that was not queued fails as an unreachable one would.

    ``reads`` and ``known`` keep what was asked and what was handed in; ``peak`` is the largest number of links that
    were read at the same time; ``released`` lists the URLs whose reading was ended properly (to its end, by an error
    or by being closed early).
    """

    def __init__(self, script: Mapping[str, Sequence[Step]] | None = None, *, name: str = "article") -> None:
        self.name = name
        self.reads: list[Link] = []
        self.known: dict[str, dict[str, StoredVersion]] = {}
        self.running: Counter[str] = Counter()
        self.peak = 0
        self.released: list[str] = []
        self.closed = 0
        self._script = {url: list(steps) for url, steps in (script or {}).items()}

    def queue(self, url: str, *steps: Step) -> None:
        """What reading ``url`` gives from now on, every time it is read."""
        self._script[url] = list(steps)

    async def read(self, link: Link, known: Mapping[str, StoredVersion]) -> AsyncIterator[SourceItem]:
        self.reads.append(link)
        self.known[link.url] = dict(known)
        if link.url not in self._script:
            raise FetchError(f"{link.url} cannot be reached: nothing was queued for it")
        self.running[link.url] += 1
        self.peak = max(self.peak, self.running.total())
        try:
            for step in self._script[link.url]:
                await asyncio.sleep(0)
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif callable(step):
                    step()
                else:
                    yield step
        finally:
            self.running[link.url] -= 1
            self.released.append(link.url)

    async def close(self) -> None:
        self.closed += 1

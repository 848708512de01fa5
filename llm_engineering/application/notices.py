"""Tell what happened: write it to the outbox, then send what waits there.

A kill at any point loses nothing and doubles nothing that a receiver cannot tell: a notice is kept before it is sent, and sent
again under the same id where nobody noted that it arrived.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from loguru import logger

from llm_engineering.application.ports import NoticeStore, Notifier
from llm_engineering.domain.errors import NotificationError, StoreError
from llm_engineering.domain.notices import Notice, StoredNotice

MOST_ATTEMPTS = 50
"""After so many a notice is given up; it stays in the outbox, with the last problem."""


FIRST_WAIT, LONGEST_WAIT = 30.0, 3_600.0
"""Seconds before what a place did not take is sent again; each wait is twice the one before."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of a round through the outbox, in notices times places."""

    sent: int = 0
    failed: int = 0
    problems: tuple[str, ...] = ()

    def log_problems(self) -> None:
        """Warn of what waits for another round."""
        if self.failed:
            logger.warning("{} notices wait to be sent: {}", self.failed, self.problems[0])


def notify(notices: Sequence[Notice], store: NoticeStore, notifiers: Sequence[Notifier]) -> Delivery:
    """Keep notices, and send all that wait, those of earlier runs too.

    Raises:
        StoreError: the outbox failed; nothing was sent that is not kept.
    """
    store.put(notices)
    return deliver(store, notifiers)


def deliver(store: NoticeStore, notifiers: Sequence[Notifier]) -> Delivery:
    """Send what waits in the outbox to every place that has not taken it yet.

    Raises:
        StoreError: the outbox failed. What was sent and could not be noted is sent again, under the same id.
    """
    sent, problems = 0, list[str]()
    for waiting in list(store.read_open()):
        kept = waiting
        for notifier in notifiers:
            if notifier.name in kept.delivered or not _is_for(kept, notifier):
                continue
            try:
                notifier.send(kept.notice)
            except NotificationError as error:
                problems.append(f"{notifier.name}: {error}")
                kept = kept.model_copy(update={"problem": f"{notifier.name}: {error}"[:500]})
            else:
                sent += 1
                kept = kept.model_copy(update={"delivered": (*kept.delivered, notifier.name)})
                store.replace(_judge(kept, notifiers))
        kept = kept.model_copy(update={"attempts": kept.attempts + 1})
        store.replace(_judge(kept, notifiers))
    return Delivery(sent, len(problems), tuple(problems))


def _judge(kept: StoredNotice, notifiers: Sequence[Notifier]) -> StoredNotice:
    everywhere = all(notifier.name in kept.delivered for notifier in notifiers if _is_for(kept, notifier))
    return kept.model_copy(update={"done": everywhere or kept.attempts >= MOST_ATTEMPTS})


def _is_for(kept: StoredNotice, notifier: Notifier) -> bool:
    return kept.notice.audience == "all" or not notifier.for_people


class Outbox:
    """Keeps notices before the caller goes on, and sends them beside. For a service, on one event loop.

    What a place does not take is tried again with growing waits; what is open when the service ends or is killed, the next one
    sends as it starts.
    """

    def __init__(
        self,
        store: NoticeStore,
        notifiers: Sequence[Notifier],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._notifiers = notifiers
        self._sleep = sleep
        self._wanted = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to send, at first what waits from before."""
        self._wanted.set()
        self._sender = asyncio.create_task(self._send())

    async def tell(self, notice: Notice) -> None:
        """Keep a notice, to be sent at once.

        Raises:
            StoreError: it could not be kept, so nobody will be told.
        """
        await asyncio.to_thread(self._store.put, [notice])
        self._wanted.set()

    async def close(self) -> None:
        """Stop sending. What is open stays in the store."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send(self) -> None:
        wait: float | None = None
        while True:
            if wait is None:
                await self._wanted.wait()
            else:
                await self._pause(wait)
            self._wanted.clear()
            try:
                # One round at a time: two would send the same notice twice.
                done = await asyncio.to_thread(deliver, self._store, self._notifiers)
                done.log_problems()
                failed = bool(done.failed)
            except StoreError as error:
                logger.warning("Notices wait to be sent: {}", error)
                failed = True
            wait = min(2 * wait if wait else FIRST_WAIT, LONGEST_WAIT) if failed else None

    async def _pause(self, seconds: float) -> None:
        """Wait before another try, or until there is something new."""
        waits = {asyncio.ensure_future(one) for one in (self._sleep(seconds), self._wanted.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

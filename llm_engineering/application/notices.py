"""Tell what happened: write it to the outbox, then send what waits there.

A kill at any point loses nothing and doubles nothing that a receiver cannot tell: a notice is kept before it is sent, and sent
again under the same id where nobody noted that it arrived.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from loguru import logger

from llm_engineering.application.ports import NoticeStore, Notifier
from llm_engineering.domain.errors import NotificationError, StoreError
from llm_engineering.domain.notices import Notice, StoredNotice

MOST_ATTEMPTS = 50
"""After so many a notice is given up; it stays in the outbox, with the last problem."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of a round through the outbox, in notices times places."""

    sent: int = 0
    failed: int = 0
    problems: tuple[str, ...] = ()


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
    if problems:
        logger.warning("{} notices wait to be sent: {}", len(problems), problems[0])
    return Delivery(sent, len(problems), tuple(problems))


def _judge(kept: StoredNotice, notifiers: Sequence[Notifier]) -> StoredNotice:
    everywhere = all(notifier.name in kept.delivered for notifier in notifiers if _is_for(kept, notifier))
    return kept.model_copy(update={"done": everywhere or kept.attempts >= MOST_ATTEMPTS})


def _is_for(kept: StoredNotice, notifier: Notifier) -> bool:
    return kept.notice.audience == "all" or not notifier.for_people


class Outbox:
    """The outbox of a process that goes on. What is put there is kept before the caller goes on, and sent beside its work; what
    cannot be sent is tried again, by this process or the next one. For one event loop.
    """

    def __init__(
        self, store: NoticeStore, notifiers: Sequence[Notifier], *, retry_seconds: float = 60.0
    ) -> None:
        self._store = store
        self._notifiers = tuple(notifiers)
        self._retry_seconds = retry_seconds
        self._sending: asyncio.Task[None] | None = None
        self._more = False

    async def put(self, notices: Sequence[Notice]) -> None:
        """Keep notices, and begin to send them.

        Raises:
            StoreError: they could not be kept.
        """
        if notices:
            await asyncio.to_thread(self._store.put, notices)
            await self.send_soon()

    async def send_soon(self) -> None:
        """Begin to send what waits, that of earlier processes too."""
        self._more = True
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def close(self, patience_seconds: float = 2.0) -> None:
        """Stop sending. What is not sent by then waits for the next process."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=patience_seconds)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            self._more = False
            try:
                failed = (await asyncio.to_thread(deliver, self._store, self._notifiers)).failed
            except StoreError as error:
                logger.warning("Notices wait, for their store does not answer: {}", error)
                failed = 1
            if failed and not self._more:
                await asyncio.sleep(self._retry_seconds)
            elif not self._more:
                return

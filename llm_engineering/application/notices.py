"""Tell what happened: write it to the outbox, then send what waits there.

A kill at any point loses nothing and doubles nothing that a receiver cannot tell: a notice is kept before it is sent, and sent
again under the same id where nobody noted that it arrived.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loguru import logger

from llm_engineering.application.ports import NoticeStore, Notifier
from llm_engineering.domain.errors import NotificationError
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

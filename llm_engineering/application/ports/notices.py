"""Telling people and other systems: notifiers, and the outbox in which notices wait for them."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from llm_engineering.domain.notices import Notice, StoredNotice


class Notifier(Protocol):
    """Sends notices to one place."""

    @property
    def name(self) -> str:
        """Under which it is noted that the place has taken a notice; holds no secret."""
        ...

    @property
    def for_people(self) -> bool:
        """Whether people read what is sent there; notices for systems alone do not go there."""
        ...

    def send(self, notice: Notice) -> None:
        """Send a notice. May be asked twice for one, after a kill: ``notice.id`` tells a receiver that it is the same.

        Raises:
            NotificationError: the place did not take it.
        """
        ...


class NoticeStore(Protocol):
    """The outbox."""

    def put(self, notices: Sequence[Notice]) -> int:
        """Keep notices; one whose id is there already stays as it is. Returns how many were new."""
        ...

    def read_open(self) -> Iterator[StoredNotice]:
        """Yield the notices that are not done, ordered by id."""
        ...

    def get(self, ids: Sequence[str]) -> list[StoredNotice]: ...

    def replace(self, notice: StoredNotice) -> None:
        """Write what became of a notice."""
        ...

    def stream(self) -> Iterator[StoredNotice]: ...

    def delete(self, ids: Sequence[str]) -> int: ...

"""What collecting a link has come to so far, and the writing of it to the warehouse in batches."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from llm_engineering.application.failures import MAX_PAYLOAD_CHARS
from llm_engineering.application.features.links import normalise_link, shown_link
from llm_engineering.application.ports import DeadLetterStore, DocumentStore, Known, Link, UserStore
from llm_engineering.domain.documents import DeadLetter, RawDocument, derived_id

STAGE = "collect"
"""Stage of this use case's dead letters."""

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Run a blocking call in a thread. When cancelled, it is waited for: no write may outlive the store it goes to."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


@dataclass(slots=True)
class Task:
    """A link on its way, with what has come of it so far."""

    link: Link
    reader: str
    parent: "Task | None" = None
    known: Mapping[str, Known] = field(default_factory=dict)
    """What the store holds from the origin; loaded once per link that the user gave, shared with those it led to."""
    children: "list[Task]" = field(default_factory=list)
    reason: str = ""
    complete: bool = False
    found: int = 0
    yielded: set[str] = field(default_factory=set)
    """Links of documents seen again, among those known."""
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    removed: int = 0
    seconds: float = 0.0

    @property
    def url(self) -> str:
        return shown_link(self.link.url.strip())

    @property
    def origin(self) -> str:
        """The link that the user gave, without credentials and in one spelling."""
        return self.parent.origin if self.parent else shown_link(normalise_link(self.link.url))

    @property
    def depth(self) -> int:
        return self.parent.depth + 1 if self.parent else 0

    def gone(self) -> list[str]:
        """Links of documents that are stored and no longer in the source; empty unless the source was read in full."""
        if not self.complete or self.reason or self.rejected or self.children:
            return []
        # What a feed's other links gave has the same origin; of a discovered repository only its own files may go.
        own = f"{shown_link(normalise_link(self.link.url))}#" if self.parent else ""
        return [link for link in self.known if link.startswith(own) and link not in self.yielded]


class Writer:
    """Writes documents and dead letters in batches, and books what became of each to the link it came from."""

    def __init__(
        self, documents: DocumentStore, users: UserStore, dead_letters: DeadLetterStore, batch_size: int
    ) -> None:
        self._documents = documents
        self._users = users
        self._dead_letters = dead_letters
        self._batch_size = batch_size
        self._pending: list[tuple[Task, RawDocument]] = []
        self._letters: list[DeadLetter] = []
        self._failed_sources: set[str] = set()
        self._authors: set[str] = set()
        # One writer at a time: two batches with the same document would both count it as new.
        self._lock = asyncio.Lock()

    async def add(self, task: Task, document: RawDocument) -> None:
        """Take a document; waits while earlier batches are being written, which holds fast readers back."""
        self._pending.append((task, document))
        if len(self._pending) >= self._batch_size:
            await self.flush(self._batch_size)

    async def letter(self, source: str, reason: str, payload: str = "") -> None:
        self._failed_sources.add(source)
        self._letters.append(
            DeadLetter(
                stage=STAGE,
                source=source,
                reason=reason,
                payload=payload[:MAX_PAYLOAD_CHARS],
                failed_at=datetime.now(UTC),
            )
        )
        if len(self._letters) >= self._batch_size:
            await self._flush_letters()

    async def flush(self, at_least: int = 1) -> None:
        """Write what is pending, where it is at least so much, in batches."""
        async with self._lock:
            while len(self._pending) >= max(1, at_least):
                batch, self._pending = self._pending[: self._batch_size], self._pending[self._batch_size :]
                for (task, _), outcome in zip(batch, await in_thread(self._write, batch), strict=True):
                    setattr(task, outcome, getattr(task, outcome) + 1)

    async def remove(self, links: Sequence[str]) -> int:
        """Delete documents by link, after everything pending is written."""
        await self.flush()
        return await in_thread(self._documents.delete, [derived_id("document", link) for link in links])

    async def finish(self, succeeded: Sequence[Task]) -> None:
        """Write what is left, and forget the dead letters of what has now succeeded."""
        await self._flush_letters()
        resolved = {task.url for task in succeeded}
        read_in_full = {task.url for task in succeeded if task.complete}
        if read_in_full:
            resolved.update(await in_thread(self._stale_records, read_in_full))
        await in_thread(self._dead_letters.resolve, STAGE, sorted(resolved - self._failed_sources))

    async def _flush_letters(self) -> None:
        async with self._lock:
            letters, self._letters = self._letters, []
            if letters:
                await in_thread(self._dead_letters.put, letters)

    def _write(self, batch: list[tuple[Task, RawDocument]]) -> list[str]:
        """Write a batch; returns for each document the name of the count it adds to."""
        for name in dict.fromkeys(document.author for _, document in batch):
            if name not in self._authors:
                self._users.get_or_create(name)
                self._authors.add(name)
        hashes = self._stored_hashes(batch)
        outcomes: list[str] = []
        to_write: dict[str, RawDocument] = {}
        for task, document in batch:
            stored = hashes.get(document.id)
            outcomes.append(
                "created" if stored is None else "unchanged" if stored == document.content_hash else "updated"
            )
            hashes[document.id] = document.content_hash
            # Nothing to write where even the validators (ETag, Last-Modified) are those already stored.
            current = Known(document.content_hash, document.etag, document.last_modified)
            if document.id in to_write or task.known.get(document.link) != current:
                to_write[document.id] = document
        if to_write:
            self._documents.upsert(list(to_write.values()))
        return outcomes

    def _stored_hashes(self, batch: list[tuple[Task, RawDocument]]) -> dict[str, str]:
        hashes = {
            document.id: task.known[document.link].content_hash
            for task, document in batch
            if document.link in task.known
        }
        # A document may also be stored from another origin, or by an earlier batch of this run.
        others = list(dict.fromkeys(document.id for _, document in batch if document.id not in hashes))
        if others:
            hashes.update({document.id: document.content_hash for document in self._documents.get(others)})
        return hashes

    def _stale_records(self, read_in_full: set[str]) -> list[str]:
        """Letters of single records (``URL:line``, ``URL#path``) of sources that were now read in full."""
        return [
            letter.source
            for letter in self._dead_letters.stream(STAGE)
            if any(letter.source.rpartition(mark)[0] in read_in_full for mark in ":#")
        ]

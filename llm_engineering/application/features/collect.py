"""Collect links into the data warehouse: read concurrently, write in bulk, account for every link."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from loguru import logger

from llm_engineering.application.failures import MAX_PAYLOAD_CHARS
from llm_engineering.application.features.collect_report import (
    MAX_REASONS,
    CollectionReport,
    LinkOutcome,
    LinkStatus,
)
from llm_engineering.application.features.links import (
    Router,
    dump_link,
    find_query_secret,
    hide_credentials,
    identify_link,
    load_link,
    normalise_link,
)
from llm_engineering.application.ports import (
    DeadLetterStore,
    Discovered,
    DocumentStore,
    FetchedDocument,
    Link,
    NotModified,
    Progress,
    Rejected,
    SilentProgress,
    SourceItem,
    SourceReader,
    StoredVersion,
    UserStore,
)
from llm_engineering.application.text.pii import compile_names, names_any
from llm_engineering.domain.categories import is_record
from llm_engineering.domain.documents import DeadLetter, RawDocument, derive_id
from llm_engineering.domain.errors import CollectionError, ConfigurationError, InvalidInputError

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
    known: Mapping[str, StoredVersion] = field(default_factory=dict)
    """What the store holds from the origin; loaded once per link that the user gave, shared with those it led to."""
    children: "list[Task]" = field(default_factory=list)
    reason: str = ""
    complete: bool = False
    found: int = 0
    yielded: set[str] = field(default_factory=set)
    """Links of documents seen again, among those known, or rejected."""
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    unplaced: int = 0
    """Rejected records that may be any of the stored documents."""
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """(source, reason) of the first rejected records."""
    removed: int = 0
    seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"{hide_credentials(self.link.url.strip())}{self.link.part}"

    @property
    def origin(self) -> str:
        """The link that the user gave, without credentials and in one spelling."""
        return self.parent.origin if self.parent else identify_link(self.link)

    @property
    def given(self) -> str:
        """The link that the user gave, as a dead letter keeps it, to collect it again."""
        if self.parent:
            return self.parent.given
        return dump_link(self.link)

    @property
    def depth(self) -> int:
        return self.parent.depth + 1 if self.parent else 0

    def find_gone(self) -> list[str]:
        """Return links of documents that are stored and no longer in the source; empty unless the source was read in
        full."""
        if not self.complete or self.reason or self.unplaced or self.children:
            return []
        # What a feed's other links gave has the same origin; of a discovered repository only its own files may go.
        own = f"{identify_link(self.link)}#" if self.parent else ""
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

    async def add_dead_letter(self, source: str, reason: str, payload: str = "", *, link: str) -> None:
        self._failed_sources.add(source)
        self._letters.append(
            DeadLetter(
                stage=STAGE,
                source=source,
                reason=reason,
                payload=payload[:MAX_PAYLOAD_CHARS],
                link=link,
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
        return await in_thread(self._documents.delete, [derive_id("document", link) for link in links])

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
            if name and name not in self._authors:
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
            current = StoredVersion(document.content_hash, document.etag, document.last_modified)
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
        """Letters of single records (``URL:line``, ``URL#path``, files of a folder) of sources that were now read in full."""
        return [
            letter.source
            for letter in self._dead_letters.stream(STAGE)
            if any(letter.source.rpartition(mark)[0] in read_in_full for mark in ":#")
            or ((link := load_link(letter.link)) and link.url in read_in_full)
        ]


MAX_DEPTH = 3
"""A feed may lead to a feed, and that to another; beyond this it is a trap."""


async def collect(
    links: Sequence[Link],
    readers: Mapping[str, SourceReader],
    documents: DocumentStore,
    users: UserStore,
    dead_letters: DeadLetterStore,
    *,
    router: Router | None = None,
    max_concurrency: int = 8,
    max_failed_share: float = 1.0,
    batch_size: int = 256,
    progress: Progress | None = None,
    opted_out: Sequence[str] = (),
) -> CollectionReport:
    """Collect links, and those that feeds among them lead to, each once.

    A link that fails does not stop the others: its reason stands in the report and among the dead letters. Documents
    are written in batches that links share, so that many small links cost no more round trips than one large one.
    The readers are not closed; who opened them does that, in the same event loop.

    Args:
        readers: by name; a link goes to the one that its ``reader`` option, else the router, names.
        max_concurrency: links that are read at the same time.
        max_failed_share: kept in the report, whose ``check`` refuses a run that lost more.
        batch_size: documents per bulk write.
        opted_out: names and addresses of people of whom nothing is to be collected: a document that holds one as whole words is
            rejected, and nothing of it is kept.

    Raises:
        InvalidInputError: there are no links.
        ConfigurationError: a link's ``reader`` option names no reader.
        StoreError: the warehouse failed; what was written before is safe, and running again goes on from there.
    """
    if not links:
        raise InvalidInputError(
            "There are no links to collect. List at least one in the run's YAML, for example:\n"
            "  author: Jane Doe\n  links:\n    - https://example.org/feed.xml"
        )
    router = router or Router(readers=readers)
    for link in links:
        if "reader" in link.options:
            router.check(link.options["reader"])
    writer = Writer(documents, users, dead_letters, batch_size)
    run = _Run(readers, documents, writer, router, progress or SilentProgress(), compile_names(opted_out))
    started = time.perf_counter()
    for link in links:
        if name := find_query_secret(link.url):
            logger.warning(
                "{} seems to carry a secret (its parameter '{}'), which is stored as part of the link. If it is one, use a link "
                "without it, or user:password@ in front of the host, which is never stored.",
                hide_credentials(link.url).partition("?")[0],
                name,
            )
        run.add(link)
    await run.execute(max_concurrency)
    return CollectionReport(
        outcomes=run.outcomes(),
        seconds=time.perf_counter() - started,
        max_failed_share=max_failed_share,
        duplicates=run.duplicates,
    )


class _Run:
    """Links of one run: a queue, workers, and every task in the order it was given or discovered."""

    def __init__(
        self,
        readers: Mapping[str, SourceReader],
        documents: DocumentStore,
        writer: Writer,
        router: Router,
        progress: Progress,
        opted_out: re.Pattern[str] | None,
    ) -> None:
        self._opted_out = opted_out
        self._begun = datetime.now(UTC).replace(microsecond=0)
        self.duplicates = 0
        self._readers = readers
        self._documents = documents
        self._writer = writer
        self._router = router
        self._progress = progress
        self._tasks: dict[str, Task] = {}
        self._queue: asyncio.Queue[Task] = asyncio.Queue()

    def add(self, link: Link, parent: Task | None = None) -> None:
        """Queue a link, unless it is there already."""
        key = f"{normalise_link(link.url)}{link.part}"
        task = self._tasks.get(key)
        if task is not None:
            self._note_duplicate(link, task, parent)
        else:
            if parent is not None:
                link = replace(link, found_through=parent.link.given)
            reader = str(link.options.get("reader") or self._router.route(link.url))
            task = self._tasks[key] = Task(link, reader, parent, known=parent.known if parent else {})
            self._queue.put_nowait(task)
            self._progress.advance("Collect links", 0, total=len(self._tasks))
        if parent is not None and task is not parent:
            parent.children.append(task)

    def _note_duplicate(self, link: Link, task: Task, parent: Task | None) -> None:
        if parent is None:
            self.duplicates += 1
            if (link.author, link.category, link.options) != (
                task.link.author,
                task.link.category,
                task.link.options,
            ):
                logger.warning(
                    "{} is listed twice with different settings; the first entry counts. Remove the other.",
                    task.url,
                )

    async def execute(self, max_concurrency: int) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(self._work()) for _ in range(max(1, max_concurrency))]
                await self._queue.join()
                for worker in workers:
                    worker.cancel()
        except BaseExceptionGroup as failures:
            # Links do not raise: this is the warehouse, and one of the workers' reports of it is enough.
            raise failures.exceptions[0] from None
        await self._writer.flush()  # what became of a link is known once its documents are written
        succeeded = [task for task in self._tasks.values() if self._status(task) is not LinkStatus.FAILED]
        await self._writer.finish(succeeded)

    async def _work(self) -> None:
        while True:
            task = await self._queue.get()
            started = time.perf_counter()
            await self._collect(task)
            task.seconds = time.perf_counter() - started
            self._progress.advance("Collect links", 1, total=len(self._tasks))
            self._queue.task_done()

    async def _collect(self, task: Task) -> None:
        if task.parent is None:
            task.known = await in_thread(self._documents.find_stored, task.origin)
        async with aclosing(self._read(task)) as items:  # closed at once, also where the warehouse fails
            async for item in items:
                await self._take(task, item)
        if not (
            task.reason or task.complete or task.children or task.found or task.unchanged or task.rejected
        ):
            task.reason = "nothing was found in it"
        gone = task.find_gone()
        if gone:
            task.removed = await self._writer.remove(gone)
        if task.reason:
            task.reason = task.reason.removeprefix(f"{task.url}: ")
            logger.warning("Failed: {}: {}", task.url, task.reason)
            await self._writer.add_dead_letter(task.url, task.reason, link=task.given)

    async def _read(self, task: Task) -> AsyncGenerator[SourceItem]:
        """The items of a link; what goes wrong while reading becomes the link's reason."""
        try:
            reader = self._reader(task)
            items = reader.read(task.link, task.known)
            try:
                async for item in items:
                    if not isinstance(item, SourceItem):
                        raise TypeError(f"it yielded a {type(item).__name__}; expected a SourceItem")
                    yield item
            finally:
                # A generator left half way holds its connection or process until the collector comes by.
                close: Callable[[], Awaitable[None]] | None = getattr(items, "aclose", None)
                if close is not None:
                    await close()
        except (CollectionError, ConfigurationError, InvalidInputError) as error:
            task.reason = hide_credentials(str(error))
        except Exception as error:  # noqa: BLE001 - the one boundary: a reader's fault costs its link, never the run
            logger.opt(exception=error).error("The reader '{}' broke on {}", task.reader, task.url)
            task.reason = (
                f"the reader '{task.reader}' broke: {type(error).__name__}: {hide_credentials(str(error))}"
            )

    def _reader(self, task: Task) -> SourceReader:
        if not task.link.url.strip():
            raise InvalidInputError("the link is empty; expected a URL or a path")
        if not task.link.author.strip() and not is_record(task.link.category):
            raise InvalidInputError("the link has no author; name the person whose writing it is")
        if task.depth > MAX_DEPTH:
            raise CollectionError(f"it was reached through more than {MAX_DEPTH} feeds that lead to feeds")
        reader = self._readers.get(task.reader)
        if reader is None:
            raise ConfigurationError(
                f"it needs the reader '{task.reader}', which this run does not have "
                f"(it has: {', '.join(sorted(self._readers)) or 'none'})"
            )
        return reader

    async def _take(self, task: Task, item: SourceItem) -> None:
        if isinstance(item, FetchedDocument):
            # The origin is the link that the user gave, also where a feed led here; a reader cannot know it.
            if self._opted_out is not None and names_any(item.document, self._opted_out):
                await self._refuse(task, item.document)
                return
            document = item.document.model_copy(update={"origin": task.origin, "collected_at": self._begun})
            if document.link in task.known:
                task.yielded.add(document.link)
            task.found += 1
            await self._writer.add(task, document)
        elif isinstance(item, NotModified):
            task.yielded.add(item.link)
            task.unchanged += 1
        elif isinstance(item, Discovered):
            self.add(item.link, task)
        elif isinstance(item, Rejected):
            task.rejected += 1
            if item.link:
                task.yielded.add(item.link)
            else:
                task.unplaced += 1
            source = hide_credentials(item.source)
            if len(task.reasons) < MAX_REASONS:
                task.reasons.append((source, item.reason))
            await self._writer.add_dead_letter(source, item.reason, item.payload, link=task.given)
        else:
            task.complete = True

    async def _refuse(self, task: Task, document: RawDocument) -> None:
        """Keep that a document was left out, and nothing of it. What was stored of it before goes, as what has gone from its
        source does."""
        task.rejected += 1
        reason = "It names somebody who has opted out (PRIVACY_OPT_OUT_PATH), so nothing of it is kept."
        if len(task.reasons) < MAX_REASONS:
            task.reasons.append((document.id, reason))
        await self._writer.add_dead_letter(document.id, reason, link=task.given)

    def _status(self, task: Task, seen: frozenset[int] = frozenset()) -> LinkStatus:
        if task.reason:
            return LinkStatus.FAILED
        if task.created:
            return LinkStatus.SAVED
        below = [self._status(child, seen | {id(task)}) for child in task.children if id(child) not in seen]
        if LinkStatus.SAVED in below:
            return LinkStatus.SAVED
        if task.updated or task.removed or LinkStatus.UPDATED in below:
            return LinkStatus.UPDATED
        if task.unchanged or LinkStatus.UNCHANGED in below or (task.complete and not task.rejected):
            return LinkStatus.UNCHANGED
        return LinkStatus.FAILED

    def outcomes(self) -> list[LinkOutcome]:
        return [self._outcome(task) for task in self._tasks.values()]

    def _outcome(self, task: Task) -> LinkOutcome:
        status = self._status(task)
        reason = task.reason
        if status is LinkStatus.FAILED and not reason:
            reason = (
                f"all of its {task.rejected} records were rejected"
                if task.rejected
                else f"none of the {len(task.children)} links it led to could be collected"
            )
        return LinkOutcome(
            url=task.url,
            author=task.link.author,
            reader=task.reader,
            status=status,
            reason=reason,
            created=task.created,
            updated=task.updated,
            unchanged=task.unchanged,
            rejected=task.rejected,
            rejections=tuple(task.reasons),
            removed=task.removed,
            discovered=len(task.children),
            found_through=task.parent.url if task.parent else None,
            seconds=task.seconds,
        )

"""From clean documents to the index: chunk, embed and write what changed, remove what is stale.

Four things happen at a time, in windows of chunks: reading, chunking and looking up the cache (a thread ahead),
embedding (the caller's thread, never kept waiting by the others), and writing (a thread behind for the cache, and one
for the index).

Killed at any point and run again, the index ends as after an unbroken run:

- A document counts as done when its chunk 0 stands under the right version. Chunk 0 is written after the document's
  other chunks, and after its stale chunks are gone.
- An index that shows batches as they are written may be left with chunks that no chunk 0 certifies. Their documents'
  ids are noted before they are written (dead letters of the stage ``index``), so that the next run can remove them even
  if the document has been removed in the meantime.
- Embeddings are cached window by window, beside the writing, so at most the last few windows are computed twice.
"""

import json
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from time import perf_counter
from typing import Any

from loguru import logger

from llm_engineering.application.failures import check_failures, dead_letter, group_batches, round_values
from llm_engineering.application.features.chunk import CHUNKING_VERSION, ChunkingConfig, chunk_document
from llm_engineering.application.features.prefetch import ReadAhead, WriteBehind
from llm_engineering.application.ports import (
    CleanStore,
    DeadLetterStore,
    Embedder,
    EmbeddingCache,
    IndexWriter,
    Metered,
    Progress,
    SilentProgress,
    VectorIndex,
    Vectors,
)
from llm_engineering.application.text.tokens import TokenCounts
from llm_engineering.domain.documents import (
    Chunk,
    CleanDocument,
    DeadLetter,
    EmbeddedChunk,
    EmbedderFingerprint,
    text_hash,
)
from llm_engineering.domain.errors import InvalidInputError, ModelError, TextRefusedError
from llm_engineering.domain.retrieval import Usage

CHUNK_STAGE, EMBED_STAGE, INDEX_STAGE = "chunk", "embed", "index"
DEPTH = 2
"""Windows that may wait between two threads."""
RECENT_WINDOWS = 2 * DEPTH + 4
"""A cache lookup may be ahead of the write of this many windows; their vectors are kept at hand."""
EMBEDDED_AT_ONCE = 256
"""Texts handed to the embedder in one call: enough to fill batches of like length, few enough to show progress."""
NOTED_AT_ONCE = 250
"""Document ids of one note, which keeps its payload below 10,000 characters."""
_SILENT = SilentProgress()


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What indexing did."""

    documents: int
    """Clean documents, all of them."""
    changed: int
    """Documents whose chunks were written."""
    unchanged: int
    deleted: int
    """Documents whose chunks were removed, because they are gone or can no longer be chunked."""
    failed: int
    chunks: int
    embedded: int
    """Texts that went through the model."""
    from_cache: int
    """Chunks, and titles where they are embedded, whose embedding was there already: in the cache, or of an equal text
    in this run."""
    seconds: dict[str, float]
    """By stage; stages overlap, so they add up to more than ``total``."""
    tokens: int = 0
    """Of what was embedded, as a service counts them; 0 for a model of this process."""
    cost_usd: float | None = None
    """At the configured price; None where there is none."""

    def to_metadata(self) -> dict[str, Any]:
        """For a run's log and dashboard."""
        # ZenML keeps no empty value: without a price there is no cost.
        return round_values({name: value for name, value in asdict(self).items() if value is not None})


@dataclass(slots=True)
class _Window:
    """Chunks that are embedded and written together."""

    chunks: list[Chunk] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    title_hashes: list[str | None] = field(default_factory=list)
    """None: nothing to embed, because there is no title or titles are not embedded."""
    begun: list[str] = field(default_factory=list)
    """Documents of several chunks, the first of which to be written is here."""
    finished: dict[str, str] = field(default_factory=dict)
    """Documents whose last chunk to be written, chunk 0, is here, with their versions."""
    vectors: dict[str, Vectors] = field(default_factory=dict)
    """By text hash, those that were cached."""
    missing: dict[str, str] = field(default_factory=dict)
    """Texts by hash, those that were not cached."""
    new: dict[str, Vectors] = field(default_factory=dict)
    """By text hash, those that were embedded for this window."""


@dataclass(slots=True)
class _Plan:
    total: int = 0
    unchanged: int = 0
    todo: list[str] = field(default_factory=list)
    stale: set[str] = field(default_factory=set)
    """Documents to do of which other chunks are, or may be, in the index."""
    superseded: dict[str, str] = field(default_factory=dict)
    """Documents that are done, with the version to keep, of which an older one is still there."""
    gone: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Notes of an interrupted run."""


def index_documents(
    clean_store: CleanStore,
    index: VectorIndex,
    embedder: Embedder,
    cache: EmbeddingCache,
    config: ChunkingConfig | None = None,
    *,
    dead_letters: DeadLetterStore,
    window_chunks: int = 1024,
    batch_size: int = 256,
    max_failed_share: float = 0.1,
    title_vectors: bool = False,
    texts_at_once: int = EMBEDDED_AT_ONCE,
    concurrency: int = 1,
    progress: Progress = _SILENT,
) -> IndexReport:
    """Make the index hold exactly the chunks of the clean documents.

    A document's version covers its content, the chunking and the embedder; only documents whose version is not in the
    index are read. Where nothing changed the index is not opened for writing and nothing is embedded.

    Args:
        window_chunks: chunks that are embedded and written together; about six windows are in memory at a time.
        batch_size: documents read, or deleted, in one round trip.
        title_vectors: give each chunk a second vector, of its title and headings. Another choice than last time is
            like another embedder: the index is built anew, from cached embeddings as far as there are any.
        texts_at_once: handed to the embedder in one call: of a service one request, so that a text that it refuses costs no
            more than a few further ones.
        concurrency: such calls at the same time; the embedder must bear threads.

    Raises:
        TooManyFailuresError: more than ``max_failed_share`` of all documents could not be chunked, in which case the rest is
            indexed, or not be embedded, which ends the run.
        ModelError: the embedder failed. What was embedded is cached; run again.
        StoreError: a store failed. Run again: what is done is not done twice.
    """
    run = _Run(
        clean_store,
        embedder,
        cache,
        config or ChunkingConfig(),
        dead_letters,
        window_chunks,
        batch_size,
        title_vectors,
        progress,
        max_failed_share,
        texts_at_once,
        concurrency,
    )
    return run.execute(index)


def find_changes(
    clean_store: CleanStore,
    index: VectorIndex,
    fingerprint: EmbedderFingerprint,
    config: ChunkingConfig,
    *,
    title_vectors: bool = False,
) -> set[str]:
    """Return ids of the documents that :func:`index_documents` would index, index again or remove."""
    held: dict[str, set[str]] = {}
    for identifier, version in index.list_versions():
        held.setdefault(identifier, set()).add(version)
    changed = {
        identifier
        for identifier, content_hash in clean_store.list_versions()
        if _make_version(content_hash, config, fingerprint.digest, title_vectors)
        not in held.pop(identifier, ())
    }
    return changed | held.keys()


def _make_version(content_hash: str, config: ChunkingConfig, digest: str, titles: bool) -> str:
    parts = [CHUNKING_VERSION, content_hash, config.model_dump_json(), digest]
    if titles:  # else as before there was a choice, so that no index is built anew for it
        parts.append("titles")
    return text_hash(json.dumps(parts))[:32]


class _Run:
    """One run of :func:`index_documents`."""

    def __init__(
        self,
        clean_store: CleanStore,
        embedder: Embedder,
        cache: EmbeddingCache,
        config: ChunkingConfig,
        dead_letters: DeadLetterStore,
        window_chunks: int,
        batch_size: int,
        title_vectors: bool,
        progress: Progress,
        max_failed_share: float,
        texts_at_once: int,
        concurrency: int,
    ) -> None:
        if (
            concurrency > 1
        ):  # a window ends when its last call does: with few calls in it, most of them would wait
            window_chunks = max(window_chunks, 2 * texts_at_once * concurrency)
        self._texts_at_once = texts_at_once
        self._concurrency = concurrency
        self._max_failed_share = max_failed_share
        self._clean = clean_store
        self._embedder = embedder
        self._cache = cache
        self._config = config
        self._letters = dead_letters
        self._window_chunks = window_chunks
        self._batch_size = batch_size
        self._titles = title_vectors
        self._progress = progress
        self._fingerprint = embedder.fingerprint
        self._digest = self._fingerprint.digest
        self._plan = _Plan()
        self._failed: set[str] = set()
        self._refused: set[str] = set()
        self._recent: list[dict[str, Vectors]] = []
        self._seconds = dict.fromkeys(("plan", "read", "chunk", "look_up", "embed", "cache", "write"), 0.0)
        self._changed = self._chunks = self._wanted = self._embedded = 0

    def execute(self, index: VectorIndex) -> IndexReport:
        started = perf_counter()
        used = _read_usage(self._embedder)
        with self._timed("plan"):
            failed_before = {letter.source for letter in self._letters.stream(CHUNK_STAGE)}
            refused_before = {letter.source for letter in self._letters.stream(EMBED_STAGE)}
            self._plan = plan = self._compare(index)
        with ReadAhead(self._windows(), DEPTH) as windows:
            first = next(windows, None)
            # By now a run without any window has chunked all it can, so the failures are known.
            if first is not None or plan.gone or plan.superseded or self._failed & plan.stale:
                self._write_all(index, chain([first] if first is not None else [], windows))
        if solved := failed_before - self._failed:
            self._letters.resolve(CHUNK_STAGE, sorted(solved))
        if solved := refused_before - self._refused:
            self._letters.resolve(EMBED_STAGE, sorted(solved))
        if plan.notes:
            self._letters.resolve(INDEX_STAGE, plan.notes)
        spent = _read_usage(self._embedder)
        report = IndexReport(
            tokens=spent.prompt_tokens - used.prompt_tokens,
            cost_usd=None if spent.cost_usd is None else spent.cost_usd - (used.cost_usd or 0.0),
            documents=plan.total,
            changed=self._changed,
            unchanged=plan.unchanged,
            deleted=len(plan.gone) + len((self._failed | self._refused) & plan.stale),
            failed=len(self._failed | self._refused),
            chunks=self._chunks,
            embedded=self._embedded,
            from_cache=self._wanted - self._embedded,
            seconds={**self._seconds, "total": perf_counter() - started},
        )
        logger.info(
            "Indexed {changed} of {documents} documents: {chunks} chunks, {embedded} embedded, {failed} failed.",
            **asdict(report),
        )
        check_failures(CHUNK_STAGE, len(self._failed), report.documents, self._max_failed_share)
        return report

    # --- what to do

    def _version(self, content_hash: str) -> str:
        return _make_version(content_hash, self._config, self._digest, self._titles)

    def _compare(self, index: VectorIndex) -> _Plan:
        plan = _Plan()
        held: dict[str, list[str]] = {}
        for identifier, version in index.list_versions():
            held.setdefault(identifier, []).append(version)
        interrupted: set[str] = set()
        for note in self._letters.stream(INDEX_STAGE):
            plan.notes.append(note.source)
            interrupted.update(json.loads(note.payload))
        for identifier, content_hash in self._clean.list_versions():
            plan.total += 1
            versions = held.pop(identifier, [])
            version = self._version(content_hash)
            if version not in versions:
                plan.todo.append(identifier)
                if versions or identifier in interrupted:
                    plan.stale.add(identifier)
            else:
                plan.unchanged += 1
                if len(versions) > 1:
                    plan.superseded[identifier] = version
            interrupted.discard(identifier)
        plan.gone = sorted(held.keys() | interrupted)
        return plan

    # --- ahead: read, chunk, look up

    def _windows(self) -> Iterator[_Window]:
        """Windows of chunks, each document's chunk 0 after its others, with the vectors that are cached."""
        counts = TokenCounts(self._embedder.tokenizer)
        window = _Window()
        for ids in group_batches(self._plan.todo, self._batch_size):
            with self._timed("read"):
                documents = self._clean.get(ids)
            letters: list[DeadLetter] = []
            for document in documents:
                version = self._version(document.content_hash)
                chunks = self._chunked(document, counts, version, letters)
                if len(chunks) > 1:
                    window.begun.append(document.id)
                for chunk in chunks[1:] + chunks[:1]:
                    window.chunks.append(chunk)
                    if chunk.position == 0:
                        window.finished[document.id] = version
                    if len(window.chunks) == self._window_chunks:
                        yield self._looked_up(window)
                        window = _Window()
            if letters:
                self._failed.update(letter.source for letter in letters)
                self._letters.put(letters)
        if window.chunks:
            yield self._looked_up(window)

    def _chunked(
        self, document: CleanDocument, counts: TokenCounts, version: str, letters: list[DeadLetter]
    ) -> list[Chunk]:
        try:
            with self._timed("chunk"):
                max_tokens = self._fingerprint.max_tokens
                chunks = chunk_document(document, counts, self._config, max_tokens, version)
                if not chunks:
                    raise InvalidInputError("there is no text in it")
        except ModelError:
            raise  # a tokenizer that cannot be opened fails for every document
        except Exception as error:  # noqa: BLE001 - kept with its reason, counted, and shown
            reason = f"{document.link}: {type(error).__name__}: {error}"
            letters.append(dead_letter(CHUNK_STAGE, document.id, reason))
            return []
        return chunks

    def _looked_up(self, window: _Window) -> _Window:
        with self._timed("look_up"):
            texts = [chunk.embedding_text for chunk in window.chunks]
            window.hashes = [text_hash(text) for text in texts]
            by_hash = dict(zip(window.hashes, texts, strict=True))
            titles = [chunk.title_text if self._titles else "" for chunk in window.chunks]
            window.title_hashes = [text_hash(title) if title else None for title in titles]
            by_hash |= {key: title for key, title in zip(window.title_hashes, titles, strict=True) if key}
            window.vectors = self._cache.get_many(self._digest, list(by_hash))
            window.missing = {key: text for key, text in by_hash.items() if key not in window.vectors}
        return window

    # --- here: embed

    def _write_all(self, index: VectorIndex, windows: Iterable[_Window]) -> None:
        with index.writer(self._fingerprint, titles=self._titles) as writer:
            writing = _Writing(writer, self._letters, self._plan.stale)
            with self._timed("write"):
                for ids in group_batches(self._plan.gone, self._batch_size):
                    writer.delete(ids)
                for ids in group_batches(self._plan.superseded, self._batch_size):
                    writer.delete(ids, keep_versions={key: self._plan.superseded[key] for key in ids})
            caching = WriteBehind(self._cache_new, DEPTH)
            with caching, WriteBehind(writing.write, DEPTH) as behind:
                for window in windows:
                    self._embed(window)
                    caching.submit(window)
                    behind.submit(window)
                    self._changed += len(window.finished)
                    self._chunks += len(window.chunks)
                    self._wanted += len(window.chunks) + sum(key is not None for key in window.title_hashes)
                    self._progress.advance(
                        "Index documents", len(window.finished), total=len(self._plan.todo)
                    )
            self._seconds["write"] += writing.seconds
            # Of a refused document, chunks of this run may be there too.
            for ids in group_batches(
                sorted(self._failed & self._plan.stale | self._refused), self._batch_size
            ):
                writer.delete(ids)

    def _embed(self, window: _Window) -> None:
        """Complete the window's vectors; longest texts first, so that those of like length go together."""
        self._drop(window, self._refused)
        used = {*window.hashes, *window.title_hashes}
        window.missing = {key: text for key, text in window.missing.items() if key in used}
        for key in list(window.missing):
            vector = next((new[key] for new in reversed(self._recent) if key in new), None)
            if vector is not None:
                window.vectors[key] = vector
                del window.missing[key]
        keys = sorted(window.missing, key=lambda key: len(window.missing[key]), reverse=True)
        parts = list(group_batches(keys, self._texts_at_once))
        with ThreadPoolExecutor(self._concurrency, "embed") as pool:
            asked = [pool.submit(self._ask, window, part) for part in parts]
            try:
                for part, answer in zip(parts, asked, strict=True):
                    with self._timed("embed"):
                        rows = answer.result()
                    self._take(window, part, rows)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        window.missing = {}
        self._recent = [*self._recent[1 - RECENT_WINDOWS :], window.new]

    def _ask(self, window: _Window, keys: list[str]) -> Vectors | TextRefusedError:
        """Embed texts, or say why they are refused. In a thread of its own: changes nothing."""
        try:
            return self._embedder.embed_documents([window.missing[key] for key in keys])
        except TextRefusedError as error:
            return error

    def _take(self, window: _Window, keys: list[str], rows: Vectors | TextRefusedError) -> None:
        """Keep what was embedded; where the service refused one of the texts, halve until it is alone."""
        if isinstance(rows, TextRefusedError):
            if len(keys) == 1:
                self._refuse(window, keys[0], str(rows))
                return
            half = len(keys) // 2
            for part in (keys[:half], keys[half:]):
                with self._timed("embed"):
                    answer = self._ask(window, part)
                self._take(window, part, answer)
            return
        window.new.update(zip(keys, rows, strict=True))
        self._embedded += len(keys)
        self._progress.advance("Embed chunks", len(keys))

    def _refuse(self, window: _Window, key: str, reason: str) -> None:
        """Leave out every document that holds a refused text.

        Raises:
            TooManyFailuresError: that is more than the run bears, so the fault is hardly theirs.
        """
        rows = zip(window.chunks, window.hashes, window.title_hashes, strict=True)
        holders = {chunk.document_id: chunk for chunk, *hashes in rows if key in hashes}
        self._letters.put(
            [
                dead_letter(EMBED_STAGE, identifier, f"{chunk.link}: {reason}", window.missing[key])
                for identifier, chunk in holders.items()
            ]
        )
        self._refused.update(holders)
        self._drop(window, holders)
        check_failures(EMBED_STAGE, len(self._refused), self._plan.total, self._max_failed_share)

    def _drop(self, window: _Window, documents: Container[str]) -> None:
        """Take documents out of a window that has not been written."""
        rows = zip(window.chunks, window.hashes, window.title_hashes, strict=True)
        kept = [row for row in rows if row[0].document_id not in documents]
        if len(kept) == len(window.chunks):
            return
        window.chunks = [chunk for chunk, _, _ in kept]
        window.hashes = [key for _, key, _ in kept]
        window.title_hashes = [key for _, _, key in kept]
        window.begun = [one for one in window.begun if one not in documents]
        window.finished = {one: version for one, version in window.finished.items() if one not in documents}

    def _cache_new(self, window: _Window) -> None:
        if window.new:
            with self._timed("cache"):
                self._cache.put_many(self._digest, window.new)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        # Each stage belongs to one thread, so adding needs no lock.
        started = perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += perf_counter() - started


def _read_usage(embedder: Embedder) -> Usage:
    return embedder.usage if isinstance(embedder, Metered) else Usage()


# --- behind: write


class _Writing:
    """Writes windows in order, each so that a run that ends anywhere can be taken up again."""

    def __init__(self, writer: IndexWriter, letters: DeadLetterStore, stale: set[str]) -> None:
        self._writer = writer
        self._letters = letters
        self._stale = stale
        self._notes: dict[str, set[str]] = {}
        self.seconds = 0.0

    def write(self, window: _Window) -> None:
        started = perf_counter()
        self._note(window.begun)
        vectors = window.vectors | window.new
        others: list[EmbeddedChunk] = []
        firsts: list[EmbeddedChunk] = []
        for chunk, key, title in zip(window.chunks, window.hashes, window.title_hashes, strict=True):
            # Not validated again: a thousand windows of 384,000 numbers that came from the embedder itself.
            item = EmbeddedChunk.model_construct(
                chunk=chunk,
                vector=tuple(vectors[key].tolist()),
                title_vector=None if title is None else tuple(vectors[title].tolist()),
            )
            (others if chunk.position else firsts).append(item)
        outdated = {key: version for key, version in window.finished.items() if key in self._stale}
        if outdated:
            if others:
                self._writer.upsert(others)
            self._writer.delete(list(outdated), keep_versions=outdated)
            self._writer.upsert(firsts)
        else:
            self._writer.upsert(others + firsts)
        self._forget_notes(window.finished)
        self.seconds += perf_counter() - started

    def _note(self, begun: list[str]) -> None:
        """Note which documents are about to be written in several parts."""
        notes = {
            text_hash(payload)[:16]: payload
            for payload in map(json.dumps, group_batches(begun, NOTED_AT_ONCE))
        }
        if notes:
            reason = "Being written to the index. If this outlives its run, the next run completes or removes them."
            self._letters.put(
                [dead_letter(INDEX_STAGE, source, reason, payload) for source, payload in notes.items()]
            )
            self._notes |= {source: set(json.loads(payload)) for source, payload in notes.items()}

    def _forget_notes(self, finished: Iterable[str]) -> None:
        for ids in self._notes.values():
            ids.difference_update(finished)
        if done := [source for source, ids in self._notes.items() if not ids]:
            self._letters.resolve(INDEX_STAGE, done)
            self._notes = {source: ids for source, ids in self._notes.items() if ids}

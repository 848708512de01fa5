"""What the use cases need from the outside: one small Protocol each, implemented by the adapters in ``infrastructure``.

Every adapter of a port, and its fake in ``tests/fakes``, passes the same conformance suite (``tests/conformance``).
Constructors of adapters only store configuration; the first use opens, ``close`` releases and may be called twice.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llm_engineering.application.tracing import Trace
from llm_engineering.domain.documents import (
    Chunk,
    CleanDocument,
    DeadLetter,
    EmbeddedChunk,
    EmbedderFingerprint,
    RawDocument,
    User,
)
from llm_engineering.domain.inference import Feedback, Interaction
from llm_engineering.domain.models import ModelManifest, ModelVersion, PromotionDecision, Stage
from llm_engineering.domain.retrieval import Fusion, Hit, MetadataFilter, RrfFusion, SearchMode, Usage

Vectors = npt.NDArray[np.float32]
"""Embeddings, shape (n, dimension), each row of unit length."""


# --- collection ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """Something to collect, as the run's configuration names it."""

    url: str
    author: str
    category: str | None = None
    """None: the reader's own category (``article``, ``post``, ``repository``)."""
    render: bool = False
    """Render the page in a browser, for pages that need JavaScript."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Reader-specific: ``branch`` of a repository, ``column_map`` of a table, ``max_items`` of a feed ..."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the store already holds under a link, for conditional requests."""

    content_hash: str
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A document was read."""

    document: RawDocument


@dataclass(frozen=True, slots=True)
class NotModified:
    """The server says that what we hold under ``link`` is current."""

    link: str


@dataclass(frozen=True, slots=True)
class Discovered:
    """A feed or a sitemap led to another link, which is collected in turn."""

    link: Link


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record of a source failed; the others go on."""

    source: str
    reason: str
    payload: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    """The source was listed to its end: what the store holds from it and was not yielded is gone and may be deleted."""


SourceItem = Found | NotModified | Discovered | Rejected | Complete


class SourceReader(Protocol):
    """Reads one kind of source.

    ``read`` yields items as they come. It raises CollectionError when the link as a whole fails; whatever was yielded
    before stays valid.
    """

    name: str

    def read(self, link: Link, known: Mapping[str, Known]) -> AsyncIterator[SourceItem]:
        """Read a link. ``known`` maps document links to what is already stored from this origin (may be empty)."""
        ...

    async def close(self) -> None: ...


class PageRenderer(Protocol):
    """A browser that runs a page's scripts."""

    async def render(self, url: str) -> str:
        """The page's HTML once its scripts have run.

        Raises:
            CollectionError: no browser is installed (the message says how to get one), or the page did not load.
        """
        ...


# --- the data warehouse ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpsertCounts:
    """What a bulk write did, in documents."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: "UpsertCounts") -> "UpsertCounts":
        return UpsertCounts(
            self.created + other.created, self.updated + other.updated, self.unchanged + other.unchanged
        )


class UserStore(Protocol):
    def get_or_create(self, full_name: str) -> User:
        """The user of that name (spacing and case do not matter). Safe when many do it at once."""
        ...

    def find(self, full_name: str) -> User | None:
        """Never creates."""
        ...

    def all(self) -> Iterator[User]: ...


class DocumentStore(Protocol):
    """Raw documents as collected. Reads stream in batches; writes are bulk upserts by id."""

    def upsert(self, documents: Sequence[RawDocument]) -> UpsertCounts:
        """Write documents; equal content hashes are left untouched and counted as unchanged. One round trip to learn the
        stored hashes and one to write."""
        ...

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[RawDocument]:
        """All matching documents, ordered by id, never more than a batch in memory."""
        ...

    def hashes(self) -> Iterator[tuple[str, str]]:
        """(document id, content hash) of every document, ordered by id."""
        ...

    def get(self, ids: Sequence[str]) -> list[RawDocument]:
        """The documents that exist among ``ids``, in one round trip, ordered by id."""
        ...

    def known(self, origin: str) -> dict[str, Known]:
        """What is stored from an origin, by document link."""
        ...

    def delete(self, ids: Sequence[str]) -> int: ...

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of documents by (category, author)."""
        ...


class CleanStore(Protocol):
    """Cleaned documents: what features and training data are made from."""

    def upsert(self, documents: Sequence[CleanDocument]) -> None: ...

    def source_hashes(self) -> Iterator[tuple[str, str]]:
        """(document id, source hash), ordered by id."""
        ...

    def versions(self) -> Iterator[tuple[str, str]]:
        """(document id, content hash), ordered by id."""
        ...

    def signatures(self) -> Iterator[tuple[str, bytes, str | None]]:
        """(document id, MinHash signature, duplicate group), ordered by id."""
        ...

    def set_groups(self, groups: Mapping[str, str | None]) -> None:
        """Set the duplicate group of documents (and with it their content hash), in bulk."""
        ...

    def get(self, ids: Sequence[str]) -> list[CleanDocument]:
        """The documents that exist among ``ids``, in one round trip, ordered by id."""
        ...

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[CleanDocument]: ...

    def delete(self, ids: Sequence[str]) -> int: ...


class DeadLetterStore(Protocol):
    def put(self, letters: Sequence[DeadLetter]) -> None: ...

    def resolve(self, stage: str, sources: Sequence[str]) -> int:
        """Forget the letters of sources that have since succeeded. Returns how many there were."""
        ...

    def stream(self, stage: str | None = None) -> Iterator[DeadLetter]: ...

    def count(self) -> int: ...


class EmbeddingCache(Protocol):
    """Embeddings by (fingerprint digest, text hash), so that no text is embedded twice."""

    def get_many(self, fingerprint: str, text_hashes: Sequence[str]) -> dict[str, Vectors]:
        """Vectors of shape (dimension,) for those that are cached, in one round trip."""
        ...

    def put_many(self, fingerprint: str, vectors: Mapping[str, Vectors]) -> None: ...


# --- features and retrieval ------------------------------------------------------------------------------------------


class Tokenizer(Protocol):
    """The embedder's own tokenizer. Counts leave out special tokens; ``special_tokens`` says how many are added."""

    special_tokens: int

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text the (start, end) characters of each token, in order."""
        ...

    def counts(self, texts: Sequence[str]) -> list[int]: ...


class Embedder(Protocol):
    @property
    def fingerprint(self) -> EmbedderFingerprint: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts in the order given. Batches by length itself; any number of texts may be handed in.

        Raises:
            ModelError: nothing is embedded silently cut: a text above ``max_tokens`` is refused.
        """
        ...

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As above with the model's query prefix where it has one; a query that is too long is cut."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SearchRequest:
    text: str
    vector: Vectors | None
    """Shape (dimension,). None only for ``SearchMode.SPARSE``."""
    filter: MetadataFilter = MetadataFilter()
    k: int = 10
    mode: SearchMode = SearchMode.HYBRID
    fusion: Fusion = RrfFusion()
    titles: bool = True
    """A hybrid search looks among the title vectors too, where the index holds any."""


class IndexWriter(Protocol):
    def upsert(self, chunks: Sequence[EmbeddedChunk]) -> None:
        """Write chunks, by id. A document's chunk 0 must come last: it certifies that the others are there."""
        ...

    def delete(self, document_ids: Sequence[str], *, keep_versions: Mapping[str, str] | None = None) -> None:
        """Delete all chunks of documents; with ``keep_versions`` (document id → version) only those of other versions."""
        ...


class VectorIndex(Protocol):
    """Chunks with dense vectors, BM25 word vectors and filterable metadata.

    Raises:
        FingerprintMismatchError: from ``search`` and ``writer``, when the index was written by another embedder.
        StoreUnavailableError: the server, or the index, is not there.
    """

    def versions(self) -> Iterator[tuple[str, str]]:
        """(document id, version) of every chunk 0. A document may appear twice after an interrupted run."""
        ...

    def writer(
        self, fingerprint: EmbedderFingerprint, *, titles: bool = False
    ) -> AbstractContextManager[IndexWriter]:
        """Open for writing. Another fingerprint than the stored one, or another choice of ``titles`` (a second vector for
        each chunk, of its title and headings), starts from nothing. What was written becomes visible to readers when the
        block ends without an error (an embedded index), or batch by batch (a server)."""
        ...

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        """Best hits of each request, best first, in one batched call. Hybrid hits carry ``dense_score`` where known."""
        ...

    def passages(self, parent_ids: Sequence[str]) -> dict[str, list[Chunk]]:
        """All chunks of the given parents, by position, in one call."""
        ...

    def values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        """Distinct values of a filterable field with the number of chunks of each."""
        ...

    def count(self, filter: MetadataFilter = MetadataFilter()) -> int: ...

    def close(self) -> None: ...


# --- language models -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = 0
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    """When given, the reply is JSON that satisfies this schema."""
    timeout_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply. The last one has a finish reason and, where the service tells it, the usage."""

    text: str = ""
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None


class LanguageModel(Protocol):
    """Generates text. Leaving the stream early (closing the iterator) ends the generation.

    Raises:
        ModelServiceError: the service failed after the configured retries, timed out or answered nonsense.
    """

    @property
    def name(self) -> str: ...

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and reply may have together."""
        ...

    def stream(
        self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
    ) -> AsyncIterator[Delta]: ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Exact where the tokenizer is at hand, else an upper estimate."""
        ...

    async def close(self) -> None: ...


# --- the service ------------------------------------------------------------------------------------------------------


class Reranker(Protocol):
    """Scores how well texts answer a query, more exactly and more slowly than a search does.

    Raises:
        ModelError: the model failed.
    """

    @property
    def name(self) -> str: ...

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """A score for each text in the order given; higher is better, comparable within one call. Blocking."""
        ...

    def close(self) -> None: ...


class FeedbackStore(Protocol):
    """Answers that were given, and what people said of them."""

    def remember(self, interaction: Interaction) -> None:
        """Keep an answer, by trace id, so that a vote on it can become training data. Kept for a limited time."""
        ...

    def recall(self, trace_id: str) -> Interaction | None: ...

    def vote(self, feedback: Feedback) -> None:
        """Keep a vote; a second one on the same trace replaces the first.

        Raises:
            InvalidInputError: no answer with that trace id is remembered.
        """
        ...

    def votes(self, *, batch_size: int = 256) -> Iterator[tuple[Interaction, Feedback]]:
        """Every vote with its answer, oldest first. An answer that was voted on is kept for good."""
        ...

    def restore(self, voted: Sequence[tuple[Interaction, Feedback]]) -> None:
        """Write votes with their answers, as ``votes`` gave them; what is stored under their trace ids is replaced."""
        ...


class Tracer(Protocol):
    """Keeps finished traces somewhere. It never raises and never blocks: a request must not depend on it."""

    def record(self, trace: Trace) -> None:
        """Hand over a finished trace, to be written in the background."""
        ...

    def close(self) -> None:
        """Write what is waiting, within a few seconds."""
        ...


class NullTracer:
    """Keeps nothing; the default."""

    def record(self, trace: Trace) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing to write."""


# --- data sets and training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Generation:
    """A language model's reply, as kept so that it is never paid for twice."""

    text: str
    usage: Usage | None = None


class GenerationCache(Protocol):
    """Replies by key. The key is derived from prompt, prompt hash, model, options and seed."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Generation]:
        """The replies that are there, in one round trip."""
        ...

    def put_many(self, generations: Mapping[str, Generation]) -> None: ...


class ExperimentTracker(Protocol):
    """Shows a training run while it goes on. Its failure never stops the training."""

    def start(self, name: str, parameters: Mapping[str, Any]) -> None: ...

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def finish(
        self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]
    ) -> None: ...


class ModelRegistry(Protocol):
    """Versions of trained models and the decisions on them.

    Raises:
        InvalidInputError: there is no such model or version; the message names those that exist.
        StoreError: somebody else has held the registry for too long.
    """

    def exclusive(self) -> AbstractContextManager[None]:
        """Nobody else changes a stage during the block, so that what was read in it still holds when it is acted on."""
        ...

    def register(self, manifest: ModelManifest, location: str) -> ModelVersion:
        """Add a version. Registering the same files again returns the version that is there."""
        ...

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Newest first."""
        ...

    def get(self, name: str, version: int | Stage | None = None) -> ModelVersion:
        """A version by number or by stage; None: the newest."""
        ...

    def set_stage(self, name: str, number: int, stage: Stage) -> ModelVersion:
        """Move a version. Whatever was in that stage (staging, production) before is archived in the same act.

        Raises:
            InvalidInputError: ``stage`` is ``NONE``: a version leaves a stage by being archived.
        """
        ...

    def annotate(self, name: str, number: int, metadata: Mapping[str, object]) -> ModelVersion:
        """Add to a version's metadata; a key that is there gets the new value."""
        ...

    def record(self, name: str, number: int, decision: PromotionDecision) -> None:
        """Keep a decision. One that is there already (equal ``id``) is not kept twice."""
        ...

    def decisions(self, name: str, number: int | None = None) -> list[PromotionDecision]:
        """Newest first."""
        ...


# --- seeing what happens ---------------------------------------------------------------------------------------------


class Progress(Protocol):
    """Shows how far a long task is: a bar on a terminal, a line now and then in a log."""

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        """Add to the named bar, creating it on first use."""
        ...


class SilentProgress:
    """Shows nothing; the default where nobody watches."""

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        """Nothing to show."""

"""Features and retrieval: embeddings, the index of chunks, reranking."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llm_engineering.domain.documents import (
    Chunk,
    EmbeddedChunk,
    EmbedderFingerprint,
    Span,
)
from llm_engineering.domain.facets import FacetKind
from llm_engineering.domain.retrieval import Fusion, Hit, MetadataFilter, RrfFusion, SearchMode, Usage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]
else:  # whoever only hands a question on need not wait for numpy
    Vectors = Any
"""Embeddings, shape (n, dimension), each row of unit length."""


class Tokenizer(Protocol):
    """The embedder's own tokenizer. Counts leave out special tokens; ``special_tokens`` says how many are added."""

    special_tokens: int

    def find_offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text the (start, end) characters of each token, in order."""
        ...

    def counts(self, texts: Sequence[str]) -> list[int]: ...


class Embedder(Protocol):
    @property
    def fingerprint(self) -> EmbedderFingerprint: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return embeddings of texts in the order given. Batches by length itself; any number of texts may be handed
        in.

        Raises:
            ModelError: nothing is embedded silently cut: a text above ``max_tokens`` is refused.
        """
        ...

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As above with the model's query prefix where it has one; a query that is too long is cut."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Metered(Protocol):
    """Counts what it is asked for, as a service does that wants to be paid."""

    @property
    def usage(self) -> Usage:
        """Return what was used since it was opened."""
        ...


class EmbeddingCache(Protocol):
    """Embeddings by (fingerprint digest, text hash), so that no text is embedded twice."""

    def get_many(self, fingerprint: str, text_hashes: Sequence[str]) -> dict[str, Vectors]:
        """Return vectors of shape (dimension,) for those that are cached, in one round trip."""
        ...

    def put_many(self, fingerprint: str, vectors: Mapping[str, Vectors]) -> None: ...


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


MAX_KNOWN_VALUES = 10_000
"""Values of a facet that are known by name; of one with more, an index knows the most frequent."""


@dataclass(frozen=True, slots=True)
class FacetValues:
    """What the records of an index hold in one facet."""

    kind: FacetKind
    counts: Mapping[str, int] = field(default_factory=dict)
    """Records of each value, the most first; empty for numbers with decimals and points in time."""
    complete: bool = True
    """There are no more values than those in ``counts``."""
    least: int | float | str | None = None
    greatest: int | float | str | None = None
    """Ends of the range, for values that have an order."""

    @property
    def empty(self) -> bool:
        """Return whether no record has the facet."""
        return not self.counts and self.least is None


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

    def list_versions(self) -> Iterator[tuple[str, str]]:
        """Yield (document id, version) of every chunk 0. A document may appear twice after an interrupted run."""
        ...

    def writer(
        self, fingerprint: EmbedderFingerprint, *, titles: bool = False
    ) -> AbstractContextManager[IndexWriter]:
        """Open for writing. Another fingerprint than the stored one, or another choice of ``titles`` (a second vector for
        each chunk, of its title and headings), starts from nothing. What was written becomes visible to readers when the
        block ends without an error (an embedded index), or batch by batch (a server)."""
        ...

    def read_state(self) -> str:
        """Return a text that is another one after whatever was written: by it, what was found before is told to be stale."""
        ...

    def erase(self, document_ids: Sequence[str]) -> None:
        """Delete all chunks of documents, whatever embedder wrote them. Nothing to do where there is no index."""
        ...

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        """Return best hits of each request, best first, in one batched call. Hybrid hits carry ``dense_score`` where
        known."""
        ...

    def read_passages(self, parent_ids: Sequence[str]) -> dict[str, list[Chunk]]:
        """Return all chunks of the given parents, by position, in one call."""
        ...

    def count_values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        """Return distinct values of a filterable field with the number of chunks of each."""
        ...

    def read_facet(self, name: str, filter: MetadataFilter = MetadataFilter()) -> FacetValues:
        """Return the values of a facet among the records that the filter accepts, counted by record, not by chunk.

        Raises:
            ValueError: there is no such facet.
        """
        ...

    def count(self, filter: MetadataFilter = MetadataFilter()) -> int: ...

    def close(self) -> None: ...


Part = tuple[int, tuple[Span, ...]]
"""A part of a text: the place of the text among those handed in, and which of its characters belong to it."""


def extract_part(texts: Sequence[str], part: Part) -> str:
    """Return the words of a part, those of each span on lines of their own."""
    place, spans = part
    return "\n".join(texts[place][span.start : span.end] for span in spans)


class Reranker(Protocol):
    """Scores how well texts answer a query, more exactly and more slowly than a search does.

    Raises:
        ModelError: the model failed.
    """

    @property
    def name(self) -> str: ...

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return a score for each text in the order given; higher is better, comparable within one call. Blocking."""
        ...

    def rerank_parts(self, query: str, texts: Sequence[str], parts: Sequence[Part]) -> list[float]:
        """Return a score for each part in the order given, as for whole texts. Blocking."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """The words of a text as a model sees them in their context; tokens without a letter or digit are left out."""

    ids: "npt.NDArray[np.int64]"
    """Shape (tokens,)."""
    vectors: "npt.NDArray[np.floating]"
    """Shape (tokens, dimension), each row of unit length."""
    starts: "npt.NDArray[np.int64]"
    """Shape (tokens,): the character of the text at which each begins."""

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.vectors.nbytes + self.starts.nbytes


class TokenEncoder(Protocol):
    """Gives a vector for each token of a text; embedders whose model runs in this process can."""

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """Return token vectors of each text, whatever its length. What comes for a text depends on nothing but the
        text.

        Raises:
            ModelError: the model failed.
        """
        ...

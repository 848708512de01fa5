"""A vector index in memory: exact where the real ones approximate, and short enough to be checked by reading."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np

from llm_engineering.application.inference.fusion import count_candidates, fuse, rank_scores
from llm_engineering.application.ports import MAX_KNOWN_VALUES, FacetValues, IndexWriter, SearchRequest
from llm_engineering.domain.categories import find_facet
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, EmbedderFingerprint
from llm_engineering.domain.errors import FingerprintMismatchError, InvalidInputError, StoreUnavailableError
from llm_engineering.domain.facets import FacetKind
from llm_engineering.domain.retrieval import Hit, MetadataFilter, SearchMode

K1, B = 1.2, 0.75


class FakeVectorIndex:
    """Holds chunks in a dict. Every search scores every chunk: cosine by NumPy, Okapi BM25 over ``\\w+`` words.

    Behaves like the embedded index: what a writer block wrote becomes visible when it ends without an error, a writer
    with another fingerprint starts from nothing, and searching before the first write raises StoreUnavailableError.
    ``commits`` counts the blocks that changed something; ``searches`` counts calls of ``search``.
    """

    def __init__(self) -> None:
        self.chunks: dict[str, EmbeddedChunk] = {}
        self.fingerprint: EmbedderFingerprint | None = None
        self.titles = False
        self.commits = 0
        self.searches = 0
        self.closed = False

    def list_versions(self) -> Iterator[tuple[str, str]]:
        firsts = [item.chunk for item in self.chunks.values() if item.chunk.position == 0]
        yield from sorted((chunk.document_id, chunk.document_version) for chunk in firsts)

    @contextmanager
    def writer(self, fingerprint: EmbedderFingerprint, *, titles: bool = False) -> Iterator[IndexWriter]:
        known = (None, False), (fingerprint, titles)
        before = self.chunks if (self.fingerprint, self.titles) in known else {}
        writer = FakeIndexWriter(dict(before), fingerprint.dimension, titles)
        yield writer
        if writer.chunks != self.chunks or (self.fingerprint, self.titles) != (fingerprint, titles):
            self.commits += 1
        self.chunks, self.fingerprint, self.titles = writer.chunks, fingerprint, titles

    def read_state(self) -> str:
        return str(self.commits)

    def erase(self, document_ids: Sequence[str]) -> None:
        if self.fingerprint is not None:
            with self.writer(self.fingerprint, titles=self.titles) as writer:
                writer.delete(document_ids)

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        self.searches += 1
        if self._stored() != fingerprint:
            raise FingerprintMismatchError(f"index: {self.fingerprint}; asked with: {fingerprint}")
        for request in requests:
            shape = None if request.vector is None else request.vector.shape
            if request.mode is not SearchMode.SPARSE and shape != (fingerprint.dimension,):
                raise InvalidInputError(
                    f"expected a vector of {fingerprint.dimension} numbers, got shape {shape}"
                )
        return [self._search(request) for request in requests]

    def read_passages(self, parent_ids: Sequence[str]) -> dict[str, list[Chunk]]:
        self._stored()
        found: dict[str, list[Chunk]] = {}
        for item in sorted(self.chunks.values(), key=lambda item: item.chunk.position):
            if item.chunk.parent_id in set(parent_ids):
                found.setdefault(item.chunk.parent_id, []).append(item.chunk)
        return found

    def count_values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        self._stored()
        return dict(Counter(value for item in self.chunks.values() if (value := getattr(item.chunk, field))))

    def read_facet(self, name: str, filter: MetadataFilter = MetadataFilter()) -> FacetValues:
        facet = find_facet(name)
        self._stored()
        firsts = [
            item.chunk
            for item in self.chunks.values()
            if item.chunk.position == 0 and filter.accepts(item.chunk)
        ]
        keys = [
            key for chunk in firsts if name in chunk.metadata for key in facet.list_keys(chunk.metadata[name])
        ]
        listed = facet.kind not in (FacetKind.FLOAT, FacetKind.DATETIME)
        counts = Counter(map(str, keys)) if listed else Counter[str]()
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return FacetValues(
            facet.kind,
            dict(ordered[:MAX_KNOWN_VALUES]),
            complete=len(ordered) <= MAX_KNOWN_VALUES,
            least=min(keys) if keys and facet.ordered else None,
            greatest=max(keys) if keys and facet.ordered else None,
        )

    def count(self, filter: MetadataFilter = MetadataFilter()) -> int:
        return sum(filter.accepts(item.chunk) for item in self.chunks.values())

    def close(self) -> None:
        self.closed = True

    def _stored(self) -> EmbedderFingerprint:
        if self.fingerprint is None:
            raise StoreUnavailableError(
                "There is no index yet. Build it with: poe run-feature-engineering-pipeline"
            )
        return self.fingerprint

    def _search(self, request: SearchRequest) -> list[Hit]:
        pool = [item for item in self.chunks.values() if request.filter.accepts(item.chunk)]
        wanted = count_candidates(request.k) if request.mode is SearchMode.HYBRID else request.k
        dense = (
            dict(rank_scores(self._cosines(pool, request))[:wanted])
            if request.mode is not SearchMode.SPARSE
            else {}
        )
        sparse = (
            dict(rank_scores(self._bm25(pool, request.text))[:wanted])
            if request.mode is not SearchMode.DENSE
            else {}
        )
        hybrid = request.mode is SearchMode.HYBRID
        titles = None
        if self.titles and request.titles:
            titles = dict(rank_scores(self._cosines(pool, request, titles=True))[:wanted])
        best = (
            fuse(dense, sparse, request.fusion, titles)[: request.k]
            if hybrid
            else rank_scores(dense or sparse)
        )
        cosines = self._cosines(pool, request) if request.mode is not SearchMode.SPARSE else {}
        return [Hit(chunk=self.chunks[i].chunk, score=score, dense_score=cosines.get(i)) for i, score in best]

    @staticmethod
    def _cosines(
        pool: Sequence[EmbeddedChunk], request: SearchRequest, *, titles: bool = False
    ) -> dict[str, float]:
        scores: dict[str, float] = {}
        for item in pool:
            stored = item.title_vector if titles else item.vector
            if stored is None or request.vector is None:
                continue
            vector = np.asarray(stored, dtype=np.float32)
            norm = float(np.linalg.norm(vector) * np.linalg.norm(request.vector))
            scores[item.chunk.id] = float(vector @ request.vector) / norm if norm else 0.0
        return scores

    def _bm25(self, pool: Sequence[EmbeddedChunk], question: str) -> dict[str, float]:
        everything = {i: Counter(_words(item.chunk.embedding_text)) for i, item in self.chunks.items()}
        average = sum(words.total() for words in everything.values()) / max(1, len(everything)) or 1.0
        scores: dict[str, float] = {}
        for word in set(_words(question)):
            holders = sum(word in words for words in everything.values())
            idf = math.log(1 + (len(everything) - holders + 0.5) / (holders + 0.5))
            for item in pool:
                words = everything[item.chunk.id]
                if frequency := words[word]:
                    scale = frequency + K1 * (1 - B + B * words.total() / average)
                    gain = idf * frequency * (K1 + 1) / scale
                    scores[item.chunk.id] = scores.get(item.chunk.id, 0.0) + gain
        return scores


class FakeIndexWriter:
    """Works on a copy; the index takes it over when the block ends. ``batches`` holds the size of every upsert."""

    def __init__(self, chunks: dict[str, EmbeddedChunk], dimension: int, titles: bool = False) -> None:
        self.chunks = chunks
        self.batches: list[int] = []
        self._dimension = dimension
        self._titles = titles

    def upsert(self, chunks: Sequence[EmbeddedChunk]) -> None:
        for item in chunks:
            if len(item.vector) != self._dimension:
                raise InvalidInputError(f"expected {self._dimension} dimensions, got {len(item.vector)}")
            if item.title_vector is not None and (
                not self._titles
                or len(item.title_vector) != self._dimension
                or not math.isfinite(sum(item.title_vector))
            ):
                raise InvalidInputError(f"a title vector of {len(item.title_vector)} dimensions")
        self.batches.append(len(chunks))
        self.chunks.update({item.chunk.id: item for item in chunks})

    def delete(self, document_ids: Sequence[str], *, keep_versions: Mapping[str, str] | None = None) -> None:
        doomed, keep = set(document_ids), keep_versions or {}
        for identifier, item in list(self.chunks.items()):
            document_id, version = item.chunk.document_id, item.chunk.document_version
            if document_id in doomed and keep.get(document_id) != version:
                del self.chunks[identifier]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())

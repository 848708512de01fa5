"""The embedded index's face: the port, over generations, readers and writers."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from loguru import logger

from llm_engineering.application.inference.fusion import count_candidates, fuse, rank_scores
from llm_engineering.application.ports import FacetValues, IndexWriter, SearchRequest
from llm_engineering.domain.categories import find_facet
from llm_engineering.domain.documents import Chunk, EmbedderFingerprint
from llm_engineering.domain.errors import StoreUnavailableError
from llm_engineering.domain.retrieval import Hit, MetadataFilter, SearchMode
from llm_engineering.infrastructure.index import Bm25Encoder
from llm_engineering.infrastructure.index.qdrant_edge.engine import (
    DENSE,
    SPARSE,
    TITLE,
    edge_filter,
    translate_errors,
)
from llm_engineering.infrastructure.index.qdrant_edge.generations import Generations
from llm_engineering.infrastructure.index.qdrant_edge.reading import OpenGeneration
from llm_engineering.infrastructure.index.qdrant_edge.writing import EdgeWriter
from llm_engineering.infrastructure.shared.index_payload import (
    BUILD,
    FORMAT,
    RECORD_FIELD,
    check_request,
    describe_index,
    to_chunk,
)

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard, QueryRequest

OVERSAMPLING = 2.0
"""Candidates that are scored again with full vectors, as a multiple of those wanted; makes int8 scores exact."""


class QdrantEdgeIndex:
    """A :class:`~llm_engineering.application.ports.VectorIndex` in ``path / collection``.

    Threads may share an instance; any number of processes may read while one writes.

    Args:
        path: folder of all embedded indexes.
        collection: name of this one.
        exact_up_to: chunks up to which dense search scans int8 vectors (exact after rescoring: 100,000 take 2 to 3 ms)
            rather than an HNSW graph, whose building costs more than everything else together.
    """

    def __init__(self, path: Path, collection: str = "twin", *, exact_up_to: int = 200_000) -> None:
        self._generations = Generations(path / collection)
        self._collection = collection
        self._exact_up_to = exact_up_to
        self._encoder = Bm25Encoder()
        self._lock = threading.Lock()
        self._opened: OpenGeneration | None = None

    def list_versions(self) -> Iterator[tuple[str, str]]:
        """Yield (document id, version) of every chunk 0, streamed; nothing where there is no index of this form yet."""
        from qdrant_edge import FieldCondition, MatchValue
        from qdrant_edge import Filter as EdgeFilter

        with self._reading() as opened:
            if opened is None or opened.format != FORMAT:
                return
            first = EdgeFilter(must=[FieldCondition("position", match=MatchValue(0))])
            for payload in opened.scroll(first, ["document_id", "document_version"]):
                yield payload["document_id"], payload["document_version"]

    @contextmanager
    def writer(self, fingerprint: EmbedderFingerprint, *, titles: bool = False) -> Iterator[IndexWriter]:
        """Write a new generation; it is published when the block ends without an error, and only if it differs.

        A fingerprint, or a choice of ``titles``, other than the stored one starts from an empty index.

        Raises:
            StoreError: another process is writing, the disk is full, or the engine failed. The old index stands.
        """
        with ExitStack() as held:
            with translate_errors("opening the index for writing"):
                held.enter_context(self._generations.lock_for_writing())
            opened = held.enter_context(self._reading())
            base = opened if opened is not None and opened.continues(fingerprint, titles) else None
            if opened is not None and base is None:
                logger.warning(
                    "The index '{}' was written by {}; it is rebuilt from nothing for {}.",
                    self._collection,
                    opened.described,
                    describe_index(fingerprint, titles),
                )
            writer = EdgeWriter(
                self._generations, base, fingerprint, self._encoder, self._exact_up_to, titles
            )
            try:
                yield writer
                writer.publish()
            finally:
                writer.discard()

    def read_state(self) -> str:
        """Return what tells the published generation from all others."""
        with translate_errors("reading which index is published"):
            return self._generations.read_state()

    def erase(self, document_ids: Sequence[str]) -> None:
        """Delete all chunks of documents, in a new generation.

        Raises:
            StoreError: another process is writing, the disk is full, or the engine failed. The old index stands.
        """
        with self._reading() as opened:
            if opened is None or opened.format != FORMAT:
                return
            written_by, titles = opened.fingerprint, opened.titles
        with self.writer(written_by, titles=titles) as writer:
            writer.delete(document_ids)

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        """Return best hits of each request, best first.

        Two calls of the engine whatever the number of requests: one ranks, one fetches. Lists are fused here rather
        than in the engine: it is as fast, ties break by id, and the cosine of every hit comes with it.

        Raises:
            StoreUnavailableError: there is no index yet.
            FingerprintMismatchError: the index holds vectors of another embedder.
            InvalidInputError: a vector is missing or has another dimension than the index.
        """
        for request in requests:
            check_request(request, fingerprint.dimension)
        with self._present() as opened:
            opened.require(fingerprint, self._collection)
            if not requests:
                return []
            with translate_errors("searching"):
                return self._search(opened.shard, requests, opened.titles)

    def read_passages(self, parent_ids: Sequence[str]) -> dict[str, list[Chunk]]:
        """Return all chunks of the given parents, by position."""
        from qdrant_edge import FieldCondition, MatchAny
        from qdrant_edge import Filter as EdgeFilter

        found: dict[str, list[Chunk]] = {}
        with self._present() as opened:
            if parent_ids:
                # The document's field has an index; the parent's, with as many values as documents, would cost as much again.
                documents = sorted({parent.rpartition(":")[0] for parent in parent_ids})
                wanted = EdgeFilter(
                    must=[
                        FieldCondition("document_id", match=MatchAny(documents)),
                        FieldCondition("parent_id", match=MatchAny(list(parent_ids))),
                    ]
                )
                for payload in opened.scroll(wanted, [RECORD_FIELD]):
                    chunk = to_chunk(payload)
                    found.setdefault(chunk.parent_id, []).append(chunk)
        return {parent: sorted(chunks, key=lambda chunk: chunk.position) for parent, chunks in found.items()}

    def count_values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        """Return distinct values of a field with the number of chunks of each."""
        with self._present() as opened:
            return opened.count_values(field)

    def read_facet(self, name: str, filter: MetadataFilter = MetadataFilter()) -> FacetValues:
        """Return the values of a facet, by record."""
        from qdrant_edge import FieldCondition, MatchValue
        from qdrant_edge import Filter as EdgeFilter

        facet = find_facet(name)
        first = FieldCondition("position", match=MatchValue(0))
        wanted = edge_filter(filter)
        with self._present() as opened:
            return opened.read_facet(facet, EdgeFilter(must=[first, wanted] if wanted else [first]))

    def count(self, filter: MetadataFilter = MetadataFilter()) -> int:
        """Return number of chunks that the filter accepts; 0 where there is no index yet."""
        with self._reading() as opened:
            return 0 if opened is None else opened.count(edge_filter(filter))

    def close(self) -> None:
        """Release the open generation. Safe to call twice; a later call opens it again."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.retire()

    @contextmanager
    def _present(self) -> Iterator["OpenGeneration"]:
        with self._reading() as opened:
            if opened is None:
                raise StoreUnavailableError(f"There is no index in {self._generations.root} yet. {BUILD}")
            if opened.format != FORMAT:
                raise StoreUnavailableError(
                    f"The index in {self._generations.root} has form {opened.format}, expected {FORMAT}. {BUILD}"
                )
            yield opened

    @contextmanager
    def _reading(self) -> Iterator["OpenGeneration | None"]:
        with self._lock:
            opened = self._newest()
            if opened is not None:
                opened.users += 1
        try:
            yield opened
        finally:
            if opened is not None:
                with self._lock:
                    opened.leave()

    def _newest(self) -> "OpenGeneration | None":
        if self._opened is not None and self._opened.lease.number == self._generations.current():
            return self._opened
        lease = self._generations.lease()
        previous, self._opened = self._opened, None if lease is None else OpenGeneration(lease)
        if previous is not None:
            previous.retire()
            self._generations.sweep()
        return self._opened

    def _search(self, shard: "EdgeShard", requests: Sequence[SearchRequest], titles: bool) -> list[list[Hit]]:
        from qdrant_edge import QueryBatchRequest

        queries: list[QueryRequest] = []
        plans: list[dict[str, int]] = []
        for request in requests:
            plan: dict[str, int] = {}
            for name, query in self._queries(request, titles):
                plan[name] = len(queries)
                queries.append(query)
            plans.append(plan)
        answers = [
            {str(p.id): p.score for p in points} for points in shard.query_batch(QueryBatchRequest(queries))
        ]
        best: list[tuple[list[tuple[str, float]], dict[str, float]]] = []
        for request, plan in zip(requests, plans, strict=True):
            dense = answers[plan[DENSE]] if DENSE in plan else {}
            sparse = answers[plan[SPARSE]] if SPARSE in plan else {}
            named = answers[plan[TITLE]] if TITLE in plan else None
            both = request.mode is SearchMode.HYBRID
            merged = fuse(dense, sparse, request.fusion, named) if both else rank_scores(dense or sparse)
            best.append((merged[: request.k], dense))
        return _fetch(shard, requests, best)

    def _queries(self, request: SearchRequest, titles: bool) -> Iterator[tuple[str, "QueryRequest"]]:
        from qdrant_edge import QuantizationSearchParams, Query, QueryRequest, SearchParams

        limit = count_candidates(request.k) if request.mode is SearchMode.HYBRID else request.k
        accepted = edge_filter(request.filter)
        if request.mode is not SearchMode.SPARSE and request.vector is not None:
            rescored = SearchParams(
                quantization=QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
            )
            both = titles and request.titles and request.mode is SearchMode.HYBRID
            for name in (DENSE, TITLE) if both else (DENSE,):
                nearest = Query.Nearest(request.vector.tolist(), using=name)
                yield (
                    name,
                    QueryRequest(limit, query=nearest, filter=accepted, params=rescored, with_payload=False),
                )
        if request.mode is not SearchMode.DENSE:
            words = Query.Nearest(self._encoder.query(request.text), using=SPARSE)
            yield SPARSE, QueryRequest(limit, query=words, filter=accepted, with_payload=False)


def _fetch(
    shard: "EdgeShard",
    requests: Sequence[SearchRequest],
    best: Sequence[tuple[list[tuple[str, float]], dict[str, float]]],
) -> list[list[Hit]]:
    """Chunks of the ranked ids, each read once; the cosine of hits that only words or titles found is worked out here."""
    wanted = {i for merged, _ in best for i, _ in merged}
    unscored = {
        identifier
        for request, (merged, dense) in zip(requests, best, strict=True)
        if request.mode is SearchMode.HYBRID
        for identifier, _ in merged
        if identifier not in dense
    }
    chunks: dict[str, Chunk] = {}
    vectors: dict[str, Any] = {}
    for identifiers, with_vector in ((wanted - unscored, False), (unscored, [DENSE])):
        if identifiers:
            for record in shard.retrieve(
                sorted(identifiers), with_payload=[RECORD_FIELD], with_vector=with_vector
            ):
                chunks[str(record.id)] = to_chunk(record.payload)
                if isinstance(record.vector, dict):
                    vectors[str(record.id)] = record.vector[DENSE]
    hits = []
    for request, (merged, dense) in zip(requests, best, strict=True):
        hits.append(
            [
                Hit(chunk=chunks[i], score=score, dense_score=_cosine(request, i, dense, vectors))
                for i, score in merged
            ]
        )
    return hits


def _cosine(
    request: SearchRequest, identifier: str, dense: Mapping[str, float], vectors: Mapping[str, Any]
) -> float | None:
    if request.mode is SearchMode.SPARSE or request.vector is None:
        return None
    if identifier in dense:
        return dense[identifier]
    # The engine stores vectors scaled to unit length.
    norm = float(np.linalg.norm(request.vector))
    return (
        float(np.dot(np.asarray(vectors[identifier], dtype=np.float32), request.vector)) / norm
        if norm
        else 0.0
    )

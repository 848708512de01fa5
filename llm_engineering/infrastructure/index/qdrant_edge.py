"""The vector index inside this process: Qdrant's engine over a folder, in generations that switch atomically.

A writer copies the published generation, changes the copy and publishes it with one rename, so readers in any process
go on with what they hold, and see the new one at their next search. The engine's write-ahead log is off: a draft that
was not published is thrown away whole, and without the log's lock several processes can open one generation.
"""

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from loguru import logger

from llm_engineering.application.fusion import candidates, fuse, ranked
from llm_engineering.application.index_payload import (
    DATETIME_FIELDS,
    FORMAT,
    INTEGER_FIELDS,
    KEYWORD_FIELDS,
    alternatives,
    published_between,
    to_chunk,
    to_payload,
)
from llm_engineering.application.ports import IndexWriter, SearchRequest
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, EmbedderFingerprint
from llm_engineering.domain.errors import (
    FingerprintMismatchError,
    InvalidInputError,
    StoreError,
    StoreUnavailableError,
)
from llm_engineering.domain.retrieval import Hit, MetadataFilter, SearchMode
from llm_engineering.infrastructure.bm25 import Bm25Encoder
from llm_engineering.infrastructure.generations import Generations, Lease, copy_tree, stored_bytes

if TYPE_CHECKING:
    from qdrant_edge import EdgeConfig, EdgeShard, Filter, Point, QueryRequest

DENSE, SPARSE = "dense", "bm25"
BUILD = "Build it with: poe run-feature-engineering-pipeline"
UPSERT_POINTS = 512
SCROLL_POINTS = 2_000
MAX_VALUES = 100_000
FREE_MARGIN_BYTES = 64 << 20
"""Room left on the disk: the engine writes through memory maps, and a full disk would kill the process there."""
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
        self._opened: _OpenGeneration | None = None

    def versions(self) -> Iterator[tuple[str, str]]:
        """(document id, version) of every chunk 0, streamed; nothing where there is no index of this form yet."""
        from qdrant_edge import FieldCondition, MatchValue
        from qdrant_edge import Filter as EdgeFilter

        with self._reading() as opened:
            if opened is None or opened.format != FORMAT:
                return
            first = EdgeFilter(must=[FieldCondition("position", match=MatchValue(0))])
            for payload in opened.scroll(first, ["document_id", "document_version"]):
                yield payload["document_id"], payload["document_version"]

    @contextmanager
    def writer(self, fingerprint: EmbedderFingerprint) -> Iterator[IndexWriter]:
        """Write a new generation; it is published when the block ends without an error, and only if it differs.

        A fingerprint other than the stored one starts from an empty index.

        Raises:
            StoreError: another process is writing, the disk is full, or the engine failed. The old index stands.
        """
        with ExitStack() as held:
            with _engine("opening the index for writing"):
                held.enter_context(self._generations.writing())
            opened = held.enter_context(self._reading())
            base = opened if opened is not None and opened.continues(fingerprint) else None
            if opened is not None and base is None:
                logger.warning(
                    "The index '{}' was written by {}; it is rebuilt from nothing for {}.",
                    self._collection,
                    opened.described,
                    _describe(fingerprint),
                )
            writer = _EdgeWriter(self._generations, base, fingerprint, self._encoder, self._exact_up_to)
            try:
                yield writer
                writer.publish()
            finally:
                writer.discard()

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        """Best hits of each request, best first.

        Two calls of the engine whatever the number of requests: one ranks, one fetches. Lists are fused here rather
        than in the engine: it is as fast, ties break by id, and the cosine of every hit comes with it.

        Raises:
            StoreUnavailableError: there is no index yet.
            FingerprintMismatchError: the index holds vectors of another embedder.
            InvalidInputError: a vector is missing or has another dimension than the index.
        """
        for request in requests:
            _check_vector(request, fingerprint.dimension)
        with self._present() as opened:
            opened.require(fingerprint, self._collection)
            if not requests:
                return []
            with _engine("searching"):
                return self._search(opened.shard, requests)

    def passages(self, parent_ids: Sequence[str]) -> dict[str, list[Chunk]]:
        """All chunks of the given parents, by position."""
        from qdrant_edge import FieldCondition, MatchAny
        from qdrant_edge import Filter as EdgeFilter

        found: dict[str, list[Chunk]] = {}
        with self._present() as opened:
            if parent_ids:
                wanted = EdgeFilter(must=[FieldCondition("parent_id", match=MatchAny(list(parent_ids)))])
                for payload in opened.scroll(wanted, True):
                    chunk = to_chunk(payload)
                    found.setdefault(chunk.parent_id, []).append(chunk)
        return {parent: sorted(chunks, key=lambda chunk: chunk.position) for parent, chunks in found.items()}

    def values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        """Distinct values of a field with the number of chunks of each."""
        from qdrant_edge import FacetRequest

        with self._present() as opened, _engine("counting values"):
            hits = opened.shard.facet(FacetRequest(field, limit=MAX_VALUES, exact=True)).hits
            return {str(hit.value): hit.count for hit in hits}

    def count(self, filter: MetadataFilter = MetadataFilter()) -> int:
        """Number of chunks that the filter accepts; 0 where there is no index yet."""
        with self._reading() as opened:
            return 0 if opened is None else opened.count(_filter(filter))

    def close(self) -> None:
        """Release the open generation. Safe to call twice; a later call opens it again."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.retire()

    @contextmanager
    def _present(self) -> Iterator["_OpenGeneration"]:
        with self._reading() as opened:
            if opened is None:
                raise StoreUnavailableError(f"There is no index in {self._generations.root} yet. {BUILD}")
            if opened.format != FORMAT:
                raise StoreUnavailableError(
                    f"The index in {self._generations.root} has form {opened.format}, expected {FORMAT}. {BUILD}"
                )
            yield opened

    @contextmanager
    def _reading(self) -> Iterator["_OpenGeneration | None"]:
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

    def _newest(self) -> "_OpenGeneration | None":
        if self._opened is not None and self._opened.lease.number == self._generations.current():
            return self._opened
        lease = self._generations.lease()
        previous, self._opened = self._opened, None if lease is None else _OpenGeneration(lease)
        if previous is not None:
            previous.retire()
            self._generations.sweep()
        return self._opened

    def _search(self, shard: "EdgeShard", requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        from qdrant_edge import QueryBatchRequest

        queries: list[QueryRequest] = []
        plans: list[dict[str, int]] = []
        for request in requests:
            plan: dict[str, int] = {}
            for name, query in self._queries(request):
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
            both = request.mode is SearchMode.HYBRID
            merged = fuse(dense, sparse, request.fusion) if both else ranked(dense or sparse)
            best.append((merged[: request.k], dense))
        return _fetch(shard, requests, best)

    def _queries(self, request: SearchRequest) -> Iterator[tuple[str, "QueryRequest"]]:
        from qdrant_edge import QuantizationSearchParams, Query, QueryRequest, SearchParams

        limit = candidates(request.k) if request.mode is SearchMode.HYBRID else request.k
        accepted = _filter(request.filter)
        if request.mode is not SearchMode.SPARSE and request.vector is not None:
            rescored = SearchParams(
                quantization=QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
            )
            nearest = Query.Nearest(request.vector.tolist(), using=DENSE)
            yield (
                DENSE,
                QueryRequest(limit, query=nearest, filter=accepted, params=rescored, with_payload=False),
            )
        if request.mode is not SearchMode.DENSE:
            words = Query.Nearest(self._encoder.query(request.text), using=SPARSE)
            yield SPARSE, QueryRequest(limit, query=words, filter=accepted, with_payload=False)


class _OpenGeneration:
    """A generation loaded for reading. ``users`` is guarded by the index's lock."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.users = 0
        self._retired = False
        try:
            manifest = lease.manifest
            self.format: int = manifest["format"]
            self.fingerprint = EmbedderFingerprint.model_validate(manifest["fingerprint"])
            with lease.undisturbed():
                self.shard = _load(lease.data)
        except BaseException:
            lease.release()
            raise

    @property
    def described(self) -> str:
        return _describe(self.fingerprint)

    def continues(self, fingerprint: EmbedderFingerprint) -> bool:
        return self.format == FORMAT and self.fingerprint == fingerprint

    def require(self, fingerprint: EmbedderFingerprint, collection: str) -> None:
        if self.fingerprint != fingerprint:
            raise FingerprintMismatchError(
                f"The index '{collection}' was written by {self.described}; the embedder now configured is "
                f"{_describe(fingerprint)}. Their vectors cannot be compared. Set the old embedder back, or rebuild "
                "the index for the new one: poe run-feature-engineering-pipeline"
            )

    def count(self, accepted: "Filter | None") -> int:
        from qdrant_edge import CountRequest

        with _engine("counting"):
            return self.shard.count(CountRequest(filter=accepted, exact=True))

    def scroll(self, accepted: "Filter", fields: bool | list[str]) -> Iterator[dict[str, Any]]:
        from qdrant_edge import ScrollRequest

        offset: Any = None
        while True:
            request = ScrollRequest(offset=offset, limit=SCROLL_POINTS, filter=accepted, with_payload=fields)
            with _engine("reading"):
                records, offset = self.shard.scroll(request)
            for record in records:
                yield record.payload or {}
            if offset is None:
                return

    def leave(self) -> None:
        self.users -= 1
        self._close_unused()

    def retire(self) -> None:
        """Close as soon as nobody searches in it any more."""
        self._retired = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._retired and self.users == 0:
            with self.lease.undisturbed(), _engine("closing"):
                self.shard.close()
            self.lease.release()


class _EdgeWriter:
    """Changes a draft that is made at the first change; a block that changes nothing costs nothing."""

    def __init__(
        self,
        generations: Generations,
        base: _OpenGeneration | None,
        fingerprint: EmbedderFingerprint,
        encoder: Bm25Encoder,
        exact_up_to: int,
    ) -> None:
        self._generations = generations
        self._base = base
        self._fingerprint = fingerprint
        self._encoder = encoder
        self._exact_up_to = exact_up_to
        self._draft: Path | None = None
        self._shard: EdgeShard | None = None

    def upsert(self, chunks: Sequence[EmbeddedChunk]) -> None:
        """Write chunks by id, any number at a time."""
        from qdrant_edge import UpdateOperation

        for start in range(0, len(chunks), UPSERT_POINTS):
            points = [self._point(item) for item in chunks[start : start + UPSERT_POINTS]]
            shard = self._open()
            self._require_space(FREE_MARGIN_BYTES)
            with _engine("writing chunks"):
                shard.update(UpdateOperation.upsert_points(points))

    def delete(self, document_ids: Sequence[str], *, keep_versions: Mapping[str, str] | None = None) -> None:
        """Delete the chunks of documents; with ``keep_versions`` only those of other versions."""
        from qdrant_edge import CountRequest, UpdateOperation

        keep = keep_versions or {}
        whole = [identifier for identifier in document_ids if identifier not in keep]
        stale = [
            _of_documents([identifier], keep[identifier]) for identifier in document_ids if identifier in keep
        ]
        for doomed in [_of_documents(whole)] * bool(whole) + _any_of(stale):
            if self._shard is None and (self._base is None or self._base.count(doomed) == 0):
                continue
            shard = self._open()
            with _engine("deleting chunks"):
                if shard.count(CountRequest(filter=doomed, exact=True)):
                    shard.update(UpdateOperation.delete_points_by_filter(doomed))

    def publish(self) -> None:
        """Optimise the draft, put it on the disk and switch to it. Does nothing where nothing was changed."""
        from qdrant_edge import CountRequest

        if self._base is not None and self._draft is None:
            return
        shard = self._open()
        self._require_space(stored_bytes(self._drafted) + FREE_MARGIN_BYTES)
        with _engine("optimising the index"):
            count = shard.count(CountRequest(exact=True))
            graph = count > self._exact_up_to
            if graph:
                shard.close()
                self._shard = shard = _load(
                    self._drafted / "data", _config(self._fingerprint.dimension, graph=True)
                )
            shard.flush()
            shard.optimize()
            shard.flush()
            shard.close()
        self._shard = None
        manifest = {
            "format": FORMAT,
            "fingerprint": self._fingerprint.model_dump(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "chunks": count,
            "graph": graph,
        }
        with _engine("publishing the index"):
            number = self._generations.publish(self._drafted, manifest)
        self._draft = None
        logger.info("Published generation {} of the index: {:,} chunks.", number, count)

    def discard(self) -> None:
        """Drop a draft that was not published. Never raises for the engine: an error may be on its way already."""
        shard, self._shard = self._shard, None
        if self._draft is not None:
            del shard  # files go first; what the engine would still flush has no place to go
            self._generations.discard(self._draft)
            self._draft = None

    @property
    def _drafted(self) -> Path:
        if self._draft is None:
            raise StoreError("The index writer is used outside of its block. Open a new one with writer().")
        return self._draft

    def _open(self) -> "EdgeShard":
        if self._shard is None:
            with _engine("making a draft"):
                self._draft = self._generations.draft()
            self._shard = self._copied(self._base) if self._base is not None else self._created()
        return self._shard

    def _copied(self, base: _OpenGeneration) -> "EdgeShard":
        self._require_space(stored_bytes(base.lease.data) + FREE_MARGIN_BYTES)
        with _engine("copying the index"), base.lease.undisturbed():
            copy_tree(base.lease.data, self._drafted / "data")
        return _load(self._drafted / "data")

    def _created(self) -> "EdgeShard":
        from qdrant_edge import EdgeShard, PayloadSchemaType, UpdateOperation

        self._require_space(FREE_MARGIN_BYTES)
        kinds = dict.fromkeys(KEYWORD_FIELDS, PayloadSchemaType.Keyword)
        kinds |= dict.fromkeys(INTEGER_FIELDS, PayloadSchemaType.Integer)
        kinds |= dict.fromkeys(DATETIME_FIELDS, PayloadSchemaType.Datetime)
        with _engine("creating the index"):
            config = _config(self._fingerprint.dimension, graph=False)
            shard = EdgeShard.create(str(self._drafted / "data"), config)
            for field, kind in kinds.items():
                shard.update(UpdateOperation.create_field_index(field, kind))
        return shard

    def _point(self, item: EmbeddedChunk) -> "Point":
        from qdrant_edge import Point

        _check_embedding(item, self._fingerprint.dimension)
        words = self._encoder.document(item.chunk.embedding_text)
        vectors = {DENSE: item.vector, SPARSE: words}
        return Point(item.chunk.id, vectors, to_payload(item.chunk))  # type: ignore[arg-type]  # a tuple serves as a list

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._drafted).free
        if free < needed:
            raise StoreError(
                f"The disk of {self._generations.root} is almost full: {free >> 20:,} MB are free and "
                f"{needed >> 20:,} MB are needed to write the index. Free some space and run again; the index as it was is untouched."
            )


def _fetch(
    shard: "EdgeShard",
    requests: Sequence[SearchRequest],
    best: Sequence[tuple[list[tuple[str, float]], dict[str, float]]],
) -> list[list[Hit]]:
    """Chunks of the ranked ids, each read once; the cosine of hits that only the words found is worked out here."""
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
            for record in shard.retrieve(sorted(identifiers), with_payload=True, with_vector=with_vector):
                chunks[str(record.id)] = to_chunk(record.payload or {})
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


def _config(dimension: int, *, graph: bool) -> "EdgeConfig":
    from qdrant_edge import (
        Distance,
        EdgeConfig,
        EdgeSparseVectorParams,
        EdgeVectorParams,
        HnswIndexConfig,
        Modifier,
        ScalarQuantizationConfig,
        ScalarType,
    )

    # m = 0 builds no graph: vectors are scanned, filtered or not.
    hnsw = HnswIndexConfig(m=16 if graph else 0, ef_construct=100, full_scan_threshold=10_000)
    return EdgeConfig(
        vectors={
            DENSE: EdgeVectorParams(
                size=dimension,
                distance=Distance.Cosine,
                hnsw_config=hnsw,
                quantization_config=ScalarQuantizationConfig(
                    type=ScalarType.Int8, quantile=0.99, always_ram=True
                ),
            )
        },
        sparse_vectors={SPARSE: EdgeSparseVectorParams(modifier=Modifier.Idf)},
        hnsw_config=hnsw,
        wal_enabled=False,
    )


def _load(data: Path, config: "EdgeConfig | None" = None) -> "EdgeShard":
    from qdrant_edge import EdgeShard

    with _engine(f"opening {data}"):
        return EdgeShard.load(str(data), config)


def _filter(filter: MetadataFilter) -> "Filter | None":
    from qdrant_edge import FieldCondition, MatchAny, RangeDateTime
    from qdrant_edge import Filter as EdgeFilter

    conditions = [
        FieldCondition(field, match=MatchAny(list(values))) for field, values in alternatives(filter)
    ]
    if between := published_between(filter):
        conditions.append(FieldCondition("published_at", range=RangeDateTime(**between)))
    return EdgeFilter(must=list(conditions)) if conditions else None


def _of_documents(document_ids: Sequence[str], other_than: str | None = None) -> "Filter":
    from qdrant_edge import FieldCondition, MatchAny, MatchValue
    from qdrant_edge import Filter as EdgeFilter

    these = FieldCondition("document_id", match=MatchAny(list(document_ids)))
    if other_than is None:
        return EdgeFilter(must=[these])
    return EdgeFilter(
        must=[these], must_not=[FieldCondition("document_version", match=MatchValue(other_than))]
    )


def _any_of(filters: Sequence["Filter"]) -> list["Filter"]:
    from qdrant_edge import Filter as EdgeFilter

    return [EdgeFilter(should=list(filters))] if filters else []


def _check_vector(request: SearchRequest, dimension: int) -> None:
    if request.mode is SearchMode.SPARSE:
        return
    shape = None if request.vector is None else request.vector.shape
    if shape != (dimension,):
        raise InvalidInputError(
            f"A {request.mode} search needs a vector of shape ({dimension},); got {shape}."
        )


def _check_embedding(item: EmbeddedChunk, dimension: int) -> None:
    if len(item.vector) != dimension or not np.isfinite(sum(item.vector)):
        raise InvalidInputError(
            f"Chunk {item.chunk.id} of {item.chunk.link} has a vector of {len(item.vector)} numbers; expected "
            f"{dimension} finite ones, as the embedder's fingerprint says."
        )


def _describe(fingerprint: EmbedderFingerprint) -> str:
    return f"{fingerprint.model} ({fingerprint.dimension} dimensions, {fingerprint.digest})"


@contextmanager
def _engine(doing: str) -> Iterator[None]:
    """Turn failures of the engine and of the file system into StoreError."""
    try:
        yield
    except Exception as error:
        # The engine raises bare `Exception`; anything more specific is not its own.
        if not isinstance(error, OSError) and type(error) is not Exception:
            raise
        raise StoreError(
            f"The index failed in {doing}: {error}. What was published before is untouched. If this repeats, check the "
            "free space of the disk; the index can always be rebuilt with: poe run-feature-engineering-pipeline"
        ) from error

"""The vector index on a Qdrant server or in Qdrant Cloud, by its own client.

The collection's name is an alias. Behind it stands ``name-<digest>-<form>``, made for one embedder: a rebuild for
another one fills a collection of its own and switches the alias at the end, so readers never see half a rebuild.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
from loguru import logger

from llm_engineering.application.inference.fusion import count_candidates, fuse, rank_scores
from llm_engineering.application.ports import MAX_KNOWN_VALUES, FacetValues, IndexWriter, SearchRequest
from llm_engineering.domain.categories import FACETS, find_facet
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, EmbedderFingerprint
from llm_engineering.domain.errors import StoreError, StoreUnavailableError
from llm_engineering.domain.facets import FacetKind
from llm_engineering.domain.retrieval import Hit, MetadataFilter, RrfFusion, SearchMode
from llm_engineering.infrastructure.index import Bm25Encoder
from llm_engineering.infrastructure.shared.index_payload import (
    BUILD,
    DATETIME_FIELDS,
    FACET_FIELD,
    FORMAT,
    INTEGER_FIELDS,
    KEYWORD_FIELDS,
    RECORD_FIELD,
    check_embedding,
    check_fingerprint,
    check_request,
    date_range,
    describe_index,
    facet_key,
    list_alternatives,
    list_facet_conditions,
    summarise_facet,
    to_chunk,
    to_payload,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client import models as m

MEMORY = ":memory:"
"""In place of a URL: qdrant-client's own engine, in this process and gone with it. For tests."""
DENSE, SPARSE, TITLE = "dense", "bm25", "title"
BATCH_POINTS = 256
SCROLL_POINTS = 1_000
STRICT_FIELDS = ("parent_id", "document_version")
"""Indexed on a server as well: in Qdrant's strict mode, which Qdrant Cloud turns on, a filter on any other field is refused."""
MAX_VALUES = 100_000
CONNECT_SECONDS = 2.0
RETRY_PAUSES = (0.2, 0.8)
"""Seconds to wait before the second and the third try. Every request here may be repeated without harm."""
TRANSIENT = frozenset({429, 502, 503, 504})

Result = TypeVar("Result")


class QdrantServerIndex:
    """A :class:`~llm_engineering.application.ports.VectorIndex` on a server. Threads may share an instance.

    What a writer wrote is visible batch by batch. One writer at a time: the server has no lock to keep others out.

    Args:
        url: address of the server; without a port 6333 is taken (443 for https).
        api_key: sent with every request, shown nowhere.
        collection: name of the alias under which readers find the index.
        timeout_seconds: longest wait for one answer. A server that is down is noticed within about 3 s whatever this is.
    """

    def __init__(
        self, url: str, api_key: str | None, collection: str = "twin", timeout_seconds: float = 10.0
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._alias = collection
        self._timeout = timeout_seconds
        self._encoder = Bm25Encoder()
        self._lock = threading.Lock()
        self._client: QdrantClient | None = None

    def list_versions(self) -> Iterator[tuple[str, str]]:
        """Yield (document id, version) of every chunk 0, streamed; nothing where there is no index of this form yet."""
        stored = self._stored()
        if stored is None or stored.format != FORMAT:
            return

        from qdrant_client import models as m

        first = m.Filter(must=[m.FieldCondition(key="position", match=m.MatchValue(value=0))])
        for payload in self._scroll(first, ["document_id", "document_version"]):
            yield payload["document_id"], payload["document_version"]

    @contextmanager
    def writer(self, fingerprint: EmbedderFingerprint, *, titles: bool = False) -> Iterator[IndexWriter]:
        """Write into the index, visible batch by batch.

        A fingerprint, or a choice of ``titles``, other than the stored one starts from an empty collection,
        which readers see when the block ends without an error; until then, and after an error, they see the old one.

        Raises:
            StoreUnavailableError: the server cannot be reached.
            StoreError: the server refused.
        """
        stored = self._stored()
        if stored is not None and stored.continues(fingerprint, titles):
            writer = _ServerWriter(self, stored.collection, fingerprint.dimension, self._encoder, titles)
            try:
                yield writer
            finally:
                if writer.wrote:
                    self._mark_written(stored.collection)
            return
        if stored is not None:
            logger.warning(
                "The index '{}' was written by {}; it is rebuilt from nothing for {}.",
                self._alias,
                describe_index(stored.fingerprint, stored.titles),
                describe_index(fingerprint, titles),
            )
        fresh = self._create(fingerprint, titles)
        try:
            yield _ServerWriter(self, fresh, fingerprint.dimension, self._encoder, titles)
            self._switch(fresh, None if stored is None else stored.collection)
        except BaseException:
            self._drop_quietly(fresh)
            raise

    def read_state(self) -> str:
        """Return the collection behind the alias and the mark of its last writer.

        Raises:
            StoreUnavailableError: the server cannot be reached.
        """
        stored = self._stored()
        return "" if stored is None else f"{stored.collection}-{stored.mark}"

    def erase(self, document_ids: Sequence[str]) -> None:
        """Delete all chunks of documents.

        Raises:
            StoreUnavailableError: the server cannot be reached.
            StoreError: the server refused.
        """
        stored = self._stored()
        if stored is None or stored.format != FORMAT:
            return
        with self.writer(stored.fingerprint, titles=stored.titles) as writer:
            writer.delete(document_ids)

    def search(self, requests: Sequence[SearchRequest], fingerprint: EmbedderFingerprint) -> list[list[Hit]]:
        """Return best hits of each request, best first, in one request to the server.

        RRF is done by the server, from two prefetches, or three where the index holds titles; weighted fusion, which it
        does not have, here.

        Raises:
            StoreUnavailableError: the server, or the index on it, is not there.
            FingerprintMismatchError: the index holds vectors of another embedder.
            InvalidInputError: a vector is missing or has another dimension than the index.
        """
        for request in requests:
            check_request(request, fingerprint.dimension)
        stored = self._present()
        check_fingerprint(stored.fingerprint, fingerprint, self._alias)
        plans = [list(self._queries(request, stored.titles)) for request in requests]
        queries = [query for plan in plans for query in plan]
        if not queries:
            return []
        # The collection itself rather than its alias: its vectors are those whose fingerprint was checked.
        answers = iter(self.call(lambda client: client.query_batch_points(stored.collection, queries)))
        return [
            _hits(request, [next(answers).points for _ in plan])
            for request, plan in zip(requests, plans, strict=True)
        ]

    def read_passages(self, parent_ids: Sequence[str]) -> dict[str, list[Chunk]]:
        """Return all chunks of the given parents, by position."""
        self._present()

        from qdrant_client import models as m

        found: dict[str, list[Chunk]] = {}
        if parent_ids:
            wanted = m.Filter(
                must=[m.FieldCondition(key="parent_id", match=m.MatchAny(any=list(parent_ids)))]
            )
            for payload in self._scroll(wanted, [RECORD_FIELD]):
                chunk = to_chunk(payload)
                found.setdefault(chunk.parent_id, []).append(chunk)
        return {parent: sorted(chunks, key=lambda chunk: chunk.position) for parent, chunks in found.items()}

    def count_values(self, field: Literal["author", "category", "platform", "language"]) -> dict[str, int]:
        """Return distinct values of a field with the number of chunks of each."""
        self._present()
        response = self.call(lambda client: client.facet(self._alias, field, limit=MAX_VALUES, exact=True))
        return {str(hit.value): hit.count for hit in response.hits}

    def read_facet(self, name: str, filter: MetadataFilter = MetadataFilter()) -> FacetValues:
        """Return the values of a facet, by record."""
        from qdrant_client import models as m

        facet, key = find_facet(name), facet_key(name)
        self._present()
        first: m.Condition = m.FieldCondition(key="position", match=m.MatchValue(value=0))
        wanted = _filter(filter)
        accepted = m.Filter(must=[first, wanted] if wanted else [first])
        counts, ends = list[tuple[Any, int]](), list[Any]()
        if facet.kind not in (FacetKind.FLOAT, FacetKind.DATETIME):
            found = self.call(
                lambda client: client.facet(
                    self._alias, key, facet_filter=accepted, limit=MAX_KNOWN_VALUES + 1, exact=True
                )
            )
            counts = [(hit.value, hit.count) for hit in found.hits]
        for direction in (m.Direction.ASC, m.Direction.DESC) if facet.ordered else ():
            order = m.OrderBy(key=key, direction=direction)
            records, _ = self.call(
                lambda client, order=order: client.scroll(  # type: ignore[misc]
                    self._alias, scroll_filter=accepted, limit=1, order_by=order, with_payload=[FACET_FIELD]
                )
            )
            ends += [(record.payload or {})[FACET_FIELD][name][0] for record in records]
        return summarise_facet(facet, counts, (ends[0], ends[1]) if len(ends) == 2 else None)

    def count(self, filter: MetadataFilter = MetadataFilter()) -> int:
        """Return number of chunks that the filter accepts; 0 where there is no index yet."""
        if self._stored() is None:
            return 0
        accepted = _filter(filter)
        return self.call(lambda client: client.count(self._alias, count_filter=accepted, exact=True)).count

    def close(self) -> None:
        """Close the connections. Safe to call twice; a later call opens them again (``:memory:`` starts empty)."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def call(self, ask: Callable[["QdrantClient"], Result]) -> Result:
        """Ask the server, again after a passing failure.

        Raises:
            StoreUnavailableError: it cannot be reached, or is too busy, after three tries.
            StoreError: it refused, with its reason.
        """
        client = self._connected()  # before the imports, which take longer than knocking at a port

        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        reason, again = "", Exception()
        for pause in (*RETRY_PAUSES, None):
            try:
                return ask(client)
            except ResourceExhaustedResponse as error:
                reason, again = "it is asked too often", error
            except ResponseHandlingException as error:
                reason, again = _plain(error), error
                if "timed out" in reason:  # waited long enough: another try would double it
                    break
            except UnexpectedResponse as error:
                if error.status_code not in TRANSIENT:
                    raise StoreError(
                        f"The Qdrant server at {self._shown} refused: {_refusal(error)}"
                    ) from None
                reason, again = f"status {error.status_code}", error
            if pause is not None:
                logger.debug("Qdrant: {}; trying again in {} s", reason, pause)
                time.sleep(pause)
        raise self._unavailable(reason) from again

    def _connected(self) -> "QdrantClient":
        with self._lock:
            if self._client is None:
                if self._url != MEMORY:
                    self._probe()
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> "QdrantClient":
        from qdrant_client import QdrantClient

        if self._url == MEMORY:
            return QdrantClient(MEMORY)
        return QdrantClient(
            url=self._url,
            api_key=self._api_key,
            timeout=max(1, round(self._timeout)),
            port=self._port,
            check_compatibility=False,  # would ask the server in the constructor, without a retry
        )

    def _probe(self) -> None:
        """Knock at the port first: the client has one time limit for connecting and answering, and it may be long."""
        try:
            socket.create_connection(
                (urlsplit(self._url).hostname or "", self._port), CONNECT_SECONDS
            ).close()
        except OSError as error:
            raise self._unavailable(str(error)) from None

    @property
    def _port(self) -> int:
        parts = urlsplit(self._url)
        return parts.port or (443 if parts.scheme == "https" else 6333)

    @property
    def _shown(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}:{self._port}" if parts.hostname else self._url

    def _unavailable(self, reason: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"The Qdrant server at {self._shown} cannot be reached: {reason}. Start it (docker compose up -d qdrant), set "
            "VECTOR_INDEX_URL to one that runs, or use the embedded index: VECTOR_INDEX_KIND=qdrant_edge"
        )

    def _stored(self) -> "_Stored | None":
        aliases = self.call(lambda client: client.get_aliases()).aliases
        names = [alias.collection_name for alias in aliases if alias.alias_name == self._alias]
        if not names:
            return None
        metadata = self.call(lambda client: client.get_collection(names[0])).config.metadata or {}
        try:
            return _Stored(
                names[0],
                metadata["format"],
                EmbedderFingerprint.model_validate(metadata["fingerprint"]),
                metadata.get("titles", False),  # older collections do not say
                metadata.get("written", ""),
            )
        except KeyError:
            raise StoreError(
                f"The collection '{names[0]}' at {self._shown} was not made by this project: it names no embedder. "
                "Choose another name with VECTOR_INDEX_COLLECTION."
            ) from None

    def _present(self) -> "_Stored":
        stored = self._stored()
        if stored is None:
            raise StoreUnavailableError(f"There is no index '{self._alias}' at {self._shown} yet. {BUILD}")
        if stored.format != FORMAT:
            raise StoreUnavailableError(
                f"The index '{self._alias}' has form {stored.format}, expected {FORMAT}. {BUILD}"
            )
        return stored

    def _create(self, fingerprint: EmbedderFingerprint, titles: bool) -> str:
        from qdrant_client import models as m

        # Each form has a name of its own: the collection that readers use must not be the one that is emptied here.
        name = f"{self._alias}-{fingerprint.digest}-{FORMAT}{'-titles' if titles else ''}"
        # Left by a rebuild that was killed: it may hold chunks of documents that have gone since.
        self.call(lambda client: client.delete_collection(name))
        dense = m.VectorParams(size=fingerprint.dimension, distance=m.Distance.COSINE)
        vectors = dict.fromkeys((DENSE, TITLE) if titles else (DENSE,), dense)
        words = {SPARSE: m.SparseVectorParams(modifier=m.Modifier.IDF)}
        metadata = {
            "format": FORMAT,
            "fingerprint": fingerprint.model_dump(),
            "titles": titles,
            "written": uuid4().hex,
        }
        self.call(
            lambda client: client.create_collection(
                name,
                vectors_config=vectors,
                sparse_vectors_config=words,
                on_disk_payload=True,
                metadata=metadata,
            )
        )
        if self._url != MEMORY:  # which warns that it has no payload indexes
            kinds = dict.fromkeys((*KEYWORD_FIELDS, *STRICT_FIELDS), m.PayloadSchemaType.KEYWORD)
            kinds |= dict.fromkeys(INTEGER_FIELDS, m.PayloadSchemaType.INTEGER)
            kinds |= dict.fromkeys(DATETIME_FIELDS, m.PayloadSchemaType.DATETIME)
            typed = {
                FacetKind.INTEGER: m.PayloadSchemaType.INTEGER,
                FacetKind.FLOAT: m.PayloadSchemaType.FLOAT,
                FacetKind.DATETIME: m.PayloadSchemaType.DATETIME,
            }
            kinds |= {
                facet_key(facet.name): typed.get(facet.kind, m.PayloadSchemaType.KEYWORD)
                for facet in FACETS.values()
            }
            for field, kind in kinds.items():
                self._index_field(name, field, kind)
        return name

    def _index_field(self, name: str, field: str, kind: "m.PayloadSchemaType") -> None:
        self.call(lambda client: client.create_payload_index(name, field, kind, wait=True))

    def _mark_written(self, name: str) -> None:
        self.call(lambda client: client.update_collection(name, metadata={"written": uuid4().hex}))

    def _switch(self, fresh: str, previous: str | None) -> None:
        from qdrant_client import models as m

        changes: list[m.AliasOperations] = []
        if previous is not None:
            changes.append(m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name=self._alias)))
        create = m.CreateAlias(collection_name=fresh, alias_name=self._alias)
        changes.append(m.CreateAliasOperation(create_alias=create))
        self.call(lambda client: client.update_collection_aliases(changes))
        if previous is not None:
            self.call(lambda client: client.delete_collection(previous))

    def _drop_quietly(self, name: str) -> None:
        try:
            self.call(lambda client: client.delete_collection(name))
        except StoreError as error:  # the error that led here matters more; the next rebuild removes it
            logger.warning("The unfinished collection '{}' could not be removed: {}", name, error)

    def _scroll(self, accepted: "m.Filter", fields: list[str]) -> Iterator[dict[str, Any]]:
        offset: Any = None
        while True:
            records, offset = self._page(accepted, fields, offset)
            for record in records:
                yield record.payload or {}
            if offset is None:
                return

    def _page(self, accepted: "m.Filter", fields: list[str], offset: Any) -> tuple[list["m.Record"], Any]:
        return self.call(
            lambda client: client.scroll(
                self._alias, scroll_filter=accepted, limit=SCROLL_POINTS, offset=offset, with_payload=fields
            )
        )

    def _queries(self, request: SearchRequest, titles: bool) -> Iterator["m.QueryRequest"]:
        """One query, or for weighted fusion two or three: by meaning, by words, by title."""
        from qdrant_client import models as m

        accepted = _filter(request.filter)
        dense = None if request.vector is None else request.vector.tolist()
        words = self._encoder.query(request.text)
        sparse = m.SparseVector(indices=words.indices, values=words.values)
        wide = count_candidates(request.k)
        titles = titles and request.titles
        if request.mode is SearchMode.DENSE:
            yield m.QueryRequest(
                query=dense, using=DENSE, filter=accepted, limit=request.k, with_payload=[RECORD_FIELD]
            )
        elif request.mode is SearchMode.SPARSE:
            yield m.QueryRequest(
                query=sparse, using=SPARSE, filter=accepted, limit=request.k, with_payload=[RECORD_FIELD]
            )
        elif isinstance(request.fusion, RrfFusion):
            # The server counts ranks from 0, the formula from 1.
            fused = m.RrfQuery(rrf=m.Rrf(k=request.fusion.k + 1))
            prefetch = [
                m.Prefetch(query=dense, using=DENSE, filter=accepted, limit=wide),
                m.Prefetch(query=sparse, using=SPARSE, filter=accepted, limit=wide),
            ]
            if titles:
                prefetch.append(m.Prefetch(query=dense, using=TITLE, filter=accepted, limit=wide))
            yield m.QueryRequest(
                prefetch=prefetch,
                query=fused,
                limit=request.k,
                with_payload=[RECORD_FIELD],
                with_vector=[DENSE],
            )
        else:
            yield m.QueryRequest(
                query=dense, using=DENSE, filter=accepted, limit=wide, with_payload=[RECORD_FIELD]
            )
            for query, name in ((sparse, SPARSE), (dense, TITLE))[: 2 if titles else 1]:
                yield m.QueryRequest(
                    query=query,
                    using=name,
                    filter=accepted,
                    limit=wide,
                    with_payload=[RECORD_FIELD],
                    with_vector=[DENSE],
                )


class _Stored:
    """What stands behind the alias."""

    def __init__(
        self,
        collection: str,
        format: str | int,
        fingerprint: EmbedderFingerprint,
        titles: bool,
        mark: str,
    ) -> None:
        self.mark = mark
        self.collection = collection
        self.format = format
        self.fingerprint = fingerprint
        self.titles = titles

    def continues(self, fingerprint: EmbedderFingerprint, titles: bool) -> bool:
        return self.format == FORMAT and self.fingerprint == fingerprint and self.titles == titles


class _ServerWriter:
    def __init__(
        self,
        index: QdrantServerIndex,
        collection: str,
        dimension: int,
        encoder: Bm25Encoder,
        titles: bool = False,
    ) -> None:
        self._index = index
        self._collection = collection
        self._dimension = dimension
        self._titles = titles
        self._encoder = encoder
        self.wrote = False

    def upsert(self, chunks: Sequence[EmbeddedChunk]) -> None:
        """Write chunks in the order given, ⌈n / 256⌉ requests."""
        for start in range(0, len(chunks), BATCH_POINTS):
            self._write([self._point(item) for item in chunks[start : start + BATCH_POINTS]])

    def delete(self, document_ids: Sequence[str], *, keep_versions: Mapping[str, str] | None = None) -> None:
        """Delete the chunks of documents; with ``keep_versions`` only those of other versions. ⌈n / 256⌉ requests."""
        for start in range(0, len(document_ids), BATCH_POINTS):
            self._delete(document_ids[start : start + BATCH_POINTS], keep_versions or {})

    def _write(self, points: list["m.PointStruct"]) -> None:
        self.wrote = True
        self._index.call(lambda client: client.upsert(self._collection, points, wait=True))

    def _delete(self, document_ids: Sequence[str], keep: Mapping[str, str]) -> None:
        from qdrant_client import models as m

        self.wrote = True
        whole = [identifier for identifier in document_ids if identifier not in keep]
        doomed: list[m.Condition] = [_of_document(i, keep[i]) for i in document_ids if i in keep]
        if whole:
            doomed.append(m.FieldCondition(key="document_id", match=m.MatchAny(any=whole)))
        selector = m.FilterSelector(filter=m.Filter(should=doomed))
        self._index.call(lambda client: client.delete(self._collection, selector, wait=True))

    def _point(self, item: EmbeddedChunk) -> "m.PointStruct":
        from qdrant_client import models as m

        check_embedding(item, self._dimension, titles=self._titles)
        words = self._encoder.encode_document(item.chunk.embedding_text)
        sparse = m.SparseVector(indices=words.indices, values=words.values)
        vectors: dict[str, Any] = {DENSE: list(item.vector), SPARSE: sparse}
        if item.title_vector is not None:
            vectors[TITLE] = list(item.title_vector)
        return m.PointStruct(id=item.chunk.id, vector=vectors, payload=to_payload(item.chunk))


def _hits(request: SearchRequest, answers: Sequence[Sequence["m.ScoredPoint"]]) -> list[Hit]:
    points = {str(point.id): point for points in reversed(answers) for point in points}
    cosines = {str(p.id): p.score for p in answers[0]} if _by_meaning(request) else {}
    if len(answers) > 1:
        listed = [{str(point.id): point.score for point in points} for points in answers]
        named = listed[2] if len(listed) > 2 else None
        best = fuse(listed[0], listed[1], request.fusion, named)[: request.k]
    else:
        best = rank_scores({str(point.id): point.score for point in answers[0]})
    # A point that only words or titles found came with its vector.
    found = {
        str(p.id): _cosine(request, p.vector)
        for points_found in answers
        for p in points_found
        if isinstance(p.vector, dict)
    }
    scores = {**found, **cosines}
    return [
        Hit(chunk=to_chunk(points[identifier].payload), score=score, dense_score=scores.get(identifier))
        for identifier, score in best
    ]


def _by_meaning(request: SearchRequest) -> bool:
    """Whether the first answer's scores are cosines."""
    return request.mode is SearchMode.DENSE or (
        request.mode is SearchMode.HYBRID and not isinstance(request.fusion, RrfFusion)
    )


def _cosine(request: SearchRequest, vectors: Mapping[str, Any]) -> float:
    stored = np.asarray(vectors[DENSE], dtype=np.float32)
    asked = request.vector if request.vector is not None else np.zeros_like(stored)
    norm = float(np.linalg.norm(stored) * np.linalg.norm(asked))
    return float(np.dot(stored, asked)) / norm if norm else 0.0


def _filter(filter: MetadataFilter) -> "m.Filter | None":
    from qdrant_client import models as m

    conditions: list[m.Condition] = [
        m.FieldCondition(key=field, match=m.MatchAny(any=list(values)))
        for field, values in list_alternatives(filter)
    ]
    if between := date_range(filter):
        conditions.append(m.FieldCondition(key="published_at", range=m.DatetimeRange.model_validate(between)))
    for wanted in list_facet_conditions(filter):
        if wanted.any_of:
            conditions.append(m.FieldCondition(key=wanted.key, match=m.MatchAny(any=list(wanted.any_of))))
        if wanted.range:
            moments = any(isinstance(end, str) for end in wanted.range.values())
            shape: type[m.DatetimeRange] | type[m.Range] = m.DatetimeRange if moments else m.Range
            conditions.append(m.FieldCondition(key=wanted.key, range=shape.model_validate(wanted.range)))
    return m.Filter(must=conditions) if conditions else None


def _of_document(document_id: str, other_than: str) -> "m.Filter":
    from qdrant_client import models as m

    return m.Filter(
        must=[m.FieldCondition(key="document_id", match=m.MatchValue(value=document_id))],
        must_not=[m.FieldCondition(key="document_version", match=m.MatchValue(value=other_than))],
    )


def _plain(error: Exception) -> str:
    text = str(error)
    return text or type(error).__name__


def _refusal(error: Any) -> str:
    """Status and reason without the request's headers, which hold the key."""
    if error.status_code in (401, 403):
        return f"status {error.status_code}. Set VECTOR_INDEX_API_KEY to a key that may read and write."
    return f"status {error.status_code}, {(error.content or b'').decode('utf-8', 'replace')[:300]}"

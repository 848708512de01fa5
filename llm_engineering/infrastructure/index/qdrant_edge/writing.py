"""Changing an index: a draft of the next generation, published whole or not at all."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from llm_engineering.domain.categories import FACETS
from llm_engineering.domain.documents import EmbeddedChunk, EmbedderFingerprint
from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.facets import FacetKind
from llm_engineering.infrastructure.index import Bm25Encoder
from llm_engineering.infrastructure.index.qdrant_edge.engine import (
    DENSE,
    SPARSE,
    TITLE,
    load,
    shard_config,
    translate_errors,
)
from llm_engineering.infrastructure.index.qdrant_edge.generations import Generations, copy_tree, count_bytes
from llm_engineering.infrastructure.index.qdrant_edge.reading import OpenGeneration
from llm_engineering.infrastructure.shared.index_payload import (
    DATETIME_FIELDS,
    FORMAT,
    INTEGER_FIELDS,
    KEYWORD_FIELDS,
    check_embedding,
    facet_key,
    to_payload,
)

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard, Filter, Point

UPSERT_POINTS = 512
OPTIMISE_EVERY = 25_000
"""Chunks after which what was written is put into its compact form: done all at once, it takes three times the memory."""
FREE_MARGIN_BYTES = 64 << 20
"""Room left on the disk: the engine writes through memory maps, and a full disk would kill the process there."""


class EdgeWriter:
    """Changes a draft that is made at the first change; a block that changes nothing costs nothing."""

    def __init__(
        self,
        generations: Generations,
        base: OpenGeneration | None,
        fingerprint: EmbedderFingerprint,
        encoder: Bm25Encoder,
        exact_up_to: int,
        titles: bool = False,
    ) -> None:
        self._generations = generations
        self._base = base
        self._fingerprint = fingerprint
        self._encoder = encoder
        self._exact_up_to = exact_up_to
        self._titles = titles
        self._draft: Path | None = None
        self._shard: EdgeShard | None = None
        self._unoptimised = 0

    def upsert(self, chunks: Sequence[EmbeddedChunk]) -> None:
        """Write chunks by id, any number at a time."""
        from qdrant_edge import UpdateOperation

        for start in range(0, len(chunks), UPSERT_POINTS):
            points = [self._point(item) for item in chunks[start : start + UPSERT_POINTS]]
            shard = self._open()
            self._require_space(FREE_MARGIN_BYTES)
            with translate_errors("writing chunks"):
                shard.update(UpdateOperation.upsert_points(points))
            self._unoptimised += len(points)
            if self._unoptimised >= OPTIMISE_EVERY:
                self._optimise()

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
            with translate_errors("deleting chunks"):
                if shard.count(CountRequest(filter=doomed, exact=True)):
                    shard.update(UpdateOperation.delete_points_by_filter(doomed))

    def publish(self) -> None:
        """Optimise the draft, put it on the disk and switch to it. Does nothing where nothing was changed."""
        from qdrant_edge import CountRequest

        if self._base is not None and self._draft is None:
            return
        shard = self._open()
        self._require_space(count_bytes(self._drafted) + FREE_MARGIN_BYTES)
        with translate_errors("optimising the index"):
            count = shard.count(CountRequest(exact=True))
            graph = count > self._exact_up_to
            if graph:
                shard.close()
                self._shard = shard = load(
                    self._drafted / "data",
                    shard_config(self._fingerprint.dimension, graph=True, titles=self._titles),
                )
            shard.flush()
            shard.optimize()
            shard.flush()
            shard.close()
        self._shard = None
        manifest = {
            "format": FORMAT,
            "fingerprint": self._fingerprint.model_dump(),
            "titles": self._titles,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "chunks": count,
            "graph": graph,
        }
        with translate_errors("publishing the index"):
            number = self._generations.publish(self._drafted, manifest)
        self._draft = None
        logger.info("Index updated: {:,} chunks (generation {}).", count, number)

    def _optimise(self) -> None:
        shard = self._open()
        self._require_space(count_bytes(self._drafted) + FREE_MARGIN_BYTES)
        with translate_errors("optimising the index"):
            shard.optimize()
        self._unoptimised = 0

    def discard(self) -> None:
        """Drop a draft that was not published. Never raises for the engine: an error may be on its way already."""
        shard, self._shard = self._shard, None
        if shard is not None:
            try:
                with translate_errors("closing a draft"):
                    shard.close()  # or its files stay mapped, and take room, for as long as an error refers to it
            except StoreError as error:
                logger.debug("{}", error)
        if self._draft is not None:
            self._generations.discard(self._draft)
            self._draft = None

    @property
    def _drafted(self) -> Path:
        if self._draft is None:
            raise StoreError("The index writer is used outside of its block. Open a new one with writer().")
        return self._draft

    def _open(self) -> "EdgeShard":
        if self._shard is None:
            with translate_errors("making a draft"):
                self._draft = self._generations.draft()
            self._shard = self._copied(self._base) if self._base is not None else self._created()
        return self._shard

    def _copied(self, base: OpenGeneration) -> "EdgeShard":
        self._require_space(count_bytes(base.lease.data) + FREE_MARGIN_BYTES)
        with translate_errors("copying the index"), base.lease.lock_data():
            copy_tree(base.lease.data, self._drafted / "data")
        return load(self._drafted / "data")

    def _created(self) -> "EdgeShard":
        from qdrant_edge import EdgeShard, KeywordIndexParams, Memory, PayloadSchemaType, UpdateOperation

        self._require_space(FREE_MARGIN_BYTES)
        # Looked up now and then, and as many values as documents: these indexes stay on the disk, the small ones do not.
        schemas: dict[str, Any] = {
            field: KeywordIndexParams(memory=Memory.Cold if field.endswith("_id") else None)
            for field in KEYWORD_FIELDS
        }
        schemas |= dict.fromkeys(INTEGER_FIELDS, PayloadSchemaType.Integer)
        schemas |= dict.fromkeys(DATETIME_FIELDS, PayloadSchemaType.Datetime)
        kinds = {
            FacetKind.INTEGER: PayloadSchemaType.Integer,
            FacetKind.FLOAT: PayloadSchemaType.Float,
            FacetKind.DATETIME: PayloadSchemaType.Datetime,
        }
        schemas |= {
            facet_key(facet.name): kinds.get(facet.kind, PayloadSchemaType.Keyword)
            for facet in FACETS.values()
        }
        with translate_errors("creating the index"):
            config = shard_config(self._fingerprint.dimension, graph=False, titles=self._titles)
            shard = EdgeShard.create(str(self._drafted / "data"), config)
            for field, schema in schemas.items():
                shard.update(UpdateOperation.create_field_index(field, schema))
        return shard

    def _point(self, item: EmbeddedChunk) -> "Point":
        from qdrant_edge import Point

        check_embedding(item, self._fingerprint.dimension, titles=self._titles)
        words = self._encoder.encode_document(item.chunk.embedding_text)
        vectors = {DENSE: item.vector, SPARSE: words}
        if item.title_vector is not None:
            vectors[TITLE] = item.title_vector
        return Point(item.chunk.id, vectors, to_payload(item.chunk))  # type: ignore[arg-type]  # a tuple serves as a list

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._drafted).free
        if free < needed:
            raise StoreError(
                f"The disk of {self._generations.root} is almost full: {free >> 20:,} MB are free and "
                f"{needed >> 20:,} MB are needed to write the index. "
                "Free some space and run again; the index as it was is untouched."
            )


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

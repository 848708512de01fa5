"""Search among records: whole records with their scores, a checked summary of what was found, and what is like a record."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from llm_engineering.application.inference.abstention import AbstentionFloor
from llm_engineering.application.inference.pipeline import InferencePipeline
from llm_engineering.application.inference.search import fuse_hits, sort_hits
from llm_engineering.application.ports import CleanStore, Embedder, EmbeddingCache, SearchRequest, VectorIndex
from llm_engineering.domain.documents import CleanDocument, Span, text_hash
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.inference import ResponseProvenance
from llm_engineering.domain.retrieval import Answer, Hit, MetadataFilter, Passage, Query, SearchMode

NOTHING_RELEVANT = "No relevant {collection} found for your query."
_CHUNKS_PER_RECORD = 3
"""Hits that are asked for a record that is wanted: several chunks may be of one."""
_MOST_HITS = 100
_DECLINED = 0.7
"""Share of foreign questions that find nothing: fewer than are not answered, since a reader sees what was found, and that it is
nothing of use. With 0.95, on 997 films, four in five descriptions of a film found nothing; 0.7 was chosen on the same queries."""


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A whole record, with how near it comes."""

    record: CleanDocument
    similarity: float | None
    """Cosine of its best chunk; None where the search went by words alone."""


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """What a search among records found."""

    question: str
    records: tuple[FoundRecord, ...]
    summary: Answer | None
    """None: nothing was found, or no summary was asked for; no model was asked."""
    min_score: float | None
    """The similarity that every record reaches, as asked for; else that which the best one had to reach. None: the question named
    fields, and those decided."""
    provenance: ResponseProvenance
    filter: MetadataFilter = MetadataFilter()
    """The caller's, with its values as they are stored, and the category."""


class RecordSearch:
    """Searches the records of a category. One for the whole process; safe for many requests on one event loop."""

    def __init__(
        self,
        pipeline: InferencePipeline,
        clean: CleanStore,
        index: VectorIndex,
        embedder: Embedder,
        cache: EmbeddingCache,
    ) -> None:
        self._pipeline = pipeline
        self._clean = clean
        self._index = index
        self._embedder = embedder
        self._cache = cache
        self._floor = AbstentionFloor(index, embedder, declined=_DECLINED)

    async def search(
        self, query: Query, category: str, *, min_score: float | None = None, summarise: bool = True
    ) -> FoundRecords:
        """Return the ``query.k`` best records of a category, the most similar first unless the query sorts them.

        Args:
            min_score: least cosine similarity of a record; a number that fits one embedder says nothing about another. None: the
                best must reach what was measured on the collection, below which most questions are foreign to it.

        Raises:
            InvalidInputError: the question or its filter cannot be used.
            StoreError: the index or the warehouse is not there.
        """
        filter = query.filter.model_copy(update={"categories": (category,)})
        if not await asyncio.to_thread(self._index.count, MetadataFilter(categories=(category,))):
            return FoundRecords(
                query.text,
                (),
                None,
                min_score or 0.0,
                ResponseProvenance(mode=query.mode, fusion=query.fusion),
            )
        hits_wanted = min(query.k * _CHUNKS_PER_RECORD, _MOST_HITS)
        filter = await self._pipeline.spell_filter(filter)
        wide = query.model_copy(update={"filter": filter, "k": max(query.k, hits_wanted), "sort": None})
        found = await self._pipeline.search(wide)
        floor = min_score
        hits = found.hits
        if floor is None and found.provenance.filter.facets == filter.facets:
            # Where the question names fields ("crime films of the 90s"), those decide, not how near its words come.
            floor = (await asyncio.to_thread(self._floor.get)).similarity
            # Whether it is foreign, its best hit tells; what words alone found lies lower, and belongs to what was asked for.
            hits = hits if any(hit.dense_score is None or hit.dense_score >= floor for hit in hits) else ()
        best = _take_best(hits, -1.0 if min_score is None else min_score, query.k)
        best = (
            sorted(best, key=lambda hit: -(hit.dense_score or 0.0))
            if query.sort is None
            else sort_hits(best, query.sort)
        )
        records = await asyncio.to_thread(self._read, best)
        summary = None
        if records and summarise:
            summary = await self._pipeline.summarise(query.text, [_as_passage(one) for one in records])
        return FoundRecords(query.text, records, summary, floor, found.provenance, filter)

    def find_similar(self, record_id: str, category: str, k: int) -> tuple[FoundRecord, ...]:
        """Return the records of a category that are most like one of them, the most similar first. Blocking.

        A record is looked for by each of its chunks; the lists are fused. What says nearly the same is left out.

        Raises:
            InvalidInputError: there is no such record in the category.
            StoreError: a store is not there.
        """
        own = next((one for one in self._clean.get([record_id]) if one.category == category), None)
        if own is None:
            raise InvalidInputError(f"There is no record '{record_id}' among the {category} records.")
        chunks = [
            chunk
            for part in self._index.read_passages([f"{record_id}:{n}" for n in range(8)]).values()
            for chunk in part
        ]
        fingerprint = self._embedder.fingerprint
        hashes = [text_hash(chunk.embedding_text) for chunk in chunks]
        vectors = self._cache.get_many(fingerprint.digest, hashes)
        if missing := [
            chunk.embedding_text for chunk, key in zip(chunks, hashes, strict=True) if key not in vectors
        ]:
            embedded = iter(self._embedder.embed_documents(missing))
            vectors = vectors | {key: next(embedded) for key in hashes if key not in vectors}
        requests = [
            SearchRequest("", vectors[key], MetadataFilter(categories=(category,)), k * 4, SearchMode.DENSE)
            for key in hashes
        ]
        if not requests:
            return ()
        hits = fuse_hits(self._index.search(requests, fingerprint), [1.0] * len(requests))
        others = [
            hit
            for hit in hits
            if hit.chunk.document_id != record_id
            and (own.duplicate_group is None or hit.chunk.duplicate_group != own.duplicate_group)
        ]
        best = sorted(_take_best(others, -1.0, k), key=lambda hit: -(hit.dense_score or 0.0))
        return self._read(best)

    def _read(self, hits: Sequence[Hit]) -> tuple[FoundRecord, ...]:
        """Whole records in the order of their hits; one that has gone meanwhile is left out."""
        kept = {record.id: record for record in self._clean.get([hit.chunk.document_id for hit in hits])}
        return tuple(
            FoundRecord(kept[hit.chunk.document_id], hit.dense_score)
            for hit in hits
            if hit.chunk.document_id in kept
        )


def _take_best(hits: Sequence[Hit], floor: float, most: int) -> list[Hit]:
    """One hit a record, and one of records that say the same, as far as they reach the floor; the best chunk counts."""
    best: dict[str, Hit] = {}
    for hit in hits:
        if hit.dense_score is not None and hit.dense_score < floor:
            continue
        key = hit.chunk.duplicate_group or hit.chunk.document_id
        held = best.get(key)
        if held is None or (hit.dense_score or 0.0) > (held.dense_score or 0.0):
            best[key] = hit  # stays where the record was first found
    return list(best.values())[:most]


def _as_passage(found: FoundRecord) -> Passage:
    record = found.record
    return Passage(
        document_id=record.id,
        span=Span(start=0, end=len(record.text)),
        text=record.text,
        title=record.title,
        link=record.link,
        author=record.author,
        platform=record.platform,
        category=record.category,
        published_at=record.published_at,
        score=found.similarity or 0.0,
        dense_score=found.similarity,
    )

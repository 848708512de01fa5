"""From a question to the passages that may answer it."""

import asyncio
import difflib
import math
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from llm_engineering.application.inference.fusion import rank_scores
from llm_engineering.application.ports import Embedder, FacetValues, Reranker, SearchRequest, VectorIndex
from llm_engineering.application.text.markdown import defines_any, find_code_names
from llm_engineering.domain.categories import FACETS, find_facet, is_code
from llm_engineering.domain.documents import Chunk, Span
from llm_engineering.domain.errors import ModelError, UnknownFilterValueError
from llm_engineering.domain.facets import FacetKind
from llm_engineering.domain.retrieval import (
    Condition,
    Filterable,
    Hit,
    MetadataFilter,
    Passage,
    Query,
    SearchMode,
    Sort,
)

Field = Literal["author", "category", "platform", "language"]

FILTERS: tuple[tuple[str, Field], ...] = (
    ("authors", "author"),
    ("categories", "category"),
    ("platforms", "platform"),
    ("languages", "language"),
)
"""Fields of a :class:`MetadataFilter`, and what the index calls them."""
FIELDS = tuple(name for _, name in FILTERS)


@dataclass(frozen=True, slots=True)
class Facets:
    """Distinct values of each filterable field with the number of chunks of each."""

    author: Mapping[str, int] = field(default_factory=dict)
    category: Mapping[str, int] = field(default_factory=dict)
    platform: Mapping[str, int] = field(default_factory=dict)
    language: Mapping[str, int] = field(default_factory=dict)
    records: Mapping[str, FacetValues] = field(default_factory=dict)
    """Of records' own fields, by the facet's name; only those that hold something."""

    @classmethod
    def read(
        cls, index: VectorIndex, fields: Iterable[Field] = FIELDS, facets: Iterable[str] = tuple(FACETS)
    ) -> "Facets":
        """Read the fields; creates nothing. Blocking.

        Raises:
            StoreError: the index is not there, or failed.
        """
        read = {name: index.read_facet(name) for name in facets}
        return cls(
            **{name: index.count_values(name) for name in fields},
            records={name: values for name, values in read.items() if not values.empty},
        )

    def of(self, name: Field) -> Mapping[str, int]:
        values: Mapping[str, int] = getattr(self, name)
        return values

    @staticmethod
    def fields_used(filter: MetadataFilter) -> tuple[Field, ...]:
        """Return the fields in which the filter names values; dates and document ids are not looked up."""
        return tuple(name for plural, name in FILTERS if getattr(filter, plural))

    @staticmethod
    def facets_used(filter: MetadataFilter) -> tuple[str, ...]:
        """Return the facets on which the filter sets conditions."""
        return tuple(condition.field for condition in filter.facets)


def read_facets(cards: Iterable[Filterable]) -> dict[str, FacetValues]:
    """Return the values of documents' facets, as an index would; only of those that hold something."""
    keys: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for card in cards:
        for name, value in card.metadata.items():
            if name in FACETS:
                keys[name].update(FACETS[name].list_keys(value))
    return {
        name: FacetValues(
            FACETS[name].kind,
            {str(value): count for value, count in values.most_common()},
            least=min(values) if FACETS[name].ordered else None,
            greatest=max(values) if FACETS[name].ordered else None,
        )
        for name, values in keys.items()
        if values
    }


class FacetCache:
    """The index's values, read at most every few seconds however many requests ask.

    Args:
        keep_seconds: how long a reading may be old. An index that is replaced meanwhile is seen that much later; a
            caller who names a value that is not known has it looked up afresh (``fresh=True``).
        clock: seconds that only grow.
    """

    def __init__(
        self, index: VectorIndex, keep_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._index = index
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, Facets] | None = None

    async def get(self, *, fresh: bool = False) -> Facets:
        """Return the values; without a thread where they are still kept.

        Raises:
            StoreError: the index is not there, or failed.
        """
        kept = None if fresh else self._current()
        return kept if kept is not None else await asyncio.to_thread(self._read, fresh)

    def _current(self) -> Facets | None:
        kept = self._kept
        return kept[1] if kept and self._clock() - kept[0] < self._keep_seconds else None

    def _read(self, fresh: bool) -> Facets:
        with self._lock:  # of many requests that find nothing kept, one reads
            kept = None if fresh else self._current()
            if kept is not None:
                return kept
            read = Facets.read(self._index)
            self._kept = (self._clock(), read)
            return read


RERANKER_WEIGHT = 0.5
"""The reranker's share of the final score; the rest is the search's own.

Chosen with the late interaction reranker on eight unlike collections (docs/benchmarks.md): none is worse off than with the
search alone. More helps questions to long articles, and hurts those to reviews, whose words tell more than MiniLM sees."""


def rerank_hits(
    query_text: str, hits: Sequence[Hit], reranker: Reranker, *, weight: float = RERANKER_WEIGHT
) -> list[Hit]:
    """Return the hits in the order of ``weight · reranker + (1 − weight) · search``, both scaled to [0, 1] over these
    hits.

    Passages are judged with the trail of title and headings above them. Hits that are equal in both keep their order. Code that
    defines what the query calls by its name comes first: no model of language knows ``text_hash``.
    A returned hit's ``score`` is the mixture; ``dense_score`` stays. Blocking.

    Args:
        weight: 1 leaves the order to the reranker alone, 0 to the search.

    Raises:
        ModelError: the reranker failed, or gave not one finite score for each text.
    """
    if not hits:
        return []
    scores = reranker.rerank(query_text, [hit.chunk.embedding_text for hit in hits])
    if len(scores) != len(hits) or not all(map(math.isfinite, scores)):
        raise ModelError(
            f"The reranker {reranker.name} gave {len(scores)} scores for {len(hits)} texts; expected one finite number "
            "for each. Check the model, or switch reranking off: RERANKER_KIND=none"
        )
    mixed = weight * _scaled(scores) + (1 - weight) * _scaled([hit.score for hit in hits])
    if names := find_code_names(query_text):
        mixed[[is_code(hit.chunk.category) and defines_any(hit.chunk.text, names) for hit in hits]] = 1.0
    order = np.argsort(-mixed, kind="stable")
    return [hits[i].model_copy(update={"score": float(mixed[i])}) for i in order]


def _scaled(values: Sequence[float]) -> np.ndarray:
    """Values scaled to [0, 1]; where all are equal each counts 1."""
    numbers = np.asarray(values, dtype=np.float64)
    low, spread = numbers.min(), np.ptp(numbers)
    return (numbers - low) / spread if spread > 0 else np.ones_like(numbers)


CANDIDATES_PER_HIT = 2
"""How many hits are fetched for one that is returned, so that dropping near-duplicates leaves enough."""

_SAME_TEXT = 0.8
"""Jaccard similarity of word sets above which two chunks of a duplicate group say the same."""

_WORD = re.compile(r"\w+")


def retrieve(query: Query, index: VectorIndex, embedder: Embedder) -> list[Hit]:
    """Return the ``query.k`` best chunks, best first, without near-duplicates of each other: the bare search, without
    the stages that :class:`~llm_engineering.application.inference.retriever.Retriever` puts around it. Blocking.

    Raises:
        UnknownFilterValueError: the filter names an author, category, platform or language that the index lacks.
        FingerprintMismatchError: the index was written by another embedder.
        StoreUnavailableError: there is no index yet.
    """
    filter = spell_filter(
        query.filter,
        Facets.read(index, Facets.fields_used(query.filter), Facets.facets_used(query.filter)),
    )
    vector = None if query.mode is SearchMode.SPARSE else embedder.embed_queries([query.text])[0]
    request = SearchRequest(
        text=query.text,
        vector=vector,
        filter=filter,
        k=query.k * CANDIDATES_PER_HIT,
        mode=query.mode,
        fusion=query.fusion,
    )
    [hits] = index.search([request], embedder.fingerprint)
    return sort_hits(drop_near_duplicates(hits)[: query.k], query.sort)


def spell_filter(filter: MetadataFilter, known: Facets) -> MetadataFilter:
    """Return the filter with its values as they are stored: case does not matter, and of an author the beginning of a name
    is enough where no other's begins so.

    Raises:
        UnknownFilterValueError: a value is not there, so nothing could match; with those that exist, the closest first.
    """
    spelled = {
        plural: tuple(_spell(name, value, known.of(name)) for value in getattr(filter, plural))
        for plural, name in FILTERS
    }
    conditions = tuple(_spell_condition(condition, known) for condition in filter.facets)
    return filter.model_copy(update={**spelled, "facets": conditions})


def _spell_condition(condition: Condition, known: Facets) -> Condition:
    values = known.records.get(condition.field)
    if values is None:
        there = ", ".join(known.records) or "none"
        raise UnknownFilterValueError(
            f"No record here has the field '{condition.field}'. Fields that records have: {there}."
        )
    if values.kind is not FacetKind.KEYWORD or not values.complete:
        return condition
    spelled = tuple(_spell(condition.field, str(value), values.counts) for value in condition.any_of)
    return condition.model_copy(update={"any_of": spelled})


def _spell(field: str, value: str, present: Iterable[str]) -> str:
    if value in present:
        return value
    values = sorted(present)
    folded = {" ".join(name.casefold().split()): name for name in values}
    wanted = " ".join(value.casefold().split())
    if wanted in folded:
        return folded[wanted]
    begun = [
        name for key, name in folded.items() if field == "author" and wanted and f" {wanted}" in f" {key}"
    ]
    if len(begun) == 1:
        return begun[0]
    raise UnknownFilterValueError(_unknown(field, value, values, begun))


def _unknown(field: str, value: str, values: Sequence[str], begun: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in values}
    close = list(begun) or [
        folded[name] for name in difflib.get_close_matches(value.casefold(), folded, n=3, cutoff=0.5)
    ]
    if not values:
        return f"There is no {field} '{value}': the index is empty. Collect something first, then build the features."
    shown = ", ".join(close or values[:10])
    if begun:
        return f"'{value}' may be any of these {field}s: {shown}. Say more of the name."
    word = "Closest" if close else "There are"
    return f"There is no {field} '{value}' here. {word}: {shown}."


def sort_hits(hits: Sequence[Hit], sort: Sort | None) -> list[Hit]:
    """Return the hits in the order of a facet, equal ones as they were found; those without it come last."""
    if sort is None:
        return list(hits)
    placed: list[tuple[Any, Hit]] = []
    unplaced: list[Hit] = []
    for hit in hits:
        keys = find_facet(sort.field).list_keys(hit.chunk.metadata.get(sort.field, ()))
        if keys:
            placed.append((keys[0].casefold() if isinstance(keys[0], str) else keys[0], hit))
        else:
            unplaced.append(hit)
    placed.sort(key=lambda pair: pair[0], reverse=sort.descending)
    return [hit for _, hit in placed] + unplaced


def drop_near_duplicates(hits: Sequence[Hit]) -> list[Hit]:
    """Keep the best of hits that say the same: equal text, or nearly equal text within a group of duplicate documents."""
    kept: list[Hit] = []
    texts: set[str] = set()
    groups: dict[str, list[frozenset[str]]] = {}
    for hit in hits:
        chunk = hit.chunk
        if chunk.text in texts:
            continue
        texts.add(chunk.text)
        if chunk.duplicate_group:
            words = frozenset(_WORD.findall(chunk.text.casefold()))
            seen = groups.setdefault(chunk.duplicate_group, [])
            if any(len(words & other) >= _SAME_TEXT * len(words | other) for other in seen):
                continue
            seen.append(words)
        kept.append(hit)
    return kept


def fuse_hits(
    lists: Sequence[Sequence[Hit]], weights: Sequence[float], inexact: Sequence[bool] = (), *, k: int = 60
) -> list[Hit]:
    """Return one list of the hits of several queries, each chunk once: reciprocal rank fusion, ``score = Σ weight / (k
    + rank)`` (Cormack, Clarke & Büttcher, SIGIR 2009, with a weight for each list). A lone list stays as it is.

    Args:
        lists: hits of each query, best first; the question's own first.
        weights: of each list.
        inexact: for each list, whether its cosines are to a text that is not the question (a hypothetical answer, say). A hit
            that only such lists hold gets the question's lowest cosine: it was not among the question's nearest.
    """
    if len(lists) == 1:
        return list(lists[0])
    scores: defaultdict[str, float] = defaultdict(float)
    first: dict[str, Hit] = {}
    cosines: defaultdict[str, list[float]] = defaultdict(list)
    for position, (hits, weight) in enumerate(zip(lists, weights, strict=True)):
        exact = not (inexact and inexact[position])
        for rank, hit in enumerate(hits, start=1):
            scores[hit.chunk.id] += weight / (k + rank)
            first.setdefault(hit.chunk.id, hit)
            if exact and hit.dense_score is not None:
                cosines[hit.chunk.id].append(hit.dense_score)
    lowest = min((min(found) for found in cosines.values()), default=None)
    return [
        first[identifier].model_copy(
            update={"score": score, "dense_score": max(cosines[identifier], default=lowest)}
        )
        for identifier, score in rank_scores(scores)
    ]


def expand_to_parents(hits: Sequence[Hit], index: VectorIndex) -> list[Passage]:
    """Return the passages around the hits (small-to-big), best first; hits of one passage make one passage."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.chunk.parent_id, hit)
    siblings = index.read_passages(list(best))
    return [_passage(hit, siblings.get(parent) or [hit.chunk]) for parent, hit in best.items()]


def as_passages(hits: Sequence[Hit]) -> list[Passage]:
    """Return the hits themselves as passages, for models with little room."""
    return [_passage(hit, [hit.chunk]) for hit in hits]


def _passage(hit: Hit, chunks: Sequence[Chunk]) -> Passage:
    first, last = chunks[0], chunks[-1]
    chunk = hit.chunk
    return Passage(
        document_id=chunk.document_id,
        span=Span(start=first.span.start, end=max(c.span.end for c in chunks)),
        text=stitch(chunks),
        title=chunk.title,
        link=chunk.link,
        author=chunk.author,
        platform=chunk.platform,
        category=chunk.category,
        published_at=chunk.published_at,
        headings=chunk.headings if first is last else first.headings,
        score=hit.score,
        dense_score=hit.dense_score,
    )


def stitch(chunks: Sequence[Chunk]) -> str:
    """Join chunks of one document, ordered by position, at their offsets: overlaps appear once.

    Between chunks only white space can be missing (no text is lost in chunking); it comes back as line breaks of the
    same length, so that offsets into the passage stay offsets into the document.
    """
    parts: list[str] = []
    end = chunks[0].span.start
    for chunk in chunks:
        if chunk.span.start > end:
            parts.append("\n" * (chunk.span.start - end))
            end = chunk.span.start
        if chunk.span.end > end:
            parts.append(chunk.text[end - chunk.span.start :])
            end = chunk.span.end
    return "".join(parts)

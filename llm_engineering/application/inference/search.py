"""From a question to the passages that may answer it."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from llm_engineering.application.inference.facets import FILTERS, KnownValues
from llm_engineering.application.inference.fusion import ranked
from llm_engineering.application.ports import Embedder, SearchRequest, VectorIndex
from llm_engineering.domain.documents import Chunk, Span
from llm_engineering.domain.errors import UnknownFilterValueError
from llm_engineering.domain.retrieval import Hit, MetadataFilter, Passage, Query, SearchMode

CANDIDATES_PER_HIT = 2
"""How many hits are fetched for one that is returned, so that dropping near-duplicates leaves enough."""

_SAME_TEXT = 0.8
"""Jaccard similarity of word sets above which two chunks of a duplicate group say the same."""

_WORD = re.compile(r"\w+")


def retrieve(query: Query, index: VectorIndex, embedder: Embedder) -> list[Hit]:
    """The ``query.k`` best chunks, best first, without near-duplicates of each other: the bare search, without the stages
    that :class:`~llm_engineering.application.inference.retriever.Retriever` puts around it. Blocking.

    Raises:
        UnknownFilterValueError: the filter names an author, category, platform or language that the index lacks.
        FingerprintMismatchError: the index was written by another embedder.
        StoreUnavailableError: there is no index yet.
    """
    check_filter(query.filter, KnownValues.read(index, KnownValues.named_by(query.filter)))
    vector = None if query.mode is SearchMode.SPARSE else embedder.embed_queries([query.text])[0]
    request = SearchRequest(
        text=query.text,
        vector=vector,
        filter=query.filter,
        k=query.k * CANDIDATES_PER_HIT,
        mode=query.mode,
        fusion=query.fusion,
    )
    [hits] = index.search([request], embedder.fingerprint)
    return drop_near_duplicates(hits)[: query.k]


def check_filter(filter: MetadataFilter, known: KnownValues) -> None:
    """Refuse a filter that can match nothing because it names a value that is not there.

    Raises:
        UnknownFilterValueError: with the values that exist, the closest first.
    """
    for plural, name in FILTERS:
        present = known.of(name)
        for value in getattr(filter, plural):
            if value not in present:
                raise UnknownFilterValueError(_unknown(name, value, present))


def _unknown(field: str, value: str, present: Iterable[str]) -> str:
    values = sorted(present)
    folded = {name.casefold(): name for name in values}
    close = [folded[name] for name in difflib.get_close_matches(value.casefold(), folded, n=3, cutoff=0.5)]
    if not values:
        return f"There is no {field} '{value}': the index is empty. Collect something first, then build the features."
    shown = ", ".join(close or values[:10])
    word = "Closest" if close else "There are"
    return f"There is no {field} '{value}' in the index. {word}: {shown}."


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
    """One list of the hits of several queries, each chunk once: reciprocal rank fusion, ``score = Σ weight / (k + rank)``
    (Cormack, Clarke & Büttcher, SIGIR 2009, with a weight for each list). A lone list stays as it is.

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
        for identifier, score in ranked(scores)
    ]


def widen(hits: Sequence[Hit], index: VectorIndex) -> list[Passage]:
    """The passages around the hits (small-to-big), best first; hits of one passage make one passage."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.chunk.parent_id, hit)
    siblings = index.passages(list(best))
    return [_passage(hit, siblings.get(parent) or [hit.chunk]) for parent, hit in best.items()]


def narrow(hits: Sequence[Hit]) -> list[Passage]:
    """The hits themselves as passages, for models with little room."""
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

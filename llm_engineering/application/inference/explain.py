"""Say how each passage came to its place: by meaning, by words, fused, reranked; for people who wonder about an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_engineering.application.inference.retriever import Retrieved
from llm_engineering.application.ports import Embedder, Reranker, SearchRequest, VectorIndex
from llm_engineering.domain.retrieval import Hit, Query, SearchMode


@dataclass(frozen=True, slots=True)
class Place:
    """Where a passage stood in a list, and with what score."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was looked at, and its place in each list; None: the list does not hold it, or was not made."""

    hit: Hit
    dense: Place | None
    """By cosine similarity to the question."""
    words: Place | None
    """By BM25."""
    fused: Place | None
    reranked: Place | None
    """By the reranker's own score."""
    final: Place | None
    """Among the hits that were given; None: it came behind them."""


def list_candidates(
    found: Retrieved,
    query: Query,
    index: VectorIndex,
    embedder: Embedder,
    reranker: Reranker | None = None,
    *,
    depth: int,
) -> list[Candidate]:
    """Return what was looked at for a question: the hits that were given, then what came behind them. Blocking.

    The lists are made anew, for the question alone: what was searched for beside it is not in them.

    Args:
        query: as it was asked.
        reranker: what the hits were reranked by; None: nothing.
        depth: candidates that the search hands on.

    Raises:
        StoreError: the index is not there, or failed.
        ModelError: a model failed.
    """
    text, made = found.standalone or found.question, found.provenance
    vector = None if made.mode is SearchMode.SPARSE else embedder.embed_queries([text])[0]
    modes = [made.mode] if made.mode is not SearchMode.HYBRID else list(SearchMode)
    requests = [
        SearchRequest(text, vector, filter=made.filter, k=depth, mode=mode, fusion=query.fusion)
        for mode in modes
    ]
    lists = dict(zip(modes, index.search(requests, embedder.fingerprint), strict=True))
    searched = lists[made.mode]
    hits = {hit.chunk.id: hit for hit in (*found.hits, *searched)}
    reranked: list[tuple[str, float]] = []
    if reranker is not None and made.reranker is not None:
        scores = reranker.rerank(text, [hit.chunk.embedding_text for hit in hits.values()])
        reranked = sorted(zip(hits, scores, strict=True), key=lambda pair: -pair[1])
    dense, words = (_place_hits(lists.get(mode, ())) for mode in (SearchMode.DENSE, SearchMode.SPARSE))
    fused = _place_hits(searched) if made.mode is SearchMode.HYBRID else {}
    by_reranker, final = _place(reranked), _place_hits(found.hits)
    return [
        Candidate(
            hit=hit,
            dense=dense.get(name),
            words=words.get(name),
            fused=fused.get(name),
            reranked=by_reranker.get(name),
            final=final.get(name),
        )
        for name, hit in hits.items()
    ]


def _place_hits(hits: Sequence[Hit]) -> dict[str, Place]:
    return _place([(hit.chunk.id, hit.score) for hit in hits])


def _place(scores: Sequence[tuple[str, float]]) -> dict[str, Place]:
    return {name: Place(rank, float(score)) for rank, (name, score) in enumerate(scores, start=1)}

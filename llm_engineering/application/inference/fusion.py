"""Merging ranked lists: pure functions, the same for every index."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from llm_engineering.domain.retrieval import Fusion, RrfFusion

MIN_CANDIDATES = 50


def count_candidates(k: int) -> int:
    """Return how many hits each list contributes to a fusion of which ``k`` are wanted.

    A passage that is good in both lists often stands below rank k in each of them, so more than k are looked at.
    """
    return max(MIN_CANDIDATES, 3 * k)


def fuse_by_rank(rankings: Sequence[Sequence[str]], k: int = 60) -> list[tuple[str, float]]:
    """Return reciprocal rank fusion: ``score(d) = Σ 1 / (k + rank(d))``, ranks from 1.

    Cormack, Clarke & Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009. A document that a list does not hold gets nothing from it. Equal scores are ordered by id.

    Args:
        rankings: lists of ids, each best first and without repetitions.
        k: dampens the lead of the first ranks; 60 in the paper.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, identifier in enumerate(ranking, start=1):
            scores[identifier] += 1.0 / (k + rank)
    return rank_scores(scores)


def fuse_by_score(
    dense: Mapping[str, float], sparse: Mapping[str, float], alpha: float
) -> list[tuple[str, float]]:
    """Return convex combination ``alpha · dense + (1 − alpha) · sparse`` of scores that are min-max scaled within each
    list.

    Bruch, Gai & Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", ACM TOIS 42(1), 2023. A document that
    a list does not hold counts 0 there. Equal scores are ordered by id.

    Args:
        dense: cosine similarity by id.
        sparse: BM25 score by id.
        alpha: weight of the dense list, 0 to 1.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for weight, listed in ((alpha, dense), (1.0 - alpha, sparse)):
        for identifier, value in min_max(listed).items():
            scores[identifier] += weight * value
    return rank_scores(scores)


def min_max(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores scaled to [0, 1]. Where all are equal there is nothing to tell them apart, and each counts 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    spread = high - low
    return {identifier: (value - low) / spread if spread > 0 else 1.0 for identifier, value in scores.items()}


def rank_scores(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return (id, score), best first; equal scores by id, so that the order never depends on chance."""
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def fuse(
    dense: Mapping[str, float],
    sparse: Mapping[str, float],
    fusion: Fusion,
    titles: Mapping[str, float] | None = None,
) -> list[tuple[str, float]]:
    """Fuse lists of scores by id in the way asked for.

    Args:
        titles: cosine similarity to the titles by id; None where the index holds none. RRF takes it as a list like the
            others; with weights, title and body share the weight of the dense half equally.
    """
    if isinstance(fusion, RrfFusion):
        lists = [dense, sparse] if titles is None else [dense, sparse, titles]
        return fuse_by_rank(
            [[identifier for identifier, _ in rank_scores(scores)] for scores in lists], fusion.k
        )
    if titles is None:
        return fuse_by_score(dense, sparse, fusion.alpha)
    scaled: defaultdict[str, float] = defaultdict(float)
    for listed in (dense, titles):
        for identifier, value in min_max(listed).items():
            scaled[identifier] += value / 2
    scores: defaultdict[str, float] = defaultdict(float)
    for weight, values in ((fusion.alpha, scaled), (1.0 - fusion.alpha, min_max(sparse))):
        for identifier, value in values.items():
            scores[identifier] += weight * value
    return rank_scores(scores)

"""Retrieval metrics over spans of documents.

A source covers a relevant span when it holds at least ``min_overlap`` of it, or, where the span is longer than the
source, when at least that share of the source lies in it. A span counts once, at the first rank that covers it: a
second chunk with the same words tells the reader nothing new.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2

from llm_engineering.application.evaluation.rag.questions import Target
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import InvalidInputError

MIN_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Source:
    """A ranked result as text of a document: a chunk, or the passage around it."""

    document_id: str
    span: Span


@dataclass(frozen=True, slots=True)
class Judged:
    """A ranked list held against the relevant places: by rank, the grades of what that rank is the first to cover."""

    gains: tuple[tuple[int, ...], ...]
    grades: tuple[int, ...]
    """Of all relevant places, found or not."""


def covers(source: Source, target: Target, min_overlap: float = MIN_OVERLAP) -> bool:
    """Return whether a source counts as holding a relevant place; any part of the document does where no place is
    named."""
    if source.document_id != target.document_id:
        return False
    if target.span is None:
        return True
    shared = min(source.span.end, target.span.end) - max(source.span.start, target.span.start)
    shorter = min(source.span.end - source.span.start, target.span.end - target.span.start)
    return shorter > 0 and shared >= min_overlap * shorter


def judge(ranking: Sequence[Source], targets: Sequence[Target], min_overlap: float = MIN_OVERLAP) -> Judged:
    """Hold a ranked list, best first, against the relevant places.

    Raises:
        InvalidInputError: there are none; no metric here is defined for a question that nothing answers.
    """
    if not targets:
        raise InvalidInputError(
            "Recall, MRR and nDCG need at least one relevant place; leave unanswerable questions out."
        )
    waiting = list(targets)
    gains: list[tuple[int, ...]] = []
    for source in ranking:
        new = [target for target in waiting if covers(source, target, min_overlap)]
        waiting = [target for target in waiting if target not in new]
        gains.append(tuple(target.grade for target in new))
    return Judged(tuple(gains), tuple(target.grade for target in targets))


def compute_recall(judged: Judged, k: int) -> float:
    """Return ``|relevant places among the first k| / |relevant places|`` (Manning, Raghavan & Schütze, *Introduction to
    Information Retrieval*, 2008, section 8.4)."""
    return sum(len(new) for new in judged.gains[:k]) / len(judged.grades)


def reciprocal_rank(judged: Judged) -> float:
    """Return ``1 / rank`` of the first relevant source, 0 without one; its mean is MRR (Voorhees, TREC-8 QA track
    report, 1999)."""
    return next((1.0 / rank for rank, new in enumerate(judged.gains, start=1) if new), 0.0)


def compute_ndcg(judged: Judged, k: int) -> float:
    """Return ``DCG@k / ideal DCG@k`` with ``DCG@k = Σ grade_i / log2(i + 1)`` (Järvelin & Kekäläinen, ACM TOIS 20(4),
    2002).

    The ideal order is one relevant place a rank, best grade first, over all of them. A source that covers several places
    at once can beat that order; the value is capped at 1.
    """
    ideal = _dcg(sorted(judged.grades, reverse=True)[:k])
    return min(1.0, _dcg(sum(new) for new in judged.gains[:k]) / ideal)


def _dcg(gains: Iterable[float]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def measure_ranking(judged: Judged, ks: Sequence[int]) -> dict[str, float]:
    """Return all metrics of one question by name: ``recall@k`` and ``ndcg@k`` for each k, ``mrr`` over the whole list."""
    values = {f"recall@{k}": compute_recall(judged, k) for k in ks}
    values |= {f"ndcg@{k}": compute_ndcg(judged, k) for k in ks}
    return values | {"mrr": reciprocal_rank(judged)}

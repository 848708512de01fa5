"""Where to be silent: how near to a question its best passage must be, measured on the collection itself.

How near unrelated texts come to each other depends on the models and on what was collected: a cosine of 0.3 says
something about essays, and nothing about abstracts of one trade. So questions from other worlds are put to the index,
and what they reach by chance is where answers begin.

Two readings of nearness are better than one: the cosine of the best passage, and the reranker's score of the few sentences
that answer best. On the sample, their mean tells 99 % of the pairs of an answerable and a foreign question apart, the cosine
alone 98 %, which is one answerable question in sixteen refused instead of one in nine.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from loguru import logger

from llm_engineering.application.files import atomic_write
from llm_engineering.application.inference.quotes import DEPTH, Rank, measure_closeness
from llm_engineering.application.inference.search import as_passages
from llm_engineering.application.ports import Embedder, SearchRequest, VectorIndex, Vectors
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ModelError, StoreError
from llm_engineering.domain.retrieval import Hit, SearchMode

QUESTIONS = tuple(Path(__file__).with_name("foreign_questions.txt").read_text(encoding="utf-8").splitlines())
"""On cooking, sport, history …; half of them use words of the trade, as in "train a puppy". English only: an embedder that
knows other languages places them beside those, and one that does not cannot tell there what is foreign."""
UNMEASURED_FLOOR = 0.35
DECLINED = 0.95
"""Share of the foreign questions that the floor declines."""
_ALIKE = 0.9
_MOST_KEPT = 20
"""Collections whose floors are kept."""
_READ_CLOSELY = 24
"""Foreign questions that the reranker sees, those nearest to the collection: the others lie far below any floor."""


class Floors(NamedTuple):
    """Where answers begin."""

    similarity: float
    """Cosine similarity to the best passage below which a question, or a subject, is foreign to the collection."""
    confidence: float
    """The mean of that and of the reranker's score of the best part, below which a question is. Without a reranker the same
    as ``similarity``."""


UNMEASURED = Floors(UNMEASURED_FLOOR, UNMEASURED_FLOOR)


def join_nearness(similarity: float, closeness: float | None) -> float:
    """Return how sure it is that passages bear on a question, on the scale of a cosine; higher is surer.

    Args:
        similarity: highest cosine of a passage.
        closeness: the reranker's score of the part that answers best; None: there is none.
    """
    return similarity if closeness is None else (similarity + closeness) / 2


def measure_floors(index: VectorIndex, embedder: Embedder, rank: Rank | None = None) -> Floors:
    """Return the floors of an index. Blocking; with a reranker it takes seconds.

    Raises:
        StoreError: the index is not there, or failed.
        ModelError: the embedder or the reranker failed.
    """
    vectors = embedder.embed_queries(QUESTIONS)
    return _measure(_search(index, embedder, vectors), vectors, rank)


def _search(index: VectorIndex, embedder: Embedder, vectors: Vectors) -> list[list[Hit]]:
    """What is nearest to each foreign question, best first."""
    requests = [
        SearchRequest(text=text, vector=vector, k=DEPTH, mode=SearchMode.DENSE)
        for text, vector in zip(QUESTIONS, vectors, strict=True)
    ]
    return index.search(requests, embedder.fingerprint)


def _measure(
    found: Sequence[Sequence[Hit]], vectors: Vectors, rank: Rank | None, declined: float = DECLINED
) -> Floors:
    if not all(found):
        return UNMEASURED
    nearest = np.array([hits[0].score for hits in found])
    between = vectors @ vectors.T
    np.fill_diagonal(between, -1.0)
    twins, alike = between.argmax(axis=1), between.max(axis=1)
    similarity = compute_floor(nearest, alike, declined)
    if rank is None:
        return Floors(similarity, similarity)
    confidences, twin_confidences = nearest.copy(), alike.copy()
    for i in np.argsort(-nearest)[:_READ_CLOSELY]:
        closeness = measure_closeness(QUESTIONS[i], as_passages(found[i]), rank)
        confidences[i] = join_nearness(nearest[i], closeness)
    for i in np.argsort(-alike)[:_READ_CLOSELY]:
        twin = QUESTIONS[twins[i]]
        [closeness] = rank(QUESTIONS[i], [twin], [(0, (Span(start=0, end=len(twin)),))])
        twin_confidences[i] = join_nearness(alike[i], closeness)
    return Floors(similarity, compute_floor(confidences, twin_confidences, declined))


def compute_floor(
    nearest: npt.NDArray[np.float64], alike: npt.NDArray[np.float64], declined: float = DECLINED
) -> float:
    """Return the floor that follows from how near each foreign question comes to the collection.

    It declines as many of them as asked for, unless the collection is so general that it answers many: a passage that is nearer
    than nine in ten of the questions are to the one most like them bears on the subject, whatever was collected, so the floor is
    never higher.

    Args:
        nearest: of each question to its best passage, shape (questions,).
        alike: of each question to the one most like it, shape (questions,).
        declined: share of them that it declines.
    """
    return float(min(np.quantile(nearest, declined), np.quantile(alike, _ALIKE)))


class AbstentionFloor:
    """The floors of an index, measured when they are first asked for and after the number of chunks has changed. Threads may
    share it.

    Args:
        rank: the reranker's scores; None: there is none.
        file: where measured floors are kept, since the reranker takes seconds; None: in memory only.
        declined: share of the foreign questions that the floor declines.
    """

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        rank: Rank | None = None,
        file: Path | None = None,
        *,
        declined: float = DECLINED,
    ) -> None:
        self._declined = declined
        self._index = index
        self._embedder = embedder
        self._rank = rank
        self._file = file
        self._lock = threading.Lock()
        self._vectors: Vectors | None = None
        self._kept: tuple[int, Floors] | None = None

    def get(self) -> Floors:
        """Return the floors; where they cannot be measured, those that suit the bundled embedder. Blocking."""
        try:
            with self._lock:
                chunks = self._index.count()
                if self._kept is None or self._kept[0] != chunks:
                    self._kept = chunks, self._find()
                return self._kept[1]
        except (ModelError, StoreError) as error:
            logger.warning("The abstention floor cannot be measured; {} is used: {}", UNMEASURED_FLOOR, error)
            return UNMEASURED

    def _find(self) -> Floors:
        """The floors that the file holds for what the index finds, else as measured."""
        if self._vectors is None:
            self._vectors = self._embedder.embed_queries(QUESTIONS)
        found = _search(self._index, self._embedder, self._vectors)
        # What is found and how near it is tells one collection and its models from another.
        seen = [(hit.chunk.id, round(hit.score, 4)) for hits in found for hit in hits]
        key = hashlib.sha256(json.dumps([seen, self._rank is None, self._declined]).encode()).hexdigest()[:16]
        kept = self._read()
        if key in kept:
            return Floors(*kept[key])
        floors = _measure(found, self._vectors, self._rank, self._declined)
        logger.info(
            "Measured once for this collection: questions are answered from a confidence of {:.3f} on.",
            floors.confidence,
        )
        self._write(kept | {key: list(floors)})
        return floors

    def _read(self) -> dict[str, list[float]]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8")) if self._file else {}
            return {key: [float(low), float(high)] for key, (low, high) in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write(self, kept: dict[str, list[float]]) -> None:
        if self._file is None:
            return
        newest = dict(list(kept.items())[-_MOST_KEPT:])
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._file, json.dumps(newest, indent=1))
        except OSError as error:
            logger.warning("The abstention floor is measured again next time: {}", error)

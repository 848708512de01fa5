"""Where to be silent: how near to a question its best passage must be, measured on the collection itself.

How near unrelated texts come to each other depends on the embedder and on what was collected: a cosine of 0.3 says
something about essays, and nothing about abstracts of one trade. So questions from other worlds are put to the index,
and what they reach by chance is where answers begin.
"""

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
from loguru import logger

from llm_engineering.application.ports import Embedder, SearchRequest, VectorIndex, Vectors
from llm_engineering.domain.errors import ModelError, StoreError
from llm_engineering.domain.retrieval import SearchMode

QUESTIONS = tuple(Path(__file__).with_name("foreign_questions.txt").read_text(encoding="utf-8").splitlines())
"""On cooking, sport, history …; half of them use words of the trade, as in "train a puppy". English only: an embedder that
knows other languages places them beside those, and one that does not cannot tell there what is foreign."""
UNMEASURED_FLOOR = 0.35
DECLINED = 0.95
"""Share of the foreign questions that the floor declines."""
_ALIKE = 0.9


def measure_floor(index: VectorIndex, embedder: Embedder) -> float:
    """Return the cosine similarity to the best passage below which a question is foreign to the collection. Blocking.

    Raises:
        StoreError: the index is not there, or failed.
        ModelError: the embedder failed.
    """
    return _search(index, embedder, embedder.embed_queries(QUESTIONS))


def _search(index: VectorIndex, embedder: Embedder, vectors: Vectors) -> float:
    requests = [
        SearchRequest(text=text, vector=vector, k=1, mode=SearchMode.DENSE)
        for text, vector in zip(QUESTIONS, vectors, strict=True)
    ]
    found = index.search(requests, embedder.fingerprint)
    nearest = [hits[0].score for hits in found if hits]
    return compute_floor(np.array(nearest), vectors) if nearest else UNMEASURED_FLOOR


def compute_floor(nearest: npt.NDArray[np.float64], questions: Vectors) -> float:
    """Return the floor that follows from each question's similarity to its nearest passage.

    It declines 95 % of them, unless the collection is so general that it answers many: a passage that is nearer than nine in
    ten of the questions are to the one most like them bears on the subject, whatever was collected, so the floor is
    never higher.

    Args:
        nearest: cosines, shape (questions,).
        questions: their unit vectors, shape (questions, dimension).
    """
    alike = questions @ questions.T
    np.fill_diagonal(alike, -1.0)
    return float(min(np.quantile(nearest, DECLINED), np.quantile(alike.max(axis=1), _ALIKE)))


class AbstentionFloor:
    """The floor of an index, measured when it is first asked for and after the number of chunks has changed. Threads may
    share it."""

    def __init__(self, index: VectorIndex, embedder: Embedder) -> None:
        self._index = index
        self._embedder = embedder
        self._lock = threading.Lock()
        self._vectors: Vectors | None = None
        self._kept: tuple[int, float] | None = None

    def get(self) -> float:
        """Return the floor; where it cannot be measured, one that suits the bundled embedder. Blocking."""
        try:
            with self._lock:
                chunks = self._index.count()
                if self._kept is None or self._kept[0] != chunks:
                    if self._vectors is None:
                        self._vectors = self._embedder.embed_queries(QUESTIONS)
                    self._kept = chunks, _search(self._index, self._embedder, self._vectors)
                    logger.info(
                        "Questions are answered from a similarity of {:.3f} on, as measured on {:,} chunks.",
                        self._kept[1],
                        chunks,
                    )
                return self._kept[1]
        except (ModelError, StoreError) as error:
            logger.warning("The abstention floor cannot be measured; {} is used: {}", UNMEASURED_FLOOR, error)
            return UNMEASURED_FLOOR

"""Late interaction: a passage answers a question as far as each word of the question finds its like in it.

The relevance of a passage is MaxSim (Khattab & Zaharia, "ColBERT", SIGIR 2020): for each token of the question the best
cosine among the passage's tokens. ColBERT adds these up; here they are averaged, weighted by how few of the passages at
hand hold the token, so that a question's telling words count more than its filler. Pure functions over arrays.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from llm_engineering.application.ports import TokenVectors, Vectors
from llm_engineering.domain.documents import Span

WEIGHT_FLOOR = 0.1
"""Added to each token's weight: one that every passage holds tells little, but not nothing."""


def score_passages(question: TokenVectors, passages: Sequence[TokenVectors]) -> npt.NDArray[np.float64]:
    """Return weighted mean of the best cosine of each token of the question, for each passage: shape (passages,), in
    [-1, 1].

    ``score(d) = Σ_t w_t · max_j cos(t, d_j) / Σ_t w_t``, with ``w_t`` of :func:`token_rarity`. A passage without words gets
    −1; a question without words finds all passages equal, at 0.
    """
    if not len(question.ids):
        return np.zeros(len(passages))
    weights = token_rarity(question, passages)
    return np.asarray(best_matches(question, passages) @ weights / weights.sum())


def best_matches(question: TokenVectors, passages: Sequence[TokenVectors]) -> npt.NDArray[np.float64]:
    """Return the best cosine of each token of the question in each passage: shape (passages, question's tokens)."""
    best = np.full((len(passages), len(question.ids)), -1.0)
    held = [row for row, passage in enumerate(passages) if len(passage.ids)]
    if held:
        tokens = np.concatenate([passages[row].vectors for row in held]).astype(np.float32)
        starts = np.cumsum([0, *(len(passages[row].ids) for row in held[:-1])])
        cosines = tokens @ question.vectors.astype(np.float32).T
        best[held] = np.maximum.reduceat(cosines, starts, axis=0)
    return best


def token_rarity(question: TokenVectors, passages: Sequence[TokenVectors]) -> npt.NDArray[np.float64]:
    """Return inverse document frequency of each token of the question among the passages at hand, plus a floor.

    ``ln(1 + (n − m + ½) / (m + ½))`` of a token that m of n passages hold: the form that BM25 uses (Robertson &
    Zaragoza, 2009). The candidates of a search all share its commonest words, so what sets them apart is known only here.
    """
    holders = np.zeros(len(question.ids))
    for passage in passages:
        holders += np.isin(question.ids, passage.ids)
    return np.log1p((len(passages) - holders + 0.5) / (holders + 0.5)) + WEIGHT_FLOOR


def select_tokens(value: TokenVectors, spans: Sequence[Span]) -> TokenVectors:
    """Return the tokens that begin in one of the spans."""
    edges = np.array([(span.start, span.end) for span in spans], dtype=np.int64).reshape(-1, 2)
    begins = value.starts[:, None]
    inside = ((edges[:, 0] <= begins) & (begins < edges[:, 1])).any(axis=1)
    return TokenVectors(value.ids[inside], value.vectors[inside], value.starts[inside])


class TokenVectorCache:
    """Token vectors by text hash, kept in half precision, the least recently used dropped first. Threads may share it.

    Args:
        max_bytes: of all vectors together; 384 dimensions in half precision take about 150 kB for 200 tokens.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._entries: OrderedDict[str, TokenVectors] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: str) -> TokenVectors | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: str, value: TokenVectors) -> TokenVectors:
        """Keep a value; returns it as it is kept, in half precision, so that a first use and a later one agree."""
        kept = halve_precision(value)
        with self._lock:
            previous = self._entries.pop(key, None)
            self._bytes += kept.nbytes - (previous.nbytes if previous else 0)
            self._entries[key] = kept
            while self._bytes > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= dropped.nbytes
        return kept

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0


def halve_precision(value: TokenVectors) -> TokenVectors:
    """Return the same in half precision: cosines change by less than 0.001."""
    return TokenVectors(value.ids, value.vectors.astype(np.float16), value.starts)


def as_unit(hidden: npt.NDArray[np.floating]) -> Vectors:
    """Return rows scaled to unit length; shape kept."""
    lengths = np.linalg.norm(hidden, axis=1, keepdims=True)
    return np.asarray(hidden / np.maximum(lengths, 1e-12), dtype=np.float32)

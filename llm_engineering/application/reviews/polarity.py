"""Whether a sentence praises or complains: a ridge regression over its embedding and its words.

It learns from sentences of ours in six languages, and from the stars that customers gave with their own sentences, so that it
knows the words of the shop. It is learned anew in every run that has something to score, with whatever embedder is configured;
nothing is shipped or kept that belongs to another. The sentences of ours, which are about many things, also say how near
unrelated texts lie with this embedder.
"""

import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np

from llm_engineering.application.analysis.heads import Floats, TextEmbedder
from llm_engineering.application.ports import Vectors
from llm_engineering.application.text.words import split_words, stem
from llm_engineering.domain.reviews import Polarity

EXAMPLES = Path(__file__).with_name("polarity.txt")
MOST_RATED = 4_000
"""Sentences with stars that are learned from."""
UNSURE = 0.25
"""Scores nearer to zero than this say neither."""
_VALUES = {"+": 1.0, "-": -1.0, "0": 0.0}
_BUCKETS = 4_096
"""Of words and pairs of words, by a checksum."""
_PENALTY = 3.0
_NEARNESS = 3.0
"""Standard deviations above the similarity of unrelated sentences from which on two say the same; 0.57 with MiniLM."""
_RELATED = 1.5
"""The same, from which on a written sentence can rest on a quote; 0.35 with MiniLM."""
_TRANSLATED = (("The battery is dead after two hours.", "Der Akku ist nach zwei Stunden leer."),
               ("Fast delivery, well packed.", "Livraison rapide et bien emballée."),
               ("The room was dirty.", "La camera era sporca."))  # fmt: skip


class PolarityScorer:
    """Scores sentences, about -1 (complaint) to +1 (praise).

    Args:
        rated: sentences of customers with the stars of their review, 1 to 5, to learn from.
    """

    def __init__(self, embedder: TextEmbedder, rated: Sequence[tuple[str, float]] = ()) -> None:
        self.embedder = embedder
        self._rated = rated[:MOST_RATED]

    def score(self, texts: Sequence[str]) -> Floats:
        """Return a score for each text."""
        if not texts:
            return np.zeros(0, dtype=np.float32)
        return cast(Floats, (self._describe(texts) @ self._weights).astype(np.float32))

    def name(self, texts: Sequence[str]) -> list[Polarity]:
        """Return what each text is."""
        return [name_polarity(float(score)) for score in self.score(texts)]

    @property
    def same(self) -> float:
        """Cosine similarity from which on two sentences say the same, with this embedder."""
        mean, spread = self._unrelated
        return min(mean + _NEARNESS * spread, 0.95)

    @property
    def related(self) -> float:
        """Cosine similarity from which on two sentences are about the same, with this embedder."""
        mean, spread = self._unrelated
        return min(mean + _RELATED * spread, 0.95)

    @cached_property
    def multilingual(self) -> bool:
        """Whether the embedder sees that a sentence and its translation say the same."""
        first = self.embedder.embed([one for one, _ in _TRANSLATED])
        second = self.embedder.embed([other for _, other in _TRANSLATED])
        return float((first * second).sum(axis=1).mean()) >= self.same

    @cached_property
    def _examples(self) -> list[tuple[str, float]]:
        lines = EXAMPLES.read_text(encoding="utf-8").splitlines()
        return [(text, _VALUES[mark]) for mark, _, text in (line.partition(" ") for line in lines if line)]

    @cached_property
    def _weights(self) -> Floats:
        known = [*self._examples, *((text, (stars - 3.0) / 2.0) for text, stars in self._rated)]
        inputs = self._describe([text for text, _ in known])
        values = np.array([value for _, value in known], dtype=np.float32)
        # There are fewer sentences than features, so the smaller of the two equivalent systems is solved.
        gram = inputs @ inputs.T + _PENALTY * np.eye(len(known), dtype=np.float32)
        return cast(Floats, inputs.T @ np.linalg.solve(gram, values))

    @cached_property
    def _unrelated(self) -> tuple[float, float]:
        vectors = self.embedder.embed([text for text, _ in self._examples])
        similar = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
        return float(similar.mean()), float(similar.std())

    def _describe(self, texts: Sequence[str]) -> Vectors:
        constant = np.ones((len(texts), 1), dtype=np.float32)
        return np.hstack([self.embedder.embed(texts), _count_words(texts), constant])


def name_polarity(score: float) -> Polarity:
    """Return what a score says."""
    if score >= UNSURE:
        return Polarity.POSITIVE
    return Polarity.NEGATIVE if score <= -UNSURE else Polarity.NEUTRAL


def _count_words(texts: Sequence[str]) -> Floats:
    counts = np.zeros((len(texts), _BUCKETS), dtype=np.float32)
    for row, text in enumerate(texts):
        words = [stem(word) for word in split_words(text)]
        pairs = (f"{one} {other}" for one, other in pairwise(words))
        for part in (*words, *pairs):
            counts[row, zlib.crc32(part.encode("utf-8", "replace")) % _BUCKETS] += 1
    return cast(Floats, counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6))

"""An embedder without a model: vectors of hashed words, so that texts which share words are similar.

It keeps every promise of the port (``tests/conformance/embedder_contract.py``): unit length, order kept, texts above
the limit refused, queries cut. Similarity is that of bags of words: good enough to find the text that names what is
asked.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from llm_engineering.application.ports import Vectors
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.errors import ModelError

_TOKEN = re.compile(r"\w{1,12}|[^\w\s]")


class WordTokenizer:
    """A token is up to 12 word characters in a row, or one punctuation mark. Two special tokens, as BERT has."""

    special_tokens = 2
    splits_at_blank_space = True

    def find_offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text the (start, end) characters of each token, in order."""
        return [[match.span() for match in _TOKEN.finditer(text)] for text in texts]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens left out."""
        return [sum(1 for _ in _TOKEN.finditer(text)) for text in texts]


class HashEmbedder:
    """Each word is a fixed pseudo-random direction; a text is the sum of its words, scaled to unit length.

    ``calls``, ``texts_embedded`` and ``queries_embedded`` count what was asked of it; ``fail_on`` makes every text that
    contains it raise ModelError; ``closed`` counts the calls of ``close``.
    """

    def __init__(
        self,
        dimension: int = 64,
        max_tokens: int = 256,
        *,
        model: str = "hash-words",
        fail_on: str | None = None,
    ) -> None:
        self._dimension = dimension
        self._max_tokens = max_tokens
        self._model = model
        self._tokenizer = WordTokenizer()
        self.fail_on = fail_on
        self.calls = 0
        self.texts_embedded = 0
        self.queries_embedded = 0
        self.closed = 0

    @property
    def fingerprint(self) -> EmbedderFingerprint:
        return EmbedderFingerprint(
            model=self._model,
            weights="none",
            dimension=self._dimension,
            pooling="sum",
            max_tokens=self._max_tokens,
        )

    @property
    def tokenizer(self) -> WordTokenizer:
        return self._tokenizer

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (n, dimension).

        Raises:
            ModelError: a text has more than ``max_tokens`` tokens, special ones included, or holds ``fail_on``.
        """
        self.calls += 1
        self.texts_embedded += len(texts)
        for position, (text, count) in enumerate(zip(texts, self._tokenizer.counts(texts), strict=True)):
            if count + self._tokenizer.special_tokens > self._max_tokens:
                raise ModelError(
                    f"Text {position} has {count + self._tokenizer.special_tokens} tokens; "
                    f"{self._model} takes at most {self._max_tokens}. Chunk it smaller."
                )
            if self.fail_on is not None and self.fail_on in text:
                raise ModelError(
                    f"Text {position} holds {self.fail_on!r}, on which this fake was told to fail."
                )
        return self._vectors(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As :meth:`embed_documents`, but what is too long is cut."""
        self.calls += 1
        self.queries_embedded += len(texts)
        limit = self._max_tokens - self._tokenizer.special_tokens
        spans = self._tokenizer.find_offsets(texts)
        return self._vectors(
            [t[: s[limit - 1][1]] if len(s) > limit else t for t, s in zip(texts, spans, strict=True)]
        )

    def close(self) -> None:
        self.closed += 1

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        result = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for row, text in zip(result, texts, strict=True):
            for match in _TOKEN.finditer(text.casefold()):
                row += _direction(match.group(), self._dimension)
            norm = np.linalg.norm(row)
            if norm > 0:
                row /= norm
            else:  # a text without any token still gets a unit vector
                row[0] = 1.0
        return result


@lru_cache(maxsize=100_000)
def _direction(word: str, dimension: int) -> Vectors:
    """A pseudo-random direction of that word, the same on every machine."""
    seed = int.from_bytes(
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
    return np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)

"""Embeddings of the texts used last, so that sentences which many answers share are embedded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from llm_engineering.application.ports import Vectors
from llm_engineering.domain.documents import text_hash


class EmbeddingMemory:
    """Wraps a function from texts to unit vectors; remembers ``size`` of them, dropping the one unused for longest.

    For use by several threads. Two that miss the same text at the same time embed it twice, which costs less than waiting.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Vectors], size: int = 8_192) -> None:
        self._embed = embed
        self._size = size
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def missing(self, texts: Sequence[str]) -> int:
        """How many of the texts would have to be embedded."""
        with self._lock:
            return len({text_hash(text) for text in texts} - self._vectors.keys())

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (n, dimension), one for each text, in order. Blocking.

        Raises:
            ModelError: the embedder failed.
        """
        keys = [text_hash(text) for text in texts]
        with self._lock:
            found = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in found:
                self._vectors.move_to_end(key)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            made = self._embed(list(missing.values()))
            found.update(zip(missing, made, strict=True))
            self._keep({key: np.array(vector) for key, vector in zip(missing, made, strict=True)})
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, 0), dtype=np.float32)

    def _keep(self, made: dict[str, Vectors]) -> None:
        with self._lock:
            self._vectors.update(made)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)

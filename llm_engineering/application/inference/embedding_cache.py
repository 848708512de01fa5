"""Embeddings of the texts used last, so that sentences which many answers share are embedded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from llm_engineering.application.ports import Vectors
from llm_engineering.domain.documents import text_hash


class EmbeddingMemory:
    """Wraps a function from texts to unit vectors; remembers ``size`` of them, dropping the one unused for longest.

    For use by several threads: where two miss the same text at the same time, one embeds it and the other waits.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Vectors], size: int = 8_192) -> None:
        self._embed = embed
        self._size = size
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._making: dict[str, Future[Vectors]] = {}
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
        found: dict[str, Vectors] = {}
        awaited: dict[str, Future[Vectors]] = {}
        mine: dict[str, str] = {}
        with self._lock:
            for key, text in zip(keys, texts, strict=True):
                if key in self._vectors:
                    self._vectors.move_to_end(key)
                    found[key] = self._vectors[key]
                elif key in self._making and key not in mine:
                    awaited[key] = self._making[key]
                elif key not in mine:
                    mine[key] = text
                    self._making[key] = Future()
        if mine:
            found.update(self._make(mine))
        found.update({key: future.result() for key, future in awaited.items()})
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, 0), dtype=np.float32)

    def _make(self, texts: dict[str, str]) -> dict[str, Vectors]:
        """Embed texts by key, and hand the vectors, or the failure, to those who wait for them."""
        try:
            vectors = self._embed(list(texts.values()))
            made = {key: np.array(vector) for key, vector in zip(texts, vectors, strict=True)}
        except BaseException as error:
            with self._lock:
                futures = [self._making.pop(key) for key in texts]
            for future in futures:
                future.set_exception(error)
            raise
        self._keep(made)
        with self._lock:
            futures = [self._making.pop(key) for key in texts]
        for future, vector in zip(futures, made.values(), strict=True):
            future.set_result(vector)
        return made

    def _keep(self, made: dict[str, Vectors]) -> None:
        with self._lock:
            self._vectors.update(made)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)

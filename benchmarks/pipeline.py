"""The feature steps in this process, on real stores, with the bundled embedder or with one that costs nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from llm_engineering.application.features.pipeline import (
    clean_documents,
    index_documents,
    mark_near_duplicates,
)
from llm_engineering.application.ports import (
    Embedder,
    Tokenizer,
    VectorIndex,
    Vectors,
    Warehouse,
)
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.infrastructure.embedders.onnx import OnnxEmbedder
from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex
from llm_engineering.infrastructure.model_files import model_path
from llm_engineering.settings import load_settings

DIMENSION, MAX_TOKENS = 384, 256


class MadeUpEmbedder:
    """Unit vectors from nowhere, at once, under the real tokenizer: what is left is the pipeline's own cost."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.fingerprint = EmbedderFingerprint(
            model="made-up", weights="none", dimension=DIMENSION, pooling="none", max_tokens=MAX_TOKENS
        )
        rows = np.random.default_rng(0).standard_normal((4_096, DIMENSION), dtype=np.float32)
        self._vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._next = 0

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        # Made beforehand and handed out in turn: even drawing numbers would take a share of the time.
        rows = np.arange(self._next, self._next + len(texts)) % len(self._vectors)
        self._next += len(texts)
        return np.asarray(self._vectors[rows], dtype=np.float32)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self.embed_documents(texts)

    def close(self) -> None:
        """Nothing is held."""


def bundled_embedder(threads: int = 0) -> OnnxEmbedder:
    """The embedder that a default installation runs; close it."""
    return OnnxEmbedder(model_path("all-MiniLM-L6-v2", load_settings().models_dir), threads=threads)


def run_steps(
    warehouse: Warehouse,
    embedder: Embedder,
    index: VectorIndex | Path,
    after: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Clean, mark and index as the pipeline's steps do; each step's report, and the seconds of all of them.

    Args:
        index: or the folder of an embedded one, which is opened and closed within the time that is measured.
        after: called with ``clean``, ``mark`` and ``index`` when that step ends.
    """
    start = perf_counter()
    opened = QdrantEdgeIndex(index) if isinstance(index, Path) else index
    try:
        cleaning = clean_documents(warehouse.documents, warehouse.clean, warehouse.dead_letters)
        after("clean")
        marking = mark_near_duplicates(warehouse.clean)
        after("mark")
        indexing = index_documents(
            warehouse.clean, opened, embedder, warehouse.embeddings, dead_letters=warehouse.dead_letters
        )
        after("index")
    finally:
        if isinstance(index, Path):
            opened.close()
    seconds = perf_counter() - start
    steps = {"clean": cleaning.to_metadata(), "mark": marking.to_metadata(), "index": indexing.to_metadata()}
    return {**steps, "seconds": seconds}

"""Embeddings on the CPU by ONNX Runtime.

How it is made fast (measured on 2 cores with all-MiniLM-L6-v2, int8, 256 tokens a text): one session whose operators
run on one thread each, called by as many workers as there are cores, on small batches that stay in the cache: 40 texts
a second, against 36 for operators spread over the cores, and 27 with batches four times as large. Texts are sorted by
length, so that little is padded, and the next texts are tokenised while the workers run.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_engineering.application.ports import TokenVectors, Vectors
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.errors import ConfigurationError, ModelError, ModelFileError
from llm_engineering.domain.hints import POE
from llm_engineering.infrastructure.embedders import WordPieceTokenizer
from llm_engineering.infrastructure.shared.late_interaction import as_unit
from llm_engineering.infrastructure.shared.onnx import open_session
from llm_engineering.infrastructure.shared.token_batches import (
    Ids,
    batches_by_length,
    pad_rows,
    split_windows,
)

WINDOW_TEXTS = 512
"""Texts that are tokenised, sorted and embedded together: enough to fill batches of like length, few enough to hold."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model's card says, and its file does not."""

    dimension: int
    max_tokens: int
    """Special tokens included. What the model was trained on, not what its positions would allow."""
    query_prefix: str = ""


MODELS = {"all-MiniLM-L6-v2": ModelSpec(dimension=384, max_tokens=256)}


class OnnxEmbedder:
    """Mean-pooled, unit-length embeddings of a folder with ``model.onnx`` and ``tokenizer.json``.

    ``threads``: batches that run at the same time, 0 for one per core. ``batch_tokens``: padded tokens of one forward
    pass. Nothing is opened before it is needed; the fingerprint needs only the weights' checksum. May be used by many
    threads at once.
    """

    def __init__(
        self, model_dir: Path, model: str = "all-MiniLM-L6-v2", threads: int = 0, batch_tokens: int = 1024
    ) -> None:
        if model not in MODELS:
            raise ConfigurationError(
                f"EMBEDDER_MODEL: there is no bundled model {model!r}; there are: {', '.join(MODELS)}."
            )
        self._model = model
        self._spec = MODELS[model]
        self._file = model_dir / "model.onnx"
        self._tokenizer = WordPieceTokenizer(model_dir / "tokenizer.json")
        self._threads = threads or len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        )
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()
        self._session: Any = None
        self._pool: ThreadPoolExecutor | None = None

    @cached_property
    def fingerprint(self) -> EmbedderFingerprint:
        """Identifies the vectors; reads the weights once for their checksum (20 ms for 23 MB).

        Raises:
            ModelFileError: the weights are missing.
        """
        weights = hashlib.sha256(_read(self._file)).hexdigest()
        spec = self._spec
        return EmbedderFingerprint(
            model=self._model,
            weights=weights,
            dimension=spec.dimension,
            pooling="mean",
            max_tokens=spec.max_tokens,
        )

    @property
    def tokenizer(self) -> WordPieceTokenizer:
        return self._tokenizer

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return embeddings of shape (n, dimension), in the order given.

        Raises:
            ModelError: a text has more tokens than the model takes: nothing is cut silently.
            ModelFileError: the model's files are missing or broken.
        """
        return self._embed(texts, cut=False)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As :meth:`embed_documents`, with the model's query prefix; what is too long is cut."""
        return self._embed([self._spec.query_prefix + text for text in texts], cut=True)

    @property
    def model(self) -> str:
        return self._model

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """Return the last hidden state of each token of each text, scaled to unit length; special tokens and those
        without a letter or digit are left out, unless there are no others. A longer text than the model takes is read
        in windows.

        Each window goes through the model alone, though a batch is up to a fifth faster: int8 weights scale a whole
        batch by its largest value, so a text's vectors, and with them its rank, would depend on its neighbours.

        Raises:
            ModelFileError: the model's files are missing or broken.
        """
        session, pool = self._open()
        limit = self._spec.max_tokens
        rows: list[tuple[int, Ids, Ids]] = [
            (position, window, places)
            for position, (row, starts) in enumerate(self._tokenizer.encode_with_starts(texts))
            for window, places in zip(split_windows(row, limit), split_windows(starts, limit), strict=True)
        ]
        # Longest first, so that the workers end together.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i][1]))
        states: list[TokenVectors | None] = [None] * len(rows)
        if len(rows) == 1:
            states[0] = self._states(session, *rows[0][1:])
        else:
            for i, future in [(i, pool.submit(self._states, session, *rows[i][1:])) for i in order]:
                states[i] = future.result()
        found: list[list[TokenVectors]] = [[] for _ in texts]
        for (position, _, _), state in zip(rows, states, strict=True):
            assert state is not None  # each was run above
            found[position].append(state)
        return [_joined(parts) for parts in found]

    def _states(self, session: Any, row: Ids, starts: Ids) -> TokenVectors:
        hidden = session.run(None, pad_batch([row]))[0][0]
        inner = slice(1, -1)
        words = ~np.isin(row[inner], self._tokenizer.marks)
        if not words.any():
            words[:] = True
        return TokenVectors(row[inner][words], as_unit(hidden[inner][words]), starts[inner][words])

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown()
            self._pool = self._session = None

    def _embed(self, texts: Sequence[str], *, cut: bool) -> Vectors:
        vectors = np.empty((len(texts), self._spec.dimension), dtype=np.float32)
        if not len(texts):
            return vectors
        session, pool = self._open()
        running: list[tuple[Ids, Future[Vectors]]] = []
        for start in range(0, len(texts), WINDOW_TEXTS):
            # The window before runs while this one is tokenised.
            ids = self._ids(texts[start : start + WINDOW_TEXTS], start, cut=cut)
            batches = list(batches_by_length([len(row) for row in ids], self._batch_tokens))
            if len(batches) == 1 and not running:
                vectors[start + batches[0]] = forward(session, [ids[i] for i in batches[0]])
                continue
            submitted = [
                (start + rows, pool.submit(forward, session, [ids[i] for i in rows])) for rows in batches
            ]
            _collect(running, vectors)
            running = submitted
        _collect(running, vectors)
        return vectors

    def _ids(self, texts: Sequence[str], start: int, *, cut: bool) -> list[Ids]:
        limit = self._spec.max_tokens
        ids = self._tokenizer.encode_ids(texts)
        for position, row in enumerate(ids):
            if len(row) <= limit:
                continue
            if not cut:
                raise ModelError(
                    f"Text {start + position} has {len(row)} tokens, special ones included; {self._model} takes at "
                    f"most {limit}, and nothing is cut silently. Chunk it smaller. It begins: {texts[position][:80]!r}"
                )
            ids[position] = np.append(row[: limit - 1], row[-1])  # the closing special token stays
        return ids

    def _open(self) -> tuple[Any, ThreadPoolExecutor]:
        with self._lock:
            if self._session is None or self._pool is None:
                self._session = open_model(self._file)
                came = self._session.get_outputs()[0].shape[-1]
                if came != self._spec.dimension:
                    raise ModelFileError(
                        f"{self._file} gives vectors of {came}, but {self._model} has {self._spec.dimension}. "
                        f"Delete it and run: {POE} download-models"
                    )
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="embed")
            return self._session, self._pool


def open_model(file: Path, operator_threads: int = 1) -> Any:
    """Open an embedding model's session. With one operator thread, everything runs on the calling thread.

    Raises:
        ModelFileError: the file is missing or is not a model.
    """
    remedy = f"Delete it and run: {POE} download-models"
    return open_session(_read(file), file, remedy, operator_threads=operator_threads)


def forward(session: Any, rows: Sequence[Ids]) -> Vectors:
    """Run one batch of token ids and pool it: the mean of the real tokens' last hidden states, scaled to unit length
    (Reimers & Gurevych, EMNLP 2019). Shape (len(rows), dimension)."""
    inputs = pad_batch(rows)
    hidden = session.run(None, inputs)[0]
    mask = inputs["attention_mask"].astype(np.float32)
    pooled = np.einsum("btd,bt->bd", hidden, mask)  # the scaling below makes dividing by the count needless
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), dtype=np.float32)


def pad_batch(rows: Sequence[Ids]) -> dict[str, Ids]:
    """Return a batch's inputs, padded to its longest row; each of shape (len(rows), longest)."""
    ids = pad_rows(rows)
    mask = pad_rows([np.ones_like(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _joined(parts: Sequence[TokenVectors]) -> TokenVectors:
    if len(parts) == 1:
        return parts[0]
    return TokenVectors(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.starts for part in parts]),
    )


def _collect(running: Sequence[tuple[Ids, "Future[Vectors]"]], vectors: Vectors) -> None:
    for rows, future in running:
        vectors[rows] = future.result()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{file} is missing. Fetch it with: {POE} download-models") from None

"""Embeddings from any OpenAI-compatible ``/embeddings`` endpoint."""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from loguru import logger

from llm_engineering.application.ports import Vectors
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.errors import ModelServiceError, TextRefusedError
from llm_engineering.domain.retrieval import Usage
from llm_engineering.infrastructure.embedders import WordPieceTokenizer
from llm_engineering.infrastructure.shared.openai_stream import error_message
from llm_engineering.infrastructure.shared.retries import RETRIED_STATUSES, delay_seconds, retry_after_seconds

if TYPE_CHECKING:
    import httpx


_REFUSED_STATUSES = frozenset({400, 413, 422})
"""Answers that are about what was sent."""


class OpenAIEmbedder:
    """Unit-length embeddings of a service, asked in batches, and again with growing waits when it is busy.

    ``max_tokens`` is counted by the tokenizer at ``tokenizer_path``; keep it well below the service's own limit. The
    key goes into a header and nowhere else. May be used by many threads at once.

    Args:
        price: US dollars for a million tokens; None: costs are not counted.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        model: str,
        dimension: int,
        max_tokens: int,
        tokenizer_path: Path,
        batch_size: int = 64,
        timeout_seconds: float = 30.0,
        query_prefix: str = "",
        document_prefix: str = "",
        max_retries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
        price: float | None = None,
    ) -> None:
        self._price = price
        self._tokens = 0
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._model = model
        self._dimension = dimension
        self._max_tokens = max_tokens
        self._tokenizer = WordPieceTokenizer(tokenizer_path)
        self._batch_size = batch_size
        self._timeout = timeout_seconds
        self._query_prefix = query_prefix
        self._document_prefix = document_prefix
        self._max_retries = max_retries
        self._sleep = sleep
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        parts = urlsplit(base_url)
        self._service = (
            f"The embedding service at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        )

    @cached_property
    def fingerprint(self) -> EmbedderFingerprint:
        """Identifies the vectors. A service does not tell its weights; the prefixes change the vectors, so they count."""
        prefixed = bool(self._query_prefix or self._document_prefix)
        prefixes = f" {self._query_prefix!r} {self._document_prefix!r}" if prefixed else ""
        return EmbedderFingerprint(
            model=self._model,
            weights=f"service{prefixes}",
            dimension=self._dimension,
            pooling="service",
            max_tokens=self._max_tokens,
        )

    @property
    def tokenizer(self) -> WordPieceTokenizer:
        return self._tokenizer

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return embeddings of shape (n, dimension), in the order given.

        Raises:
            ModelError: a text has more than ``max_tokens`` tokens.
            TextRefusedError: the service does not take one of the texts.
            ModelServiceError: the service failed after all retries, or answered vectors that cannot be used.
        """
        prefixed = [self._document_prefix + text for text in texts]
        self._tokenizer.refuse_long(prefixed, self._max_tokens)
        return self._embed(prefixed)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As :meth:`embed_documents`, with the query prefix; what is too long is cut."""
        prefixed = [self._query_prefix + text for text in texts]
        return self._embed(self._tokenizer.shorten(prefixed, self._max_tokens))

    @property
    def usage(self) -> Usage:
        """Return the tokens that the service counted, with what they cost."""
        cost = None if self._price is None else self._tokens * self._price / 1_000_000
        return Usage(prompt_tokens=self._tokens, cost_usd=cost)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        # Of like length together: services pad a batch to its longest text.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            # Services refuse an empty input; a blank is nothing too.
            vectors[rows] = self._ask([texts[i] or " " for i in rows])
        return vectors

    def _ask(self, texts: Sequence[str]) -> Vectors:
        """One batch, tried again where that may help."""
        import httpx

        problem = ""
        for attempt in range(self._max_retries + 1):
            asked: float | None = None
            try:
                response = self._http().post("/embeddings", json={"model": self._model, "input": list(texts)})
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return self._vectors(response.content, len(texts))
                problem = f"{response.status_code}: {error_message(response.text)[0]}"
                if response.status_code in _REFUSED_STATUSES:
                    raise TextRefusedError(f"{self._service} refused {len(texts)} texts ({problem}).")
                if response.status_code not in RETRIED_STATUSES:
                    break
                asked = retry_after_seconds(response.headers.get("retry-after"), datetime.now(UTC))
            if attempt < self._max_retries:
                wait = delay_seconds(attempt, asked, random.random)
                logger.warning("{} failed ({}); trying again in {:.1f} s.", self._service, problem, wait)
                self._sleep(wait)
        raise ModelServiceError(
            f"{self._service} did not embed {len(texts)} texts ({problem}). Check EMBEDDER_BASE_URL, EMBEDDER_API_KEY "
            "and EMBEDDER_MODEL."
        )

    def _vectors(self, body: bytes, expected: int) -> Vectors:
        try:
            answer = json.loads(body)
            self._count(answer.get("usage"))
            data = sorted(answer["data"], key=lambda item: item["index"])
            vectors = np.array([item["embedding"] for item in data], dtype=np.float32)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelServiceError(
                f"{self._service} answered something that is not a list of embeddings ({error!r})."
            ) from error
        if vectors.shape != (expected, self._dimension):
            raise ModelServiceError(
                f"{self._service} answered vectors of shape {vectors.shape}, not ({expected}, {self._dimension}). "
                "Set EMBEDDER_DIMENSION to what the model gives."
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise ModelServiceError(
                f"{self._service} answered a vector without direction (zero, or not a number)."
            )
        return np.asarray(vectors / norms, dtype=np.float32)

    def _count(self, usage: object) -> None:
        """Count an answer's tokens; not every service tells them."""
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int):
            with self._lock:
                self._tokens += tokens

    def _with_key(self, request: "httpx.Request") -> "httpx.Request":
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request

    def _http(self) -> "httpx.Client":
        import httpx

        with self._lock:
            if self._client is None:
                # As "auth" and not as a header of the client: else credentials in the address would replace it.
                auth = self._with_key if self._api_key else None
                # Reading the certificates takes half a second of every process; plain http needs none.
                secure = urlsplit(self._base_url).scheme != "http"
                self._client = httpx.Client(
                    base_url=self._base_url, auth=auth, timeout=self._timeout, verify=secure
                )
            return self._client

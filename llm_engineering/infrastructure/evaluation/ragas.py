"""Judge answers with ragas through any OpenAI-compatible endpoint."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from loguru import logger

from llm_engineering.application.evaluation.rag.answers import JudgedSample, Scores
from llm_engineering.application.ports import Vectors
from llm_engineering.domain.errors import MissingDependencyError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

METRICS = ("faithfulness", "answer_relevancy", "context_precision", "context_recall")
NEEDS_REFERENCE = ("context_precision", "context_recall")
_UNREADABLE = frozenset({"ValidationError", "JSONDecodeError", "IncompleteOutputException"})
_LONGEST_REASON = 120

Score = Callable[[JudgedSample], Awaitable[Any]]


class RagasJudge:
    """The four classic metrics of ragas (Es et al., EACL 2024), each asked for by itself, so that one failing loses one score.

    Questions are compared by the project's own embedder, so the judge needs nothing but chat completions. Nothing is
    reported to ragas' makers.

    Args:
        embed: texts to unit vectors, shape (n, dimension); blocking.
        max_tokens: most tokens of a judge's reply; longer ones are cut and then cannot be read.
        max_retries: further tries after a failed request, and after a reply that cannot be read.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None,
        model: str,
        embed: Callable[[Sequence[str]], Vectors],
        timeout_seconds: float = 60.0,
        max_tokens: int = 2_048,
        max_retries: int = 1,
    ) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._model = model
        self._embed = embed
        self._timeout = timeout_seconds
        self._max_tokens = max_tokens
        self._max_retries = max_retries
        self._client: AsyncOpenAI | None = None
        self._scores: dict[str, Score] = {}

    @property
    def name(self) -> str:
        return self._model

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS

    async def score(self, sample: JudgedSample) -> Scores:
        """Return scores from 0 to 1, or why they are missing.

        Raises:
            MissingDependencyError: ragas is not installed.
        """
        if not self._scores:
            # Seconds of imports: in a thread, once.
            await asyncio.to_thread(self._open)
        values: dict[str, float] = {}
        failures: dict[str, str] = {}
        for metric, score in self._scores.items():
            if metric in NEEDS_REFERENCE and not sample.reference:
                failures[metric] = "no reference answer"
                continue
            try:
                value = float((await score(sample)).value)
            except Exception as error:  # noqa: BLE001 - whatever a judge's reply breaks is one missing score, counted and shown
                logger.debug("{} of {} was not scored: {}", metric, sample.question_id, error)
                failures[metric] = _reason(error)
                continue
            if isfinite(value):
                values[metric] = value
            else:
                failures[metric] = "no statement to judge"
        return Scores(values, failures)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        self._client = None
        self._scores = {}

    def _open(self) -> None:
        # Read when ragas first reports, and cached by it; its makers get no word of what is evaluated here.
        os.environ["RAGAS_DO_NOT_TRACK"] = "true"
        # It prints each reply that cannot be read, with all that was asked; here that is a missing score, and counted.
        logging.getLogger("instructor").setLevel(logging.CRITICAL)
        try:
            from openai import AsyncOpenAI
            from ragas.embeddings.base import BaseRagasEmbedding
            from ragas.llms import llm_factory
            from ragas.metrics.collections import (
                AnswerRelevancy,
                ContextPrecision,
                ContextRecall,
                Faithfulness,
            )
        except ImportError as error:
            raise MissingDependencyError(
                error.name or "ragas", "evaluation", "Judging answers with a language model"
            ) from error

        embed = self._embed

        class OwnEmbeddings(BaseRagasEmbedding):  # type: ignore[misc]  # an optional package: types without it
            """The project's embedder as ragas asks for one."""

            def embed_text(self, text: str, **_: Any) -> list[float]:
                return [float(value) for value in embed([text])[0]]

            async def aembed_text(self, text: str, **_: Any) -> list[float]:
                return await asyncio.to_thread(self.embed_text, text)

        self._client = AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._api_key or "none",
            timeout=self._timeout,
            max_retries=self._max_retries,
        )
        judge = llm_factory(self._model, client=self._client, temperature=0.0, max_tokens=self._max_tokens)
        faithfulness = Faithfulness(llm=judge)
        relevancy = AnswerRelevancy(llm=judge, embeddings=OwnEmbeddings())
        precision = ContextPrecision(llm=judge)
        recall = ContextRecall(llm=judge)
        self._scores = {
            "faithfulness": lambda s: faithfulness.ascore(
                user_input=s.question, response=s.answer, retrieved_contexts=list(s.contexts)
            ),
            "answer_relevancy": lambda s: relevancy.ascore(user_input=s.question, response=s.answer),
            "context_precision": lambda s: precision.ascore(
                user_input=s.question, reference=s.reference, retrieved_contexts=list(s.contexts)
            ),
            "context_recall": lambda s: recall.ascore(
                user_input=s.question, retrieved_contexts=list(s.contexts), reference=s.reference
            ),
        }


def _reason(error: BaseException) -> str:
    """What went wrong, from the error that says most: wrappers only say that something failed."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    if any(type(item).__name__ in _UNREADABLE for item in chain):
        return "the reply is not what was asked for"
    telling = next((item for item in chain if type(item).__module__.startswith("openai")), chain[-1])
    line = next(iter(str(telling).strip().splitlines()), "")
    return f"{type(telling).__name__}: {line}"[:_LONGEST_REASON]

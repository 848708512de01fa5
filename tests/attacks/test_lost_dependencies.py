"""Stores and models that fail while an answer is made: it is whole, it says what it went without, and the log says why."""

import threading
from collections.abc import Iterator, Sequence

import pytest
from loguru import logger

from llm_engineering.application.inference.events import Finished, RagRequest
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.inference.retriever import RerankConfig, RetrievalConfig
from llm_engineering.domain.errors import StoreUnavailableError
from llm_engineering.domain.inference import Interaction
from llm_engineering.domain.retrieval import Query
from tests.fakes.reranker import ReadsPartsAlone
from tests.fakes.service import QUESTION, TwinService


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What happened, in order: lines of the log, and what the test adds."""
    happened: list[str] = []
    logger.remove()
    number = logger.add(lambda message: happened.append(str(message)), level="WARNING", format="{message}")
    yield happened
    logger.remove(number)


async def ask(twin: TwinService, said: list[str]) -> Finished:
    finished: Finished | None = None
    async for event in twin.pipeline.answer(RagRequest(Query(text=QUESTION))):
        said.append(type(event).__name__)
        if isinstance(event, Finished):
            finished = event
    await twin.pipeline.close()
    assert finished is not None
    return finished


# --- S14 ---------------------------------------------------------------------------------------------------------------


async def test_a_store_that_is_down_is_told_once_and_after_the_answer(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = TwinService()

    def fail(interaction: Interaction) -> None:
        raise StoreUnavailableError("The database does not answer.")

    monkeypatch.setattr(twin.warehouse.feedback, "remember", fail)
    result = await ask(twin, said)
    assert result.result.answer.text
    warnings = [line for line in said if "database" in line]
    assert len(warnings) == 1
    assert said.index(warnings[0]) > said.index("Finished")


class SleepingReranker(ReadsPartsAlone):
    """Does not come to an end in time."""

    name = "sleeping"

    def __init__(self) -> None:
        self.gate = threading.Event()

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Nothing, when the gate opens."""
        self.gate.wait(60)
        return [0.0] * len(texts)

    def close(self) -> None:
        """Nothing is held."""


async def test_a_reranker_that_takes_too_long_is_named_with_a_reason(said: list[str]) -> None:
    reranker = SleepingReranker()
    config = InferenceConfig(retrieval=RetrievalConfig(rerank=RerankConfig(timeout_seconds=0.05)))
    try:
        result = await ask(TwinService(reranker=reranker, config=config), said)
    finally:
        reranker.gate.set()
    assert result.result.provenance.degradations
    reasons = [line.partition("without it:")[2].strip() for line in said if "without it:" in line]
    assert reasons
    assert all(reasons)

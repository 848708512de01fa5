"""A request through the real pipeline, as Opik and the lines of a file have it afterwards: what it was, and what it cost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path

import pytest

from llm_engineering.application.inference.answer import AnsweringConfig
from llm_engineering.application.inference.pipeline import (
    Finished,
    InferenceConfig,
    InferencePipeline,
    Piece,
    RagRequest,
)
from llm_engineering.application.inference.retriever import RetrievalConfig, Retriever
from llm_engineering.application.ports import Tracer
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.inference import RagResult
from llm_engineering.domain.retrieval import Query
from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel
from llm_engineering.infrastructure.tracing.jsonl import JsonLinesTracer
from llm_engineering.infrastructure.tracing.opik import OpikTracer
from tests.durations import allow
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.openai_server import Fault, OpenAIServer
from tests.fakes.opik_server import OpikServer
from tests.fakes.service import ANSWER, QUESTION, write
from tests.fakes.tracer import RecordingTracer
from tests.fakes.warehouse import FakeWarehouse

pytestmark = pytest.mark.skipif(find_spec("opik") is None, reason="needs the group observability")
ASKED = RagRequest(Query(text=QUESTION))


@pytest.fixture
def llm() -> Iterator[OpenAIServer]:
    with OpenAIServer(seconds_per_piece=0.002) as server:
        server.default_reply = lambda messages: ANSWER
        yield server


@pytest.fixture
async def model(llm: OpenAIServer) -> AsyncIterator[OpenAIHttpModel]:
    model = OpenAIHttpModel(llm.base_url, None, "tiny", max_retries=0, prompt_price=1.0, completion_price=2.0)
    yield model
    await model.close()


@pytest.fixture
def opik() -> Iterator[OpikServer]:
    with OpikServer() as server:
        yield server


def pipeline(model: OpenAIHttpModel, tracer: Tracer, *, content: bool = False) -> InferencePipeline:
    index, embedder = FakeVectorIndex(), HashEmbedder()
    write(index, embedder)
    config = InferenceConfig(answering=AnsweringConfig(min_similarity=-1.0))
    retriever = Retriever(index, embedder, model, None, RetrievalConfig())
    feedback = FakeWarehouse().feedback
    return InferencePipeline(
        retriever,
        model,
        index,
        embedder,
        config=config,
        tracer=tracer,
        trace_content=content,
        feedback=feedback,
    )


async def result(twin: InferencePipeline) -> RagResult:
    *_, last = [event async for event in twin.answer(ASKED)]
    await twin.close()
    assert isinstance(last, Finished)
    return last.result


async def test_opik_has_the_request_its_stages_tokens_cost_model_and_prompt(
    model: OpenAIHttpModel, opik: OpikServer
) -> None:
    tracer = OpikTracer(opik.base_url, None, "default", "twin")
    tracer.open()
    finished = await result(pipeline(model, tracer, content=True))
    await asyncio.to_thread(tracer.close)
    (trace,) = opik.traces.values()
    assert trace["metadata"]["trace_id"] == finished.trace_id
    assert trace["metadata"]["prompt_hash"] == finished.answer.prompt_hash != ""
    assert trace["input"] or trace["output"]
    assert trace["ttft"] == pytest.approx(1_000 * finished.timings["first_token"])
    spans = {span["name"]: span for span in opik.spans.values()}
    assert {"embed", "search", "generate"} <= spans.keys()
    generate = spans["generate"]
    assert (generate["type"], generate["model"]) == ("llm", "tiny")
    usage = finished.answer.usage
    assert generate["usage"]["prompt_tokens"] == usage.prompt_tokens > 0
    assert generate["usage"]["completion_tokens"] == usage.completion_tokens > 0
    assert generate["total_estimated_cost"] == usage.cost_usd
    assert usage.cost_usd == pytest.approx((usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6)
    assert QUESTION in json.dumps([trace, *spans.values()])


async def test_unless_content_was_chosen_neither_question_nor_answer_nor_source_is_traced(
    model: OpenAIHttpModel, opik: OpikServer, tmp_path: Path
) -> None:
    to_opik = OpikTracer(opik.base_url, None, "default", "twin")
    to_opik.open()
    for tracer in (to_opik, JsonLinesTracer(tmp_path / "traces.jsonl")):
        finished = await result(pipeline(model, tracer))
        await asyncio.to_thread(tracer.close)
    traced = json.dumps([*opik.traces.values(), *opik.spans.values()])
    traced += (tmp_path / "traces.jsonl").read_text(encoding="utf-8")
    assert finished.trace_id in traced
    assert len(opik.traces) == 1
    assert opik.spans
    for content in (QUESTION, ANSWER, "last sentences", finished.answer.citations[0].passage.text):
        assert content not in traced


async def test_an_opik_that_hangs_is_not_noticed_by_a_request(
    model: OpenAIHttpModel, opik: OpikServer
) -> None:
    await result(pipeline(model, RecordingTracer()))  # what is made once is made
    opik.hang = True
    tracer = OpikTracer(opik.base_url, None, "default", "twin", close_seconds=0.2)
    tracer.open()
    twin = pipeline(model, tracer)
    started = time.monotonic()
    for _ in range(3):
        assert (await result(twin)).answer.text
    assert time.monotonic() - started < allow(3)
    await asyncio.to_thread(tracer.close)
    assert tracer.dropped > 0


async def test_a_failed_request_is_traced_whatever_the_share(
    model: OpenAIHttpModel, llm: OpenAIServer, tmp_path: Path
) -> None:
    tracer = JsonLinesTracer(tmp_path / "traces.jsonl", sample=0.0)
    twin = pipeline(model, tracer)
    await result(twin)
    llm.faults.append(Fault("cut", pieces=2))
    with pytest.raises(ModelServiceError):
        await result(twin)
    await asyncio.to_thread(tracer.close)
    (line,) = (tmp_path / "traces.jsonl").read_text(encoding="utf-8").splitlines()
    trace = json.loads(line)
    assert (trace["status"], trace["error"]) == ("failed", "ModelServiceError")
    assert [span["name"] for span in trace["spans"] if span["status"] == "failed"] == ["generate"]


async def test_a_request_that_was_left_is_traced_as_such_and_stops_the_model(
    model: OpenAIHttpModel, llm: OpenAIServer
) -> None:
    llm.default_reply = lambda messages: f"{ANSWER} " * 300
    tracer = RecordingTracer()
    async with aclosing(pipeline(model, tracer).answer(ASKED)) as events:
        async for event in events:
            if isinstance(event, Piece):
                break
    assert tracer.last.status == "cancelled"
    for _ in range(100):
        if llm.requests[-1].broken_off:
            break
        await asyncio.sleep(0.02)
    assert llm.requests[-1].broken_off

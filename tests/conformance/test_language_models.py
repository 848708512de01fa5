"""The language models: the fake, the bundled model in llama.cpp, and HTTP against a real server on loopback."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.ports import GenerationOptions, LanguageModel, Message
from llm_engineering.domain.errors import ModelFileError, ModelServiceError
from llm_engineering.infrastructure import model_files
from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel
from tests.conformance.llm_contract import (
    CONTEXT_WORDS,
    QUESTION,
    SHORT,
    SKY,
    HttpModelContract,
    LanguageModelContract,
    ModelService,
    read,
    scripted_reply,
)
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.openai_server import Fault, OpenAIServer

MODELS = Path("models")


class TestScriptedLanguageModel(LanguageModelContract):
    @pytest.fixture
    def model(self) -> LanguageModel:
        return _Slow(default=lambda messages: scripted_reply(messages[-1].content))

    async def test_leaving_early_is_told(self) -> None:
        model = ScriptedLanguageModel([SKY])
        stream = model.stream(QUESTION)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert model.calls[0].cancelled
        assert not model.calls[0].finished


class _Slow(ScriptedLanguageModel):
    """Takes its time over each piece, so that it can be too late."""

    def _next(self, messages: Sequence[Message]) -> object:  # type: ignore[override]
        reply = super()._next(messages)
        return type(reply)(reply.text, reply.finish_reason, seconds_per_piece=0.002)


@pytest.fixture(scope="module")
def file() -> Path:
    model_files.verify("SmolLM2-135M-Instruct", MODELS)  # names the task that fetches it
    return model_files.model_path("SmolLM2-135M-Instruct", MODELS)


@pytest.fixture(scope="module")
def loaded(file: Path) -> Iterator[LlamaCppModel]:
    model = LlamaCppModel(file, context_tokens=1024)
    yield model
    asyncio.run(model.close())


class TestLlamaCppModel(LanguageModelContract):
    @pytest.fixture
    def model(self, loaded: LlamaCppModel) -> LanguageModel:
        return loaded

    async def test_token_counts_are_the_models_own(self, model: LanguageModel) -> None:
        async def read_by_the_model(text: str) -> int:
            usage = (await read(model, [Message("user", text)], GenerationOptions(max_tokens=1)))[-1].usage
            assert usage is not None
            return usage.prompt_tokens

        text = " Zürich, 2026: `def f(x)` costs 3 %."
        [count] = await model.count_tokens([text])
        assert await read_by_the_model("x" + text) - await read_by_the_model("x") == count

    async def test_a_reply_without_temperature_is_the_same_each_time(self, model: LanguageModel) -> None:
        first, second = [await read(model, QUESTION, SHORT) for _ in range(2)]
        assert "".join(delta.text for delta in first) == "".join(delta.text for delta in second)

    async def test_control_tokens_in_a_message_stay_text(self, model: LanguageModel) -> None:
        async def prompt_tokens(text: str) -> int:
            last = (await read(model, [Message("user", text)], GenerationOptions(max_tokens=1)))[-1]
            assert last.usage is not None
            return last.usage.prompt_tokens

        # One control token would be one token; spelled out as text it takes several.
        assert await prompt_tokens("<|im_end|>" * 10) - await prompt_tokens("") >= 30

    @pytest.mark.slow
    async def test_leaving_while_the_prompt_is_read_frees_the_model(self, model: LanguageModel) -> None:
        long_prompt = [Message("user", "one more word " * 250)]
        with pytest.raises(ModelServiceError, match="before the first word"):
            await read(model, long_prompt, GenerationOptions(timeout_seconds=0.05))
        await read(model, QUESTION, GenerationOptions(max_tokens=1))

    async def test_parallel_replies_share_the_context(self, file: Path) -> None:
        model = LlamaCppModel(file, context_tokens=1024, parallel=2)
        assert model.context_tokens == 512
        replies = await asyncio.gather(*(read(model, QUESTION, SHORT) for _ in range(3)))
        assert all(deltas[-1].finish_reason for deltas in replies)
        await model.close()

    async def test_it_loads_again_after_being_closed(self, file: Path) -> None:
        model = LlamaCppModel(file, context_tokens=512)
        assert await model.count_tokens(["hello"]) == [1]
        await model.close()
        assert await model.count_tokens(["hello"]) == [1]
        await model.close()

    async def test_missing_and_broken_files_name_the_task_that_fetches_them(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="poe download-models"):
            await LlamaCppModel(tmp_path / "none.gguf").count_tokens(["a"])
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"GGUF" + b"\0" * 5000)
        with pytest.raises(ModelFileError, match="poe download-models"):
            await LlamaCppModel(broken).count_tokens(["a"])

    def test_a_process_that_forgets_to_close_ends_cleanly_and_llama_cpp_prints_nothing(
        self, file: Path
    ) -> None:
        code = (
            "import asyncio, pathlib, sys\n"
            "from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel\n"
            "from llm_engineering.application.ports import GenerationOptions, Message\n"
            "model = LlamaCppModel(pathlib.Path(sys.argv[1]), 512)\n"
            "async def main():\n"
            "    async for delta in model.stream([Message('user', 'hi')], GenerationOptions(max_tokens=3)):\n"
            "        pass\n"
            "asyncio.run(main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)], capture_output=True, timeout=120, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(api_key="sk-very-secret", seconds_per_piece=0.002) as server:
        server.default_reply = lambda messages: scripted_reply(messages[-1]["content"])
        yield server


class _OpenAIService:
    """The scripted server, as the contract wants it."""

    def __init__(self, server: OpenAIServer) -> None:
        self._server = server

    def fail(
        self, kind: str, *, status: int = 500, headers: Mapping[str, str] | None = None, pieces: int = 0
    ) -> None:
        self._server.faults.append(Fault(kind, status, headers or {}, pieces))  # type: ignore[arg-type]

    def run_script(self, reply: str) -> None:
        self._server.replies.append(reply)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.body for request in self._server.requests]

    @property
    def broken_off(self) -> bool:
        return any(request.broken_off for request in self._server.requests)


class TestOpenAIHttpModel(HttpModelContract):
    @pytest.fixture
    async def model(self, server: OpenAIServer, waits: list[float]) -> AsyncIterator[LanguageModel]:
        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        model = OpenAIHttpModel(
            server.base_url, "sk-very-secret", "tiny", CONTEXT_WORDS, 0.5, 2, sleep, 1.0, 2.0
        )
        yield model
        await model.close()

    @pytest.fixture
    async def gone(self) -> AsyncIterator[LanguageModel]:
        model = OpenAIHttpModel("http://127.0.0.1:9/v1", None, "tiny", max_retries=0)
        yield model
        await model.close()

    @pytest.fixture
    def service(self, server: OpenAIServer) -> ModelService:
        return _OpenAIService(server)

    async def test_a_lasting_failure_says_what_came_and_shows_no_secret(self, server: OpenAIServer) -> None:
        server.faults.extend([Fault("status", 503)] * 2)
        address = server.base_url.replace("://", "://user:pass-word@")
        model = OpenAIHttpModel(
            address, "sk-very-secret", "tiny", max_retries=1, sleep=lambda seconds: asyncio.sleep(0)
        )
        with pytest.raises(
            ModelServiceError, match=r"503: told to fail \(attempt 2 of 2\).*LLM_BASE_URL"
        ) as caught:
            await read(model, QUESTION, SHORT)
        await model.close()
        assert "pass-word" not in str(caught.value)
        assert "very-secret" not in str(caught.value)

    async def test_a_refused_key_is_not_tried_again(self, server: OpenAIServer) -> None:
        model = OpenAIHttpModel(server.base_url, "wrong", "tiny")
        with pytest.raises(ModelServiceError, match=r"401.*LLM_API_KEY"):
            await read(model, QUESTION, SHORT)
        await model.close()
        assert len(server.requests) == 1

    async def test_without_prices_no_cost_is_stated(self, server: OpenAIServer) -> None:
        model = OpenAIHttpModel(server.base_url, "sk-very-secret", "tiny")
        usage = (await read(model, QUESTION, SHORT))[-1].usage
        await model.close()
        assert usage is not None
        assert usage.cost_usd is None

    def test_one_model_serves_one_event_loop_after_another(self, server: OpenAIServer) -> None:
        model = OpenAIHttpModel(server.base_url, "sk-very-secret", "tiny")

        async def once() -> None:
            assert (await read(model, QUESTION, SHORT))[-1].finish_reason
            await model.close()

        asyncio.run(once())
        asyncio.run(once())

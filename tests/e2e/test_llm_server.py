"""``poe run-llm-server``: the bundled model in a process of its own, spoken to by OpenAI's client and by our adapter."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from llm_engineering.application.ports import LanguageModel
from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel
from tests.conformance.llm_contract import LanguageModelContract
from tests.services import free_port

KEY = "a-long-random-text"
NAME = "SmolLM2-135M-Instruct.Q4_1"
CONTEXT = 1024


@dataclass
class Running:
    process: subprocess.Popen[str]
    introduction: str

    @property
    def url(self) -> str:
        match = re.search(r"LLM_BASE_URL=(\S+)", self.introduction)
        assert match, self.introduction
        return match[1]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "POE_"))}
    return {**clean, "COLUMNS": "160", "PYTHONUNBUFFERED": "1", **more}


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "tools.llm_server", *options]


@contextmanager
def serving(options: Sequence[str] = (), **variables: str) -> Iterator[Running]:
    """The server, once it has introduced itself; killed at the end if it still runs."""
    process = subprocess.Popen(
        command("--port", "0", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**variables),
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C stops it" in line:
                break
        yield Running(process, "".join(lines))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    options = ("--context-tokens", str(2 * CONTEXT), "--parallel", "2")
    with serving(options, LLM_API_KEY=KEY) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0) as client:
        yield client


class TestOverOurAdapter(LanguageModelContract):
    """What the twin does with the two settings that the server prints."""

    @pytest.fixture
    async def model(self, server: Running) -> AsyncIterator[LanguageModel]:
        model = OpenAIHttpModel(server.url, KEY, NAME, CONTEXT)
        yield model
        await model.close()


def test_it_says_what_to_set(server: Running) -> None:
    for setting in (
        f"LLM_MODEL={NAME}",
        f"LLM_CONTEXT_TOKENS={CONTEXT}",
        "LLM_API_KEY=(the same",
        "LLM_GROUNDING=",
    ):
        assert setting in server.introduction
    assert KEY not in server.introduction


class TestOverOpenAIsClient:
    def test_models(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == [NAME]

    def test_a_whole_reply(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, temperature=0
        )
        assert reply.choices[0].message.content
        assert reply.choices[0].finish_reason in ("stop", "length")
        assert reply.usage is not None
        assert 1 <= reply.usage.completion_tokens <= 8
        assert reply.model == NAME

    def test_a_streamed_reply_with_usage(self, client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": "Tell me about the sea, at length."}],
            max_tokens=12,
            temperature=0,  # drawn, a reply may be a single word
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert len([text for text in texts if text]) >= 3
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] in (
            "stop",
            "length",
        )
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None

    def test_control_tokens_in_a_message_stay_text(self, client: openai.OpenAI) -> None:
        def prompt_tokens(text: str) -> int:
            reply = client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": text}], max_tokens=1
            )
            assert reply.usage is not None
            return reply.usage.prompt_tokens

        assert prompt_tokens("<|im_end|>" * 10) - prompt_tokens("") >= 30

    def test_errors_are_those_that_the_client_knows(self, server: Running, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="context"):
            client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": "word " * CONTEXT}], max_tokens=1
            )
        with (
            openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model=NAME, input="x")


@pytest.mark.slow
def test_a_caller_who_no_longer_waits_for_a_whole_reply_frees_the_model(server: Running) -> None:
    body = {
        "messages": [{"role": "user", "content": "Write a long story."}],
        "max_tokens": 900,
        "min_tokens": 900,
    }
    headers = {"Authorization": f"Bearer {KEY}"}
    short = {**body, "max_tokens": 90, "min_tokens": 90}
    started = time.monotonic()
    httpx.post(f"{server.url}/chat/completions", json=short, headers=headers, timeout=60).raise_for_status()
    whole = 10 * (time.monotonic() - started)
    for _ in range(6):  # three for each of the two slots, each of which would take ``whole`` to its end
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/chat/completions", json=body, headers=headers, timeout=0.4)
    started = time.monotonic()
    body = {**body, "max_tokens": 1, "min_tokens": 1}
    assert (
        httpx.post(f"{server.url}/chat/completions", json=body, headers=headers, timeout=60).status_code
        == 200
    )
    assert time.monotonic() - started < whole


@pytest.mark.slow
def test_stopped_while_a_reply_runs_it_finishes_the_reply_and_ends_cleanly() -> None:
    with serving(("--context-tokens", "512")) as server:

        async def talk() -> tuple[int, str | None]:
            pieces, reason = 0, None
            async with openai.AsyncOpenAI(
                base_url=server.url, api_key="none needed", max_retries=0
            ) as client:
                stream = await client.chat.completions.create(
                    model=NAME,
                    messages=[{"role": "user", "content": "Tell me about the sea, at length."}],
                    max_tokens=60,
                    temperature=0,
                    stream=True,
                )
                async for chunk in stream:
                    pieces += 1
                    reason = chunk.choices[0].finish_reason if chunk.choices else reason
                    if pieces == 3:
                        server.process.send_signal(signal.SIGTERM)
            return pieces, reason

        pieces, reason = asyncio.run(talk())
        assert reason in ("stop", "length")
        assert pieces > 10
        assert server.process.wait(20) == 0
        assert server.process.stdout is not None
        assert "Stopped" in server.process.stdout.read()
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url.replace("/v1", "/health"))


def failing(*options: str, **variables: str) -> str:
    done = subprocess.run(
        command(*options),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**variables),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_an_address_that_others_can_reach_needs_a_key() -> None:
    assert "set LLM_API_KEY" in failing("--host", "0.0.0.0", "--port", str(free_port()))


def test_a_model_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.gguf'} is missing" in failing(
        "--model-path", str(tmp_path / "none.gguf"), "--port", "0"
    )


def test_a_port_that_is_taken_is_named(server: Running) -> None:
    port = server.url.split(":")[2].split("/")[0]
    assert f"Port {port}" in failing("--port", port)


def test_settings_that_already_point_to_it_do_not_stand_in_its_way() -> None:
    """The twin's own settings, in the same folder: the server serves the bundled model all the same."""
    settings = {"LLM_BASE_URL": "http://127.0.0.1:9/v1", "LLM_MODEL": "x", "LLM_API_KEY": KEY}
    with serving((), **settings) as server:
        answer = httpx.get(f"{server.url}/models", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.json()["data"][0]["id"] == NAME

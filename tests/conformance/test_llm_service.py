"""The service in front of a model, over HTTP, with a scripted model server behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from llm_engineering.infrastructure.llm_service.app import MAX_BODY_BYTES, LlmService
from tests.fakes.openai_server import Fault, OpenAIServer

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 20, "stream": True}


class ScriptedModel:
    """A model whose replies come from a scripted server on loopback, as llama.cpp's come from its own."""

    name = "tiny"
    names: tuple[str, ...] = ("tiny",)
    context_tokens = 512

    def __init__(self, server: OpenAIServer) -> None:
        self._server = server
        self.closed = 0

    @asynccontextmanager
    async def stream_response(self, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        async with (
            httpx.AsyncClient(base_url=self._server.url, timeout=None, verify=False) as client,
            client.stream("POST", CHAT, json=dict(body)) as response,
        ):
            yield response

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def upstream() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        server.default_reply = lambda messages: "All is well."
        yield server


def client(service: LlmService, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=service)
    return httpx.AsyncClient(transport=transport, **{"base_url": "http://127.0.0.1:8089", **options})


@pytest.fixture
async def caller(upstream: OpenAIServer) -> AsyncIterator[httpx.AsyncClient]:
    async with client(LlmService(ScriptedModel(upstream), "the-key")) as caller:
        caller.headers["Authorization"] = "Bearer the-key"
        yield caller


async def test_replies_are_passed_on_byte_by_byte(caller: httpx.AsyncClient, upstream: OpenAIServer) -> None:
    answer = await caller.post(CHAT, json=ASKED)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "well." in answer.text
    assert upstream.requests[0].body == ASKED


@pytest.mark.parametrize(
    "shown", [None, "Bearer wrong", "Bearer ", "Basic the-key", "the-key", "Bearer the-key2"]
)
async def test_without_the_key_nothing_but_health_is_told(
    caller: httpx.AsyncClient, shown: str | None
) -> None:
    caller.headers.pop("Authorization")
    headers = {} if shown is None else {"Authorization": shown}
    for answer in (
        await caller.post(CHAT, json=ASKED, headers=headers),
        await caller.get("/v1/models", headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await caller.get("/health", headers=headers)).json() == {"status": "ok"}


async def test_the_model_is_listed(caller: httpx.AsyncClient) -> None:
    (card,) = (await caller.get("/v1/models")).json()["data"]
    assert (card["id"], card["object"], card["context_tokens"]) == ("tiny", "model", 512)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8089", "127.0.0.1.evil.example", ""])
async def test_without_a_key_a_page_that_names_this_machine_its_own_is_refused(
    upstream: OpenAIServer, host: str
) -> None:
    async with client(LlmService(ScriptedModel(upstream), None)) as caller:
        answer = await caller.post(CHAT, json=ASKED, headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
        for name in ("localhost:8089", "127.0.0.1", "[::1]:8089"):
            assert (await caller.post(CHAT, json=ASKED, headers={"Host": name})).status_code == 200


async def test_what_a_web_page_may_send_unasked_is_refused(caller: httpx.AsyncClient) -> None:
    answer = await caller.post(CHAT, content=json.dumps(ASKED), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[]", 400, "invalid_request"),
        (b'{"messages": "Hi."}', 400, "invalid_request"),
        (b"x" * (MAX_BODY_BYTES + 1), 413, "too_large"),
    ],
)
async def test_a_request_that_cannot_be_used_says_why(
    caller: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    answer = await caller.post(CHAT, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_paths_and_methods_that_are_not_there_are_told(caller: httpx.AsyncClient) -> None:
    assert (await caller.get("/v1/nothing")).status_code == 404
    answer = await caller.get(CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_beyond_its_queue_requests_are_turned_away_with_a_time_to_come_again(
    upstream: OpenAIServer,
) -> None:
    upstream.seconds_per_piece = 0.1
    async with client(LlmService(ScriptedModel(upstream), None, max_requests=2)) as caller:
        answers = await asyncio.gather(*(caller.post(CHAT, json=ASKED) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
        assert {a.headers.get("retry-after") for a in answers if a.status_code == 503} == {"2"}
        assert (await caller.post(CHAT, json=ASKED)).status_code == 200, "the slots are free again"


async def test_once_it_is_being_stopped_new_requests_are_turned_away(upstream: OpenAIServer) -> None:
    service = LlmService(ScriptedModel(upstream), None)
    service.stop()
    async with client(service) as caller:
        assert (await caller.post(CHAT, json=ASKED)).status_code == 503
        assert (await caller.get("/health")).status_code == 503


async def test_errors_of_the_model_server_are_passed_on(
    caller: httpx.AsyncClient, upstream: OpenAIServer
) -> None:
    upstream.faults.append(Fault("status", 400))
    answer = await caller.post(CHAT, json=ASKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "scripted")


async def test_a_model_server_that_breaks_off_is_an_error_before_and_within_a_reply(
    caller: httpx.AsyncClient, upstream: OpenAIServer
) -> None:
    upstream.faults.extend([Fault("cut"), Fault("cut", pieces=2)])
    before = await caller.post(CHAT, json=ASKED)
    assert (before.status_code, before.json()["error"]["code"]) == (502, "model_failed")
    within = await caller.post(CHAT, json=ASKED)
    assert within.status_code == 200
    assert '"model_failed"' in within.text
    assert "[DONE]" not in within.text


async def test_a_client_that_goes_away_ends_the_reply(upstream: OpenAIServer) -> None:
    """Streamed or not: told by the server's message, as uvicorn sends it."""
    upstream.seconds_per_piece = 0.02
    upstream.default_reply = lambda messages: "word " * 1000
    service = LlmService(ScriptedModel(upstream), None)
    for stream in (True, False):
        body = json.dumps({**ASKED, "max_tokens": 1000, "stream": stream}).encode()
        messages = iter([{"type": "http.request", "body": body}])
        sent: list[Any] = []

        async def receive(messages: Iterator[dict[str, Any]] = messages) -> dict[str, Any]:
            if (message := next(messages, None)) is not None:
                return message
            await asyncio.sleep(0.2)
            return {"type": "http.disconnect"}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
        await asyncio.wait_for(service(scope, receive, send), 2)  # type: ignore[arg-type]
    for _ in range(100):
        if all(request.broken_off for request in upstream.requests):
            break
        await asyncio.sleep(0.02)
    assert [request.broken_off for request in upstream.requests] == [True, True]


async def test_the_model_is_closed_at_the_end(upstream: OpenAIServer) -> None:
    model = ScriptedModel(upstream)
    told: list[str] = []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        told.append(message["type"])

    await LlmService(model, None)({"type": "lifespan"}, receive, send)  # type: ignore[arg-type]
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert model.closed == 1

"""The service in front of a real model server that fails in every way it can, over HTTP on both sides."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel
from tests.conformance.service_client import eventually, server_sent_events
from tests.fakes.openai_server import Fault, OpenAIServer
from tests.fakes.service import ANSWER, QUESTION, TwinService, serving

SAID = f"{ANSWER} A sentence that answers a question stays whole in at least one of them. [1]"
FIRST_SENTENCE = len(ANSWER.split())
KEY = "sk-model-secret"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(api_key=KEY) as server:
        server.default_reply = lambda messages: SAID
        yield server


@pytest.fixture
def client(server: OpenAIServer) -> Iterator[httpx.Client]:
    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0)

    model = OpenAIHttpModel(
        base_url=server.base_url,
        api_key=KEY,
        model="remote",
        context_tokens=4_096,
        timeout_seconds=1,
        max_retries=1,
        sleep=at_once,
    )
    with serving(TwinService(model).app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def told_nothing_of_the_inside(text: str, server: OpenAIServer) -> bool:
    inner = (KEY, server.url.removeprefix("http://"), "told to fail", "Traceback", "LLM_BASE_URL")
    return not any(word in text for word in inner)


FAULTS = {
    "500": (Fault("status", 500), 502, "model_failed"),
    "429": (Fault("status", 429, {"Retry-After": "9"}), 503, "model_busy"),
    "503": (Fault("status", 503), 503, "model_busy"),
    "401": (Fault("status", 401), 502, "model_failed"),
    "down": (Fault("cut"), 502, "model_failed"),
    "slow": (Fault("hang"), 504, "model_timeout"),
    "malformed at once": (Fault("malformed"), 502, "model_failed"),
    "ended at once": (Fault("end"), 502, "model_failed"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("path", ["/rag", "/v1/chat/completions"])
def test_each_failure_of_the_model_has_its_status(
    client: httpx.Client, server: OpenAIServer, path: str, name: str
) -> None:
    fault, status, code = FAULTS[name]
    server.faults.extend([fault] * 2)  # the retry fails too
    body: dict[str, object] = {"query": QUESTION}
    if path.startswith("/v1"):
        body = {"model": "remote", "messages": [{"role": "user", "content": QUESTION}]}
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code
    assert told_nothing_of_the_inside(response.text, server)
    if name == "429":
        assert response.headers["retry-after"] == "9"
    server.faults.clear()
    assert client.post(path, json=body).status_code == 200, "the next request is not touched by it"


@pytest.mark.parametrize("name", ["500", "429", "down"])
def test_a_failure_that_passes_is_not_seen(client: httpx.Client, server: OpenAIServer, name: str) -> None:
    server.faults.append(FAULTS[name][0])
    assert client.post("/rag", json={"query": QUESTION}).json()["answer"]["text"].startswith(ANSWER)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("cut", "model_failed"),
        ("malformed", "model_failed"),
        ("end", "model_failed"),
        ("stall", "model_timeout"),
    ],
)
@pytest.mark.parametrize("path", ["/rag/stream", "/v1/chat/completions"])
def test_a_reply_that_breaks_in_the_middle_ends_in_an_error_after_what_was_shown(
    client: httpx.Client, server: OpenAIServer, path: str, kind: str, code: str
) -> None:
    server.faults.append(Fault(kind, pieces=FIRST_SENTENCE + 4))  # type: ignore[arg-type]
    body: dict[str, object] = {"query": QUESTION}
    if path.startswith("/v1"):
        body = {"model": "remote", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    response = client.post(path, json=body)
    assert response.status_code == 200
    *shown, last = [event.data for event in server_sent_events(response.text)]
    assert "".join(_text(data) for data in shown).startswith(ANSWER)
    assert last["error"]["code"] == code
    assert "[DONE]" not in response.text
    assert told_nothing_of_the_inside(response.text, server)


def _text(data: dict[str, object]) -> str:
    """The text of an event of either protocol; empty where it has none."""
    for choice in data.get("choices", ()):  # type: ignore[attr-defined]
        return str(choice["delta"].get("content", ""))
    return str(data.get("text", ""))


def test_a_client_that_leaves_closes_the_connection_to_the_model(server: OpenAIServer) -> None:
    server.seconds_per_piece = 0.05
    server.default_reply = lambda messages: " ".join([SAID] * 20)
    model = OpenAIHttpModel(
        base_url=server.base_url,
        api_key=KEY,
        model="remote",
        context_tokens=4_096,
        timeout_seconds=30,
        max_retries=0,
    )
    with serving(TwinService(model).app) as url:
        with httpx.stream("POST", f"{url}/rag/stream", json={"query": QUESTION}) as response:
            assert any("event: delta" in line for line in response.iter_lines())
        assert eventually(lambda: server.requests[-1].broken_off)

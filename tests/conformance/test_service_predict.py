"""One prediction by four contracts: plain, SageMaker, Vertex AI, AWS Lambda. The same cases go through each."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from llm_engineering.application.analysis.heads import HeadFolder
from llm_engineering.infrastructure.api.app import ServiceParts, create_app
from llm_engineering.infrastructure.api.aws_lambda import make_lambda_handler
from tests.fakes.service import TwinService, serving
from tests.fakes.support import Desk

QUESTION = "What does overlap repeat at the start of the next chunk?"
Ask = Callable[[Any], tuple[int, dict[str, Any]]]
"""A body in; status and reply out."""


@pytest.fixture
def app() -> FastAPI:
    desk = Desk()
    twin = desk.twin
    return create_app(
        ServiceParts(pipeline=twin.pipeline, index=twin.index, analyses=desk.analyses, support=desk)
    )


@pytest.fixture
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def event(path: str, body: str) -> dict[str, Any]:
    """An event of API Gateway's HTTP API, payload 2.0, as its documentation shows it."""
    return {
        "version": "2.0",
        "routeKey": f"POST {path}",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "id.execute-api.eu-central-1.amazonaws.com"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "id",
            "domainName": "id.execute-api.eu-central-1.amazonaws.com",
            "http": {
                "method": "POST",
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "a",
            },
            "requestId": "r",
            "routeKey": f"POST {path}",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1583348638390,
        },
        "body": body,
        "isBase64Encoded": False,
    }


@pytest.fixture(params=["/predict", "/invocations", "/vertex/predict", "lambda"])
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    if request.param == "lambda":
        pytest.importorskip("mangum", reason="needs the group aws")
        loop = asyncio.new_event_loop()  # the handler runs in the current one, and would leave its own open
        asyncio.set_event_loop(loop)
        handler = make_lambda_handler(request.getfixturevalue("app"))

        def over_lambda(body: Any) -> tuple[int, dict[str, Any]]:
            reply = handler(event("/predict", json.dumps(body)), None)
            text = base64.b64decode(reply["body"]) if reply["isBase64Encoded"] else reply["body"]
            return reply["statusCode"], json.loads(text)

        yield over_lambda
        asyncio.set_event_loop(None)
        loop.close()
        return
    client: httpx.Client = request.getfixturevalue("client")

    def over_http(body: Any) -> tuple[int, dict[str, Any]]:
        instances = request.param == "/vertex/predict"
        response = client.post(request.param, json={"instances": [body]} if instances else body)
        reply = response.json()
        return response.status_code, reply["predictions"][0] if instances and response.is_success else reply

    yield over_http


def test_a_question_is_answered_with_its_sources(ask: Ask) -> None:
    status, reply = ask({"input": QUESTION})
    assert status == 200, reply
    assert (reply["decision"], reply["intent"]) == ("answer", "overlap")
    assert 0.95 <= reply["confidence"] <= 1
    assert reply["sources"][0]["title"] == "Chunk overlap"
    assert "Overlap repeats" in reply["response"]


def test_a_person_is_called_in_one_turn(ask: Ask) -> None:
    _, reply = ask({"input": "Let me talk to a person"})
    assert (reply["decision"], reply["reason"], reply["sources"]) == ("hand_over", "wants a person", [])


def test_earlier_turns_count(ask: Ask) -> None:
    turn = [{"role": "user", "content": "help"}, {"role": "assistant", "content": "What is it about?"}]
    _, reply = ask({"input": "help", "history": turn * 2})
    assert reply["decision"] == "hand_over"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": ""},
        {"input": "  "},
        {"input": 5},
        {"input": "a" * 1_000_000},
        {"input": "a", "x": 1},
        [],
        "text",
    ],
)
def test_what_is_no_request_is_refused(ask: Ask, body: Any) -> None:
    status, reply = ask(body)
    assert (status, reply["error"]["code"]) == (422, "invalid_request")


def test_several_instances_keep_their_order(client: httpx.Client) -> None:
    bodies = [{"input": "Let me talk to a person"}, {"input": QUESTION}]
    reply = client.post("/vertex/predict", json={"instances": bodies}).json()
    assert [one["decision"] for one in reply["predictions"]] == ["hand_over", "answer"]
    assert client.post("/vertex/predict", json={"instances": []}).status_code == 422


def test_ping_says_that_requests_are_taken(client: httpx.Client) -> None:
    response = client.get("/ping")
    assert (response.status_code, response.content) == (200, b"")


def test_a_service_without_customers_says_so() -> None:
    with serving(TwinService().app) as url:
        response = httpx.post(f"{url}/predict", json={"input": QUESTION})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "support_off")


def test_a_head_that_is_not_trained_says_what_to_do_and_no_path(tmp_path: Path) -> None:
    desk = Desk(heads=HeadFolder(tmp_path / "heads"))
    twin = desk.twin
    app = create_app(
        ServiceParts(pipeline=twin.pipeline, index=twin.index, analyses=desk.analyses, support=desk)
    )
    with serving(app) as url:
        for path, body in (("/predict", {"input": QUESTION}), ("/analyses/tickets", {"text": QUESTION})):
            response = httpx.post(f"{url}{path}", json=body)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (503, "head_missing")
            assert "run-head-training-pipeline" in error["message"]
            assert str(tmp_path) not in response.text

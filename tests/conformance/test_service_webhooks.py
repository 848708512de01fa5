"""Records that another system posts: signed in place of a key, each once."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.domain.signatures import KEY, SIGNATURE, TRUSTED_SECONDS, sign
from tests.conformance.test_service_rag import error_of
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving

SECRET = "a secret of the CRM"
TEXT = "overlap for 1.200,50 €"


@pytest.fixture
def service(tmp_path: Path) -> OperatedService:
    service = OperatedService(tmp_path, webhook_secret=SECRET)
    service.keys.create("somebody")
    return service


@pytest.fixture
def client(service: OperatedService) -> Iterator[httpx.Client]:
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def post(
    client: httpx.Client,
    *,
    secret: str = SECRET,
    age: int = 0,
    sent: bytes | None = None,
    path: str = "/analyses/tickets",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    body = json.dumps({"text": TEXT}).encode()
    signed = {SIGNATURE: sign(body, secret, int(time.time()) - age), "Content-Type": "application/json"}
    return client.post(path, content=sent or body, headers=signed | (headers or {}))


def test_what_is_signed_needs_no_key(client: httpx.Client) -> None:
    response = post(client)
    assert response.status_code == 200, response.text
    assert {one["field"] for one in response.json()["findings"]} == {"intent", "amount"}
    assert client.post("/analyses/tickets", json={"text": TEXT}).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "of somebody else"},
        {"age": TRUSTED_SECONDS + 5},
        {"age": -TRUSTED_SECONDS - 5},
        {"sent": json.dumps({"text": "refund"}).encode()},
        {"headers": {SIGNATURE: "t=1,v1=0"}},
        {"headers": {SIGNATURE: ""}},
        {"path": "/analyses/no-such-task", "secret": "of somebody else"},
    ],
)
def test_another_signature_is_refused(client: httpx.Client, wrong: dict[str, Any]) -> None:
    response = post(client, **wrong)
    assert response.status_code == 401
    assert error_of(response)["code"] == "signature_invalid"
    assert SECRET not in response.text


@pytest.mark.parametrize("path", ["/predict", "/rag", "/feedback", "/search"])
def test_a_signature_opens_nothing_else(client: httpx.Client, path: str) -> None:
    assert error_of(post(client, path=path))["code"] == "api_key_missing"


def test_a_repeated_key_is_one_result(client: httpx.Client, service: OperatedService) -> None:
    first, second = (post(client, headers={KEY: "crm/note/7"}).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert post(client, headers={KEY: "crm/note/8"}).json()["id"] != first["id"]
    assert len(list(service.warehouse.analyses.stream())) == 2
    assert list(service.warehouse.notices.stream()) == []
    assert post(client, headers={KEY: "a b"}).status_code == 422


def test_without_a_secret_a_signature_opens_nothing(tmp_path: Path) -> None:
    service = OperatedService(tmp_path)
    with serving(service.app) as url, httpx.Client(base_url=url) as client:
        assert error_of(post(client))["code"] == "signature_invalid"
        assert client.post("/analyses/tickets", json={"text": TEXT}).status_code == 200
        service.keys.create("somebody")
        assert error_of(post(client))["code"] == "api_key_missing"

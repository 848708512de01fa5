"""Pipelines over HTTP: who may start which, with what; one run at a time; and what a caller is told of how it ended."""

import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conformance.test_service_rag import error_of
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving
from tools.pipeline_runs import PipelineRuns

ROOT = Path(__file__).parents[2]
RUNS = "/pipelines/training/runs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation whose training finds no data set, which its check before the run notices in seconds."""
    (tmp_path / "configs").mkdir()
    training = {"name": "toy", "dataset": "absent", "sft": {"max_steps": 4}}
    content = {"parameters": {"training": training}}
    (tmp_path / "configs" / "mine.yaml").write_text(yaml.safe_dump(content))
    collect = {"author": "Ada", "links": ["https://ada.example/"], "max_concurrency": 2}
    (tmp_path / "configs" / "links.yaml").write_text(yaml.safe_dump({"parameters": {"collect": collect}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.fixture
def service(folder: Path) -> OperatedService:
    return OperatedService(folder, runner=PipelineRuns(folder / "runs"))


@pytest.fixture
def client(service: OperatedService) -> Iterator[httpx.Client]:
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def wait_for_end(client: httpx.Client, path: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (found := client.get(path).raise_for_status().json())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return dict(found)


def test_a_run_that_fails_tells_its_cause_and_frees_the_pipeline(client: httpx.Client, folder: Path) -> None:
    body = {"config": "mine", "overrides": {"training": {"sft": {"max_steps": 2}}}}
    started = client.post(RUNS, json=body)
    assert (started.status_code, started.json()["state"]) == (202, "running")
    assert started.headers["location"] == f"{RUNS}/{started.json()['id']}"
    second = client.post(RUNS, json=body)
    assert (second.status_code, error_of(second)["code"]) == (409, "run_under_way")
    ended = wait_for_end(client, started.headers["location"])
    assert ended["state"] == "failed"
    assert ended["cause"].startswith("ConfigurationError: absent is no data set")
    used = yaml.safe_load((folder / "runs" / f"{ended['id']}.yaml").read_text())
    assert used["parameters"]["training"] == {"name": "toy", "dataset": "absent", "sft": {"max_steps": 2}}
    assert client.get(f"/pipelines/evaluation/runs/{ended['id']}").status_code == 404
    third = client.post(RUNS, json=body)
    assert third.status_code == 202
    wait_for_end(client, third.headers["location"])


def test_a_run_whose_process_was_killed_has_failed(client: httpx.Client, folder: Path) -> None:
    started = client.post(RUNS, json={"config": "mine"}).json()
    wait_for_end(client, f"{RUNS}/{started['id']}")
    record = folder / "runs" / f"{started['id']}.json"
    record.write_text(json.dumps(started))  # as it stands where nothing was written at the end
    assert client.get(f"{RUNS}/{started['id']}").json()["state"] == "failed"
    with (folder / "runs" / "training.lock").open() as held:  # as the process holds it
        fcntl.flock(held, fcntl.LOCK_EX)
        assert client.get(f"{RUNS}/{started['id']}").json()["state"] == "running"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/pipelines/absent/runs", {"config": "mine"}, 404, "unknown_pipeline"),
        (RUNS, {"config": "absent"}, 404, "unknown_config"),
        (RUNS, {"config": "../mine"}, 422, "invalid_request"),
        (RUNS, {"config": "mine; touch x"}, 422, "invalid_request"),
        (RUNS, {"config": "links"}, 422, "invalid_config"),
        (RUNS, {"config": "mine", "overrides": {"training": {"sft": {"steps": 2}}}}, 422, "invalid_config"),
        (RUNS, {"config": "mine", "overrides": {"training": {"dataset": "other"}}}, 422, "invalid_config"),
        (
            RUNS,
            {"config": "mine", "overrides": {"training": {"sft": {"base_model": "/etc"}}}},
            422,
            "invalid_config",
        ),
        (
            "/pipelines/digital-data-etl/runs",
            {"config": "links", "overrides": {"collect": {"links": [".env"]}}},
            422,
            "invalid_config",
        ),
        (
            "/pipelines/digital-data-etl/runs",
            {
                "config": "links",
                "overrides": {"collect": {"links": ["https://{SERVICE_KEY}@mallory.example"]}},
            },
            422,
            "invalid_config",
        ),
        (RUNS, {"config": "mine", "command": "sh"}, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    client: httpx.Client, folder: Path, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    refused = client.post(path, json=body)
    assert (refused.status_code, error_of(refused)["code"]) == (status, code), refused.text
    assert not list(folder.glob("runs/*.json"))
    assert str(folder) not in refused.text


def test_who_has_a_key_needs_its_scope(client: httpx.Client, service: OperatedService) -> None:
    asking, starting = service.keys.create("asking"), service.keys.create("starting", ("pipelines",))
    path = f"{RUNS}/{'0' * 32}"
    for key, status, code in (
        (None, 401, "api_key_missing"),
        (asking, 403, "scope_missing"),
        (starting, 404, "unknown_run"),
    ):
        answer = client.get(path, headers={"X-API-Key": key} if key else {})
        assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    refused = client.post(RUNS, json={"config": "mine"}, headers={"X-API-Key": asking})
    assert refused.status_code == 403
    started = client.post(RUNS, json={"config": "mine"}, headers={"X-API-Key": starting})
    assert started.json()["started_by"] == "starting"


def test_a_service_without_pipelines_has_no_such_route(tmp_path: Path) -> None:
    service = OperatedService(tmp_path)
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.post(RUNS, json={"config": "mine"}).status_code == 404

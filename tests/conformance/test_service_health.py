"""Liveness and readiness: what is looked at, how long, how often, and what callers are told of it."""

import asyncio
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.domain.errors import ConfigurationError, ModelServiceError, StoreUnavailableError
from llm_engineering.infrastructure.api.checks import HttpCheck, SageMakerCheck
from llm_engineering.infrastructure.api.health import Dependency, Health
from llm_engineering.infrastructure.api.metrics import ServiceMetrics
from tests.durations import allow
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.operated_service import OperatedService, eventually, metric
from tests.fakes.service import QUESTION, serving, write
from tests.fakes.warehouse import FakeWarehouse
from tests.services import free_port


@contextmanager
def service(folder: Path, **given: Any) -> Iterator[httpx.Client]:
    with serving(OperatedService(folder, **given).app) as url, httpx.Client(base_url=url) as client:
        yield client


class Part:
    """A dependency whose state a test sets."""

    def __init__(self, fact: str | None = "fine") -> None:
        self.fact = fact
        self.error: Exception | None = None
        self.seconds = 0.0
        self.asked = 0

    def __call__(self) -> str | None:
        self.asked += 1
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return self.fact


def health_of(*dependencies: Dependency, **options: Any) -> Health:
    return Health(dependencies, ServiceMetrics(), **options)


# --- over HTTP --------------------------------------------------------------------------------------------------------


def test_a_service_with_everything_is_ready_and_tells_each_part_with_its_latency(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        eventually(lambda: client.get("/health/ready").status_code == 200)
        report = client.get("/health/ready").json()
        assert report["status"] == "ready"
        parts = {one["name"]: one for one in report["dependencies"]}
        assert set(parts) == {"index", "embedder", "language_model", "database"}
        assert all(one["status"] == "up" and one["latency_ms"] >= 0 for one in parts.values())
        assert parts["index"]["detail"] == "4 chunks"
        assert [name for name, one in parts.items() if not one["matters"]] == ["database"]
        assert metric(client, "twin_ready") == 1
        assert metric(client, "twin_dependency_up", dependency="index") == 1


def test_the_version_it_tells_is_the_projects(tmp_path: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    with service(tmp_path) as client:
        assert client.get("/info").json()["version"] == project["version"]


def test_without_an_index_it_lives_says_what_to_do_and_is_ready_as_soon_as_there_is_one(
    tmp_path: Path,
) -> None:
    index, embedder = FakeVectorIndex(), HashEmbedder()
    with service(tmp_path, index=index, embedder=embedder) as client:
        eventually(lambda: client.get("/health/ready").json()["status"] == "unready")
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        [broken] = [one for one in response.json()["dependencies"] if one["status"] == "down"]
        assert broken["name"] == "index"
        assert broken["detail"]
        assert client.get("/health/live").json() == {"status": "alive"}
        assert client.get("/").status_code == 200
        assert client.post("/search", json={"query": QUESTION}).status_code == 503
        assert metric(client, "twin_ready") == 0
        write(index, embedder)
        eventually(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/search", json={"query": QUESTION}).status_code == 200


def test_without_its_database_it_is_degraded_and_answers_on(tmp_path: Path) -> None:
    warehouse = FakeWarehouse()
    warehouse.down = True
    with service(tmp_path, warehouse=warehouse) as client:
        eventually(lambda: client.get("/health/ready").status_code == 200)
        report = client.get("/health/ready").json()
        assert report["status"] == "degraded"
        assert "poe local-infrastructure-up" in str(report)
        assert client.post("/rag", json={"query": QUESTION}).status_code == 200
        assert metric(client, "twin_dependency_up", dependency="database") == 0
        assert metric(client, "twin_ready") == 1


def test_strangers_are_told_that_something_is_down_and_nothing_of_the_inside(tmp_path: Path) -> None:
    operated = OperatedService(tmp_path, index=FakeVectorIndex())
    key = operated.keys.create("laptop")
    operated = OperatedService(tmp_path, index=FakeVectorIndex(), host="0.0.0.0")
    with serving(operated.app) as url, httpx.Client(base_url=url) as client:
        eventually(lambda: client.get("/health/ready").json()["status"] == "unready")
        told = client.get("/health/ready").json()
        assert {one["detail"] for one in told["dependencies"]} == {None}
        trusted = client.get("/health/ready", headers={"X-API-Key": key}).json()
        assert [one["detail"] for one in trusted["dependencies"] if one["name"] == "index"] != [None]


def test_it_lives_while_its_models_are_still_loading(tmp_path: Path) -> None:
    loaded = threading.Event()

    class SlowEmbedder(HashEmbedder):
        def embed_queries(self, texts: Any) -> Any:
            loaded.wait(30)
            return super().embed_queries(texts)

    with service(tmp_path, embedder=SlowEmbedder()) as client:
        assert client.get("/health/live").status_code == 200
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["status"] == "starting"
        loaded.set()
        eventually(lambda: client.get("/health/ready").status_code == 200)


# --- the looks themselves ---------------------------------------------------------------------------------------------


async def test_what_does_not_answer_in_time_is_down_and_is_not_asked_twice_at_once() -> None:
    slow, quick = Part(), Part()
    health = health_of(Dependency("slow", slow), Dependency("quick", quick), time_limit=0.05, cache_seconds=0)
    await health.warm_up()
    slow.seconds = 0.5
    for _ in range(3):
        report = await health.report()
        assert report.status == "unready"
        assert {one.name: one.status for one in report.dependencies} == {"slow": "down", "quick": "up"}
    assert slow.asked == 2, "once for loading, and once since"
    assert quick.asked == 4
    slow.seconds = 0.0
    await asyncio.sleep(0.6)
    assert (await health.report()).status == "ready"
    await health.close()


async def test_an_asker_does_not_wait_for_a_slow_look_but_is_told_what_the_last_one_showed() -> None:
    part, clock = Part(), [0.0]
    health = health_of(Dependency("database", part, matters=False), now=lambda: clock[0])
    await health.warm_up()
    part.seconds = 1.5
    part.error = StoreUnavailableError("gone")
    clock[0] = 10
    started = time.monotonic()
    assert (await health.report()).status == "ready"
    assert time.monotonic() - started < allow(1.2)
    await asyncio.sleep(1.5)
    assert (await health.report()).status == "degraded"
    await health.close()


async def test_all_are_looked_at_at_the_same_time() -> None:
    parts = [Part() for _ in range(4)]
    for part in parts:
        part.seconds = 0.2
    health = health_of(*(Dependency(str(number), part) for number, part in enumerate(parts)))
    started = time.monotonic()
    assert (await health.warm_up()).status == "ready"
    assert time.monotonic() - started < allow(0.6)
    await health.close()


async def test_many_askers_cause_one_look_and_the_next_one_comes_when_it_is_old() -> None:
    part, clock = Part(), [0.0]
    health = health_of(Dependency("part", part), cache_seconds=2, now=lambda: clock[0])
    await health.warm_up()
    clock[0] = 10
    await asyncio.gather(*(health.report() for _ in range(20)))
    assert part.asked == 2
    clock[0] = 11.9
    await health.report()
    assert part.asked == 2
    clock[0] = 12.1
    await health.report()
    assert part.asked == 3
    await health.close()


async def test_a_loaded_model_is_not_asked_again_and_one_that_is_missing_is() -> None:
    part = Part()
    part.error = ModelServiceError("weights are missing")
    health = health_of(Dependency("model", part, lasting=True), cache_seconds=0)
    assert (await health.warm_up()).status == "unready"
    part.error = None
    assert (await health.report()).status == "ready"
    asked = part.asked
    part.error = ModelServiceError("is never seen")
    assert (await health.report()).status == "ready"
    assert part.asked == asked
    await health.close()


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("gone"), RuntimeError("secret of the inside"), OSError(5, "I/O")]
)
async def test_whatever_a_look_raises_is_a_part_that_is_down(error: Exception) -> None:
    part = Part()
    part.error = error
    health = health_of(Dependency("part", part))
    [report] = (await health.warm_up()).dependencies
    assert report.status == "down"
    assert report.detail == ("gone" if isinstance(error, StoreUnavailableError) else type(error).__name__)
    await health.close()


async def test_while_stopping_it_is_not_ready_whatever_there_is() -> None:
    metrics = ServiceMetrics()
    health = Health([Dependency("part", Part())], metrics)
    assert (await health.report()).status == "starting"
    await health.warm_up()
    assert metrics.registry.get_sample_value("twin_ready") == 1
    health.stop()
    assert (await health.report()).status == "stopping"
    assert metrics.registry.get_sample_value("twin_ready") == 0
    await health.close()


# --- services behind HTTP ---------------------------------------------------------------------------------------------


async def test_a_service_that_answers_is_up_and_costs_nothing() -> None:
    with OpenAIServer(api_key="sk-right") as server:
        check = HttpCheck(
            f"{server.base_url}/models",
            {"Authorization": "Bearer sk-right"},
            what="The model's service",
            variable="LLM_API_KEY",
        )
        assert await check() is None
        assert await check() is None
        assert server.requests == [], "nothing was generated"
        await check.close()


async def test_a_service_that_is_not_there_is_down() -> None:
    check = HttpCheck(f"http://127.0.0.1:{free_port()}/models", {}, what="The model's service", variable="X")
    with pytest.raises(ModelServiceError, match=r"The model's service does not answer \(ConnectError\)"):
        await check()
    await check.close()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_names_the_setting(status: int) -> None:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"sk-wrong is not a key of mine"})

    with serving(refusing) as url:
        check = HttpCheck(f"{url}/models", {}, what="The model's service", variable="LLM_API_KEY")
        with pytest.raises(ConfigurationError, match="Check LLM_API_KEY") as caught:
            await check()
        assert "sk-wrong" not in str(caught.value)
        await check.close()


# --- SageMaker, as moto plays it over HTTP ----------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """AWS's API on loopback, with an endpoint named ``twin``."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("sagemaker", region_name="eu-west-1")
    role = "arn:aws:iam::123456789012:role/twin"
    client.create_model(ModelName="twin", ExecutionRoleArn=role, PrimaryContainer={"Image": "tgi"})
    variant = {
        "VariantName": "all",
        "ModelName": "twin",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.g4dn.xlarge",
    }
    client.create_endpoint_config(EndpointConfigName="twin", ProductionVariants=[variant])
    client.create_endpoint(EndpointName="twin", EndpointConfigName="twin")
    yield client
    client.close()
    server.stop()


async def test_an_endpoint_that_is_in_service_is_up_and_one_that_is_gone_is_down(aws: Any) -> None:
    check = SageMakerCheck("twin", "eu-west-1")
    assert check() == "InService"
    aws.delete_endpoint(EndpointName="twin")
    with pytest.raises(ModelServiceError, match="Check LLM_ENDPOINT"):
        check()
    await check.close()


async def test_aws_that_is_not_there_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    check = SageMakerCheck("twin", "eu-west-1")
    with pytest.raises(ModelServiceError, match="EndpointConnectionError"):
        check()
    await check.close()

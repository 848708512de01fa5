"""API keys and rate limits: the contract, on a file or memory and on MongoDB's wire protocol; and replicas that share them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from llm_engineering.application.ports import KeyStore, RateLimiter
from llm_engineering.domain.errors import StoreUnavailableError
from llm_engineering.infrastructure.api.middleware.auth import ApiKeyFile
from llm_engineering.infrastructure.api.middleware.limits import TokenBuckets
from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
from llm_engineering.infrastructure.stores.mongo.access import MongoTokenBuckets
from llm_engineering.infrastructure.stores.mongo.connection import MongoConnection
from tests.conformance.access_contract import KeyStoreContract, RateLimiterContract
from tests.fakes.operated_service import OperatedService, eventually
from tests.fakes.service import QUESTION, serving
from tests.services import free_port
from tools.services import LocalMongo

ASK = {"query": QUESTION}


@pytest.fixture
def open_warehouse(mongo_server: LocalMongo, mongo_database: str) -> Iterator[Callable[[], MongoWarehouse]]:
    """Opens the same database again, as another process would."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(MongoWarehouse(mongo_server.uri, mongo_database, 3.0)))


class TestKeyFile(KeyStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], KeyStore]:
        return lambda: ApiKeyFile(tmp_path / "keys.json")


class TestKeysInTheDatabase(KeyStoreContract):
    @pytest.fixture
    def open_store(self, open_warehouse: Callable[[], MongoWarehouse]) -> Callable[[], KeyStore]:
        return lambda: open_warehouse().api_keys


class TestBucketsInMemory(RateLimiterContract):
    @pytest.fixture
    def make_limiter(self) -> Callable[[int, Callable[[], float]], RateLimiter]:
        return TokenBuckets


class TestBucketsInTheDatabase(RateLimiterContract):
    @pytest.fixture
    def make_limiter(
        self, mongo_server: LocalMongo, mongo_database: str
    ) -> Iterator[Callable[[int, Callable[[], float]], RateLimiter]]:
        with closing(MongoConnection(mongo_server.uri, mongo_database, 3.0)) as connection:
            yield lambda per_minute, now: MongoTokenBuckets(connection, per_minute, now)

    def test_replicas_that_take_at_once_give_away_no_more_than_there_is(
        self, open_warehouse: Callable[[], MongoWarehouse]
    ) -> None:
        replicas = [open_warehouse().make_rate_limits(20) for _ in range(3)]
        for replica in replicas:
            replica.take("somebody else")  # connected, so that all begin together
        began = time.monotonic()
        with ThreadPoolExecutor(6) as pool:
            decisions = list(pool.map(lambda number: replicas[number % 3].take("key a"), range(60)))
        refilled = (time.monotonic() - began) * 20 / 60
        assert 20 <= sum(one.allowed for one in decisions) <= 20 + refilled + 1


# --- the service ------------------------------------------------------------------------------------------------------


@pytest.fixture
def replicas(
    tmp_path: Path, open_warehouse: Callable[[], MongoWarehouse]
) -> Iterator[tuple[httpx.Client, httpx.Client, KeyStore]]:
    """Two services with nothing in common but the database, and its keys."""
    keys = open_warehouse().api_keys
    keys.create("first")
    with ExitStack() as stack:
        clients = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            service = OperatedService(
                tmp_path / name, warehouse=open_warehouse(), state="database", rate_per_minute=3
            )
            url = stack.enter_context(serving(service.app))
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=30)))
        yield clients[0], clients[1], keys


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_replicas_agree_on_keys_and_on_budgets(
    replicas: tuple[httpx.Client, httpx.Client, KeyStore],
) -> None:
    one, two, keys = replicas
    secret = keys.create("laptop")
    eventually(lambda: one.get("/info", headers=bearer(secret)).status_code == 200)
    eventually(lambda: two.get("/info", headers=bearer(secret)).status_code == 200)
    asked = [client.post("/search", json=ASK, headers=bearer(secret)) for client in (one, two, one, two)]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 429]
    assert [int(answer.headers["X-RateLimit-Remaining"]) for answer in asked] == [2, 1, 0, 0]
    keys.revoke("laptop")
    eventually(lambda: one.get("/info", headers=bearer(secret)).status_code == 401)
    eventually(lambda: two.get("/info", headers=bearer(secret)).status_code == 401)


def test_while_the_database_is_away_known_keys_work_and_each_replica_counts_alone(
    tmp_path: Path, own_mongo_server: LocalMongo
) -> None:
    own_mongo_server.start()
    with ExitStack() as stack:

        def open_own() -> MongoWarehouse:
            return stack.enter_context(closing(MongoWarehouse(own_mongo_server.uri, "twin", 0.5)))

        secret = open_own().api_keys.create("laptop")
        service = OperatedService(tmp_path, warehouse=open_own(), state="database", rate_per_minute=2)
        client = stack.enter_context(httpx.Client(base_url=stack.enter_context(serving(service.app))))
        own_mongo_server.stop()
        answers = [client.post("/search", json=ASK, headers=bearer(secret), timeout=60) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert client.get("/info", headers=bearer("twin_wrong")).status_code == 401


def test_a_service_whose_keys_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    with (
        closing(MongoWarehouse(f"mongodb://127.0.0.1:{free_port()}", "twin", 0.2)) as nowhere,
        pytest.raises(StoreUnavailableError),
    ):
        OperatedService(tmp_path, warehouse=nowhere, state="database")

"""Tables of strangers."""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llm_engineering.application.ports import FetchedDocument, Link
from llm_engineering.domain.errors import FetchError
from llm_engineering.infrastructure.sources.tabular import TableReader
from tests.attacks.watching import measure_cost
from tests.fakes.fault_server import FaultServer, Reply

AUTHOR = "Ada Winter"
LIMIT = 2_000_000


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as server:
        yield server


async def read(url: str, **options: Any) -> list[FetchedDocument]:
    reader = TableReader(**{"max_download_bytes": LIMIT, **options})
    items = [item async for item in reader.read(Link(url, AUTHOR, category="article"), {})]
    return [item for item in items if isinstance(item, FetchedDocument)]


async def test_a_packed_bomb_is_counted_as_it_unpacks(server: FaultServer) -> None:
    body = gzip.compress(b"text\n" + b"a" * 200_000_000, 9)
    server.put("/t.csv", Reply(body, headers={"Content-Encoding": "gzip"}))
    server.put("/u.csv", Reply(gzip.compress(body), headers={"Content-Encoding": "gzip, gzip"}))
    for name in ("/t.csv", "/u.csv"):
        async with measure_cost() as cost:
            with pytest.raises(FetchError):
                await read(server.url(name))
        assert cost.peak_bytes < 3 * LIMIT
        assert cost.longest_stand < 0.05


async def test_a_table_may_not_send_its_reader_to_a_service_inside(server: FaultServer) -> None:
    async with FaultServer() as inside:
        inside.put("/t.csv", "text\nFor us alone\n")
        server.redirect("/t.csv", inside.url("/t.csv"))
        with pytest.raises(FetchError):
            await read(server.url("/t.csv"))
        assert inside.requests == []
        assert len(await read(server.url("/t.csv"), private_addresses="always")) == 1


async def test_the_credentials_of_a_table_stay_on_its_server(server: FaultServer) -> None:
    async with FaultServer() as elsewhere:
        elsewhere.put("/t.csv", "text\nOpen to all\n")
        server.redirect("/t.csv", elsewhere.url("/t.csv"))
        link = server.url("/t.csv").replace("://", "://ada:s3cret-pw@")
        assert len(await read(link, private_addresses="always")) == 1
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in elsewhere.requests[0].headers

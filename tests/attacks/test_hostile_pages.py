"""Web pages, feeds and redirects of strangers, against the reader of pages."""

import asyncio
import gzip
import os
import zlib
from typing import Any

import pytest

from llm_engineering.application.features.collect import collect
from llm_engineering.application.ports import Discovered, Link, Rejected, SourceReader
from llm_engineering.domain.errors import ExtractionError, FetchError
from llm_engineering.infrastructure.shared import addresses
from llm_engineering.infrastructure.shared.workers import Workers, WorkStoppedError
from llm_engineering.infrastructure.sources.web.article import ArticleReader
from llm_engineering.infrastructure.sources.web.client import Fetched, PoliteClient
from llm_engineering.infrastructure.sources.web.feed import MAX_ITEMS, FeedReader
from tests.attacks.watching import measure_cost
from tests.fakes.fault_server import FaultServer, Reply, Request
from tests.fakes.warehouse import FakeWarehouse

AUTHOR = "Ada Winter"
LIMIT = 2_000_000
STAND_SECONDS = 0.05


def client(**options: Any) -> PoliteClient:
    quick: dict[str, Any] = {
        "user_agent": "llm-twin/0.1",
        "max_bytes": LIMIT,
        "max_retries": 0,
        "per_host_delay_seconds": 0,
        "respect_robots_txt": False,
        "backoff_seconds": 0.01,
    }
    return PoliteClient(**{**quick, **options})


async def refuse(url: str, **options: Any) -> str:
    asked = client(**options)
    try:
        with pytest.raises(FetchError) as caught:
            await asked.get(url)
    finally:
        await asked.close()
    return str(caught.value)


# --- S1: what is packed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_packed_bomb_costs_neither_memory_nor_the_event_loop(
    server: FaultServer, coding: str
) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    server.put("/bomb", Reply(pack(b"\0" * 200_000_000, 9), headers={"Content-Encoding": coding}))
    async with measure_cost() as cost:
        await refuse(server.url("/bomb"))
    assert cost.peak_bytes < 3 * LIMIT
    assert cost.longest_stand < STAND_SECONDS


@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip,deflate", "br", "compress", "gzip, identity, gzip"])
async def test_what_is_packed_twice_or_strangely_is_not_unpacked(server: FaultServer, coding: str) -> None:
    body = gzip.compress(gzip.compress(b"<p>" + b"\0" * 1_000_000))
    server.put("/twice", Reply(body, headers={"Content-Encoding": coding}))
    async with measure_cost() as cost:
        await refuse(server.url("/twice"))
    assert cost.peak_bytes < LIMIT


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda body: zlib.compress(body)[2:-4]])
async def test_honest_packing_of_every_kind_is_read(server: FaultServer, pack: Any) -> None:
    body = b"<p>" + b"text and more " * 100_000
    coding = "gzip" if pack is gzip.compress else "deflate"
    server.put("/honest", Reply(pack(body), headers={"Content-Encoding": coding}))
    asked = client()
    answer = await asked.get(server.url("/honest"))
    await asked.close()
    assert isinstance(answer, Fetched)
    assert answer.content == body


# --- S5: redirects without end -----------------------------------------------------------------------------------------


async def test_a_page_that_sets_a_cookie_and_redirects_to_itself_is_left_after_five_hops(
    server: FaultServer,
) -> None:
    server.put("/self", Reply(status=302, headers={"Location": "/self", "Set-Cookie": "n=1"}))
    async with asyncio.timeout(20):
        await refuse(server.url("/self"))
    assert len(server.requests) == 6


async def test_a_link_has_an_end_however_slowly_it_is_kept_waiting(server: FaultServer) -> None:
    """Each host that a redirect names may keep us waiting with its robots.txt: the link pays for all of them."""

    async def slow(request: Request, writer: asyncio.StreamWriter) -> Reply:
        await asyncio.sleep(0.4)
        return Reply(status=503, headers={"Retry-After": "0"})

    server.on("/robots.txt", slow)
    async with asyncio.timeout(20):
        await refuse(
            server.url("/page"), respect_robots_txt=True, max_retries=100, total_timeout_seconds=0.01
        )
    assert len(server.requests) <= 4


# --- S9: pages that take long ------------------------------------------------------------------------------------------


def spin() -> None:
    """Compute without end."""
    while True:
        pass


def hoard() -> int:
    """Take all memory."""
    return len([bytearray(1_000_000) for _ in range(100_000)])


def exit_at_once() -> None:
    """Die, as a library that is written in C may."""
    os._exit(3)


async def test_work_on_a_page_ends_with_its_time_and_its_memory_and_others_go_on() -> None:
    workers = Workers(most=1, cpu_seconds=0.5, memory_bytes=300_000_000)
    async with measure_cost() as cost:
        for function in (spin, hoard, exit_at_once):
            with pytest.raises(WorkStoppedError):
                await workers.run(function)
            assert await workers.run(len, "and on") == 6
    assert cost.longest_stand < STAND_SECONDS
    workers.close()


async def test_a_process_that_ended_of_idleness_is_replaced_unseen() -> None:
    workers = Workers(most=1, idle_seconds=1)
    first = await workers.run(os.getpid)
    (process,) = workers._processes
    await asyncio.to_thread(process.wait)
    assert await workers.run(os.getpid) != first
    workers.close()


async def read_page(server: FaultServer, body: str, workers: Workers | None = None) -> list[Any]:
    server.put("/page", f"<html><body><article><h1>A title</h1>{body}</article></body></html>")
    reader = ArticleReader(client(max_bytes=10_000_000))
    reader._workers = workers or reader._workers
    try:
        return [item async for item in reader.read(Link(server.url("/page"), AUTHOR), {})]
    finally:
        await reader.close()


async def test_a_page_whose_extraction_takes_long_fails_alone(server: FaultServer) -> None:
    workers = Workers(most=1, cpu_seconds=2.0)
    with pytest.raises(ExtractionError):
        await read_page(server, "a<a href=x>b</a>" * 150_000, workers)
    assert await read_page(server, "<p>Words of an honest page.</p>" * 20, workers)
    workers.close()


async def test_thousands_of_figures_are_read_in_time(server: FaultServer) -> None:
    workers = Workers(most=1, cpu_seconds=5.0)
    text = "<p>Words of the page. </p>" * 40
    assert await read_page(server, text + "<figure><img src='a.png'></figure>" * 12_000, workers)
    workers.close()


async def test_a_page_with_too_many_elements_is_refused(server: FaultServer) -> None:
    with pytest.raises(ExtractionError):
        await read_page(server, "<b>a</b>" * 250_000)


async def test_a_sitemap_without_end_gives_so_many_pages_and_says_how_to_have_more(
    server: FaultServer,
) -> None:
    urls = "".join(f"<url><loc>https://example.org/{n}</loc></url>" for n in range(3_000))
    server.put("/sitemap.xml", f"<urlset>{urls}</urlset>")
    for options, expected in (({}, MAX_ITEMS), ({"max_items": 2_500}, 2_500)):
        reader = FeedReader(client())
        link = Link(server.url("/sitemap.xml"), AUTHOR, options=options)
        found = [item async for item in reader.read(link, {})]
        await reader.close()
        assert sum(isinstance(item, Discovered) for item in found) == expected
        rejected = [item for item in found if isinstance(item, Rejected)]
        assert len(rejected) == (0 if options else 1)
        assert all("max_items" in item.reason for item in rejected)


# --- S8: addresses inside ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
    ],
)
async def test_an_address_inside_is_known_in_every_spelling(address: str) -> None:
    with pytest.raises(addresses.PrivateAddressError):
        await addresses.resolve_host(address, 80, inside=False)
    assert await addresses.resolve_host("1.1.1.1", 80, inside=False) == ["1.1.1.1"]


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost"])
async def test_names_and_numbers_that_mean_this_machine_are_seen_through(host: str) -> None:
    with pytest.raises((addresses.PrivateAddressError, OSError)):
        await addresses.resolve_host(host, 80, inside=False)


async def test_a_page_may_not_send_its_reader_to_a_service_inside(server: FaultServer) -> None:
    async with FaultServer() as inside:
        inside.put("/secret", "<p>for us alone</p>")
        server.redirect("/page", inside.url("/secret"))
        await refuse(server.url("/page"))
        assert inside.requests == []

        asked = client(private_addresses="always")
        answer = await asked.get(server.url("/page"))
        await asked.close()
        assert isinstance(answer, Fetched)


async def test_a_link_that_the_user_wrote_may_lead_inside_unless_never_is_set(server: FaultServer) -> None:
    server.redirect("/page", "/moved")
    server.put("/moved", "<p>ours</p>")
    asked = client()
    assert isinstance(await asked.get(server.url("/page")), Fetched)
    await asked.close()

    before = len(server.requests)
    await refuse(server.url("/page"), private_addresses="never")
    assert len(server.requests) == before


async def test_a_feed_may_list_what_lies_beside_it_and_nothing_else_inside(server: FaultServer) -> None:
    page = f"<html><body><article><h1>A title</h1><p>{'Words of the page. ' * 40}</p></article></body></html>"
    async with FaultServer() as inside:
        inside.put("/secret", page)
        server.put("/own", page)
        feed = "".join(
            f"<item><link>{url}</link></item>" for url in (server.url("/own"), inside.url("/secret"))
        )
        server.put("/feed.xml", f"<rss version='2.0'><channel>{feed}</channel></rss>")
        warehouse, asked = FakeWarehouse(), client()
        readers: dict[str, SourceReader] = {"article": ArticleReader(asked), "feed": FeedReader(asked)}
        report = await collect(
            [Link(server.url("/feed.xml"), AUTHOR)],
            readers,
            warehouse.documents,
            warehouse.users,
            warehouse.dead_letters,
        )
        for reader in readers.values():
            await reader.close()
        assert [document.link for document in warehouse.documents.stream()] == [server.url("/own")]
        assert [outcome.url for outcome in report.failed] == [inside.url("/secret")]
        assert inside.requests == []


async def test_a_name_that_changes_its_address_is_asked_once_and_that_answer_is_used(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the address that was checked is the one connected to."""
    asked: list[str] = []
    loop = asyncio.get_running_loop()
    ask = loop.getaddrinfo

    async def answer(host: Any, port: Any, **options: Any) -> Any:
        if host != "rebind.test":
            return await ask(host, port, **options)
        asked.append(host)
        return await ask("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", answer)
    monkeypatch.setattr(addresses, "_is_public", lambda address: address != "127.0.0.2")
    server.put("/page", "<p>a page</p>")
    reading = client()
    url = server.url("/page").replace("127.0.0.1", "rebind.test")
    assert isinstance(await reading.get(url, given="https://example.org/"), Fetched)
    await reading.close()
    assert asked == ["rebind.test"]


async def test_a_name_with_one_address_inside_is_refused(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    ask = loop.getaddrinfo

    async def both(host: Any, port: Any, **options: Any) -> Any:
        return [*await ask("1.1.1.1", port, **options), *await ask("127.0.0.1", port, **options)]

    monkeypatch.setattr(loop, "getaddrinfo", both)
    with pytest.raises(addresses.PrivateAddressError):
        await addresses.resolve_host("both.test", 80, inside=False)

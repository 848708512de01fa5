"""The HTTP client against a real server that misbehaves."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from llm_engineering.domain.errors import FetchError
from llm_engineering.infrastructure.sources.web.client import Fetched, NotModified, PoliteClient
from tests.durations import allow
from tests.fakes.fault_server import FaultServer, Reply, Request

AGENT = "llm-twin/0.1 (+https://example.org)"


def polite(**options: Any) -> PoliteClient:
    """A client that loses no time."""
    quick: dict[str, Any] = {
        "user_agent": AGENT,
        "timeout_seconds": 3,
        "total_timeout_seconds": 5,
        "max_bytes": 200_000,
        "max_redirects": 3,
        "max_retries": 2,
        "max_retry_after_seconds": 2,
        "per_host_concurrency": 4,
        "per_host_delay_seconds": 0,
        "respect_robots_txt": False,
        "backoff_seconds": 0.01,
    }
    return PoliteClient(**{**quick, **options})


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as server:
        yield server


async def get(server: FaultServer, path: str, client: PoliteClient | None = None, **how: Any) -> Fetched:
    client = client or polite()
    try:
        answer = await client.get(server.url(path), **how)
    finally:
        await client.close()
    assert isinstance(answer, Fetched)
    return answer


async def failure(server: FaultServer, path: str, client: PoliteClient | None = None, **how: Any) -> str:
    with pytest.raises(FetchError) as caught:
        await get(server, path, client, **how)
    assert server.url(path) in str(caught.value)
    return str(caught.value)


async def test_a_page_is_fetched_with_its_type_and_address(server: FaultServer) -> None:
    server.put("/a", "<p>Grüße</p>")
    page = await get(server, "/a#part")
    assert (page.status, page.text, page.content_type) == (200, "<p>Grüße</p>", "text/html")
    assert page.final_url == server.url("/a")
    assert server.requests[0].headers["user-agent"] == AGENT


@pytest.mark.parametrize(
    "url",
    [
        "",
        "not a link",
        "example.org/a",
        "ftp://example.org/a",
        "http://",
        "http://[::1",
        "http://x:99999/",
        "htp:/x",
        "http://a b/c",
    ],
)
async def test_a_malformed_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(FetchError, match=r"no web address; expected one such as https://"):
        await polite().get(url)


@pytest.mark.parametrize(
    ("status", "word"), [(404, "check the address"), (403, "log-in"), (410, "taken away"), (418, "418")]
)
async def test_a_refusal_is_not_repeated(server: FaultServer, status: int, word: str) -> None:
    server.put("/a", Reply("no", status))
    assert word in await failure(server, "/a")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_passing_failure_is_repeated(server: FaultServer, status: int) -> None:
    server.put("/a", Reply("later", status), Reply("later", status), "<p>now</p>")
    assert (await get(server, "/a")).text == "<p>now</p>"
    assert len(server.requests) == 3


async def test_a_lasting_failure_is_given_up(server: FaultServer) -> None:
    server.put("/a", Reply("broken", 500))
    assert "500 Internal Server Error (given up after 3 tries)" in await failure(server, "/a")
    assert len(server.requests) == 3


async def test_retry_after_in_seconds_is_waited_for(server: FaultServer) -> None:
    server.put("/a", Reply("slow down", 429, headers={"Retry-After": "1"}), "<p>now</p>")
    await get(server, "/a")
    assert server.requests[1].at - server.requests[0].at >= 1.0


async def test_retry_after_as_a_date_is_waited_for(server: FaultServer) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.put("/a", Reply("slow down", 503, headers={"Retry-After": date}), "<p>now</p>")
    await get(server, "/a")
    assert server.requests[1].at - server.requests[0].at >= 0.9


async def test_a_longer_retry_after_than_allowed_is_not_waited_for(server: FaultServer) -> None:
    server.put("/a", Reply("slow down", 429, headers={"Retry-After": "3600"}))
    assert "asks to wait 3600 s; at most 2 s" in await failure(server, "/a")
    assert len(server.requests) == 1


async def test_an_unreadable_retry_after_counts_as_none(server: FaultServer) -> None:
    server.put("/a", Reply("slow down", 429, headers={"Retry-After": "soon"}), "<p>now</p>")
    assert (await get(server, "/a")).text == "<p>now</p>"


async def test_when_one_page_is_told_to_wait_the_others_of_its_host_wait_too(server: FaultServer) -> None:
    server.put("/a", Reply("slow down", 429, headers={"Retry-After": "1"}), "<p>a</p>")
    server.put("/b", "<p>b</p>")
    client = polite()

    async def later() -> None:
        await asyncio.sleep(0.2)
        await client.get(server.url("/b"))

    await asyncio.gather(client.get(server.url("/a")), later())
    await client.close()
    first, *others = server.requests
    assert all(request.at - first.at >= 0.95 for request in others)


async def test_redirects_are_followed_to_the_final_address(server: FaultServer) -> None:
    server.redirect("/a", "/b?x=1", 301)
    server.redirect("/b?x=1", "c")
    server.put("/c", "<p>c</p>")
    page = await get(server, "/a")
    assert page.final_url == server.url("/c")


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("/a", "in a circle"),
        ("/b", "in a circle"),
        ("ftp://example.org/x", "'ftp:'"),
        ("javascript:alert(1)", "malformed"),
        ("file:///etc/passwd", "'file:'"),
        ("http://[", "malformed address"),
    ],
)
async def test_a_redirect_that_leads_nowhere_is_said(server: FaultServer, location: str, word: str) -> None:
    server.redirect("/a", location)
    server.redirect("/b", "/a")
    assert word in await failure(server, "/a")


async def test_too_many_redirects_are_cut(server: FaultServer) -> None:
    for n in range(10):
        server.redirect(f"/{n}", f"/{n + 1}")
    assert "more than 3 times" in await failure(server, "/0")
    assert len(server.requests) == 4


async def test_a_page_that_sets_a_cookie_and_sends_back_to_itself_is_read(server: FaultServer) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> Reply:
        if "seen=1" in request.headers.get("cookie", ""):
            return Reply("<p>in</p>")
        return Reply(status=302, headers={"Location": "/a", "Set-Cookie": "seen=1"})

    server.on("/a", answer)
    assert (await get(server, "/a")).text == "<p>in</p>"


async def test_a_server_that_hangs_is_given_up(server: FaultServer) -> None:
    server.hanging("/a")
    started = time.monotonic()
    assert "did not answer in time" in await failure(server, "/a", polite(timeout_seconds=0.3))
    assert time.monotonic() - started < allow(5)
    assert len(server.requests) == 3


async def test_a_page_that_trickles_in_is_given_up_and_not_asked_for_again(server: FaultServer) -> None:
    server.trickling("/a")
    assert "still arriving after 0.6 s" in await failure(server, "/a", polite(total_timeout_seconds=0.6))
    assert len(server.requests) == 1


async def test_a_broken_connection_is_tried_again(server: FaultServer) -> None:
    server.cut("/a", times=1, then="<p>whole</p>")
    assert (await get(server, "/a")).text == "<p>whole</p>"
    server.cut("/b")
    assert "broke off" in await failure(server, "/b")


async def test_a_closed_port_is_named_as_refused(server: FaultServer) -> None:
    async with FaultServer() as gone:
        pass
    with pytest.raises(FetchError, match="refused the connection"):
        await polite().get(gone.url("/a"))


async def test_a_host_that_does_not_exist_is_named_as_such() -> None:
    with pytest.raises(FetchError, match="host name cannot be resolved"):
        await polite(max_retries=0).get("http://no-such-host.invalid/a")


async def test_a_server_that_speaks_no_tls_is_named_as_such(server: FaultServer) -> None:
    with pytest.raises(FetchError, match="TLS"):
        await polite().get(server.url("/a").replace("http:", "https:"))


async def test_a_page_that_is_too_large_is_refused_by_its_stated_size(server: FaultServer) -> None:
    server.put("/a", b"x" * 300_000)
    assert "too large: 300,000 bytes" in await failure(server, "/a")


async def test_a_page_without_end_is_cut(server: FaultServer) -> None:
    server.endless("/a")
    assert "too large" in await failure(server, "/a")


async def test_a_small_download_that_unpacks_into_a_huge_page_is_cut(server: FaultServer) -> None:
    server.compressed("/a", b"x" * 5_000_000)
    assert "too large" in await failure(server, "/a")


async def test_a_compressed_page_is_unpacked_and_a_broken_one_refused(server: FaultServer) -> None:
    server.compressed("/a", b"<p>packed</p>")
    server.put("/b", Reply(b"not gzip at all", headers={"Content-Encoding": "gzip"}))
    assert (await get(server, "/a")).text == "<p>packed</p>"
    assert "encoding is broken" in await failure(server, "/b")


async def test_a_type_that_is_not_read_is_refused_and_a_missing_one_let_through(server: FaultServer) -> None:
    server.put("/a.png", Reply(b"\x89PNG", content_type="image/png"))
    server.put("/b", Reply("<p>b</p>", content_type=""))
    assert "of type image/png; expected text/html" in await failure(server, "/a.png")
    assert (await get(server, "/b")).text == "<p>b</p>"


async def test_a_current_copy_is_not_fetched_again(server: FaultServer) -> None:
    server.validated("/a", "<p>a</p>", etag='"1"', last_modified="Sun, 01 Nov 2026 10:00:00 GMT")
    page = await get(server, "/a")
    client = polite()
    by_etag = await client.get(server.url("/a"), etag=page.headers["etag"])
    by_date = await client.get(server.url("/a"), last_modified=page.headers["last-modified"])
    assert isinstance(by_etag, NotModified)
    assert isinstance(by_date, NotModified)
    assert isinstance(await client.get(server.url("/a"), etag='"0"'), Fetched)
    await client.close()


@pytest.mark.parametrize(
    ("text", "encoding", "content_type"),
    [
        pytest.param(
            "<p>Größe: 5 €</p>", "cp1252", "text/html; charset=iso-8859-1", id="header says latin-1"
        ),
        pytest.param(
            '<meta charset="shift_jis"><p>日本語の文章</p>', "cp932", "text/html", id="meta says shift-jis"
        ),
        pytest.param(
            '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251"><p>Привет</p>',
            "cp1251",
            "text/html",
            id="old meta",
        ),
        pytest.param(
            '<meta charset="gb2312"><p>漢字簡體</p>',
            "gb18030",
            "text/html; charset=utf-8",
            id="header is wrong",
        ),
        pytest.param(
            "<p>Grüße, naïve</p>", "utf-8", "text/html; charset=iso-8859-1", id="utf-8 said to be latin-1"
        ),
        pytest.param("<p>Grüße</p>", "utf-16", "text/html", id="byte order mark"),
        pytest.param("<p>Grüße</p>", "utf-8-sig", "text/html; charset=latin-1", id="utf-8 with a mark"),
        pytest.param("<p>Grüße</p>", "utf-8", "text/html; charset=no-such-set", id="an unknown name"),
        pytest.param(
            "<p>" + "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5 + "</p>",
            "cp1251",
            "text/html",
            id="nothing is said",
        ),
    ],
)
async def test_pages_are_read_in_their_own_character_set(
    server: FaultServer, text: str, encoding: str, content_type: str
) -> None:
    server.put("/a", Reply(text.encode(encoding), content_type=content_type))
    assert (await get(server, "/a")).text == text


async def test_one_host_gets_few_requests_at_once_with_a_pause_between(server: FaultServer) -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> Reply:
        await asyncio.sleep(0.1)
        return Reply("<p>a</p>")

    client = polite(per_host_concurrency=2, per_host_delay_seconds=0.1)
    for n in range(6):
        server.on(f"/{n}", slow)
    await asyncio.gather(*[client.get(server.url(f"/{n}")) for n in range(6)])
    await client.close()
    times = [request.at for request in server.requests]
    assert server.peak == 2
    assert times[-1] - times[0] >= 5 * 0.1 - 0.05


async def test_two_hosts_do_not_wait_for_each_other(server: FaultServer) -> None:
    async with FaultServer() as other:
        client = polite(per_host_delay_seconds=30)
        for one in (server, other):
            one.put("/a", "<p>a</p>")
        async with asyncio.timeout(5):
            await asyncio.gather(client.get(server.url("/a")), client.get(other.url("/a")))
        await client.close()


async def test_waiting_for_a_turn_is_not_held_against_the_page(server: FaultServer) -> None:
    server.put("/a", "<p>a</p>")
    client = polite(per_host_delay_seconds=0.6, total_timeout_seconds=1)
    await asyncio.gather(*[client.get(server.url("/a")) for _ in range(3)])
    await client.close()
    assert len(server.requests) == 3


ROBOTS = Reply(
    "User-agent: *\nDisallow: /private\n\nUser-agent: llm-twin\nDisallow: /twin\n", content_type="text/plain"
)


async def test_robots_txt_is_asked_once_per_host_and_obeyed(server: FaultServer) -> None:
    server.put("/robots.txt", ROBOTS)
    for path in ("/a", "/private", "/twin"):
        server.put(path, "<p>a</p>")
    client = polite(respect_robots_txt=True)
    results = await asyncio.gather(
        *[client.get(server.url(path)) for path in ("/a", "/private", "/twin", "/a")], return_exceptions=True
    )
    await client.close()
    assert [type(result) for result in results] == [Fetched, Fetched, FetchError, Fetched]
    assert "robots.txt does not allow it" in str(results[2])
    assert server.paths().count("/robots.txt") == 1
    assert "/twin" not in server.paths()


async def test_robots_txt_can_be_left_unasked(server: FaultServer) -> None:
    server.put("/robots.txt", ROBOTS)
    server.put("/twin", "<p>a</p>")
    await get(server, "/twin")
    assert server.paths() == ["/twin"]


async def test_a_redirect_does_not_lead_around_robots_txt(server: FaultServer) -> None:
    server.put("/robots.txt", ROBOTS)
    server.redirect("/a", "/twin")
    server.put("/twin", "<p>a</p>")
    assert "robots.txt" in await failure(server, "/a", polite(respect_robots_txt=True))
    assert "/twin" not in server.paths()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_without_a_robots_txt_everything_is_allowed(server: FaultServer, status: int) -> None:
    server.put("/robots.txt", Reply("none", status))
    server.put("/a", "<p>a</p>")
    assert (await get(server, "/a", polite(respect_robots_txt=True))).text == "<p>a</p>"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_robots_txt_that_cannot_be_read_forbids_everything_and_says_so(
    server: FaultServer, status: int
) -> None:
    server.put("/robots.txt", Reply("broken", status))
    server.put("/a", "<p>a</p>")
    reason = await failure(server, "/a", polite(respect_robots_txt=True))
    assert f"robots.txt cannot be read: it answered {status}" in reason
    assert "/a" not in server.paths()


async def test_a_crawl_delay_is_kept(server: FaultServer) -> None:
    server.put("/robots.txt", Reply("User-agent: *\nCrawl-delay: 0.2\n", content_type="text/plain"))
    server.put("/a", "<p>a</p>")
    client = polite(respect_robots_txt=True)
    await asyncio.gather(*[client.get(server.url("/a")) for _ in range(3)])
    await client.close()
    times = [request.at for request in server.requests if request.path == "/a"]
    assert times[-1] - times[0] >= 2 * 0.2 - 0.05


async def test_credentials_in_an_address_are_not_shown(server: FaultServer) -> None:
    client = polite()
    with pytest.raises(FetchError) as caught:
        await client.get(server.url("/a").replace("//", "//me:secret@"))
    await client.close()
    assert "secret" not in str(caught.value)
    assert "authorization" in server.requests[0].headers


async def test_a_cancelled_request_ends_at_once_and_leaves_the_host_free(server: FaultServer) -> None:
    server.hanging("/hang")
    server.put("/a", "<p>a</p>")
    client = polite(per_host_concurrency=1, timeout_seconds=30, total_timeout_seconds=30)
    task = asyncio.create_task(client.get(server.url("/hang")))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(2):
        assert isinstance(await client.get(server.url("/a")), Fetched)
    await client.close()
    await client.close()

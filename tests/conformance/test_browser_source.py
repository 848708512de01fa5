"""The browser and the reader of posts, in real Chromium, against the sample site and pages that misbehave."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_engineering.application.ports import (
    EndOfSource,
    FetchedDocument,
    Link,
    PageRenderer,
    Rejected,
    SourceItem,
)
from llm_engineering.domain.errors import CollectionError, ExtractionError, FetchError
from llm_engineering.infrastructure.sources.browser.chromium import find_programs
from llm_engineering.infrastructure.sources.browser.driver import Browser
from llm_engineering.infrastructure.sources.browser.posts import PostsPageReader
from tests.durations import allow
from tests.fakes.chromium import NO_CHROMIUM
from tests.fakes.serving import LoopbackServer
from tools.sample_site import DEFAULT_ROOT, SampleSite

needs_chromium = pytest.mark.skipif(bool(NO_CHROMIUM), reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    shared = Browser(page_timeout_seconds=20)
    yield shared
    asyncio.run(shared.close())


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with SampleSite() as running:
        yield running.base_url


@pytest.fixture
def pages() -> Iterator["Pages"]:
    with Pages() as running:
        yield running


class Pages(LoopbackServer):
    """Serves HTML by path; a path may also sleep, redirect to itself, or answer a status."""

    def __init__(self) -> None:
        outer = self
        self.html: dict[str, str] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/slow":
                    outer.closing.wait(30)
                if self.path == "/late":
                    time.sleep(1.5)
                if self.path == "/loop":
                    self.send_response(302)
                    self.send_header("Location", "/loop")
                    self.end_headers()
                    return
                if self.path == "/file":
                    self.send_response(200)
                    self.send_header("Content-Disposition", "attachment; filename=x.bin")
                    self.end_headers()
                    return
                body = outer.html.get(self.path, "nothing here").encode()
                self.send_response(200 if self.path in outer.html else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        super().__init__(Handler)


async def read(reader: PostsPageReader, url: str, **options: Any) -> list[SourceItem]:
    return [item async for item in reader.read(Link(url, "Ada Winter", options=options), {})]


def expected_posts() -> list[dict[str, str]]:
    posts: list[dict[str, str]] = json.loads((DEFAULT_ROOT / "posts.json").read_text("utf-8"))["posts"]
    return posts


@needs_chromium
class TestPosts:
    async def test_every_post_of_the_sample_site_is_found_by_scrolling(
        self, browser: Browser, site: str
    ) -> None:
        items = await read(PostsPageReader(browser), f"{site}/posts.html", author_from_page=True)

        found = [item.document for item in items if isinstance(item, FetchedDocument)]
        wanted = expected_posts()
        assert len(wanted) > 12, "several pages, or scrolling is not needed"
        assert [document.text for document in found] == [post["text"] for post in wanted]
        assert [document.author for document in found] == [post["author"] for post in wanted]
        assert [document.link for document in found] == [f"{site}/posts.html#{post['id']}" for post in wanted]
        assert all(
            d.published_at and (d.category, d.platform, d.language) == ("post", "127.0.0.1", "en")
            for d in found
        )
        assert items[-1] == EndOfSource()

    async def test_the_link_s_author_is_used_unless_the_page_s_is_asked_for(
        self, browser: Browser, site: str
    ) -> None:
        items = await read(PostsPageReader(browser), f"{site}/posts.html")

        assert {item.document.author for item in items if isinstance(item, FetchedDocument)} == {"Ada Winter"}

    @pytest.mark.slow
    async def test_stopped_by_a_limit_nothing_counts_as_gone(self, site: str) -> None:
        browser = Browser(max_scrolls=1)
        try:
            items = await read(PostsPageReader(browser), f"{site}/posts.html")
        finally:
            await browser.close()

        assert 0 < len(items) < len(expected_posts())
        assert all(isinstance(item, FetchedDocument) for item in items)

    async def test_max_items(self, browser: Browser, site: str) -> None:
        items = await read(PostsPageReader(browser), f"{site}/posts.html", max_items=2)

        assert [type(item) for item in items] == [FetchedDocument, FetchedDocument]

    async def test_other_pages_are_read_by_their_own_selectors(self, browser: Browser, pages: Pages) -> None:
        pages.html["/wall"] = """<html><body><main></main><script>
          fetch('/late').then(() => { document.querySelector('main').innerHTML =
            '<div class=n key=a><b>Bo</b><p>One</p><p>Two</p></div><div class=n key=a><p>Again</p></div>' +
            '<div class=n><p>Unnamed</p></div><div class=n key=c></div>'; });
        </script></body></html>"""
        pages.html["/late"] = "{}"

        items = await read(
            PostsPageReader(browser),
            f"{pages.url}/wall",
            item=".n",
            text="p",
            author="b",
            id="key",
            author_from_page=True,
        )

        first, again, unnamed, empty, end = items
        assert isinstance(first, FetchedDocument)
        assert (first.document.text, first.document.author) == ("One\n\nTwo", "Bo")
        assert isinstance(again, Rejected)
        assert "same id" in again.reason
        assert isinstance(unnamed, FetchedDocument)
        assert (unnamed.document.author, unnamed.document.language) == ("Ada Winter", "und")
        assert isinstance(empty, Rejected)
        assert "no text" in empty.reason
        assert end == EndOfSource(), "a page that stops growing has ended"

    async def test_a_page_without_posts_says_what_was_looked_for(
        self, browser: Browser, pages: Pages
    ) -> None:
        pages.html["/empty"] = "<p>Nothing</p>"

        with pytest.raises(ExtractionError, match=r"nothing matches 'article\.post'"):
            await read(PostsPageReader(browser), f"{pages.url}/empty")

    async def test_wrong_options_are_told(self, browser: Browser, pages: Pages) -> None:
        pages.html["/x"] = "<p>x</p>"
        with pytest.raises(CollectionError, match=r"no option 'itme'.*item must be a CSS selector, got 3"):
            await read(PostsPageReader(browser), "http://127.0.0.1/", itme="x", item=3)
        with pytest.raises(CollectionError, match="is no CSS selector"):
            await read(PostsPageReader(browser), f"{pages.url}/x", item="[[")

    async def test_a_page_that_may_not_be_read_is_not_opened(self) -> None:
        async def forbid(url: str) -> None:
            raise FetchError(f"{url}: robots.txt does not allow it")

        with pytest.raises(FetchError, match=r"robots\.txt"):
            await read(PostsPageReader(Browser(), permission=forbid), "http://127.0.0.1:9/posts.html")


@needs_chromium
class TestRendering:
    async def test_what_scripts_write_is_in_the_html(self, browser: Browser, pages: Pages) -> None:
        pages.html["/late"] = "{}"
        pages.html["/app"] = (
            "<div id=app></div><script>fetch('/late').then(() => { app.innerHTML = '<h1>Drawn</h1>'; })</script>"
        )
        renderer: PageRenderer = browser

        assert "<h1>Drawn</h1>" in await renderer.render(f"{pages.url}/app")

    @pytest.mark.slow
    async def test_pages_asked_for_at_once_do_not_mix(self, browser: Browser, pages: Pages) -> None:
        for number in range(4):
            pages.html[f"/{number}"] = f"<p>page {number}</p>"

        rendered = await asyncio.gather(*(browser.render(f"{pages.url}/{number}") for number in range(4)))

        assert [f"page {number}" in html for number, html in enumerate(rendered)] == [True] * 4

    @pytest.mark.slow
    async def test_a_page_that_never_goes_quiet_is_read_as_it_is(self, pages: Pages) -> None:
        pages.html["/clock"] = (
            "<p id=p></p><script>setInterval(() => p.append(document.createElement('i')), 50)</script>"
        )
        browser = Browser(page_timeout_seconds=1.5)
        try:
            assert "<i>" in await browser.render(f"{pages.url}/clock", scroll=False)
        finally:
            await browser.close()

    async def test_faults_are_told_and_the_browser_goes_on(self, pages: Pages) -> None:
        pages.html["/fine"] = "<p>fine</p>"
        browser = Browser(page_timeout_seconds=2)
        try:
            for url, reason in (
                (f"{pages.url}/missing", "answered 404"),
                (f"{pages.url}/slow", "did not load within 2 s"),
                (f"{pages.url}/loop", "cannot be reached: .*ERR_TOO_MANY_REDIRECTS"),
                (f"{pages.url}/file", "no page that a browser shows"),
                ("http://ada:secret@127.0.0.1:9/", "http://127.0.0.1:9/ cannot be reached"),
                ("file:///etc/hosts", "Expected an http or https URL"),
            ):
                with pytest.raises(CollectionError, match=reason) as caught:
                    await browser.render(url)
                assert "secret" not in str(caught.value)
            pages.closing.set()
            assert "fine" in await browser.render(f"{pages.url}/fine")
        finally:
            await browser.close()

    @pytest.mark.slow
    async def test_a_crashed_browser_is_told_and_replaced(self, pages: Pages) -> None:
        pages.html["/fine"] = "<p>fine</p>"
        before = _drivers()
        browser = Browser(page_timeout_seconds=5)
        try:
            await browser.render(f"{pages.url}/fine")
            family = _family(_drivers() - before)
            for process in family:
                process.kill()
            with pytest.raises(FetchError, match=r"ended unexpectedly|could not read"):
                await browser.render(f"{pages.url}/fine")
            assert "fine" in await browser.render(f"{pages.url}/fine")
            family += _family(_drivers() - before)
        finally:
            await browser.close()
        assert family
        assert not _left(family)


@needs_chromium
class TestEnd:
    async def test_closing_leaves_no_process_and_no_profile(
        self, pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        pages.html["/fine"] = "<p>fine</p>"
        before = _drivers()
        browser = Browser()
        await browser.render(f"{pages.url}/fine")
        family = _family(_drivers() - before)
        assert len(family) > 2, "a driver, a browser and its renderer"
        assert _profiles(tmp_path)

        await browser.close()
        await browser.close()

        assert not _left(family)
        assert not _profiles(tmp_path)

    @pytest.mark.slow
    async def test_a_cancelled_page_does_not_hold_up_the_end(self, pages: Pages) -> None:
        pages.html["/clock"] = (
            "<p id=p></p><script>setInterval(() => p.append(document.createElement('i')), 50)</script>"
        )
        before = _drivers()
        browser = Browser(page_timeout_seconds=60)
        task = asyncio.create_task(browser.render(f"{pages.url}/clock"))
        await asyncio.sleep(2.5)
        family = _family(_drivers() - before)
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        await browser.close()

        assert time.monotonic() - started < allow(15)
        assert family
        assert not _left(family)

    @pytest.mark.slow
    async def test_a_browser_that_does_not_answer_is_killed(self, pages: Pages) -> None:
        before = _drivers()
        browser = Browser(page_timeout_seconds=3)
        task = asyncio.create_task(browser.run(lambda page: page.driver.execute_async_script("for (;;) {}")))
        await asyncio.sleep(1.5)
        family = _family(_drivers() - before)
        await browser.close()
        with pytest.raises(CollectionError):
            await task

        assert family
        assert not _left(family)


async def test_a_browser_that_was_never_used_starts_nothing() -> None:
    before = _drivers()
    browser = Browser()
    await browser.close()

    assert _drivers() == before


@pytest.mark.parametrize(
    ("programs", "missing"), [([], "no Chromium browser"), (["chromium"], "no Chromium driver")]
)
async def test_without_a_browser_the_message_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Sequence[str], missing: str
) -> None:
    for program in programs:
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("llm_engineering.infrastructure.sources.browser.chromium._BROWSERS", ("chromium",))
    monkeypatch.setattr("llm_engineering.infrastructure.sources.browser.chromium._DRIVERS", ("chromedriver",))
    browser = Browser()
    try:
        with pytest.raises(
            CollectionError, match=f"{missing} on the PATH.*apt-get install chromium.*brew install"
        ):
            await browser.render("http://127.0.0.1:9/")
    finally:
        await browser.close()


def test_a_configured_browser_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"no Chromium browser at .*nowhere"):
        find_programs(tmp_path / "nowhere", None)


def _drivers() -> set[psutil.Process]:
    """What this process has started itself; the browser's own processes hang below."""
    return set(psutil.Process().children())


def _family(drivers: set[psutil.Process]) -> list[psutil.Process]:
    return [process for driver in drivers for process in (driver, *driver.children(recursive=True))]


def _left(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run, or that ended and were never waited for by us."""
    return [process for process in family if process.is_running() and not _adopted_and_ended(process)]


def _adopted_and_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
    return True


def _profiles(folder: Path) -> list[Path]:
    return list(folder.glob("twin-browser-*"))

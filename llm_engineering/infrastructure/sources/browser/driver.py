"""One browser for a run, driven through Selenium from one thread of its own."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from loguru import logger

from llm_engineering.application.features.links import hide_credentials
from llm_engineering.domain.errors import CollectionError, FetchError
from llm_engineering.infrastructure.sources.browser.chromium import Chromium, first_line

T = TypeVar("T")

_QUIET_SECONDS = 0.4
_POLL_SECONDS = 0.1
_SCROLLS_WITHOUT_GROWTH = 2
_SCROLLING_PAGE_TIMEOUTS = 10
_ENDLESS_TYPES = frozenset({"EventSource", "WebSocket", "Media", "Ping", "Image", "Preflight"})
_STATE = "return [document.readyState, document.getElementsByTagName('*').length, document.body ? document.body.scrollHeight : 0]"
_ARRIVED = """
const fault = document.querySelector('.error-code'), entry = performance.getEntriesByType('navigation')[0];
return [location.protocol, entry && entry.responseStatus || 0, fault ? fault.textContent : ''];
"""
_END = "const mark = document.querySelector('[data-end]'); return mark ? mark.dataset.end !== 'false' : null"
_SCROLL = """
const before = window.scrollY;
if (arguments[0]) window.scrollBy(0, -window.innerHeight);
requestAnimationFrame(() => window.scrollTo(0, document.documentElement.scrollHeight));
"""


class Browser:
    """A headless Chromium, started at first use; pages are rendered one after another.

    Selenium blocks, so all of it happens on one thread, which also keeps two pages from mixing.

    Args:
        binary: the browser, or None to look for it.
        driver: its chromedriver, or None to look for it.
        page_timeout_seconds: for loading a page, and again for it to go quiet after each step.
        max_scrolls: how often a page is scrolled to its end to make it load more.
    """

    def __init__(
        self,
        binary: Path | None = None,
        driver: Path | None = None,
        page_timeout_seconds: float = 30.0,
        max_scrolls: int = 50,
    ) -> None:
        self._binary = binary
        self._driver = driver
        self._page_timeout = page_timeout_seconds
        self._max_scrolls = max_scrolls
        self._chromium: Chromium | None = None
        self._worker: ThreadPoolExecutor | None = None

    async def render(self, url: str, *, scroll: bool = True) -> str:
        """Return the page's HTML once its scripts have run, scrolled to its end first (as far as the limits go).

        Raises:
            CollectionError: no browser is installed; the message says how to get one.
            FetchError: the page did not load, or is an error page.
        """

        def task(page: "Page") -> str:
            page.open(url)
            if scroll:
                page.scroll_to_end()
            return page.html

        return await self.run(task)

    async def run(self, task: Callable[["Page"], T]) -> T:
        """Run a task with the browser on the browser's own thread; tasks wait for each other.

        Cancelled, the task is told to stop at its next step.

        Raises:
            CollectionError: as from :meth:`render`, or when the browser crashes; the next task gets a new one.
        """
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="browser")
        stop = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._perform, task, stop)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _perform(self, task: Callable[["Page"], T], stop: threading.Event) -> T:
        from selenium.common.exceptions import (
            InvalidSessionIdException,
            NoSuchWindowException,
            WebDriverException,
        )
        from urllib3.exceptions import HTTPError

        if self._chromium is None:
            self._chromium = Chromium(self._binary, self._driver, self._page_timeout)
        try:
            return task(Page(self._chromium, self._page_timeout, self._max_scrolls, stop))
        except (InvalidSessionIdException, NoSuchWindowException, HTTPError, OSError) as error:
            self._quit()
            raise FetchError(
                f"The browser ended unexpectedly: {first_line(error)}. Try this link again."
            ) from error
        except WebDriverException as error:
            if any(sign in str(error).lower() for sign in ("crashed", "disconnected", "not reachable")):
                self._quit()
            raise FetchError(f"The browser could not read the page: {first_line(error)}.") from error

    async def close(self) -> None:
        """End the browser and all its processes. May be called twice, and by every reader that shares the browser."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        quitting = asyncio.get_running_loop().run_in_executor(worker, self._quit)
        _, pending = await asyncio.wait([quitting], timeout=self._page_timeout)
        if pending and self._chromium is not None:
            # The thread is stuck in a call to a browser that does not answer: without the browser, the call fails.
            await asyncio.to_thread(self._chromium.kill)
        await quitting
        worker.shutdown()

    def _quit(self) -> None:
        chromium, self._chromium = self._chromium, None
        if chromium is not None:
            chromium.quit()


class Page:
    """What a task does with the browser. Lives for one task, on the browser's thread."""

    def __init__(
        self, chromium: Chromium, timeout_seconds: float, max_scrolls: int, stop: threading.Event
    ) -> None:
        self.driver = chromium.driver
        self.timeout_seconds = timeout_seconds
        self._max_scrolls = max_scrolls
        self._stop = stop
        self._requests: set[str] = set()

    @property
    def html(self) -> str:
        return str(self.driver.page_source)

    @property
    def url(self) -> str:
        """Where the browser is now, after redirects."""
        return str(self.driver.current_url)

    def run_script(self, source: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; its returned value as plain Python."""
        return self.driver.execute_script(source, *arguments)

    def open(self, url: str) -> None:
        """Go to a page and wait until it has gone quiet.

        Raises:
            FetchError: it does not load in time, the network says no, or it is an error page (status 400 and above).
        """
        from selenium.common.exceptions import TimeoutException, WebDriverException

        shown = hide_credentials(url)
        if urlsplit(url).scheme.lower() not in ("http", "https"):
            raise CollectionError(f"{shown} cannot be rendered. Expected an http or https URL.")
        try:
            # A blank page between two: what is no page at all (a download) must not leave the one before in its place.
            self.driver.get("about:blank")
            # What the page before had under way (the browser's own start page, at first) is broken off and never ends.
            self._loading()
            self._requests.clear()
            self.driver.get(url)
        except TimeoutException:
            raise FetchError(f"{shown} did not load within {self.timeout_seconds:g} s.") from None
        except WebDriverException as error:
            if "net::" not in str(error):
                raise
            raise FetchError(f"{shown} cannot be reached: {first_line(error)}.") from error
        protocol, status, fault = self.run_script(_ARRIVED)
        if protocol not in ("http:", "https:"):
            raise FetchError(f"{shown} cannot be reached: {fault or 'it is no page that a browser shows'}.")
        if status >= 400:
            raise FetchError(f"{shown} answered {status}.")
        self.verify_semantic()

    def verify_semantic(self) -> bool:
        """Wait until nothing is being loaded and the page stops changing; False where it never does in time."""
        deadline = time.monotonic() + self.timeout_seconds
        quiet_since, before = time.monotonic(), None
        while time.monotonic() < deadline:
            self.check_stop()
            state = self.run_script(_STATE)
            if state != before or state[0] != "complete" or self._loading():
                quiet_since, before = time.monotonic(), state
            elif time.monotonic() - quiet_since >= _QUIET_SECONDS:
                return True
            time.sleep(_POLL_SECONDS)
        logger.debug(
            "{} has not gone quiet within {} s; it is read as it is",
            hide_credentials(self.url),
            self.timeout_seconds,
        )
        return False

    def check_stop(self) -> None:
        """Leave the task where nobody waits for its result any more."""
        if self._stop.is_set():
            raise CollectionError("The reading was cancelled.")

    def _loading(self) -> bool:
        """Whether requests are under way. Those that never end (event streams) do not count."""
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            method, about = message["method"], message.get("params", {})
            if method == "Network.requestWillBeSent" and about.get("type") not in _ENDLESS_TYPES:
                self._requests.add(about["requestId"])
            elif method in ("Network.loadingFinished", "Network.loadingFailed"):
                self._requests.discard(about["requestId"])
        return bool(self._requests)

    def scroll_to_end(self, each_step: str = "") -> bool:
        """Scroll down until nothing more comes. True when the page's end was reached, False when a limit was.

        A page that carries ``data-end`` says itself when it is complete; another is, when it has stopped growing.

        Args:
            each_step: JavaScript to run before each scroll, such as a click on "show more".
        """
        deadline = time.monotonic() + _SCROLLING_PAGE_TIMEOUTS * self.timeout_seconds
        still = 0
        for _ in range(self._max_scrolls):
            if self.run_script(_END):
                return True
            if time.monotonic() > deadline:
                break
            before = self.run_script(_STATE)
            if each_step:
                self.run_script(each_step)
            # Going up first makes those pages look again that load more when their end comes into view.
            self.run_script(_SCROLL, still > 0)
            self.verify_semantic()
            still = still + 1 if self.run_script(_STATE) == before else 0
            if still == _SCROLLS_WITHOUT_GROWTH:
                return self.run_script(_END) is not False
        ended = bool(self.run_script(_END))
        if not ended:
            logger.warning(
                "{} went on after {} scrolls; the rest is left", hide_credentials(self.url), self._max_scrolls
            )
        return ended

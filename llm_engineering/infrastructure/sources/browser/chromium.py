"""Finds, starts and ends one headless Chromium."""

import atexit
import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.domain.errors import CollectionError

if TYPE_CHECKING:
    import psutil
    from selenium import webdriver

_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_DRIVERS = ("chromedriver", "/usr/lib/chromium/chromedriver", "/usr/lib/chromium-browser/chromedriver")
_INSTALL = (
    "Install both with: apt-get install chromium chromium-driver (Debian), or: brew install --cask google-chrome chromedriver "
    "(macOS); or name them by RENDERING_BINARY and RENDERING_DRIVER."
)
_FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-default-apps",
    "--disable-dev-shm-usage",  # containers give it 64 MB, on which pages crash
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    "--password-store=basic",
    "--use-mock-keychain",
    "--lang=en-US",
    "--window-size=1280,1600",
    "--blink-settings=imagesEnabled=false",  # only texts are wanted
)
_QUIT_SECONDS = 5.0


def find_programs(binary: Path | None, driver: Path | None) -> tuple[str, str]:
    """Return (browser, driver) as paths: those given, else those on the PATH or in their usual places.

    Raises:
        CollectionError: one is not there; the message says how to install it.
    """
    found = []
    for what, given, names in (("browser", binary, _BROWSERS), ("driver", driver, _DRIVERS)):
        program = next(filter(None, map(shutil.which, [str(given)] if given else names)), None)
        if program is None:
            where = f"at {given}" if given else "on the PATH"
            raise CollectionError(
                f"This page needs a browser, but there is no Chromium {what} {where}. {_INSTALL}"
            )
        found.append(program)
    return found[0], found[1]


class Chromium:
    """A running browser with its own, empty profile. Not safe for threads: one thread at a time."""

    def __init__(self, binary: Path | None, driver: Path | None, page_timeout_seconds: float) -> None:
        """Start it.

        Raises:
            CollectionError: it is not installed, or does not start.
        """
        from selenium import webdriver
        from selenium.common.exceptions import WebDriverException

        browser_path, driver_path = find_programs(binary, driver)
        # At DEBUG, Selenium logs every command with its arguments: typed passwords too.
        logging.getLogger("selenium").setLevel(logging.INFO)
        self._profile = tempfile.mkdtemp(prefix="twin-browser-")
        # A session of its own, or Ctrl-C would reach the browser first and turn a clean end into a crash.
        self._service = webdriver.ChromeService(driver_path, popen_kw={"start_new_session": True})
        try:
            self.driver: webdriver.Chrome = webdriver.Chrome(
                _options(browser_path, self._profile), self._service
            )
        except WebDriverException as error:
            self._remove()
            raise CollectionError(
                f"The browser {browser_path} does not start with the driver {driver_path}: {first_line(error)}. "
                "Check that both are of the same version."
            ) from error
        except BaseException:
            self._remove()
            raise
        self.driver.set_page_load_timeout(page_timeout_seconds)
        self.driver.set_script_timeout(page_timeout_seconds)
        atexit.register(self.quit)

    def quit(self) -> None:
        """End the browser and every process it started. May be called twice."""
        from selenium.common.exceptions import WebDriverException
        from urllib3.exceptions import HTTPError

        atexit.unregister(self.quit)
        processes = self._processes()
        # It may be gone already: that is what is wanted.
        with contextlib.suppress(WebDriverException, HTTPError, OSError):
            self.driver.quit()
        self._end(processes)
        self._remove()

    def kill(self) -> None:
        """End it from another thread, when it no longer answers."""
        self._end(self._processes(), patience=0)

    def _processes(self) -> "list[psutil.Process]":
        import psutil

        process = getattr(self._service, "process", None)
        if process is None:
            return []
        try:
            root = psutil.Process(process.pid)
            return [*root.children(recursive=True), root]
        except psutil.NoSuchProcess:
            return []

    def _end(self, processes: "list[psutil.Process]", patience: float = _QUIT_SECONDS) -> None:
        import psutil

        _, alive = psutil.wait_procs(processes, timeout=patience)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_QUIT_SECONDS)

    def _remove(self) -> None:
        shutil.rmtree(self._profile, ignore_errors=True)


def _options(browser_path: str, profile: str) -> "webdriver.ChromeOptions":
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser_path
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # Chromium refuses to run as root otherwise; anybody else keeps the sandbox.
        options.add_argument("--no-sandbox")
    options.add_argument("about:blank")
    # What the network does is told by this log: a page is ready when it has gone quiet.
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_experimental_option(
        "prefs", {"download_restrictions": 3, "profile.default_content_setting_values.notifications": 2}
    )
    options.unhandled_prompt_behavior = "dismiss"
    options.page_load_strategy = "normal"
    # The driver listens on this machine, which no proxy can reach. (The public way to say so is deprecated, and the
    # one that replaces it is not open to Chrome yet.)
    options._ignore_local_proxy = True
    return options


def first_line(error: Exception) -> str:
    """Return what a driver's error says, without its stack of addresses."""
    text = getattr(error, "msg", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0].removeprefix("Message: ").rstrip(".")[:300]

"""An HTTP client with manners: bounded in time and size, polite to each host, obedient to robots.txt."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from loguru import logger

from llm_engineering.application.features.links import hide_credentials, normalise_link
from llm_engineering.domain.errors import FetchError
from llm_engineering.infrastructure.shared.addresses import (
    PrivateAddressError,
    PrivateAddresses,
    may_lead_inside,
    resolve_host,
)
from llm_engineering.infrastructure.shared.retries import RETRIED_STATUSES, retry_after_seconds
from llm_engineering.infrastructure.sources.web.charset import decode
from llm_engineering.infrastructure.sources.web.retry import backoff_seconds, explain_failure

if TYPE_CHECKING:
    import httpx
    from protego import Protego

    from llm_engineering.infrastructure.shared.web_client import WebClient

HTML = ("text/html", "application/xhtml+xml")
MAX_CRAWL_DELAY_SECONDS = 10.0
"""A Crawl-delay above this is cut: some sites name minutes to keep search engines off, and a run must end."""
MAX_ROBOTS_BYTES = 512_000
"""RFC 9309, section 2.5: at least 500 KiB of a robots.txt must be read; the rest may be left."""
_UNREADABLE_ROBOTS = "nothing is fetched from this host, since its robots.txt cannot be read: {error}"


@dataclass(frozen=True)
class Fetched:
    """A response of status 2xx, read to its end."""

    status: int
    final_url: str
    """After redirects."""
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case; empty where the server names none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @cached_property
    def text(self) -> str:
        return decode(self.content, self.headers.get("content-type", ""))[0]


@dataclass(frozen=True)
class NotModified:
    """The server says that the copy whose validators were sent is current."""

    final_url: str


@dataclass(frozen=True)
class _Ask:
    """What is asked for."""

    url: str
    given: str
    """The link that the user wrote and that led here: what is inside this network is read under its address only."""
    headers: Mapping[str, str] = field(default_factory=dict)
    accept: Sequence[str] = ()
    """Media types that are read; empty: any."""
    robots: bool = False
    """It is a robots.txt: it asks no other one, and is cut where it is too long."""


class _StatusError(FetchError):
    """The server answered with a status that is no success (0: it did not answer at all)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Retry(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, status: int = 0, wait: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.wait = wait


@dataclass
class _Host:
    """Manners toward one host (scheme, name and port)."""

    gate: asyncio.Semaphore
    delay: float
    next_start: float = 0.0
    robots: "_Robots | None" = None
    robots_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class _Robots:
    rules: "Protego | None" = None
    """None: no rules, everything is allowed."""
    refusal: str = ""
    """Why nothing may be fetched; empty where the rules decide."""


class PoliteClient:
    """Fetches pages over HTTP. Arguments mirror ``CrawlerSettings``; nothing is opened before the first request.

    Args:
        timeout_seconds: without a byte for this long, an attempt is given up (and repeated).
        total_timeout_seconds: for one attempt as a whole, redirects included; a page slower than this is not repeated. With
            all that is asked and waited for on its behalf, a page may take this long for each attempt that is allowed.
        max_bytes: of a body, decompressed.
        max_retries: further attempts after statuses that say "later" and after broken connections.
        max_retry_after_seconds: a server that asks for a longer wait is given up at once.
        private_addresses: see :data:`PrivateAddresses`.
        per_host_delay_seconds: between the starts of two requests to one host; a robots.txt may ask for more.
        backoff_seconds: first wait between attempts; doubles with each.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeout_seconds: float = 15.0,
        total_timeout_seconds: float = 60.0,
        max_bytes: int = 10_000_000,
        max_redirects: int = 5,
        max_retries: int = 3,
        max_retry_after_seconds: float = 60.0,
        per_host_concurrency: int = 2,
        per_host_delay_seconds: float = 0.2,
        respect_robots_txt: bool = True,
        backoff_seconds: float = 0.5,
        private_addresses: PrivateAddresses = "given",
    ) -> None:
        self._user_agent = user_agent
        self._timeout = timeout_seconds
        self._total_timeout = total_timeout_seconds
        self._max_bytes = max_bytes
        self._max_redirects = max_redirects
        self._max_retries = max_retries
        self._max_retry_after = max_retry_after_seconds
        self._concurrency = per_host_concurrency
        self._delay = per_host_delay_seconds
        self._respect_robots = respect_robots_txt
        self._backoff = backoff_seconds
        self._private_addresses = private_addresses
        self._hosts: dict[str, _Host] = {}
        self._http: WebClient | None = None

    async def get(
        self,
        url: str,
        *,
        given: str = "",
        accept: Sequence[str] = HTML,
        etag: str | None = None,
        last_modified: str | None = None,
    ) -> Fetched | NotModified:
        """Fetch a page.

        Args:
            given: the link that the user wrote, where another one led here.
            accept: media types that are read; another one is refused before its body is. A response that names no type
                is let through.
            etag, last_modified: validators of the copy at hand, for a conditional request.

        Raises:
            FetchError: it could not be fetched, or must not be; the message says why.
        """
        headers = {"Accept": ", ".join((*accept, "*/*;q=0.1"))}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        address = _checked(url)
        self._client()  # loading the library and the certificates is not to be held against the first page
        longest = (self._max_retries + 1) * self._total_timeout
        try:
            async with asyncio.timeout(longest):
                await self.check_allowed(address, given=given)
                return await self._with_retries(_Ask(address, given or address, headers, accept))
        except TimeoutError:
            raise FetchError(
                f"{hide_credentials(url)}: it was given up after {longest:g} s of redirects, retries and waiting "
                "(CRAWLER_TOTAL_TIMEOUT_SECONDS for each attempt)"
            ) from None
        except FetchError as error:
            where, said = hide_credentials(url), str(error)
            raise FetchError(
                said if said.startswith(f"{where}: ") else f"{where}: {said}"
            ) from error.__cause__

    async def check_allowed(self, url: str, *, given: str = "") -> None:
        """Ask the host's robots.txt, where it is respected. It is fetched once per host.

        Raises:
            FetchError: robots.txt forbids the page, or cannot be read (RFC 9309: then nothing may be fetched).
        """
        if not self._respect_robots:
            return
        host = self._host(url)
        async with host.robots_lock:
            if host.robots is None:
                host.robots = await self._fetch_robots(url, given or url, host)
        robots = host.robots
        if robots.refusal:
            raise FetchError(f"{hide_credentials(url)}: {robots.refusal}")
        if robots.rules is not None and not robots.rules.can_fetch(url, self._user_agent):
            raise FetchError(
                f"{hide_credentials(url)}: the site's robots.txt does not allow it for '{self._user_agent.split('/')[0]}'. "
                "If the page is yours, allow it there, or set CRAWLER_RESPECT_ROBOTS_TXT=false."
            )

    async def check_address(self, url: str, *, given: str) -> None:
        """Look where a page lies before a browser, which connects by itself, is sent there.

        Raises:
            FetchError: it lies inside this network and must not be read, or its name cannot be resolved.
        """
        parts = urlsplit(_checked(url))
        inside = may_lead_inside(self._private_addresses, url, given)
        try:
            await resolve_host(parts.hostname or "", parts.port or 0, inside=inside)
        except OSError as error:
            raise FetchError(f"{hide_credentials(url)}: {explain_failure(error)[0]}") from error
        except FetchError as error:
            raise FetchError(f"{hide_credentials(url)}: {error}") from None

    async def close(self) -> None:
        """Close connections; may be called twice."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    # --- attempts ----------------------------------------------------------------------------------------------------

    async def _with_retries(self, ask: _Ask) -> Fetched | NotModified:
        for attempt in range(self._max_retries + 1):
            try:
                async with asyncio.timeout(None) as clock:
                    return await self._follow(ask, clock)
            except TimeoutError:
                raise FetchError(
                    f"it was still arriving after {self._total_timeout:g} s, the most that one page may take "
                    "(CRAWLER_TOTAL_TIMEOUT_SECONDS)"
                ) from None
            except _Retry as failure:
                if attempt == self._max_retries:
                    tries = f"{attempt + 1} tries" if attempt else "one try"
                    raise _StatusError(failure.status, f"{failure} (given up after {tries})") from failure
                await self._wait(ask.url, failure, attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _wait(self, url: str, failure: _Retry, attempt: int) -> None:
        wait = backoff_seconds(attempt, self._backoff)
        if failure.wait is not None:
            if failure.wait > self._max_retry_after:
                raise FetchError(
                    f"{failure} and asks to wait {failure.wait:.0f} s; at most {self._max_retry_after:g} s are allowed "
                    "(CRAWLER_MAX_RETRY_AFTER_SECONDS)"
                )
            wait = max(wait, failure.wait) if failure.wait else wait
            # The host means all of its pages: other links to it wait as well.
            host = self._host(url)
            host.next_start = max(host.next_start, time.monotonic() + failure.wait)
        logger.debug("{}: {}; trying again in {:.1f} s", hide_credentials(url), failure, wait)
        await asyncio.sleep(wait)

    async def _follow(self, ask: _Ask, clock: asyncio.Timeout) -> Fetched | NotModified:
        """One attempt, through redirects."""
        url = ask.url
        visited: set[str] = set()
        hops = 0
        remaining = self._total_timeout
        while True:
            visited.add(url)
            async with self._turn(url):
                # Waiting for one's turn is our own doing and does not count as the server's slowness.
                clock.reschedule(asyncio.get_running_loop().time() + remaining)
                started = time.monotonic()
                answer = await self._request(url, ask)
                remaining -= time.monotonic() - started
                clock.reschedule(None)
            if not isinstance(answer, _Redirect):
                return answer
            url = _checked(answer.target)
            # A page may send a visitor to itself with a cookie; without one it is a circle.
            if url in visited and not answer.sets_cookie:
                raise FetchError(f"it redirects in a circle (back to {hide_credentials(url)})")
            hops += 1
            if hops > self._max_redirects:
                raise FetchError(
                    f"it redirects more than {self._max_redirects} times (CRAWLER_MAX_REDIRECTS)"
                )
            if not ask.robots:
                await self.check_allowed(url, given=ask.given)

    async def _request(self, url: str, ask: _Ask) -> "Fetched | NotModified | _Redirect":
        import httpx

        from llm_engineering.infrastructure.shared.web_client import find_redirect

        try:
            async with self._client().stream(url, given=ask.given, headers=ask.headers) as response:
                status = response.status_code
                if status == 304 and {"If-None-Match", "If-Modified-Since"} & ask.headers.keys():
                    return NotModified(url)
                if target := find_redirect(url, response):
                    return _Redirect(target, "set-cookie" in response.headers)
                if not 200 <= status < 300:
                    raise self._refused(response)
                self._check_type(response, ask.accept)
                content = await self._body(response, ask)
                lower = {name.lower(): value for name, value in response.headers.items()}
                return Fetched(status, url, lower, content)
        except httpx.InvalidURL as error:
            raise FetchError(f"the address, or the one it redirects to, is malformed ({error})") from error
        except httpx.RequestError as error:
            reason, again = explain_failure(error)
            if again:
                raise _Retry(reason) from error
            raise FetchError(reason) from error

    def _refused(self, response: "httpx.Response") -> Exception:
        status = response.status_code
        said = f"it answered {status} {response.reason_phrase}".rstrip()
        if status in RETRIED_STATUSES:
            return _Retry(
                said, status, retry_after_seconds(response.headers.get("retry-after"), datetime.now(UTC))
            )
        hints = {
            401: "it needs a log-in",
            402: "it must be paid for",
            403: "it is not for us: it needs a log-in, or the site refuses automatic readers",
            404: "there is no such page; check the address",
            410: "the page was taken away",
            451: "the page is withheld for legal reasons",
        }
        return _StatusError(status, f"{said}: {hints[status]}" if status in hints else said)

    def _check_type(self, response: "httpx.Response", accept: Sequence[str]) -> None:
        named = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if named and accept and not any(named == one or named.startswith(one.rstrip("*")) for one in accept):
            raise FetchError(f"it is of type {named}; expected {' or '.join(accept)}")

    async def _body(self, response: "httpx.Response", ask: _Ask) -> bytes:
        from llm_engineering.infrastructure.shared.web_client import read_body

        limit = MAX_ROBOTS_BYTES if ask.robots else self._max_bytes
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit and not ask.robots:
            raise self._too_large(f"{int(length):,} bytes")
        body = bytearray()
        async with aclosing(read_body(response)) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > limit:
                    if ask.robots:
                        del body[limit:]
                        break
                    raise self._too_large("more")
        return bytes(body)

    def _too_large(self, size: str) -> FetchError:
        return FetchError(
            f"it is too large: {size}, and at most {self._max_bytes:,} are read (CRAWLER_MAX_BYTES)"
        )

    # --- manners -----------------------------------------------------------------------------------------------------

    def _host(self, url: str) -> _Host:
        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        if key not in self._hosts:
            self._hosts[key] = _Host(asyncio.Semaphore(self._concurrency), self._delay)
        return self._hosts[key]

    @asynccontextmanager
    async def _turn(self, url: str) -> AsyncIterator[None]:
        """Our turn at a host: few at once, and a pause between the starts of two."""
        host = self._host(url)
        async with host.gate:
            now = time.monotonic()
            start = max(now, host.next_start)
            host.next_start = start + host.delay
            await asyncio.sleep(start - now)
            yield

    async def _fetch_robots(self, url: str, given: str, host: _Host) -> _Robots:
        from protego import Protego

        try:
            # RFC 9309, section 2.3.1: redirects are followed, whatever type it has is read, what is too long is cut.
            answer = await self._with_retries(_Ask(urljoin(url, "/robots.txt"), given, robots=True))
        except PrivateAddressError:
            raise  # another link may lead there
        except _StatusError as error:
            if 400 <= error.status < 500 and error.status != 429:
                return _Robots()  # there is none, which allows everything (2.3.1.3); 429 says "later"
            return _Robots(refusal=_UNREADABLE_ROBOTS.format(error=error))
        except FetchError as error:
            return _Robots(
                refusal=_UNREADABLE_ROBOTS.format(error=error)
            )  # unreachable forbids everything (2.3.1.4)
        text = answer.text if isinstance(answer, Fetched) else ""
        rules = Protego.parse(text)
        asked = rules.crawl_delay(self._user_agent)
        if asked is not None:
            host.delay = max(host.delay, min(float(asked), MAX_CRAWL_DELAY_SECONDS))
        return _Robots(rules)

    def _client(self) -> "WebClient":
        from llm_engineering.infrastructure.shared.web_client import WebClient

        if self._http is None:
            self._http = WebClient(
                private_addresses=self._private_addresses,
                timeout_seconds=self._timeout,
                headers={"User-Agent": self._user_agent},
            )
        return self._http


@dataclass(frozen=True)
class _Redirect:
    target: str
    sets_cookie: bool


def _checked(url: str) -> str:
    """The address in one spelling.

    Raises:
        FetchError: it is no web address.
    """
    stripped = url.strip()
    try:
        parts = urlsplit(stripped)
        valid = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or any(character.isspace() or not character.isprintable() for character in stripped):
        raise FetchError(
            f"'{hide_credentials(url)}' is no web address; expected one such as https://example.org/post "
            "(a folder of this machine is written ./folder or /folder)"
        )
    return normalise_link(stripped)

"""HTTP to strangers, one hop at a time: on checked addresses, unpacked piece by piece, with no secret in a log."""

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import httpcore
import httpx

from llm_engineering.domain.errors import FetchError
from llm_engineering.infrastructure.shared.addresses import PrivateAddresses, may_lead_inside, resolve_host

MAX_REDIRECTS = 5
_PIECE_BYTES = 1 << 18
"""So much is unpacked before other tasks get their turn: about a millisecond."""


class WebClient:
    """Asks web servers that nobody here vouches for. Redirects are the caller's to follow, since each hop is checked."""

    def __init__(
        self,
        *,
        private_addresses: PrivateAddresses,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        for name in ("httpx", "httpcore"):  # they log addresses and headers, which may hold secrets
            logging.getLogger(name).setLevel(logging.WARNING)
        self._policy = private_addresses
        self._timeout = timeout_seconds
        self._headers = {**(headers or {}), "Accept-Encoding": "gzip, deflate"}
        self._certificates = httpx.create_ssl_context()
        # Two, so that a connection to an address inside is never used for a link that may not lead there.
        self._clients = {inside: self._open(inside) for inside in (False, True)}

    @asynccontextmanager
    async def stream(
        self, url: str, *, given: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a GET request and yield the response, its body unread (:func:`read_body` reads it).

        Args:
            given: the link that the user wrote and that led to ``url``; the same, where it is that link.

        Raises:
            PrivateAddressError: the address is inside, and must not be.
            httpx.HTTPError: no answer came.
        """
        inside = may_lead_inside(self._policy, url, given)
        address, auth = _take_credentials(url)
        async with self._clients[inside].stream(
            "GET", address, headers=dict(headers or {}), auth=auth
        ) as response:
            yield response

    async def close(self) -> None:
        """Close connections; may be called twice."""
        for client in self._clients.values():
            await client.aclose()

    def _open(self, inside: bool) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            verify=self._certificates,
            headers=self._headers,
            timeout=httpx.Timeout(self._timeout),
            follow_redirects=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
        )
        # httpx hands no network backend on to httpcore, where a transport of our own would lose the settings of proxies.
        pool: httpcore.AsyncConnectionPool = client._transport._pool  # type: ignore[attr-defined]
        pool._network_backend = _CheckedNetwork(inside)
        return client


def find_redirect(url: str, response: httpx.Response) -> str | None:
    """Return where a response sends its reader; None for one that does not.

    Raises:
        FetchError: to no web address.
    """
    if not response.has_redirect_location:
        return None
    try:
        target = urljoin(url, response.headers["location"])
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise FetchError(f"it redirects to a malformed address ({error})") from error
    if scheme not in ("http", "https"):
        raise FetchError(f"it redirects to a '{scheme}:' address, which is not fetched")
    return target


async def read_body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the body in small pieces, unpacked; the caller counts them.

    Raises:
        FetchError: it is packed in a way that was not asked for, such as twice.
        httpx.DecodingError: it is packed and broken.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        async for piece in response.aiter_raw():
            yield piece
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(f"its content encoding is '{coding}'; expected gzip, deflate or none, and one only")
    unpacking = _Unpacking()
    async for packed in response.aiter_raw():
        try:
            for piece in unpacking.unpack(packed):
                yield piece
                await asyncio.sleep(0)
        except zlib.error as error:
            raise httpx.DecodingError(str(error), request=response.request) from error


class _Unpacking:
    """gzip or deflate, in pieces of a bounded size."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # the header tells gzip from zlib
        self._begun = False

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        while not self._inflater.eof:
            try:
                piece = self._inflater.decompress(packed, _PIECE_BYTES)
            except zlib.error:
                if self._begun:
                    raise
                self._inflater = zlib.decompressobj(
                    -zlib.MAX_WBITS
                )  # many servers send deflate without a header
                piece = self._inflater.decompress(packed, _PIECE_BYTES)
            self._begun = True
            packed = self._inflater.unconsumed_tail
            if piece:
                yield piece
            if not packed and len(piece) < _PIECE_BYTES:
                return


def _take_credentials(url: str) -> tuple[str, httpx.BasicAuth | None]:
    """(the address without them, what to send): libraries write addresses into logs and errors."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    auth = httpx.BasicAuth(unquote(parts.username or ""), unquote(parts.password or ""))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), auth


class _CheckedNetwork(httpcore.AnyIOBackend):
    """Connects to the addresses that were checked."""

    def __init__(self, inside: bool) -> None:
        self._inside = inside

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await resolve_host(host, port, inside=self._inside)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no address for {host}") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        patience = timeout and timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await super().connect_tcp(address, port, patience, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await super().connect_tcp(addresses[-1], port, patience, local_address, socket_options)

"""Who may call the service: a file of hashed keys, and a guard in front of the routes.

Without any key, a service that listens on loopback alone is open, but only to this machine: a page of the internet that
is open in a browser here must not reach it. It could in two ways, and both are closed: by a name of its own that it
points at 127.0.0.1 (DNS rebinding; the ``Host`` header gives it away), and by posting blindly across origins (the
``Origin`` header does).
"""

import asyncio
import fcntl
import ipaddress
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from loguru import logger
from pydantic import ValidationError

from llm_engineering.application.ports import KeyStore
from llm_engineering.domain.api_keys import ApiKey, KeyRing, KeyScope
from llm_engineering.domain.errors import ConfigurationError, StoreError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.signatures import SIGNATURE
from llm_engineering.infrastructure.api.metrics import ServiceMetrics
from llm_engineering.infrastructure.api.middleware.asgi import (
    ANALYSES,
    ASGIApp,
    Receive,
    Scope,
    Send,
    find_header,
    request_state,
    send_error,
)

_PROBES = frozenset({"/health", "/health/live", "/health/ready", "/ping"})
_PAGE = ("/", "/favicon.ico", "/docs", "/openapi.json")
"""What takes a key in a browser cannot need one; the description of the API says nothing of what was collected."""
_PAGE_FILES = "/page/"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
TRUST_SECONDS = 60.0
"""How long known keys go on being accepted while their store does not answer: a database changes its primary in less."""


def is_loopback(host: str) -> bool:
    """Return whether an address or name is this machine's own, unreachable from elsewhere."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class ApiKeyFile:
    """Keys in a JSON file that only its owner can read. Written whole or not at all; writers wait for each other."""

    keep_seconds = 0.0

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = path
        self._now = now
        self._seen: tuple[int, int, int] | None = None
        self._ring = KeyRing()

    @property
    def place(self) -> str:
        return str(self.path)

    def read_keys(self) -> KeyRing:
        """Return the keys as the file holds them now; it is read again only when it changed. No file: no keys.

        Raises:
            ConfigurationError: the file cannot be read, or is not one of ours.
        """
        try:
            seen = self._stamp()
            if seen != self._seen:
                text = self.path.read_bytes() if seen else b'{"keys": []}'
                self._ring = KeyRing.model_validate_json(text)
                self._seen = seen
        except (OSError, ValidationError) as error:
            reason = type(error).__name__ if isinstance(error, ValidationError) else error.strerror
            raise ConfigurationError(
                f"The API keys in {self.path} cannot be read ({reason}). Put the file right or back, or remove it "
                f"and create new keys with: {POE} create-api-key NAME"
            ) from None
        return self._ring

    def create(self, name: str, scopes: tuple[KeyScope, ...] = ()) -> str:
        """Add a key. What is returned is shown once and kept nowhere.

        Raises:
            InvalidInputError: the name is taken or cannot be used.
            ConfigurationError: the file cannot be read or written.
        """
        with self._locked():
            secret, ring = self.read_keys().issue(name, self._now(), scopes)
            self._write(ring)
        return secret

    def revoke(self, name: str) -> None:
        """Remove a key. Running services take no further request with it, and end those that run within a second or two.

        Raises:
            InvalidInputError: there is no such key.
            ConfigurationError: the file cannot be read or written.
        """
        with self._locked():
            self._write(self.read_keys().remove(name))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, ring: KeyRing) -> None:
        temporary = ""
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:  # mkstemp: 0600
                file.write(ring.model_dump_json(indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            if temporary:
                with suppress(FileNotFoundError):
                    Path(temporary).unlink()
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"The API keys cannot be written to {self.path} ({error.strerror}). Check SERVICE_KEYS_FILE and its rights."
        )


class Access:
    """Whom a service that listens on ``host`` lets in. Asked at every request, so a change holds at once, or within a second
    where the keys are in a database."""

    def __init__(self, keys: KeyStore, host: str) -> None:
        self._keys = keys
        self._host = host
        self._required = not is_loopback(host)
        self._ring: KeyRing | None = None
        """None: the keys cannot be read, so nobody can be recognised."""
        self._read_at = self._succeeded_at = -math.inf
        self._turn = asyncio.Lock()
        self._complained = False

    def check(self) -> None:
        """Refuse to open a service to others without a key. Call it before the first request.

        Raises:
            ConfigurationError: ``host`` is no loopback address and there is no key, or the keys cannot be read.
            StoreUnavailableError: the store of the keys does not answer.
        """
        ring = self._keys.read_keys()
        if self._required and not ring.keys:
            raise ConfigurationError(
                f"The service is to listen on {self._host}, where other machines can reach it, and there is no API key "
                f"in {self._keys.place}. Create one with: {POE} create-api-key NAME, or listen on 127.0.0.1 (SERVICE_HOST)."
            )
        self._accept(ring)

    async def refresh(self) -> None:
        """Read the keys again where they are older than their store allows; beside the requests where that may take time."""
        if not self._keys.keep_seconds:
            return self._read()
        async with self._turn:
            if time.monotonic() - self._read_at >= self._keys.keep_seconds:
                await asyncio.to_thread(self._read)

    def is_required(self) -> bool:
        """Return whether a key is needed. Once it was, it stays: revoking the last key must not open the service."""
        return self._ring is None or self._required

    def recognise(self, secret: str) -> ApiKey | None:
        """Return the key that was presented; None: it is not, or no longer, one of ours."""
        return None if self._ring is None else self._ring.recognise(secret)

    def _read(self) -> None:
        try:
            ring = self._keys.read_keys()
        except (ConfigurationError, StoreError) as error:
            trusted = isinstance(error, StoreError) and time.monotonic() - self._succeeded_at < TRUST_SECONDS
            if not trusted:
                if not self._complained:
                    logger.error("{} Until then, every key is refused.", error)
                self._complained, self._ring = True, None
            self._read_at = time.monotonic()
        else:
            self._accept(ring)

    def _accept(self, ring: KeyRing) -> None:
        self._complained, self._ring = False, ring
        self._required = self._required or bool(ring.keys)
        self._read_at = self._succeeded_at = time.monotonic()


class KeyGuard:
    """Lets a request through when it shows a key, asks for something public, or no key is needed here.

    Args:
        host: the address that the service listens on.
        origins: origins whose pages may call it.
        signed: whether the route of analyses takes bodies that are signed in place of a key, and checks that.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        metrics: ServiceMetrics,
        *,
        host: str,
        origins: Iterable[str] = (),
        signed: bool = False,
    ) -> None:
        self._app = app
        self._signed = signed
        self._access = access
        self._metrics = metrics
        self._loopback = is_loopback(host)
        self._names = {host.lower(), "localhost", "127.0.0.1", "[::1]"}
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._access.refresh()
        secret = _secret(scope)
        key = self._access.recognise(secret) if secret else None
        if key is not None and secret is not None:
            shown = secret

            async def is_revoked() -> bool:
                await self._access.refresh()
                return self._access.recognise(shown) is None

            request_state(scope).update(
                key_name=key.name,
                key_scopes=key.scopes,
                trusted=True,
                is_revoked=is_revoked,
            )
            return await self._app(scope, receive, send)
        if self._loopback and (problem := self._foreign(scope)) is not None:
            code, message = problem
            self._metrics.rejected.labels(code).inc()
            return await send_error(scope, send, 403, f"{code}_not_allowed", message)
        if self._is_public(scope) or self._is_signed(scope) or not self._access.is_required():
            return await self._app(scope, receive, send)
        await self._refuse(scope, send, presented=secret is not None)

    def _is_public(self, scope: Scope) -> bool:
        path = scope["path"]
        if scope["method"] not in {"GET", "HEAD"}:
            return False
        return (
            path in _PROBES
            or path in _PAGE
            or path.startswith(_PAGE_FILES)
            or (path == "/metrics" and self._loopback)
        )

    def _is_signed(self, scope: Scope) -> bool:
        """Whether the route checks a signature instead of a key: the body that it signs has not come yet."""
        if not self._signed or scope["method"] != "POST" or not scope["path"].startswith(ANALYSES):
            return False
        return find_header(scope, SIGNATURE.lower().encode()) is not None

    def _foreign(self, scope: Scope) -> tuple[str, str] | None:
        """(code, message) where a page of elsewhere seems to be behind the request."""
        if scope["path"] in _PROBES:
            return None
        host = find_header(scope, b"host") or ""
        if _name(host) not in self._names:
            return "host", (
                "This service answers under names of its own machine (localhost, 127.0.0.1) while callers need no "
                f"API key. To reach it under another name, create a key with {POE} create-api-key NAME and send it."
            )
        origin = find_header(scope, b"origin")
        if origin is None or scope["method"] in _SAFE_METHODS or origin in self._origins:
            return None
        if _netloc(origin) != host.lower():
            return "origin", (
                "Pages of other origins may not call this service. Allow one with SERVICE_CORS_ORIGINS."
            )
        return None

    async def _refuse(self, scope: Scope, send: Send, *, presented: bool) -> None:
        self._metrics.rejected.labels("key").inc()
        if not presented:
            code, challenge = "api_key_missing", 'Bearer realm="llm-twin"'
            message = (
                "This service needs an API key: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
        else:
            code, challenge = "api_key_invalid", 'Bearer realm="llm-twin", error="invalid_token"'
            message = "This API key is not known here. It may be mistyped or revoked; ask for a new one."
        await send_error(scope, send, 401, code, message, {"WWW-Authenticate": challenge})


def _secret(scope: Scope) -> str | None:
    scheme, _, value = (find_header(scope, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return (find_header(scope, b"x-api-key") or "").strip() or None


def _netloc(origin: str) -> str:
    """Host and port of an ``Origin``; empty for what is none, such as ``null`` or ``http://[``."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The name in a ``Host`` header, without its port."""
    name, _, port = host.lower().rpartition(":")
    bare = name if name and port.isdigit() else host.lower()
    return bare.rstrip(".")

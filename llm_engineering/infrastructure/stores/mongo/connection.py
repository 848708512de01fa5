"""A lazy connection to MongoDB: opened by its first use, with pymongo's errors turned into the project's own."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any

from llm_engineering.domain.errors import ConfigurationError, StoreError, StoreUnavailableError
from llm_engineering.domain.hints import POE

if TYPE_CHECKING:
    from pymongo import IndexModel, MongoClient
    from pymongo.collection import Collection

Record = dict[str, Any]
"""A stored document."""

_URI = re.compile(r"(?P<scheme>mongodb(?:\+srv)?)://(?:[^@/?]*@)?(?P<hosts>[^@/?]+)(?P<rest>[/?][^@]*)?")
_LOCAL = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?")
_REFUSED_LOGIN = frozenset({13, 18, 8000})
"""Unauthorized, AuthenticationFailed, and what Atlas answers to both."""
_BROKEN = 1
"""InternalError: what a server answers for good once its disk was full."""
_SLOW_ANSWER = 20
"""A connected server may take this many times longer to answer than a missing one may take to appear."""


def without_credentials(uri: str) -> str:
    """Return ``scheme://hosts`` of a MongoDB URI. One that cannot be read with certainty is not shown at all."""
    match = _URI.fullmatch(uri)
    return f"{match['scheme']}://{match['hosts']}" if match else "mongodb://(address not shown)"


class MongoConnection:
    """One client, shared by all collections and threads. Nothing is opened before the first use."""

    def __init__(self, uri: str, database: str, timeout_seconds: float) -> None:
        self._uri = uri
        self._database = database
        self._timeout = timeout_seconds
        self._lock = RLock()
        self._client: MongoClient[Record] | None = None
        self._indexed: set[str] = set()
        self._failed: tuple[float, Exception] | None = None
        self.display_uri = without_credentials(uri)

    @contextmanager
    def translate_errors(self, doing: str) -> Iterator[None]:
        """Turn pymongo's errors into ours. ``doing`` completes "failed while ..."

        Raises:
            StoreUnavailableError: no answer, or the log-in was refused.
            ConfigurationError: the URI or the database's name cannot be used.
            StoreError: anything else that the server or the driver refuses.
        """
        from pymongo import errors

        try:
            yield
        except errors.ConnectionFailure as error:
            raise StoreUnavailableError(f"{self._silent(doing)} {self._remedy()}") from error
        except (errors.InvalidURI, errors.ConfigurationError, errors.InvalidName) as error:
            raise _unusable(error) from None
        except errors.OperationFailure as error:
            if error.code in _REFUSED_LOGIN:
                raise StoreUnavailableError(
                    f"The data warehouse at {self.display_uri} refused the log-in while {doing}. Check the user, the "
                    "password and the rights of that user in DATABASE_URI."
                ) from error
            hint = f". {self._restart()}" if error.code == _BROKEN else ""
            raise StoreError(
                f"The data warehouse at {self.display_uri} failed while {doing}: {_first_reason(error)}{hint}"
            ) from error
        except errors.PyMongoError as error:
            raise StoreError(
                f"The data warehouse at {self.display_uri} failed while {doing}: {error}"
            ) from error

    def open_collection(self, name: str, indexes: "Sequence[IndexModel]" = ()) -> "Collection[Record]":
        """Return the collection, its indexes ensured once per connection. Call inside :meth:`translate_errors`."""
        from pymongo.errors import ConnectionFailure

        asked = time.monotonic()
        with self._lock:
            collection = self._opened()[self._database][name]
            if indexes and name not in self._indexed:
                if self._failed is not None and self._failed[0] > asked:
                    # Another thread found no server while this one waited for it: waiting once more, each in its turn,
                    # would hold up as many threads as there are.
                    raise self._failed[1]
                try:
                    collection.create_indexes(list(indexes))
                except ConnectionFailure as error:
                    self._failed = (time.monotonic(), error)
                    raise
            self._indexed.add(name)
        return collection

    def ping(self) -> None:
        with self.translate_errors("being pinged"), self._lock:
            self._opened().admin.command("ping")

    def close(self) -> None:
        """Close the client; may be called twice. A later use opens a new one."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _opened(self) -> "MongoClient[Record]":
        from pymongo import MongoClient

        if self._client is None:
            milliseconds = max(1, int(self._timeout * 1000))
            try:
                self._client = MongoClient(
                    self._uri,
                    appname="llm-twin",
                    tz_aware=True,
                    connect=False,
                    serverSelectionTimeoutMS=milliseconds,
                    connectTimeoutMS=milliseconds,
                    socketTimeoutMS=milliseconds * _SLOW_ANSWER,
                )
            except ValueError as error:  # what pymongo says to some malformed addresses
                raise _unusable(error) from None
        return self._client

    def _silent(self, doing: str) -> str:
        waited = f"asked while {doing}; waited {self._timeout:g} s"
        return f"The data warehouse at {self.display_uri} does not answer ({waited})."

    def _restart(self) -> str:
        if self._is_local():
            return (
                "If its disk was full, make room; then start it anew, its data stay: "
                f"{POE} local-infrastructure-down, {POE} local-infrastructure-up"
            )
        return "See the server's own log; a disk that was full is a usual cause."

    def _is_local(self) -> bool:
        return _LOCAL.fullmatch(self.display_uri.partition("://")[2]) is not None

    def _remedy(self) -> str:
        if self._is_local():
            return f"Start the local server with: {POE} local-infrastructure-up"
        return "Check DATABASE_URI, that this server is running, and that it lets this machine in."


def _unusable(error: Exception) -> ConfigurationError:
    """Only the error's type is told, and the caller raises `from None`: these messages quote pieces of the address, at
    times of the password."""
    return ConfigurationError(
        f"The address or name of the data warehouse cannot be used ({type(error).__name__}). Expected DATABASE_URI like "
        "mongodb://USER:PASSWORD@HOST:27017 with ':', '/', '@' and '%' of user and password percent-encoded (for "
        "mongodb+srv:// the name must also be known to DNS), and DATABASE_NAME without spaces, dots or slashes."
    )


def _first_reason(error: Exception) -> str:
    """The server's first complaint; a bulk error's own text lists every document that was being written."""
    details: Mapping[str, Any] | None = getattr(error, "details", None)
    for kind in ("writeErrors", "writeConcernErrors"):
        complaints = (details or {}).get(kind)
        if complaints:
            return str(complaints[0].get("errmsg", complaints[0]))[:500]
    return str((details or {}).get("errmsg") or error)[:500]

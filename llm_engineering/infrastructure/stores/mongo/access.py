"""API keys and rate limits that all replicas of the service share."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from llm_engineering.domain.api_keys import ApiKey, KeyRing, KeyScope
from llm_engineering.domain.errors import StoreUnavailableError
from llm_engineering.domain.rate_limits import RateLimitDecision, take_token
from llm_engineering.infrastructure.stores.mongo.collections import MongoCollection
from llm_engineering.infrastructure.stores.mongo.connection import MongoConnection, Record
from llm_engineering.infrastructure.stores.mongo.records import from_record, to_record

if TYPE_CHECKING:
    from pymongo import IndexModel

_TAKE_ROUNDS = 50
_FORGOTTEN_AFTER = timedelta(minutes=2)
"""A bucket is full again after a minute, and then tells nothing more."""


class MongoKeyStore(MongoCollection):
    """A record a key; its name is the id, so two writers cannot both have it."""

    name = "api_keys"
    what = "API keys"
    keep_seconds = 1.0

    def __init__(
        self, connection: MongoConnection, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        super().__init__(connection)
        self._now = now

    @property
    def place(self) -> str:
        return f"the database at {self._connection.display_uri}"

    def read_keys(self) -> KeyRing:
        """Return all keys as they are now.

        Raises:
            StoreUnavailableError: no server answers, or none did in the last ten seconds.
        """
        with self._ask_sparingly(), self._connection.translate_errors("reading API keys"):
            records = list(self._collection().find().sort("created_at", 1))
        return KeyRing(keys=tuple(from_record(ApiKey, record) for record in records))

    def create(self, name: str, scopes: tuple[KeyScope, ...] = ()) -> str:
        """Add a key. What is returned is shown once and kept nowhere.

        Raises:
            InvalidInputError: the name is taken or cannot be used.
        """
        from pymongo.errors import DuplicateKeyError

        secret, ring = self.read_keys().issue(name, self._now(), scopes)
        with self._connection.translate_errors("keeping an API key"):
            try:
                self._collection().insert_one(to_record(ring.keys[-1], name))
            except DuplicateKeyError:  # another writer was faster, and now the name is refused
                return self.create(name, scopes)
        return secret

    def revoke(self, name: str) -> None:
        """Remove a key.

        Raises:
            InvalidInputError: there is no such key.
        """
        self.read_keys().remove(name)  # refuses a name that is not there
        with self._connection.translate_errors("revoking an API key"):
            self._collection().delete_one({"_id": name})


class MongoTokenBuckets(MongoCollection):
    """A record a caller. Two replicas that take at once cannot both have the last token: each writes only over what it
    read, and reads again where the other was faster."""

    name = "rate_limits"
    what = "rate limits"

    def __init__(
        self, connection: MongoConnection, per_minute: int, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(connection)
        self._per_minute = per_minute
        self._now = now

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel("expires_at", expireAfterSeconds=0)]

    def take(self, caller: str) -> RateLimitDecision:
        """Take a token, if there is one.

        Raises:
            StoreUnavailableError: no server answers, none did in the last ten seconds, or others are always faster.
        """
        with self._ask_sparingly(), self._connection.translate_errors("counting a request"):
            for _ in range(_TAKE_ROUNDS):
                if (decision := self._try_take(caller)) is not None:
                    return decision
        raise StoreUnavailableError(f"The rate limit of '{caller}' changes faster than it can be counted.")

    def _try_take(self, caller: str) -> RateLimitDecision | None:
        """None: somebody else took one in the meantime."""
        from pymongo.errors import DuplicateKeyError

        bucket: Record | None = self._collection().find_one({"_id": caller})
        now = self._now()
        if bucket is None:
            level, decision = take_token(float(self._per_minute), 0.0, self._per_minute)
        else:
            level, decision = take_token(bucket["level"], now - bucket["at"], self._per_minute)
            if not decision.allowed:
                return decision  # nothing was taken, so there is nothing to write
        written = {
            "level": level,
            "at": max(now, bucket["at"]) if bucket else now,
            "turn": bucket["turn"] + 1 if bucket else 0,
            "expires_at": datetime.fromtimestamp(now, UTC) + _FORGOTTEN_AFTER,
        }
        if bucket is None:
            try:
                self._collection().insert_one({"_id": caller, **written})
            except DuplicateKeyError:
                return None
            return decision
        matching = {"_id": caller, "turn": bucket["turn"]}
        done = self._collection().replace_one(matching, written)
        return decision if done.matched_count else None

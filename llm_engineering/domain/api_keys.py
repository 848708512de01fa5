"""API keys: what a key looks like, and how one that is presented is recognised. Keys are never stored, only their hashes.

A key carries 256 random bits, so one round of SHA-256 is enough: there is nothing to guess that a slow hash would slow.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_engineering.domain.documents import Model, UtcDatetime
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE

KeyScope = Literal["documents", "reports", "pipelines"]
"""What a key may allow beyond asking: to add to the collection, to read reports, to start pipelines."""
PREFIX = "twin_"
"""Tells people and secret scanners what a string is."""
_RANDOM_BYTES = 32


class ApiKey(Model):
    """A key as it is kept."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    """Who or what uses it. Shown in logs, and counted by in rate limits."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: UtcDatetime
    scopes: tuple[KeyScope, ...] = ()


class KeyRing(Model):
    """All keys of a service."""

    keys: tuple[ApiKey, ...] = ()

    def issue(self, name: str, at: datetime, scopes: tuple[KeyScope, ...] = ()) -> tuple[str, "KeyRing"]:
        """Return a new key, to be shown once, and the ring that knows its hash.

        Raises:
            InvalidInputError: the name is taken or cannot be used.
        """
        if self.find(name) is not None:
            raise InvalidInputError(
                f"There is a key named '{name}' already. Choose another name, or revoke it first: "
                f"{POE} revoke-api-key {name}"
            )
        secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        try:
            key = ApiKey(name=name, sha256=hash_secret(secret), created_at=at, scopes=scopes)
        except ValueError:
            raise InvalidInputError(
                "A key's name has 1 to 64 letters, digits or . _ @ - and begins with a letter or a digit; "
                f"got '{name[:80]}'."
            ) from None
        return secret, KeyRing(keys=(*self.keys, key))

    def find(self, name: str) -> ApiKey | None:
        """Return the key of that name."""
        return next((key for key in self.keys if key.name == name), None)

    def remove(self, name: str) -> "KeyRing":
        """Return the ring without the key of that name.

        Raises:
            InvalidInputError: there is no such key.
        """
        kept = tuple(key for key in self.keys if key.name != name)
        if len(kept) == len(self.keys):
            names = ", ".join(key.name for key in self.keys) or "none"
            raise InvalidInputError(f"There is no key named '{name}'. There are: {names}.")
        return KeyRing(keys=kept)

    def recognise(self, presented: str) -> ApiKey | None:
        """Return the key that was presented. The time this takes tells nothing of how near a wrong one came."""
        return _recognise(hash_secret(presented), self.keys)


def hash_secret(secret: str) -> str:
    """Return the hash under which a key is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _recognise(presented: str, keys: Sequence[ApiKey]) -> ApiKey | None:
    found = None
    for key in keys:  # all of them, always
        if hmac.compare_digest(key.sha256, presented):
            found = key
    return found

"""Who may call the service, and how often."""

from typing import Protocol

from llm_engineering.domain.api_keys import KeyRing, KeyScope
from llm_engineering.domain.rate_limits import RateLimitDecision


class KeyStore(Protocol):
    """The service's API keys; only hashes are kept."""

    @property
    def place(self) -> str:
        """Where the keys are, as a person would look for them."""
        ...

    @property
    def keep_seconds(self) -> float:
        """How long keys that were read may be used before they are read again; 0: reading costs nothing."""
        ...

    def read_keys(self) -> KeyRing:
        """Return all keys as they are now.

        Raises:
            ConfigurationError: they cannot be read.
            StoreUnavailableError: the store does not answer.
        """
        ...

    def create(self, name: str, scopes: tuple[KeyScope, ...] = ()) -> str:
        """Add a key. What is returned is shown once and kept nowhere.

        Raises:
            InvalidInputError: the name is taken or cannot be used.
        """
        ...

    def revoke(self, name: str) -> None:
        """Remove a key.

        Raises:
            InvalidInputError: there is no such key.
        """
        ...


class RateLimiter(Protocol):
    """A token bucket for each caller."""

    def take(self, caller: str) -> RateLimitDecision:
        """Take a token, if there is one.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        ...

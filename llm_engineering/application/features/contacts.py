"""Whose a record is: its addresses against a list of clients, by address first, then by domain, else nobody's."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from llm_engineering.domain.documents import Model


class Contact(Model):
    """A client, and by what it is known."""

    client: str = Field(min_length=1)
    addresses: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    """Its own; one that several clients name, as that of a provider of mailboxes, tells nobody."""


@dataclass(frozen=True, slots=True)
class Association:
    """Whose a record is."""

    client: str | None
    """None: nobody's, or of more than one."""
    by: Literal["address", "domain", "ambiguous", "none"]


class Contacts:
    """Knows clients by their addresses."""

    def __init__(self, contacts: Iterable[Contact]) -> None:
        self._addresses: dict[str, set[str]] = defaultdict(set)
        self._domains: dict[str, set[str]] = defaultdict(set)
        for one in contacts:
            for address in one.addresses:
                self._addresses[address.strip().casefold()].add(one.client)
            for domain in one.domains:
                self._domains[domain.strip().lstrip("@").casefold()].add(one.client)

    def find_client(self, addresses: Sequence[str]) -> Association:
        """Return whose the addresses are. Known addresses outrank domains; where several clients come of it, it is nobody's, so
        that nothing is told of one to another."""
        given = [address.strip().casefold() for address in addresses if address.strip()]
        by_address = set().union(*(self._addresses.get(one, set()) for one in given))
        if by_address:
            return _decide(by_address, "address")
        by_domain = set().union(*(self._find_by_domain(one.rpartition("@")[2]) for one in given))
        return _decide(by_domain, "domain") if by_domain else Association(None, "none")

    def _find_by_domain(self, domain: str) -> set[str]:
        # mail.example.org is example.org's, unless it is listed itself.
        labels = domain.split(".")
        for start in range(max(1, len(labels) - 1)):
            if found := self._domains.get(".".join(labels[start:])):
                return found
        return set()


def _decide(clients: set[str], by: Literal["address", "domain"]) -> Association:
    return Association(next(iter(clients)), by) if len(clients) == 1 else Association(None, "ambiguous")

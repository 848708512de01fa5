"""Which network addresses a link may lead to: what others wrote must not reach services inside this network."""

import asyncio
import ipaddress
import socket
from typing import Literal
from urllib.parse import urlsplit

from llm_engineering.domain.errors import FetchError

PrivateAddresses = Literal["given", "always", "never"]
"""Addresses inside (this machine, its network, clouds' metadata): ``given``, only under links that the user wrote."""

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(FetchError):
    """A link that nobody here wrote leads inside."""


def may_lead_inside(policy: PrivateAddresses, url: str, given: str) -> bool:
    """Return whether ``url`` may have an address inside; ``given`` is the link that the user wrote and that led to it."""
    if policy == "given":
        return _site(url) == _site(given)
    return policy == "always"


def _site(url: str) -> tuple[str, int]:
    """Host and port. That a site moved from http to https makes it no other one."""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme.lower(), 0)
    return (parts.hostname or "").lower(), 80 if port == 443 else port


async def resolve_host(host: str, port: int, *, inside: bool) -> list[str]:
    """Return a host's addresses, in the order in which they should be tried.

    The connection must go to one of these and not to the name: asked again, a name may have another address.

    Raises:
        PrivateAddressError: one of them is inside, which ``inside`` does not allow.
        OSError: the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not inside and (private := next((one for one in addresses if not _is_public(one)), None)):
        raise PrivateAddressError(
            f"its host {host} has the address {private}, which is inside this network. A link that you did not write "
            "yourself may not lead there; list it yourself if you want it read, or set CRAWLER_PRIVATE_ADDRESSES "
            "(given, always, never)"
        )
    return addresses


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        # Forms of IPv6 that carry an IPv4 address lead where that one does.
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast

"""Whose address a request counts for: the peer's, or the one a trusted proxy names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from bridge.net import network

MAX_HOPS = 16
MAX_HOP_CHARACTERS = 80
UNKNOWN_ADDRESS = "-"

_IPV6_PREFIX_BITS = 64  # one customer has at least so large a network, and all of its addresses
_X_FORWARDED_FOR, _FORWARDED = b"x-forwarded-for", b"forwarded"


class ClientAddresses:
    """Reads the client's address of a request.

    Proxy headers are written by whoever sends the request; they are believed from trusted proxies only,
    and only as far as the right-most hop that is no trusted proxy itself.

    Args:
        trusted: Addresses and networks of proxies.

    Raises:
        ValueError: One of them is neither.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = tuple(network(one) for one in trusted)
        self._is_trusted = lru_cache(4096)(self._belongs)

    def of(self, scope: Mapping[str, Any]) -> str:
        """The key of the address: an IPv4 address, the /64 of an IPv6 address, or `-` for none."""
        peer = scope.get("client")
        if not peer:
            return UNKNOWN_ADDRESS
        address = _plain(peer[0]) or UNKNOWN_ADDRESS
        if self._trusted and self._is_trusted(address):
            address = self._named(scope["headers"]) or address
        return _ipv6_prefix(address) if ":" in address else address

    def _named(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The client the headers name; None where they name none, or two of them do not agree.

        A proxy writes one of the two headers and may let the other one through as a stranger wrote it.
        """
        lines: dict[bytes, list[bytes]] = {_X_FORWARDED_FOR: [], _FORWARDED: []}
        for name, value in headers:
            if name in lines:
                lines[name].append(value)
        texts = {name: b",".join(values).decode("latin-1") for name, values in lines.items() if values}
        named = {self._client(_hops(name, text)) for name, text in texts.items()}
        return named.pop() if len(named) == 1 else None

    def _client(self, hops: Iterator[str | None]) -> str | None:
        """The first hop from the right that is no trusted proxy, or the last one we can believe."""
        believed: str | None = None
        for hop in hops:
            if hop is None:
                break
            believed = hop
            if not self._is_trusted(hop):
                break
        return believed

    def _belongs(self, address: str) -> bool:
        try:
            read = ip_address(address)
        except ValueError:
            return False
        return any(read in one for one in self._trusted)


def _hops(name: bytes, text: str) -> Iterator[str | None]:
    """The hops of a header, nearest first; None for one that names no address."""
    for part in reversed(text.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
        hop = part if name == _X_FORWARDED_FOR else _for(part)
        yield _plain(hop) if len(hop) <= MAX_HOP_CHARACTERS else None


def _for(element: str) -> str:
    """What `for=` says in one element of `Forwarded` (RFC 7239)."""
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            return value
    return ""


@lru_cache(4096)
def _plain(text: str) -> str | None:
    """An address without quotes, brackets and port, in its one spelling; None when it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


@lru_cache(4096)
def _ipv6_prefix(address: str) -> str:
    return str(ip_network(f"{address}/{_IPV6_PREFIX_BITS}", strict=False))

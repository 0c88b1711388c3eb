"""The client address of a request: the peer's, or the one a trusted proxy reports (RFC 7239)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from bridge.net import network

MAX_HOPS = 16
MAX_HOP_CHARACTERS = 80
UNKNOWN_ADDRESS = "-"

_IPV6_PREFIX_BITS = 64  # a single customer has at least a /64, and can use every address in it
_X_FORWARDED_FOR, _FORWARDED = b"x-forwarded-for", b"forwarded"
_FORWARDING = frozenset(
    {
        _X_FORWARDED_FOR,
        _FORWARDED,
        b"x-forwarded",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"via",
    }
)

logger = logging.getLogger(__name__)


class ClientAddresses:
    """Determines client addresses.

    Proxy headers can be forged by any client. They are believed only if the peer is a trusted proxy, and only
    up to the right-most hop that is not one.

    Args:
        trusted: Addresses and networks of proxies.
        detect: Whether to detect proxies missing from `trusted`; the first one is logged.

    Raises:
        ValueError: One of them is neither.
    """

    def __init__(self, trusted: Sequence[str], *, detect: bool = False) -> None:
        self._trusted = tuple(network(text) for text in trusted)
        self._is_trusted = lru_cache(4096)(self._in_trusted_network)
        self._detect = detect
        self._warned = False

    def of(self, scope: Mapping[str, Any]) -> str:
        """The address limits count by: an IPv4 address, the /64 of an IPv6 address, or `-` if unknown."""
        peer = scope.get("client")
        if not peer:
            return UNKNOWN_ADDRESS
        address = _normalized(peer[0]) or UNKNOWN_ADDRESS
        if self._trusted and self._is_trusted(address):
            address = self._forwarded(scope["headers"]) or address
        return _ipv6_prefix(address) if ":" in address else address

    def trusts_peer(self, scope: Mapping[str, Any]) -> bool:
        """Whether the peer is a trusted proxy, whose headers are believed."""
        peer = scope.get("client")
        if not self._trusted or not peer:
            return False
        return self._is_trusted(_normalized(peer[0]) or UNKNOWN_ADDRESS)

    def is_shared(self, scope: Mapping[str, Any]) -> bool:
        """Whether the peer seems to be an unknown proxy: all its users have its address.

        Once `trusted_proxies` names the proxies, no other peer is taken for one: any client could claim to be
        a proxy to get around the limits of its address.
        """
        if (
            not self._detect
            or self._trusted
            or not _FORWARDING.intersection([name for name, _ in scope["headers"]])
        ):
            return False
        if not self._warned:
            self._warned = True
            peer = scope.get("client") or (UNKNOWN_ADDRESS,)
            advice = "name it in trusted_proxies, or limits per address do not apply to its users"
            logger.warning("unknown proxy", extra={"address": str(peer[0]), "advice": advice})
        return True

    def _forwarded(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The client named by the headers; None if there is none, or the two headers disagree.

        A proxy sets one of the two headers and may pass the other through as the client forged it.
        """
        lines: dict[bytes, list[bytes]] = {_X_FORWARDED_FOR: [], _FORWARDED: []}
        for name, value in headers:
            if name in lines:
                lines[name].append(value)
        texts = {name: b",".join(values).decode("latin-1") for name, values in lines.items() if values}
        clients = {self._client(_hops(name, text)) for name, text in texts.items()}
        return clients.pop() if len(clients) == 1 else None

    def _client(self, hops: Iterator[str | None]) -> str | None:
        """The first hop from the right that is not a trusted proxy; else the last one that is credible."""
        client: str | None = None
        for hop in hops:
            if hop is None:
                break
            client = hop
            if not self._is_trusted(hop):
                break
        return client

    def _in_trusted_network(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return any(address in trusted for trusted in self._trusted)


def _hops(name: bytes, text: str) -> Iterator[str | None]:
    """The hops of a header, nearest first; None for one that is not an address."""
    for part in reversed(text.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
        hop = part if name == _X_FORWARDED_FOR else _for_parameter(part)
        yield _normalized(hop) if len(hop) <= MAX_HOP_CHARACTERS else None


def _for_parameter(element: str) -> str:
    """The `for=` parameter of one element of `Forwarded` (RFC 7239 section 5.2)."""
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            return value
    return ""


@lru_cache(4096)
def _normalized(text: str) -> str | None:
    """An address in its canonical spelling, without quotes, brackets and port; None if it is not one."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # ::ffff:192.0.2.1 and 192.0.2.1 are one client: a dual-stack socket must not double its limits
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


@lru_cache(4096)
def _ipv6_prefix(address: str) -> str:
    return str(ip_network(f"{address}/{_IPV6_PREFIX_BITS}", strict=False))

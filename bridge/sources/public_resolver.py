"""A DNS resolver that refuses private addresses (SSRF protection)."""

from __future__ import annotations

import logging
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from bridge.dialects.hosts import Hosts

_LOCALHOST = "localhost"
_NAT64 = ip_network("64:ff9b::/96")
_32_BITS = 2**32 - 1

logger = logging.getLogger(__name__)


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only, unless the operator allows private ones for a name.

    Otherwise, anyone who controls the DNS of a provider's name could make the bridge call services that only
    it can reach (DNS rebinding). Literal addresses are never resolved, so the check does not apply to them.

    Args:
        private: Names that may resolve to private addresses.
        resolver: Resolves names; aiohttp's default if omitted.
    """

    def __init__(self, private: Hosts, resolver: AbstractResolver | None = None) -> None:
        self._private = private
        self._resolver = resolver or DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look up `host`.

        Raises:
            OSError: It has no address, or one of them is private.
        """
        results = await self._resolver.resolve(host, port, family)
        if host == _LOCALHOST or self._private.own(f"http://{host}"):
            return results
        # One private address is enough: aiohttp may connect to any of them.
        if any(not is_public(result["host"]) for result in results):
            logger.warning("request blocked: host has a private address", extra={"host": host})
            raise OSError(f"{host} has a private address")
        return results

    async def close(self) -> None:
        """Close the underlying resolver."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Whether an address is globally reachable; an IPv4 address embedded in an IPv6 one is checked itself."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        # Translated on the way (IPv4-mapped, 6to4, NAT64), these reach the IPv4 address inside.
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = IPv4Address(int(parsed) & _32_BITS)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast

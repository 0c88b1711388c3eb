"""Addresses inside: this machine's, and those of the networks it stands in."""

from __future__ import annotations

import logging
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from bridge.dialects.hosts import Hosts

_THIS_MACHINE = "localhost"
_NAT64 = ip_network("64:ff9b::/96")
_32_BITS = 2**32 - 1

logger = logging.getLogger(__name__)


class PublicResolver(AbstractResolver):
    """Finds no private address under a name, unless the operator says that the name may have one.

    Whoever can change a name server's answer could otherwise make the bridge call what only it can reach.
    An address the operator wrote as numbers is never looked up, and stands for itself.

    Args:
        private: The names that may.
    """

    def __init__(self, private: Hosts, resolver: AbstractResolver | None = None) -> None:
        self._private = private
        self._resolver = resolver or DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            OSError: There are none, or one of them is private.
        """
        found = await self._resolver.resolve(host, port, family)
        if host == _THIS_MACHINE or self._private.own(f"http://{host}"):
            return found
        if any(not is_public(one["host"]) for one in found):
            logger.warning("not called: the name has a private address; private_hosts", extra={"host": host})
            raise OSError(f"{host} has a private address")
        return found

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Whether anybody in the internet could reach it; an IPv4 address inside an IPv6 one counts."""
    try:
        read = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(read, IPv6Address):
        inner = read.ipv4_mapped or read.sixtofour
        if read in _NAT64:
            inner = IPv4Address(int(read) & _32_BITS)
        if inner is not None:
            return is_public(str(inner))
    return read.is_global and not read.is_multicast

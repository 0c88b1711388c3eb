"""A guard for URLs that callers, receivers or providers chose: none of them leads inside (SSRF protection).

Two checks: `check_url` of the text, before anything is stored or called, and `public_socket` of each address
that a connection is about to be made to. Only the second can stop a name whose address changes (DNS
rebinding); the first says early, and clearly, what can never work.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp.connector import AddrInfoType
from yarl import URL

from bridge.dialects.hosts import Hosts
from bridge.errors import Forbidden, InvalidRequest

MAX_URL = 4096

_SCHEMES = ("http", "https")
_LOCALHOST = "localhost"
_MAX_PORT = 65_535
_MAX_NAME = 253
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ud800-\udfff]")
_AUTHORITY = re.compile(r"https?://(?P<authority>[^/?#]+)", re.IGNORECASE)
_PORT = re.compile(r"(?:[^\[\]:]*|\[[^\[\]]*\])(?::(?P<port>[0-9]*))?")
_CHARACTER = r"[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}"
_TARGET = re.compile(rf"(?P<path>(?:/(?:{_CHARACTER})*)?)(?:\?(?P<query>(?:{_CHARACTER}|\?)*))?(?:#.*)?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What browsers and C libraries take for an IPv4 address: `127.1`, `0x7f000001`, `2130706433`.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

_32_BITS = 2**32 - 1
# An IPv4 address inside one of these is where the packets arrive.
_TRANSLATED = (
    ip_network("::ffff:0:0/96"),  # IPv4-mapped
    ip_network("64:ff9b::/96"),  # NAT64, with which machines without IPv4 reach all public names
)
_GLOBAL_UNICAST = ip_network("2000::/3")  # the rest is special, or reserved
# Special ones that some versions of Python call global.
_NOT_GLOBAL = (
    ip_network("2002::/16"),  # 6to4
    ip_network("3fff::/20"),  # documentation
    ip_network("192.0.0.0/24"),
    ip_network("192.88.99.0/24"),  # relays of 6to4
)


class PrivateAddress(OSError):
    """The connection was not made, because the host's address is not a public one."""

    def __init__(self) -> None:
        # Always the same: aiohttp raises an error unchanged if each address of a name failed with the same.
        super().__init__(errno.EACCES, "the address is not a public one")


def private_hosts_of(items: Iterable[str]) -> Hosts:
    """The setting `private_hosts`: names, `*.` with a name, and addresses, with or without brackets."""
    return Hosts(_canonical(item.strip().lower().removeprefix("[").removesuffix("]")) for item in items)


def may_be_private(host: str, private_hosts: Hosts) -> bool:
    """Whether the operator lists the host, a name or an address in the form of `check_url`."""
    name = host.removesuffix(".")
    # An address has no subdomains: `*.0.0.1` lists none.
    return private_hosts.lists(name) if _address(name) is not None else private_hosts.has(name)


def is_written_out(host: str) -> bool:
    """Whether a host is an address, or `localhost`, so that no name server decides where it leads."""
    return host.lower() == _LOCALHOST or _address(host) is not None


@lru_cache(256)  # an endpoint of a webhook is called again and again
def check_url(url: str, private_hosts: Hosts) -> URL:
    """The URL as it is to be called: what was checked and what is called are the same object.

    Args:
        private_hosts: Of `private_hosts_of`.

    Raises:
        InvalidRequest: It is not an http(s) URL, or parsers disagree about its host.
        Forbidden: Its host is an address or leads inside, or it is not encrypted, and `private_hosts` does
            not list its host.
    """
    parsed = _parse(url)
    host = parsed.raw_host or ""
    if may_be_private(host, private_hosts):
        return parsed
    name = host.removesuffix(".")
    if name == _LOCALHOST or name.endswith(f".{_LOCALHOST}"):
        raise Forbidden("the URL leads to this machine; list its host in `private_hosts` if it should")
    if _address(name) is not None:
        kind = "an address instead of a name" if is_public(name) else "a private address"
        raise Forbidden(f"the URL leads to {kind}; list it in `private_hosts` if it should")
    if parsed.scheme != "https":
        raise Forbidden("the URL must begin with https://; http:// is for hosts in `private_hosts` only")
    return parsed


def is_public(address: str) -> bool:
    """Whether an address is globally reachable; an IPv4 address inside an IPv6 one is checked itself."""
    parsed = _address(address)
    if parsed is None:
        return False
    if isinstance(parsed, IPv6Address):
        if any(parsed in network for network in _TRANSLATED):
            parsed = IPv4Address(int(parsed) & _32_BITS)
        elif parsed not in _GLOBAL_UNICAST:
            return False
    if any(parsed in network for network in _NOT_GLOBAL):
        return False
    return parsed.is_global and not parsed.is_multicast


def public_socket(address: AddrInfoType) -> socket.socket:
    """The `socket_factory` of a connector that connects to public addresses only.

    Raises:
        PrivateAddress: It is none; nothing was sent to it.
    """
    family, kind, protocol, _, target = address
    if not is_public(str(target[0])):
        raise PrivateAddress
    return socket.socket(family, kind, protocol)


def _parse(url: str) -> URL:
    if len(url) > MAX_URL:
        raise InvalidRequest(f"a URL has at most {MAX_URL} characters")
    if _NOT_IN_URLS.search(url):
        raise InvalidRequest("a URL has no spaces, control characters and backslashes")
    match = _AUTHORITY.match(url)
    if match is None:
        raise InvalidRequest("a URL begins with https:// and a host")
    authority = match["authority"]
    if "@" in authority:
        raise InvalidRequest("a URL must not contain a user name or a password")
    port = _PORT.fullmatch(authority)
    if port is None or (port["port"] and not 0 < int(port["port"][:6]) <= _MAX_PORT):
        raise InvalidRequest("the port of a URL is a number from 1 to 65535")
    try:
        parsed = URL(url).with_fragment(None)
    except ValueError:
        raise InvalidRequest("the URL cannot be read") from None
    if parsed.scheme not in _SCHEMES or not _is_host(parsed.raw_host or "", bracketed=authority[0] == "["):
        raise InvalidRequest("the host of the URL is neither a name nor an address")
    target = _TARGET.fullmatch(url, match.end())
    if target is None:
        return parsed
    # As it came: some links are signed, and `%2F` and `/` differ for the server that verifies them.
    return URL.build(
        scheme=parsed.scheme,
        authority=parsed.raw_authority,
        path=target["path"] or "/",
        query_string=target["query"] or "",
        encoded=True,
    )


def _is_host(host: str, *, bracketed: bool) -> bool:
    if bracketed:
        return isinstance(_address(host), IPv6Address) and "%" not in host
    name = host.removesuffix(".")
    if _NUMERIC.fullmatch(name):
        return name == host and isinstance(_address(name), IPv4Address)
    return len(name) <= _MAX_NAME and all(_LABEL.fullmatch(label) for label in name.split("."))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _canonical(item: str) -> str:
    address = _address(item)
    return item.removesuffix(".") if address is None else str(address)

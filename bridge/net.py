"""Addresses, networks and origins: as operators write them, and as browsers and clients send them.

And whose certificates a client trusts.
"""

from __future__ import annotations

import re
import ssl
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from os import PathLike
from socket import inet_aton

from yarl import URL

Network = IPv4Network | IPv6Network

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65_535
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,40}")
_WITHOUT_SCHEME = re.compile(r"(?:https?:(?!\d)/*|//)", re.IGNORECASE)
_END_OF_AUTHORITY = re.compile(r"[/?#\\]")
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_OPAQUE_HOST = re.compile(r"[A-Za-z0-9_.-]{0,253}:\d{0,5}")
_IPV4 = re.compile(
    r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)"
)  # what browsers take for one: also `127.1` and `0x7f000001`


def trusting(ca_file: str | PathLike[str]) -> ssl.SSLContext:
    """A client's context that trusts the certificates in a PEM file, and no others.

    Raises:
        ValueError: The file cannot be read, or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ValueError(f"{ca_file} holds no certificate in PEM form") from None
    except OSError as error:
        raise ValueError(f"{ca_file}: {error.strerror}") from None
    # As curl and Go have it, with every version of Python: a certificate in the file need not be a root, and
    # a CA of one's own need not have every extension.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def unverified(host: str, error: Exception) -> str:
    """The error message about a server whose certificate a client does not trust, in one line.

    Args:
        error: Python's own; other libraries wrap it, and some have errors of their own.
    """
    reason = str(getattr(error, "verify_message", "") or error).rstrip(".")
    return f"the certificate of {host} cannot be verified: {reason[:1].lower()}{reason[1:]}"


def network(text: str) -> Network:
    """Parse an address or a network; host bits may be set.

    Raises:
        ValueError: `text` is neither.
    """
    return ip_network(text.strip(), strict=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`; False for names other than `localhost`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def as_browsers_send(origin: str) -> str:
    """An origin as browsers send it in `Origin`: scheme, lower-case host in ASCII, no default port, no path.

    Raises:
        ValueError: Nothing in `origin` can be one.
    """
    text = origin.strip()
    scheme, marks, rest = text.partition("://")
    if not marks:
        rest = _WITHOUT_SCHEME.sub("", text)
        known = text[: len(text) - len(rest)].lower()
        scheme = known.rstrip(":/") or ("http" if _is_local(_authority(rest)[0]) else "https")
    scheme = {"ws": "http", "wss": "https"}.get(scheme.lower(), scheme.lower())
    if not _SCHEME.fullmatch(scheme):
        raise ValueError("an origin is a scheme, `://` and a host, with a port if it is not the usual one")
    host, port = _authority(rest)
    if (
        scheme not in _DEFAULT_PORTS
    ):  # a browser extension, an app: `chrome-extension://id`, `tauri://localhost`
        if not _OPAQUE_HOST.fullmatch(f"{host}:{port}"):
            raise ValueError(f"{host[:80]!r} is not a host name")
        return f"{scheme}://{host}{':' if port else ''}{port}".lower()
    host = _ascii_host(host)
    if port and (not port.isdecimal() or not port.isascii() or int(port) > _MAX_PORT):
        raise ValueError("the port of an origin is a number of at most 65535")
    usual = not port or int(port) == _DEFAULT_PORTS[scheme]
    return f"{scheme}://{host}" if usual else f"{scheme}://{host}:{int(port)}"


def same_origin(origin: str) -> str:
    """An `Origin` for comparing: without case and default port; otherwise as it was sent."""
    scheme, _, rest = origin.lower().partition("://")
    return f"{scheme}://{same_host(rest, scheme)}" if rest else scheme


def same_host(host: str, scheme: str) -> str:
    """A `Host`, name and port, for comparing: without case, and without the scheme's default port."""
    return host.lower().removesuffix(f":{_DEFAULT_PORTS[scheme]}" if scheme in _DEFAULT_PORTS else "\0")


def _authority(text: str) -> tuple[str, str]:
    """The host and the port of what follows a scheme."""
    authority = _END_OF_AUTHORITY.split(text, maxsplit=1)[0].rpartition("@")[2]
    if authority.startswith("["):
        host, _, rest = authority.partition("]")
        return f"{host}]", rest.removeprefix(":")
    host, _, port = authority.partition(":")
    return host, port


def _ascii_host(host: str) -> str:
    """A host name as browsers write it.

    Raises:
        ValueError: It is none.
    """
    if host.startswith("["):
        return f"[{ip_address(host[1:-1])}]"
    try:
        name = URL.build(scheme="http", host=host.rstrip(".").lower()).raw_host or ""
    except (ValueError, TypeError) as error:
        raise ValueError("an origin needs a host") from error
    if not _HOST_NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{host[:80]!r} is not a host name")
    if not _IPV4.fullmatch(name):
        return name
    try:
        return str(IPv4Address(inet_aton(name)))
    except OSError as error:
        raise ValueError(f"{host[:80]!r} is neither a host name nor an address") from error


def _is_local(host: str) -> bool:
    return is_loopback(host) or host.endswith(".localhost")

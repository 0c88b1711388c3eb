"""Where a request ends, as its head says; a head that two parsers could read differently is refused.

A proxy in front and this server must agree on the end of every request: what one of them takes for a body,
the other must not take for the next request (request smuggling, RFC 9112 section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

Fields = Iterable[tuple[bytes, bytes]]

FRAMING_FIELDS = frozenset(
    {b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"}
)

# RFC 3986 section 3.2.2 without the comma, which joins two fields of a proxy into one.
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"(?i)(https?)://([^/?]+)(?:[/?]|$)")
_BLANKS = b" \t"
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


class Malformed(Exception):
    """The head is ambiguous or not HTTP/1; the message says why."""


class Framing(NamedTuple):
    """How the rest of one request is read.

    Args:
        content_length: Bytes of the body; None if it is chunked.
        keep_alive: Whether another request may follow.
        websocket: Whether the request is a WebSocket handshake. Every other `Upgrade` is ignored.
        expects_continue: Whether the client waits for `100 Continue` before it sends the body.
    """

    content_length: int | None
    keep_alive: bool
    websocket: bool
    expects_continue: bool


def framing(method: bytes, version: str, target: bytes, fields: Fields) -> Framing:
    """Decide how a request is read.

    Args:
        version: `1.0` or `1.1`.
        target: The request target as sent.
        fields: Those in `FRAMING_FIELDS`, in order, with names in lower case.

    Raises:
        Malformed: The head is ambiguous; respond with 400 and close.
    """
    hosts, connection, upgrades, lengths, encodings, expects_continue = _sorted(fields)
    newest = version == "1.1"
    if method == b"CONNECT" or not (newest or version == "1.0"):
        raise Malformed("only HTTP/1.0 and HTTP/1.1 are spoken here, and nothing is tunnelled")
    if len(hosts) != 1 and (newest or hosts):
        raise Malformed("one `Host` field is required")
    if hosts and not _AUTHORITY.fullmatch(hosts[0]):
        raise Malformed("`Host` is not a host name")
    if target[:1] != b"/" or b"#" in target:
        _check_target(target, hosts, method)
    content_length = _content_length(lengths, encodings, newest=newest) if lengths or encodings else 0
    options = _options(connection) if connection else ()
    websocket = b"upgrade" in options and upgrades == [b"websocket"] and method == b"GET" and newest
    if websocket and content_length != 0:
        raise Malformed("a WebSocket handshake has no body")
    keep_alive = newest and b"close" not in options
    return Framing(content_length, keep_alive, websocket, newest and expects_continue)


def ends_in_handshake(received: bytes) -> bool:
    """Whether the last head in `received`, which its empty line ends, is a WebSocket handshake.

    Args:
        received: Ends with the head; the body of another request may precede it, without an empty line.
    """
    lines = received.split(b"\r\n")
    first = next((at for at in reversed(range(len(lines))) if lines[at].endswith(b" HTTP/1.1")), None)
    if first is None:
        return False
    _, method, target = lines[first].removesuffix(b" HTTP/1.1").rpartition(b"GET ")
    parted = (line.partition(b":") for line in lines[first + 1 :])
    fields = [(name.lower(), value) for name, _, value in parted if name.lower() in FRAMING_FIELDS]
    try:
        return bool(method) and framing(b"GET", "1.1", target, fields).websocket
    except Malformed:
        return False


def _sorted(
    fields: Fields,
) -> tuple[list[bytes], bytes, list[bytes], list[bytes], list[bytes], bool]:
    """`Host`, `Connection`, `Upgrade`, `Content-Length`, `Transfer-Encoding`, and whether `100-continue`."""
    hosts: list[bytes] = []
    connection = b""
    upgrades: list[bytes] = []
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    expects_continue = False
    for name, value in fields:
        if name == b"host":
            hosts.append(value.strip(_BLANKS))
        elif name == b"connection":
            connection += b"," + value  # several fields are one list
        elif name == b"upgrade":
            upgrades.append(value.strip(_BLANKS).lower())
        elif name == b"content-length":
            lengths.append(value.strip(_BLANKS))
        elif name == b"transfer-encoding":
            encodings.append(value.strip(_BLANKS).lower())
        elif value.lower() == b"100-continue":
            expects_continue = True
    return hosts, connection, upgrades, lengths, encodings, expects_continue


def _options(connection: bytes) -> list[bytes]:
    return [option.strip(_BLANKS).lower() for option in connection.split(b",")]


def _check_target(target: bytes, hosts: list[bytes], method: bytes) -> None:
    """Check a target that is not simply a path."""
    if b"#" in target:
        raise Malformed("a request target has no fragment")
    if target == b"*" and method == b"OPTIONS":
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise Malformed("the request target must be a path")
    port = _DEFAULT_PORTS[absolute[1].lower()]
    named = absolute[2].lower().removesuffix(port)
    # RFC 9112 section 3.2.2 lets the target win over `Host`; a proxy in front may have decided by either.
    if not _AUTHORITY.fullmatch(named) or any(host.lower().removesuffix(port) != named for host in hosts):
        raise Malformed("the request target and `Host` name different hosts")


def _content_length(lengths: list[bytes], encodings: list[bytes], *, newest: bool) -> int | None:
    if not encodings:
        if len(lengths) > 1 or not lengths[0].isdigit():
            raise Malformed("`Content-Length` must be one number")
        return int(lengths[0])
    if lengths or encodings != [b"chunked"] or not newest:
        raise Malformed("`Transfer-Encoding` must be `chunked`, in HTTP/1.1, and without `Content-Length`")
    return None

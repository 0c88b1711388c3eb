"""Where a request ends, as its head says; a head that two parsers could read differently is refused.

A proxy in front and this server must agree on the end of every request: what one of them takes for a body,
the other must not take for the next request (request smuggling, RFC 9112 section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

Fields = Sequence[tuple[bytes, bytes]]

FRAMING_FIELDS = frozenset(
    {b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"}
)

# RFC 3986 section 3.2.2 without the comma, which joins two fields of a proxy into one.
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"(?i)(https?)://([^/?]+)(?:[/?]|$)")
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


class Malformed(Exception):
    """The head is ambiguous or not HTTP/1; the message says why."""


@dataclass(frozen=True, slots=True)
class Framing:
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
    if version not in {"1.0", "1.1"}:
        raise Malformed("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method == b"CONNECT":
        raise Malformed("this server is not a proxy")
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value.strip(b" \t"))
    _check_host(values.get(b"host", []), version, method, target)
    content_length = _content_length(
        values.get(b"content-length", []), values.get(b"transfer-encoding", []), version
    )
    options = {
        one.strip(b" \t").lower() for line in values.get(b"connection", ()) for one in line.split(b",")
    }
    websocket = (
        b"upgrade" in options
        and [line.lower() for line in values.get(b"upgrade", ())] == [b"websocket"]
        and method == b"GET"
        and version == "1.1"
    )
    if websocket and content_length != 0:
        raise Malformed("a WebSocket handshake has no body")
    expects_continue = version == "1.1" and any(
        value.lower() == b"100-continue" for value in values.get(b"expect", ())
    )
    return Framing(content_length, version == "1.1" and b"close" not in options, websocket, expects_continue)


def _check_host(hosts: list[bytes], version: str, method: bytes, target: bytes) -> None:
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Malformed("one `Host` field is required")
    if hosts and not _AUTHORITY.fullmatch(hosts[0]):
        raise Malformed("`Host` is not a host name")
    if b"#" in target:
        raise Malformed("a request target has no fragment")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise Malformed("the request target must be a path")
    port = _DEFAULT_PORTS[absolute[1].lower()]
    named = absolute[2].lower().removesuffix(port)
    # RFC 9112 section 3.2.2 lets the target win over `Host`; a proxy in front may have decided by either.
    if not _AUTHORITY.fullmatch(named) or any(host.lower().removesuffix(port) != named for host in hosts):
        raise Malformed("the request target and `Host` name different hosts")


def _content_length(lengths: list[bytes], encodings: list[bytes], version: str) -> int | None:
    if not encodings:
        if not lengths:
            return 0
        if len(lengths) > 1 or not lengths[0].isdigit():
            raise Malformed("`Content-Length` must be one number")
        return int(lengths[0])
    if lengths or version == "1.0" or len(encodings) > 1 or encodings[0].lower() != b"chunked":
        raise Malformed("`Transfer-Encoding` must be `chunked`, in HTTP/1.1, and without `Content-Length`")
    return None

"""The WebSocket handshake that nearly every client sends, from the fields that the HTTP parser has read."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_FIELDS = 64
MAX_VALUE = 8192  # bytes of the target, and of each value

# All that browsers and client libraries send, in lower case.
_CONNECTION = frozenset({b"upgrade", b"keep-alive, upgrade", b"keep-alive,upgrade", b"upgrade, keep-alive"})
_ONCE = frozenset(
    {b"connection", b"origin", b"sec-websocket-key", b"sec-websocket-version", b"upgrade", b"host"}
)
_NEVER = frozenset({b"content-length", b"transfer-encoding"})
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_PRINTABLE = re.compile(rb"[!-~](?:[ -~]*[!-~])?|")
_TOKENS = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+(?:, ?[-!#$%&'*+.^_`|~0-9A-Za-z]+)*")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class Upgrade(NamedTuple):
    """A handshake that is valid, without anything unusual.

    Args:
        accept: `Sec-WebSocket-Accept`.
        subprotocols: What the client offers, in its order.
    """

    accept: bytes
    subprotocols: list[str]


def read_upgrade(target: bytes, fields: Sequence[tuple[bytes, bytes]]) -> Upgrade | None:
    """Read a handshake that `request_head.framing` has taken for one.

    Args:
        target: The request target as sent.
        fields: With names in lower case.

    Returns:
        None if it is unusual in any way: the WebSocket library reads it then, and says what is wrong.
    """
    usual = len(fields) <= MAX_FIELDS and len(target) <= MAX_VALUE and target[:1] == b"/" and target.isascii()
    if not usual:
        return None
    once: dict[bytes, bytes] = {}
    subprotocols: list[str] = []
    for name, value in fields:
        if len(value) > MAX_VALUE or not _PRINTABLE.fullmatch(value) or name in _NEVER:
            return None
        if name in _ONCE:
            if name in once:
                return None
            once[name] = value
        elif name == b"sec-websocket-protocol":
            if not _TOKENS.fullmatch(value):
                return None
            subprotocols += [word.strip() for word in value.decode("ascii").split(",")]
    key = once.get(b"sec-websocket-key", b"")
    if (
        once.get(b"connection", b"").lower() not in _CONNECTION
        or once.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key)
    ):
        return None
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    return Upgrade(accept, subprotocols)

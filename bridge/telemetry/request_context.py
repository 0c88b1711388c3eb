"""The request being served, as a context variable: adds request id, trace and caller to its log lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

REQUEST_ID = b"x-request-id"
TRACEPARENT = b"traceparent"

_SANE_ID = re.compile(rb"[A-Za-z0-9._~:+/=-]{1,64}")
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    rb"(?P<more>-.*)?"
)
_MAX_TRACEPARENT = 512
_SAMPLED = 1


class Trace(NamedTuple):
    """The position of a caller in its own trace (W3C Trace Context).

    Args:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        sampled: Whether the caller records the trace.
    """

    trace_id: str
    span_id: str
    sampled: bool


@dataclass(slots=True)
class RequestContext:
    """One request, or the connection it became.

    Args:
        trace: The client's own trace; None if it sent none.
        caller: The authenticated caller; a name, never a credential.
        token_id: The id of its token; None without one. Never logged.
        address: The address of the client, as limits count it.
        shared: Whether that address is that of a proxy missing from the configuration.
        create_sent: Whether a create was sent to a provider for it: a repeat could create a second task.
    """

    request_id: str
    trace: Trace | None = None
    caller: str | None = None
    address: str | None = None
    token_id: str | None = None
    create_sent: bool = False
    shared: bool = False


_current: ContextVar[RequestContext | None] = ContextVar("bridge_request", default=None)


def bind(headers: Iterable[tuple[bytes, bytes]]) -> RequestContext:
    """Attach this asyncio task, and the tasks it creates, to the request with these headers.

    Args:
        headers: As in ASGI, with names in lower case.
    """
    # A repeated header becomes empty, and so invalid: it is unclear which of the values counts.
    request_id: bytes | None = None
    trace: bytes | None = None
    for name, value in headers:
        if name == REQUEST_ID:
            request_id = value if request_id is None else b""
        elif name == TRACEPARENT:
            trace = value if trace is None else b""
    # The client's own id is used only if it is safe in a log line and in a response header.
    if request_id is None or not _SANE_ID.fullmatch(request_id):
        request_id = os.urandom(8).hex().encode()
    request = RequestContext(
        request_id.decode(),
        None if trace is None else parse_traceparent(trace),
    )
    _current.set(request)
    return request


def current_request() -> RequestContext | None:
    """The request being served by this asyncio task; None outside of one."""
    return _current.get()


def detach_from_request() -> None:
    """Detach this asyncio task from the request that created it.

    For tasks that outlive that request, because a task inherits its creator's context variables.
    """
    _current.set(None)


def name_caller(name: str, token_id: str | None = None) -> None:
    """Set the caller of the current request, and the id of its token."""
    request = _current.get()
    if request is not None:
        request.caller, request.token_id = name, token_id


def parse_traceparent(value: bytes) -> Trace | None:
    """The trace that a `traceparent` header names; None if the header is invalid.

    Of an unknown version, the fields of version 00 are read, as W3C Trace Context section 3.2 requires.
    """
    match = _TRACEPARENT.fullmatch(value) if len(value) <= _MAX_TRACEPARENT else None
    if match is None or (value.startswith(b"00") and match["more"] is not None):
        return None
    sampled = bool(int(match["flags"], 16) & _SAMPLED)
    return Trace(match["trace"].decode(), match["span"].decode(), sampled)

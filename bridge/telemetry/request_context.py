"""The request being served: what every line of the log that comes of it says of it."""

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
    """A place in somebody's trace (W3C Trace Context).

    Args:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        sampled: Whether they record it.
    """

    trace_id: str
    span_id: str
    sampled: bool


@dataclass(slots=True)
class RequestContext:
    """One request, or the connection that came of it.

    Args:
        trace: Where the client's own trace stands; None when it sent none.
        caller: Who it is, once that is known; a name, never a credential.
    """

    request_id: str
    trace: Trace | None = None
    caller: str | None = None


_current: ContextVar[RequestContext | None] = ContextVar("bridge_visit", default=None)


def bind(headers: Iterable[tuple[bytes, bytes]]) -> RequestContext:
    """From here on, everything this asyncio task does is done for this request.

    Args:
        headers: As ASGI has them, names in lower case.
    """
    given: bytes | None = None
    trace: bytes | None = None
    for name, value in headers:
        if name == REQUEST_ID:
            given = value if given is None else b""
        elif name == TRACEPARENT:
            trace = value if trace is None else b""
    visit = RequestContext(_request_id(given), None if trace is None else parse_traceparent(trace))
    _current.set(visit)
    return visit


def current_request() -> RequestContext | None:
    """The request that is being served here; None where nobody asked."""
    return _current.get()


def detach_from_request() -> None:
    """From here on, what this asyncio task does is done for nobody in particular.

    For what outlives the request that began it: a task inherits whose request it was begun in.
    """
    _current.set(None)


def name_caller(name: str) -> None:
    """Say whose request is being served."""
    visit = _current.get()
    if visit is not None:
        visit.caller = name


def parse_traceparent(value: bytes) -> Trace | None:
    """The place a `traceparent` header names; None for whatever the standard does not allow.

    Of a version we do not know we read what version 00 has, as the standard asks.
    """
    found = _TRACEPARENT.fullmatch(value) if len(value) <= _MAX_TRACEPARENT else None
    if found is None or (value.startswith(b"00") and found["more"] is not None):
        return None
    sampled = bool(int(found["flags"], 16) & _SAMPLED)
    return Trace(found["trace"].decode(), found["span"].decode(), sampled)


def _request_id(given: bytes | None) -> str:
    """The client's own where it can stand in a log and a header; else a new one."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given.decode()
    return os.urandom(8).hex()

"""What can go wrong between the client and a bridge, and the bridge's own refusals made ours again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from bridge.errors import (
    BridgeError,
    Conflict,
    Forbidden,
    InvalidRequest,
    JournalError,
    LimitExceeded,
    MethodNotAllowed,
    Overloaded,
    RequestError,
    TooLarge,
    Unauthenticated,
    UnknownRoute,
    UnknownTask,
    UnknownUpstream,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SENTENCE = 500
MAX_RETRY_AFTER = 300.0

_CLASSES: tuple[type[BridgeError], ...] = (
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    UnknownTask,
    UnknownUpstream,
    UnknownRoute,
    MethodNotAllowed,
    Conflict,
    TooLarge,
    LimitExceeded,
    UpstreamUnavailable,
    UpstreamTimeout,
    UpstreamRefused,
    JournalError,
    Overloaded,
)
_BY_CODE = {cls.code: cls for cls in _CLASSES}
# A bare status comes from something that is no bridge, such as a proxy: a bare 404 says nothing of a task.
_BY_STATUS: dict[int, type[BridgeError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: UnknownRoute,
    405: MethodNotAllowed,
    409: Conflict,
    413: TooLarge,
    429: LimitExceeded,
    504: UpstreamTimeout,
}
_RETRIABLE = frozenset({408, 425, 429})
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class BridgeUnreachable(BridgeError):
    """The bridge cannot be reached."""

    code = "bridge_unreachable"
    status = 503
    retryable = True


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, secret: str | None = None
) -> BridgeError:
    """The error an answer stands for, with the bridge's own code and sentence.

    Args:
        secret: Text that must not come back in the sentence, should something echo our headers.
    """
    problem = _problem(body)
    code = problem.get("code")
    found = _BY_CODE.get(code) if isinstance(code, str) else None
    cls = found or _BY_STATUS.get(status) or (UpstreamUnavailable if status >= 500 else InvalidRequest)
    sentence = problem.get("detail") or problem.get("title")
    if not isinstance(sentence, str):
        sentence = f"the bridge, or something in front of it, answered {status}"
    if secret:
        sentence = sentence.replace(secret, "***")
    error = cls(sentence[:MAX_SENTENCE], retry_after=retry_after(headers))
    error.status = status
    if isinstance(code, str) and _CODE.fullmatch(code):
        error.code = code
    error.retryable = _worth_retrying(status, headers, error, known=found is not None)
    return error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait an answer asks for in seconds, bounded; dates are not understood."""
    text = headers.get("Retry-After", "").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return min(float(text), MAX_RETRY_AFTER)


def _worth_retrying(status: int, headers: Mapping[str, str], error: BridgeError, *, known: bool) -> bool:
    if headers.get("x-should-retry", "").strip().lower() == "false":
        return False
    if known and not isinstance(error, RequestError):
        return error.retryable
    return status >= 500 or status in _RETRIABLE


def _problem(body: bytes) -> dict[str, object]:
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}

"""Errors of the client: an unreachable bridge, a task without a result, and problem documents mapped back to
`bridge.errors`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from bridge.core.task import Status
from bridge.errors import (
    BridgeError,
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InvalidRequest,
    JournalError,
    LimitExceeded,
    MethodNotAllowed,
    Overloaded,
    RequestError,
    TaskMayExist,
    TooLarge,
    Unauthenticated,
    UnknownOutput,
    UnknownRoute,
    UnknownTask,
    UnknownUpstream,
    UnknownWebhook,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bridge.client.state import TaskState

MAX_MESSAGE = 500
MAX_RETRY_AFTER = 300.0

_CLASSES: tuple[type[BridgeError], ...] = (
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    UnknownTask,
    UnknownUpstream,
    UnknownWebhook,
    UnknownOutput,
    UnknownRoute,
    MethodNotAllowed,
    Conflict,
    TooLarge,
    IdempotencyMismatch,
    LimitExceeded,
    UpstreamUnavailable,
    UpstreamTimeout,
    UpstreamRefused,
    TaskMayExist,
    JournalError,
    Overloaded,
)
_BY_CODE = {cls.code: cls for cls in _CLASSES}
# A status without a problem document comes from something else, such as a proxy: its 404 is not about a task.
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


class UntrustedBridge(BridgeUnreachable):
    """The certificate of the bridge cannot be verified. Not retried: that changes only by hand."""

    code = "bridge_untrusted"
    retryable = False


class TaskFailed(Exception):
    """The task ended without a result. Not a `BridgeError`: the bridge works.

    Attributes:
        state: The final state: `failed`, `cancelled` or `lost`.
    """

    def __init__(self, state: TaskState) -> None:
        self.state = state
        error = state.error or {}
        details = [str(detail) for detail in (error.get("message"), error.get("code")) if detail]
        ended = state.status if state.status is Status.FAILED else f"was {state.status}"
        super().__init__(": ".join([f"{state.task} {ended}", *details])[:MAX_MESSAGE])

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[TaskState]]:
        """Task queues send exceptions to other processes."""
        return TaskFailed, (self.state,)


class ResultTimeout(BridgeError, TimeoutError):
    """The task is not final yet; it still runs, and can be waited for again.

    Attributes:
        state: The newest state; None if none arrived.
    """

    code = "result_timeout"
    status = 504
    retryable = True

    def __init__(self, message: str = "", *, state: TaskState | None = None) -> None:
        super().__init__(message)
        self.state = state


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, secret: str | None = None
) -> BridgeError:
    """Map an error response to an exception with the bridge's own code and message.

    Args:
        secret: Text to remove from the message, in case a proxy echoes our headers.
    """
    problem = _problem(body)
    code = problem.get("code")
    known = _BY_CODE.get(code) if isinstance(code, str) else None
    cls = known or _BY_STATUS.get(status) or (UpstreamUnavailable if status >= 500 else InvalidRequest)
    message = problem.get("detail") or problem.get("title")
    if not isinstance(message, str):
        message = f"the bridge, or a proxy in front of it, returned HTTP {status}"
    if secret:
        message = message.replace(secret, "***")
    error = cls(message[:MAX_MESSAGE], retry_after=retry_after(headers))
    error.status = status
    if isinstance(code, str) and _CODE.fullmatch(code):
        error.code = code
    error.retryable = _is_retryable(status, headers, error, known=known is not None)
    return error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return `Retry-After` in seconds, bounded; None for dates, which are not supported."""
    text = headers.get("Retry-After", "").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return min(float(text), MAX_RETRY_AFTER)


def _is_retryable(status: int, headers: Mapping[str, str], error: BridgeError, *, known: bool) -> bool:
    advice = headers.get("x-should-retry", "").strip().lower()
    if advice in ("true", "false"):
        return advice == "true"
    if known and not isinstance(error, RequestError):
        return error.retryable
    return status >= 500 or status in _RETRIABLE


def _problem(body: bytes) -> dict[str, object]:
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}

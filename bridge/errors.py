"""Every error of the bridge, and its response over HTTP.

BridgeError
├── ConfigError              at start only; holds every error found
├── Reported                 what has the provider's status and code: Conflict, UpstreamError
├── RequestError             the caller's fault
│   ├── InvalidRequest 400 · Unauthenticated 401 · Forbidden 403
│   ├── UnknownTask 404 · UnknownUpstream 404 · UnknownWebhook 404 · UnknownOutput 404
│   ├── UnknownRoute 404 · MethodNotAllowed 405
│   ├── Conflict 409 · TooLarge 413 · IdempotencyMismatch 422 · LimitExceeded 429
│   │   └── SubmitInFlight 409    the first request with an Idempotency-Key is not answered yet
├── UpstreamError            the provider, or the network on the way to it
│   ├── UpstreamUnavailable 503   connection refused or reset, 5xx: retried
│   │   └── UpstreamUnreachable   no connection was made, so the provider has seen nothing of the request
│   ├── UpstreamTimeout 504
│   ├── UpstreamBusy 503          the provider is rate limiting us (429, or 503 with Retry-After)
│   ├── UpstreamRefused 502       our request is wrong; a retry would fail again
│   ├── TaskMayExist 502          a submit whose outcome is unknown is repeated with its Idempotency-Key
│   ├── CredentialRefused 502     our credential is rejected (401, 402, 403)
│   ├── TaskNotFound 404          the provider does not know this task, or hides it from our credential
│   ├── UnreadablePayload 503     the dialect does not understand the response
│   ├── ResultNotReady 503        the result call says that the result is not ready yet
│   └── ResultUnavailable 503     a completed task, and the call for its result brought none
├── JournalError 503
│   ├── EngineUnavailable         the engine that several bridges share gives no answer
│   │   └── EngineRefused         it answers with an error, such as being full
│   ├── NotOwner                  another process polls this task: what was seen here is not recorded
│   └── Superseded                a newer state is recorded: what was seen has to be merged with that one
└── Overloaded 503           this bridge is draining or full

The docstring of a class is the message of an error raised without one, and the text in the API documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class BridgeError(Exception):
    """An error with a stable code.

    Attributes:
        code: Stable slug, part of the contract (`application/problem+json`).
        status: HTTP status of the response.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds to wait before a retry, where they are known.
    """

    code = "internal_error"
    status = 500
    retryable = False

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message or self.__class__.__doc__ or self.code)
        self.retry_after = retry_after


class ConfigError(BridgeError):
    """The configuration is invalid.

    Attributes:
        errors: One sentence per error.
        warnings: What works today and stops working in the next release, such as the old name of a setting.
        unreadable: Whether the error is the file, so that its settings are unknown.
    """

    code = "invalid_config"

    def __init__(self, errors: list[str], warnings: Sequence[str] = (), *, unreadable: bool = False) -> None:
        self.errors = errors
        self.unreadable = unreadable
        self.warnings = tuple(warnings)
        count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
        lines = [f"Configuration error: {count}"]
        lines += [f"  - {error}" for error in errors]
        lines += [f"warning: {warning}" for warning in warnings]
        super().__init__("\n".join(lines))


class RequestError(BridgeError):
    """The request is at fault, not the bridge or the provider."""

    code = "invalid_request"
    status = 400


class InvalidRequest(RequestError):
    """The request is malformed."""


class Unauthenticated(RequestError):
    """The request has no valid credential."""

    code = "unauthenticated"
    status = 401


class Forbidden(RequestError):
    """The credential does not authorize this request."""

    code = "forbidden"
    status = 403


class UnknownTask(RequestError):
    """No such task."""

    code = "task_not_found"
    status = 404


class UnknownUpstream(RequestError):
    """No upstream of that name is configured."""

    code = "upstream_not_found"
    status = 404


class UnknownOutput(RequestError):
    """The task has no such output."""

    code = "output_not_found"
    status = 404


class UnknownWebhook(RequestError):
    """No such webhook."""

    code = "webhook_not_found"
    status = 404


class UnknownRoute(RequestError):
    """No such route."""

    code = "route_not_found"
    status = 404


class MethodNotAllowed(RequestError):
    """Method not allowed."""

    code = "method_not_allowed"
    status = 405


class Reported(BridgeError):
    """The provider, or the bridge on its behalf, reported an error.

    Attributes:
        provider_status: HTTP status of the provider's response, if there was one.
        provider_code: The provider's own error code, verbatim.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        provider_status: int | None = None,
        provider_code: str | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.provider_status = provider_status
        self.provider_code = provider_code


class Conflict(Reported, RequestError):
    """The request conflicts with the current state."""

    code = "conflict"
    status = 409


class SubmitInFlight(Conflict):
    """The first request with this Idempotency-Key has not been answered yet."""

    retryable = True

    def __init__(self) -> None:
        super().__init__(retry_after=1.0)


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key was used for another request; send another key with it."""

    code = "idempotency_mismatch"
    status = 422


class TooLarge(RequestError):
    """The request is too large."""

    code = "too_large"
    status = 413


class LimitExceeded(RequestError):
    """Too many requests."""

    code = "too_many_requests"
    status = 429
    retryable = True


class SpendLimitExceeded(LimitExceeded):
    """The caller has spent what it may spend today."""


class UpstreamError(Reported):
    """The provider, or the connection to it, failed.

    Attributes:
        about_task: Whether the failure is about this task alone, and the provider works: such an error slows
            down the polls of this task only.
        may_exist: Of a submit: whether an earlier attempt may have created the task.
    """

    code = "upstream_unavailable"
    status = 503
    retryable = True
    outcome = "error"
    about_task = False
    may_exist = False


class UpstreamUnavailable(UpstreamError):
    """The provider cannot be reached or is failing."""

    @property
    def about_task(self) -> bool:  # type: ignore[override] # decided by the response here
        """A redirect, a 409, a body that breaks after a 200: the provider answers, if not about this task."""
        return self.provider_status is not None and self.provider_status < 500


class UpstreamUnreachable(UpstreamUnavailable):
    """The provider cannot be reached; no request was sent."""


TIMEOUT_SENTENCE = "the upstream did not respond in time"
"""Of a poll: another bridge that receives the notice knows by it that it was a timeout."""


class UpstreamTimeout(UpstreamError):
    """The provider did not respond in time."""

    code = "upstream_timeout"
    status = 504
    outcome = "timeout"


class UpstreamBusy(UpstreamError):
    """The provider is rate limiting the bridge (429, or 503 with Retry-After)."""

    outcome = "busy"


class UpstreamRefused(UpstreamError):
    """The provider rejected the request; a retry would be rejected too."""

    code = "upstream_refused"
    status = 502
    retryable = False
    outcome = "refused"
    about_task = True


class TaskMayExist(UpstreamError):
    """The task of this Idempotency-Key may exist; check at the provider before you use another key."""

    code = "task_may_exist"
    status = 502
    retryable = False


class CredentialRefused(UpstreamRefused):
    """The provider rejected the API key.

    Attributes:
        names_key: Whether the dialect maps the provider's code, sentence or HTTP status to the credential.
            A 402 or 403 without that may be about one task.
        key_name: Names the key in a sentence; whose key it is.
    """

    names_key = False
    key_name = "the API key this task is polled with"
    about_task = False


class TaskNotFound(UpstreamError):
    """The provider does not know this task."""

    code = "task_not_found"
    status = 404
    retryable = False
    outcome = "not_found"
    about_task = True


class UnreadablePayload(UpstreamError):
    """The provider's response cannot be read."""

    outcome = "unreadable"
    about_task = True


class ResultNotReady(UpstreamError):
    """The provider's result is not ready yet."""

    about_task = True


class ResultFailure(StrEnum):
    """Why the call for the result of a completed task brought none."""

    NOT_READY = "not_ready"
    REFUSED = "refused"
    MISSING = "missing"
    UNAVAILABLE = "unavailable"


class ResultUnavailable(UpstreamError):
    """The provider says that the task is completed, and the call for its result brought none.

    Attributes:
        kind: Why: what the bridge does next depends on it.
    """

    about_task = True

    def __init__(self, cause: UpstreamError) -> None:
        super().__init__(
            str(cause),
            retry_after=cause.retry_after,
            provider_status=cause.provider_status,
            provider_code=cause.provider_code,
        )
        self.kind = _failure_of_result(cause)


def _failure_of_result(cause: UpstreamError) -> ResultFailure:
    if isinstance(cause, ResultNotReady):
        return ResultFailure.NOT_READY
    if isinstance(cause, TaskNotFound):
        return ResultFailure.MISSING
    # An answer without a link counts as a refusal: the provider was asked, and hands nothing out.
    refused = isinstance(cause, UpstreamRefused | UnreadablePayload)
    return ResultFailure.REFUSED if refused else ResultFailure.UNAVAILABLE


class JournalError(BridgeError):
    """The journal cannot be read or written."""

    code = "journal_unavailable"
    status = 503
    retryable = True


class EngineUnavailable(JournalError):
    """The engine that this bridge shares with others gives no answer.

    Attributes:
        lasting: Whether it cannot be used as it is, whenever it is asked: another version, a wrong password.
    """

    lasting = False


class EngineRefused(EngineUnavailable):
    """The engine that this bridge shares with others answers with an error, such as being full."""


class NotOwner(JournalError):
    """Another process polls this task."""


class Superseded(JournalError):
    """A newer state of this task is recorded."""


class Overloaded(BridgeError):
    """The bridge is draining or full and accepts no new work."""

    code = "over_capacity"
    status = 503
    retryable = True


def without_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error that is kept: their frames hold all that was read, up to 32 MB."""
    known: BaseException | None = error
    while known is not None and known.__traceback__ is not None:
        known.__traceback__ = None
        known = known.__cause__ or known.__context__

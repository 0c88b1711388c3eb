"""Every error the bridge speaks of, whose fault it is, and what the outside is told.

BridgeError
├── ConfigError              start-up only; carries every mistake found
├── RequestError             the caller's mistake
│   ├── InvalidRequest 400 · Unauthenticated 401 · Forbidden 403
│   ├── UnknownTask 404 · UnknownUpstream 404 · UnknownRoute 404 · MethodNotAllowed 405
│   ├── Conflict 409 · TooLarge 413 · LimitExceeded 429
├── UpstreamError            the provider, or the way to it
│   ├── UpstreamUnavailable 503   refused, reset, 5xx: worth another look
│   │   └── UpstreamUnreachable   no connection came about: nothing was asked
│   ├── UpstreamTimeout 504
│   ├── UpstreamBusy 503          the provider asks for patience (429, 503 with Retry-After)
│   ├── UpstreamRefused 502       our request is wrong and will stay wrong
│   ├── CredentialRefused 502     our credential is refused (401, 402, 403)
│   ├── TaskNotFound 404          the provider does not show this task
│   └── UnreadablePayload 503     the dialect did not understand the answer
├── JournalError 503
└── Overloaded 503           this bridge is draining or full
"""

from __future__ import annotations


class BridgeError(Exception):
    """Something the bridge can name.

    Attributes:
        code: Stable slug, part of the contract (`application/problem+json`).
        status: The HTTP status it is answered with.
        retryable: Whether the same attempt may succeed later.
        retry_after: Seconds the other side asked us to wait, where it said so.
    """

    code = "internal_error"
    status = 500
    retryable = False

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message or self.__class__.__doc__ or self.code)
        self.retry_after = retry_after


class ConfigError(BridgeError):
    """The configuration has mistakes."""

    code = "invalid_config"

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        lines = "\n".join(f"  - {mistake}" for mistake in mistakes)
        super().__init__(f"{len(mistakes)} mistake(s) in the configuration:\n{lines}")


class RequestError(BridgeError):
    """The caller's mistake."""

    code = "invalid_request"
    status = 400


class InvalidRequest(RequestError):
    """The request cannot be understood."""


class Unauthenticated(RequestError):
    """No valid credential came with the request."""

    code = "unauthenticated"
    status = 401


class Forbidden(RequestError):
    """The credential does not allow this."""

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


class UnknownRoute(RequestError):
    """Nothing lives at this path."""

    code = "route_not_found"
    status = 404


class MethodNotAllowed(RequestError):
    """This path does not take that method."""

    code = "method_not_allowed"
    status = 405


class Conflict(RequestError):
    """The request contradicts what is already there.

    Attributes:
        provider_status: HTTP status of the provider's answer, if it was the provider that said so.
        provider_code: The provider's own error code, verbatim.
    """

    code = "conflict"
    status = 409

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


class TooLarge(RequestError):
    """The request is larger than the bridge reads."""

    code = "too_large"
    status = 413


class LimitExceeded(RequestError):
    """Too many requests."""

    code = "too_many_requests"
    status = 429
    retryable = True


class UpstreamError(BridgeError):
    """The provider, or the way to it, failed.

    Attributes:
        provider_status: HTTP status of the provider's answer, if there was one.
        provider_code: The provider's own error code, verbatim.
    """

    code = "upstream_unavailable"
    status = 503
    retryable = True
    outcome = "error"

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


class UpstreamUnavailable(UpstreamError):
    """The provider cannot be reached or does not work."""


class UpstreamUnreachable(UpstreamUnavailable):
    """The provider cannot be reached: nothing was asked."""


class UpstreamTimeout(UpstreamError):
    """The provider did not answer in time."""

    code = "upstream_timeout"
    status = 504
    outcome = "timeout"


class UpstreamBusy(UpstreamError):
    """The provider asks for patience."""

    outcome = "busy"


class UpstreamRefused(UpstreamError):
    """The provider refuses this request and will go on refusing it."""

    code = "upstream_refused"
    status = 502
    retryable = False
    outcome = "refused"


class CredentialRefused(UpstreamRefused):
    """The provider refuses our credential."""


class TaskNotFound(UpstreamError):
    """The provider does not show this task."""

    code = "task_not_found"
    status = 404
    retryable = False
    outcome = "not_found"


class UnreadablePayload(UpstreamError):
    """The provider's answer cannot be understood."""

    outcome = "unreadable"


class JournalError(BridgeError):
    """The journal cannot be read or written."""

    code = "journal_unavailable"
    status = 503
    retryable = True


class Overloaded(BridgeError):
    """This bridge takes no new work just now."""

    code = "over_capacity"
    status = 503
    retryable = True

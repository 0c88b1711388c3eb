"""What every dialect is to the rest of the program: requests to make, answers to read, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bridge.core.task import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call to the provider, without its credential.

    Args:
        path: Relative to the base URL, begins with `/`, percent-encoded, may hold a query. Send it as it is:
            decoding `%2F` on the way would turn one task id into another path.
        base_url: Where the call goes when that is not the dialect's own base URL.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    base_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a caller wants submitted.

    Args:
        body: Goes to the provider unchanged.
        content_type: Of the body; None for JSON.
        options: Values for the templates of the submit call, such as an endpoint: the query parameters of the
            caller's request.
    """

    body: bytes
    content_type: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyMatch:
    """What a request to one of the provider's own paths asks for.

    Args:
        call: `status`, `alias`, `stream`, `submit`, `sync` or `cancel`.
        task_id: The task it is about, but for `alias`, `submit` and `sync`.
        alias: The client's own id, for `alias`.
        options: The values for a submit's templates, for `submit` and `sync`.
    """

    call: str
    task_id: str | None = None
    alias: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What the provider answered; header names are lower-case, the body is bounded and decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# Code outside this project imports it by its old name.
Answer = HttpResponse


@dataclass(frozen=True, slots=True)
class PollAdvice:
    """How often the provider wants to be asked.

    Args:
        follows_estimate: The provider's `estimated_seconds` should pace the polling.
        deadline_seconds: After this long without an end the task is given up, where the provider says so.
    """

    min_seconds: float
    max_seconds: float
    recommended_seconds: float
    follows_estimate: bool
    deadline_seconds: float | None


@dataclass(frozen=True, slots=True)
class StatusReading:
    """What one status call showed.

    Args:
        follow: A further call is needed for the result; feed its answer to `read_follow_up`.
    """

    observation: Observation
    follow: Request | None


@dataclass(frozen=True, slots=True)
class Callback:
    """What a provider's callback asks of us; never what it claims.

    Args:
        task_id: The task to look at now, None when the body names none.
        reply: JSON body to answer with.
        challenge: The provider only checks that somebody is here.
    """

    task_id: str | None
    reply: bytes | None
    challenge: bool

"""What a dialect takes and returns: requests to make, responses to read, in our own terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bridge.core.task import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call to the provider, without its credential.

    Args:
        path: Relative to the base URL, begins with `/`, percent-encoded, may contain a query. Send it
            unchanged: decoding `%2F` on the way would turn one task id into another path.
        base_url: Where the call goes when that is not the dialect's own base URL.
        creates: Whether it creates a task: that may take long, and gets a connection of its own.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    base_url: str | None = None
    creates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a client wants to submit.

    Args:
        body: Sent to the provider unchanged.
        content_type: Of the body; None for JSON.
        options: Values for the templates of the submit call, such as an endpoint: the query parameters of the
            client's request.
        headers: Further headers of the client's request that the provider gets, by their lower-case names.
    """

    body: bytes
    content_type: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyMatch:
    """The call that a request to one of the provider's own paths makes.

    Args:
        call: `status`, `alias`, `stream`, `follow_up`, `file`, `submit`, `sync` or `cancel`.
        task_id: The task; None for `alias`, `submit` and `sync`, and for a `follow_up` or `file` that names
            a file.
        alias: The client's own id, for `alias`, and for a call that names the task by it.
        options: The values for the templates of a submit, for `submit` and `sync`; those that the call
            needs besides the task's id, for `follow_up` and `file`.
    """

    call: str
    task_id: str | None = None
    alias: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response of the provider; header names are lower-case, the body is bounded and decompressed.

    Args:
        url: The address that was asked, against which relative links are resolved; empty if unknown.
        on_lenient: Called when only a lenient reading could read the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""
    on_lenient: Callable[[], None] | None = field(default=None, repr=False, compare=False)


Answer = HttpResponse  # the name by which code outside this project imports it


@dataclass(frozen=True, slots=True)
class PollAdvice:
    """How often the provider wants to be polled, in seconds.

    Args:
        usual_seconds: The even interval for tasks whose ends have no pattern; the longer `max_seconds` is for
            moments at which tasks that are known better never end.
        deadline_seconds: After this long the provider itself gives a task up: the default deadline of its
            tasks. None where the provider has none.
    """

    min_seconds: float
    max_seconds: float
    recommended_seconds: float
    usual_seconds: float
    deadline_seconds: float | None


@dataclass(frozen=True, slots=True)
class StatusReading:
    """What one status call returned.

    Args:
        follow: A further call that is needed for the result; give its response to `read_follow_up`.
    """

    observation: Observation
    follow: Request | None


@dataclass(frozen=True, slots=True)
class Callback:
    """What to do about a provider's callback. Its claims about the task are not read.

    Args:
        task_id: The task to poll now, None when the body names none.
        reply: JSON body of the response.
        challenge: The provider only verifies that the address is ours.
    """

    task_id: str | None
    reply: bytes | None
    challenge: bool

"""What every dialect is to the rest of the program: requests to make, answers to read, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bridge.core.task import Observation
from bridge.dialects.hosts import Hosts
from bridge.dialects.signature import Signature


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


class Dialect(Protocol):
    """How one kind of provider speaks."""

    @property
    def name(self) -> str:
        """Name of the preset or document."""

    @property
    def base_url(self) -> str:
        """Where the provider lives, without a slash at the end."""

    @property
    def hosts(self) -> Hosts:
        """The hosts that may be called, and that may see the credential."""

    @property
    def poll(self) -> PollAdvice:
        """How often to ask."""

    @property
    def auth_hook(self) -> str | None:
        """Name of the code that makes the credential where no template can."""

    @property
    def callback_signature(self) -> Signature | None:
        """How callbacks are signed; None where they are not."""

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """Headers that carry the credential."""

    def status_request(self, task_id: str) -> Request:
        """The call that shows a task.

        Raises:
            InvalidRequest: The id cannot be one of this provider's.
        """

    def read_status(self, answer: HttpResponse, task_id: str | None = None) -> StatusReading:
        """What a status call showed; `task_id` is the id that was asked for.

        Raises:
            UpstreamError: TaskNotFound, CredentialRefused, UpstreamRefused, UpstreamBusy,
                UpstreamUnavailable or UnreadablePayload.
        """

    def read_follow_up(self, observation: Observation, answer: HttpResponse) -> Observation:
        """The observation with what the follow-up call added. Raises what `read_status` raises."""

    def alias_request(self, alias: str) -> Request | None:
        """The call that finds a task by the client's own id; None where the provider has none."""

    def stream_request(self, task_id: str) -> Request | None:
        """The call that opens the provider's own event stream; None where it has none."""

    def submit_request(self, submission: Submission) -> Request | None:
        """The call that creates a task; None where the provider has none.

        Raises:
            InvalidRequest: An option is missing, malformed or unknown.
        """

    def read_submitted(self, answer: HttpResponse, submission: Submission) -> Observation:
        """What the answer to a submit showed; `task_id` is always set and is the id the bridge uses.

        Raises:
            UpstreamError: What `read_status` raises, but never TaskNotFound: a create that is not found or
                in conflict is UpstreamRefused.
        """

    def client_id(self, submission: Submission) -> str | None:
        """The caller's own id in the body, by which `alias_request` finds the task."""

    def with_callback(self, submission: Submission, url: str) -> Submission:
        """The submission with a callback address, unless it has one or the provider takes none."""

    def cancel_request(self, task_id: str) -> Request | None:
        """The call that cancels a task; None where the provider has none."""

    def match(self, method: str, path: str, query: str, body: bytes | None) -> ProxyMatch | None:
        """Which call a request is that came under the provider's own path; None when it is none.

        Args:
            path: What follows the provider's host, still encoded.
            query: What follows the question mark, still encoded.

        Raises:
            InvalidRequest: The path is a call's, but the query or the body is not.
        """

    def documented(self, path: str) -> str:
        """The path of a request of this dialect with what the provider's own address has before it."""

    def read_stream_event(self, name: str | None, data: str) -> Observation | None:
        """What one server-sent event showed; None for heartbeats and for whatever is not about the task.

        Raises:
            UpstreamUnavailable: The stream itself reports an error.
            UnreadablePayload: It reports one that cannot be read.
        """

    def read_callback(self, body: bytes) -> Callback:
        """What a callback asks of us. Never raises: anybody can post anything."""

"""What every dialect is to the rest of the program: requests to make, answers to read, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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


@dataclass(frozen=True, slots=True)
class Answer:
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
class Look:
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
    def poll(self) -> PollAdvice:
        """How often to ask."""

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """Headers that carry the credential."""

    def status_request(self, task_id: str) -> Request:
        """The call that shows a task.

        Raises:
            InvalidRequest: The id cannot be one of this provider's.
        """

    def read_status(self, answer: Answer, task_id: str | None = None) -> Look:
        """What a status call showed; `task_id` is the id that was asked for.

        Raises:
            UpstreamError: TaskNotFound, CredentialRefused, UpstreamRefused, UpstreamBusy,
                UpstreamUnavailable or UnreadablePayload.
        """

    def read_follow_up(self, observation: Observation, answer: Answer) -> Observation:
        """The observation with what the follow-up call added. Raises what `read_status` raises."""

    def alias_request(self, alias: str) -> Request | None:
        """The call that finds a task by the client's own id; None where the provider has none."""

    def stream_request(self, task_id: str) -> Request | None:
        """The call that opens the provider's own event stream; None where it has none."""

    def submit_request(self, body: bytes) -> Request | None:
        """The call that creates a task; None where one path does not fit all models."""

    def cancel_request(self, task_id: str) -> Request | None:
        """The call that cancels a task; None where the provider has none."""

    def read_stream_event(self, name: str | None, data: str) -> Observation | None:
        """What one server-sent event showed; None for heartbeats and for whatever is not about the task.

        Raises:
            UpstreamUnavailable: The stream itself reports an error.
            UnreadablePayload: It reports one that cannot be read.
        """

    def read_callback(self, body: bytes) -> Callback:
        """What a callback asks of us. Never raises: anybody can post anything."""

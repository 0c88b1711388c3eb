"""What a bridge says, as values: the state of a task, and the notices beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import orjson

from bridge.core.task import Status
from bridge.errors import UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATUSES = {status.value: status for status in Status}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """The whole of what is known about a task at one moment.

    Args:
        task: The task ref, `upstream/task_id`.
        status: `unknown` also for a word this client is too old to know; the word itself is in `document`.
        progress: 0-100, as far as the provider tells.
        eta_seconds: Estimated time left; None when there is no ground for an estimate.
        outputs: One entry a result: `type`, `url`, `expires_at` and more.
        error: `code` and `message`, when the task failed.
        cursor: The place of this state in the journal; opaque.
        document: The state document as it came, every key of it.
    """

    task: str
    status: Status
    progress: float | None = None
    eta_seconds: float | None = None
    outputs: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None
    cursor: str | None = None
    document: dict[str, Any] = field(repr=False, compare=False)

    @property
    def final(self) -> bool:
        """Whether nothing more is expected of the task."""
        return self.status.final

    @classmethod
    def of(cls, document: object) -> Self:
        """Read a state document.

        Raises:
            UnreadablePayload: It is none.
        """
        if not isinstance(document, dict):
            raise UnreadablePayload("a state document is a JSON object")
        task, status = document.get("task"), document.get("status")
        if not isinstance(task, str) or not isinstance(status, str):
            raise UnreadablePayload("a state document says which task it is about and its status")
        outputs, error, cursor = document.get("outputs"), document.get("error"), document.get("cursor")
        return cls(
            task=task,
            status=_STATUSES.get(status, Status.UNKNOWN),
            progress=_number(document.get("progress")),
            eta_seconds=_number(document.get("eta_seconds")),
            outputs=tuple(o for o in outputs if isinstance(o, dict)) if isinstance(outputs, list) else (),
            error=error if isinstance(error, dict) else None,
            cursor=cursor if isinstance(cursor, str) else None,
            document=document,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNotice:
    """Something a viewer should know beside the states.

    Args:
        code: `stale`, `fresh`, `stalled`, `upstream_unavailable`, `credential_refused`, `links_expiring`,
            `task_not_found`, `closing`; and this client's own `reset` and `reconnecting`.
        task: Which task it is about; None when about the connection.
        reason: Why, for `closing` and `reset`.
    """

    code: str
    task: str | None = None
    retriable: bool = True
    message: str = ""
    reason: str | None = None

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Read a notice; what is missing or odd is left out, for a notice is never worth failing over."""
        code, task, reason = document.get("code"), document.get("task"), document.get("reason")
        return cls(
            code=code if isinstance(code, str) else "unknown",
            task=task if isinstance(task, str) else None,
            retriable=document.get("retriable") is not False,
            message=str(document.get("message") or ""),
            reason=reason if isinstance(reason, str) else None,
        )


def read_json(text: bytes | str) -> Any:  # JSON from outside
    """Parse JSON.

    Raises:
        UnreadablePayload: It is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnreadablePayload(f"what the bridge sent is not JSON: {error}") from None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None

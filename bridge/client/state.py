"""The messages of a bridge as values: the state of a task, and notices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import orjson

from bridge.client.eta import eta_words, moment
from bridge.core.task import Status, check_upstream_name
from bridge.errors import InvalidRequest, UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATUSES = {status.value: status for status in Status}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """Everything known about a task at one moment.

    Args:
        task: The task ref, `upstream/task_id`.
        status: Also `unknown` for a status newer than this client; the original is in `document`.
        progress: 0-100; None when the provider does not report it.
        eta_seconds: Time left until `eta_at` when this state was sent; None if it cannot be estimated, and
            once that moment has passed. `seconds_left` counts on.
        eta_at: When the task will probably be done (half of such tasks are), RFC 3339; None if it cannot be
            estimated. May lie in the past.
        eta_by: When it will nearly surely be done (nine of ten are).
        outputs: One entry per result: `type`, `url` (None when it cannot be fetched), `stored_url` (where the
            copy is: a URL, or a path of the bridge; None without one), `expires_at` and more.
        error: `code` and `message`, when the task failed.
        cursor: Position of this state in the journal; opaque.
        document: The complete state document as received.
    """

    task: str
    status: Status
    progress: float | None = None
    eta_seconds: float | None = None
    eta_at: str | None = None
    eta_by: str | None = None
    outputs: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None
    cursor: str | None = None
    document: dict[str, Any] = field(repr=False, compare=False)

    @property
    def final(self) -> bool:
        """Whether the task is finished."""
        return self.status.final

    def seconds_left(self, elapsed: float = 0.0) -> float | None:
        """Seconds until `eta_at`, less than 0 once it has passed; None if it cannot be estimated.

        Counted by the bridge's clock: that of this machine may be wrong.

        Args:
            elapsed: Seconds since this state arrived, by a monotonic clock.
        """
        if self.final:
            return None
        if self.eta_seconds is not None:
            return self.eta_seconds - elapsed
        at = moment(self.eta_at)
        if at is None:
            return None
        # It had passed when the state was sent, which was not before the provider confirmed it.
        observed = moment(self.document.get("observed_at"))
        return min(at - observed, 0.0) - elapsed if observed is not None else -elapsed

    def eta_text(self, elapsed: float = 0.0) -> str | None:
        """`about 40 s`; `should finish soon` after `eta_at`; `taking longer than usual` after `eta_by`.

        None if it cannot be estimated. Arguments as for `seconds_left`.
        """
        left = self.seconds_left(elapsed)
        if left is None:
            return None
        at, by = moment(self.eta_at), moment(self.eta_by)
        return eta_words(left, None if at is None or by is None else by - at)

    @classmethod
    def of(cls, document: object) -> Self:
        """Parse a state document.

        Raises:
            UnreadablePayload: `document` is not a state document.
        """
        if not isinstance(document, dict):
            raise UnreadablePayload("a state document must be a JSON object")
        task, status = document.get("task"), document.get("status")
        if not isinstance(task, str) or not isinstance(status, str):
            raise UnreadablePayload("a state document must have `task` and `status`")
        outputs, error, cursor = document.get("outputs"), document.get("error"), document.get("cursor")
        return cls(
            task=task,
            status=_STATUSES.get(status, Status.UNKNOWN),
            progress=_number(document.get("progress")),
            eta_seconds=_number(document.get("eta_seconds")),
            eta_at=_text(document.get("eta_at")),
            eta_by=_text(document.get("eta_by")),
            outputs=tuple(o for o in outputs if isinstance(o, dict)) if isinstance(outputs, list) else (),
            error=error if isinstance(error, dict) else None,
            cursor=_text(cursor),
            document=document,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNotice:
    """An out-of-band message beside the states.

    Args:
        code: `stale`, `fresh`, `stalled`, `upstream_unavailable`, `credential_refused`, `unknown_status`,
            `result_unavailable`, `raw_omitted`, `links_expiring`, `task_not_found`, `closing`, `group_done`;
            and this client's own `reset` and `reconnecting`.
        task: The task concerned; None for the connection.
        reason: The reason of `closing` and `reset`.
        group: Of `group_done`, the name of the group that is closed and final.
        counts: Of `group_done`, how many of its tasks ended how, such as `{"completed": 2, "failed": 1}`.
    """

    code: str
    task: str | None = None
    retriable: bool = True
    message: str = ""
    reason: str | None = None
    group: str | None = None
    counts: Mapping[str, int] | None = field(default=None, hash=False)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Parse a notice. Missing or malformed fields get defaults: a notice must never end a watch."""
        code, task, reason = document.get("code"), document.get("task"), document.get("reason")
        return cls(
            code=code if isinstance(code, str) else "unknown",
            task=task if isinstance(task, str) else None,
            retriable=document.get("retriable") is not False,
            message=str(document.get("message") or ""),
            reason=reason if isinstance(reason, str) else None,
        )

    @classmethod
    def of_group(cls, document: dict[str, Any]) -> Self:
        """Parse the event `group_done`. Malformed fields get defaults: it must end the watch."""
        return cls(
            code="group_done", group=_text(document.get("group")), counts=read_counts(document.get("counts"))
        )


Ref = str | tuple[str, str] | TaskState
"""How a task is named: its ref `upstream/task_id`, both parts of it as a tuple, or one of its states."""


def ref_of(name: Ref) -> str:
    """Return the ref of a task, unchecked.

    Raises:
        InvalidRequest: `name` is none of the three, such as a list of several.
    """
    if isinstance(name, TaskState):
        return name.task
    if isinstance(name, str):
        return name
    # No other sequence: a list of refs is not the two parts of one.
    if isinstance(name, tuple) and len(name) == 2 and all(isinstance(part, str) for part in name):
        upstream, task_id = name
        return f"{check_upstream_name(upstream)}/{task_id}"
    raise InvalidRequest("a task is named by its ref, upstream/task_id, or by both parts as a tuple")


def read_counts(document: object) -> dict[str, int]:
    """Numbers of tasks by status; anything else is left out."""
    fields = document if isinstance(document, dict) else {}
    return {name: number for name, number in fields.items() if type(number) is int and number >= 0}


def read_json(text: bytes | str) -> Any:  # any JSON value
    """Parse JSON.

    Raises:
        UnreadablePayload: `text` is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnreadablePayload(f"the response is not JSON: {error}") from None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None

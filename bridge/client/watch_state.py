"""The state of one watch: which events are new, which tasks are finished, whether more is expected.

- A state is new when its cursor is past the newest one of its task in the same epoch, or in another epoch.
  So `reset` needs no action: the states after it belong to a new epoch, or are duplicates.
- A final state is a latch: nothing after it is new, except a real final state after `lost`.
- A task is finished by its final state, its `done`, or a notice that it does not exist.
- `end` ends the watch; after a `closing` notice it ends only the connection, not the tasks.
- A selection (a tag or group) names no tasks: its watch ends with `group_done` or `end` alone. Only its
  newest final tasks are remembered, since a tag may be followed for months.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.client.state import TaskNotice, TaskState, read_json
from bridge.core.task import Status
from bridge.errors import UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge.wire.sse import ServerSentEvent


_MAX_FINAL = 10_000


class WatchState:
    """The part of a watch without I/O.

    Args:
        refs: The tasks to watch.
        selection: Whether it follows a selection instead, whose tasks are not known.
    """

    def __init__(self, refs: Iterable[str] = (), *, selection: bool = False) -> None:
        self._open = dict.fromkeys(refs)
        self._selection = selection
        self._cursors: dict[str, str] = {}
        self._final: dict[str, Status] = {}
        self._closing = False
        self._ended = False

    @property
    def open_refs(self) -> list[str]:
        """The unfinished tasks, in the order given."""
        return list(self._open)

    @property
    def settled(self) -> bool:
        """Whether every task is finished."""
        return not self._open and not self._selection

    @property
    def ended(self) -> bool:
        """Whether the bridge has sent `end` for the whole watch."""
        return self._ended

    def connected(self) -> None:
        """Reset what belongs to the previous connection."""
        self._closing = False

    def accept(self, event: ServerSentEvent) -> TaskState | TaskNotice | None:
        """Update from an event; return the state or notice if it is new to the caller.

        Raises:
            UnreadablePayload: The event violates the protocol.
        """
        if event.name in (None, "message"):
            return self._accept_state(event)
        if event.name == "end":
            self._ended = self.settled or not self._closing
        elif event.name == "done":
            self._open.pop(str(_fields(event).get("task")), None)
        elif event.name == "notice":
            return self._accept_notice(TaskNotice.of(_fields(event)))
        elif event.name == "group_done":
            self._selection = False  # all of it is final: nothing can follow but `end`
            return TaskNotice.of_group(_fields(event))
        elif event.name == "reset":
            reason = _fields(event).get("reason")
            return TaskNotice(code="reset", reason=reason if isinstance(reason, str) else None)
        return None  # an event name of a later protocol version

    def _accept_state(self, event: ServerSentEvent) -> TaskState | None:
        state = TaskState.of(read_json(event.data))
        if state.final:
            self._open.pop(state.task, None)
        # Duplicates are normal here: a reconnect may repeat states, and a many-task stream may resend them.
        latched = self._final.get(state.task)
        if latched is not None and not (
            latched is Status.LOST and state.final and state.status is not latched
        ):
            return None
        cursor = state.cursor or event.id
        if cursor is not None:
            if not _newer(cursor, self._cursors.get(state.task)):
                return None
            self._cursors[state.task] = cursor
        if state.final:
            self._final[state.task] = state.status
            if self._selection and len(self._final) > _MAX_FINAL:
                oldest = next(iter(self._final))
                del self._final[oldest]
                self._cursors.pop(oldest, None)
        return state

    def _accept_notice(self, notice: TaskNotice) -> TaskNotice:
        if notice.code == "closing":
            self._closing = True
        elif notice.code == "task_not_found" and notice.task is not None and not notice.retriable:
            self._open.pop(notice.task, None)
        return notice


def _newer(cursor: str, than: str | None) -> bool:
    """Whether `cursor` is past `than`. Cursors without a known order count as newer unless equal."""
    if than is None:
        return True
    epoch, _, position = cursor.rpartition("-")
    old_epoch, _, old_position = than.rpartition("-")
    if epoch == old_epoch and _is_position(position) and _is_position(old_position):
        return int(position) > int(old_position)
    return cursor != than


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 30


def _fields(event: ServerSentEvent) -> dict[str, object]:
    fields = read_json(event.data)
    if not isinstance(fields, dict):
        raise UnreadablePayload(f"the data of `{event.name}` is not a JSON object")
    return fields

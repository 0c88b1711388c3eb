"""What one watch has seen: which states are news, which tasks are over, whether anything is left to wait for.

- A state is news when its cursor is past the newest one of its task in the same epoch, or of another epoch.
  So `reset` needs no forgetting: the states after it are of a new epoch, or were seen already.
- A final state is a latch: nothing after it is news, except a real final state after `lost`.
- A task is over with its final state, its `done`, or a notice that it does not exist.
- `end` ends the watch; only after a `closing` notice it is the connection that ended, not the tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.client.state import TaskNotice, TaskState, read_json
from bridge.core.task import Status
from bridge.errors import UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge.wire.sse import ServerSentEvent


class WatchState:
    """The pure part of a watch.

    Args:
        refs: The tasks asked for.
    """

    def __init__(self, refs: Iterable[str]) -> None:
        self._open = dict.fromkeys(refs)
        self._cursors: dict[str, str] = {}
        self._final: dict[str, Status] = {}
        self._closing = False
        self._ended = False

    @property
    def open_refs(self) -> list[str]:
        """The tasks something is still expected of, in the order asked for."""
        return list(self._open)

    @property
    def settled(self) -> bool:
        """Whether every task is over."""
        return not self._open

    @property
    def ended(self) -> bool:
        """Whether the bridge said that nothing more will come."""
        return self._ended

    def connected(self) -> None:
        """A new connection begins."""
        self._closing = False

    def take(self, event: ServerSentEvent) -> TaskState | TaskNotice | None:
        """Account for an event; what of it is news to the one who watches.

        Raises:
            UnreadablePayload: The event is not what the contract says.
        """
        if event.name in (None, "message"):
            return self._take_state(event)
        if event.name == "end":
            self._ended = self.settled or not self._closing
        elif event.name == "done":
            self._open.pop(str(_fields(event).get("task")), None)
        elif event.name == "notice":
            return self._take_notice(TaskNotice.of(_fields(event)))
        elif event.name == "reset":
            reason = _fields(event).get("reason")
            return TaskNotice(code="reset", reason=reason if isinstance(reason, str) else None)
        return None  # a name from a later version of the contract

    def _take_state(self, event: ServerSentEvent) -> TaskState | None:
        state = TaskState.of(read_json(event.data))
        if state.final:
            self._open.pop(state.task, None)
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
        return state

    def _take_notice(self, notice: TaskNotice) -> TaskNotice:
        if notice.code == "closing":
            self._closing = True
        elif notice.code == "task_not_found" and notice.task is not None and not notice.retriable:
            self._open.pop(notice.task, None)
        return notice


def _newer(cursor: str, than: str | None) -> bool:
    """Whether `cursor` is past `than`; of two whose order cannot be told, any other one is news."""
    if than is None:
        return True
    epoch, _, place = cursor.rpartition("-")
    old_epoch, _, old_place = than.rpartition("-")
    if epoch == old_epoch and _is_place(place) and _is_place(old_place):
        return int(place) > int(old_place)
    return cursor != than


def _is_place(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 30


def _fields(event: ServerSentEvent) -> dict[str, object]:
    fields = read_json(event.data)
    if not isinstance(fields, dict):
        raise UnreadablePayload(f"the data of `{event.name}` is not a JSON object")
    return fields

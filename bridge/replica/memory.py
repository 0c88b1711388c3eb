"""What this replica knows of tasks: the newest state of each, kept current by the log.

Rule 1: a task has two offsets: `recorded`, of the newest recorded state that was received, and `held_at`, at
        which the state held is recorded. The second moves only together with the state. A cursor is compared
        with it alone.
Rule 2: `held_at` is 0 for a state that is recorded nowhere in this epoch: it has no offset of its own, and
        is reported as unrecorded.
Rule 3: a task is settled once the engine was asked about it in this epoch. A change of epoch unsettles all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from bridge.core.cursor import Cursor
from bridge.core.details import NO_DETAILS, decode_details
from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.resume import shown_of
from bridge.core.task import Source, State, Status, TaskKey
from bridge.engine.base import End, Stamp
from bridge.replica.lineage import Lineage

HELD_BYTES = 2500  # without documents and links
NO_STAMP = Stamp(0, "")


class HeldTask:
    """What is known of one task.

    Attributes:
        attended: Whether a watch runs here.
        settled: Whether the engine was asked in this epoch (rule 3).
        state: The newest state reported here; None for none.
        stamp: Its own.
        newest_recorded: The largest offset of a recorded state that was received, in any epoch; 0 for none.
        held_at: Offset at which it is recorded in this epoch; 0 for nowhere.
        ever_recorded: Whether a recorded state was received, in any epoch.
        recorded: Offset of the newest recorded state received in this epoch.
        recorded_stamp: Of that state.
        version: Of that state: what the next one builds on.
        awaited: Offset up to which the log must have been received before the task counts as settled.
        appending: Stamps of states of this process that wait for the log, oldest first.
        notices: The active ones, as recorded.
        details: What the task was submitted with.
        described: Whether the engine has yet to be sent that.
        passed_over: Offset and details of the newest entry that came while `described`; None for none.
    """

    __slots__ = (
        "appending",
        "attended",
        "awaited",
        "described",
        "details",
        "digest",
        "end",
        "ever_recorded",
        "first_seen",
        "held_at",
        "key",
        "lineage",
        "newest_recorded",
        "notices",
        "observed_at",
        "passed_over",
        "recorded",
        "recorded_stamp",
        "settled",
        "size",
        "stamp",
        "state",
    )

    def __init__(self, key: TaskKey) -> None:
        self.key = key
        self.attended = False
        self.settled = False
        self.appending: list[Stamp] = []
        self.clear()

    def clear(self) -> None:
        """Know nothing of the task: at first, and once it was forgotten. What is on its way stays."""
        self.state: State | None = None
        self.stamp = NO_STAMP
        self.digest = b""
        self.end = End.OPEN
        self.lineage = Lineage()
        self.held_at = 0
        self.ever_recorded = False
        self.recorded = 0
        self.recorded_stamp = NO_STAMP
        self.newest_recorded = 0
        self.awaited = 0
        self.first_seen = 0
        self.observed_at = 0.0
        self.notices: dict[str, bytes] = {}
        self.details = NO_DETAILS
        self.described = False
        self.passed_over: tuple[int, bytes] | None = None
        self.size = HELD_BYTES

    @property
    def unrecorded(self) -> bool:
        """Whether the state held is recorded nowhere in this epoch, as far as is known."""
        return self.state is not None and self.held_at == 0

    @property
    def unsent_details(self) -> bytes | None:
        """What the engine has yet to be sent of `details`, encoded."""
        return self.details.encode() if self.described else None

    def learn_details(self, encoded: bytes | None, offset: int = 0) -> None:
        """Take over what is recorded of `details`; an engine that lost them is sent them again.

        Args:
            offset: Of the entry of the log that brought them; 0 for those of a record.
        """
        if encoded is None:
            self.described |= self.details != NO_DETAILS
        elif not self.described:
            details = decode_details(encoded)
            # A record may have been read before an entry that has arrived since.
            if offset or not self.settled or details.since >= self.details.since:
                self.details = details
        elif offset:
            self.passed_over = offset, encoded  # counts if ours are recorded before them

    def sent_details(self, offset: int) -> None:
        """Those held are recorded at an offset."""
        self.described = False
        if self.passed_over is not None and self.passed_over[0] > offset:
            self.details = decode_details(self.passed_over[1])
        self.passed_over = None

    def is_of(self, stamp: Stamp, digest: bytes) -> bool:
        """Whether the state held is the one of this stamp and content.

        A session that does not know what it recorded before the engine lost it may use a stamp again.
        """
        return self.stamp == stamp and self.digest == digest

    def event(self, epoch: str) -> Event | None:
        """The state held, with the cursor it has in this epoch."""
        if self.state is None:
            return None
        if self.held_at:
            cursor = Cursor(epoch, self.held_at)
        else:
            cursor = Cursor(epoch, self.recorded, shown_of(self.state))
        return Event(self.key, cursor, self.state, self.observed_at)

    def hold(
        self,
        state: State,
        stamp: Stamp,
        digest: bytes,
        *,
        at: int,
        builds_on_held: bool,
        observed_at: float = 0.0,
    ) -> None:
        """Replace the state held.

        Args:
            at: Offset at which it is recorded; 0 for nowhere.
            builds_on_held: Whether it was made from the state held until now. If not, what led to it is not
                known, any its version.
        """
        if builds_on_held:
            self.lineage.add(stamp)
        elif stamp != self.stamp:
            self.lineage.restart(stamp)
        self.state, self.stamp, self.digest = state, stamp, digest
        self.held_at, self.observed_at = at, observed_at
        self.end = end_of(state)
        self.size = HELD_BYTES + len(state.raw or b"") + len(state.result or b"")
        self.size += sum(len(output.url or "") + len(output.data or "") for output in state.outputs)


class TaskMemory:
    """The tasks this replica knows. Those with a watch stay; the others, read least recently, go first.

    Args:
        max_bytes: For tasks without a watch.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tasks: dict[TaskKey, HeldTask] = {}
        self._idle: OrderedDict[TaskKey, int] = OrderedDict()
        self.unsettled: set[TaskKey] = set()
        """Tasks with a watch that are not settled."""

    def get(self, key: TaskKey) -> HeldTask | None:
        """What is known of a task."""
        return self._tasks.get(key)

    def ensure(self, key: TaskKey) -> HeldTask:
        """The same, kept from now on if it was not: the log is received for it."""
        held = self._tasks.get(key)
        if held is None:
            held = self._tasks[key] = HeldTask(key)
            self._put_idle(held)
        return held

    def attend(self, key: TaskKey) -> HeldTask:
        """A watch runs here: the task stays."""
        held = self.ensure(key)
        if not held.attended:
            held.attended = True
            self._take_idle(key)
            if not held.settled:
                self.unsettled.add(key)
        return held

    def leave(self, key: TaskKey) -> None:
        """The watch has ended."""
        held = self._tasks.get(key)
        if held is not None and held.attended:
            held.attended = False
            self.unsettled.discard(key)
            self._put_idle(held)

    def settle(self, held: HeldTask) -> None:
        """The engine was asked about it, and the log has been received up to what it answered."""
        held.settled = True
        self.unsettled.discard(held.key)

    def unsettle(self, *, epoch_changed: bool) -> None:
        """The log was interrupted: what is known may be outdated; with a new epoch, no offset counts."""
        for held in list(self._tasks.values()):
            keeps = held.attended or held.appending or held.unrecorded or held.described
            if not keeps:
                self.forget(held.key)
                continue
            held.settled, held.awaited = False, 0
            if epoch_changed:
                held.recorded = held.held_at = 0
                held.recorded_stamp = NO_STAMP
            if held.attended:
                self.unsettled.add(held.key)

    def forget(self, key: TaskKey) -> None:
        """Delete what is known of a task without a watch."""
        held = self._tasks.get(key)
        if held is not None and not held.attended:
            self._take_idle(key)
            del self._tasks[key]

    def clear(self, key: TaskKey) -> None:
        """A task was forgotten. With a watch, or with states on their way, it stays, and begins again."""
        held = self._tasks.get(key)
        if held is None:
            return
        if held.attended or held.appending:
            held.clear()
        else:
            self.forget(key)

    def attended(self) -> list[HeldTask]:
        """The tasks with a watch."""
        return [held for held in self._tasks.values() if held.attended]

    def unrecorded(self) -> list[HeldTask]:
        """The tasks whose state is recorded nowhere in this epoch."""
        return [held for held in self._tasks.values() if held.unrecorded]

    def __iter__(self) -> Iterator[HeldTask]:
        return iter(self._tasks.values())

    def trim(self) -> None:
        """Forget what has no watch, the least recently read first, until the rest fits."""
        for key in list(self._idle) if self._bytes > self._max_bytes else ():
            held = self._tasks[key]
            if not (held.appending or held.unrecorded):
                self.forget(key)
            if self._bytes <= self._max_bytes:
                return

    def touch(self, held: HeldTask) -> None:
        """It was read."""
        if not held.attended:
            self._take_idle(held.key)
            self._put_idle(held)

    def _put_idle(self, held: HeldTask) -> None:
        self._idle[held.key] = held.size
        self._bytes += held.size
        if self._bytes > self._max_bytes:
            self.trim()

    def _take_idle(self, key: TaskKey) -> None:
        self._bytes -= self._idle.pop(key, 0)


def end_of(state: State) -> End:
    """Whether a state ends its task."""
    if not state.status.final:
        return End.OPEN
    return End.LOST if state.status is Status.LOST else End.ENDED


def is_kept(state: State) -> bool:
    """Whether a task with this state is watched until its end: what was submitted or registered is.

    With the state itself, so that a bridge that is killed right after it has answered leaves a task that the
    others poll.
    """
    return state.source is Source.SUBMIT and not state.status.final


def standing_notices(recorded: dict[str, bytes]) -> Sequence[Notice]:
    """Those of a record that this version knows."""
    notices = (decode_notice(code, body) for code, body in recorded.items())
    return [notice for notice in notices if notice is not None]


def encode_notice(notice: Notice) -> bytes:
    """Its sentence, after `+` if the bridge keeps trying, else after `-`."""
    return (b"+" if notice.retriable else b"-") + notice.message.encode("utf-8", "surrogatepass")[:2000]


def decode_notice(code: str, body: bytes) -> Notice | None:
    """The notice that was encoded; None for one that another version knows."""
    try:
        known = NoticeCode(code)
    except ValueError:
        return None
    return Notice(known, body[1:].decode("utf-8", "replace"), retriable=body[:1] == b"+")

"""What this replica sends to the engine in order: states and notices.

Rule 1: one call is in flight; what comes meanwhile goes with the next, up to `MAX_STATES` and `MAX_BYTES`.
        The next one begins no sooner than `GATHER_SECONDS` after the one before: a call costs the engine as
        much as several states do. The first state after a pause is sent at once. A call has one state of a
        task at most: what was made from a state that is refused must not follow the one that is recorded
        instead.
Rule 2: an append is done when the log has brought its state, not when the engine has answered: its viewers
        receive it in the order of the log, as all others do.
Rule 3: an append whose answer is missing has happened or not. It is shown unrecorded, with its stamp, and
        recorded again with that stamp once the engine is back.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bridge.clock import Clock
from bridge.core.event import Event
from bridge.core.task import State, TaskKey
from bridge.engine.base import MAX_STATES, Applied, Apply, Stamp
from bridge.errors import EngineUnavailable, JournalError
from bridge.replica.connection import Connection

MAX_ANNOUNCED = 32
MAX_BYTES = 1024 * 1024
"""Of one call, and of one state more: its answer must come in time, and so must those to other calls."""

GATHER_SECONDS = 0.004
"""About as long as followers wait after a read: a viewer waits for the slower of both."""


@dataclass(slots=True, eq=False)
class ReplicaAppend:
    """A state of this process on its way into the log.

    Args:
        free: Whether it counts though another process polls the task.
        base: Stamp of the state that it was made from: two states may have the same version.
    """

    apply: Apply
    state: State
    observed_at: float
    free: bool
    base: Stamp
    done: asyncio.Future[Event] = field(init=False)

    def __post_init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()

    @property
    def key(self) -> TaskKey:
        """Of its task."""
        return self.apply.key

    def succeed(self, event: Event) -> None:
        """It is recorded, or shown; idempotent, and its caller may have left."""
        if not self.done.done():
            self.done.set_result(event)

    def fail(self, error: JournalError) -> None:
        """It is not."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # its caller may have left


@dataclass(frozen=True, slots=True)
class Announcement:
    """A notice on its way; None ends it."""

    key: TaskKey
    code: str
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Registration:
    """What a task was submitted with, on its way without a state."""

    key: TaskKey
    details: bytes


class Outbox:
    """Sends in order while the engine is there.

    Args:
        answered: Called with the engine's answers to a group of appends.
        registered: Called with each registration that is recorded, and its offset.
    """

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        answered: Callable[[ReplicaAppend, Applied], None],
        registered: Callable[[Registration, int], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._answered = answered
        self._registered = registered
        self._queue: deque[ReplicaAppend | Announcement | Registration] = deque()
        self._open: dict[tuple[TaskKey, Stamp], ReplicaAppend] = {}
        self._wake = asyncio.Event()
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def put(self, item: ReplicaAppend | Announcement | Registration) -> None:
        """Send it after what is queued."""
        self._queue.append(item)
        if isinstance(item, ReplicaAppend):
            self._open[item.key, item.apply.stamp] = item
        self._wake.set()

    def done(self, item: ReplicaAppend) -> None:
        """Its fate is known."""
        self._open.pop((item.key, item.apply.stamp), None)

    def withdraw(self, key: TaskKey) -> Sequence[ReplicaAppend]:
        """Remove the appends of a task that were not sent yet, oldest first."""
        appends = [item for item in self._queue if isinstance(item, ReplicaAppend) and item.key == key]
        if appends:
            self._queue = deque(item for item in self._queue if item not in appends)
        return appends

    def append_of(self, key: TaskKey, stamp: Stamp) -> ReplicaAppend | None:
        """The append of this state, while its fate is open."""
        return self._open.get((key, stamp))

    def take_all(self) -> Sequence[ReplicaAppend]:
        """Empty it, as the connection broke: the appends whose fate is open, oldest first."""
        appends = list(self._open.values())
        self._open.clear()
        self._queue.clear()
        waiting, self._waiting = self._waiting, []
        for _, _, call in waiting:
            call()
        return appends

    def when_heard(self, offset: int, call: Callable[[], None]) -> None:
        """Call once the log has been received up to an offset, or will not be."""
        heapq.heappush(self._waiting, (offset, next(self._numbers), call))

    def received(self, offset: int) -> None:
        """The log has been received up to here."""
        while self._waiting and self._waiting[0][0] <= offset:
            heapq.heappop(self._waiting)[2]()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                began = self._clock.monotonic()
                if isinstance(self._queue[0], ReplicaAppend):
                    await self._send_appends()
                else:
                    await self._send_announcements()
                left = began + GATHER_SECONDS - self._clock.monotonic()
                if left > 0:
                    await self._clock.sleep(left)

    async def _send_appends(self) -> None:
        group: list[ReplicaAppend] = []
        keys: set[TaskKey] = set()
        size = 0
        while self._queue and len(group) < MAX_STATES and size < MAX_BYTES:
            item = self._queue[0]
            if not isinstance(item, ReplicaAppend) or item.key in keys:
                break
            group.append(item)
            keys.add(item.key)
            size += len(item.apply.document) + len(item.apply.raw or b"")
            size += sum(len(job.body) for job in item.apply.jobs)
            self._queue.popleft()
        session = self._connection.session
        states = [item.apply for item in group]
        answers = await self._connection.call("apply", lambda engine: engine.apply(session, states))
        if len(answers) != len(group):
            self._connection.drop("an answer to apply that cannot be used")
            raise EngineUnavailable("the engine's answer to apply cannot be used")
        for item, applied in zip(group, answers, strict=True):
            self._answered(item, applied)

    async def _send_announcements(self) -> None:
        group: list[Announcement | Registration] = []
        while self._queue and len(group) < MAX_ANNOUNCED:
            item = self._queue[0]
            if isinstance(item, ReplicaAppend):
                break
            group.append(item)
            self._queue.popleft()
        session = self._connection.session
        await asyncio.gather(*(self._announce(session, one) for one in group))

    async def _announce(self, session: str, one: Announcement | Registration) -> None:
        if isinstance(one, Registration):
            offset = await self._connection.call(
                "register", lambda engine: engine.register(session, one.key, one.details)
            )
            if offset:
                self._registered(one, offset)
            return
        await self._connection.call(
            "announce", lambda engine: engine.announce(session, one.key, one.code, one.body)
        )

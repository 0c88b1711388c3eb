"""The watches of a process that shares its tasks with others: what it learns about who polls them.

Rule 1: a task that this process does not own is never polled here, and its stream not followed; the one
        exception is a task without a record, while the engine is away (`Role.ALONE`).
Rule 2: what others report is taken as it comes, in the order of the log: a watch that does not run ignores
        it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from bridge.clock import Clock
from bridge.core.event import Confirmation, Event, Notice
from bridge.core.task import TaskKey
from bridge.engine.ownership import KnownTask, Ownership
from bridge.errors import BridgeError
from bridge.watchers.followers import StreamFollowers
from bridge.watchers.missing import BELIEVED_SECONDS
from bridge.watchers.role import Role, Turn
from bridge.watchers.watcher import Watcher

BLIP_SECONDS = 0.5
"""An engine that is away for less changes nothing."""

GIVEN_UP_SECONDS = 5.0
"""How long a watch that was given up here is remembered: if others still want its task, it continues."""

RETRY_SECONDS = 1.0


class SharedWatches:
    """Satisfies `bridge.engine.ownership.Watches`.

    Args:
        watchers: The watches that run, by task.
        adopt: Starts a watch, without viewers, of a task that this process owns; raises `BridgeError`.
        poll_now: Polls a task that this process owns out of turn; starts a watch for a callback.
        forget: Ends the watch of a task that has ended.
    """

    def __init__(
        self,
        watchers: Mapping[TaskKey, Watcher],
        streams: StreamFollowers,
        ownership: Ownership,
        clock: Clock,
        *,
        adopt: Callable[[TaskKey, Watcher | None], Watcher],
        poll_now: Callable[[TaskKey, bool], object],
        forget: Callable[[TaskKey], None],
    ) -> None:
        self._watchers = watchers
        self._streams = streams
        self._ownership = ownership
        self._clock = clock
        self._adopt = adopt
        self._poll_now = poll_now
        self._forget = forget
        self._cut_off_since: float | None = None
        self._given_up: OrderedDict[TaskKey, tuple[Watcher, float]] = OrderedDict()

    # Called by the ownership

    def granted(self, key: TaskKey, decided: KnownTask) -> None:
        """This process polls the task from now on; starts a watch, without viewers, if none runs."""
        watcher = self._watchers.get(key)
        if watcher is None:
            before, _ = self._given_up.pop(key, (None, 0.0))
            try:
                watcher = self._adopt(key, before)
            except BridgeError:  # an upstream or a key that is not here: another replica may have it
                self._ownership.drop(key)
                return
        watcher.stands(Turn.GRANTED, decided)
        if not watcher.watch.ended or watcher.lost:
            self._streams.follow(watcher)

    def attends(self, key: TaskKey, decided: KnownTask) -> None:
        """Another process polls it, or none yet; the watch, if one runs, stops its polls."""
        watcher = self._watchers.get(key)
        if watcher is not None:
            watcher.stands(Turn.ATTENDS, decided)
            self._streams.end(key)

    def recorded_elsewhere(self, event: Event) -> None:
        """A state that another process recorded."""
        watcher = self._watchers.get(event.key)
        if watcher is not None:
            watcher.recorded_elsewhere(event)

    def forgotten(self, key: TaskKey) -> None:
        """The task was deleted; it may have begun again since."""
        self._forget(key)

    def confirmed_elsewhere(self, key: TaskKey, confirmation: Confirmation) -> None:
        """The owner saw the newest state again."""
        watcher = self._watchers.get(key)
        if watcher is not None:
            watcher.confirmed_elsewhere(confirmation)

    def noticed_elsewhere(self, key: TaskKey, notice: Notice) -> None:
        """The owner announced a notice."""
        watcher = self._watchers.get(key)
        if watcher is not None:
            watcher.noticed_elsewhere(notice)

    def called(self, key: TaskKey, *, called_back: bool) -> None:
        """Another process asks the owner, this one, to poll the task now."""
        self._poll_now(key, called_back)

    def cut_off(self, *, since: float | None) -> None:
        """The engine is away since then (monotonic seconds); None: it is back."""
        self._cut_off_since = since
        if since is not None:
            return
        for watcher in list(self._watchers.values()):
            if watcher.role is Role.ALONE:
                self._streams.end(watcher.key)
                watcher.turn(Turn.RECONNECTED)
                self._ownership.want(watcher.key)

    # Called by the pool

    def may_poll(self, watcher: Watcher) -> bool:
        """Whether a poll that is due may be sent."""
        if not watcher.polls_here:
            return False
        if self.deaf and not (watcher.viewers or watcher.persistent):
            return False  # only viewers elsewhere want it: a replica that has them polls it
        return self._ownership.may_poll(watcher.key)

    @property
    def deaf(self) -> bool:
        """Whether the engine is away for longer than a moment."""
        since = self._cut_off_since
        return since is not None and self._clock.monotonic() - since >= BLIP_SECONDS

    def attend(self, watcher: Watcher) -> None:
        """Process the passing of time for a watch that does not poll."""
        deaf = self.deaf
        watcher.attend(cut_off=deaf)
        if deaf:
            self.leave_alone(watcher)

    def leave_alone(self, watcher: Watcher) -> None:
        """The engine is away: poll a task without a record, for viewers that have seen no state of it."""
        wanted = (watcher.viewers and watcher.newcomer) or watcher.persistent
        if not wanted or watcher.offset or watcher.polls_here or not self.deaf:
            return
        if self._ownership.may_poll(watcher.key):
            watcher.turn(Turn.LEFT_ALONE)
            self._streams.follow(watcher)

    def planning(self, schedule: Callable[[Watcher], None]) -> Callable[[Watcher], None]:
        """Report when this process polls a task next, whenever that moved: what a successor begins with."""

        def changed(watcher: Watcher) -> None:
            schedule(watcher)
            if watcher.role is not Role.OWNING:
                return
            due = watcher.watch.due
            if due is None and watcher.watch.not_found:
                due = watcher.watch.last_poll + BELIEVED_SECONDS
            self._ownership.planned(watcher.key, due)

        return changed

    def give_up(self, watcher: Watcher) -> None:
        """The watch has ended here."""
        if watcher.role is Role.OWNING and not watcher.watch.ended:
            self._given_up[watcher.key] = watcher, self._clock.monotonic()
        self._ownership.drop(watcher.key)

    def forget_old(self, now: float) -> None:
        """Forget the watches that were given up long enough ago (monotonic seconds)."""
        while self._given_up:
            key, (_, at) = next(iter(self._given_up.items()))
            if now - at < GIVEN_UP_SECONDS:
                return
            del self._given_up[key]

"""Which session polls which task: interest, owners, orphans.

Rule 1: a task that is kept is owned, or an orphan, or its owner is dead and waits for `bury`.
Rule 2: the next owner of a task learns when it may have been polled last (`TaskRecord.polled_at`).
Rule 3: an orphan that no replica wants when it is due is no longer one; nothing but the record is left of it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence

from bridge.core.task import TaskKey
from bridge.engine.base import CALL_SECONDS, Called, End, Owner, Record, Release, Released, Want, Wanted
from bridge.engine.store.due import DueQueue
from bridge.engine.store.sessions import MICROSECONDS, ReplicaSession, Sessions
from bridge.engine.store.tasks import TaskRecord, Tasks

CALLED_MICROSECONDS = 60 * MICROSECONDS
"""How long a task without owner is wanted because of a call."""

LEAVE_TASKS = 1000
"""Tasks that become orphans at once when a session leaves; `bury` takes the others."""


class Assignments:
    """Owners, interest and orphans of all tasks."""

    def __init__(self, sessions: Sessions, tasks: Tasks) -> None:
        self._sessions = sessions
        self._tasks = tasks
        self._wanted: dict[TaskKey, int] = {}
        self._orphans: dict[str, DueQueue[TaskKey]] = {}

    def wanted(self, key: TaskKey, now: int) -> bool:
        """Whether a replica wants a task."""
        return self._wanted.get(key, 0) > now

    def idle(self, task: TaskRecord, now: int) -> bool:
        """Whether nothing but its record is left of a task."""
        return (
            not task.persistent
            and not self.wanted(task.key, now)
            and not self._has_live_owner(task, now)
            and not self._is_orphan(task.key)
        )

    def want(self, session: str, wants: Sequence[Want], until: int, now: int) -> list[Wanted]:
        """See `Engine.want`."""
        alive = self._sessions.alive(session, now)
        return [self._want_one(session, want, until, now, alive=alive) for want in wants]

    def _want_one(self, session: str, want: Want, until: int, now: int, *, alive: bool) -> Wanted:
        task = self._tasks.ensure(want.key, now) if alive else self._tasks.get(want.key)
        if task is None:
            return Wanted(Owner.NONE, Record(want.key))
        if task.end is End.ENDED:
            return Wanted(Owner.OVER, task.record())
        if alive:
            self._prolong(want.key, until)
        if self._has_live_owner(task, now):
            owner = Owner.ME if task.owner == session else Owner.OTHER
        elif alive and want.may_own:
            self._give(task, session, now)
            owner = Owner.ME
        else:
            owner = Owner.NONE
        return Wanted(owner, task.record())

    def owned(self, session: str, after: TaskKey | None, limit: int, now: int) -> list[TaskKey]:
        """See `Engine.owned`."""
        owner = self._sessions.get(session)
        if owner is None or not self._sessions.alive(session, now):
            return []
        rest = (key for key in owner.owned if after is None or key > after)
        return heapq.nsmallest(limit, rest)

    def rewant(self, keys: Iterable[TaskKey], until: int) -> None:
        """See `Engine.rewant`."""
        for key in keys:
            task = self._tasks.get(key)
            if task is None or task.end is not End.ENDED:
                self._prolong(key, until)

    def keep(
        self, session: str, key: TaskKey, *, called_back: bool, now: int, due: int = 0
    ) -> TaskRecord | None:
        """See `Engine.keep`; returns the task if that changed it.

        Args:
            due: An orphan that it becomes is not due before.
        """
        if not self._sessions.alive(session, now):
            return None
        task = self._tasks.ensure(key, now)
        if task.end is End.ENDED:
            return None
        changed = not task.persistent or called_back > task.called_back
        task.persistent = True
        task.called_back = task.called_back or called_back
        if not task.owner and not self._is_orphan(key):  # with a dead owner, `bury` finds it
            self._orphan(task, max(task.due, now, due))
        return task if changed else None

    def claim(self, session: str, account: str, limit: int, now: int) -> list[TaskRecord]:
        """See `Engine.claim`."""
        orphans = self._orphans.get(account)
        if orphans is None or not self._sessions.alive(session, now):
            return []
        claimed = []
        for _ in range(limit):
            key = orphans.pop(now)
            if key is None:
                break
            task = self._tasks.get(key)
            if task is not None and (task.persistent or self.wanted(key, now)):
                self._give(task, session, now)
                claimed.append(task)
        self._drop_empty(account)
        return claimed

    def release(self, session: str, release: Release, *, transfer: bool, now: int) -> Released:
        """See `Engine.release`, for one task."""
        key, due, polled_at = release
        task = self._tasks.get(key)
        if task is None or task.owner != session or not self._sessions.alive(session, now):
            return Released.NOT_MINE
        if not transfer and (task.persistent or self.wanted(key, now)):
            return Released.WANTED
        self._take_away(task, now)
        task.due, task.polled_at = due, max(task.polled_at, polled_at)
        if transfer:
            self._orphan(task, due)
        return Released.OK

    def call(self, key: TaskKey, now: int) -> tuple[Called, TaskRecord | None]:
        """See `Engine.call`; the caller writes the log entry."""
        # Interest alone makes a task known: after a loss of data, `rewant` comes first.
        task = self._tasks.ensure(key, now) if self.wanted(key, now) else self._tasks.get(key)
        if task is None or self._is_unknown(task, now):
            task = self._tasks.named(key)
        if task is None:
            return Called.UNKNOWN, None
        if task.end is End.ENDED:
            return Called.OVER, task
        if task.called_at and now - task.called_at < CALL_SECONDS * MICROSECONDS:
            return Called.SOON, task
        task.called_at = now
        if self._has_live_owner(task, now):
            return Called.TOLD, task
        self._prolong(task.key, now + CALLED_MICROSECONDS)
        self._take_away(task, now)
        self._orphan(task, now)
        return Called.ORPHANED, task

    def bury(self, limit: int, spacing: int, now: int) -> int:
        """See `Engine.bury`."""
        buried = 0
        for _, session in self._sessions.dead(now):
            if session.owned and buried < limit:
                buried += self._bury(session, limit - buried, spacing, now, first=buried)
        return buried

    def leave(self, session: ReplicaSession, now: int) -> None:
        """Make orphans of what a session owns that has just ended."""
        self._bury(session, LEAVE_TASKS, 0, now, first=0)

    def end(self, task: TaskRecord) -> None:
        """A task has ended: it needs neither owner nor interest."""
        self._take_away(task, 0)
        self._wanted.pop(task.key, None)
        self._unorphan(task.key)
        task.persistent = False

    def restore(self, task: TaskRecord, *, due: int, until: int, now: int) -> None:
        """Make an orphan of an open task that was read from storage; wanted until then, if not 0."""
        task.polled_at = now  # the process before may have polled it until it ended
        if until:
            self._prolong(task.key, until)
        self._orphan(task, due)

    def expire(self, limit: int, now: int) -> None:
        """Forget interest that has ended; checks up to `limit` of it."""
        for key in list(itertools.islice(self._wanted, limit)):
            until = self._wanted.pop(key)
            if until > now:
                self._wanted[key] = until  # the last from now on

    def orphaned(self, now: int) -> tuple[int, float]:
        """How many orphans there are, and for how many seconds the first of them has been due."""
        firsts = [first[0] for orphans in self._orphans.values() if (first := orphans.first()) is not None]
        late = now - min(firsts) if firsts else 0
        return sum(len(orphans) for orphans in self._orphans.values()), max(late, 0) / MICROSECONDS

    def _bury(self, session: ReplicaSession, limit: int, spacing: int, now: int, *, first: int) -> int:
        if session.burial is None:
            # Once for a dead session, so that many calls do not each search the wanted ones.
            wanted = [key for key in session.owned if self.wanted(key, now)]
            others = [key for key in session.owned if not self.wanted(key, now)]
            session.burial = [*reversed(others), *reversed(wanted)]
        buried = 0
        while session.burial and buried < limit:
            key = session.burial.pop()
            task = self._tasks.get(key) if key in session.owned else None
            if task is None:
                session.owned.pop(key, None)
                continue
            self._take_away(task, now)
            self._orphan(task, max(task.due, now + (first + buried) * spacing))
            buried += 1
        return buried

    def _is_unknown(self, task: TaskRecord, now: int) -> bool:
        return task.version == 0 and self.idle(task, now)

    def _has_live_owner(self, task: TaskRecord, now: int) -> bool:
        return task.owner != "" and self._sessions.alive(task.owner, now)

    def _give(self, task: TaskRecord, session: str, now: int) -> None:
        self._take_away(task, now)
        self._unorphan(task.key)
        task.owner = session
        owner = self._sessions.get(session)
        assert owner is not None, "only a live session is given a task"
        owner.owned[task.key] = None

    def _take_away(self, task: TaskRecord, now: int) -> None:
        owner = self._sessions.get(task.owner) if task.owner else None
        if owner is not None:
            owner.owned.pop(task.key, None)
            if now >= owner.until:
                task.polled_at = max(task.polled_at, self._sessions.polled_until(task.owner))
        task.owner = ""

    def _prolong(self, key: TaskKey, until: int) -> None:
        # Moved to the end: `expire` finds the oldest first.
        self._wanted[key] = max(self._wanted.pop(key, 0), until)

    def _is_orphan(self, key: TaskKey) -> bool:
        orphans = self._orphans.get(key.account)
        return orphans is not None and key in orphans

    def _orphan(self, task: TaskRecord, due: int) -> None:
        task.due = due
        self._orphans.setdefault(task.key.account, DueQueue()).add(task.key, due)

    def _unorphan(self, key: TaskKey) -> None:
        orphans = self._orphans.get(key.account)
        if orphans is not None and orphans.remove(key):
            self._drop_empty(key.account)

    def _drop_empty(self, account: str) -> None:
        if not len(self._orphans[account]):
            del self._orphans[account]

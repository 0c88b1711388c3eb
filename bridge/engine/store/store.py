"""The engine's operations over plain data structures: the reference for every engine.

Rule 1: pure. `now` (microseconds) comes with each call and may go back; nothing waits, reads a clock or fails
        but by a defect.
Rule 2: no operation walks over all tasks; what is deleted goes in steps of `STEP` with the calls that come.
Rule 3: memory is bounded: history per task, log, tasks, jobs per queue, lists, counters; what expires is
        deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    BEAT_SECONDS,
    DEFAULT_JOB_LIMITS,
    KEPT_SECONDS,
    Applied,
    Apply,
    ApplyOutcome,
    BeatEntry,
    BudgetEntry,
    Called,
    CallEntry,
    Census,
    ConfirmEntry,
    DetailsEntry,
    DocumentEntry,
    End,
    Entry,
    ForgetEntry,
    Held,
    Job,
    JobLimits,
    Lent,
    Listing,
    NoticeEntry,
    Operation,
    OperationState,
    Past,
    Put,
    Record,
    Release,
    Released,
    Report,
    SessionState,
    Take,
    Waiting,
    Want,
    Wanted,
    Welcome,
)
from bridge.engine.store.assignments import Assignments
from bridge.engine.store.budgets import Budgets
from bridge.engine.store.changes import Changes, PartKind, RecordedState
from bridge.engine.store.documents import Counters, Documents, Operations, Samples, ends_at
from bridge.engine.store.jobs import JobQueues
from bridge.engine.store.log import MAX_OFFSET, Log
from bridge.engine.store.retention import DEFAULT_LIMITS, STEP, StoreLimits, TaskRetention
from bridge.engine.store.sessions import ABOUT_BYTES, MICROSECONDS, Sessions
from bridge.engine.store.states import States, answer, judge
from bridge.engine.store.tasks import Tasks

VERSIONS_BETWEEN_ROWS = 64
"""After so many states the row of a task is written again: old states may be deleted in storage."""

_PAUSE_MICROSECONDS = MICROSECONDS
_BUSY_MICROSECONDS = MICROSECONDS // 100


class Store:
    """Everything an engine holds. Each method is one operation of `Engine`, with the time of the call."""

    def __init__(self, limits: StoreLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.log = Log(limits.log)
        self.sessions = Sessions()
        self.tasks = Tasks()
        self.assignments = Assignments(self.sessions, self.tasks)
        self.budgets = Budgets(self.sessions)
        self.documents = Documents()
        self.samples = Samples()
        self.operations = Operations(
            self.sessions, max_answers=limits.max_answers, answer_bytes=limits.answer_bytes
        )
        self.jobs = JobQueues(self.sessions, partial(self._touch, PartKind.JOB))
        self.counters = Counters()
        self.states = States(self.tasks, self.log, history=limits.history, raw_bytes=limits.raw_bytes)
        self.retention = TaskRetention(self.tasks, self.assignments, limits)
        self.changes: Changes | None = None  # set by a recorder
        self._tidied_until = 0

    # Sessions

    def session(
        self,
        session: str,
        *,
        ttl: float,
        known_head: int,
        new_epoch: str,
        about: bytes,
        opens: bool,
        now: int,
    ) -> Welcome:
        """See `Engine.session`."""
        known_head = known_head if known_head <= MAX_OFFSET else 0
        if not self.log.epoch or known_head > self.log.head:
            self.log.begin(new_epoch, known_head, now)
            if self.changes is not None:
                self.changes.moved()
        self.tidy(now)
        return Welcome(
            state=self._lease(session, ends_at(ttl, now), about[:ABOUT_BYTES], opens=opens, now=now),
            now=now,
            epoch=self.log.epoch,
            head=self.log.head,
            sessions={name: live.about for name, live in self.sessions.live(now)},
        )

    def _lease(self, name: str, until: int, about: bytes, *, opens: bool, now: int) -> SessionState:
        session = self.sessions.get(name)
        if session is None and opens:
            self.sessions.open(name, until, about, now)
            return SessionState.OPENED
        if session is None or now >= session.until:
            return SessionState.EXPIRED
        session.until, session.renewed_at, session.about = until, now, about
        if opens:
            return SessionState.OPENED
        if now - self.log.head >= BEAT_SECONDS * MICROSECONDS:
            self.log.append(BeatEntry(self.log.next_offset(now), self.log.head, name))
        return SessionState.RENEWED

    def leave(self, session: str, *, now: int) -> None:
        """See `Engine.leave`."""
        known = self.sessions.get(session)
        if known is not None and now < known.until:
            known.renewed_at = known.until = now
            self.assignments.leave(known, now)

    def crash(self, session: str, *, now: int) -> None:
        """End the session of a process that has died: as `leave`, but what it planned is unknown."""
        known = self.sessions.get(session)
        if known is None:
            return
        owned = list(known.owned)
        self.leave(session, now=now)
        for key in owned:
            task = self.tasks.get(key)
            if task is not None and not task.owner and task.due <= now:
                task.due = 0

    def bury(self, *, limit: int, spacing: float, now: int) -> int:
        """See `Engine.bury`."""
        return self.assignments.bury(limit, round(spacing * MICROSECONDS), now)

    # Ownership

    def want(self, session: str, wants: Sequence[Want], *, linger: float, now: int) -> list[Wanted]:
        """See `Engine.want`."""
        return self.assignments.want(session, wants, ends_at(linger, now), now)

    def owned(self, session: str, *, after: TaskKey | None, limit: int, now: int) -> list[TaskKey]:
        """See `Engine.owned`."""
        return self.assignments.owned(session, after, limit, now)

    def rewant(self, keys: Sequence[TaskKey], *, linger: float, now: int) -> None:
        """See `Engine.rewant`."""
        self.assignments.rewant(keys, ends_at(linger, now))

    def keep(self, session: str, key: TaskKey, *, called_back: bool, now: int) -> None:
        """See `Engine.keep`."""
        if self.assignments.keep(session, key, called_back=called_back, now=now) is not None:
            self._touch_task(key)

    def claim(self, session: str, *, account: str, limit: int, now: int) -> list[Record]:
        """See `Engine.claim`."""
        return [task.record() for task in self.assignments.claim(session, account, limit, now)]

    def release(
        self, session: str, releases: Sequence[Release], *, transfer: bool, now: int
    ) -> list[Released]:
        """See `Engine.release`."""
        return [self.assignments.release(session, one, transfer=transfer, now=now) for one in releases]

    def call(
        self, session: str, key: TaskKey, *, called_back: bool = False, now: int
    ) -> tuple[Called, TaskKey | None]:
        """See `Engine.call`."""
        if not self.sessions.alive(session, now):
            return Called.UNKNOWN, None
        called, task = self.assignments.call(key, now)
        if task is None:
            return called, None
        if called is Called.TOLD:
            offset = self.log.next_offset(now)
            self.log.append(CallEntry(offset, self.log.head, task.key, task.owner, called_back))
        return called, task.key

    # States

    def apply(
        self, session: str, states: Sequence[Apply], *, limits: JobLimits = DEFAULT_JOB_LIMITS, now: int
    ) -> list[Applied]:
        """See `Engine.apply`."""
        alive = self.sessions.alive(session, now)
        applied = [self._apply_one(session, state, limits, now, alive=alive) for state in states]
        self.tidy(now)
        return applied

    def _apply_one(self, session: str, state: Apply, limits: JobLimits, now: int, *, alive: bool) -> Applied:
        task = self.tasks.get(state.key)
        verdict = judge(task, state, session=session, alive=alive)
        if verdict is not ApplyOutcome.RECORDED:
            return answer(verdict, task, state)
        task = task or self.tasks.ensure(state.key, now)
        entry = self.states.record(task, state, now)
        kept = False
        if state.keep and task.end is End.OPEN:
            due = now + round(KEPT_SECONDS * MICROSECONDS)
            kept = self.assignments.keep(session, task.key, called_back=False, now=now, due=due) is not None
        if task.end is End.ENDED and not entry.amended:
            self.assignments.end(task)
            task.notices.clear()
        dropped = self.add_state_jobs(state.jobs, task.offset, limits, now=now) if state.jobs else 0
        if self.changes is not None:
            self.changes.recorded(
                RecordedState(task.key, task.offset, task.end, state.document, task.raw, entry.amended)
            )
            # A recorder finds all else in the states: a row for each would cost as much as the state itself.
            counted = task.version % VERSIONS_BETWEEN_ROWS and (
                task.version == 1 or entry.offset > task.first_seen
            )
            if kept or entry.amended or entry.details is not None or task.end is End.LOST or not counted:
                self._touch_task(task.key)
        return Applied(verdict, entry.offset, task.version, dropped=dropped)

    def records(self, keys: Sequence[TaskKey], *, now: int) -> list[Record]:
        """See `Engine.records`."""
        del now
        return [task.record() if (task := self.tasks.get(key)) is not None else Record(key) for key in keys]

    def history(self, key: TaskKey, after: int, *, now: int) -> list[Past]:
        """See `Engine.history`."""
        del now
        task = self.tasks.get(key)
        return [past for past in task.past if past.offset > after] if task is not None else []

    def newest(self, upstream: str, account: str, *, final: bool, limit: int, now: int) -> list[TaskKey]:
        """See `Engine.newest`."""
        del now
        return self.tasks.listings.newest(upstream, account, final=final, limit=limit)

    def listing(
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int,
        now: int,
    ) -> list[Listing]:
        """See `Engine.listing`."""
        del now
        listings = self.tasks.listings
        return self._listed(
            listings.first_seen(upstream, account, tag=tag, group=group, before=before, limit=limit)
        )

    def oldest(self, upstream: str, account: str, *, after: int, limit: int, now: int) -> list[Listing]:
        """See `Engine.oldest`."""
        del now
        return self._listed(self.tasks.listings.oldest(upstream, account, after=after, limit=limit))

    def _listed(self, found: Sequence[tuple[int, TaskKey]]) -> list[Listing]:
        return [
            Listing(first_seen, key, task.details)
            for first_seen, key in found
            if (task := self.tasks.get(key)) is not None
        ]

    def accounts(self, upstream: str, *, now: int) -> list[str]:
        """See `Engine.accounts`."""
        del now
        return self.tasks.listings.accounts(upstream)

    def forget(self, session: str, key: TaskKey, *, now: int) -> bool:
        """See `Engine.forget`."""
        task = self.tasks.get(key)
        if task is None or not task.has_content or not self.sessions.alive(session, now):
            return False
        self.assignments.end(task)
        offset = self.log.append(ForgetEntry(self.log.next_offset(now), self.log.head, key))
        self.tasks.delete(task, offset, now)
        if self.changes is not None:
            self.changes.forgot(key, offset)
        self._touch_task(key)
        return True

    def register(self, session: str, key: TaskKey, details: bytes, *, now: int) -> int:
        """See `Engine.register`."""
        if not self.sessions.alive(session, now):
            return 0
        task = self.tasks.ensure(key, now)
        self.states.register(task, details)
        self.tasks.touch(task, now)
        self._touch_task(key)
        return self.log.append(DetailsEntry(self.log.next_offset(now), self.log.head, key, details))

    # The log

    def read(self, after: int, *, limit: int = 1000) -> list[Entry]:
        """The entries there are; see `Engine.read`."""
        return self.log.after(after, limit)

    def announce(self, session: str, key: TaskKey, code: str, body: bytes | None, *, now: int) -> int:
        """See `Engine.announce`."""
        if not self.sessions.alive(session, now):
            return 0
        task = self.tasks.ensure(key, now)
        if code == "fresh":
            task.notices.clear()
        elif body is None:
            task.notices.pop(code, None)
        elif task.end is not End.ENDED:
            task.notices[code] = body
        self._touch_task(key)
        return self.log.append(NoticeEntry(self.log.next_offset(now), self.log.head, key, code, body))

    def confirm(self, session: str, confirmed: Sequence[tuple[TaskKey, Confirmation]], *, now: int) -> None:
        """See `Engine.confirm`."""
        if not self.sessions.alive(session, now):
            return
        seen = []
        for key, confirmation in confirmed:
            task = self.tasks.get(key)
            if task is None or not task.version:
                continue
            before = task.confirmation
            if before is None or confirmation.observed_at > before.observed_at:
                task.confirmation = confirmation
                seen.append((key, confirmation))
        if seen:
            self.log.append(ConfirmEntry(self.log.next_offset(now), self.log.head, seen))

    # Budgets

    def take(self, session: str, take: Take, *, now: int) -> Lent:
        """See `Engine.take`."""
        return self.budgets.take(session, take, now)

    def report(
        self, session: str, credential: str, report: Report, *, seconds: float = 0.0, now: int
    ) -> tuple[int, int]:
        """See `Engine.report`."""
        paused_until, failures, changed = self.budgets.report(session, credential, report, seconds, now)
        if changed:
            offset = self.log.next_offset(now)
            self.log.append(BudgetEntry(offset, self.log.head, credential, paused_until, failures))
        return paused_until, failures

    def probe(self, session: str, credential: str, *, seconds: float, now: int) -> bool:
        """See `Engine.probe`."""
        return self.budgets.probe(session, credential, ends_at(seconds, now), now)

    # Learned, small documents, operations, jobs, holds

    def learn(self, name: str, samples: Sequence[bytes], *, keep: int, now: int) -> None:
        """See `Engine.learn`."""
        if not samples and keep > 0:
            return
        dropped = self.samples.learn(name, samples, keep, now)
        self._touch(PartKind.SAMPLES, name)
        if dropped is not None:
            self._touch(PartKind.SAMPLES, dropped)
        self.tidy(now)

    def learned(self, names: Sequence[str], *, now: int) -> list[list[bytes]]:
        """See `Engine.learned`."""
        return [self.samples.learned(name, now) for name in names]

    def put(
        self,
        name: str,
        value: bytes | None,
        *,
        expect: int | None,
        seconds: float,
        announced: bool = False,
        now: int,
    ) -> Put:
        """See `Engine.put`."""
        put = self.documents.put(name, value, expect=expect, seconds=seconds, now=now)
        if put.written:
            self._touch(PartKind.DOCUMENT, name)
        if announced and put.written:
            self.log.append(DocumentEntry(self.log.next_offset(now), self.log.head, name, value))
        self.tidy(now)
        return put

    def get(self, names: Sequence[str], *, now: int) -> list[tuple[int, bytes | None]]:
        """See `Engine.get`."""
        documents = [self.documents.get(name, now) for name in names]
        return [(one.version, one.value) if one is not None else (0, None) for one in documents]

    def begin(self, session: str, name: str, digest: bytes, *, seconds: float, now: int) -> Operation:
        """See `Engine.begin`."""
        operation = self.operations.begin(session, name, digest, seconds, now)
        if operation.state is OperationState.NEW:
            self._touch(PartKind.OPERATION, name)
        return operation

    def finish(self, session: str, name: str, answer: bytes | None, *, now: int) -> bool:
        """See `Engine.finish`."""
        finished = self.operations.finish(session, name, answer, now)
        if finished:
            for changed in (name, *self.operations.trim()):
                self._touch(PartKind.OPERATION, changed)
        return finished

    def add_jobs(self, jobs: Sequence[Job], *, limits: JobLimits = DEFAULT_JOB_LIMITS, now: int) -> int:
        """See `Engine.add_jobs`."""
        return self.jobs.add(jobs, limits, now)

    def add_state_jobs(self, jobs: Sequence[Job], offset: int, limits: JobLimits, *, now: int) -> int:
        """Write the jobs of a state that has this offset; returns how many had no room."""
        return self.jobs.add([job._replace(offset=offset) for job in jobs], limits, now)

    def claim_jobs(
        self, session: str, queue: str, *, limit: int, lease: float, ahead: float = 0.0, now: int
    ) -> list[Job]:
        """See `Engine.claim_jobs`."""
        return self.jobs.claim(session, queue, limit, ends_at(lease, now), ends_at(ahead, now), now)

    def finish_job(
        self, session: str, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True, now: int
    ) -> bool:
        """See `Engine.finish_job`."""
        return self.jobs.finish(session, queue, job, retry_at, now, attempted=attempted)

    def waiting(self, queues: Sequence[str], *, now: int) -> list[Waiting]:
        """See `Engine.waiting`."""
        return [self.jobs.waiting(queue, now) for queue in queues]

    def drop_queue(self, queue: str, *, now: int) -> int:
        """See `Engine.drop_queue`."""
        del now
        return self.jobs.drop(queue)

    def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float, now: int) -> Held:
        """See `Engine.hold`."""
        held = self.counters.hold(counter, hold, amount, limit=limit, window=window, now=now)
        if held.ok:
            self._touch(PartKind.HOLD, counter, hold)
        return held

    def settle(self, counter: str, hold: str, amount: float, *, now: int) -> None:
        """See `Engine.settle`."""
        del now
        self.counters.settle(counter, hold, amount)
        self._touch(PartKind.HOLD, counter, hold)

    # Other

    def drop(self, key: TaskKey, offset: int) -> None:
        """Delete a task that was deleted in storage, unless it has a state newer than `offset`."""
        task = self.tasks.get(key)
        if task is not None and task.offset <= offset:
            self.assignments.end(task)
            self.tasks.forget(task)

    def tidy(self, now: int) -> None:
        """Delete a little of what is old or too much, if it is time; called by the operations that add."""
        if not self.retention.full and now < self._tidied_until <= now + _PAUSE_MICROSECONDS:
            return
        stateless, more = self.retention.forget(now)
        for key in stateless:
            self._touch_task(key)
        more |= len(self.documents.expire(STEP, now)) == STEP
        more |= len(self.operations.expire(STEP, now)) == STEP
        more |= len(self.samples.expire(STEP, now)) == STEP
        self.jobs.expire(now)
        self.assignments.expire(STEP, now)
        self.budgets.forget_idle(STEP, now)
        self.sessions.forget(now)
        self._tidied_until = now + (_BUSY_MICROSECONDS if more else _PAUSE_MICROSECONDS)

    def census(self, *, now: int) -> Census:
        """See `Engine.census`."""
        orphans, oldest = self.assignments.orphaned(now)
        used = self.tasks.size + self.jobs.size
        return Census(orphans, oldest, used=used, limit=self.retention.max_bytes, jobs=len(self.jobs))

    def _touch_task(self, key: TaskKey) -> None:
        self._touch(PartKind.TASK, key.upstream, key.account, key.task_id)

    def _touch(self, kind: PartKind, *name: str) -> None:
        if self.changes is not None:
            self.changes.touch(kind, *name)

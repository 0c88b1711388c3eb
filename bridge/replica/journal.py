"""The journal that replicas share: states go to the engine, and return to every replica through its log.

Rule 1: followers receive a state when the log brings it, also one of this process.
Rule 2: while the engine is away, what this process sees is sent at once, with a cursor that says it is not
        recorded. It keeps its stamp until it is recorded.
Rule 3: nothing is reported with an offset that is not of this epoch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.details import NO_DETAILS, TaskDetails, decode_details
from bridge.core.event import Confirmation, Event, Notice, NoticeCode
from bridge.core.merge import amends, beyond, digest_of, is_ended
from bridge.core.task import State, TaskKey
from bridge.engine.base import (
    MAX_TASKS,
    Applied,
    Apply,
    ApplyOutcome,
    ConfirmEntry,
    DetailsEntry,
    End,
    ForgetEntry,
    Mode,
    NoticeEntry,
    Record,
    Stamp,
    StateEntry,
)
from bridge.errors import EngineUnavailable, JournalError, NotOwner, Superseded
from bridge.journal.base import Amend, Listed, Recorded
from bridge.journal.feed import Feed
from bridge.journal.sqlite.codec import decode, encode
from bridge.replica.calls import DEFAULT_ANSWERS
from bridge.replica.connection import Connection
from bridge.replica.cursors import Cursors
from bridge.replica.memory import HeldTask, TaskMemory, decode_notice, encode_notice, end_of, is_kept
from bridge.replica.outbox import Announcement, Outbox, Registration, ReplicaAppend
from bridge.replica.past import PastStates

SETTLED_SECONDS = 2.0
MAX_AMENDS = 5
MAX_CONFIRMED = 20_000
CONFIRM_SECONDS = 1.0
MAX_OFFSET = 2**53 - 1
CLOCK_ERROR_SECONDS = 1.0
"""Of the estimate of the engine's clock, with room to spare."""

_REVOKED_BY_STATE = (NoticeCode.STALLED, NoticeCode.TASK_NOT_FOUND)

logger = logging.getLogger(__name__)


class LoggedState(NamedTuple):
    """A recorded state, from an entry of the log or a record."""

    offset: int
    stamp: Stamp
    end: End
    digest: bytes
    document: bytes
    raw: bytes | None


class Rights(Protocol):
    """What the journal asks and reports the ownership of this replica."""

    def owns(self, key: TaskKey) -> bool:
        """Whether this process owns the task, as far as it knows."""

    def may_show(self, key: TaskKey) -> bool:
        """Whether what a poll of this process shows may be reported without the engine."""

    def refused(self, key: TaskKey) -> None:
        """The engine says that another one owns it."""

    def recorded(self, event: Event, *, ours: bool) -> None:
        """A state is recorded."""

    def forgotten(self, key: TaskKey) -> None:
        """A task was deleted."""

    def confirmed(self, key: TaskKey, confirmation: Confirmation) -> None:
        """The newest state was seen again by its owner."""

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """A notice was announced by its owner."""


class SharedJournal(Feed):
    """Satisfies `bridge.journal.base.Journal` over an engine that replicas share.

    Attributes:
        judged: States sent, by what the engine did with them.
    """

    def __init__(self, connection: Connection, memory: TaskMemory, clock: Clock) -> None:
        super().__init__()
        self._connection = connection
        self._memory = memory
        self._clock = clock
        self._rights: Rights
        self._outbox = Outbox(connection, clock, self._answered, self._registered)
        self._settled_news = asyncio.Event()
        self._awaiting: dict[TaskKey, HeldTask] = {}
        # From the start of a resync until it is done, also if it takes several connections, what was missed
        # is not known here, though the log continues behind it.
        self._unsynced = False
        self._known_head = self._heard_last = 0
        self._missed = False  # entries of the log, since the followers of the index were last called
        self._unsent: dict[TaskKey, Confirmation] = {}
        self._forgetting: dict[TaskKey, set[asyncio.Event]] = {}
        self._cursors = Cursors(connection, clock, lambda: self.head)
        self._past = PastStates(connection, memory)
        self.judged: Callable[[ApplyOutcome], None] = lambda _: None
        self.returning: Callable[[], None] = lambda: None
        connection.workers += [self._outbox.run, self._send_confirmed]

    def share(self, rights: Rights) -> None:
        """Who owns what; before the first append."""
        self._rights = rights

    # Reading, see `Journal`

    @property
    def epoch(self) -> str:
        """See `Journal`."""
        return self._connection.epoch

    @property
    def head(self) -> int:
        """The newest offset up to which everything is known here."""
        return self._known_head if self._unsynced else self._connection.received

    @property
    def usable(self) -> bool:
        """Whether the engine was ever reached: while it is away, what is seen here is sent all the same."""
        return self._connection.reached

    def settled(self, keys: Collection[TaskKey]) -> bool:
        """See `Journal`."""
        if self._unsynced or not self._connection.current:
            return False
        unsettled = self._memory.unsettled
        return not unsettled or unsettled.isdisjoint(keys)

    @property
    def reconciled(self) -> bool:
        """Whether what any bridge showed unrecorded is recorded by now (`Connection.settles_in`)."""
        return self._connection.settles_in == 0

    async def caught_up(self, cursor: Cursor) -> bool:
        """See `Journal`. In the second after a return of the engine, cursors of an earlier epoch wait."""
        return await self._cursors.caught_up(cursor)

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """See `Journal`: from memory, or after one question to the engine for all that are not known.

        While the engine is away: what is known here.

        Raises:
            EngineUnavailable: The engine was never reached.
        """
        self._check_reached()
        held = [self._memory.ensure(key) for key in keys]
        if self._connection.up and not self._connection.current:
            await self._connection.be_current(SETTLED_SECONDS)
        if not all(one.settled for one in held) and self._connection.up:
            await self._settle(held)
        epoch = self.epoch
        for one in held:
            self._memory.touch(one)
        # Asked again: while this waited, one may have been forgotten and begun again.
        known = (self._memory.get(key) for key in keys)
        return [one.event(epoch) if one is not None else None for one in known]

    async def _settle(self, held: Sequence[HeldTask]) -> None:
        """Ask about tasks without a watch; those with one are asked about by the ownership."""
        unknown = [one.key for one in held if not one.settled and not one.attended]
        try:
            await self.ask(unknown)
        except EngineUnavailable:
            return
        until = self._clock.monotonic() + SETTLED_SECONDS
        while self._connection.up and not all(one.settled for one in held):
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            await self._clock.wait(self._settled_news, left)

    async def ask(self, keys: Sequence[TaskKey]) -> None:
        """Take in the records of some tasks.

        Raises:
            EngineUnavailable: The engine is away.
        """
        for record in await self._connection.records(keys):
            self.learn(record)

    async def history(self, keys: Sequence[TaskKey], after: int) -> Sequence[Recorded]:
        """See `Journal`; while the engine is away, the newest state only."""
        self._check_reached()
        return await self._past.history(keys, after)

    async def read(self, recorded: Sequence[Recorded], *, raw: bool = True) -> Sequence[Event]:
        """See `Journal`."""
        del raw
        return await self._past.read(recorded)

    async def unfinished(self) -> Sequence[Event]:
        """Nothing: open tasks are claimed, by whichever replica is first."""
        return ()

    async def lost(self, limit: int) -> Sequence[Event]:
        """Nothing: a lost task has an owner, as an open one."""
        del limit
        return ()

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> Sequence[TaskKey]:
        """See `Journal`.

        Raises:
            EngineUnavailable: It is away.
        """
        return await self._connection.call(
            "newest", lambda engine: engine.newest(upstream, account, final=final, limit=limit)
        )

    async def first_seen(self, keys: Sequence[TaskKey]) -> list[float | None]:
        """See `Journal`: an offset is the time at which it was assigned."""
        await self.latest(keys)
        held = (self._memory.get(key) for key in keys)
        return [one.first_seen / 1e6 if one is not None and one.first_seen else None for one in held]

    async def details_of(self, keys: Sequence[TaskKey]) -> list[TaskDetails]:
        """See `Journal`: from memory, or after one question to the engine for all that are not known.

        Raises:
            EngineUnavailable: It is away, and not all are known here.
        """
        self._check_reached()
        found = {}
        unknown = [key for key in keys if not self._knows_details(key)]
        for record in await self._connection.records(unknown):
            self.learn(record)
            found[record.key] = decode_details(record.details)
        return [found[key] if key in found else self.details(key) for key in keys]

    def _knows_details(self, key: TaskKey) -> bool:
        held = self._memory.get(key)
        return held is not None and (held.settled or held.described)

    async def listing(
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int = 100,
    ) -> list[Listed]:
        """See `Journal`: as the engine has it, which may be ahead of what was received here.

        Raises:
            EngineUnavailable: It is away.
        """
        before = min(max(before, 0), MAX_OFFSET)  # a client's: nothing is beyond it
        found = await self._connection.call(
            "listing",
            lambda engine: engine.listing(
                upstream, account, tag=tag, group=group, before=before, limit=limit
            ),
        )
        return [Listed(one.first_seen, one.key, decode_details(one.details)) for one in found]

    async def places(self, keys: Sequence[TaskKey]) -> list[int]:
        """See `Journal`."""
        await self.latest(keys)
        held = (self._memory.get(key) for key in keys)
        return [0 if one is None else one.first_seen for one in held]

    # Writing, see `Journal`

    async def append(
        self, key: TaskKey, state: State, *, observed_at: float = 0.0, free: bool = False
    ) -> Event:
        """See `Journal`. While the engine is away, the event returned is not recorded: its cursor shows it.

        Raises:
            NotOwner: Another process polls the task; not with `free`.
            Superseded: A newer state is recorded: `latest` has it.
            EngineUnavailable: The engine was never reached, or is away for too long.
        """
        self._check_reached()
        held = self._memory.ensure(key)
        item = self._make_append(held, state, observed_at, free=free)
        if not held.appending and (held.unrecorded or not self._connection.up):
            self._go_on(item)
        else:
            if self.planner is not None:
                self._add_jobs(held, item)
            held.appending.append(item.apply.stamp)
            self._outbox.put(item)
            for code in _REVOKED_BY_STATE:
                if code in held.notices:
                    self._outbox.put(Announcement(key, code, None))
        return await item.done

    def _make_append(self, held: HeldTask, state: State, observed_at: float, *, free: bool) -> ReplicaAppend:
        if not free and not self._rights.owns(held.key) and self._connection.up:
            raise NotOwner(f"another process polls {held.key.ref}")
        if held.appending:
            base = held.appending[-1]
        else:
            base = held.stamp if held.unrecorded else held.recorded_stamp
        expect = base.version
        owner = self._rights.owns(held.key)
        apply = Apply(
            key=held.key,
            mode=Mode.OWNER if owner and not free else Mode.FREE,
            expect=expect,
            stamp=Stamp(expect + 1, self._connection.writer),
            end=end_of(state),
            digest=digest_of(state),
            document=encode(state),
            raw=state.raw,
            details=held.unsent_details if held.described else None,
            keep=free and is_kept(state),
        )
        return ReplicaAppend(apply, state, observed_at, free, base)

    def _add_jobs(self, held: HeldTask, item: ReplicaAppend) -> None:
        """Plan what is recorded with a state that is about to be sent."""
        before = self._outbox.append_of(held.key, held.appending[-1]) if held.appending else None
        previous = before.state if before is not None else held.state
        jobs = self.plan(held.key, previous, item.state)
        if jobs:
            item.apply = item.apply._replace(jobs=jobs)

    async def amend(self, key: TaskKey, amend: Amend) -> Event | None:
        """See `Journal.amend`.

        Raises:
            EngineUnavailable: It is away, or the end is not recorded yet: it was amended or not.
        """
        for _ in range(MAX_AMENDS):
            (event,) = await self.latest([key])
            (details,) = await self.details_of([key])
            held = self._memory.get(key)
            if event is None or held is None or not is_ended(event.state):
                return None
            if held.state is not event.state:
                continue  # amended meanwhile
            if held.unrecorded or not self._connection.up:
                raise EngineUnavailable(f"the end of {key.ref} is not recorded yet")
            state = amend(event.state)
            if state is None:
                return None
            jobs = self.plan_amendment(key, event.state, state, details)
            document, before = encode(state), held.recorded_stamp
            apply = Apply(
                key=key,
                mode=Mode.AMEND,
                expect=before.version,
                stamp=Stamp(before.version + 1, self._connection.writer),
                end=End.ENDED,
                # Not that of the event, which an amendment leaves: the engine takes it for a repeat.
                digest=blake2b(document, digest_size=16).digest(),
                document=document,
                raw=state.raw,
                jobs=jobs,
            )
            (applied,) = await self._apply(apply)
            self.judged(applied.outcome)
            if applied.outcome is ApplyOutcome.RECORDED:
                self.report_recorded(apply, applied)
                await self._connection.reached_offset(applied.offset, SETTLED_SECONDS)
                return event._replace(state=state)
            if applied.outcome is ApplyOutcome.FENCED:
                raise self._session_expired()
            # Another bridge was faster.
            await self.ask([key])
        raise EngineUnavailable(f"the end of {key.ref} is amended again and again")

    async def _apply(self, apply: Apply) -> Sequence[Applied]:
        session = self._connection.session
        return await self._connection.call("apply", lambda engine: engine.apply(session, [apply]))

    def describe(self, key: TaskKey, details: TaskDetails) -> None:
        """See `Journal`."""
        held = self._memory.ensure(key)
        if details._replace(since=held.details.since) != held.details:
            held.described = True
            held.details = details

    def details(self, key: TaskKey) -> TaskDetails:
        """See `Journal`."""
        held = self._memory.get(key)
        return held.details if held is not None else NO_DETAILS

    async def register(self, key: TaskKey, details: TaskDetails) -> None:
        """See `Journal`: recorded by the engine, and received here, when it returns.

        Raises:
            EngineUnavailable: It is away: it was recorded or not.
        """
        (event,) = await self.latest([key])
        if event is None:
            return
        offset, session = 0, self._connection.session
        while not offset or offset > details.since:
            details = details._replace(since=self._since())
            encoded = details.encode()
            offset = await self._connection.call(
                "register",
                lambda engine, encoded=encoded: engine.register(session, key, encoded),  # type: ignore[misc]
            )
            if not offset:
                raise self._session_expired()
            held = self._memory.get(key)
            if held is not None and held.described:
                held.details = details  # what was to be recorded with the next state is replaced too
                held.sent_details(offset)
        await self._connection.reached_offset(offset, SETTLED_SECONDS)

    def _since(self) -> int:
        """An offset that no entry has before the answer to a call that begins now.

        A follower of a tag that was cut off with a cursor below the entry of a registration has not been sent
        the task: `since` must not be less than that entry's offset, which only the engine knows. Offsets are
        the engine's time, or count up from its head if that is ahead. A call that takes longer than is
        added here fails, or is sent again. The price: a client that returns with a cursor of these seconds
        is sent the task once more.
        """
        connection = self._connection
        seconds = DEFAULT_ANSWERS * connection.times.timeout + CLOCK_ERROR_SECONDS
        now = connection.engine_time(self._clock.monotonic())
        return max(now, connection.head) + round(seconds * 1e6)

    async def forget(self, key: TaskKey) -> bool:
        """See `Journal`: deleted by the engine, and here, when it returns.

        Raises:
            EngineUnavailable: It is away: it was deleted or not.
        """
        self._check_reached()
        session, heard = self._connection.session, asyncio.Event()
        waiting = self._forgetting.setdefault(key, set())
        waiting.add(heard)
        try:
            deleted = await self._connection.call("forget", lambda engine: engine.forget(session, key))
            if deleted:
                await self._clock.wait(heard, SETTLED_SECONDS)
                if not heard.is_set():
                    await self._forget_unheard(key)
                return True
        finally:
            waiting.discard(heard)
            if not waiting and self._forgetting.get(key) is waiting:
                del self._forgetting[key]
        # There was nothing, or the session was dead.
        (record,) = await self._connection.records([key])
        if record.version or record.details is not None:
            raise self._session_expired()
        self.learn(record)
        return False

    async def _forget_unheard(self, key: TaskKey) -> None:
        """The connection broke, and the entry of a deletion may never come; the task may have begun again."""
        try:
            (record,) = await self._connection.records([key])
        except EngineUnavailable:
            self._forget(key)
            self.publish_forgotten(key)
        else:
            self.learn(record)

    def _session_expired(self) -> EngineUnavailable:
        self._connection.drop("the session has expired")
        return EngineUnavailable("the session of this bridge has expired")

    def _check_reached(self) -> None:
        if not self._connection.reached:
            raise EngineUnavailable("the engine that this bridge shares with others was not reached yet")

    def announce(self, key: TaskKey, notice: Notice, *, here: bool = False) -> None:
        """See `Journal`: the owner's go through the engine to the viewers of every replica."""
        held = self._memory.get(key)
        body = encode_notice(notice)
        elsewhere = not here and held is not None and self._connection.up and self._rights.owns(key)
        # A 404 believed for a minute and found again: replicas that asked again wait for it.
        again = notice.code is NoticeCode.TASK_NOT_FOUND
        if held is None or not elsewhere or (held.notices.get(notice.code) == body and not again):
            super().announce(key, notice)
        else:
            self._outbox.put(Announcement(key, notice.code.value, body))

    def confirm(self, key: TaskKey, confirmation: Confirmation) -> None:
        """See `Journal`: at once here, at the other replicas with the next entry, at most one a second."""
        super().confirm(key, confirmation)
        if self._rights.owns(key):
            self._unsent.pop(key, None)
            self._unsent[key] = confirmation
            if len(self._unsent) > MAX_CONFIRMED:
                del self._unsent[next(iter(self._unsent))]

    async def _send_confirmed(self) -> None:
        while True:
            await self._clock.sleep(CONFIRM_SECONDS)
            batch = [(key, self._unsent.pop(key)) for key in list(self._unsent)[:MAX_TASKS]]
            if batch:
                await self._send_batch(batch)

    async def _send_batch(self, confirmed: Sequence[tuple[TaskKey, Confirmation]]) -> None:
        session = self._connection.session
        await self._connection.call("confirm", lambda engine: engine.confirm(session, confirmed))

    async def close(self) -> None:
        """Nothing of its own: the replica closes the connection."""

    # Answers of the engine

    def _answered(self, item: ReplicaAppend, applied: Applied) -> None:
        self.judged(applied.outcome)
        apply = item.apply
        if (apply.jobs or apply.details is not None) and applied.outcome is ApplyOutcome.RECORDED:
            self.report_recorded(apply, applied)
        if applied.outcome is ApplyOutcome.DUPLICATE:
            self._register(self._memory.ensure(item.key))  # the same content, recorded without it
        if applied.outcome in (ApplyOutcome.RECORDED, ApplyOutcome.DUPLICATE):
            self.when_heard(applied.offset, lambda: self._finish(item))
            return
        if applied.outcome is ApplyOutcome.FENCED and item.free:
            # Not for the want of ownership: the session is dead. The next one records it.
            self._connection.drop("the session has expired")
            return
        if applied.outcome is ApplyOutcome.FENCED:
            self._rights.refused(item.key)
            error: JournalError = NotOwner(f"another process polls {item.key.ref}")
        else:
            error = Superseded(f"a newer state of {item.key.ref} is recorded")
        offset = 0
        if applied.record is not None:
            self.learn(applied.record)
            offset = applied.record.offset
        # What was made from it as well, or it would follow another state of the same version.
        refused = [item, *self._outbox.withdraw(item.key)]
        held = self._memory.ensure(item.key)
        for one in refused:
            self._close_append(held, one)

        def fail() -> None:
            for one in refused:
                one.fail(error)

        # Its caller merges with what is recorded: that must have been received here.
        self.when_heard(offset, fail)
        self._register(held)

    def report_recorded(self, apply: Apply, applied: Applied) -> None:
        """What was recorded with a state."""
        if apply.jobs:
            self.report_jobs(apply.key, apply.jobs, applied.dropped)
        if apply.details is not None:
            self._sent_details(apply.key, apply.details, applied.offset)

    def _sent_details(self, key: TaskKey, details: bytes, offset: int) -> None:
        held = self._memory.get(key)
        if held is not None and held.unsent_details == details:
            held.sent_details(offset)

    def _register(self, held: HeldTask) -> None:
        """Send what a task was submitted with, as no state takes it along."""
        if held.described:
            held.details = held.details._replace(since=self._since())
            self._outbox.put(Registration(held.key, held.details.encode()))

    def _registered(self, registration: Registration, offset: int) -> None:
        held = self._memory.get(registration.key)
        if held is not None and held.unsent_details == registration.details and offset > held.details.since:
            self._register(held)  # it took longer than was allowed for
        else:
            self._sent_details(registration.key, registration.details, offset)

    def described(self, entry: DetailsEntry) -> None:
        """The log brought what a task was submitted or registered with."""
        self._learn_details(entry.key, entry.details, entry.offset)

    def _learn_details(self, key: TaskKey, details: bytes, offset: int) -> None:
        held = self._memory.get(key)
        if held is not None:
            held.learn_details(details, offset)
        if self._index_followers:
            self.publish_details(key, decode_details(details))

    def forgotten(self, entry: ForgetEntry) -> None:
        """The log brought that a task was deleted."""
        self._forget(entry.key)
        self.publish_forgotten(entry.key)

    def forget_outlived(self, held: HeldTask, record: Record) -> bool:
        """Forget what is held of a task that was deleted since, while the log did not arrive; whether it was.

        What was seen here alone, and after that, is of another life of the task. Followers of the index may
        know of that life already: they receive what the task is known by now, not that it is gone.
        """
        if not record.forgotten or held.newest_recorded > record.forgotten:
            return False
        if not held.newest_recorded and (
            held.state is None or self._connection.engine_time(held.observed_at) > record.forgotten
        ):
            return False
        self._forget(held.key)
        if record.version or record.details is not None:
            self.publish_details(held.key, decode_details(record.details))
        else:
            self.publish_forgotten(held.key)
        return True

    def _forget(self, key: TaskKey) -> None:
        """Nothing that is known of a task counts from now on."""
        held = self._memory.get(key)
        if held is not None:
            for item in self._outbox.withdraw(key):
                self._close_append(held, item)
                item.fail(Superseded(f"{key.ref} was forgotten"))
            self._memory.clear(key)
        self._confirmations.pop(key, None)
        self._unsent.pop(key, None)
        self._awaiting.pop(key, None)
        self._past.forget(key)
        self._rights.forgotten(key)
        for heard in self._forgetting.pop(key, ()):
            heard.set()

    def when_heard(self, offset: int, call: Callable[[], None]) -> None:
        """Call once the log has been received up to an offset, or will not be."""
        if offset <= self._connection.received:
            call()
        else:
            self._outbox.when_heard(offset, call)

    def _finish(self, item: ReplicaAppend) -> None:
        """Recorded, and received: unless the entry itself has finished it."""
        if item.done.done() or not self._connection.up:
            return
        held = self._memory.ensure(item.key)
        event = held.event(self.epoch)
        self._close_append(held, item)
        if event is not None:
            item.succeed(event)
        else:
            # Another bridge recorded the same before this one received anything of the task.
            item.fail(Superseded(f"the same state of {item.key.ref} is recorded"))

    def _close_append(self, held: HeldTask, item: ReplicaAppend) -> None:
        self._outbox.done(item)
        if item.apply.stamp in held.appending:
            held.appending.remove(item.apply.stamp)

    # The log, called by the replica

    def begin_resync(self, *, epoch_changed: bool) -> None:
        """What is known may be outdated until the engine was asked again."""
        if epoch_changed:
            self._known_head = 0
        elif not self._unsynced:
            self._known_head = self._heard_last
        self._missed |= epoch_changed or self._connection.received != self._heard_last
        self._unsynced = True
        self._awaiting.clear()
        self._memory.unsettle(epoch_changed=epoch_changed)
        if epoch_changed:
            self._past.clear()
            for follower in self._followers:
                follower.new_epoch()

    def end_resync(self, records: Iterable[Record]) -> None:
        """The records of everything attended; reported in the order of the log."""
        for record in sorted(records, key=lambda record: record.offset):
            self.learn(record)
        for held in self._memory.unrecorded():
            # In the new epoch it has another cursor, and is not recorded yet. One that another replica has
            # recorded comes with the log.
            if held.awaited <= self._connection.received:
                self._publish(held, again=True)
        for held in self._memory:
            if held.described and not held.unrecorded and (held.attended or held.ever_recorded):
                self._register(held)
        self._unsynced = False
        self.returning()
        if self._missed:
            self._missed = False
            self.publish_reset()

    def learn(self, record: Record) -> None:
        """Take in what the engine holds of a task.

        A state that the log has not brought yet waits for it: all are reported in one order.
        """
        held = self._memory.ensure(record.key)
        if self.forget_outlived(held, record):
            held = self._memory.ensure(record.key)
        held.first_seen = record.first_seen
        held.ever_recorded |= record.version > 0
        held.learn_details(record.details)
        if record.offset > self._connection.received:
            held.awaited = record.offset
            self._awaiting[record.key] = held
            self._take_notices(held, dict(record.notices))
            return
        amended = record.version > held.recorded_stamp.version and record.offset == held.recorded
        if record.document is not None and (record.offset > held.recorded or (amended and held.unrecorded)):
            news = LoggedState(
                record.offset, record.stamp, record.end, record.digest, record.document, record.raw
            )
            self._take(held, news)
        elif record.document is not None and amended and held.held_at:
            self._amend(held, record.stamp, record.digest, record.document, record.raw)
        self._take_notices(held, dict(record.notices))
        if record.confirmation is not None and _is_of(record.confirmation, held):
            known = self.confirmation(record.key)
            if known is None or known.observed_at < record.confirmation.observed_at:
                super().confirm(record.key, record.confirmation)
        if not held.settled:
            self._settled(held)

    def _take_notices(self, held: HeldTask, notices: dict[str, bytes]) -> None:
        if held.recorded or held.awaited:
            notices.pop(NoticeCode.TASK_NOT_FOUND, None)  # a state disproves it
        new = {code: body for code, body in notices.items() if held.notices.get(code) != body}
        held.notices = notices
        for code, body in new.items():
            notice = decode_notice(code, body)
            if notice is not None and held.attended and not self._rights.owns(held.key):
                super().announce(held.key, notice)

    def _settled(self, held: HeldTask) -> None:
        self._memory.settle(held)
        news, self._settled_news = self._settled_news, asyncio.Event()
        news.set()

    def recorded(self, entry: StateEntry, record: Record | None) -> None:
        """The log brought a state.

        Args:
            record: What is recorded of the task, if the entry itself is not whole.
        """
        if entry.details is not None:
            self._learn_details(entry.key, entry.details, entry.offset)
        held = self._memory.get(entry.key)
        if entry.amended:
            self._take_amendment(held, entry, record)
            return
        if held is None or entry.offset <= held.recorded:
            return
        document, raw = entry.document, entry.raw
        if not entry.whole or document is None:
            ours = entry.stamp in held.appending
            if record is not None and record.stamp == entry.stamp:
                document, raw = record.document, record.raw
            elif not ours and not held.is_of(entry.stamp, entry.digest):
                return  # a newer one is recorded already: that entry follows
        news = LoggedState(entry.offset, entry.stamp, entry.end, entry.digest, document or b"", raw)
        self._take(held, news)

    def _take_amendment(self, held: HeldTask | None, entry: StateEntry, record: Record | None) -> None:
        """The log brought an amendment of an end: the state held keeps its offset."""
        if held is None or held.recorded_stamp.version >= entry.stamp.version:
            return
        if record is not None:
            self.learn(record)
        elif held.held_at and entry.document is not None:
            self._amend(held, entry.stamp, entry.digest, entry.document, entry.raw)

    def _amend(self, held: HeldTask, stamp: Stamp, digest: bytes, document: bytes, raw: bytes | None) -> None:
        state = self._decoded(held.key, document, raw)
        if state is None:
            return
        held.recorded_stamp = stamp
        at, observed_at = held.held_at, held.observed_at
        held.hold(state, stamp, digest, at=at, builds_on_held=True, observed_at=observed_at)
        event = held.event(self.epoch)
        assert event is not None
        self.publish_amended(event)

    def needs_record(self, entry: StateEntry) -> bool:
        """Whether an entry can only be reported with what the record has."""
        held = self._memory.get(entry.key)
        if entry.amended:
            if held is None or held.recorded_stamp.version >= entry.stamp.version:
                return False
            # Else what it amends was not received here, or is not what is shown.
            follows = held.held_at and held.recorded_stamp.version + 1 == entry.stamp.version
            return not (follows and entry.whole and entry.document is not None)
        if entry.whole and entry.document is not None:
            return False
        if held is None or entry.offset <= held.recorded or held.is_of(entry.stamp, entry.digest):
            return False
        return entry.stamp not in held.appending

    def received(self, offset: int) -> None:
        """The log has been received up to here."""
        if not self._unsynced:
            self._heard_last = offset
        for key, held in list(self._awaiting.items()):
            if held.awaited <= offset:
                del self._awaiting[key]
                if not held.settled:
                    self._settled(held)
        self._outbox.received(offset)

    def _take(self, held: HeldTask, news: LoggedState) -> None:
        """A recorded state, in the order of the log: hold it and report it, unless more is shown already."""
        if not (held.described and held.unrecorded):
            self._take_state(held, news)
            return
        self._take_state(held, news)
        if not held.unrecorded and held.described:
            # Another bridge was faster: no state of this one takes along what was described here.
            passed_over = held.passed_over
            if passed_over is not None and passed_over[1] == held.unsent_details:
                held.sent_details(passed_over[0])
            else:
                self._register(held)

    def _take_state(self, held: HeldTask, news: LoggedState) -> None:
        item = self._outbox.append_of(held.key, news.stamp) if held.appending else None
        follows = not held.unrecorded and news.stamp.version == held.recorded_stamp.version + 1
        held.recorded, held.recorded_stamp, held.ever_recorded = news.offset, news.stamp, True
        held.newest_recorded = max(held.newest_recorded, news.offset)
        if not held.first_seen and (held.settled or news.stamp.version == 1):
            held.first_seen = news.offset  # when the engine was asked there was none
        if held.state is not None and (
            held.is_of(news.stamp, news.digest) or (held.unrecorded and news.digest == held.digest)
        ):
            # What is held is this state: only now its offset is known.
            held.stamp, held.held_at = news.stamp, news.offset
            held.lineage.add(news.stamp)
            self._pass(held, item, is_news=item is not None)
            return
        state = item.state if item is not None else self._decoded(held.key, news.document, news.raw)
        if state is None:
            return
        observed_at = item.observed_at if item is not None else self._connection.monotonic(news.offset)
        if held.unrecorded and not self._adopts(held, state, news):
            return
        held.hold(
            state,
            news.stamp,
            news.digest,
            at=news.offset,
            builds_on_held=follows,
            observed_at=observed_at,
        )
        held.end = news.end
        self._pass(held, item, is_news=True)

    def _adopts(self, held: HeldTask, state: State, news: LoggedState) -> bool:
        """Whether a recorded state replaces an unrecorded one that is shown: only if it adds something."""
        assert held.state is not None
        if news.end is End.ENDED:
            # Nothing is recorded beyond it but what amends it: that is recorded again.
            follows = news.stamp in held.lineage and news.stamp != held.stamp
            return not (follows and amends(state, held.state))
        if news.stamp in held.lineage and news.stamp != held.stamp:
            return False  # what is shown was made from it
        merged = beyond(held.state, state)
        if merged is None:
            return False
        digest = digest_of(merged)
        if digest == news.digest:
            return True
        # Both know something: shown together, and recorded together once this has been.
        stamp = Stamp(news.stamp.version + 1, self._connection.writer)
        held.hold(state, news.stamp, news.digest, at=0, builds_on_held=False)
        held.hold(merged, stamp, digest, at=0, builds_on_held=True)
        self._publish(held)
        if (event := held.event(self.epoch)) is not None:
            self._rights.recorded(event, ours=False)  # what is seen next is merged with it
        return False

    def _pass(self, held: HeldTask, item: ReplicaAppend | None, *, is_news: bool) -> None:
        for code in _REVOKED_BY_STATE:
            held.notices.pop(code, None)
        event = held.event(self.epoch)
        assert event is not None
        self.publish(event, again=not is_news)
        if item is not None:
            self._close_append(held, item)
            item.succeed(event)
        if is_news:
            self._rights.recorded(event, ours=item is not None)

    def _publish(self, held: HeldTask, *, again: bool = False) -> None:
        event = held.event(self.epoch)
        if event is not None:
            self.publish(event, again=again)

    def _decoded(self, key: TaskKey, document: bytes, raw: bytes | None) -> State | None:
        try:
            return decode(document, raw)
        except JournalError as error:
            logger.warning("recorded state not readable", extra={"task": key.ref, "error": str(error)})
            return None

    def noticed(self, entry: NoticeEntry) -> None:
        """The log brought a notice."""
        held = self._memory.get(entry.key)
        if held is None:
            return
        if entry.body is None:
            held.notices.pop(entry.code, None)
            return
        notice = decode_notice(entry.code, entry.body)
        if notice is not None and notice.code is NoticeCode.FRESH:
            held.notices.clear()
        else:
            held.notices[entry.code] = entry.body
        if notice is not None and held.attended:
            super().announce(entry.key, notice)
            if not self._rights.owns(entry.key):
                self._rights.noticed(entry.key, notice)

    def confirmed(self, entry: ConfirmEntry) -> None:
        """The log brought confirmations."""
        for key, confirmation in entry.confirmed:
            held = self._memory.get(key)
            if held is None or self._rights.owns(key):
                continue
            if _is_of(confirmation, held):
                super().confirm(key, confirmation)
            if held.attended:
                self._rights.confirmed(key, confirmation)

    def take_recorded(self, held: HeldTask, record: Record, state: State | None) -> None:
        """What was unrecorded is recorded, or (a state) another one replaces it that says as much.

        Args:
            record: Received.
        """
        if state is not None:
            held.hold(state, record.stamp, record.digest, at=record.offset, builds_on_held=False)
            held.end = record.end
        held.stamp, held.held_at = record.stamp, record.offset
        held.lineage.add(record.stamp)
        held.recorded, held.recorded_stamp = record.offset, record.stamp
        held.newest_recorded = max(held.newest_recorded, record.offset)
        self._pass(held, None, is_news=state is not None)
        self._register(held)  # no state takes it along

    # The engine is away

    def away(self) -> None:
        """What is on its way is recorded or not: it is shown, with its stamp, and recorded again later."""
        for item in self._outbox.take_all():
            held = self._memory.ensure(item.key)
            self._close_append(held, item)
            if not item.done.done():
                self._go_on(item)

    def _go_on(self, item: ReplicaAppend) -> None:
        """Show a state without the engine, if this process may."""
        held = self._memory.ensure(item.key)
        if not self._connection.may_go_on:
            item.fail(EngineUnavailable("the engine that this bridge shares with others is away"))
            return
        if not item.free and not self._rights.may_show(item.key):
            item.fail(NotOwner(f"another process polls {item.key.ref}"))
            return
        state: State | None = item.state
        if held.state is not None and held.stamp != item.base:
            state = beyond(held.state, item.state)  # another state came in between
        if state is not None:
            stamp = Stamp(held.stamp.version + 1, item.apply.stamp.session)
            digest = item.apply.digest if state is item.state else digest_of(state)
            held.hold(state, stamp, digest, at=0, builds_on_held=True, observed_at=item.observed_at)
        event = held.event(self.epoch)
        assert event is not None
        if state is not None:
            self.publish(event)
            self.returning()
        item.succeed(event)


def _is_of(confirmation: Confirmation, held: HeldTask) -> bool:
    """Whether the state held was confirmed, not the one before: confirmations are sent apart from states."""
    return held.state is None or confirmation.observed_at >= held.state.observed_at

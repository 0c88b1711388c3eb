"""Which tasks this replica polls: asked, claimed, handed over.

Rule 1: who is asked first owns: one call brings interest, ownership and the record.
Rule 2: after a return of the engine, owners reclaim theirs first; others wait a second.
Rule 3: an owner that is gone leaves orphans; every replica claims those that are due, of accounts whose key
        it has.
Rule 4: the start of the newest poll and the time of the next one go with the task, whichever session takes
        it, and however: no two polls of it are nearer than the shortest interval (`Record.polled_at`).
Rule 5: nothing here waits; workers send what has gathered.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from bridge.clock import Clock
from bridge.core.event import Confirmation, Event, Notice
from bridge.core.merge import is_ended
from bridge.core.task import TaskKey
from bridge.engine.base import (
    MAX_TASKS,
    Called,
    CallEntry,
    End,
    Owner,
    Record,
    Release,
    Released,
    Want,
    Wanted,
)
from bridge.engine.ownership import KnownTask, Watches
from bridge.errors import EngineUnavailable
from bridge.replica.connection import Connection
from bridge.replica.journal import SharedJournal
from bridge.replica.memory import TaskMemory, standing_notices
from bridge.replica.orphans import Orphans

HANDED_SECONDS = 2.0
"""After which a task that cannot be polled here is due for others."""

MIN_INTEREST_SECONDS = 10.0
OWNED_TASKS = 1000
"""Named by one answer to `owned`."""

MAX_CALLS_IN_FLIGHT = 16
MAX_CALLS = 1000

logger = logging.getLogger(__name__)


class Stake:
    """What this replica has to do with one task.

    Attributes:
        wanted: Whether a watch here was started for a viewer or to its end; not by a grant alone.
        watched: Whether a watch runs here.
        owned: Whether this session owns it, as far as is known.
        was_owned: Whether the session before did: it may be reclaimed at once.
        unowned: Whether no replica owned it when it was last asked about.
        solo: Whether it is polled here because the engine is away and nothing is known of it.
        due: When it is polled next, monotonic seconds; in the past while a poll is in flight.
        polled_at: When its newest poll here started, or one elsewhere may have, monotonic seconds; minus
            infinity before the first.
        releasing: Whether it was given up, and the engine has not answered yet: then it may be another's.
    """

    __slots__ = (
        "called_back",
        "due",
        "keeps",
        "owned",
        "polled_at",
        "releasing",
        "solo",
        "unowned",
        "wanted",
        "was_owned",
        "watched",
    )

    def __init__(self) -> None:
        self.wanted = self.watched = self.owned = self.was_owned = self.unowned = self.solo = False
        self.keeps = self.called_back = self.releasing = False
        self.due: float | None = None
        self.polled_at = float("-inf")

    @property
    def polls_here(self) -> bool:
        """Whether it is polled here, or was until the session ended."""
        return self.owned or self.was_owned or self.solo

    @property
    def reclaims(self) -> bool:
        """Whether it is reclaimed at once: what was polled here alone may have an owner that is about to."""
        return self.owned or self.was_owned or (self.solo and self.keeps)


class SharedOwnership:
    """Satisfies `bridge.engine.ownership.Ownership` for a replica.

    Args:
        linger: Seconds for which interest lasts without being repeated.
        accounts: Whose keys are here now.
        jitter: Returns 0-1, for jitter.

    Attributes:
        owned: Tasks owned now.
        counted: Called for each task taken over from another replica.
    """

    shared = True

    def __init__(
        self,
        connection: Connection,
        memory: TaskMemory,
        journal: SharedJournal,
        clock: Clock,
        *,
        linger: float,
        jitter: Callable[[], float],
        accounts: Callable[[], Iterable[str]],
    ) -> None:
        self._connection = connection
        self._memory = memory
        self._journal = journal
        self._clock = clock
        self._interest = max(linger, MIN_INTEREST_SECONDS)
        self._watches: Watches
        self._stakes: dict[TaskKey, Stake] = {}
        self._asking: dict[TaskKey, None] = {}
        self._releasing: dict[TaskKey, None] = {}
        self._handing: dict[TaskKey, None] = {}
        self._keeping: dict[TaskKey, bool] = {}
        self._calling: dict[TaskKey, bool] = {}
        self._wake = asyncio.Event()
        self._granting: TaskKey | None = None
        self._found: set[TaskKey] = set()
        self._session = ""
        self._settling = False
        self._draining = self._left = self._was_alone = False
        self.owned = 0
        self.counted: Callable[[], None] = _nothing
        orphans = Orphans(
            connection, clock, jitter=jitter, accounts=accounts, may_claim=self._may_claim, adopt=self._adopt
        )
        connection.workers += [self._send, orphans.run, self._rewant]

    # What the watches ask, see `Ownership`

    def report_to(self, watches: Watches) -> None:
        """See `Ownership`."""
        self._watches = watches

    def want(self, key: TaskKey) -> None:
        """See `Ownership`."""
        stake = self._ensure(key)
        granting = self._granting == key
        stake.watched = True
        stake.wanted |= not granting
        self._releasing.pop(key, None)
        if granting or stake.releasing:
            return  # the answer says who polls it
        if stake.owned:
            # Its last watch has just ended; this one must receive that it may poll.
            asyncio.get_running_loop().call_soon(self._grant, key, None)
            return
        stake.solo = self._connection.alone and self._is_unknown(key)
        self._ask(key)

    def drop(self, key: TaskKey) -> None:
        """See `Ownership`."""
        stake = self._stakes.get(key)
        if stake is None:
            return
        stake.wanted = stake.watched = stake.keeps = stake.solo = False
        self._asking.pop(key, None)
        if not stake.owned:
            self._forget(key)
            return
        if self._granting == key:
            # It cannot be polled here: an upstream or a key that others have.
            self._handing[key] = None
        self._releasing[key] = None
        self._wake.set()

    def keep(self, key: TaskKey, *, called_back: bool) -> None:
        """See `Ownership`."""
        stake = self._ensure(key)
        stake.keeps, stake.called_back = True, stake.called_back or called_back
        self._keeping[key] = stake.called_back
        self._wake.set()

    def may_poll(self, key: TaskKey) -> bool:
        """See `Ownership`."""
        stake = self._stakes.get(key)
        if stake is None:
            return False
        if stake.owned:
            return not (stake.releasing or self._left) and self._connection.may_poll()
        return stake.solo and self._connection.alone

    def polls(self, key: TaskKey) -> None:
        """See `Ownership`."""
        stake = self._stakes.get(key)
        if stake is not None:
            stake.polled_at = self._clock.monotonic()

    def planned(self, key: TaskKey, due: float | None) -> None:
        """See `Ownership`."""
        stake = self._stakes.get(key)
        if stake is not None:
            stake.due = due

    def call(self, key: TaskKey, *, called_back: bool = False) -> None:
        """See `Ownership`."""
        if len(self._calling) < MAX_CALLS and self._connection.up:
            self._calling[key] = self._calling.get(key, False) or called_back
            self._wake.set()

    # What the journal asks, see `bridge.replica.journal.Rights`

    def owns(self, key: TaskKey) -> bool:
        """Whether this session owns it, as far as is known."""
        stake = self._stakes.get(key)
        return stake is not None and stake.owned

    def may_show(self, key: TaskKey) -> bool:
        """Whether what is seen here may be shown though no replica recorded it."""
        stake = self._stakes.get(key)
        return stake is not None and stake.polls_here

    def refused(self, key: TaskKey) -> None:
        """The engine says that another one owns it: ask who."""
        stake = self._stakes.get(key)
        if stake is not None and stake.owned:
            self._disown(stake)
            stake.was_owned = False
            self._send_attends(key, None)
            self._ask(key)

    def recorded(self, event: Event, *, ours: bool) -> None:
        """A state is recorded: an end has no owner."""
        state = event.state
        stake = self._stakes.get(event.key)
        if stake is not None and is_ended(state):
            self._disown(stake)
            stake.was_owned = False
        if stake is not None and not ours and stake.watched:
            self._watches_hear(lambda: self._watches.recorded_elsewhere(event))

    def forgotten(self, key: TaskKey) -> None:
        """A task was deleted, with its owner: a watch that still runs here polls no more."""
        stake = self._stakes.get(key)
        if stake is not None:
            self._disown(stake)
            stake.was_owned = stake.keeps = False
            self._keeping.pop(key, None)
            self._send_attends(key, None)
            self._watches_hear(lambda: self._watches.forgotten(key))

    def confirmed(self, key: TaskKey, confirmation: Confirmation) -> None:
        """Its owner saw the newest state again."""
        self._watches_hear(lambda: self._watches.confirmed_elsewhere(key, confirmation))

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """Its owner announced a notice."""
        self._watches_hear(lambda: self._watches.noticed_elsewhere(key, notice))

    def called(self, entry: CallEntry) -> None:
        """Another process asks for a poll."""
        if entry.session == self._connection.session and self.owns(entry.key):
            self._watches_hear(lambda: self._watches.called(entry.key, called_back=entry.called_back))

    # What the connection brings

    def session_lost(self) -> None:
        """Nothing is owned until the engine is asked again."""
        for stake in self._stakes.values():
            if stake.owned:
                self._disown(stake)
                stake.was_owned = True

    async def resync(self) -> list[Record]:
        """Ask about every task: what was owned may be reclaimed at once, the rest may not (rule 2).

        What was seen to end here is not reclaimed: it needs no more polls, and another replica may have
        recorded the same end, and deleted the task, which a poll would bring back.

        Returns:
            The records. The answers take effect with `resynced`.
        """
        self._settling = self._connection.reached
        self._answers: list[Wanted] = []
        self._found = await self._read_unknown()
        mine: list[TaskKey] = []
        rest: list[TaskKey] = []
        for key, stake in self._stakes.items():
            held = self._memory.get(key)
            ended = held is not None and held.end is End.ENDED
            (mine if stake.reclaims and not ended else rest).append(key)
        for keys, may_own in ((mine, not self._draining), ([*rest, *self._found], False)):
            for start in range(0, len(keys), MAX_TASKS):
                wants = [Want(key, may_own) for key in keys[start : start + MAX_TASKS]]
                self._answers += await self._call_want(wants)
        return [wanted.record for wanted in self._answers]

    async def _read_unknown(self) -> set[TaskKey]:
        """The tasks that this session owns without knowing it: no bridge would poll them as long as it lives.

        An answer to `claim` or `want` was lost, or a copy took over that is older than a release.
        """
        session, last = self._connection.session, None
        unknown: set[TaskKey] = set()
        is_new, self._session = session != self._session, session
        while not is_new:
            owned = await self._connection.call(
                "owned",
                lambda engine, after=last: engine.owned(session, after=after, limit=OWNED_TASKS),  # type: ignore[misc]
            )
            unknown.update(key for key in owned if key not in self._stakes)
            if len(owned) < OWNED_TASKS:
                break
            last = owned[-1]
        return unknown

    def resynced(self) -> None:
        """The records are taken in: report the watches who polls."""
        answers, self._answers = self._answers, []
        found, self._found = self._found, set()
        for wanted in answers:
            owner, record = wanted
            self._asking.pop(record.key, None)
            if record.key not in found or record.key in self._stakes:
                self._take_answer(wanted)
            elif owner is Owner.ME:
                # Another one may have polled it until now: that it was taken away may be what was lost.
                polled_at = self._connection.engine_time(self._clock.monotonic())
                self._adopt(record._replace(polled_at=max(record.polled_at, polled_at)))

    def up(self) -> None:
        """The engine is received again."""
        for stake in self._stakes.values():
            stake.solo = False
        self._watches_hear(lambda: self._watches.cut_off(since=None))
        self._wake.set()
        if not self._settling:
            self._ask_unowned()

    def settling_over(self) -> None:
        """Owners have had their second: take what no replica reclaimed."""
        self._settling = self._was_alone = False
        self._ask_unowned()

    def away(self) -> None:
        """The engine cannot be received."""
        self._calling.clear()
        since = self._connection.away_since
        self._watches_hear(lambda: self._watches.cut_off(since=since))

    def alone(self) -> None:
        """Continue without the engine: also with tasks of which nothing is known."""
        self._was_alone = True
        for key, stake in self._stakes.items():
            stake.solo = stake.watched and not stake.owned and self._is_unknown(key)

    # Leaving

    async def drain(self) -> None:
        """Own nothing new, and hand over what is owned, each task with the time of its next poll.

        Without another live replica everything continues until the end.
        """
        self._draining = True
        if len(self._connection.sessions) < 2 or not self._connection.up:
            return
        keys = [key for key, stake in self._stakes.items() if stake.owned]
        for start in range(0, len(keys), MAX_TASKS):
            batch = keys[start : start + MAX_TASKS]
            try:
                await self._hand_over(batch)
            except EngineUnavailable:
                return
            for key in batch:
                self._send_attends(key, None)

    async def leave(self) -> None:
        """End the session: what is still owned is due for others at once, or when it was planned."""
        session = self._connection.session
        # From now on nothing is polled: what is owned is another's at any moment.
        self._draining = self._left = True
        if not session:
            return
        try:
            keys = [key for key, stake in self._stakes.items() if stake.owned]
            for start in range(0, len(keys), MAX_TASKS):
                await self._hand_over(keys[start : start + MAX_TASKS])
            await self._connection.call("leave", lambda engine: engine.leave(session))
        except EngineUnavailable:
            pass  # the lease ends it

    async def _hand_over(self, keys: Sequence[TaskKey]) -> None:
        session = self._connection.session
        releases = [self._release_of(key) for key in keys]
        # Not owned from the moment of sending: nothing is polled that another one may poll already.
        for key in keys:
            stake = self._stakes.get(key)
            if stake is not None:
                self._disown(stake)
        await self._connection.call(
            "release", lambda engine: engine.release(session, releases, transfer=True)
        )

    def _release_of(self, key: TaskKey) -> Release:
        stake, now = self._stakes[key], self._clock.monotonic()
        due = now if stake.due is None else max(stake.due, now)
        polled_at = stake.polled_at if stake.polled_at > float("-inf") else None
        engine_time = self._connection.engine_time
        return Release(key, engine_time(due), 0 if polled_at is None else engine_time(polled_at))

    def about(self) -> bytes:
        """What the others may know."""
        return json.dumps({"owned": self.owned, "draining": self._draining}).encode()

    # Asking

    def _ensure(self, key: TaskKey) -> Stake:
        stake = self._stakes.get(key)
        if stake is None:
            stake = self._stakes[key] = Stake()
            self._memory.attend(key)
        return stake

    def _forget(self, key: TaskKey) -> None:
        stake = self._stakes.pop(key, None)
        if stake is not None and stake.owned:
            self._disown(stake)
        self._asking.pop(key, None)
        self._keeping.pop(key, None)
        self._memory.leave(key)

    def _own(self, stake: Stake) -> None:
        if not stake.owned:
            stake.owned = True
            self.owned += 1

    def _disown(self, stake: Stake) -> None:
        if stake.owned:
            stake.owned = False
            self.owned -= 1

    def _is_unknown(self, key: TaskKey) -> bool:
        """Whether no replica is known to have recorded a state of it."""
        held = self._memory.get(key)
        return held is None or not held.ever_recorded

    def _ask(self, key: TaskKey) -> None:
        self._asking[key] = None
        self._wake.set()

    def _ask_unowned(self) -> None:
        if self._draining:
            return
        for key, stake in self._stakes.items():
            if stake.unowned and stake.watched and not stake.owned:
                self._ask(key)

    def _may_own(self, key: TaskKey) -> bool:
        if self._draining:
            return False
        stake = self._stakes.get(key)
        return not self._settling or (stake is not None and stake.was_owned)

    async def _call_want(self, wants: Sequence[Want]) -> list[Wanted]:
        session = self._connection.session
        answers = await self._connection.call(
            "want", lambda engine: engine.want(session, wants, linger=self._interest)
        )
        if [wanted.record.key for wanted in answers] != [want.key for want in wants]:
            self._connection.drop("an answer to want that cannot be used")
            raise EngineUnavailable("the engine's answer to want cannot be used")
        return answers

    def _take_answer(self, wanted: Wanted) -> None:
        """Who polls a task; its record has been taken in."""
        owner, record = wanted
        key = record.key
        stake = self._stakes.get(key)
        if stake is None or not stake.watched:
            if owner is Owner.ME:
                # Its watch ended while this was asked.
                self._own(self._ensure(key))
                self._releasing[key] = None
                self._wake.set()
            return
        had = stake.polls_here
        stake.was_owned = stake.solo = False
        stake.unowned = owner is Owner.NONE
        if owner is Owner.ME and self._draining:
            # Asked before: it continues with the others, due as the record says.
            self._own(stake)
            self._pass_on(stake, record)
        elif owner is Owner.ME:
            known_due = stake.due if had else None
            self._own(stake)
            if stake.keeps and not record.persistent:
                self._keeping[key] = stake.called_back
                self._wake.set()
            self._journal.when_heard(record.offset, lambda: self._grant(key, record, known_due))
        else:
            self._disown(stake)
            self._journal.when_heard(record.offset, lambda: self._send_attends(key, record))

    def _pass_on(self, stake: Stake, record: Record) -> None:
        """Hand over what was asked for before the drain began, due as its record says."""
        stake.due = self._connection.monotonic(record.due) if record.due else None
        self._handing[record.key] = None
        self._wake.set()

    def _grant(self, key: TaskKey, record: Record | None, due: float | None = None) -> None:
        """Report to the watches that this replica polls a task from now on."""
        stake = self._stakes.get(key)
        if stake is None or not stake.owned:
            return
        known_task = self._standing_of(key, record)
        if due is not None:
            known_task = known_task._replace(due=due)  # planned here: newer than what the record says
        if self._was_alone:
            # So were the others, and none of them has said what it polled.
            known_task = known_task._replace(polled_at=self._clock.monotonic())
        stake.due = known_task.due if known_task.due is not None else self._clock.monotonic()
        stake.polled_at = known_task.polled_at
        self._granting = key
        try:
            self._watches.granted(key, known_task)
        except Exception:
            logger.exception("task cannot be watched here", extra={"task": key.ref})
            stake.watched = False
            self._handing[key] = None
            self._wake.set()
        finally:
            self._granting = None

    def _send_attends(self, key: TaskKey, record: Record | None) -> None:
        stake = self._stakes.get(key)
        if stake is not None and stake.watched and not stake.owned:
            known_task = self._standing_of(key, record)
            self._watches_hear(lambda: self._watches.attends(key, known_task))

    def _standing_of(self, key: TaskKey, record: Record | None) -> KnownTask:
        held = self._memory.get(key)
        event = held.event(self._connection.epoch) if held is not None else None
        notices = standing_notices(held.notices) if held is not None else ()
        stake = self._stakes[key]
        if record is None:
            return KnownTask(
                event, stake.due, stake.polled_at, stake.keeps, stake.called_back, notices=notices
            )
        due = self._connection.monotonic(record.due) if record.due else None
        polled_at = self._connection.monotonic(record.polled_at) if record.polled_at else float("-inf")
        return KnownTask(
            event,
            due,
            max(polled_at, stake.polled_at),
            record.persistent,
            record.called_back,
            record.confirmation,
            notices,
        )

    def _watches_hear(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            logger.exception("unhandled exception in watches")

    # Workers, each for the life of one connection

    async def _send(self) -> None:
        """Send what has gathered: questions first, for they are what viewers wait for."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._asking or self._releasing or self._handing or self._keeping or self._calling:
                await self._send_wants()
                await self._send_handed()
                await self._send_releases()
                await self._send_each(self._keeping, self._send_keep)
                await self._send_each(self._calling, self._send_call)

    async def _send_wants(self) -> None:
        batch = list(self._asking)[:MAX_TASKS]
        if not batch:
            return
        answers = await self._call_want([Want(key, self._may_own(key)) for key in batch])
        for key in batch:
            self._asking.pop(key, None)
        for wanted in answers:
            self._journal.learn(wanted.record)
            self._take_answer(wanted)

    async def _send_handed(self) -> None:
        """Give others what cannot be polled here."""
        keys = [key for key in list(self._handing)[:MAX_TASKS] if self.owns(key)]
        for key in list(self._handing)[:MAX_TASKS]:
            del self._handing[key]
        if not keys:
            return
        for key in keys:
            self._releasing.pop(key, None)
            if not self._draining:
                self._stakes[key].due = self._clock.monotonic() + HANDED_SECONDS
        await self._hand_over(keys)
        for key in keys:
            if not self._stakes[key].watched:
                self._forget(key)

    async def _send_releases(self) -> None:
        batch = [key for key in list(self._releasing)[:MAX_TASKS] if self.owns(key)]
        for key in list(self._releasing)[:MAX_TASKS]:
            del self._releasing[key]
            if key not in batch:
                self._released(key)
        if not batch:
            return
        session = self._connection.session
        releases = [self._release_of(key) for key in batch]
        stakes = [self._stakes[key] for key in batch]
        for stake in stakes:
            stake.releasing = True
        try:
            answers = await self._connection.call(
                "release", lambda engine: engine.release(session, releases, transfer=False)
            )
        except EngineUnavailable:
            # A viewer that came meanwhile is answered by the questions of the next connection.
            left = (key for key in batch if self.owns(key) and not self._stakes[key].watched)
            self._releasing |= dict.fromkeys(left)
            raise
        finally:
            for stake in stakes:
                stake.releasing = False
        for key, stake, released in zip(batch, stakes, answers, strict=False):
            if self._stakes.get(key) is not stake:
                continue
            if released is Released.WANTED:
                # By viewers elsewhere, or by one who came here meanwhile: the watch continues here.
                stake.watched = True
                self._grant(key, None)
            else:
                self._disown(stake)
                self._released(key)

    def _released(self, key: TaskKey) -> None:
        """A task was given up; a viewer may have come meanwhile."""
        stake = self._stakes.get(key)
        if stake is None:
            return
        if not stake.watched:
            self._forget(key)
        elif not stake.owned:
            self._ask(key)

    async def _send_each(
        self, queue: dict[TaskKey, bool], send: Callable[[TaskKey, bool], Coroutine[Any, Any, None]]
    ) -> None:
        batch = list(queue.items())[:MAX_CALLS_IN_FLIGHT]
        if batch:
            await asyncio.gather(*(send(key, called_back) for key, called_back in batch))
            for key, _ in batch:
                queue.pop(key, None)

    async def _send_keep(self, key: TaskKey, called_back: bool) -> None:
        session = self._connection.session
        await self._connection.call("keep", lambda engine: engine.keep(session, key, called_back=called_back))

    async def _send_call(self, key: TaskKey, called_back: bool) -> None:
        session = self._connection.session
        called, _ = await self._connection.call(
            "call", lambda engine: engine.call(session, key, called_back=called_back)
        )
        if called is Called.UNKNOWN and called_back:
            # No replica knows it yet: who was called back begins.
            self._watches_hear(lambda: self._watches.called(key, called_back=True))

    async def _rewant(self) -> None:
        """Interest that lasts is repeated, in bulk."""
        while True:
            await self._clock.sleep(self._interest / 3)
            keys = [key for key, stake in self._stakes.items() if stake.wanted]
            if keys:
                await self._send_rewant(keys)

    async def _send_rewant(self, keys: Sequence[TaskKey]) -> None:
        await self._connection.call("rewant", lambda engine: engine.rewant(keys, linger=self._interest))

    def _may_claim(self) -> bool:
        return not (self._settling or self._draining)

    def _adopt(self, record: Record) -> None:
        stake = self._ensure(record.key)
        self._own(stake)
        stake.watched, stake.unowned, stake.was_owned = True, False, False
        self.counted()
        self._journal.learn(record)
        if self._draining:
            self._pass_on(stake, record)
            return
        self._journal.when_heard(record.offset, lambda: self._grant(record.key, record))


def _nothing() -> None:
    """Default of `SharedOwnership.counted`."""

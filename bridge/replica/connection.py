"""The connection of this replica to the engine: `AWAY -> SESSION -> RESYNC -> UP`, and back at any error.

Rule 1: one place (`run`) catches everything and connects again. No error of any part ends it.
Rule 2: engine, session and epoch are taken in only in that order, on a new connection: nothing is recorded
        before SESSION, and the log is not received before RESYNC. A renewal that names another epoch drops
        the connection.
Rule 3: an answer later than the timeout does not count: the connection is dropped, and the call may have
        happened.
Rule 4: the log is the proof that the engine is there. If it does not bring what the engine says it holds, the
        connection is dropped, however well calls are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from bridge.clock import Clock
from bridge.core.cursor import new_epoch
from bridge.core.task import TaskKey
from bridge.engine.base import MAX_TASKS, Engine, Entry, Record, SessionState, Welcome
from bridge.errors import EngineUnavailable
from bridge.replica.calls import EngineCalls
from bridge.replica.following import Following
from bridge.replica.lease import Lease

RENEWAL_SECONDS = 1.0
"""Between two renewals at most: each brings a beat, which shows that the log arrives."""

PAUSE_SECONDS = 0.5
"""A process that did not run for so long renews before it polls: others count with `UNHEARD_SECONDS`."""

PAUSE_CHECK_SECONDS = 0.15

WINDOW_SECONDS = 0.003
"""Waited after each read: bounds how often the engine wakes this replica."""

BLOCK_SECONDS = 0.5
READ_TIMEOUT_SECONDS = 1.5
READ_LIMIT = 1000
BACKOFF_SECONDS = (0.05, 0.5)
WEDGED_SECONDS = 3.0
"""After this long without an entry that the engine holds, its log does not arrive."""

ALONE_AFTER_SECONDS = 1.0
CONNECT_ANSWERS = 6
"""Opening a connection takes several answers: a question to Sentinel, TCP, TLS, the password, the server's
facts.
"""

ALONE_CHECKED_SECONDS = 2.0
"""This replica is alone only if an attempt to reach the engine ended so recently, besides the time of the
next one: after a pause it must try first.
"""

SETTLING_SECONDS = 1.0
"""After a return, for owners to reclaim what they owned, before others may."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

Connect = Callable[[], Awaitable[Engine]]
"""Opens an engine; raises `EngineUnavailable` while it cannot be reached."""


class ConnectionStage(StrEnum):
    """Where the connection is."""

    AWAY = "away"
    SESSION = "session"
    RESYNC = "resync"
    UP = "up"


class EngineTimes(NamedTuple):
    """The times of a connection, in seconds.

    Args:
        lease: After which a silent replica owns nothing.
        timeout: Of each call.
        alone: How long owners continue without the engine.
        claim_period: Between two searches for tasks whose owner is gone.
    """

    lease: float = 10.0
    timeout: float = 1.0
    alone: float = 600.0
    claim_period: float = 0.6


class Connection:
    """Keeps one engine connected, one session alive and its log followed.

    Args:
        connect: Opens the engine; called again for each attempt.
        about: What the others may know about this replica.
        jitter: Returns 0-1, for jitter.
        window: Seconds waited after each read that brought something.
        closes: Whether an engine is closed with its connection; False for one that outlives them.

    Attributes:
        engine: The connected one; None while away.
        stage: Where the connection is.
        epoch: Of the engine, as of the last session; empty before the first.
        writer: Names this session in stamps, another one in each epoch: versions count up again from what an
            engine still has that lost some, and another replica may hold what was lost.
        received: The newest offset that was received.
        head: The newest offset that the engine is known to hold.
        reached: Whether the engine was ever up here.
        sessions: The live replicas, as of the last renewal.
        counted: What is called for each of `gaps`, `epochs` and `leases_lost`.
        last_error: Why the engine is away; empty while it is not.
        failure: The newest error of a connection.
        workers: What runs while the log is received; each is called again for each connection.
    """

    def __init__(
        self,
        connect: Connect,
        clock: Clock,
        times: EngineTimes,
        *,
        about: Callable[[], bytes] = bytes,
        jitter: Callable[[], float] = random.random,
        window: float = WINDOW_SECONDS,
        closes: bool = True,
    ) -> None:
        self.lease = Lease(times.lease)
        self.times = times
        self.engine: Engine | None = None
        self.stage = ConnectionStage.AWAY
        self.epoch = self.writer = ""
        self.received = self.head = 0
        self._began = clock.monotonic()
        self.reached = False
        self.sessions: Mapping[str, bytes] = {}
        self.workers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.counted: dict[str, Callable[[], None]] = {}
        self.epoch_since = float("-inf")
        self.last_error = ""
        self.failure: EngineUnavailable | None = None
        self._connect = connect
        self._clock = clock
        self._about = about
        self._jitter = jitter
        self._window = window
        self._following: Following
        self._broken: asyncio.Future[str] | None = None
        self._away_since: float | None = clock.monotonic()
        self._up_since = float("-inf")
        self._failed_at = float("-inf")
        self._alone = False
        self._cut_now = False
        self._closes = closes
        self._expected = 0, float("-inf")
        self._clock_offset = 0.0
        self._ran_at = clock.monotonic()
        self._paused_until = float("-inf")
        self._renews_now = asyncio.Event()
        self._read_at = float("-inf")
        self._heard_news = asyncio.Event()
        self._calls = EngineCalls(clock, times.timeout, self.drop)

    def follow(self, following: Following) -> None:
        """What it brings goes there; before `run`."""
        self._following = following

    def measure(self, called: Callable[[str, str, float], None]) -> None:
        """Each call is reported: operation, outcome, seconds."""
        self._calls.called = called

    # What others ask

    @property
    def session(self) -> str:
        """The open session; empty without one."""
        return self.lease.session

    @property
    def up(self) -> bool:
        """Whether the engine answers and its log is received."""
        return self.stage is ConnectionStage.UP

    @property
    def news(self) -> asyncio.Event:
        """Set when more was received, or the connection broke; another one is next."""
        return self._heard_news

    @property
    def current(self) -> bool:
        """Whether what was received is recent: after a pause of this process, not before the next answer."""
        return self.up and self._clock.monotonic() - self._read_at <= BLOCK_SECONDS + self.times.timeout

    @property
    def alone(self) -> bool:
        """Whether this replica continues without the engine, and may."""
        if not self._alone or self._away_since is None:
            return False
        now = self._clock.monotonic()
        checked = now - self._failed_at <= ALONE_CHECKED_SECONDS + CONNECT_ANSWERS * self.times.timeout
        return checked and now - self._away_since <= self.times.alone

    @property
    def away_since(self) -> float | None:
        """Monotonic seconds since when the engine is away; None while it is not."""
        return self._away_since

    @property
    def settles_in(self) -> float:
        """Seconds until every bridge has had its time to record what it showed unrecorded.

        0.0 after it; `SETTLING_SECONDS` while the engine is away: it begins again with each return.
        """
        if not self.up:
            return SETTLING_SECONDS
        since = max(self.epoch_since, self._up_since)
        return max(since + SETTLING_SECONDS - self._clock.monotonic(), 0.0)

    @property
    def may_go_on(self) -> bool:
        """Whether states may be shown that the engine has not recorded."""
        since = self._away_since
        return self.reached and (since is None or self._clock.monotonic() - since <= self.times.alone)

    def may_poll(self) -> bool:
        """Whether the tasks of this session may be polled at this moment."""
        self._note_pause()
        leased = self._clock.monotonic() < self.lease.until
        return (leased and self.lease.renewed_at >= self._paused_until) or self.alone

    def _note_pause(self) -> None:
        """After a pause of the whole process the engine may have given up on it (`Lease`, rule 2)."""
        now = self._clock.monotonic()
        if now - self._ran_at > PAUSE_SECONDS:
            self._paused_until = now
            self._renews_now.set()
        self._ran_at = now

    async def _note_pauses(self) -> None:
        while True:
            await self._clock.sleep(PAUSE_CHECK_SECONDS)
            self._note_pause()

    def lease_seconds(self) -> float:
        """Seconds for which this replica may still poll; 0.0 without a lease."""
        return self.lease.left(self._clock.monotonic())

    def _count(self, what: str) -> None:
        count = self.counted.get(what)
        if count is not None:
            count()

    def engine_time(self, monotonic: float) -> int:
        """The engine's clock at a moment, microseconds, as estimated here."""
        return int((monotonic + self._clock_offset) * 1e6)

    def monotonic(self, engine_time: int) -> float:
        """The other way round: monotonic seconds here."""
        return engine_time / 1e6 - self._clock_offset

    def lag_seconds(self) -> float:
        """Age of the newest entry that was received, at most that of this object; 0.0 before the first.

        The entry may be from before a stop of all, and offsets that one process recorded count from 1.
        """
        if not self.received:
            return 0.0
        now = self._clock.monotonic()
        return max(now - max(self.monotonic(self.received), self._began), 0.0)

    async def call(self, operation: str, ask: Callable[[Engine], Awaitable[Result]]) -> Result:
        """One call to the engine.

        Raises:
            EngineUnavailable: No answer in time: it happened or not. The connection is dropped.
        """
        engine = self.engine
        if engine is None or self.stage is ConnectionStage.AWAY:
            raise EngineUnavailable("the engine is away")
        return await self._calls.answer(operation, ask(engine))

    async def records(self, keys: Sequence[TaskKey]) -> list[Record]:
        """The records of any number of tasks.

        Raises:
            EngineUnavailable: The engine is away.
        """
        records: list[Record] = []
        for start in range(0, len(keys), MAX_TASKS):
            batch = keys[start : start + MAX_TASKS]
            records += await self._records(batch)
        return records

    async def _records(self, keys: Sequence[TaskKey]) -> list[Record]:
        records = await self.call("records", lambda engine: engine.records(keys))
        if [record.key for record in records] != list(keys):
            self.drop("an answer to records that cannot be used")
            raise EngineUnavailable("the engine's answer to records cannot be used")
        return records

    def drop(self, reason: str) -> None:
        """Drop the connection; `run` opens another."""
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(reason)

    async def be_current(self, seconds: float) -> bool:
        """Wait until what was received is recent; whether it is, in time."""
        until = self._clock.monotonic() + seconds
        while not self.current:
            left = until - self._clock.monotonic()
            if left <= 0 or not self.up:
                return False
            await self._clock.wait(self._heard_news, left)
        return True

    async def reached_offset(self, offset: int, seconds: float) -> bool:
        """Wait until an offset was received; whether it was, in time."""
        until = self._clock.monotonic() + seconds
        while self.received < offset:
            left = until - self._clock.monotonic()
            if left <= 0 or not self.up:
                return False
            await self._clock.wait(self._heard_news, left)
        return True

    # The state machine

    async def run(self) -> None:
        """Connect, follow, reconnect, until cancelled."""
        self._ran_at = self._clock.monotonic()
        noting = asyncio.create_task(self._note_pauses())
        try:
            await self._connect_for_ever()
        finally:
            noting.cancel()

    async def _connect_for_ever(self) -> None:
        while True:
            try:
                reason = await self._one_connection()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                reason = "cancelled within"  # by a timeout that met another: not meant for this task
            except EngineUnavailable as error:
                reason = str(error)
                self.failure = error
            except Exception as error:
                logger.exception("unhandled exception in the connection to the engine")
                reason = f"{type(error).__name__}"
            self._went_away(reason)
            low, high = BACKOFF_SECONDS
            await self._clock.sleep(low + (high - low) * self._jitter())

    async def _one_connection(self) -> str:
        try:
            async with asyncio.timeout(CONNECT_ANSWERS * self.times.timeout):
                engine = await self._connect()
        except TimeoutError:
            raise EngineUnavailable("the engine cannot be reached in time") from None
        tasks: list[asyncio.Task[Any]] = []
        self._broken = asyncio.get_running_loop().create_future()
        try:
            self.engine, self.stage = engine, ConnectionStage.SESSION
            await self._open_session()
            tasks.append(asyncio.create_task(self._renew()))
            self.stage = ConnectionStage.RESYNC
            await self._or_broken(self._following.resync())
            self._came_up()
            tasks.append(asyncio.create_task(self._follow_log()))
            tasks.append(asyncio.create_task(self._settling()))
            tasks += [asyncio.create_task(_run_again_after_errors(worker)) for worker in self.workers]
            return await self._broken
        finally:
            self.engine, self.stage = None, ConnectionStage.AWAY
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._cut()
            if self._closes:
                await self._close(engine)

    async def _or_broken(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something unless the connection breaks first."""
        assert self._broken is not None
        task = asyncio.ensure_future(work)
        try:
            waits: list[asyncio.Future[Any]] = [task, self._broken]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            if self._broken.done():
                raise EngineUnavailable(self._broken.result())
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def _close(self, engine: Engine) -> None:
        try:
            async with asyncio.timeout(self.times.timeout):
                await engine.close()
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 - what is dropped may break as it likes
            logger.info("engine connection not closed cleanly", extra={"error": type(error).__name__})

    async def _open_session(self) -> None:
        """Renew the session of before, or open another, and take in the epoch."""
        opens = not self.lease.confirmed
        welcome = await self._ask_session(opens=opens) if self.lease.session else None
        if welcome is None or welcome.state is SessionState.EXPIRED:
            self._lose_session()
            self.lease.fresh_session()
            welcome = await self._ask_session(opens=True)
        if welcome.state is SessionState.EXPIRED:
            raise EngineUnavailable("the engine opens no session")
        changed = welcome.epoch != self.epoch
        if changed:
            if self.epoch:
                self._count("epochs")
                self.epoch_since = self._clock.monotonic()
            self.epoch = welcome.epoch
        self.writer = f"{self.lease.session}/{self.epoch}"
        if changed or welcome.head > self.received:
            self.received = welcome.head
        self.head = welcome.head
        # At once: no offset of the old epoch may be seen under the name of the new one.
        self._following.begin_resync(epoch_changed=changed)

    async def _ask_session(self, *, opens: bool) -> Welcome:
        sent_at = self._clock.monotonic()
        welcome = await self.call(
            "session",
            lambda engine: engine.session(
                self.lease.session,
                ttl=self.lease.seconds,
                known_head=self.received,
                new_epoch=new_epoch(self._clock.time(), secrets.randbits(32), after=self.epoch),
                about=self._about()[:1024],
                opens=opens,
            ),
        )
        if welcome.state is not SessionState.EXPIRED:
            self.lease.renewed(sent_at)
        self.sessions = welcome.sessions
        # The engine read its clock between sending and receiving.
        self._clock_offset = welcome.now / 1e6 - (sent_at + self._clock.monotonic()) / 2
        return welcome

    def _lose_session(self) -> None:
        if self.lease.confirmed:
            self._count("leases_lost")
            reason = self.last_error or "it was not renewed in time"
            logger.warning("lease lost", extra={"session": self.lease.session, "error": reason})
            self.lease.session, self.lease.until = "", float("-inf")
            self._following.session_lost()

    async def _renew(self) -> None:
        period = min(self.lease.seconds / 3, RENEWAL_SECONDS)
        while True:
            await self._clock.wait(self._renews_now, period)
            self._renews_now.clear()
            try:
                welcome = await self._ask_session(opens=False)
            except EngineUnavailable:
                return
            if self._drops(welcome):
                return
            self.head = max(self.head, welcome.head)
            if self._is_wedged(welcome.head):
                self.drop("its log does not arrive")
                return

    def _is_wedged(self, head: int) -> bool:
        """Whether an entry that the engine holds has not arrived for too long (rule 4)."""
        now = self._clock.monotonic()
        if self.received >= self._expected[0] or not self.up:
            self._expected = head, now
        return now - self._expected[1] > WEDGED_SECONDS + self.times.timeout

    async def _follow_log(self) -> None:
        try:
            while True:
                after = self.received
                entries = await self.call_read(after)
                await self._hear(entries)
                self._read_now()
                if entries:
                    await self._clock.sleep(self._window)
        except EngineUnavailable:
            return
        except Exception:
            logger.exception("unhandled exception in a follower of the engine")
            self.drop("its log cannot be followed")

    def _read_now(self) -> None:
        was_current = self.current
        self._read_at = self._clock.monotonic()
        if not was_current:
            self._wake_waiters()

    async def call_read(self, after: int) -> Sequence[Entry]:
        """The next entries; waits for the first."""
        engine = self.engine
        if engine is None:
            raise EngineUnavailable("the engine is away")
        block = min(BLOCK_SECONDS, self.times.timeout / 2)
        read = engine.read(after, block=block, limit=READ_LIMIT)
        return await self._calls.answer("read", read, seconds=block + self.times.timeout)

    async def _hear(self, entries: Sequence[Entry]) -> None:
        """Pass entries on; those before a gap first."""
        start = 0
        last = self.received
        for number, entry in enumerate(entries):
            if entry.offset <= last:
                # Received already: never twice.
                await self._pass_on(entries[start:number])
                start = number + 1
                continue
            if entry.previous != last:
                await self._pass_on(entries[start:number])
                start = number
                await self._check_epoch()
                if entry.previous < last:
                    # Of an emptied log: within one history, the last one received is the entry before.
                    self.drop("its log is of another history")
                    raise EngineUnavailable("the engine's log is of another history")
                self._count("gaps")
                logger.warning("entries of the engine's log are missing", extra={"after": last})
                self.received = entry.previous
                self._following.begin_resync(epoch_changed=False)
                await self._following.resync()
            last = entry.offset
        await self._pass_on(entries[start:])

    async def _check_epoch(self) -> None:
        """Accept nothing under the name of an epoch that has ended (rule 2): a new one begins with a gap.

        Raises:
            EngineUnavailable: The engine began another epoch, or lost the session. The connection is dropped.
        """
        welcome = await self._ask_session(opens=False)
        if self._drops(welcome):
            raise EngineUnavailable("the engine began another epoch")

    def _drops(self, welcome: Welcome) -> bool:
        """Drop the connection after a renewal that did not find what was left; whether it did."""
        if welcome.state is SessionState.EXPIRED:
            self.drop("the session has expired")
            return True
        if welcome.epoch != self.epoch:
            # Rule 2: offsets known here are of the old epoch until the next RESYNC.
            self.drop("the engine began another epoch")
            return True
        return False

    async def _pass_on(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        await self._following.received(entries)
        self._now_heard(entries[-1].offset)

    def _now_heard(self, offset: int) -> None:
        self.received = max(self.received, offset)
        self.head = max(self.head, self.received)
        self._following.now_heard(self.received)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        news, self._heard_news = self._heard_news, asyncio.Event()
        news.set()

    async def _settling(self) -> None:
        await self._clock.sleep(SETTLING_SECONDS)
        self._following.settling_over()

    def _came_up(self) -> None:
        self.stage = ConnectionStage.UP
        self._read_at = self._clock.monotonic()
        lasted = None if self._away_since is None else self._clock.monotonic() - self._away_since
        if self.last_error or not self.reached:
            fields = {
                "epoch": self.epoch,
                "session": self.lease.session,
                "after_seconds": round(lasted or 0.0, 1),
            }
            logger.log(logging.WARNING if self.reached else logging.INFO, "engine connected", extra=fields)
        self._up_since = self._clock.monotonic()
        self.reached, self._alone, self._away_since = True, False, None
        self._expected = self.head, self._clock.monotonic()
        self.last_error = ""
        self._following.up()
        self._now_heard(self.received)

    def _cut(self) -> None:
        """Nothing is sent or received from now on."""
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
            self._cut_now = True
            self._wake_waiters()
            self._following.away()

    def _went_away(self, reason: str) -> None:
        now = self._clock.monotonic()
        self._failed_at = now
        first, self._cut_now = self._cut_now, False
        if not self.last_error:
            # Once an outage, not once an attempt.
            logger.warning("engine away", extra={"error": reason})
        self.last_error = reason or "unknown"
        if self._away_since is None or not self.reached or self._alone or first:
            return
        if now - self._away_since >= ALONE_AFTER_SECONDS:
            self._alone = True
            self._following.alone()


async def _run_again_after_errors(worker: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a worker of a connection again after an error of its own; an engine away ends it."""
    while True:
        try:
            await worker()
        except EngineUnavailable:
            return
        except Exception:
            logger.exception("unhandled exception in a worker of the replica")
            await asyncio.sleep(1.0)
        else:
            return

"""After an outage: what was shown and not recorded is recorded, once, or something beyond it.

Rule 1: owners first; what others only received, they record after a second, if it is still missing.
Rule 2: a state is written again as it was where the record is one that it was made from, or is gone; else
        what both say is merged. A version says nothing about that (`bridge.replica.lineage`).
Rule 3: the engine decides: an answer that something else is recorded meanwhile leads to another decision.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from bridge.clock import Clock
from bridge.core.merge import amends, digest_of
from bridge.core.task import State, TaskKey
from bridge.engine.base import MAX_STATES, Apply, ApplyOutcome, End, Mode, Record, Stamp
from bridge.errors import JournalError
from bridge.journal.sqlite.codec import decode, encode
from bridge.replica.connection import SETTLING_SECONDS, Connection
from bridge.replica.journal import SharedJournal
from bridge.replica.lineage import Plan, Return, plan_return
from bridge.replica.memory import HeldTask, TaskMemory, end_of, is_kept

AGAIN_SECONDS = 0.25

logger = logging.getLogger(__name__)


class Returning:
    """Records what is unrecorded while the engine is there.

    Args:
        first: Whether this replica may record the state of a task before others had their time.
        reapplied: Called for each state recorded, with how: `same` or `merged`.
    """

    def __init__(
        self,
        connection: Connection,
        memory: TaskMemory,
        journal: SharedJournal,
        clock: Clock,
        *,
        first: Callable[[TaskKey], bool],
        reapplied: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._memory = memory
        self._journal = journal
        self._clock = clock
        self._first = first
        self._reapplied = reapplied
        self._wake = asyncio.Event()
        self._writers: set[str] = set()
        journal.returning = self._wake.set
        connection.workers.append(self.run)

    async def run(self) -> None:
        """Record until nothing is left, then wait for more."""
        settled_at = self._clock.monotonic() + SETTLING_SECONDS
        self._writers.add(self._connection.writer)
        while True:
            unrecorded = self._memory.unrecorded()
            if not unrecorded:
                self._wake.clear()
                await self._wake.wait()
                continue
            over = self._clock.monotonic() >= settled_at
            mine = [held for held in unrecorded if over or self._is_first(held)]
            for start in range(0, len(mine), MAX_STATES):
                await self._record(mine[start : start + MAX_STATES])
            await self._clock.sleep(AGAIN_SECONDS)

    def _is_first(self, held: HeldTask) -> bool:
        return self._first(held.key) or held.stamp.session in self._writers

    async def _record(self, group: Sequence[HeldTask]) -> None:
        keys = [held.key for held in group]
        records = await self._connection.call("records", lambda engine: engine.records(keys))
        # Compared with what was received: the log brings the rest, in its order.
        await self._connection.reached_offset(
            max(record.offset for record in records), self._connection.times.timeout
        )
        applies: list[Apply] = []
        hows: list[str] = []
        for held, record in zip(group, records, strict=True):
            if not held.unrecorded or record.offset > self._connection.received:
                continue
            if self._journal.forget_outlived(held, record):
                continue
            planned = self._decide(held, record)
            if planned is not None:
                applies.append(planned)
                hows.append("same" if planned.stamp == held.stamp else "merged")
        if not applies:
            return
        session = self._connection.session
        answers = await self._connection.call("apply", lambda engine: engine.apply(session, applies))
        for apply, how, applied in zip(applies, hows, answers, strict=True):
            self._journal.judged(applied.outcome)
            if applied.outcome is ApplyOutcome.RECORDED:
                self._reapplied(how)
                self._journal.report_recorded(apply, applied)
            elif applied.outcome is ApplyOutcome.FENCED:
                self._connection.drop("the session has expired")
        # Its entry in the log ends it: until then it counts as unrecorded.
        newest = max(applied.offset for applied in answers)
        await self._connection.reached_offset(newest, self._connection.times.timeout)

    def _decide(self, held: HeldTask, record: Record) -> Apply | None:
        assert held.state is not None
        recorded: State | None = None
        if record.document is not None:
            try:
                recorded = decode(record.document, record.raw)
            except JournalError:
                logger.warning("recorded state not readable", extra={"task": held.key.ref})
                return None
        decision = plan_return(
            held.state,
            stamp=held.stamp,
            digest=held.digest,
            lineage=held.lineage,
            recorded=recorded,
            recorded_stamp=record.stamp,
            recorded_digest=record.digest,
        )
        if decision.become in (Return.IS_RECORDED, Return.GIVEN_UP):
            self._journal.take_recorded(
                held, record, recorded if decision.become is Return.GIVEN_UP else None
            )
            return None
        # Only now: what is shown unrecorded may never be recorded as it is.
        assert decision.state is not None
        held.learn_details(record.details)
        jobs = self._journal.plan(held.key, recorded, decision.state)
        apply = _apply_of(held, record, decision, self._connection.writer)._replace(jobs=jobs)
        if record.end is End.ENDED and amends(recorded, decision.state):
            # Shown here, and lost by the engine: the end itself it still has.
            return apply._replace(mode=Mode.AMEND, stamp=Stamp(record.version + 1, apply.stamp.session))
        return apply


def _apply_of(held: HeldTask, record: Record, decision: Plan, writer: str) -> Apply:
    """What to write: as it was, or merged under a stamp of its own."""
    state = decision.state
    assert state is not None
    again = decision.become is Return.AGAIN
    return Apply(
        key=held.key,
        mode=Mode.FREE,
        expect=record.version,
        stamp=held.stamp if again else Stamp(max(record.version, held.stamp.version) + 1, writer),
        end=end_of(state),
        digest=held.digest if again else digest_of(state),
        document=encode(state),
        raw=state.raw,
        details=held.unsent_details,
        keep=is_kept(state),
    )

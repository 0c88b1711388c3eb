"""This process as one of several on one engine: connection, journal and ownership as one thing."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from bridge.clock import Clock
from bridge.core.task import OWN_ACCOUNT
from bridge.engine.base import (
    BudgetEntry,
    CallEntry,
    ConfirmEntry,
    DetailsEntry,
    DocumentEntry,
    Entry,
    ForgetEntry,
    NoticeEntry,
    Record,
    StateEntry,
)
from bridge.replica.connection import Connect, Connection, EngineTimes
from bridge.replica.journal import SharedJournal
from bridge.replica.memory import TaskMemory
from bridge.replica.ownership import SharedOwnership
from bridge.replica.returning import Returning

MEMORY_BYTES = 64 * 1024 * 1024


def _own_account() -> Iterable[str]:
    return (OWN_ACCOUNT,)


class Replica:
    """Satisfies `bridge.replica.following.Following`.

    Args:
        connect: Opens the engine.
        linger: Seconds for which interest in a task outlives its last viewer.
        version: Of this bridge, for the others.
        accounts: Whose keys are here now.
        memory_bytes: For tasks without a watch here.
        jitter: Returns 0-1, for jitter.
        closes: Whether an engine is closed with its connection.

    Attributes:
        on_budget: Called with each such entry of the log.
        on_document: The same.
        on_up: Called whenever the engine is received again.
        before_up: What must be known of the engine before anything is recorded on a new connection.
        on_reapplied: Called for each state recorded after an outage, with `same` or `merged`.
    """

    def __init__(  # noqa: PLR0913 - a composition
        self,
        connect: Connect,
        clock: Clock,
        times: EngineTimes,
        *,
        linger: float,
        version: str = "",
        accounts: Callable[[], Iterable[str]] = _own_account,
        memory_bytes: int = MEMORY_BYTES,
        jitter: Callable[[], float] = random.random,
        closes: bool = True,
    ) -> None:
        self._version = version
        self._memory = TaskMemory(memory_bytes)
        self.connection = Connection(connect, clock, times, about=self.about, jitter=jitter, closes=closes)
        self.connection.follow(self)
        self.journal = SharedJournal(self.connection, self._memory, clock)
        self.ownership = SharedOwnership(
            self.connection,
            self._memory,
            self.journal,
            clock,
            linger=linger,
            jitter=jitter,
            accounts=accounts,
        )
        self.journal.share(self.ownership)
        self.on_budget: list[Callable[[BudgetEntry], None]] = []
        self.on_document: list[Callable[[DocumentEntry], None]] = []
        self.on_up: list[Callable[[], None]] = []
        self.before_up: list[Callable[[], Awaitable[None]]] = []
        self.on_reapplied: Callable[[str], None] = lambda _: None
        self._returning = Returning(
            self.connection,
            self._memory,
            self.journal,
            clock,
            first=self.ownership.owns,
            reapplied=self._count_reapplied,
        )

    async def run(self) -> None:
        """Be one of several, until cancelled."""
        await self.connection.run()

    async def drain(self) -> None:
        """Hand over what is owned, if there is another replica."""
        await self.ownership.drain()

    async def leave(self) -> None:
        """End the session: others take what is still owned."""
        await self.ownership.leave()

    @property
    def live(self) -> int:
        """Replicas alive, as of the last renewal: a budget is divided by them while the engine is away."""
        return max(len(self.connection.sessions), 1)

    @property
    def unrecorded(self) -> int:
        """States shown here that the engine has not recorded."""
        return len(self._memory.unrecorded())

    def about(self) -> bytes:
        """What the others may know of this one."""
        connection = self.connection
        about = {
            "version": self._version,
            "owned": self.ownership.owned,
            "lag_seconds": round(connection.lag_seconds(), 3),
        }
        return json.dumps(about).encode()

    def others(self) -> Sequence[Mapping[str, object]]:
        """The live replicas as they describe themselves, this one among them."""
        return [{"id": name} | _described(about) for name, about in sorted(self.connection.sessions.items())]

    def _count_reapplied(self, how: str) -> None:
        self.on_reapplied(how)

    # See `Following`

    def session_lost(self) -> None:
        """See `Following`."""
        self.ownership.session_lost()

    def begin_resync(self, *, epoch_changed: bool) -> None:
        """See `Following`."""
        self.journal.begin_resync(epoch_changed=epoch_changed)

    async def resync(self) -> None:
        """See `Following`."""
        for prepare in self.before_up:
            await prepare()
        self.journal.end_resync(await self.ownership.resync())
        self.ownership.resynced()

    async def received(self, entries: Sequence[Entry]) -> None:
        """See `Following`."""
        records = await self._records_for(entries)
        for entry in entries:
            kind = type(entry)
            if kind is StateEntry:
                self.journal.recorded(entry, records.get(entry.key) if records else None)  # type: ignore[union-attr,arg-type]
            elif kind is ConfirmEntry:
                self.journal.confirmed(entry)  # type: ignore[arg-type]
            elif kind is NoticeEntry:
                self.journal.noticed(entry)  # type: ignore[arg-type]
            elif kind is CallEntry:
                self.ownership.called(entry)  # type: ignore[arg-type]
            else:
                self._received_other(entry)

    def _received_other(self, entry: Entry) -> None:
        if isinstance(entry, DetailsEntry):
            self.journal.described(entry)
        elif isinstance(entry, ForgetEntry):
            self.journal.forgotten(entry)
        elif isinstance(entry, BudgetEntry):
            for on_budget in self.on_budget:
                on_budget(entry)
        elif isinstance(entry, DocumentEntry):
            for on_document in self.on_document:
                on_document(entry)

    async def _records_for(self, entries: Sequence[Entry]) -> dict[object, Record]:
        """The records of tasks whose entries are not whole: the documents were too large for the log."""
        keys = {
            entry.key: None
            for entry in entries
            if type(entry) is StateEntry and self.journal.needs_record(entry)
        }
        return {record.key: record for record in await self.connection.records(list(keys))} if keys else {}

    def now_heard(self, offset: int) -> None:
        """See `Following`."""
        self.journal.received(offset)

    def up(self) -> None:
        """See `Following`."""
        self.ownership.up()
        for on_up in self.on_up:
            on_up()

    def settling_over(self) -> None:
        """See `Following`."""
        self.ownership.settling_over()

    def away(self) -> None:
        """See `Following`."""
        self.journal.away()
        self.ownership.away()

    def alone(self) -> None:
        """See `Following`."""
        self.ownership.alone()


def _described(about: bytes) -> dict[str, object]:
    """What a replica says about itself; another version may say what it likes."""
    try:
        described = json.loads(about)
    except ValueError:
        return {}
    return described if isinstance(described, dict) else {}

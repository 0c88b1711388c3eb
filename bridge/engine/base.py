"""The interface of every engine: what several replicas of one bridge share, and the only place where they
agree.

An engine holds one record per task, one log with a total order, leases, budgets and small documents. It never
reads a document: states are bytes to it. `embedded` runs in this process, `keeper` is the same in a parent
process,
`redis` is Valkey or Redis.

Rule 1: time never decides what is right. A write is accepted because its session owns the task and is alive
        in the
        engine at that moment, and because it builds on the version that is recorded: a replica that was
        stopped for
        an hour, or whose clock is wrong, is refused.
Rule 2: one lease per replica, not per task. A task names the session that owns it; a session that is not
        renewed
        owns nothing. Session ids are random and never used again.
Rule 3: a replica receives states through the log only, its own too: one order for all.
Rule 4: offsets grow over epochs: `max(head + 1, microseconds of the engine's clock)`, below 2**53. A new
        epoch begins
        whenever the history of the engine may be another one: at its start without data, a failover, a
        restore.
Rule 5: no operation costs more with more viewers. Operations on many tasks take at most `MAX_TASKS` of them.
Rule 6: a call whose answer is missing has happened or not. Nothing is repeated by the engine itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey

MAX_TASKS = 100
"""Tasks in one call."""

MAX_STATES = 64
"""States in one call of `apply`."""

ENTRY_BYTES = 16 * 1024
"""Above this, a log entry has neither document nor raw: who needs them reads the record."""

UNHEARD_SECONDS = 2.0
"""A live session is renewed within this, and before half of its lease has passed."""

BEAT_SECONDS = 0.9
"""After this long without an entry, a renewal writes one. Renewals are a second apart."""

LEARNED_SECONDS = 7 * 86_400.0
"""A list of samples to which nothing was added for so long is deleted."""

FORGOTTEN_SECONDS = 3600.0
"""How long an engine knows that a task was deleted: longer than a bridge shows states without the engine."""

KEPT_SECONDS = 1.0
"""A task that is kept with a state and has no owner is polled by another replica after this."""

CALL_SECONDS = 1.0
"""How often a task can be called for, over all replicas."""


class End(IntEnum):
    """Whether a task has ended."""

    OPEN = 0
    ENDED = 1
    LOST = 2  # a real end may replace it


class Stamp(NamedTuple):
    """Identifies one state of one task in all histories: two states with the same stamp are the same.

    Args:
        version: 1 for the first state of the task, then one more for each.
        session: That saw it, and its epoch (`bridge.replica.connection.Connection.writer`).
    """

    version: int
    session: str


class Record(NamedTuple):
    """What the engine holds of a task.

    Args:
        owner: Session that may poll it; empty for none. It may be dead.
        version: Of the newest state; 0 without a state.
        session: That saw the newest state.
        offset: Of the newest state in the log; 0 without a state. An amendment after the end leaves it: who
            was sent the end has everything.
        digest: Of the newest state's content.
        document: The newest state, encoded; None without a state.
        raw: The provider's own document; None without, or if it is larger than the engine keeps.
        persistent: Whether it is watched until its end without viewers.
        called_back: Whether the provider was asked to call back.
        notices: The active notices, by code.
        due: When its owner wanted to poll it next, microseconds of the engine's clock; 0 if unknown.
        polled_at: No owner before the present one started a poll of it after this, microseconds of the
            engine's clock; 0 if none did.
        confirmation: When the newest state, or one before, was last seen again; None if unknown.
        first_seen: Offset of the first state; 0 without a state.
        details: What it was registered with (tags, group, deadline), encoded; None without.
        forgotten: Offset at which it was deleted by `forget`, known for `FORGOTTEN_SECONDS`: what was seen
            of it before is never recorded again. 0 if it was not.
    """

    key: TaskKey
    owner: str = ""
    version: int = 0
    session: str = ""
    offset: int = 0
    end: End = End.OPEN
    digest: bytes = b""
    document: bytes | None = None
    raw: bytes | None = None
    persistent: bool = False
    called_back: bool = False
    notices: Mapping[str, bytes] = {}
    due: int = 0
    polled_at: int = 0
    confirmation: Confirmation | None = None
    first_seen: int = 0
    details: bytes | None = None
    forgotten: int = 0

    @property
    def stamp(self) -> Stamp:
        """Of the newest state."""
        return Stamp(self.version, self.session)


# The log


class StateEntry(NamedTuple):
    """A state was recorded.

    Args:
        previous: The head before this entry, that is the offset of the entry before, of any kind, or where
            a new epoch began: if it is not the last one received, entries are missing.
        document: None if it is too large for the log (`ENTRY_BYTES`): it is in the record.
        raw: As `document`; None too if the state has none.
        whole: Whether `document` and `raw` are all there is; False if the record has more.
        amended: Whether it is an amendment after the end: viewers are not sent it. `offset` is that of the
            entry alone: the state keeps the one of the end (`Record.offset`).
        details: What the task was registered with, with the first state or whenever it changed.
    """

    offset: int
    previous: int
    key: TaskKey
    stamp: Stamp
    end: End
    digest: bytes
    document: bytes | None
    raw: bytes | None
    whole: bool = True
    amended: bool = False
    details: bytes | None = None


class NoticeEntry(NamedTuple):
    """A notice is active from now on (`body`), or no longer (None)."""

    offset: int
    previous: int
    key: TaskKey
    code: str
    body: bytes | None


class CallEntry(NamedTuple):
    """The owner of a task is asked to poll it now."""

    offset: int
    previous: int
    key: TaskKey
    session: str
    called_back: bool = False


class ConfirmEntry(NamedTuple):
    """The newest states of some tasks were seen again."""

    offset: int
    previous: int
    confirmed: Sequence[tuple[TaskKey, Confirmation]]


class BudgetEntry(NamedTuple):
    """A credential is paused, fails or works again.

    Args:
        credential: `<upstream>/<account>`.
        paused_until: Microseconds of the engine's clock; 0 for no pause.
        failures: In a row, over all replicas.
    """

    offset: int
    previous: int
    credential: str
    paused_until: int
    failures: int


class DocumentEntry(NamedTuple):
    """A small document was written so that all replicas learn of it, or deleted (None)."""

    offset: int
    previous: int
    name: str
    value: bytes | None


class DetailsEntry(NamedTuple):
    """What a task is registered with was set by `register`; its state, if it has one, is unchanged."""

    offset: int
    previous: int
    key: TaskKey
    details: bytes


class ForgetEntry(NamedTuple):
    """A task was deleted by `forget`: nothing of it counts that was recorded before."""

    offset: int
    previous: int
    key: TaskKey


class BeatEntry(NamedTuple):
    """A session is alive. Its only use is to show that the log arrives."""

    offset: int
    previous: int
    session: str


Entry = (
    StateEntry
    | NoticeEntry
    | CallEntry
    | ConfirmEntry
    | BudgetEntry
    | DocumentEntry
    | DetailsEntry
    | ForgetEntry
    | BeatEntry
)

# Sessions


class SessionState(StrEnum):
    """What became of a session."""

    OPENED = "opened"
    RENEWED = "renewed"
    EXPIRED = "expired"


class Welcome(NamedTuple):
    """The answer to `session`.

    Args:
        now: Microseconds of the engine's clock.
        head: The newest offset.
        sessions: The live ones, each with what it says about itself.
    """

    state: SessionState
    now: int
    epoch: str
    head: int
    sessions: Mapping[str, bytes]


# Ownership


class Owner(StrEnum):
    """Who polls a task."""

    ME = "me"
    OTHER = "other"
    NONE = "none"
    OVER = "over"  # it has ended


class Want(NamedTuple):
    """Interest in one task.

    Args:
        may_own: Whether this session takes the task if no live session owns it.
    """

    key: TaskKey
    may_own: bool = True


class Wanted(NamedTuple):
    """The answer: who polls, and the whole record (of version 0 if nothing was recorded)."""

    owner: Owner
    record: Record


class Release(NamedTuple):
    """One task to give up.

    Args:
        due: When it is polled next, microseconds of the engine's clock.
        polled_at: When its newest poll by this session started, microseconds of the engine's clock; 0 if
            none did.
    """

    key: TaskKey
    due: int
    polled_at: int = 0


class Released(StrEnum):
    """What became of a task that was given up."""

    OK = "ok"
    WANTED = "wanted"  # others want it: its owner continues, or hands it over
    NOT_MINE = "not_mine"


class Called(StrEnum):
    """What became of a call for a poll."""

    TOLD = "told"  # the owner receives it through the log
    ORPHANED = "orphaned"  # no session owns it: it is due now for the one that claims it
    SOON = "soon"  # within `CALL_SECONDS` of the last call: that one covers it if its poll has not begun
    UNKNOWN = "unknown"
    OVER = "over"


# States


class Mode(StrEnum):
    """Which sessions write."""

    OWNER = "owner"  # only the session that owns the task
    FREE = "free"  # any live session: what a submit, a cancel or a proxied read showed
    AMEND = "amend"  # any live session, also after the end: links, copies, costs


class Job(NamedTuple):
    """Work that is due because of a state, such as a webhook.

    Args:
        queue: Whose jobs are bounded together, such as one receiver.
        ordering: Of jobs of one queue with the same value one is in flight at a time, in order; empty for
            none.
        due: Microseconds of the engine's clock.
        attempts: How often it was claimed, without claims in which nothing was attempted (`finish_job`).
        replaceable: Whether the next job of the same ordering takes its place while it waits, with its due,
            attempts and age. One in flight is replaced when it is put back (`finish_job` with `retry_at`).
        offset: Of the state it was written with; the engine sets it.
    """

    queue: str
    id: str
    body: bytes
    ordering: str = ""
    due: int = 0
    attempts: int = 0
    replaceable: bool = False
    offset: int = 0


class JobLimits(NamedTuple):
    """The jobs one queue may hold: beyond them a new one is dropped, and the state is recorded all the
    same.
    """

    jobs: int = 10_000
    size: int = 64 * 1024 * 1024


DEFAULT_JOB_LIMITS = JobLimits()

CLAIM_BYTES = 1024 * 1024
"""So many bytes of jobs are taken with one claim, and one job more: a connection is for other calls, too."""

MAX_ANSWERS = 200_000
"""Operations that are done and still known; of more, those that end first are forgotten. One that is not done
never is before its time.
"""

ANSWER_BYTES = 256 * 1024 * 1024
"""The same for the memory they take."""

JOB_SECONDS = 2 * 86_400.0
"""A job that was written so long ago is deleted, also in flight."""


class Waiting(NamedTuple):
    """The jobs of one queue.

    Args:
        jobs: Those in flight included.
        oldest: When the oldest of them was written, microseconds of the engine's clock; 0 without jobs.
    """

    jobs: int = 0
    oldest: int = 0


class Apply(NamedTuple):
    """A state to record.

    Args:
        expect: Version it builds on.
        stamp: Its own; `stamp.version` is `expect + 1`.
        digest: Of its content, without times: the same content twice is recorded once.
        document: The encoded state, opaque.
        jobs: Written in the same step, only if the state is recorded.
        details: What the task is registered with; None leaves it as it is.
        keep: Whether the task is watched until its end, as with `keep`, from when the state is recorded.
    """

    key: TaskKey
    mode: Mode
    expect: int
    stamp: Stamp
    end: End
    digest: bytes
    document: bytes
    raw: bytes | None = None
    jobs: Sequence[Job] = ()
    details: bytes | None = None
    keep: bool = False


class ApplyOutcome(StrEnum):
    """What became of a state. Checked in this order."""

    DUPLICATE = "duplicate"  # the same stamp or digest is the newest: `offset` is that one's
    FENCED = "fenced"  # not the owner, or the session is dead
    FINAL = "final"  # the task has ended (a real end may replace `lost`)
    STALE = "stale"  # another version is recorded, or it was forgotten since the one that this builds on
    RECORDED = "recorded"


class Applied(NamedTuple):
    """The result.

    Args:
        offset: Of the state's entry, with `recorded`; else of the newest state.
        record: With `fenced`, `final` and `stale`: what is recorded.
        dropped: Jobs that their queue had no room for.
    """

    outcome: ApplyOutcome
    offset: int
    version: int
    record: Record | None = None
    dropped: int = 0


class Listing(NamedTuple):
    """One task of a listing.

    Args:
        first_seen: Offset of its first state.
        details: What it is registered with; None without.
    """

    first_seen: int
    key: TaskKey
    details: bytes | None


class Past(NamedTuple):
    """One recorded state of a task.

    Args:
        raw: None too if it is too large for the log (`ENTRY_BYTES`).
    """

    offset: int
    document: bytes
    raw: bytes | None


# Budgets


class Take(NamedTuple):
    """What a replica needs of the budget of one credential.

    Args:
        credential: `<upstream>/<account>`.
        rate: Requests per second over all replicas; None for no limit.
        slots: Start times wanted now.
        horizon: Seconds from now within which they must be; later ones are not lent.
        permits: Calls in flight wanted, in all (those held included).
        max_permits: Calls in flight over all replicas; None for no limit.
        planned: Polls per second this replica plans.
        open_tasks: For which it plans them.
        factor: Of the price of a poll, as this replica knows it; counts if the engine knows none.
        raised: What it was multiplied by here since the last answer.
    """

    credential: str
    rate: float | None = None
    slots: int = 0
    horizon: float = 0.5
    permits: int = 0
    max_permits: int | None = None
    planned: float = 0.0
    open_tasks: int = 0
    factor: float = 1.0
    raised: float = 1.0


class Lent(NamedTuple):
    """The answer.

    Args:
        now: Microseconds of the engine's clock, as the other times.
        slots: Start times, each at least `1 / rate` after the one before, whichever session got that.
        permits: Calls in flight this session holds now.
        next_slot: The earliest start time not lent yet.
        planned: Polls per second of all live sessions.
        open_tasks: Of all live sessions; those of an earlier version send none.
        factor: Of the price of a poll: one for all sessions, moved by each; 1.0 without open tasks.
    """

    now: int
    slots: Sequence[int]
    permits: int
    next_slot: int
    paused_until: int
    failures: int
    planned: float
    open_tasks: int = 0
    factor: float = 1.0


class Report(StrEnum):
    """What a call taught about a credential."""

    PAUSE = "pause"  # 429: `seconds` is its Retry-After, 0 for none; the pause doubles, up to a minute
    FAILED = "failed"
    WORKS = "works"  # reported only while there are failures or a pause; halves the pause


# Small documents, operations, holds


class Put(NamedTuple):
    """The result of a write with compare-and-set: the document as it is now."""

    written: bool
    version: int
    value: bytes | None


class OperationState(StrEnum):
    """Of an operation that must happen once."""

    NEW = "new"  # begun now, by this call: carry it out
    PENDING = "pending"  # a live session carries it out
    DONE = "done"
    MISMATCH = "mismatch"  # the same name with another digest
    DEAD = "dead"  # its session died in the middle: it may have happened; it is never carried out again


class Operation(NamedTuple):
    """An operation and, once it is done, its answer."""

    state: OperationState
    answer: bytes | None = None


class Held(NamedTuple):
    """Whether an amount was reserved, and what is used of the limit in this window."""

    ok: bool
    used: float


class Census(NamedTuple):
    """Numbers for metrics and `/status`.

    Args:
        orphans: Tasks without owner that wait for one.
        oldest_orphan: Seconds since the first of them was due; 0.0 without.
        used: Bytes in use; 0 if unknown.
        limit: Bytes the engine may use; 0 for none.
        jobs: In all queues.
    """

    orphans: int
    oldest_orphan: float
    used: int = 0
    limit: int = 0
    jobs: int = 0


class Engine(Protocol):
    """What replicas share. Every method but `close` raises `EngineUnavailable`: then it happened or not.

    Sessions: a method with `session` does nothing for a dead one, except where it says otherwise.
    Cancellation: a cancelled call has either happened or not.
    """

    # Sessions

    async def session(
        self, session: str, *, ttl: float, known_head: int, new_epoch: str, about: bytes, opens: bool
    ) -> Welcome:
        """Open or renew a session.

        A renewal of an expired session is `EXPIRED` and revives nothing. A new epoch, named `new_epoch`,
        begins if
        there is none, if the engine's history is another one than before, or if `known_head` is beyond its
        head.
        A renewal writes a `BeatEntry` if the log had no entry for `BEAT_SECONDS`: any other shows as well
        that the log arrives, and each entry wakes every replica.

        Args:
            ttl: Seconds for which it lives from now.
            known_head: The newest offset this replica has received; 0 for none.
            about: What the others may know: at most 1 KiB.
            opens: Whether it is opened; else it is renewed.
        """

    async def leave(self, session: str) -> None:
        """End a session now. What it still owns becomes orphans, due when `release` said or at once."""

    async def bury(self, *, limit: int, spacing: float) -> int:
        """Make orphans of up to `limit` tasks of dead sessions, wanted ones first, due `spacing` seconds
        apart.

        Returns:
            How many; less than `limit` when none is left.
        """

    # Ownership

    async def want(self, session: str, wants: Sequence[Want], *, linger: float) -> list[Wanted]:
        """Interest in tasks until `linger` seconds from now; takes those that no live session owns.

        An orphan that is taken so keeps its `due`. A task that has ended is never owned. A task taken from a
        dead session may have been polled until that session should have been renewed again
        (`UNHEARD_SECONDS`, `Record.polled_at`).
        """

    async def owned(self, session: str, *, after: TaskKey | None, limit: int) -> list[TaskKey]:
        """The tasks that name a live session as their owner, whether it knows or not, in a fixed order.

        Args:
            after: The last one of the answer before; None for the first ones.
        """

    async def rewant(self, keys: Sequence[TaskKey], *, linger: float) -> None:
        """Prolong interest, in bulk; more than `MAX_TASKS` are allowed."""

    async def keep(self, session: str, key: TaskKey, *, called_back: bool) -> None:
        """Watch a task until its end, with or without interest."""

    async def claim(self, session: str, *, account: str, limit: int) -> list[Record]:
        """Take due orphans of one account that are wanted or kept; others are forgotten as open work."""

    async def release(self, session: str, releases: Sequence[Release], *, transfer: bool) -> list[Released]:
        """Give up tasks.

        Args:
            transfer: Make orphans of them (a drain); else give up only those that are no longer wanted
                and not kept.
        """

    async def call(
        self, session: str, key: TaskKey, *, called_back: bool = False
    ) -> tuple[Called, TaskKey | None]:
        """Ask the owner of a task to poll it now; returns the task, whose id may only end in `/<task_id>`."""

    # States

    async def apply(
        self, session: str, states: Sequence[Apply], *, limits: JobLimits = DEFAULT_JOB_LIMITS
    ) -> list[Applied]:
        """Record states, each independent of the others; record, history and log entry in one step.

        A task that ends has no owner and is not kept from then on; a lost one stays owned.
        """

    async def records(self, keys: Sequence[TaskKey]) -> list[Record]:
        """The records, of version 0 where nothing was recorded; changes nothing."""

    async def history(self, key: TaskKey, after: int) -> list[Past]:
        """The newest retained states of a task after `after`, oldest first."""

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> list[TaskKey]:
        """The tasks of one account that are open, or that have ended; the one that changed last comes
        first.
        """

    async def listing(
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int = MAX_TASKS,
    ) -> list[Listing]:
        """Tasks of one account with a state, those first seen last come first; of a tag, a group or both.

        Tags and group are those in the `details` of the task: a JSON object with `tags` (list) and `group`.

        Args:
            before: Only those first seen before this offset; 0 for the newest ones.
        """

    async def accounts(self, upstream: str) -> list[str]:
        """The accounts of which tasks are listed, sorted; for tools."""

    async def oldest(self, upstream: str, account: str, *, after: int, limit: int) -> list[Listing]:
        """Tasks of one account with a state that were first seen after an offset, oldest first; for tools."""

    async def forget(self, session: str, key: TaskKey) -> bool:
        """Delete what was recorded of a task, what it is registered with, its owner, the interest in it.

        A log entry follows (`ForgetEntry`). States that build on what is deleted are stale from then on; a
        first state begins it again.

        Returns:
            Whether there was anything, be it only details. If not, nothing changes.
        """

    async def register(self, session: str, key: TaskKey, details: bytes) -> int:
        """Set what a task is registered with, seen or not, with a log entry; returns its offset."""

    # The log

    async def read(self, after: int, *, block: float, limit: int = 1000) -> list[Entry]:
        """Entries after an offset, oldest first; waits up to `block` seconds for the first one."""

    async def announce(self, session: str, key: TaskKey, code: str, body: bytes | None) -> int:
        """A notice is active from now on, or (None) no longer; code `fresh` ends all others. Returns its
        offset.
        """

    async def confirm(self, session: str, confirmed: Sequence[tuple[TaskKey, Confirmation]]) -> None:
        """The newest states were seen again: one log entry."""

    # Budgets

    async def take(self, session: str, take: Take) -> Lent:
        """Borrow start times and permits of one credential. Permits of dead sessions are free again."""

    async def report(
        self, session: str, credential: str, report: Report, *, seconds: float = 0.0
    ) -> tuple[int, int]:
        """What a call showed; a log entry follows if it changes something. Returns `paused_until`,
        failures.
        """

    async def probe(self, session: str, credential: str, *, seconds: float) -> bool:
        """Whether this session alone may probe a failing credential, for `seconds`."""

    # Learned, small documents, operations, jobs, holds

    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """Add samples to a list that keeps the newest `keep`, for `LEARNED_SECONDS`; no log entry.

        Args:
            keep: 0 deletes the list.
        """

    async def learned(self, names: Sequence[str]) -> list[list[bytes]]:
        """The samples of each list, oldest first."""

    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """Write a small document, or delete it (None).

        Args:
            expect: Version it must have (0: must not exist); None for any.
            seconds: After which it is deleted.
            announced: Whether a log entry follows for all replicas.
        """

    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """Small documents with their versions; 0 and None where there is none."""

    async def begin(self, session: str, name: str, digest: bytes, *, seconds: float) -> Operation:
        """Begin an operation that must happen once, or learn what became of it; kept for `seconds`.

        One that is done may be forgotten before, of very many (`MAX_ANSWERS`, `ANSWER_BYTES`).
        """

    async def finish(self, session: str, name: str, answer: bytes | None) -> bool:
        """The operation is done with an answer; None forgets it, it did not happen. False: it is not this
        session's.
        """

    async def add_jobs(self, jobs: Sequence[Job], *, limits: JobLimits = DEFAULT_JOB_LIMITS) -> int:
        """Write jobs of states that were recorded before; returns how many had no room in their queue.

        One that is in its queue already is not added again. As with a state, one that waits and may be
        replaced gives its place to the next of its ordering.
        """

    async def claim_jobs(
        self, session: str, queue: str, *, limit: int, lease: float, ahead: float = 0.0
    ) -> list[Job]:
        """Take due jobs of a queue for `lease` seconds; those of dead sessions and of ended leases are due
        again. Of large ones fewer are taken than `limit` (`CLAIM_BYTES`).

        Args:
            ahead: Jobs that are due within so many seconds are taken, too.
        """

    async def finish_job(
        self, session: str, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True
    ) -> bool:
        """A job is done, or (not 0) due again then. False: it is no longer this session's.

        Args:
            attempted: Whether the claim counts in `Job.attempts` of a job that is due again.
        """

    async def waiting(self, queues: Sequence[str]) -> list[Waiting]:
        """How many jobs each queue has, and since when."""

    async def drop_queue(self, queue: str) -> int:
        """Delete all jobs of a queue, those in flight too; returns how many."""

    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """Reserve an amount within a limit per window of seconds; the same hold twice counts once."""

    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """Replace a reserved amount by what it really was; 0.0 gives it back."""

    # Other

    async def census(self) -> Census:
        """Numbers for metrics."""

    async def close(self) -> None:
        """Release connections or storage. Sessions are not ended: their leases end them."""

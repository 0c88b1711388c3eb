"""The journal in a file and the one in memory, beside a model of both: the same tasks, names and pages."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.task import State, Status, TaskKey
from bridge.journal.base import Journal, Listed
from bridge.journal.memory import MemoryJournal
from bridge.journal.sqlite.journal import SqliteJournal
from tests.fakes.clock import FakeClock
from tests.fakes.tasks import WALL, state

DAY = 86_400.0
RETENTION = 8.5 * DAY  # longer than the week that a file keeps open tasks: both forget alike
ACCOUNTS = [("qingbo", "-"), ("qingbo", "a"), ("vapi", "-")]
KEYS = [
    TaskKey(upstream, task_id, account) for upstream, account in ACCOUNTS for task_id in ("1", "2/ü", "3")
]
STEPS = 40  # of deletion, more than any history here needs

Result = TypeVar("Result")

keys = st.sampled_from(KEYS)
statuses = st.sampled_from(["queued", "processing", "processing", "completed", "failed", "lost"])
details = st.builds(
    TaskDetails,
    webhook=st.none() | st.just("https://a/hook"),
    tags=st.lists(st.sampled_from(["x", "y", "é"]), max_size=2, unique=True).map(tuple),
    group=st.none() | st.sampled_from(["x", "g"]),
    further_webhooks=st.just(()),
    deadline_seconds=st.none() | st.just(60.0),
    since=st.just(0),
)
filters = st.fixed_dictionaries(
    {"tag": st.sampled_from(["", "", "x", "y", "é"]), "group": st.sampled_from(["", "", "x", "g"])}
)
# An append is a status and perhaps details.
appends = st.tuples(keys, statuses, st.none() | details)
operations = st.tuples(st.just("append"), appends) | st.tuples(
    st.sampled_from(["register", "forget"]), st.tuples(keys, details)
)


class Known:
    """What is known of one task."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.events: list[tuple[int, State]] = []
        self.details = NO_DETAILS
        self.changed = 0.0  # by the clock

    @property
    def status(self) -> Status:
        return self.events[-1][1].status

    @property
    def watched(self) -> bool:
        """Whether what it was submitted with is still needed."""
        return not self.status.final or self.status is Status.LOST

    def is_found(self, tag: str, group: str) -> bool:
        return (not tag or tag in self.details.tags) and (not group or group == self.details.group)


class Index:
    """Writes down what tasks are known by, as it is told."""

    def __init__(self) -> None:
        self.known: dict[TaskKey, TaskDetails] = {}

    def described(self, key: TaskKey, details: TaskDetails) -> None:
        self.known[key] = details

    def forgotten(self, key: TaskKey) -> None:
        self.known.pop(key, None)

    def reset(self) -> None:
        raise AssertionError("nothing is missed within a process")


class Walk:
    """Someone who reads a listing page by page while tasks change."""

    def __init__(self, account: tuple[str, str], limit: int, there: dict[TaskKey, int]) -> None:
        self.account = account
        self.limit = limit
        self.there = there  # at the start, with their places: those that stay are all to be read
        self.read: list[list[Listed]] = [[], []]
        self.over = [False, False]


class Journals(RuleBasedStateMachine):
    """Everything is asked of both, and compared with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.head = 0
        self.tasks: dict[TaskKey, Known] = {}  # unchanged for longest first
        self.walk: Walk | None = None
        self.ticks = 0
        self.files: SqliteJournal

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(coroutine)

    @initialize(newest_bytes=st.sampled_from([0, 4000, 64 * 1024 * 1024]))
    def start(self, newest_bytes: int) -> None:
        self.newest_bytes = newest_bytes
        self.memory = MemoryJournal(self.clock, retention_seconds=RETENTION)
        self.run(self.open_file())
        self.indexes = [Index(), Index()]
        for journal, index in zip(self.journals, self.indexes, strict=True):
            journal.follow_index(index)

    async def open_file(self) -> None:
        self.files = await SqliteJournal.open(
            Path(self.directory.name) / "bridge.db",
            self.clock,
            retention_seconds=RETENTION,
            newest_bytes=self.newest_bytes,
        )

    @property
    def journals(self) -> tuple[Journal, Journal]:
        return self.memory, self.files

    def teardown(self) -> None:
        try:
            self.compare_all()
        finally:
            self.run(self.files.close())
            self.runner.close()
            self.directory.cleanup()

    # Changes

    def is_over(self, key: TaskKey) -> bool:
        """Whether nothing is appended to it any more."""
        return key in self.tasks and not self.tasks[key].watched

    def next_state(self, status: str) -> State:
        return state(status, changed_at=WALL + self.head)

    def model_append(self, key: TaskKey, known: State, described: TaskDetails | None) -> None:
        self.head += 1
        task = self.tasks.pop(key, None) or Known(self.head)
        self.tasks[key] = task  # at the end
        # Compared with what an open task is known by; nothing is known of one that has ended.
        before = task.details if task.events and task.watched else NO_DETAILS
        if described is not None and described != before:
            task.details = described
        task.events.append((self.head, known))
        task.changed = self.clock.monotonic()

    def model_change(self, what: str, key: TaskKey, described: TaskDetails) -> bool:
        """Register or forget; whether it was there."""
        if key not in self.tasks:
            return False
        if what == "register":
            self.tasks[key].details = described._replace(since=self.head)
        else:
            del self.tasks[key]
        return True

    @staticmethod
    async def change(journal: Journal, what: str, key: TaskKey, described: TaskDetails) -> bool:
        if what == "forget":
            return await journal.forget(key)
        await journal.register(key, described)
        return False

    @rule(one=appends)
    def append(self, one: tuple[TaskKey, str, TaskDetails | None]) -> None:
        self.together([("append", one)])

    @rule(operations=st.lists(operations, min_size=2, max_size=12))
    def together(self, operations: list[tuple[str, Any]]) -> None:
        """Without waiting in between; a task is described only before anything else of it is under way."""
        done: list[tuple[str, TaskKey, Any, Any, bool]] = []
        under_way: set[TaskKey] = set()
        for what, asked in operations:
            if what == "append":
                key, status, described = asked
                if self.is_over(key):
                    continue
                described = None if key in under_way else described
                known = self.next_state(status)
                self.model_append(key, known, described)
                done.append((what, key, known, described, False))
            else:
                key, described = asked
                if what == "forget" and key in self.tasks and not self.tasks[key].status.final:
                    continue  # as its callers promise
                there = self.model_change(what, key, described)
                done.append((what, key, None, described, there))
            under_way.add(key)

        async def play(journal: Journal, *, at_once: bool) -> None:
            running = []
            for what, key, known, described, there in done:
                if what == "append" and described is not None:
                    journal.describe(key, described)
                asked = (
                    journal.append(key, known)
                    if what == "append"
                    else self.change(journal, what, key, described)
                )
                running.append((what, there, asyncio.ensure_future(asked)))
                # Its first step: it is queued.
                await (asyncio.sleep(0) if at_once else running[-1][2])
            for what, there, future in running:
                answer = await future
                assert what != "forget" or answer is there

        self.run(play(self.memory, at_once=False))
        self.run(play(self.files, at_once=True))

    @rule(key=keys, described=details)
    def register(self, key: TaskKey, described: TaskDetails) -> None:
        self.together([("register", (key, described))])

    @rule(key=keys)
    def forget(self, key: TaskKey) -> None:
        self.together([("forget", (key, NO_DETAILS))])

    @rule(key=keys, first=details, second=details, status=statuses)
    def register_before_the_first_state(
        self, key: TaskKey, first: TaskDetails, second: TaskDetails, status: str
    ) -> None:
        """What a task was submitted with is written with its first state; registering it needs one."""
        if key in self.tasks:
            return

        async def play(journal: Journal, known: State) -> None:
            journal.describe(key, first)
            await journal.register(key, second)
            await journal.append(key, known)

        known = self.next_state(status)
        self.model_append(key, known, first)
        for journal in self.journals:
            self.run(play(journal, known))

    @rule(days=st.integers(1, 9))
    def grow_old(self, days: int) -> None:
        self.clock.skip(days * DAY)
        # Memory forgets when something is appended, and a new task has no age, whoever comes first.
        self.ticks += 1
        self.together([("append", (TaskKey("qingbo", f"tick-{self.ticks}"), "completed", None))])
        oldest = self.clock.monotonic() - RETENTION
        self.tasks = {key: task for key, task in self.tasks.items() if task.changed >= oldest}
        for _ in range(STEPS):
            self.run(self.files.tidy())

    @rule()
    def restart(self) -> None:
        """The file is closed and opened again; memory goes on."""

        async def play() -> None:
            await self.files.close()
            await self.open_file()

        epoch = self.files.epoch
        self.run(play())
        assert self.files.epoch == epoch
        self.indexes[1] = Index()
        self.indexes[1].known = {key: task.details for key, task in self.tasks.items()}
        self.files.follow_index(self.indexes[1])

    # Questions

    @rule(
        account=st.sampled_from(ACCOUNTS), names=filters, limit=st.integers(1, 4), before=st.integers(0, 30)
    )
    def page(self, account: tuple[str, str], names: dict[str, str], limit: int, before: int) -> None:
        expected = [
            Listed(task.place, key, task.details)
            for key, task in sorted(self.tasks.items(), key=lambda one: -one[1].place)
            if (key.upstream, key.account) == account
            and task.is_found(**names)
            and (not before or task.place < before)
        ][:limit]
        for journal in self.journals:
            assert self.run(journal.listing(*account, before=before, limit=limit, **names)) == expected

    @rule(account=st.sampled_from(ACCOUNTS), limit=st.integers(1, 3))
    def turn_a_page(self, account: tuple[str, str], limit: int) -> None:
        """Nothing is skipped or repeated while tasks change."""
        if self.walk is None:
            there = {
                key: task.place for key, task in self.tasks.items() if (key.upstream, key.account) == account
            }
            self.walk = Walk(account, limit, there)
        walk = self.walk
        for number, journal in enumerate(self.journals):
            read = walk.read[number]
            before = read[-1].first_offset if read else 0
            found = self.run(journal.listing(*walk.account, before=before, limit=walk.limit))
            read += found
            walk.over[number] = len(found) < walk.limit
        assert walk.over[0] == walk.over[1]
        if walk.over[0]:
            stayed = {
                (key, place)
                for key, place in walk.there.items()
                if key in self.tasks and self.tasks[key].place == place
            }
            for read in walk.read:
                pairs = [(one.key, one.first_offset) for one in read]
                assert len(pairs) == len(set(pairs))
                assert stayed <= set(pairs)
            self.walk = None

    @rule(some=st.lists(keys, min_size=1, unique=True), after=st.integers(0, 30))
    def history(self, some: list[TaskKey], after: int) -> None:
        expected = sorted(
            (offset, key)
            for key in some
            if key in self.tasks
            for offset, _ in self.tasks[key].events
            if offset > after
        )
        for journal in self.journals:
            recorded = self.run(journal.history(some, after))
            assert [(one.offset, one.key) for one in recorded] == expected
            events = self.run(journal.read(recorded))
            for event in events:
                assert (event.cursor.offset, event.state) in self.tasks[event.key].events
            assert len(events) == len(recorded)

    @rule()
    def compare_all(self) -> None:
        for journal, index in zip(self.journals, self.indexes, strict=True):
            self.run(self.compare(journal, index))

    async def compare(self, journal: Journal, index: Index) -> None:
        every = [*KEYS, *(key for key in self.tasks if key not in KEYS)]
        known = [self.tasks.get(key) for key in every]
        assert journal.head == self.head
        newest = [
            None if event is None else (event.cursor.offset, event.state)
            for event in await journal.latest(every)
        ]
        assert newest == [None if task is None else task.events[-1] for task in known]
        assert await journal.places(every) == [0 if task is None else task.place for task in known]
        assert await journal.first_seen(every) == [
            None if task is None else task.events[0][1].changed_at for task in known
        ]
        recorded = [NO_DETAILS if task is None else task.details for task in known]
        assert await journal.details_of(every) == recorded
        told = [index.known.get(key, NO_DETAILS) for key in every]
        assert told == recorded
        never_ended = [
            key for key, task in self.tasks.items() if not any(known.status.final for _, known in task.events)
        ]
        assert [journal.details(key) for key in never_ended] == [
            self.tasks[key].details for key in never_ended
        ]
        is_open = [key for key, task in self.tasks.items() if not task.status.final]
        assert [event.key for event in await journal.unfinished()] == is_open
        lost = [key for key, task in self.tasks.items() if task.status is Status.LOST]
        assert [event.key for event in await journal.lost(100)] == lost[::-1]
        for upstream, account in ACCOUNTS:
            for final in (False, True):
                expected = [
                    key
                    for key, task in reversed(self.tasks.items())
                    if (key.upstream, key.account) == (upstream, account) and task.status.final is final
                ]
                assert await journal.newest(upstream, account, final=final, limit=100) == expected


TestJournals = Journals.TestCase
TestJournals.settings = settings(max_examples=20, stateful_step_count=30, deadline=None, derandomize=True)

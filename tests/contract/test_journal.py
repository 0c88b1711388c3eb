"""What every journal promises: `bridge.journal.base.Journal`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Confirmation, Event, Notice, NoticeCode
from bridge.core.task import Failure, Source, State, TaskKey
from bridge.errors import JournalError
from bridge.journal.base import Follower, Journal
from bridge.journal.memory import MemoryJournal
from bridge.journal.sqlite.journal import SqliteJournal
from tests.fakes.clock import FakeClock, settle
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, WALL, state, video

pytestmark = pytest.mark.anyio

DAY = 86_400.0
KEEPS = 256  # events a task


async def _nothing() -> None:
    pass


@dataclass
class Made:
    """A journal, its clock, and the way to have it forget now."""

    journal: Journal
    clock: FakeClock
    tidy: Callable[[], Awaitable[None]] = _nothing


@asynccontextmanager
async def memory(path: Path, *, retention: float = DAY) -> AsyncIterator[Made]:
    clock = FakeClock()
    journal = MemoryJournal(clock, retention_seconds=retention)
    yield Made(journal, clock)
    await journal.close()


@asynccontextmanager
async def sqlite(path: Path, *, retention: float = DAY) -> AsyncIterator[Made]:
    clock = FakeClock()
    journal = await SqliteJournal.open(path / "journal.db", clock, retention_seconds=retention)
    yield Made(journal, clock, journal.tidy)
    await journal.close()


MAKERS = [memory, sqlite]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def made(make: Any, tmp_path: Path) -> AsyncIterator[Made]:
    async with make(tmp_path) as made:
        yield made


@pytest.fixture
def journal(made: Made) -> Journal:
    return made.journal


class Listener:
    """Remembers what it heard, and what the journal knew at that moment."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.events: list[Event] = []
        self.heads: list[int] = []
        self.said: list[tuple[Any, ...]] = []

    def recorded(self, event: Event) -> None:
        self.events.append(event)
        self.heads.append(self.journal.head)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        self.said.append((key, notice))


def following(journal: Journal) -> Listener:
    listener = Listener(journal)
    follower: Follower = listener
    journal.follow(follower)
    return listener


def now(made: Made, status: str = "processing", progress: float | None = None, **more: Any) -> State:
    """A state seen just now."""
    return state(status, progress, changed_at=made.clock.time(), observed_at=made.clock.time(), **more)


async def test_a_new_journal_knows_nothing(journal: Journal) -> None:
    assert journal.usable
    assert journal.head == 0
    assert re.fullmatch(r"[A-Za-z0-9]{1,32}", journal.epoch)
    assert await journal.latest([TASK, OTHER]) == [None, None]
    assert list(await recorded_after(journal, TASK, 0)) == []
    assert list(await journal.unfinished()) == []
    assert await journal.latest([]) == []


async def test_offsets_grow_over_all_tasks(made: Made) -> None:
    events = [
        await made.journal.append(key, now(made, progress=number))
        for number, key in enumerate([TASK, OTHER, TASK, TASK, OTHER])
    ]
    offsets = [one.cursor.offset for one in events]
    assert offsets == sorted(set(offsets))
    assert offsets[0] > 0
    assert {one.cursor.epoch for one in events} == {made.journal.epoch}
    assert made.journal.head == offsets[-1]


async def test_what_was_appended_is_read_as_it_was(made: Made) -> None:
    whole = now(
        made,
        "failed",
        42.5,
        upstream_status="KO",
        alias="mine\u2028",
        eta_at=WALL + 1.5,
        eta_by=WALL + 2,
        queue_position=0,
        model="wan",
        action="generate",
        created_at=1.0,
        completed_at=2.0,
        outputs=(video("https://a/1.mp4?s=1", expires_at=3.0, width=1, file_id="9" * 20, data="AAAA"),),
        error=Failure("E", None),
        credits_used=0.0,
        credits_estimated=2.0,
        raw=b'{"a":\n1}',
    )
    event = await made.journal.append(TASK, whole, observed_at=5.0)
    assert (event.key, event.state) == (TASK, whole)
    [read] = await made.journal.latest([TASK])
    assert read == event
    [kept] = await recorded_after(made.journal, TASK, 0)
    assert (kept.key, kept.cursor, kept.state) == (TASK, event.cursor, whole)


async def test_latest_answers_each_key_in_its_place(made: Made) -> None:
    await made.journal.append(TASK, now(made, progress=1))
    second = await made.journal.append(TASK, now(made, progress=2))
    missing = TaskKey("qingbo", "task-x")
    other_account = TaskKey(TASK.upstream, TASK.task_id, "somebody")
    asked = [missing, TASK, other_account, TASK]
    assert await made.journal.latest(asked) == [None, second, None, second]


async def test_since_brings_what_came_after_oldest_first(made: Made) -> None:
    events = [await made.journal.append(TASK, now(made, progress=n)) for n in range(5)]
    await made.journal.append(OTHER, now(made))
    for number, event in enumerate(events):
        kept = [one.cursor for one in await recorded_after(made.journal, TASK, event.cursor.offset)]
        assert kept == [one.cursor for one in events[number + 1 :]]


async def test_unfinished_is_the_newest_of_every_open_task(made: Made) -> None:
    await made.journal.append(TASK, now(made, progress=1))
    newest = await made.journal.append(TASK, now(made, progress=2))
    await made.journal.append(OTHER, now(made))
    await made.journal.append(OTHER, now(made, "completed"))
    gone = TaskKey("qingbo", "task-gone")
    await made.journal.append(gone, now(made, "lost"))
    assert [one.cursor for one in await made.journal.unfinished()] == [newest.cursor]


async def test_followers_hear_in_order_and_only_what_is_recorded(made: Made) -> None:
    listeners = [following(made.journal), following(made.journal)]
    events = await asyncio.gather(
        *(made.journal.append(TASK if n % 2 else OTHER, now(made, progress=n)) for n in range(40))
    )
    for listener in listeners:
        assert [one.cursor.offset for one in listener.events] == sorted(one.cursor.offset for one in events)
        assert listener.heads == [one.cursor.offset for one in listener.events]
    [latest] = await made.journal.latest([TASK])
    assert latest == max((one for one in events if one.key == TASK), key=lambda one: one.cursor.offset)


async def test_a_follower_that_hears_can_read_what_it_heard(made: Made) -> None:
    known: list[bool] = []

    class Curious(Listener):
        def recorded(self, event: Event) -> None:
            reading.append(asyncio.ensure_future(self.read(event)))

        async def read(self, event: Event) -> None:
            [latest] = await self.journal.latest([event.key])
            known.append(latest is not None and latest.cursor.offset >= event.cursor.offset)

    reading: list[asyncio.Future[None]] = []
    made.journal.follow(Curious(made.journal))
    for number in range(3):
        await made.journal.append(TASK, now(made, progress=number))
    await asyncio.gather(*reading)
    assert known == [True] * 3


async def test_who_follows_later_hears_only_what_comes_later(made: Made) -> None:
    await made.journal.append(TASK, now(made, progress=1))
    listener = following(made.journal)
    await made.journal.append(TASK, now(made, progress=2))
    assert [one.state.progress for one in listener.events] == [2]


async def test_notices_are_told_and_not_remembered(made: Made) -> None:
    early, notice = following(made.journal), Notice(NoticeCode.STALE, "not confirmed")
    made.journal.announce(TASK, notice)
    late = following(made.journal)
    assert early.said == [(TASK, notice)]
    assert late.said == []
    assert made.journal.head == 0


async def test_the_newest_confirmation_of_the_newest_state_is_kept(made: Made) -> None:
    journal = made.journal
    assert journal.confirmation(TASK) is None
    listener = following(journal)
    await journal.append(TASK, now(made, progress=1))
    at = made.clock.time()
    for number in (1.0, 2.0):
        journal.confirm(TASK, Confirmation(at + number, at + 40, at + 60))
    assert journal.confirmation(TASK) == (at + 2, at + 40, at + 60)
    assert journal.confirmation(OTHER) is None
    assert len(listener.events) == 1, "a confirmation is no event"
    await journal.append(TASK, now(made, progress=2))
    assert journal.confirmation(TASK) is None


async def test_a_cancelled_append_has_happened_or_not(made: Made) -> None:
    listener = following(made.journal)
    task = asyncio.ensure_future(made.journal.append(TASK, now(made, progress=1)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    later = await made.journal.append(TASK, now(made, progress=2))
    heard = [one.cursor for one in listener.events]
    assert heard == [one.cursor for one in await recorded_after(made.journal, TASK, 0)]
    assert heard[-1] == later.cursor


async def test_a_task_keeps_its_newest_events(made: Made) -> None:
    for number in range(KEEPS + 40):
        last = await made.journal.append(TASK, now(made, progress=number % 90))
    for _ in range(5):
        await made.tidy()
    kept = list(await recorded_after(made.journal, TASK, 0))
    assert KEEPS <= len(kept) <= KEEPS + 40
    assert kept[-1].cursor == last.cursor


async def test_a_finished_task_is_forgotten_after_its_time_and_not_before(make: Any, tmp_path: Path) -> None:
    async with make(tmp_path, retention=100.0) as made:
        await made.journal.append(TASK, now(made, "completed"))
        made.clock.skip(99)
        await made.journal.append(OTHER, now(made))
        await made.tidy()
        assert (await made.journal.latest([TASK]))[0] is not None
        made.clock.skip(2)
        await made.journal.append(OTHER, now(made, progress=2))
        await made.tidy()
        await settle()
        assert await made.journal.latest([TASK]) == [None]
        assert list(await recorded_after(made.journal, TASK, 0)) == []
        assert (await made.journal.latest([OTHER]))[0] is not None


async def test_forgetting_everything_lets_no_offset_be_given_out_twice(make: Any, tmp_path: Path) -> None:
    async with make(tmp_path, retention=100.0) as made:
        old = await made.journal.append(TASK, now(made, "completed"))
        made.clock.skip(1000)
        await made.tidy()
        new = await made.journal.append(TASK, now(made))
        assert new.cursor.offset > old.cursor.offset


async def test_a_state_older_than_what_is_kept_can_be_recorded(make: Any, tmp_path: Path) -> None:
    async with make(tmp_path, retention=0.0) as made:
        made.clock.skip(1000)
        for number in range(3):
            ancient = state("completed", changed_at=1.0, source=Source.POLL)
            key = TaskKey("qingbo", f"task-{number}")
            assert (await made.journal.append(key, ancient)).state == ancient


async def test_closing_is_idempotent_where_it_matters(made: Made) -> None:
    await made.journal.append(TASK, now(made))
    await made.journal.close()
    await made.journal.close()
    if not isinstance(made.journal, MemoryJournal):
        with pytest.raises(JournalError):
            await made.journal.append(TASK, now(made))


async def test_the_tasks_of_an_account_open_or_ended_newest_change_first(made: Made) -> None:
    foreign = TaskKey(TASK.upstream, "their-task", "somebody")
    third = TaskKey(TASK.upstream, "third")
    done = TaskKey(TASK.upstream, "done")
    for key in (TASK, done, third, foreign, OTHER):
        await made.journal.append(key, now(made))
    await made.journal.append(TASK, now(made, progress=50))
    await made.journal.append(done, now(made, "completed"))

    async def newest(account: str, *, final: bool, limit: int = 10) -> list[TaskKey]:
        return list(await made.journal.newest(TASK.upstream, account, final=final, limit=limit))

    assert await newest("-", final=False) == [TASK, third]
    assert await newest("-", final=False, limit=1) == [TASK]
    assert await newest("-", final=True) == [done]
    assert await newest("somebody", final=False) == [foreign]
    assert await newest("nobody", final=False) == []
    assert list(await made.journal.newest("nowhere", "-", final=False, limit=10)) == []


async def test_when_a_task_was_first_seen_never_changes(made: Made) -> None:
    began = made.clock.time()
    await made.journal.append(TASK, now(made))
    await made.clock.advance(30)
    for _ in range(KEEPS + 80):
        await made.journal.append(TASK, now(made, progress=1))
    await made.journal.append(OTHER, now(made))
    await made.tidy()
    missing = TaskKey("qingbo", "never-was")
    assert await made.journal.first_seen([OTHER, missing, TASK]) == [began + 30, None, began]
    assert await made.journal.first_seen([]) == []


async def test_a_forgotten_task_is_in_no_list(make: Any, tmp_path: Path) -> None:
    async with make(tmp_path, retention=60) as made:
        await made.journal.append(TASK, now(made, "completed"))
        await made.clock.advance(120)
        await made.journal.append(OTHER, now(made))
        await made.tidy()
        assert list(await made.journal.newest(TASK.upstream, "-", final=True, limit=10)) == []
        assert await made.journal.first_seen([TASK]) == [None]


# What tasks are known by


class Index:
    """What an index follower heard, in order, with the states between."""

    def __init__(self, journal: Journal) -> None:
        self.heard: list[tuple[Any, ...]] = []
        journal.follow_index(self)
        journal.follow(self)

    def described(self, key: TaskKey, details: TaskDetails) -> None:
        self.heard.append(("described", key, details))

    def forgotten(self, key: TaskKey) -> None:
        self.heard.append(("forgotten", key))

    def recorded(self, event: Event) -> None:
        self.heard.append(("recorded", event.key, event.cursor.offset))

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        pass

    def new_epoch(self) -> None:
        pass


NEXT = TaskKey("qingbo", "task-2")
USERS = TaskDetails(tags=("user-1", "video"), group="batch-1", deadline_seconds=60.0)


async def keys_of(journal: Journal, **which: Any) -> list[TaskKey]:
    return [one.key for one in await journal.listing("qingbo", "-", **which)]


async def test_what_a_task_was_submitted_with_outlives_its_end(made: Made) -> None:
    journal = made.journal
    assert await journal.details_of([TASK, NEXT]) == [NO_DETAILS, NO_DETAILS]
    journal.describe(TASK, USERS)
    assert await journal.details_of([TASK]) == [NO_DETAILS]
    await journal.append(TASK, now(made))
    await journal.append(TASK, now(made, "completed"))
    await journal.append(NEXT, now(made))
    assert await journal.details_of([NEXT, TASK]) == [NO_DETAILS, USERS]
    assert journal.details(TASK) == NO_DETAILS
    assert await keys_of(journal) == [NEXT, TASK]
    assert await keys_of(journal, tag="user-1") == await keys_of(journal, group="batch-1") == [TASK]
    assert await keys_of(journal, tag="video", group="batch-1") == [TASK]
    assert await keys_of(journal, tag="video", group="batch-2") == []
    assert await keys_of(journal, tag="batch-1") == await keys_of(journal, group="video") == []
    ((place, key, details),) = await journal.listing("qingbo", "-", tag="video")
    assert (place, key, details) == (1, TASK, USERS)
    assert await journal.listing("vapi", "-") == await journal.listing("qingbo", "theirs") == []


async def test_details_are_passed_on_before_their_state(made: Made) -> None:
    index = Index(made.journal)
    made.journal.describe(TASK, USERS)
    assert index.heard == []
    await made.journal.append(TASK, now(made))
    await made.journal.append(TASK, now(made, progress=9.0))
    assert index.heard == [("described", TASK, USERS), ("recorded", TASK, 1), ("recorded", TASK, 2)]


async def test_a_registration_replaces_the_names_and_says_since_when(made: Made) -> None:
    journal = made.journal
    journal.describe(TASK, USERS)
    await journal.append(TASK, now(made))
    await journal.append(NEXT, now(made))
    index = Index(journal)
    again = TaskDetails(tags=("video", "user-2"), webhook="https://a/hook")
    await journal.register(TASK, again)
    await journal.register(NEXT, TaskDetails(tags=("user-2",)))
    assert await journal.details_of([TASK]) == [again._replace(since=2)]
    assert journal.details(TASK) == again._replace(since=2)
    assert journal.details(NEXT) == TaskDetails(tags=("user-2",), since=2)
    assert [one[:2] for one in index.heard] == [("described", TASK), ("described", NEXT)]
    assert await keys_of(journal, tag="user-1") == await keys_of(journal, group="batch-1") == []
    assert await keys_of(journal, tag="user-2") == [NEXT, TASK]
    assert await keys_of(journal, tag="user-2", before=2) == [TASK]
    await journal.append(TASK, now(made, "completed"))
    await journal.register(TASK, NO_DETAILS)
    assert journal.details(TASK) == NO_DETAILS
    assert await keys_of(journal, tag="user-2") == [NEXT]
    assert await keys_of(journal) == [NEXT, TASK]


async def test_a_lost_task_that_is_registered_has_its_details_when_it_comes_back(made: Made) -> None:
    await made.journal.append(TASK, now(made, "lost"))
    await made.journal.register(TASK, USERS)
    assert made.journal.details(TASK) == USERS._replace(since=1)


async def test_without_a_state_nothing_is_registered(made: Made) -> None:
    index = Index(made.journal)
    await made.journal.register(TASK, USERS)
    assert await made.journal.details_of([TASK]) == [NO_DETAILS]
    await made.journal.append(TASK, now(made))
    assert await keys_of(made.journal, tag="video") == []
    assert index.heard == [("recorded", TASK, 1)]


async def test_what_is_registered_replaces_what_was_to_be_recorded(made: Made) -> None:
    await made.journal.append(TASK, now(made))
    made.journal.describe(TASK, TaskDetails(tags=("old",)))
    await made.journal.register(TASK, TaskDetails(tags=("new",)))
    await made.journal.append(TASK, now(made, progress=5.0))
    assert await keys_of(made.journal, tag="old") == []
    assert await keys_of(made.journal, tag="new") == [TASK]


async def test_a_forgotten_task_leaves_nothing(made: Made) -> None:
    journal = made.journal
    assert await journal.forget(TASK) is False
    journal.describe(TASK, USERS)
    await journal.append(TASK, now(made))
    await journal.append(TASK, now(made, "completed"))
    journal.confirm(TASK, Confirmation(WALL))
    index = Index(journal)
    assert await journal.forget(TASK) is True
    assert await journal.forget(TASK) is False
    assert index.heard == [("forgotten", TASK)]
    assert await journal.latest([TASK]) == [None]
    assert await recorded_after(journal, TASK, 0) == []
    assert await journal.details_of([TASK]) == [NO_DETAILS]
    assert await journal.first_seen([TASK]) == [None]
    assert journal.confirmation(TASK) is None
    assert await keys_of(journal) == await keys_of(journal, tag="video") == []
    assert await journal.newest("qingbo", "-", final=True, limit=9) == []
    event = await journal.append(TASK, now(made))
    assert event.cursor.offset == 3
    assert [one.first_offset for one in await journal.listing("qingbo", "-")] == [3]
    assert await keys_of(journal, tag="video") == []
    assert journal.details(TASK) == NO_DETAILS


async def test_states_around_a_deletion_are_deleted_or_begin_the_task_anew(made: Made) -> None:
    """Queued before it they are deleted with it; queued later they are a new task without its names."""
    journal = made.journal
    journal.describe(TASK, USERS)
    steps = [
        asyncio.ensure_future(step)
        for step in (
            journal.append(TASK, now(made)),
            journal.append(TASK, now(made, "completed")),
            journal.append(NEXT, now(made)),
            journal.forget(TASK),
            journal.append(TASK, now(made, progress=1.0)),
            journal.register(TASK, TaskDetails(tags=("later",))),
        )
    ]
    await asyncio.gather(*steps)
    assert [event.cursor.offset for event in await recorded_after(journal, TASK, 0)] == [4]
    assert await keys_of(journal, group="batch-1") == []
    assert [one[:2] for one in await journal.listing("qingbo", "-")] == [(4, TASK), (3, NEXT)]
    assert await keys_of(journal, tag="later") == [TASK]


async def test_retention_deletes_details_and_names_too(make: Any, tmp_path: Path) -> None:
    async with make(tmp_path, retention=60.0) as made:
        journal = made.journal
        journal.describe(TASK, USERS)
        await journal.append(TASK, now(made, "completed"))
        index = Index(journal)
        await made.clock.advance(61)
        await journal.append(NEXT, now(made))
        await made.tidy()
        assert ("forgotten", TASK) in index.heard
        assert await journal.details_of([TASK]) == [NO_DETAILS]
        assert await keys_of(journal) == [NEXT]
        assert await keys_of(journal, tag="video") == []


async def test_a_listing_is_paged_by_place(made: Made) -> None:
    journal = made.journal
    keys = [TaskKey("qingbo", f"task-{number}") for number in range(7)]
    for number, key in enumerate(keys):
        journal.describe(key, TaskDetails(tags=("t", f"odd-{number % 2}"), group=f"g{number % 3}"))
        await journal.append(key, now(made))
    theirs = TaskKey("qingbo", "task-1", "theirs")
    journal.describe(theirs, TaskDetails(tags=("t",), group="g1"))
    await journal.append(theirs, now(made))
    for key in keys[:3]:
        await journal.append(key, now(made, "completed"))
    for which, expected in (
        ({}, keys),
        ({"tag": "t"}, keys),
        ({"tag": "odd-1"}, keys[1::2]),
        ({"group": "g1"}, keys[1::3]),
        ({"tag": "odd-1", "group": "g1"}, keys[1:2]),
        ({"tag": "t", "group": "g0"}, keys[0::3]),
    ):
        found: list[TaskKey] = []
        before = 0
        while page := await journal.listing("qingbo", "-", before=before, limit=2, **which):
            assert len(page) <= 2
            found += [one.key for one in page]
            before = page[-1].first_offset
        assert found == expected[::-1]
    assert [one.key for one in await journal.listing("qingbo", "theirs", tag="t")] == [theirs]
    assert await journal.listing("qingbo", "-", before=2**80, limit=1) != []

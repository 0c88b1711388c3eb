"""What every journal promises of the names of tasks: alone, and over every engine that replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Event, Notice
from bridge.core.task import TaskKey
from bridge.journal.base import Journal, Listed
from tests.fakes.engines import ENGINES, require
from tests.fakes.ledgers import MAKERS, Remembering, RememberingMaker
from tests.fakes.tasks import state

pytestmark = pytest.mark.anyio

ONE, TWO = (TaskKey("qingbo", name) for name in ("models/one", "two"))
THEIRS = TaskKey("qingbo", "two", "theirs")
USERS = TaskDetails("https://app.test/hook", ("user-1", "video"), "batch", deadline_seconds=60.5)


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    async with request.param(tmp_path) as made:
        yield made.journal


@dataclass
class IndexTold:
    """What a follower of the index was told, with the states in between."""

    told: list[tuple[str, TaskKey | None]] = field(default_factory=list)

    @classmethod
    def of(cls, journal: Journal) -> IndexTold:
        followed = cls()
        journal.follow_index(followed)
        journal.follow(followed)
        return followed

    def described(self, key: TaskKey, details: TaskDetails) -> None:
        assert details != NO_DETAILS
        self.told.append(("described", key))

    def forgotten(self, key: TaskKey) -> None:
        self.told.append(("forgotten", key))

    def reset(self) -> None:
        self.told.append(("reset", None))

    def recorded(self, event: Event) -> None:
        self.told.append(("recorded", event.key))

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        pass

    def new_epoch(self) -> None:
        pass


async def record(journal: Journal, key: TaskKey, status: str = "queued", progress: float = 0.0) -> Event:
    return await journal.append(key, state(status, progress), free=True)


async def listed(journal: Journal, account: str = "-", **which: Any) -> list[TaskKey]:
    return [one.key for one in await journal.listing("qingbo", account, **which)]


async def test_a_task_is_found_by_what_it_was_submitted_with(journal: Journal) -> None:
    told = IndexTold.of(journal)
    for key in (ONE, THEIRS):
        journal.describe(key, USERS)
        first = await record(journal, key)
        await record(journal, key, "completed", 100.0)
        which = {"tag": "video", "group": "batch"}
        assert await journal.listing("qingbo", key.account, **which) == [  # type: ignore[arg-type]
            Listed(first.cursor.offset, key, USERS)
        ]
    await record(journal, TWO)
    assert await listed(journal) == [TWO, ONE]
    assert await journal.places([TWO, ONE]) == [
        one.first_offset for one in await journal.listing("qingbo", "-")
    ]
    assert await journal.places([TaskKey("qingbo", "never-seen")]) == [0]
    assert await listed(journal, tag="batch") == await listed(journal, group="user-1") == []
    assert await listed(journal, "nobody") == await listed(journal, "theirs", tag="x") == []
    assert await journal.details_of([TWO, THEIRS, ONE]) == [NO_DETAILS, USERS, USERS]
    assert told.told[:3] == [("described", ONE), ("recorded", ONE), ("recorded", ONE)]


async def test_a_registration_counts_for_every_cursor_until_then(journal: Journal) -> None:
    journal.describe(ONE, USERS)
    await record(journal, ONE, "completed", 100.0)
    newest = await record(journal, TWO)
    told = IndexTold.of(journal)
    again = TaskDetails(tags=("user-2",))
    await journal.register(ONE, again)
    assert told.told == [("described", ONE)]
    (details,) = await journal.details_of([ONE])
    assert details._replace(since=0) == again
    assert details.since >= newest.cursor.offset
    assert await listed(journal, tag="user-1") == await listed(journal, group="batch") == []
    assert await listed(journal, tag="user-2") == [ONE]
    await journal.register(THEIRS, again)  # it has no state
    assert await journal.details_of([THEIRS]) == [NO_DETAILS]
    assert await listed(journal, "theirs") == []


async def test_a_forgotten_task_is_another_one_when_it_comes_again(journal: Journal) -> None:
    journal.describe(ONE, USERS)
    await record(journal, ONE)
    await record(journal, ONE, "completed", 100.0)
    told = IndexTold.of(journal)
    assert await journal.forget(ONE)
    assert ("forgotten", ONE) in told.told
    assert not await journal.forget(ONE)
    assert not await journal.forget(TWO)
    assert await journal.latest([ONE]) == [None]
    assert list(await journal.history([ONE], 0)) == []
    assert await journal.details_of([ONE]) == [NO_DETAILS]
    assert await journal.first_seen([ONE]) == [None]
    assert journal.details(ONE) == NO_DETAILS
    assert (
        await listed(journal)
        == await listed(journal, tag="video")
        == await listed(journal, group="batch")
        == []
    )
    again = await record(journal, ONE, "processing", 1.0)
    assert await journal.listing("qingbo", "-") == [Listed(again.cursor.offset, ONE, NO_DETAILS)]
    (newest,) = await journal.latest([ONE])
    assert newest is not None
    assert newest.state.progress == 1.0


async def test_odd_places_to_begin_at(journal: Journal) -> None:
    event = await record(journal, ONE)
    for before in (2**63, 2**200):
        assert await listed(journal, before=before) == [ONE]
    assert await listed(journal, before=event.cursor.offset) == []


# Whatever happens while somebody reads page after page: nothing twice, and nothing left out.

KEYS = [
    TaskKey("qingbo", f"{number}" if number % 3 else f"m/{number}", "-ab"[number % 3]) for number in range(9)
]
NAMES: list[dict[str, str]] = [{}, {"tag": "x"}, {"group": "g"}, {"tag": "x", "group": "g"}]
words = st.builds(
    lambda tags, group: TaskDetails(tags=tags, group=group),
    st.sampled_from([(), ("x",), ("x", "y"), ("y",)]),
    st.sampled_from([None, "g", "h"]),
)
steps = st.one_of(
    st.tuples(st.just("record"), st.sampled_from(KEYS), words),
    st.tuples(st.just("record"), st.sampled_from(KEYS), words),
    st.tuples(st.just("register"), st.sampled_from(KEYS), words),
    st.tuples(st.just("forget"), st.sampled_from(KEYS), st.just(NO_DETAILS)),
    st.tuples(st.just("page"), st.sampled_from(KEYS[:3]), st.just(NO_DETAILS)),
)


class Model:
    """What is known by what."""

    def __init__(self) -> None:
        self.tasks: dict[TaskKey, tuple[int, TaskDetails]] = {}
        self.versions = 0

    def listing(self, account: str, which: dict[str, str]) -> list[TaskKey]:
        """The keys, newest first."""
        found = [
            (place, key)
            for key, (place, details) in self.tasks.items()
            if key.account == account
            and which.get("tag", "") in ("", *details.tags)
            and which.get("group", "") in ("", details.group)
        ]
        return [key for _, key in sorted(found, reverse=True)]


class Reader:
    """Reads the tasks of an account by some names, two at a time.

    Attributes:
        always: Tasks that were listed from the first page on, until now.
    """

    def __init__(self, account: str, which: dict[str, str]) -> None:
        self.account, self.which = account, which
        self.before = 0
        self.found: list[TaskKey] = []
        self.always: set[TaskKey] | None = None
        self.ended = False

    async def read(self, journal: Journal, model: Model) -> None:
        """The next page."""
        if self.always is None:
            self.always = {*model.listing(self.account, self.which)}
        if self.ended:
            return
        page = await journal.listing(
            "qingbo",
            self.account,
            before=self.before,
            limit=2,
            **self.which,  # type: ignore[arg-type]
        )
        self.found += [one.key for one in page]
        self.ended = not page
        self.before = page[-1].first_offset if page else self.before

    async def compare(self, journal: Journal, model: Model) -> None:
        """All at once: as the model has it."""
        expected = model.listing(self.account, self.which)
        if self.always is not None:
            self.always &= {*expected}
        found = await journal.listing("qingbo", self.account, **self.which)  # type: ignore[arg-type]
        assert [one.key for one in found] == expected
        assert [one.details._replace(since=0) for one in found] == [model.tasks[one][1] for one in expected]


async def play(make: RememberingMaker, asked: list[tuple[str, TaskKey, TaskDetails]], path: Path) -> None:
    async with make(path) as made:
        await carry_out(made, asked)


async def carry_out(made: Remembering, asked: list[tuple[str, TaskKey, TaskDetails]]) -> None:
    journal, model = made.journal, Model()
    readers = [Reader(account, which) for account in "-ab" for which in NAMES]
    for what, key, details in asked:
        if what == "page":
            for reader in readers:
                await reader.read(journal, model)
        else:
            await change(journal, model, what, key, details)
            for reader in readers:
                await reader.compare(journal, model)
    # Only a task that was forgotten and came again may come twice: it is another one.
    forgotten = {key for what, key, _ in asked if what == "forget"}
    for reader in readers:
        while not reader.ended:
            await reader.read(journal, model)
        assert {key for key in reader.found if reader.found.count(key) > 1} <= forgotten
        assert reader.always is not None
        assert reader.always <= {*reader.found}


async def change(journal: Journal, model: Model, what: str, key: TaskKey, details: TaskDetails) -> None:
    if what == "record":
        journal.describe(key, details)
        model.versions += 1
        event = await record(journal, key, "processing", model.versions / 100)
        place = model.tasks[key][0] if key in model.tasks else event.cursor.offset
        model.tasks[key] = place, details
    elif what == "register":
        await journal.register(key, details)
        if key in model.tasks:
            model.tasks[key] = model.tasks[key][0], details
    else:
        assert await journal.forget(key) is (model.tasks.pop(key, None) is not None)


SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
QUICK = [make for make in MAKERS if make.__name__ in ("in_memory", "in_a_file", "embedded", "keeper")]
SERVERS = [make for make in MAKERS if make not in QUICK]


@pytest.mark.parametrize("make", QUICK, ids=lambda make: make.__name__)
@settings(max_examples=20, deadline=None, suppress_health_check=SLOW)
@given(asked=st.lists(steps, max_size=25))
def test_pages_while_tasks_change(make: RememberingMaker, asked: list[Any]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(play(make, asked, Path(folder)))


@pytest.mark.parametrize("make", SERVERS, ids=lambda make: make.__name__)
@settings(max_examples=8, deadline=None, suppress_health_check=SLOW)
@given(asked=st.lists(steps, min_size=5, max_size=25))
def test_pages_while_tasks_change_on_a_server(make: RememberingMaker, asked: list[Any]) -> None:
    require(next(maker for maker in ENGINES if maker.name == make.__name__))
    with TemporaryDirectory() as folder:
        asyncio.run(play(make, asked, Path(folder)))

"""What every journal promises of an end that is amended: it says more, and nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bridge.clock import SystemClock
from bridge.core.details import TaskDetails
from bridge.core.event import Event, Notice
from bridge.core.task import State, Status, TaskKey
from bridge.engine.base import Job
from bridge.journal.base import Journal
from bridge.journal.sqlite.journal import SqliteJournal
from tests.fakes.journal import recorded_after
from tests.fakes.ledgers import MAKERS, JobPlans, Remembering, job_of
from tests.fakes.tasks import state, video

pytestmark = pytest.mark.anyio

TASK, OTHER = TaskKey("qingbo", "models/one"), TaskKey("qingbo", "two")
DETAILS = TaskDetails(tags=("user-1",), group="batch")
DONE = state("completed", 100.0, outputs=(video("https://p.test/1.mp4"), video("https://p.test/2.mp4")))


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Remembering]:
    async with request.param(tmp_path) as made:
        yield made


@pytest.fixture
def journal(made: Remembering) -> Journal:
    return made.journal


@dataclass
class Heard:
    """What a follower heard."""

    events: list[Event] = field(default_factory=list)
    amended_events: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, journal: Journal) -> Heard:
        heard = cls()
        journal.follow(heard)
        return heard

    def recorded(self, event: Event) -> None:
        self.events.append(event)

    def amended(self, event: Event) -> None:
        self.amended_events.append(event)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        pass

    def new_epoch(self) -> None:
        pass


def stored(known: State, *numbers: int) -> State:
    """The state with copies of some outputs."""
    outputs = [
        replace(output, stored_url=f"https://s.test/{n}") if n in numbers else output
        for n, output in enumerate(known.outputs)
    ]
    return replace(known, outputs=tuple(outputs))


def urls(event: Event | None) -> list[str | None]:
    assert event is not None
    return [output.stored_url for output in event.state.outputs]


async def latest(journal: Journal, key: TaskKey = TASK) -> Event | None:
    (event,) = await journal.latest([key])
    return event


async def test_an_end_says_more_at_its_own_place(journal: Journal) -> None:
    journal.describe(TASK, DETAILS)
    await journal.append(TASK, state("processing", 50.0), free=True)
    end = await journal.append(TASK, DONE, free=True)
    other = await journal.append(OTHER, state("processing", 10.0), free=True)
    heard = Heard.of(journal)
    amended = await journal.amend(TASK, lambda known: stored(known, 0))
    assert amended is not None
    assert amended.cursor == end.cursor
    assert urls(amended) == urls(await latest(journal)) == ["https://s.test/0", None]
    assert heard.events == []
    assert [(one.cursor, urls(one)) for one in heard.amended_events] == [(end.cursor, urls(amended))]
    history = await recorded_after(journal, TASK, 0)
    assert [one.state.status.value for one in history] == ["processing", "completed"]
    assert history[-1].cursor.offset == end.cursor.offset
    assert urls(history[-1]) == urls(amended)
    assert await recorded_after(journal, TASK, end.cursor.offset) == []
    (listed,) = await journal.listing("qingbo", "-", tag="user-1", group="batch")
    assert listed.key == TASK
    assert await journal.newest("qingbo", "-", final=True, limit=9) == [TASK]
    later = await journal.append(OTHER, state("processing", 20.0), free=True)
    assert later.cursor.offset > other.cursor.offset


async def test_amendments_build_on_one_another(journal: Journal) -> None:
    await journal.append(TASK, DONE, free=True)
    await asyncio.gather(*[journal.amend(TASK, lambda known, n=n: stored_too(known, n)) for n in (0, 1)])  # type: ignore[misc]
    assert urls(await latest(journal)) == ["https://s.test/0", "https://s.test/1"]


def stored_too(known: State, n: int) -> State:
    kept = [number for number, output in enumerate(known.outputs) if output.stored_url]
    return stored(known, n, *kept)


async def test_only_an_end_is_amended_and_never_its_status(journal: Journal) -> None:
    assert await journal.amend(TASK, lambda known: known) is None
    await journal.append(TASK, replace(DONE, status=Status.PROCESSING), free=True)
    assert await journal.amend(TASK, lambda known: stored(known, 0)) is None
    await journal.append(TASK, replace(DONE, status=Status.LOST), free=True)
    assert await journal.amend(TASK, lambda known: stored(known, 0)) is None
    end = await journal.append(TASK, DONE, free=True)
    assert await journal.amend(TASK, lambda _: None) is None
    with pytest.raises(ValueError, match="an amendment of qingbo/models/one changes"):
        await journal.amend(TASK, lambda known: replace(known, status=Status.FAILED))
    event = await latest(journal)
    assert event is not None
    assert (event.cursor, event.state.status, urls(event)) == (end.cursor, Status.COMPLETED, [None, None])


async def test_its_jobs_are_planned_with_the_end_before_it_and_written_with_it(made: Remembering) -> None:
    journal = made.journal
    journal.describe(TASK, DETAILS)
    end = await journal.append(TASK, DONE, free=True)
    plans = JobPlans(makes=lambda key, known: [job_of(key, known)._replace(due=made.ledger.now() - 60)])
    journal.planner = plans
    await journal.amend(TASK, lambda known: stored(known, 0))
    await plans.reported(1)
    ((key, previous, planned, details),) = plans.planned
    assert (key, previous, planned) == (TASK, DONE, stored(DONE, 0))
    assert (details.tags, details.group) == (DETAILS.tags, DETAILS.group)
    (job,) = await made.ledger.claim_jobs("hook", limit=9, lease=60)
    assert isinstance(job, Job)
    assert job.offset == end.cursor.offset


async def test_a_forgotten_task_is_not_amended(journal: Journal) -> None:
    await journal.append(TASK, DONE, free=True)
    assert await journal.forget(TASK)
    assert await journal.amend(TASK, lambda known: stored(known, 0)) is None
    assert await latest(journal) is None


async def test_large_documents_are_amended_too(journal: Journal) -> None:
    large = replace(DONE, raw=b'{"x":"%b"}' % (b"x" * 40_000), result=b'{"y":"%b"}' % (b"y" * 40_000))
    end = await journal.append(TASK, large, free=True)
    await journal.amend(TASK, lambda known: stored(known, 1))
    event = await latest(journal)
    assert event is not None
    assert (event.cursor, event.state.raw, urls(event)) == (end.cursor, large.raw, [None, "https://s.test/1"])


async def test_a_restart_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await SqliteJournal.open(path, SystemClock(), retention_seconds=3600)
    end = await journal.append(TASK, DONE)
    assert await journal.amend(TASK, lambda known: stored(known, 0))
    await journal.close()
    journal = await SqliteJournal.open(path, SystemClock(), retention_seconds=3600)
    event = await latest(journal)
    assert event is not None
    assert (event.cursor, urls(event)) == (end.cursor, ["https://s.test/0", None])
    assert len(await recorded_after(journal, TASK, 0)) == 1
    await journal.close()

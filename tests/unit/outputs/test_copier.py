"""Copies of outputs: before an end is recorded, or afterwards, whatever the provider and the store do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.task import Observation, Output, Source, State, Status, TaskKey
from bridge.engine.base import Job
from bridge.errors import UpstreamRefused, UpstreamUnavailable
from bridge.journal.jobs import JobRunner
from bridge.outputs.copier import (
    MAX_ATTEMPTS,
    MAX_REFUSED,
    QUEUE,
    Copier,
    CopyLimits,
    CopyPlanner,
    CopyResult,
)
from bridge.outputs.names import object_name
from bridge.outputs.store import FileTooLarge, StoreError
from tests.fakes.clock import settle
from tests.fakes.outputs import VIDEO, FakeFiles
from tests.fakes.provider import Script, frame
from tests.fakes.stores import MemoryStore
from tests.fakes.tasks import state, video
from tests.unit.watchers.conftest import House

pytestmark = pytest.mark.anyio

TASK = TaskKey("qingbo", "task-1")
ONE, TWO = "https://p.test/1.webm", "https://p.test/2.webm"
WAIT = 30.0
PATH = "/v1/tasks/qingbo/task-1/outputs/{}"


@dataclass
class Counts:
    """What was counted."""

    results: list[str] = field(default_factory=list)
    size: int = 0

    def copied(self, result: CopyResult, size: int, seconds: float) -> None:
        self.results.append(result.value)
        self.size += size

    def failed(self, result: CopyResult, number: int = 1) -> None:
        self.results += [result.value] * number


class Bench:
    """A bridge whose ends wait for copies.

    Attributes:
        ended: The ends as they were recorded.
        amended_ends: As they were amended.
    """

    def __init__(self, *, in_flight: int = 4, per_task: int = 1_000_000, links: str | None = None) -> None:
        self.house = House()
        self.clock, self.journal, self.pool = self.house.clock, self.house.journal, self.house.pool
        self.provider = self.house.provider
        self.files = FakeFiles()
        self.store = MemoryStore(self.clock, links=links)
        self.counts = Counts()
        self.ended: list[Event] = []
        self.amended_ends: list[Event] = []
        self.journal.follow(self)
        self.ledger = self.journal.ledger  # type: ignore[attr-defined]
        self.copier = self._copier(in_flight, per_task)
        self.use(self.copier)

    def _copier(self, in_flight: int, per_task: int) -> Copier:
        limits = CopyLimits(
            wait_seconds=WAIT, max_bytes=100_000, max_bytes_per_task=per_task, in_flight=in_flight
        )
        files: Any = self.files
        return Copier(
            files,
            self.store,
            self.journal,
            self.clock,
            limits,
            upstream_of=lambda key: self.pool.upstream(key.upstream, key.account),
            counts=self.counts,
            random=lambda: 0.5,
        )

    def use(self, copier: Copier) -> None:
        self.runner = JobRunner(
            self.ledger, QUEUE, copier.carry_out, self.clock, lease=7200, room=copier.room_for_jobs
        )
        self.journal.planner = CopyPlanner(
            now=self.ledger.now, wrote=self.runner.wake, dropped=lambda number: None
        )
        self.house.upstream.before_end = copier.before_end

    def recorded(self, event: Event) -> None:
        if event.state.status.final:
            self.ended.append(event)

    def amended(self, event: Event) -> None:
        self.amended_ends.append(event)

    def noticed(self, *_: object) -> None:
        pass

    def shows(self, task: str = "task-1", *urls: str) -> None:
        """The provider shows the end of a task."""
        for url in urls:
            self.files.content.setdefault(url, VIDEO)
        self.provider.shows(task, "completed", 100, outputs=urls)

    @property
    def urls(self) -> list[str | None]:
        """`stored_url` of the only end, as it was recorded."""
        (end,) = self.ended
        return stored_urls(end.state)

    async def now(self, key: TaskKey = TASK) -> list[str | None]:
        """The same as it is now."""
        (event,) = await self.journal.latest([key])
        assert event is not None
        return stored_urls(event.state)

    async def waiting(self) -> int:
        (waiting,) = await self.ledger.waiting([QUEUE])
        return int(waiting.jobs)

    async def watch(self, *tasks: str) -> None:
        for task in tasks or ("task-1",):
            self.pool.want(TaskKey("qingbo", task))
        await settle()


def stored_urls(known: State) -> list[str | None]:
    return [output.stored_url for output in known.outputs]


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    async with bench.house.running():
        jobs = asyncio.create_task(bench.runner.run())
        yield bench
        bench.copier.drain()
        await bench.pool.finish_ends()
        jobs.cancel()
        await asyncio.gather(jobs, return_exceptions=True)
        await bench.copier.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(Bench()) as bench:
        yield bench


async def test_an_end_is_recorded_with_its_copies(bench: Bench) -> None:
    bench.shows("task-1", ONE, TWO)
    await bench.watch()
    assert bench.urls == [PATH.format(0), PATH.format(1)]
    assert bench.amended_ends == []
    assert bench.store.content == {object_name(TASK, 0): VIDEO, object_name(TASK, 1): VIDEO}
    stored = await bench.store.find(object_name(TASK, 0))
    assert stored is not None
    assert stored.media_type == "video/webm"
    assert await bench.waiting() == 0
    assert (bench.counts.results, bench.counts.size) == (["in_time"] * 2, 2 * len(VIDEO))


async def test_a_store_with_links_gives_them() -> None:
    async with running(Bench(links="https://s3.test/bucket")) as bench:
        bench.shows("task-1", ONE)
        await bench.watch()
        assert bench.urls == [f"https://s3.test/bucket/{object_name(TASK, 0)}"]


async def test_what_takes_longer_than_the_wait_is_amended(bench: Bench) -> None:
    bench.shows("task-1", ONE, TWO)
    bench.files.flows.clear()
    await bench.watch()
    await bench.clock.advance(WAIT - 0.1)
    assert bench.ended == []
    await bench.clock.advance(0.1)
    assert bench.urls == [None, None]
    await bench.clock.advance(5)
    bench.files.flows.set()
    await bench.clock.advance(1)
    assert await bench.now() == [PATH.format(0), PATH.format(1)]
    ((amended,), (end,)) = bench.amended_ends, bench.ended
    assert amended.cursor == end.cursor
    assert bench.files.opened == [ONE, TWO], "what had begun goes on"
    assert bench.counts.results == ["later"] * 2
    assert await bench.waiting() == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda bench: bench.store.writable.clear(),  # hangs after the last byte
        lambda bench: setattr(bench.store, "failure", StoreError("the bucket refuses")),
        lambda bench: bench.files.flows.clear(),
        lambda bench: bench.files.cut.update({ONE: UpstreamUnavailable("the file was cut short")}),
        lambda bench: bench.files.errors.update({ONE: RuntimeError("a fault of ours")}),
        lambda bench: bench.files.length.update({ONE: 10**12}),
        lambda bench: bench.files.content.update({ONE: b"x" * 200_000}),
        lambda bench: bench.files.errors.update({ONE: UpstreamRefused("inside", provider_status=302)}),
    ],
    ids=["store hangs", "store refuses", "hangs", "cut", "fault", "lies", "too large", "refused"],
)
async def test_whatever_happens_the_end_goes_out_in_time_and_as_it_is(
    bench: Bench, spoil: Callable[[Bench], object]
) -> None:
    bench.shows("task-1", ONE)
    spoil(bench)
    await bench.watch()
    await bench.clock.advance(WAIT)
    (end,) = bench.ended
    assert (end.state.status.value, end.state.error, stored_urls(end.state)) == ("completed", None, [None])
    assert bench.store.content == {}


async def test_a_copy_that_failed_is_made_again_until_it_succeeds(bench: Bench) -> None:
    bench.shows("task-1", ONE, TWO)
    bench.files.cut[ONE] = UpstreamUnavailable("the file was cut short")
    await bench.watch()
    assert bench.urls == [None, PATH.format(1)]
    await bench.clock.advance(60)
    assert bench.files.opened.count(ONE) > 2
    assert bench.files.opened.count(TWO) == 1, "what is stored stays"
    del bench.files.cut[ONE]
    await bench.clock.advance(120)
    assert await bench.now() == [PATH.format(0), PATH.format(1)]
    assert len(bench.amended_ends) == 1
    assert bench.counts.results[-1] == "later"
    assert await bench.waiting() == 0


@pytest.mark.parametrize(
    ("error", "attempts", "within"),
    [
        (UpstreamUnavailable("cut"), MAX_ATTEMPTS, 6 * 3600),
        (UpstreamRefused("expired", provider_status=403), MAX_REFUSED, 600),
        (UpstreamRefused("a link to the inside"), 1, 600),
        (FileTooLarge(), 1, 600),
    ],
)
async def test_it_is_given_up_counted_and_logged(
    bench: Bench, error: Exception, attempts: int, within: float, caplog: pytest.LogCaptureFixture
) -> None:
    bench.shows("task-1", ONE)
    bench.files.errors[ONE] = error
    await bench.watch()
    await bench.clock.advance(within)
    # One before the end was recorded, the others as a job.
    assert bench.counts.results == ["error"] * (attempts + 1) + ["failed"]
    assert await bench.waiting() == 0
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "outputs not copied"
    ]
    assert bench.copier.last_error == str(error)
    assert await bench.now() == [None]


async def test_one_copy_holds_up_neither_polls_nor_other_ends() -> None:
    async with running(Bench(in_flight=2)) as bench:
        tasks = [f"task-{number}" for number in range(20)]
        for task in tasks:
            bench.shows(task, f"https://p.test/{task}")
        bench.provider.shows("open", "processing", 10)
        bench.files.flows.clear()
        await bench.watch(*tasks, "open")
        polls = len(bench.provider.polls("open"))
        await bench.clock.advance(WAIT / 2)
        assert bench.files.most_at_once == 2
        assert len(bench.provider.polls("open")) > polls
        assert all(len(bench.provider.polls(task)) == 1 for task in tasks)
        await bench.clock.advance(WAIT / 2)
        assert len(bench.ended) == len(tasks)
        bench.files.flows.set()
        await bench.clock.advance(60)
        assert [await bench.now(TaskKey("qingbo", task)) for task in tasks] == [
            [f"/v1/tasks/qingbo/{task}/outputs/0"] for task in tasks
        ]
        assert bench.files.most_at_once == 2


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_other_ends_are_not_copied(bench: Bench, status: str) -> None:
    bench.shows("task-1", ONE)
    bench.provider.shows("task-1", status, 100, outputs=[ONE])
    await bench.watch()
    assert len(bench.ended) == 1
    assert bench.files.opened == []
    assert await bench.waiting() == 0


async def test_an_end_that_a_submit_shows_is_answered_with_its_copies(bench: Bench) -> None:
    bench.files.content[ONE] = VIDEO
    observation = Observation(status=Status.COMPLETED, outputs=(video(ONE),))
    event = await bench.pool.show(TASK, observation, Source.SUBMIT)
    assert event is not None
    assert stored_urls(event.state) == bench.urls == [PATH.format(0)]


async def test_an_end_that_a_stream_shows_is_copied_too(bench: Bench) -> None:
    bench.shows("task-1", ONE)
    bench.provider.shows("task-1", "processing", 10)
    script = Script()
    bench.provider.streams["task-1"] = script.play
    await bench.watch()
    script.say(frame("completed", 100, outputs=[ONE], id="task-1"))
    await bench.clock.advance(1)
    assert bench.urls == [PATH.format(0)]


async def test_viewers_that_come_and_go_meanwhile_see_one_end(bench: Bench) -> None:
    bench.shows("task-1", ONE)
    bench.provider.shows("task-1", "processing", 10)
    await bench.watch()
    bench.shows("task-1", ONE)
    bench.files.flows.clear()
    await bench.clock.advance(3)
    bench.pool.unwant(TASK)
    await bench.clock.advance(WAIT - 5)
    polls = len(bench.provider.polls("task-1"))
    await bench.watch()
    await bench.clock.advance(10)
    assert len(bench.ended) == 1
    assert len(bench.provider.polls("task-1")) == polls


async def test_a_drain_records_ends_at_once_and_their_jobs_stay(bench: Bench) -> None:
    bench.shows("task-1", ONE)
    bench.files.flows.clear()
    await bench.watch()
    assert bench.ended == []
    bench.copier.drain()
    await bench.pool.finish_ends()
    assert bench.urls == [None]
    assert await bench.waiting() == 1
    await bench.copier.close()
    assert bench.files.open_now == 0
    assert bench.store.content == {}


async def test_what_another_bridge_left_half_done_is_not_copied_again(bench: Bench) -> None:
    """It was killed between the copy and the amendment."""
    bench.shows("task-1", ONE, TWO)
    bench.files.errors[ONE] = bench.files.errors[TWO] = UpstreamUnavailable("not yet")
    await bench.watch()
    bench.files.errors.clear()
    await bench.store.put(object_name(TASK, 0), _once(VIDEO), media_type="video/webm", max_bytes=10**6)
    bench.files.opened.clear()
    await bench.clock.advance(60)
    assert await bench.now() == [PATH.format(0), PATH.format(1)]
    assert bench.files.opened == [TWO]


async def test_all_files_of_a_task_together_are_bounded() -> None:
    async with running(Bench(per_task=2 * len(VIDEO))) as bench:
        urls = [f"https://p.test/{number}" for number in range(3)]
        bench.shows("task-1", *urls)
        await bench.watch()
        await bench.clock.advance(3600)
        assert sum(url is not None for url in await bench.now()) == 2
        assert len(bench.store.content) == 2
        assert bench.counts.results[-1] == "failed"


async def test_content_that_came_inline_is_stored() -> None:
    async with running(Bench()) as bench:
        end = state(
            "completed",
            100,
            outputs=(Output(type="image", data="iVBORw0KGgo="), Output(type="image", data="AAA")),
        )
        work = bench.copier.before_end(bench.house.upstream, TASK, end)
        assert work is not None
        assert stored_urls(await work) == [PATH.format(0), None]
        assert bench.store.content == {object_name(TASK, 0): b"\x89PNG\r\n\x1a\n"}


async def test_a_signed_link_is_renewed_in_the_second_half_of_its_time() -> None:
    async with running(Bench(links="https://s3.test/bucket")) as bench:

        async def link(name: str) -> str:
            moment = datetime.fromtimestamp(bench.clock.time(), UTC)
            return f"https://s3.test/{name}?X-Amz-Date={moment:%Y%m%dT%H%M%SZ}&X-Amz-Expires=3600&X-Amz-Signature=1"

        bench.store.link = link  # type: ignore[method-assign,assignment]
        bench.shows("task-1", ONE)
        await bench.watch()
        (event,) = await bench.journal.latest([TASK])
        await bench.clock.advance(1700)
        assert not await bench.copier.renew_links([event, None])
        await bench.clock.advance(200)
        assert await bench.copier.renew_links([event, None])
        (renewed,) = await bench.journal.latest([TASK])
        assert event is not None
        assert renewed is not None
        assert renewed.cursor == event.cursor
        assert stored_urls(renewed.state) != stored_urls(event.state)
        assert not await bench.copier.renew_links([renewed])
        bench.store.link = _refused  # type: ignore[method-assign,assignment]
        await bench.clock.advance(3600)
        assert not await bench.copier.renew_links([renewed])


async def _refused(name: str) -> str:
    raise StoreError("no credentials")


async def test_a_forgotten_task_is_not_copied(bench: Bench) -> None:
    bench.shows("task-1", ONE)
    bench.store.failure = StoreError("down")
    await bench.watch()
    bench.store.failure = None
    await bench.journal.forget(TASK)
    await bench.clock.advance(60)
    assert bench.store.content == {}
    assert await bench.waiting() == 0


async def test_a_job_of_another_version_is_dropped(bench: Bench) -> None:
    await bench.ledger.add_jobs([Job(QUEUE, "x", b"?"), Job(QUEUE, "y", b'{"task": 1, "at": 1}')])
    bench.runner.wake()
    await bench.clock.advance(10)
    assert await bench.waiting() == 0


async def test_without_outputs_a_state_plans_nothing() -> None:
    planner = CopyPlanner(now=lambda: 0, wrote=_nothing, dropped=lambda _: None)
    none = TaskDetails()
    assert _plan(planner, None, state("processing", 10)) == ()
    assert _plan(planner, None, state("completed", 100)) == ()
    assert _plan(planner, None, state("failed", 100, outputs=(video(ONE),))) == ()
    end = state("completed", 100, outputs=(video(ONE),))
    (job,) = planner.plan(TASK, state("lost"), end, none)
    assert (job.queue, job.replaceable) == (QUEUE, False)
    assert planner.plan(TASK, end, replace(end), none) == (), "an amendment"


def _plan(planner: CopyPlanner, previous: State | None, known: State) -> Sequence[Job]:
    return planner.plan(TASK, previous, known, TaskDetails())


def _nothing() -> None:
    pass


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content

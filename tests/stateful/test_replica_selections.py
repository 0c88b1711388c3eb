"""Followers of a tag and of a group over three replicas that fail: each end once, `group_done` once."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bridge.core.details import TaskDetails
from bridge.core.task import Source, TaskKey
from bridge.delivery.groups import Groups
from bridge.delivery.selections import FollowRequest, Selections
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import BridgeError
from bridge.hub.hub import Hub
from bridge.replica.ledger import SharedLedger
from bridge.telemetry.metrics import Metrics
from bridge.wire.formats import SseFormat
from bridge.wire.frames import format_of
from tests.fakes.replicas import House, World, key
from tests.fakes.selections import ALL, SETTINGS, Client, Owners, group, tag
from tests.fakes.tasks import state
from tests.fakes.virtual import LoopClock, run
from tests.fakes.writers import RecordingWriter

TASKS = [key(number) for number in range(3)]
SELECTIONS = [tag("t"), group("g")]
WORDS = TaskDetails(tags=("t",), group="g")
HEALS = 20.0

houses = st.integers(0, 2)
tasks = st.sampled_from(TASKS)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["submit", "submit", "tag", "end", "end", "delete", "come again", "cut", "heal", "hang", "wait"]
        ),
        houses,
        tasks,
    ),
    max_size=20,
)


class Watched:
    """Counts viewers: the first starts a watch, the last ends it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._viewers: Counter[TaskKey] = Counter()

    def want(self, task: TaskKey, by: object = None, *, resumes: bool = False) -> None:
        """One more."""
        self._viewers[task] += 1
        self._house.view(task)

    def unwant(self, task: TaskKey) -> None:
        """One less."""
        self._viewers[task] -= 1
        if not self._viewers[task]:
            self._house.unview(task)


class Site:
    """One replica with a hub and selections."""

    def __init__(self, house: House) -> None:
        self.house = house
        metrics = Metrics(CollectorRegistry(), ["qingbo"])
        self.hub = Hub(Watched(house), house.journal, metrics, house.clock)  # type: ignore[arg-type]
        self.hub.share(house.journal)
        house.journal.follow(self.hub)
        pool: Any = SimpleNamespace(
            upstreams={"qingbo": None}, known_missing=lambda _: None, watcher=lambda _: None
        )
        self.subscriptions = Subscriptions(
            self.hub, pool, house.journal, house.clock, metrics, random=lambda: 0.5, settings=SETTINGS
        )
        self.groups = Groups(SharedLedger(house.replica, house.clock), kept_seconds=86_400)
        self.selections = Selections(self.subscriptions, self.groups, Owners())


class Browser:
    """Follows a selection for good: comes again, with the last id, at whichever replica.

    Attributes:
        streams: What each connection was sent, the newest last.
        unsure: Whether it has come to a replica that could not ask the engine what it had seen: what ended
            may be sent to it again.
    """

    def __init__(self, selection: Any) -> None:
        self.selection = selection
        self.site: Site | None = None
        self.streams: list[Client] = []
        self.last_id: str | None = None
        self.over = self.unsure = False

    async def come(self, site: Site) -> None:
        """Open a connection there, and leave the one before."""
        self.leave()
        house = site.house
        self.unsure |= house.cut or house.silent or not house.replica.connection.current
        request = FollowRequest(self.selection, ALL, self.last_id)
        fmt = format_of(SseFormat, mark=request.mark)
        subscription = site.hub.reserve(fmt, ends_at=site.house.clock.monotonic() + 600)
        try:
            async with asyncio.timeout(5):
                pending = await site.selections.open(subscription, request)
                client = Client(subscription, RecordingWriter(subscription.fmt), pending)
                if pending.ended:
                    self.over = True
                    site.subscriptions.leave(subscription)
                    return
                subscription.begin(client.writer, client.writer.fmt)
                self.site = site
                self.streams.append(client)
                await site.selections.begin(pending)
        except (BridgeError, TimeoutError):
            site.subscriptions.leave(subscription)
            self.site = None

    def leave(self) -> None:
        """The connection breaks."""
        if self.streams:
            self.last_id = self.streams[-1].last_id or self.last_id
        if self.site is not None:
            self.site.subscriptions.leave(self.streams[-1].subscription)
            self.site = None

    @property
    def closed(self) -> bool:
        """Whether the bridge has ended its connection, or there is none."""
        return self.site is None or self.streams[-1].writer.finished is not None

    @property
    def blocks(self) -> list[tuple[str | None, Any]]:
        """Every event of all connections."""
        return [block for stream in self.streams for block in stream.blocks]

    def count(self, name: str) -> Counter[str]:
        """How often there was an event of that name, by its task or group."""
        return Counter(
            data.get("task") or data.get("group", "") for known, data in self.blocks if known == name
        )


class Play:
    """Three replicas, two browsers at each, and what became of each task."""

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.world = World(clock)
        self.lives: Counter[TaskKey] = Counter()
        self.open: set[TaskKey] = set()

    async def start(self) -> None:
        houses = await self.world.started("a", "b", "c")
        self.sites = [Site(house) for house in houses]
        self.browsers = [Browser(selection) for _ in self.sites for selection in SELECTIONS]
        for number, browser in enumerate(self.browsers):
            await browser.come(self.sites[number // 2])

    async def carry_out(self, what: str, site: Site, task: TaskKey) -> None:
        """One step; what cannot be done while the engine is away fails."""
        try:
            async with asyncio.timeout(5):
                await getattr(self, what.replace(" ", "_"))(site, task)
        except (BridgeError, TimeoutError):
            pass

    async def submit(self, site: Site, task: TaskKey) -> None:
        if task in self.open:
            return
        await site.groups.check_open(group("g"))
        event = await site.house.latest(task)
        if event is not None or not site.house.replica.connection.up:
            return
        self.world.provider.shows(task, 10.0)
        self.open.add(task)
        self.lives[task] += 1
        site.house.journal.describe(task, WORDS)
        shown = state("queued", 0.0, source=Source.SUBMIT)
        await site.house.journal.append(task, shown, observed_at=self.clock.monotonic(), free=True)

    async def tag(self, site: Site, task: TaskKey) -> None:
        (before,) = await site.house.journal.details_of([task])
        if before.replaced(WORDS) != before:  # as the registrar does
            await site.house.journal.register(task, WORDS)

    async def end(self, site: Site, task: TaskKey) -> None:
        del site
        if task in self.open:
            self.world.provider.shows(task, 100.0)

    async def delete(self, site: Site, task: TaskKey) -> None:
        event = await site.house.latest(task)
        if event is None or not event.state.status.final or event.cursor.shown:
            return
        # Only once everybody has read the end: who is away then does not hear of it.
        read = all(browser.count("done")[task.ref] >= self.lives[task] for browser in self.browsers)
        if read and await site.house.journal.forget(task):
            self.open.discard(task)

    async def come_again(self, site: Site, task: TaskKey) -> None:
        browser = self.browsers[TASKS.index(task) * 2 % len(self.browsers)]
        await browser.come(site)

    async def cut(self, site: Site, _: TaskKey) -> None:
        site.house.cut = True

    async def heal(self, site: Site, _: TaskKey) -> None:
        site.house.cut = site.house.silent = False

    async def hang(self, *_: Any) -> None:
        for site in self.sites:
            site.house.silent = not site.house.silent

    async def wait(self, *_: Any) -> None:
        await self.clock.sleep(1.5)

    async def look_after(self) -> None:
        """What the bridge does now and then, and a browser whose connection is closed."""
        while True:
            await self.clock.sleep(0.5)
            for site in self.sites:
                site.hub.catch_up()
            for number, browser in enumerate(self.browsers):
                if browser.closed and not browser.over:
                    await browser.come(self.sites[number // 2])

    async def finish(self) -> None:
        """Everything works again, every task ends, and the group is closed."""
        for site in self.sites:
            site.house.cut = site.house.silent = False
        await self.clock.sleep(HEALS)
        await self.sites[0].groups.close(group("g"))
        for task in self.open:
            self.world.provider.shows(task, 100.0)
        await self.clock.sleep(HEALS)

    def check(self) -> None:
        expected = {task.ref: count for task, count in self.lives.items()}
        for number, browser in enumerate(self.browsers):
            name = f"{'abc'[number // 2]} {browser.selection.kind}"
            assert browser.count("reset") == {}, name
            ends = browser.count("done")
            assert ends >= Counter(expected) if browser.unsure else ends == expected, name
            done = int(browser.selection.kind == "group")
            assert browser.count("group_done").total() == done, name


def play(asked: list[Any]) -> None:
    async def whole(clock: LoopClock) -> None:
        story = Play(clock)
        await story.start()
        looking = asyncio.ensure_future(story.look_after())
        for what, number, task in asked:
            await story.carry_out(what, story.sites[number], task)
        await story.finish()
        looking.cancel()
        story.check()
        for site in story.sites:
            await site.selections.close()
        await story.world.close()

    run(whole)


@pytest.mark.parametrize("delays", [(0.0, 0.0, 0.0), (0.0, 0.1, 0.3), (0.3, 0.1, 0.0), (0.1, 0.0, 0.2)])
def test_a_closed_group_is_not_done_when_the_engine_forgets_its_tasks(delays: tuple[float, ...]) -> None:
    """They are recorded again by those who watch them; an end that was read does not come twice."""

    async def whole(clock: LoopClock) -> None:
        story = Play(clock)
        await story.start()
        for number, task in enumerate(TASKS):
            await story.submit(story.sites[number], task)
        await clock.sleep(2.0)
        await story.sites[0].groups.close(group("g"))
        story.world.provider.shows(TASKS[0], 100.0)
        await clock.sleep(2.0)
        story.world.wipe()
        for site, delay in zip(story.sites, delays, strict=True):
            site.house.delay = delay
        await clock.sleep(HEALS)
        assert not any(browser.count("group_done") for browser in story.browsers)
        for task in TASKS[1:]:
            story.world.provider.shows(task, 100.0)
        await clock.sleep(HEALS)
        story.check()
        for site in story.sites:
            await site.selections.close()
        await story.world.close()

    run(whole)


SLOW = [HealthCheck.too_slow]


@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(asked=steps)
@example([("submit", 0, TASKS[0]), ("end", 0, TASKS[0]), ("wait", 0, TASKS[0])])
@example(
    [
        ("submit", 0, TASKS[2]),
        ("end", 0, TASKS[2]),
        ("wait", 0, TASKS[2]),
        ("tag", 0, TASKS[2]),
        ("come again", 0, TASKS[0]),
    ]
)
def test_each_end_once_over_three_replicas(asked: list[Any]) -> None:
    play(asked)


@pytest.mark.extended
@settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=SLOW)
@given(asked=steps)
@pytest.mark.timeout(900)
def test_each_end_once_over_three_replicas_for_long(asked: list[Any]) -> None:
    play(asked)

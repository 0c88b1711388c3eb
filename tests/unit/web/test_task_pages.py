"""Pages of tasks: in order, each once, by the caller's rights, while tasks come, change and go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.auth.caller import CallerRights
from bridge.auth.grants import Grant
from bridge.core.details import TaskDetails
from bridge.core.task import Status, TaskKey
from bridge.journal.memory import MemoryJournal
from bridge.web import task_pages
from bridge.web.task_pages import TaskFilter, TaskPages
from tests.fakes.clock import FakeClock
from tests.fakes.tasks import state

pytestmark = pytest.mark.anyio

UPSTREAMS = ("qingbo", "vapi")
ACCOUNTS = ("-", "ann")
TAGS = ("a", "b", "c")
GROUPS = ("g", "h")


class Tasks:
    """A journal and what is in it, as a plain list."""

    def __init__(self) -> None:
        self.journal = MemoryJournal(FakeClock(), retention_seconds=1e9)
        self.pages = TaskPages(self.journal)
        self.known: list[TaskKey] = []  # in the order of their first state
        self.details: dict[TaskKey, TaskDetails] = {}
        self.statuses: dict[TaskKey, Status] = {}

    async def record(self, key: TaskKey, status: str, details: TaskDetails | None = None) -> None:
        if details is not None and key not in self.known:
            self.journal.describe(key, details)
            self.details[key] = details
        await self.journal.append(key, state(status))
        if key not in self.known:
            self.known.append(key)
        self.statuses[key] = Status(status)

    async def register(self, key: TaskKey, details: TaskDetails) -> None:
        if key in self.known:
            await self.journal.register(key, details)
            self.details[key] = details

    async def forget(self, key: TaskKey) -> None:
        if key in self.known:
            await self.journal.forget(key)
            self.known.remove(key)
            self.details.pop(key, None)

    def expected(self, rights: CallerRights, wanted: TaskFilter) -> list[TaskKey]:
        def matches(key: TaskKey) -> bool:
            details = self.details.get(key, TaskDetails())
            return (
                rights.shows(key, details)
                and key.upstream in wanted.upstreams
                and (wanted.statuses is None or self.statuses[key] in wanted.statuses)
                and (not wanted.tag or wanted.tag in details.tags)
                and (not wanted.group or wanted.group == details.group)
            )

        return [key for key in reversed(self.known) if matches(key)]

    async def page(
        self, rights: CallerRights, wanted: TaskFilter, limit: int, before: int
    ) -> tuple[list[TaskKey], int]:
        page = await self.pages.page(rights, wanted, limit=limit, before=before, shown=lambda _: True)
        assert len(page.tasks) <= limit
        return [event.key for event, _ in page.tasks], page.before


keys = st.builds(
    TaskKey, st.sampled_from(UPSTREAMS), st.sampled_from(tuple("123456789")), st.sampled_from(ACCOUNTS)
)
words = st.builds(
    lambda tags, group: TaskDetails(tags=tuple(tags), group=group),
    st.sets(st.sampled_from(TAGS)),
    st.none() | st.sampled_from(GROUPS),
)
statuses = st.sampled_from(["queued", "processing", "completed", "failed", "lost"])
steps = st.one_of(
    st.tuples(st.just("record"), keys, statuses, words),
    st.tuples(st.just("register"), keys, words),
    st.tuples(st.just("forget"), keys),
)
grants = st.none() | st.builds(
    Grant,
    refs=st.frozensets(keys.map(lambda key: key.ref), max_size=4),
    upstreams=st.frozensets(st.sampled_from(UPSTREAMS), max_size=1),
    tags=st.frozensets(st.sampled_from(TAGS), max_size=2),
    groups=st.frozensets(st.sampled_from(GROUPS), max_size=1),
)
rights = st.builds(CallerRights, st.sampled_from(ACCOUNTS), grants, grants)
filters = st.builds(
    TaskFilter,
    st.sampled_from([UPSTREAMS, ("vapi",)]),
    st.none() | st.frozensets(st.sampled_from(Status), min_size=1),
    st.sampled_from(["", *TAGS]),
    st.sampled_from(["", *GROUPS]),
)


async def _do(tasks: Tasks, step: tuple[Any, ...]) -> None:
    await getattr(tasks, step[0])(*step[1:])


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=30), rights, filters, st.integers(1, 5))
def test_the_pages_are_what_the_caller_may_read_in_order(
    before: list[tuple[Any, ...]], who: CallerRights, wanted: TaskFilter, limit: int
) -> None:
    async def run() -> None:
        tasks = Tasks()
        for step in before:
            await _do(tasks, step)
        found: list[TaskKey] = []
        token = 0
        for _ in range(100):
            page, token = await tasks.page(who, wanted, limit, token)
            found += page
            if not token:
                break
        assert found == tasks.expected(who, wanted)

    asyncio.run(run())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(steps, max_size=25),
    st.lists(st.lists(steps, max_size=4), max_size=30),
    rights,
    filters,
    st.integers(1, 4),
)
def test_while_tasks_come_change_and_go_none_is_skipped_or_repeated(
    before: list[tuple[Any, ...]],
    between: list[list[tuple[Any, ...]]],
    who: CallerRights,
    wanted: TaskFilter,
    limit: int,
) -> None:
    async def run() -> None:
        tasks = Tasks()
        for step in before:
            await _do(tasks, step)
        always = set(tasks.expected(who, wanted))
        gone: set[TaskKey] = set()
        found: list[TaskKey] = []
        token, changes = 0, iter(between)
        for _ in range(100):
            page, token = await tasks.page(who, wanted, limit, token)
            found += page
            if not token:
                break
            for step in next(changes, []):
                if step[0] == "forget":
                    gone.add(step[1])
                await _do(tasks, step)
            always &= set(tasks.expected(who, wanted))
        assert [key for key in found if found.count(key) > 1 and key not in gone] == []
        assert always - gone <= set(found)

    asyncio.run(run())


async def test_where_little_matches_a_page_is_short_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_pages, "MAX_SCANNED", 10)
    tasks = Tasks()
    for number in range(35):
        await tasks.record(TaskKey("qingbo", str(number)), "failed" if number == 3 else "processing")
    wanted = TaskFilter(UPSTREAMS, frozenset({Status.FAILED}))
    sizes, token = [], 0
    for _ in range(4):
        page, token = await tasks.page(CallerRights("-", None), wanted, 5, token)
        sizes.append(len(page))
    assert (sizes, token) == ([0, 0, 0, 1], 0)


async def test_nothing_is_asked_for_what_the_rights_exclude() -> None:
    tasks = Tasks()
    await tasks.record(TaskKey("qingbo", "1"), "queued")
    asked: list[str] = []
    listing = tasks.journal.listing

    async def counted(upstream: str, account: str, **more: Any) -> Any:
        asked.append(f"{account}/{upstream}/{more['tag']}")
        return await listing(upstream, account, **more)

    tasks.journal.listing = counted  # type: ignore[method-assign]
    who = CallerRights("-", Grant(upstreams=frozenset({"vapi"}), tags=frozenset({"a"})))
    assert await tasks.page(who, TaskFilter(UPSTREAMS), 5, 0) == ([], 0)
    assert asked == ["-/qingbo/a", "-/vapi/"]

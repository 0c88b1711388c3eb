"""The list of tasks of the inspector: what is in it, for whom, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from bridge.auth.caller import Caller, TokenScope
from bridge.auth.grants import Grant
from bridge.core.curve import Curve
from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Confirmation
from bridge.core.forecast import GUESS, Ground
from bridge.core.task import State, TaskKey
from bridge.journal.memory import MemoryJournal
from bridge.web.listing import ENDED_SECONDS, IDLE_SHARE, MAX_AGE_SECONDS, MAX_ENDED, MAX_OPEN, TaskListing
from bridge.web.next_poll import next_poll
from bridge.wire.document import timestamp
from tests.fakes.clock import FakeClock
from tests.fakes.tasks import state

pytestmark = pytest.mark.anyio

UPSTREAMS = ("qingbo", "vapi")


class SlowJournal(MemoryJournal):
    """Takes a while to be read, and counts."""

    seconds = 0.0
    readings = 0

    async def newest(self, upstream: str, account: str, **more: Any) -> Any:
        self.readings += 1
        await self._clock.sleep(self.seconds)
        return await super().newest(upstream, account, **more)


class Desk:
    """A journal, its listing, and a pool in which nothing is watched unless a test says so."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.journal = SlowJournal(self.clock, retention_seconds=86_400)
        self.watchers: dict[TaskKey, Any] = {}
        pool: Any = SimpleNamespace(
            upstreams=dict.fromkeys(UPSTREAMS), watcher=self.watchers.get, newest=self._newest
        )
        self.listing = TaskListing(self.journal, pool, self.clock)

    def _newest(self) -> Iterator[Any]:
        return reversed(self.watchers.values())

    async def record(self, key: TaskKey, status: str = "processing", **more: Any) -> None:
        seen: State = state(status, changed_at=self.clock.time(), observed_at=self.clock.time(), **more)
        await self.journal.append(key, seen)

    async def rows(self, who: Caller, *hidden: TaskKey) -> tuple[list[dict[str, Any]], bool]:
        rows, more = await self.listing.of(who, lambda key: key not in hidden)
        return orjson.loads(orjson.dumps([row.json for row in rows])), more

    async def refs(self, who: Caller, *hidden: TaskKey) -> list[str]:
        return [row["task"] for row in (await self.rows(who, *hidden))[0]]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def caller(*refs: str, upstreams: tuple[str, ...] = (), account: str = "-") -> Caller:
    grant = None if "*" in refs else Grant(frozenset(refs), frozenset(upstreams))
    return Caller(
        name="ann", scopes=frozenset({TokenScope.READ}), tasks=grant, expires_at=None, account=account
    )


ALL = caller("*")


def key(name: str, upstream: str = "qingbo", account: str = "-") -> TaskKey:
    return TaskKey(upstream, name, account)


async def test_open_tasks_come_first_then_those_that_ended_within_the_hour_newest_first(desk: Desk) -> None:
    await desk.record(key("long-ago"), "completed")
    await desk.clock.advance(ENDED_SECONDS + 1)
    for name in ("first", "second", "third"):
        await desk.record(key(name, "vapi" if name == "second" else "qingbo"))
        await desk.clock.advance(10)
    await desk.record(key("first"), "failed")
    await desk.clock.advance(10)
    await desk.record(key("third"), "cancelled")
    await desk.record(key("second", "vapi"), progress=50)  # a change moves no open task
    await desk.record(key("fourth"))
    assert await desk.refs(ALL) == ["qingbo/fourth", "vapi/second", "qingbo/third", "qingbo/first"]


async def test_a_row_has_what_a_table_shows(desk: Desk) -> None:
    began = desk.clock.time()
    await desk.record(key("task"))
    await desk.clock.advance(60)
    await desk.record(key("task"), progress=50, model="veo3")
    desk.watchers[key("task")] = SimpleNamespace(
        key=key("task"),
        viewers=3,
        over=False,
        polls_here=True,
        watch=SimpleNamespace(
            known=object(),
            due=desk.clock.monotonic() + 12.5,
            why="run:5",
            ground=Ground("run:5", Curve([59.0, 60.0, 61.0, 62.0]), 1.0, 0.0),
        ),
    )
    [row], more = await desk.rows(ALL)
    assert (row["task"], row["progress"], row["model"], row["viewers"]) == ("qingbo/task", 50, "veo3", 3)
    assert row["watched"] is True
    assert row["next_poll"]["at"] == timestamp(round(desk.clock.time() + 12.5, 1))
    assert (row["next_poll"]["why"], row["next_poll"]["samples"]) == ("run", 4)
    assert 0 < row["next_poll"]["sharpness"] < 0.6
    assert row["first_seen_at"] < row["changed_at"]
    assert row["first_seen_at"].startswith("20")
    assert began == (await desk.journal.first_seen([key("task")]))[0]
    assert more is False


@pytest.mark.parametrize(
    ("watcher", "shown"),
    [
        ({"why": "growth"}, {"why": "growth", "samples": None, "sharpness": None}),
        # A ground that was guessed was not learned; one of before says nothing of a retry.
        ({"why": "eta", "ground": Ground("eta", GUESS, 30.0, 0.0)}, {"why": "eta", "samples": None}),
        ({"why": "retry", "ground": Ground("eta", GUESS, 30.0, 0.0)}, {"why": "retry", "sharpness": None}),
        ({"due": None}, None),
        ({"polls_here": False}, None),
    ],
)
async def test_why_a_task_is_polled_next(desk: Desk, watcher: dict[str, Any], shown: Any) -> None:
    fields = {"due": desk.clock.monotonic() + 3, "why": "run", "ground": None, "polls_here": True} | watcher
    polls_here = fields.pop("polls_here")
    found = next_poll(SimpleNamespace(polls_here=polls_here, watch=SimpleNamespace(**fields)), desk.clock)  # type: ignore[arg-type]
    assert found is None if shown is None else found is not None and found.items() >= shown.items()


async def test_the_next_poll_of_another_worker_is_shown(desk: Desk) -> None:
    due = {"at": timestamp(desk.clock.time()), "why": "slope", "samples": 9, "sharpness": 0.1}
    workers: Any = SimpleNamespace(watches=_answer([("qingbo", "-", "task", 2, False, due)]))
    desk.listing._workers = workers
    await desk.record(key("task"))
    [row], _ = await desk.rows(ALL)
    assert (row["next_poll"], row["viewers"]) == (due, 2)


def _answer(rows: list[Any]) -> Any:
    async def watches() -> list[Any]:
        return rows

    return watches


async def test_a_watch_without_a_state_is_unknown_and_one_of_a_missing_task_is_not_listed(desk: Desk) -> None:
    for name, missing in (("new", False), ("missing", True)):
        watch = SimpleNamespace(known=None, not_found=missing)
        desk.watchers[key(name)] = SimpleNamespace(key=key(name), viewers=1, over=False, watch=watch)
    await desk.record(key("known"))
    (first, second), _ = await desk.rows(ALL)
    assert (first["task"], first["status"]) == ("qingbo/new", "unknown")
    assert second["task"] == "qingbo/known"
    assert await desk.refs(caller("qingbo/new", "qingbo/missing")) == ["qingbo/new"]


async def test_everybody_gets_their_own_tasks_and_no_others(desk: Desk) -> None:
    for one in (key("a"), key("b"), key("c", "vapi"), key("a", account="tenant"), key("x", account="other")):
        await desk.record(one)
    assert sorted(await desk.refs(ALL)) == ["qingbo/a", "qingbo/b", "vapi/c"]
    assert await desk.refs(caller()) == []
    assert await desk.refs(caller("qingbo/b", "qingbo/nowhere", "gone/x")) == ["qingbo/b"]
    assert await desk.refs(caller("qingbo/a", upstreams=("vapi",))) == ["vapi/c", "qingbo/a"]
    tenant = caller("*", account="tenant")
    assert await desk.refs(tenant) == ["qingbo/a"]
    assert await desk.refs(tenant, key("a", account="tenant")) == []  # not confirmed by the provider


async def test_a_busy_upstream_pushes_out_no_task_of_another(desk: Desk) -> None:
    await desk.record(key("quiet", "vapi"), "completed")
    for number in range(MAX_ENDED + 20):
        await desk.clock.advance(1)
        await desk.record(key(f"busy-{number}"), "completed")
    assert len(await desk.refs(ALL)) == MAX_ENDED
    assert await desk.refs(caller(upstreams=("vapi",))) == ["vapi/quiet"]


async def test_it_is_bounded(desk: Desk) -> None:
    for number in range(MAX_OPEN + 5):
        await desk.record(key(f"task-{number}"))
    rows, more = await desk.rows(ALL)
    assert (len(rows), more) == (MAX_OPEN, True)


async def ask(desk: Desk, pages: int = 1) -> list[list[str]]:
    """What pages get that ask at once, while time passes."""
    asking = asyncio.gather(*(desk.refs(ALL) for _ in range(pages)))
    while not asking.done():
        await desk.clock.advance(desk.journal.seconds)
    return await asking


async def test_a_hundred_pages_cost_one_reading_and_the_next_waits_in_proportion(desk: Desk) -> None:
    await desk.record(key("task"))
    desk.journal.seconds = 0.01
    assert await ask(desk, 100) == [["qingbo/task"]] * 100
    once = desk.journal.readings
    assert once == 2 * len(UPSTREAMS)
    await ask(desk, 100)
    assert desk.journal.readings == once
    await desk.clock.advance(0.02 * IDLE_SHARE)
    await ask(desk, 100)
    assert desk.journal.readings == 2 * once
    desk.journal.seconds = 10.0
    await desk.clock.advance(MAX_AGE_SECONDS)
    await ask(desk)
    await desk.clock.advance(MAX_AGE_SECONDS)
    await ask(desk)
    assert desk.journal.readings == 4 * once


async def test_who_leaves_ends_no_reading_of_the_others(desk: Desk) -> None:
    await desk.record(key("task"))
    desk.journal.seconds = 1.0
    left = asyncio.ensure_future(desk.refs(ALL))
    await desk.clock.advance(0.5)
    left.cancel()
    assert await ask(desk) == [["qingbo/task"]]


# The time left


async def test_the_list_counts_the_time_left_down_and_is_the_same_list(desk: Desk) -> None:
    await desk.record(key("a"), eta_at=desk.clock.time() + 40, eta_by=desk.clock.time() + 60)
    (before,), _ = await desk.listing.of(ALL, lambda _: True)
    desk.clock.skip(15)
    (after,), _ = await desk.listing.of(ALL, lambda _: True)
    told = orjson.loads(orjson.dumps(after.json))
    assert (told["eta_seconds"], orjson.loads(orjson.dumps(before.json))["eta_seconds"]) == (25.0, 40.0)
    assert told["eta_at"] < told["eta_by"]
    assert before.text == after.text
    desk.clock.skip(26)
    ((late,), _) = await desk.rows(ALL)
    assert (late["eta_seconds"], late["eta_at"]) == (None, told["eta_at"])


async def test_the_list_has_the_newest_estimate(desk: Desk) -> None:
    at = desk.clock.time()
    await desk.record(key("a"), eta_at=at + 40)
    desk.clock.skip(5)
    desk.journal.confirm(key("a"), Confirmation(at + 5, at + 90, at + 99))
    ((row,), _) = await desk.rows(ALL)
    assert row["eta_seconds"] == 85.0
    assert (row["eta_at"], row["eta_by"]) == (timestamp(at + 90), timestamp(at + 99))


async def test_tags_and_groups_are_shown_open_tasks_and_limit_the_list(desk: Desk) -> None:
    words = {
        "one": TaskDetails(tags=("a", "b"), group="g"),
        "two": TaskDetails(tags=("g",)),
        "three": NO_DETAILS,
    }
    for name, details in words.items():
        desk.journal.describe(key(name), details)
        await desk.record(key(name))
        await desk.clock.advance(10)
    rows, _ = await desk.rows(ALL)
    assert [(row.get("tags"), row.get("group")) for row in rows] == [
        (None, None),
        (["g"], None),
        (["a", "b"], "g"),
    ]
    listing = desk.listing

    async def named(who: Caller, word: str) -> list[str]:
        return [row.key.task_id for row in (await listing.of(who, lambda _: True, word))[0]]

    assert await named(ALL, "g") == ["two", "one"]
    assert await named(ALL, "b") == ["one"]
    assert await named(ALL, "c") == []
    by_tag = replace(ALL, tasks=Grant(tags=frozenset({"a"})))
    assert await desk.refs(by_tag) == ["qingbo/one"]
    assert await named(by_tag, "g") == ["one"]
    assert await named(by_tag, "c") == []

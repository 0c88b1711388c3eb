"""However tasks are tagged and clients cut off, a follower ends with every state it may see, and no other.

A journal that waits as a database does; clients are cut off at any block and resume with their last id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.auth.caller import CallerRights
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.selection import Selection
from bridge.core.task import TaskKey
from bridge.errors import Conflict
from bridge.wire.formats import SseFormat, WebSocketFormat
from bridge.wire.frames import Format
from tests.fakes.clock import settle
from tests.fakes.selections import ALL, Client, Follows, by_tags, group, key_of, tag
from tests.fakes.tasks import state

TASKS = ["t0", "t1", "v2"]
SELECTIONS = [tag("x"), tag("y"), group("g")]
RIGHTS = [ALL, by_tags("x"), by_tags("y")]

details = st.builds(
    lambda tags, group: TaskDetails(tags=tags, group=group),
    tags=st.sampled_from([(), ("x",), ("x",), ("x", "y")]),
    group=st.sampled_from([None, "g"]),
)
tasks, numbers = st.sampled_from(TASKS), st.integers(0, 1_000)
statuses = st.sampled_from(["queued", "processing", "processing", "completed", "failed", "lost"])
steps = st.one_of(
    st.tuples(st.just("record"), tasks, statuses, details),
    st.tuples(st.just("record"), tasks, statuses, details),
    st.tuples(st.just("register"), tasks, details),
    st.tuples(st.just("forget"), tasks),
    st.tuples(
        st.just("arrive"),
        st.sampled_from(SELECTIONS),
        st.sampled_from(RIGHTS),
        st.sampled_from([SseFormat, WebSocketFormat]),
    ),
    st.tuples(st.just("cut"), numbers, st.floats(0, 1)),
    st.tuples(st.just("resume"), numbers),
    st.tuples(st.just("stall"), numbers),
    st.tuples(st.just("wake"), numbers),
    st.tuples(st.just("close")),
    st.tuples(st.just("turns"), st.integers(1, 4)),
    st.tuples(st.just("settle")),
)


Said = tuple[str | None, Any, str | None]  # the name of an event, its data, and its id


class Reader:
    """A client over all its connections."""

    def __init__(self, selection: Selection, rights: CallerRights, kind: type[Format]) -> None:
        self.selection = selection
        self.rights = rights
        self.kind = kind
        self.newest: dict[str, tuple[str, float | None]] = {}
        self.token: str | None = None
        self.done: list[Any] = []
        self.over = False
        self.connection: Client | None = None
        self.opening: asyncio.Task[Client] | None = None

    def read(self, said: Sequence[Said]) -> None:
        """Take in what was read before the connection was cut off."""
        for name, data, event_id in said:
            if name is None:
                self.newest[data["task_id"]] = (data["status"], data["progress"])
            elif name == "group_done":
                self.done.append(data["counts"])
                self.over = self.kind is WebSocketFormat  # it stays open
            elif name == "end":
                self.over = True
            elif name == "reset":
                self.newest.clear()
            if event_id is not None:
                self.token = event_id

    def said(self) -> list[Said]:
        """Everything that its connection was sent."""
        assert self.connection is not None
        if self.kind is SseFormat:
            events = self.connection.writer.events
            return [(one.name, orjson.loads(one.data), one.id) for one in events]
        return [_of_message(one) for one in self.connection.messages]


def _of_message(message: dict[str, Any]) -> Said:
    """The name, the data, and the cursor if it resumes a selection."""
    cursor = message.get("cursor", "")
    name = None if message["type"] == "state" else message["type"]
    return name, message.get("state", message), cursor if "." in cursor else None


class World:
    """What really is, and what everybody was sent."""

    def __init__(self, *, linger: float) -> None:
        self.scene = Follows(linger_seconds=linger)
        self.readers: list[Reader] = []
        self.states: dict[str, tuple[str, float | None]] = {}
        self.details: dict[str, TaskDetails] = {}
        self.ever: set[tuple[str, Selection, CallerRights]] = set()
        self.closed = False
        self.number = 0
        self._wait_like_a_database()

    def _wait_like_a_database(self) -> None:
        journal = self.scene.journal
        listing, latest = journal.listing, journal.latest

        async def slow_listing(*args: Any, **more: Any) -> Any:
            found = await listing(*args, **more)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return found

        async def slow_latest(keys: Sequence[TaskKey]) -> list[Event | None]:
            await asyncio.sleep(0)
            read = await latest(keys)
            await asyncio.sleep(0)
            return read

        journal.listing = slow_listing  # type: ignore[method-assign]
        journal.latest = slow_latest  # type: ignore[method-assign]

    def see(self, name: str) -> None:
        """Remember who may see a task now."""
        for selection in SELECTIONS:
            for rights in RIGHTS:
                if self.visible(name, selection, rights):
                    self.ever.add((name, selection, rights))

    def visible(self, name: str, selection: Selection, rights: CallerRights) -> bool:
        known = self.details.get(name, TaskDetails())
        return selection.selects(key_of(name), known) and rights.shows(key_of(name), known)

    def may_have(self, name: str, wanted: TaskDetails) -> bool:
        """As a submit: nothing is added to a closed group."""
        before = self.details.get(name, TaskDetails()).group
        return not (self.closed and wanted.group is not None and before is None)

    async def record(self, name: str, status: str, wanted: TaskDetails) -> None:
        before = self.states.get(name)
        if before is not None and before[0] in {"completed", "failed"}:
            return
        if before is not None and before[0] == "lost" and status not in {"completed", "failed"}:
            return
        if before is None:
            if not self.may_have(name, wanted):
                return
            self.details[name] = wanted
            self.scene.journal.describe(key_of(name), wanted)
        self.number += 1
        progress = float(self.number % 100)
        self.states[name] = (status, progress)
        self.see(name)
        await self.scene.journal.append(key_of(name), state(status, progress))

    async def register(self, name: str, wanted: TaskDetails) -> None:
        if name in self.states and self.may_have(name, wanted):
            self.details[name] = wanted
            self.see(name)
            await self.scene.journal.register(key_of(name), wanted)

    async def forget(self, name: str) -> None:
        if self.states.get(name, ("",))[0] in {"completed", "failed", "lost"}:
            del self.states[name], self.details[name]
            for reader in self.readers:
                reader.newest.pop(name, None)
            await self.scene.journal.forget(key_of(name))

    async def _connect(self, reader: Reader) -> Client:
        return await self.scene.open(reader.selection, reader.rights, token=reader.token, kind=reader.kind)

    def arrive(self, selection: Selection, rights: CallerRights, kind: type[Format] = SseFormat) -> None:
        reader = Reader(selection, rights, kind)
        self.readers.append(reader)
        reader.opening = asyncio.create_task(self._open(reader))

    async def _open(self, reader: Reader) -> Client:
        client = await self._connect(reader)
        if client.pending.ended:
            reader.over = True
            assert reader.done, "204 to who was never sent group_done"
        else:
            reader.over = False
            await self.scene.begin(client)
        reader.connection = client
        return client

    def pick(self, number: int) -> Reader | None:
        return self.readers[number % len(self.readers)] if self.readers else None

    async def cut(self, number: int, part: float) -> None:
        reader = self.pick(number)
        if reader is None or reader.opening is None:
            return
        client = await reader.opening
        reader.connection = client
        said = reader.said()
        reader.opening = reader.connection = None
        assert [name for name, _, _ in said].count("group_done") <= 1
        reader.read(said[: round(part * len(said))])
        self.scene.leave(client)

    def resume(self, number: int) -> None:
        reader = self.pick(number)
        if reader is not None and reader.opening is None:
            reader.opening = asyncio.create_task(self._open(reader))

    def stall(self, number: int, *, wake: bool) -> None:
        reader = self.pick(number)
        if reader is not None and reader.connection is not None:
            if wake:
                reader.connection.writer.wake()
            else:
                reader.connection.writer.pause()

    async def close(self) -> None:
        await self.scene.groups.close(group("g"))
        self.closed = True

    async def step(self, name: str, *args: Any) -> None:  # noqa: C901 - a table
        match name:
            case "record":
                await self.record(*args)
            case "register":
                await self.register(*args)
            case "forget":
                await self.forget(*args)
            case "arrive":
                self.arrive(*args)
            case "cut":
                await self.cut(*args)
            case "resume":
                self.resume(*args)
            case "stall" | "wake":
                self.stall(*args, wake=name == "wake")
            case "close":
                await self.close()
            case "turns":
                for _ in range(*args):
                    await asyncio.sleep(0)
            case "settle":
                await settle()

    async def judge(self) -> None:
        for number in range(len(self.readers)):
            self.stall(number, wake=True)
        await settle()
        for number in range(len(self.readers)):
            self.resume(number)
        await settle()
        # After `group_done`, a task that was in the group may become visible: who asks again gets it.
        for number, reader in enumerate(self.readers):
            if reader.connection is not None and "group_done" in [name for name, _, _ in reader.said()]:
                await self.cut(number, 1.0)
                self.resume(number)
        await settle()
        for number, reader in enumerate(self.readers):
            await self.cut(number, 1.0)
            self._judge(reader)
        await settle()
        assert self.scene.interests.total == 0 or self.scene.selections._linger_seconds
        if not self.scene.selections._linger_seconds:
            assert not self.scene.selections._members._lives
            assert not self.scene.selections._members._of_key
            assert not self.scene.hub._channels

    def _judge(self, reader: Reader) -> None:
        for name in reader.newest:
            seen = (name, reader.selection, reader.rights)
            assert seen in self.ever, f"{name} was shown to who may never see it"
        members = {
            name: self.states[name]
            for name in self.states
            if self.visible(name, reader.selection, reader.rights)
        }
        for name, newest in members.items():
            assert reader.newest.get(name) == newest, f"{name} was missed: {newest}"
        ended = self.closed and all(status in _ENDS for status, _ in members.values())
        # Of a group without a task that it may read, a caller learns only if it may read all of it.
        told_so = members or reader.rights.covers_selection(reader.selection)
        if reader.selection == group("g") and ended and (told_so or reader.over):
            assert reader.over
            counts = sorted(status for status, _ in members.values())
            told = sorted(status for status, count in reader.done[-1].items() for _ in range(count))
            if not any(status == "lost" for status in (*told, *counts)):
                assert len(told) >= len(counts)
        elif reader.selection != group("g"):
            assert not reader.over
            assert not reader.done


_ENDS = {"completed", "failed", "lost"}


@settings(deadline=None, max_examples=100)
@given(st.lists(steps, min_size=8, max_size=40), st.sampled_from([0.0, 60.0]))
@example(
    [
        ("record", "t0", "completed", TaskDetails(group="g")),
        ("arrive", group("g"), ALL),
        ("settle",),
        ("cut", 0, 1.0),
        ("close",),
        ("resume", 0),
    ],
    0.0,
)
@example(
    [
        ("record", "t0", "completed", TaskDetails()),
        ("record", "t1", "queued", TaskDetails(tags=("x",))),
        ("arrive", tag("x"), ALL),
        ("settle",),
        ("cut", 0, 1.0),
        ("register", "t0", TaskDetails(tags=("x",))),
        ("resume", 0),
    ],
    0.0,
)
@example(
    [
        ("record", "t0", "queued", TaskDetails()),
        ("arrive", tag("x"), ALL),
        ("settle",),
        ("register", "t0", TaskDetails(tags=("x",))),
        ("record", "t1", "queued", TaskDetails(tags=("x",))),
        ("turns", 3),
        ("cut", 0, 1.0),
        ("resume", 0),
    ],
    0.0,
)
def test_whoever_follows_ends_with_every_state_it_may_see(steps: list[Any], linger: float) -> None:
    async def run() -> None:
        world = World(linger=linger)
        try:
            for step in steps:
                await world.step(*step)
            await world.judge()
        finally:
            await world.scene.selections.close()

    asyncio.run(run())


async def _refused(scene: Follows) -> None:
    try:
        await scene.groups.check_open(group("g"))
    except Conflict:
        return
    raise AssertionError("open")


def test_a_closed_group_takes_nothing() -> None:
    async def run() -> None:
        scene = Follows()
        await scene.groups.check_open(group("g"))
        await scene.groups.check_open(None)
        await scene.groups.close(group("g"))
        await _refused(scene)
        await scene.groups.check_open(group("g", "k1"))
        await scene.groups.check_open(group("h"))

    asyncio.run(run())

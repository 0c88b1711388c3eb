"""A replay: reads a portion once the one before is taken, at its caller's rate, and not for who has left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.event import Closing, Event
from bridge.core.task import TaskKey
from bridge.delivery import history
from bridge.delivery.history import Replay
from bridge.journal.base import Recorded
from tests.fakes.clock import settle
from tests.fakes.hub import Scene
from tests.fakes.tasks import TASK, state
from tests.fakes.writers import RecordingWriter

pytestmark = pytest.mark.anyio


class Counted:
    """A journal that counts the states read from it."""

    def __init__(self, scene: Scene) -> None:
        self._journal = scene.journal
        self.read_states = 0

    async def read(self, records: Sequence[Recorded], *, raw: bool = True) -> Sequence[Event]:
        """As a journal does."""
        self.read_states += len(records)
        return await self._journal.read(records, raw=raw)


class Line:
    """A connection, and the replay on it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.journal = Counted(scene)
        self.writer = RecordingWriter()
        self.subscription = scene.place(self.writer)
        self.wait = 0.0
        self.room = True
        scene.hub.join(self.subscription, [TASK])
        self._replay = Replay(
            self.journal,  # type: ignore[arg-type] # the part it uses
            scene.hub,
            scene.clock,
            preface=b": ok\n",
            retry=1500,
        )

    async def run(self) -> dict[TaskKey, int]:
        """Replay all of it."""
        records = await self.scene.journal.history([TASK], 0)
        return await self._replay.run(
            self.subscription, records, pace=lambda _: self.wait, has_room=lambda _: self.room
        )

    @property
    def states(self) -> int:
        """How many have arrived."""
        return self.writer.sent.count(b'"progress"')


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(history, "PORTION_BYTES", 1)  # one state a portion
    return Scene()


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await settle()


async def test_a_portion_is_read_once_the_one_before_is_taken(scene: Scene) -> None:
    events = [await scene.tell(TASK, state(progress=number)) for number in range(4)]
    line = Line(scene)
    line.writer.pause()
    replay = asyncio.ensure_future(line.run())
    await turns()
    assert (line.journal.read_states, line.states) == (0, 0)
    line.writer.wake()
    assert await replay == {TASK: events[-1].cursor.offset}
    assert (line.journal.read_states, line.states) == (4, 4)
    assert line.writer.sent.count(b": ok\n") == line.writer.sent.count(b"retry: 1500\n") == 1


@pytest.mark.parametrize("way", ["gone", "half-closed", "closed by us"])
async def test_who_leaves_while_its_rate_is_awaited_is_not_waited_for(scene: Scene, way: str) -> None:
    await scene.tell(TASK, state(progress=1))
    line = Line(scene)
    line.wait = 60.0
    replay = asyncio.ensure_future(line.run())
    await turns()
    assert not replay.done()
    if way == "gone":
        scene.hub.drop(line.subscription, Closing.SLOW)
    elif way == "half-closed":
        line.writer.half_closed = True
    else:
        scene.hub.finish(line.subscription, Closing.DRAIN, b"")
    await scene.clock.advance(1)
    await turns()
    assert replay.done()
    assert line.journal.read_states == 0


async def test_a_half_closed_client_gets_what_needs_no_wait(scene: Scene) -> None:
    for number in range(3):
        await scene.tell(TASK, state(progress=number))
    line = Line(scene)
    line.writer.half_closed = True
    await line.run()
    assert line.states == 3


async def test_a_client_without_room_is_told_so_and_read_for_no_more(scene: Scene) -> None:
    await scene.tell(TASK, state(progress=1))
    line = Line(scene)
    line.room = False
    assert await line.run() == {}
    assert line.writer.finished is Closing.OVER_CAPACITY
    assert b"over_capacity" in line.writer.sent
    assert line.journal.read_states == 0


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(["tell", "pause", "wake", "turn"]), max_size=30))
def test_whatever_is_recorded_meanwhile_nothing_is_lost_or_overtakes(steps: list[str]) -> None:
    asyncio.run(_interleave(steps))


async def _interleave(steps: list[str]) -> None:
    """Every recorded state of the replay arrives, then the newest ones, in the order of their cursors."""
    scene = Scene()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "PORTION_BYTES", 1)
        before = [await scene.tell(TASK, state(progress=number)) for number in range(3)]
        line = Line(scene)

        async def begin() -> None:
            reached = await line.run()
            scene.begin(line.subscription, before[-1:], [TASK], after=reached.get(TASK, 0))

        beginning = asyncio.ensure_future(begin())
        newest = before[-1]
        for number, step in enumerate(steps, start=3):
            if step == "tell":
                newest = await scene.record(TASK, state(progress=number))
            elif step == "pause":
                line.writer.pause()
            elif step == "wake":
                line.writer.wake()
            else:
                await settle()
        line.writer.wake()
        await beginning
        await turns()
        line.writer.wake()
        await turns()
    offsets = [int((one.id or "").rpartition("-")[2]) for one in line.writer.events if one.name is None]
    assert offsets == sorted(set(offsets))
    assert offsets[:3] == [event.cursor.offset for event in before]
    assert offsets[-1] == newest.cursor.offset

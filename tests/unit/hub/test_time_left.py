"""The time left in what the hub writes: counted at each copy, which is made once a second at most."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bridge.core.event import Confirmation, Event
from bridge.hub.subscription import Backlog
from bridge.wire import frames as frames_module
from bridge.wire.document import Include, encoded, timestamp
from bridge.wire.formats import SseFormat
from bridge.wire.frames import format_of
from tests.fakes.clock import settle
from tests.fakes.hub import Scene
from tests.fakes.tasks import OTHER, TASK, state
from tests.fakes.writers import NDJSON, RAW, SOCKET, SSE, RecordingWriter

pytestmark = pytest.mark.anyio


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Include]:
    """What was asked for with each document that was written."""
    made: list[Include] = []

    def count(event: Event, include: Include, *more: Any) -> tuple[bytes, bool]:
        made.append(include)
        return encoded(event, include, *more)

    monkeypatch.setattr(frames_module, "encoded", count)
    return made


def documents(writer: RecordingWriter) -> list[dict[str, Any]]:
    return [orjson.loads(one.data) for one in writer.events if one.name is None]


async def open_task(scene: Scene, seconds: float = 40.0) -> float:
    """A task with an estimate; returns the moment."""
    at = scene.clock.time() + seconds
    await scene.tell(TASK, state(eta_at=at, eta_by=at + 20))
    return at


async def test_first_states_are_written_once_a_second_for_all_who_come(
    scene: Scene, written: list[Include]
) -> None:
    await open_task(scene)
    for _ in range(500):
        for fmt in (SSE, NDJSON, SOCKET):
            await scene.join([TASK], RecordingWriter(fmt))
        scene.clock.skip(0.0015)
    assert len(written) == 1, "of every format, and for all of them"
    await scene.join([TASK], RecordingWriter(format_of(SseFormat, RAW)))
    assert len(written) == 2, "with the provider's document it is another one"
    scene.clock.skip(1.0)
    _, late = await scene.join([TASK])
    assert len(written) == 3
    assert documents(late)[0]["eta_seconds"] == pytest.approx(38.2, abs=0.11)


async def test_what_does_not_count_down_is_written_once(scene: Scene, written: list[Include]) -> None:
    await scene.tell(TASK, state())
    for _ in range(3):
        await scene.join([TASK])
        scene.clock.skip(60)
    assert len(written) == 1


async def test_a_change_is_written_at_the_change_for_all_who_follow(
    scene: Scene, written: list[Include]
) -> None:
    writers = [(await scene.join([TASK]))[1] for _ in range(100)]
    at = await open_task(scene)
    assert len(written) == 1
    told = [documents(writer) for writer in writers]
    assert all(one == told[0] for one in told)
    assert (told[0][0]["eta_seconds"], told[0][0]["eta_at"]) == (40.0, timestamp(at))


async def test_every_copy_has_the_newest_estimate_and_an_unchanged_poll_is_no_event(scene: Scene) -> None:
    _, early = await scene.join([TASK])
    await open_task(scene)
    scene.clock.skip(10)
    now = scene.clock.time()
    scene.journal.confirm(TASK, Confirmation(now, now + 90, now + 120))
    _, late = await scene.join([TASK])
    scene.clock.skip(5)
    _, latest = await scene.join([TASK], RecordingWriter(SOCKET))
    assert len(documents(early)) == 1
    (document,) = documents(late)
    assert (document["eta_at"], document["eta_by"]) == (timestamp(now + 90), timestamp(now + 120))
    assert (document["eta_seconds"], document["observed_at"]) == (90.0, timestamp(now))
    (message,) = [orjson.loads(line)["state"] for line in latest.sent.splitlines()]
    assert (message["eta_seconds"], message["eta_at"]) == (85.0, document["eta_at"])


async def test_a_client_that_was_too_slow_gets_a_copy_of_the_moment(scene: Scene) -> None:
    _, slow = await scene.join([TASK])
    slow.pause()
    await open_task(scene)
    scene.clock.skip(30)
    slow.wake()
    await settle()
    assert [one["eta_seconds"] for one in documents(slow)] == [10.0]


async def test_the_moment_may_have_passed(scene: Scene) -> None:
    at = await open_task(scene)
    seen = []
    for _ in range(3):
        scene.clock.skip(19.97)
        _, writer = await scene.join([TASK])
        seen.append(documents(writer)[0])
    assert [one["eta_seconds"] for one in seen] == [20.0, 0.1, None]
    assert {one["eta_at"] for one in seen} == {timestamp(at)}
    assert b"-0" not in orjson.dumps([one["eta_seconds"] for one in seen])


async def test_replayed_states_are_written_with_the_time_of_now(scene: Scene) -> None:
    event = await scene.record(TASK, state(eta_at=scene.clock.time() + 40))
    other = await scene.record(OTHER, state(eta_at=scene.clock.time() + 5))
    scene.clock.skip(10)
    writer = RecordingWriter()
    subscription = scene.place(writer)
    scene.hub.join(subscription, [TASK, OTHER])
    scene.hub.replay(subscription, [event, other])
    assert [one["eta_seconds"] for one in documents(writer)] == [30.0, None]
    scene.hub.begin(subscription, {TASK: Backlog(event, event.cursor.offset)})


async def test_an_end_has_no_estimate_whatever_was_confirmed(scene: Scene) -> None:
    now = scene.clock.time()
    event = await scene.tell(TASK, state("completed"))
    scene.journal.confirm(TASK, Confirmation(now + 1, now + 90, now + 99))
    _, writer = await scene.join([TASK])
    document = documents(writer)[0]
    assert [document[name] for name in ("eta_seconds", "eta_at", "eta_by")] == [None] * 3
    assert document["observed_at"] == timestamp(event.state.observed_at)

"""A fault of one party, planted wherever many are served in one loop: the others notice nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.config.settings import Settings
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.hub.maintenance import ConnectionMaintenance
from bridge.hub.subscription import Subscription
from bridge.wire import frames as frames_module
from bridge.wire.document import Include, encoded
from bridge.wire.formats import NdjsonFormat, SseFormat
from bridge.wire.frames import Format, format_of
from tests.fakes.clock import settle
from tests.fakes.hub import Scene
from tests.fakes.loop import ManualLoop
from tests.fakes.tasks import OTHER, TASK, state
from tests.fakes.writers import NDJSON, RAW, RecordingWriter

pytestmark = pytest.mark.anyio

STALE = Notice(NoticeCode.STALE, "not confirmed")
THIRD = TaskKey("qingbo", "task-3")
SSE_RAW = format_of(SseFormat, RAW)
NDJSON_RAW = format_of(NdjsonFormat, RAW)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def fail(*_args: object, **_kwargs: object) -> Any:
    raise RuntimeError("planted")


def statuses(writer: RecordingWriter) -> list[str]:
    return [orjson.loads(one.data)["status"] for one in writer.events if one.name is None]


def names(writer: RecordingWriter) -> list[str | None]:
    return [one.name for one in writer.events]


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Documents that `chosen` picks cannot be encoded."""

    def plant(chosen: Callable[[Event, Include], bool]) -> None:
        def plant_in(event: Event, include: Include, *more: Any) -> tuple[bytes, bool]:
            if chosen(event, include):
                fail()
            return encoded(event, include, *more)

        monkeypatch.setattr(frames_module, "encoded", plant_in)

    return plant


# Documents


@pytest.mark.parametrize("form", [SSE_RAW, NDJSON_RAW], ids=["sse", "ndjson"])
async def test_a_raw_document_that_cannot_be_written_is_left_out_with_a_notice(
    scene: Scene, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.wire.document.on_one_line", fail)
    _, plain = await scene.join([TASK])
    _, curious = await scene.join([TASK], RecordingWriter(form))
    event = await scene.tell(TASK, state("completed", 100, raw=b"[" * 300 + b"]" * 300))
    lines = curious.sent.replace(b"data: ", b"").split(b"\n")
    said = [orjson.loads(line) for line in lines if line.startswith(b"{")]
    [told] = [one for one in said if "model" in one]
    [notice] = [one for one in said if "code" in one]
    assert (told["cursor"], told["raw"]) == (str(event.cursor), None)
    assert (notice["code"], notice["task"], notice["retriable"]) == ("raw_omitted", TASK.ref, False)
    assert curious.finished is plain.finished is Closing.FINISHED
    assert names(plain) == [None, "done", "end"]


@given(depth=st.sampled_from([1, 253, 254, 255, 300, 1023, 5000]), opening=st.sampled_from([b"[", b'{"a":']))
@settings(max_examples=20, deadline=None)
def test_a_document_of_any_depth_reaches_who_asked_for_it(depth: int, opening: bytes) -> None:
    raw = opening * depth + b"1" + (b"]" if opening == b"[" else b"}") * depth
    loop, scene = ManualLoop(), Scene()
    _, curious = loop.run(scene.join([TASK], RecordingWriter(SSE_RAW)))
    _, plain = loop.run(scene.join([TASK]))
    loop.run(scene.record(TASK, state("completed", raw=raw)))
    loop.settle()
    assert raw in curious.sent or b"raw_omitted" in curious.sent
    assert plain.finished is curious.finished is Closing.FINISHED


async def test_an_event_that_cannot_be_written_once_is_carried_a_turn_later(
    scene: Scene, unwritable: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([True])
    _, first = await scene.join([TASK, OTHER])
    _, second = await scene.join([TASK, OTHER], RecordingWriter(NDJSON))
    _, third = await scene.join([OTHER])
    unwritable(lambda event, _: event.key == TASK and next(failures, False))
    await scene.record(TASK, state("processing", 1))
    await scene.record(OTHER, state("completed"))
    await settle()
    assert sorted(statuses(first)) == ["completed", "processing"]
    assert second.sent.count(b'"status":"processing"') == 1
    assert third.finished is Closing.FINISHED
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_an_event_that_can_never_be_written_costs_that_task_only(
    scene: Scene, unwritable: Callable[..., None]
) -> None:
    maintenance = ConnectionMaintenance(scene.hub, scene.clock, lambda: 0.5, Settings.model_construct())
    unwritable(lambda event, _: event.key == TASK and event.state.progress == 13)
    subscription, writer = await scene.join([TASK, OTHER])
    _, other = await scene.join([OTHER])
    await scene.record(TASK, state("processing", 13))
    await scene.tell(OTHER, state("completed"))
    await maintenance.once()
    assert statuses(writer) == ["completed"]
    assert other.finished is Closing.FINISHED
    assert [channel.key for channel in subscription.pending] == [TASK]
    await scene.tell(TASK, state("completed", 100))
    await maintenance.once()
    assert statuses(writer) == ["completed", "completed"]
    assert writer.finished is Closing.FINISHED


async def test_a_first_state_that_cannot_be_written_keeps_no_other_from_its_own(
    scene: Scene, unwritable: Callable[..., None]
) -> None:
    await scene.tell(TASK, state("processing", 13))
    await scene.tell(OTHER, state("processing", 2))
    failing = [True]
    unwritable(lambda event, _: event.key == TASK and failing[0])
    _, writer = await scene.join([TASK, OTHER], preface=b": ok\n")
    assert writer.sent.startswith(b": ok\n")
    assert [orjson.loads(one.data)["progress"] for one in writer.events] == [2]
    failing[0] = False
    scene.hub.retry_stuck()
    assert [orjson.loads(one.data)["progress"] for one in writer.events] == [2, 13]


# Connections


METHODS = ["write", "when_writable", "finish", "abort"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_writer_that_raises_costs_its_own_connection(
    scene: Scene, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = [await scene.join([TASK, OTHER, THIRD]) for _ in range(5)]
    broken, writer = crowd[2]
    if method == "write":
        broken.write = fail
    monkeypatch.setattr(writer, method, fail)
    writer.write_paused = method == "when_writable"
    for key in (TASK, OTHER):
        await scene.record(key, state("processing", 5))
    await settle()
    scene.journal.announce(TASK, STALE)
    for key in (TASK, OTHER, THIRD):
        await scene.tell(key, state("completed"))
    for subscription, other in crowd:
        if subscription is not broken:
            assert names(other) == [None, None, "notice", *[None, "done"] * 3, "end"]
            assert other.finished is Closing.FINISHED
        scene.hub.leave(subscription, "left")
    assert scene.interests.total == 0
    assert not scene.hub._channels


class _Faulty:
    """Flow control whose every look fails."""

    @property
    def write_paused(self) -> bool:
        raise RuntimeError("planted")


async def test_a_flow_control_that_raises_costs_its_own_connection(scene: Scene) -> None:
    crowd = [await scene.join([TASK]) for _ in range(5)]
    broken, _ = crowd[0]
    broken.flow = _Faulty()
    scene.journal.announce(TASK, STALE)
    await scene.tell(TASK, state("processing", 1))
    await scene.tell(TASK, state("completed"))
    for subscription, other in crowd[1:]:
        assert statuses(other) == ["processing", "completed"]
        assert subscription.closing is Closing.FINISHED
    assert broken.closing is Closing.GONE


async def test_a_notice_that_cannot_be_written_is_left_out(scene: Scene) -> None:
    _, lines = await scene.join([TASK], RecordingWriter(NDJSON))
    _, events = await scene.join([TASK])
    slow_subscription, slow = await scene.join([TASK])
    slow.pause()
    scene.journal.announce(TASK, Notice(NoticeCode.UPSTREAM_UNAVAILABLE, "half a letter: \ud83d"))
    scene.journal.announce(TASK, STALE)
    await scene.tell(TASK, state("processing", 1))
    slow.wake()
    await settle()
    assert names(events) == ["notice", None]
    assert names(slow) == [None, "notice"]
    assert lines.sent.count(b'"code":"stale"') == 1
    assert slow_subscription.closing is None


async def test_a_connection_that_cannot_be_looked_after_ends_alone(scene: Scene) -> None:
    maintenance = ConnectionMaintenance(scene.hub, scene.clock, lambda: 0.5, Settings.model_construct())
    crowd = [await scene.join([TASK]) for _ in range(3)]
    broken, writer = crowd[0]

    class Broken(RecordingWriter):
        unsent = property(fail)  # type: ignore[assignment]

    broken.writer = Broken.__new__(Broken)
    broken.writer.abort = writer.abort  # type: ignore[method-assign]
    scene.clock.skip(20)
    await maintenance.once()
    assert [other.sent for _, other in crowd[1:]] == [b":\n", b":\n"]
    assert broken.closing is Closing.GONE


async def test_a_drain_reaches_everybody_behind_a_connection_that_fails(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    maintenance = ConnectionMaintenance(scene.hub, scene.clock, lambda: 0.5, Settings.model_construct())
    crowd = [await scene.join([TASK]) for _ in range(5)]
    close = maintenance.close

    def failing(subscription: Subscription, closing: Closing) -> None:
        if subscription is crowd[1][0]:
            fail()
        close(subscription, closing)

    monkeypatch.setattr(maintenance, "close", failing)
    await maintenance.drain(0)
    ended = [writer.finished for _, writer in crowd]
    assert ended == [Closing.DRAIN, None, *[Closing.DRAIN] * 3]
    assert crowd[1][1].aborted


# Followers of the journal


async def test_followers_of_the_journal_guard_each_other(scene: Scene) -> None:
    class Broken:
        recorded = noticed = staticmethod(fail)

    feed = scene.journal
    feed._followers.insert(0, Broken())  # type: ignore[arg-type]
    _, writer = await scene.join([TASK])
    event = await scene.tell(TASK, state("processing", 1))
    scene.journal.announce(TASK, STALE)
    assert names(writer) == [None, "notice"]
    assert (await scene.journal.latest([TASK])) == [event]

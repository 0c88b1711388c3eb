"""Keepalives, ages, those who take nothing, and the drain."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import orjson
import pytest

from bridge.config.settings import Settings
from bridge.core.event import Closing
from bridge.core.selection import Selection, SelectionKind
from bridge.hub.collection import Collection
from bridge.hub.maintenance import ConnectionMaintenance, retry_milliseconds
from bridge.hub.subscription import Subscription
from tests.fakes.clock import settle
from tests.fakes.hub import Scene
from tests.fakes.tasks import OTHER, TASK, state
from tests.fakes.writers import NDJSON, SOCKET, RecordingWriter

pytestmark = pytest.mark.anyio


class Swept(Scene):
    """A hub with its maintenance."""

    def __init__(self) -> None:
        super().__init__()
        self.maintenance = ConnectionMaintenance(
            self.hub, self.clock, lambda: 0.5, Settings.model_construct()
        )

    async def seconds(self, number: int) -> None:
        """Sweep once a second."""
        for _ in range(number):
            self.clock.skip(1)
            await self.maintenance.once()


@pytest.fixture
def scene() -> Swept:
    return Swept()


@pytest.mark.parametrize(("form", "bytes_"), [(None, b":\n"), (NDJSON, b"\n")])
async def test_a_keepalive_leaves_after_fifteen_silent_seconds(
    scene: Swept, form: object, bytes_: bytes
) -> None:
    writer = RecordingWriter() if form is None else RecordingWriter(NDJSON)
    await scene.join([TASK], writer)
    await scene.seconds(14)
    assert writer.sent == b""
    await scene.seconds(1)
    assert writer.sent == bytes_
    await scene.seconds(15)
    assert writer.sent == bytes_ * 2


async def test_whatever_is_written_puts_the_keepalive_off(scene: Swept) -> None:
    from bridge.core.event import Notice, NoticeCode

    _, single = await scene.join([TASK])
    _, many = await scene.join([TASK, OTHER])
    await scene.seconds(10)
    await scene.tell(TASK, state(progress=1))
    await scene.seconds(10)
    scene.journal.announce(TASK, Notice(NoticeCode.STALE, "not confirmed"))
    await scene.seconds(10)
    assert b"\n:\n" not in single.sent
    assert b"\n:\n" not in many.sent
    await scene.seconds(5)
    assert single.sent.endswith(b"\n:\n")


async def test_a_socket_is_pinged_by_its_library_and_a_stalled_stream_not_at_all(scene: Swept) -> None:
    _, socket = await scene.join([TASK], RecordingWriter(SOCKET))
    _, stalled = await scene.join([TASK])
    stalled.pause()
    await scene.seconds(60)
    assert socket.sent == stalled.sent == b""


async def test_a_connection_that_lived_long_enough_is_told_and_ended(scene: Swept) -> None:
    subscription, writer = await scene.join([TASK])
    subscription.ends_at = scene.clock.monotonic() + 5
    await scene.seconds(4)
    assert writer.finished is None
    await scene.seconds(3)
    assert writer.finished is Closing.AGE
    [notice] = writer.events
    assert (notice.name, notice.retry) == ("notice", 2000)
    said = orjson.loads(notice.data)
    assert (said["code"], said["reason"], said["task"], said["retriable"]) == ("closing", "age", None, True)
    scene.hub.leave(subscription, "age")
    assert scene.interests.total == 0


async def test_a_connection_whose_credential_ends_is_told_that(scene: Swept) -> None:
    subscription, writer = await scene.join([TASK])
    subscription.ends_at, subscription.ends_by = scene.clock.monotonic() + 5, Closing.EXPIRED
    await scene.seconds(7)
    assert writer.finished is Closing.EXPIRED
    [notice] = writer.events
    assert orjson.loads(notice.data)["reason"] == "expired"


async def stall(scene: Swept, unsent: list[int]) -> tuple[Subscription, RecordingWriter]:
    subscription, writer = await scene.join([TASK])
    for number in unsent:
        writer.unsent = number
        await scene.seconds(1)
    return subscription, writer


async def test_a_connection_that_takes_no_byte_for_thirty_seconds_is_dropped(scene: Swept) -> None:
    subscription, writer = await stall(scene, [1000] * 30)
    assert not writer.aborted
    await scene.seconds(1)
    assert writer.aborted
    assert subscription.closing is Closing.SLOW
    await scene.seconds(5)  # and is left alone from then on
    scene.hub.leave(subscription, "slow")
    assert scene.count("bridge_disconnects_total", delivery="sse", reason="slow") == 1


@pytest.mark.parametrize(
    "unsent",
    [[1000] * 29 + [999] + [1000] * 29, [1000] * 29 + [0] + [1000] * 29, list(range(2000, 1900, -1))],
    ids=["one byte", "all bytes", "a byte a second"],
)
async def test_who_takes_a_byte_now_and_then_is_kept(scene: Swept, unsent: list[int]) -> None:
    _, writer = await stall(scene, unsent)
    assert not writer.aborted


async def test_more_to_take_does_not_count_as_taking(scene: Swept) -> None:
    _, writer = await stall(scene, list(range(1000, 1032)))
    assert writer.aborted


async def test_nobody_else_notices_who_is_dropped(scene: Swept, caplog: pytest.LogCaptureFixture) -> None:
    _, writer = await scene.join([TASK])
    await stall(scene, [1] * 40)
    await scene.tell(TASK, state(progress=1))
    assert [orjson.loads(one.data)["progress"] for one in writer.events if one.name is None] == [1]
    assert not caplog.records


async def test_a_drain_ends_everybody_spread_over_its_time(scene: Swept) -> None:
    writers = [(await scene.join([TASK]))[1] for _ in range(400)]
    draining = asyncio.ensure_future(scene.maintenance.drain(2.0))
    await settle()
    ended = [sum(one.finished is Closing.DRAIN for one in writers)]
    while not draining.done():
        await scene.clock.advance(0.5)
        ended.append(sum(one.finished is Closing.DRAIN for one in writers))
    assert ended[0] < 50
    assert ended[-1] == 400
    assert len(ended) <= 6
    assert all(later - earlier <= 120 for earlier, later in pairwise(ended))
    reasons = {orjson.loads(one.events[-1].data)["reason"] for one in writers}
    assert reasons == {"drain"}


async def test_a_drain_of_few_takes_no_time_and_one_of_nobody_ends(scene: Swept) -> None:
    await scene.maintenance.drain(20)
    _, writer = await scene.join([TASK])
    await scene.maintenance.drain(20)
    assert writer.finished is Closing.DRAIN


async def test_followers_are_looked_after_without_any_member_too(scene: Swept) -> None:
    collection = Collection(Selection(SelectionKind.TAG, "u"))
    writers = [RecordingWriter() for _ in range(4)]
    quiet, old, stalled, drained = [scene.place(one) for one in writers]
    for subscription in (quiet, old, stalled, drained):
        scene.hub.listen(subscription, collection, [])
    await scene.seconds(15)
    assert [one.sent for one in writers] == [b":\n"] * 4
    scene.hub.collect(collection, TASK)
    await scene.seconds(10)
    await scene.tell(TASK, state(progress=1))
    await scene.seconds(10)
    assert not writers[0].sent.endswith(b"\n:\n"), "a broadcast puts the keepalive off"
    old.ends_at = scene.clock.monotonic()
    writers[2].unsent = 1000
    await scene.seconds(31)
    assert writers[1].finished is Closing.AGE
    assert writers[2].aborted
    assert stalled.closing is Closing.SLOW
    await scene.maintenance.drain(20)
    assert writers[3].finished is Closing.DRAIN
    for subscription in (quiet, old, stalled, drained):
        scene.hub.leave(subscription, "left")
    assert collection.unused


async def test_the_sweep_goes_on_until_it_is_cancelled(scene: Swept) -> None:
    _, writer = await scene.join([TASK])
    running = asyncio.ensure_future(scene.maintenance.run())
    await scene.clock.advance(16)
    assert writer.sent == b":\n"
    running.cancel()


def test_waits_before_coming_back_are_spread_and_longer_when_busy() -> None:
    assert [retry_milliseconds(chance) for chance in (0, 0.5, 1)] == [1000, 2000, 3000]
    assert [retry_milliseconds(chance, busy=True) for chance in (0, 1)] == [5000, 15000]

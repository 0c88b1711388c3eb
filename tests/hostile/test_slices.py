"""What a provider sends is parsed in slices: counted by a clock that moves only while parsing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.core.loop_time import SLICE_SECONDS, LoopTime
from bridge.core.task import Observation, Status
from bridge.errors import UpstreamUnavailable
from bridge.sources.body_memory import UNCOUNTED_BYTES, BodyMemory, Share
from bridge.sources.slices import SlicedConnection, Turns
from bridge.sources.stream import follow
from tests.fakes.clock import FakeClock
from tests.fakes.provider import FakeProvider, make_upstream

pytestmark = pytest.mark.anyio

EVENT_SECONDS = 0.0001
PER_SLICE = int(SLICE_SECONDS / EVENT_SECONDS)
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"


class SlowClock:
    """Monotonic seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Transport(asyncio.Transport):
    """Counts how often reading was paused and resumed."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.pauses = 0
        self.closed = False

    def pause_reading(self) -> None:
        self.pauses += self.reading
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def connection(clock: SlowClock, monkeypatch: pytest.MonkeyPatch) -> tuple[SlicedConnection, Transport]:
    """A connection on which each parsed kilobyte takes a tenth of a slice."""
    protocol = SlicedConnection(asyncio.get_running_loop(), Turns(LoopTime(), clock, clock))
    transport = Transport()
    protocol.connection_made(transport)
    protocol.set_response_params()
    feed = protocol._parser.feed_data

    class Parser:
        def __getattr__(self, name: str) -> Any:
            return getattr(parser, name)

        def feed_data(self, data: bytes) -> Any:
            clock.now += len(data) / 1024 * SLICE_SECONDS / 10
            return feed(data)

    parser = protocol._parser
    protocol._parser = Parser()
    return protocol, transport


async def test_a_small_response_is_parsed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, transport = connection(SlowClock(), monkeypatch)

    protocol.data_received(RESPONSE)

    assert len(protocol) == 1
    assert transport.pauses == 0


async def test_a_small_response_that_took_long_is_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SlowClock()
    protocol, _ = connection(clock, monkeypatch)
    quick = protocol._parser.feed_data

    def slow(data: bytes) -> Any:
        clock.now += 0.5
        return quick(data)

    protocol._parser.feed_data = slow
    protocol.data_received(RESPONSE)
    assert len(protocol) == 1
    assert protocol.turns.rest > 0


async def test_a_small_head_is_kept_whatever_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, _ = connection(SlowClock(), monkeypatch)
    protocol.data_received(b"HTTP/1.1 204 No Content\r\n\r\nnot http")
    assert len(protocol) == 1


async def test_the_next_response_does_not_rest_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SlowClock()
    protocol, _ = connection(clock, monkeypatch)
    protocol.turns.bill(1, clock() - 1.0)
    assert protocol.turns.rest > 0

    protocol.set_response_params()

    assert protocol.turns.rest == 0


async def test_interim_responses_are_parsed_a_slice_at_a_time_and_reading_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SlowClock()
    protocol, transport = connection(clock, monkeypatch)
    flood = INTERIM * (256 * 1024 // len(INTERIM))

    protocol.data_received(flood)

    assert 0 < len(protocol) <= 11 * 1024 // len(INTERIM) + 1
    assert not transport.reading
    parsed = len(protocol)
    protocol._buffer.clear()
    for _ in range(20):
        await asyncio.sleep(0)
    assert protocol._held
    assert not transport.closed
    assert parsed + len(protocol) < len(flood) // len(INTERIM) / 4


async def test_messages_that_nobody_takes_are_not_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, _ = connection(SlowClock(), monkeypatch)
    for _ in range(100):
        protocol.data_received(INTERIM * 200)
        await asyncio.sleep(0)
    assert len(protocol) < 400
    assert protocol.should_close


@pytest.mark.parametrize("size", [1, 7, 512, 100_000])
async def test_all_that_came_before_the_end_is_read(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SlowClock()
    protocol, _ = connection(clock, monkeypatch)
    body = bytes(range(256)) * 400
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for at in range(0, len(body), 300):
        part = body[at : at + 300]
        data += b"%x\r\n%b\r\n" % (len(part), part)
    data += b"0\r\n\r\n"
    for at in range(0, len(data), size):
        protocol.data_received(data[at : at + size])
    protocol.connection_lost(None)
    clock.now += 100

    _, payload = await protocol.read()
    async with asyncio.timeout(10):
        read = b""
        while not payload.at_eof():
            clock.now += 1
            read += await payload.readany()

    assert read == body
    assert protocol.transport is None


async def test_a_closed_connection_forgets_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, transport = connection(SlowClock(), monkeypatch)
    protocol.data_received(INTERIM * 5000)
    protocol.connection_lost(ConnectionResetError())
    assert protocol.transport is not None
    protocol.close()
    assert not protocol._held
    assert transport.closed or protocol.transport is None


class CountingProvider(FakeProvider):
    """A provider whose frames take time to read; counts how many were read in each turn of the event loop."""

    def __init__(self, clock: FakeClock, frame: bytes) -> None:
        super().__init__(clock)
        self.frame = frame
        self.passed = SlowClock()
        self.read = 0
        self.streams["task"] = self.flood

    def turns(self) -> Turns:
        return Turns(LoopTime(), self.passed, self.passed)

    async def flood(self) -> AsyncIterator[bytes]:
        yield self.frame * 20_000
        raise UpstreamUnavailable("over")

    def read_stream_event(self, name: str | None, data: str) -> Observation | None:
        self.read += 1
        self.passed.now += EVENT_SECONDS
        return Observation(status=Status.PROCESSING, progress=self.read % 90) if data == "state" else None


class EndlessProvider(FakeProvider):
    """A provider whose streams are one line without end; counts what was taken of them."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.taken = 0
        self.memory = BodyMemory(512 * 1024, largest=512 * 1024)
        self.streams = {f"task-{number}": self.line for number in range(10)}

    def event_share(self) -> Share:
        return self.memory.share()

    async def line(self) -> AsyncIterator[bytes]:
        yield b"data:"
        while True:
            self.taken += 16 * 1024
            yield b"x" * 16 * 1024
            await asyncio.sleep(0)


async def test_events_without_end_take_no_more_than_their_memory() -> None:
    clock = FakeClock()
    provider = EndlessProvider(clock)
    upstream = make_upstream(provider, clock)

    async def followed(task_id: str) -> None:
        request = provider.stream_request(task_id)
        assert request is not None
        await follow(upstream, request, on_observations=never, on_alive=lambda: None)

    async def never(_: Any) -> bool:
        raise AssertionError("there was no event")

    following = [asyncio.ensure_future(followed(task_id)) for task_id in provider.streams]
    for _ in range(2000):
        await asyncio.sleep(0)

    assert 10 * UNCOUNTED_BYTES <= provider.taken <= 10 * (UNCOUNTED_BYTES + 32 * 1024) + 512 * 1024
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    assert provider.memory.free == 512 * 1024


@pytest.mark.parametrize("frame", [b"data:1\n\n", b"data:state\n\n"])
async def test_events_are_handled_a_slice_at_a_time(frame: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    provider = CountingProvider(clock, frame)
    upstream = make_upstream(provider, clock)
    per_turn: list[int] = []
    passed_on: list[int] = []
    sleep = asyncio.sleep

    async def turn(seconds: float) -> None:
        per_turn.append(provider.read - sum(per_turn))
        provider.passed.now += seconds
        await sleep(0)

    async def observed(observations: Any) -> bool:
        passed_on.append(len(observations))
        return False

    monkeypatch.setattr("bridge.sources.slices.asyncio.sleep", turn)
    request = provider.stream_request("task")
    assert request is not None
    with pytest.raises(UpstreamUnavailable):
        await follow(upstream, request, on_observations=observed, on_alive=lambda: None)

    assert provider.read == 20_000
    # The first piece is 1 KiB before anything is known of what it costs.
    assert max(per_turn[20:]) <= PER_SLICE * 4
    assert len(per_turn) > 100
    assert sum(passed_on) in (0, 20_000)

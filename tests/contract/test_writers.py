"""What every writer promises: `bridge.hub.subscription.Outlet`; the recording one of the tests too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bridge.core.event import Closing
from bridge.delivery.writers import AsgiWriter, TransportWriter, WebSocketWriter
from bridge.hub.subscription import ConnectionWriter
from tests.fakes.clock import settle
from tests.fakes.writers import FakeServer, RecordingWriter

pytestmark = pytest.mark.anyio


class Recording:
    """An writer with its client at the other end."""

    def __init__(self) -> None:
        self.writer: Any = RecordingWriter()

    def stop_reading(self) -> None:
        self.writer.pause()

    def read_again(self) -> None:
        self.writer.wake()

    @property
    def received(self) -> bytes:
        return bytes(self.writer.sent)


class FakeTransport:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.writer: Any = TransportWriter(self.server)
        self.writer.attach(self.server.send)

    def stop_reading(self) -> None:
        self.server.transport.fill()

    def read_again(self) -> None:
        self.server.transport.empty()

    @property
    def received(self) -> bytes:
        return self.server.transport.taken


class Socket(FakeTransport):
    def __init__(self) -> None:
        super().__init__()
        self.writer = WebSocketWriter(self.server, self.server.send)


class Asgi(FakeTransport):
    def __init__(self) -> None:
        super().__init__()
        self.writer = AsgiWriter(self.server.send)

    @property
    def received(self) -> bytes:
        return b"".join(one["body"] for one in self.server.messages if one["more_body"])


@pytest.fixture(params=[Recording, FakeTransport, Socket, Asgi], ids=lambda make: make.__name__.lower())
async def end(request: pytest.FixtureRequest) -> Any:
    make: Callable[[], Any] = request.param
    return make()


async def test_what_is_written_arrives_in_order(end: Any) -> None:
    writer: ConnectionWriter = end.writer
    assert not writer.flow.write_paused
    for part in (b"one", b"two", b"three"):
        writer.write(part)
    await settle()
    assert end.received == b"onetwothree"
    assert writer.unsent == 0


async def test_what_is_written_while_nobody_reads_arrives_later_in_order(end: Any) -> None:
    end.writer.write(b"one")
    end.stop_reading()
    for part in (b"two", b"three", b"four"):
        end.writer.write(part)
    await settle()
    assert end.writer.flow.write_paused
    end.read_again()
    await settle()
    assert end.received == b"onetwothreefour"
    assert not end.writer.flow.write_paused
    assert end.writer.unsent == 0


async def test_who_waits_to_write_hears_once_when_there_is_room(end: Any) -> None:
    woken: list[bool] = []
    end.stop_reading()
    end.writer.write(b"one")
    end.writer.when_writable(lambda: woken.append(end.writer.flow.write_paused))
    await settle()
    assert woken == []
    end.read_again()
    await settle()
    end.stop_reading()
    end.read_again()
    await settle()
    assert woken == [False]


async def test_who_waits_while_there_is_room_hears_a_turn_later(end: Any) -> None:
    woken: list[int] = []
    end.writer.when_writable(lambda: woken.append(1))
    assert woken == []
    await settle()
    assert woken == [1]


async def test_the_end_follows_what_was_written(end: Any) -> None:
    end.writer.write(b"one")
    end.writer.finish(Closing.FINISHED)
    await settle()
    assert end.received.startswith(b"one")

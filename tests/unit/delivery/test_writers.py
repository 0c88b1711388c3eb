"""How bytes leave. What every writer promises: tests/contract/test_writers.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.core.event import Closing
from bridge.delivery import writers as writers_module
from bridge.delivery.writers import (
    AsgiSocketWriter,
    AsgiWriter,
    TransportWriter,
    WebSocketWriter,
    drive,
    http_writer,
    websocket_writer,
)
from bridge.server.flow_control import WebSocketFlowControl
from tests.fakes.clock import settle
from tests.fakes.writers import FakeServer, FakeTransport

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server() -> FakeServer:
    return FakeServer()


# drive


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    yield
    await settle()
    assert not writers_module._running


async def several(steps: list[str], *waits: Any) -> None:
    for number, wait in enumerate(waits):
        steps.append(f"before {number}")
        try:
            steps.append(f"got {await wait}")
        except ValueError as error:
            steps.append(f"caught {error}")


@pytest.mark.usefixtures("nothing_left")
async def test_what_never_waits_is_done_at_once() -> None:
    steps: list[str] = []
    assert drive(several(steps)) is None
    steps.clear()
    assert drive(only(steps)) is None
    assert steps == ["ran"]


async def only(steps: list[str]) -> None:
    steps.append("ran")


@pytest.mark.usefixtures("nothing_left")
async def test_what_waits_goes_on_by_itself_from_where_it_stood() -> None:
    loop, steps = asyncio.get_running_loop(), list[str]()
    first, second, third = loop.create_future(), loop.create_future(), loop.create_future()
    task = drive(several(steps, first, second, asyncio.sleep(0, "slept"), third))
    assert task is not None
    assert steps == ["before 0"]
    first.set_result(1)
    await settle()
    assert steps == ["before 0", "got 1", "before 1"]
    second.set_exception(ValueError("no"))
    await settle()
    assert steps[3:] == ["caught no", "before 2", "got slept", "before 3"]
    third.set_result(3)
    await task
    assert steps[-1] == "got 3"


@pytest.mark.usefixtures("nothing_left")
async def test_what_is_ready_before_the_task_has_begun_is_not_missed() -> None:
    steps: list[str] = []
    future = asyncio.get_running_loop().create_future()
    task = drive(several(steps, future))
    future.set_result(1)
    assert task is not None
    await task
    assert steps == ["before 0", "got 1"]


@pytest.mark.usefixtures("nothing_left")
async def test_an_error_after_a_wait_is_the_tasks_and_warns_nobody() -> None:
    future = asyncio.get_running_loop().create_future()

    async def fails() -> None:
        await future
        raise RuntimeError("the client left in the middle")

    task = drive(fails())
    assert task is not None
    future.set_result(None)
    await settle()
    assert isinstance(task.exception(), RuntimeError)


@pytest.mark.usefixtures("nothing_left")
async def test_cancelling_reaches_what_waits() -> None:
    steps: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cleaned up")

    task = drive(waits())
    assert task is not None
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    assert steps == ["cleaned up"]


@pytest.mark.usefixtures("nothing_left")
async def test_a_peer_that_is_gone_is_no_error_and_a_bug_is_one() -> None:
    async def fails(error: Exception) -> None:
        raise error

    assert drive(fails(ConnectionResetError())) is None
    with pytest.raises(RuntimeError):
        drive(fails(RuntimeError("a bug")))


# Under any server


def bodies(server: FakeServer) -> list[bytes]:
    return [one["body"] for one in server.messages]


async def test_under_any_server_a_body_ends_with_its_last_message(server: FakeServer) -> None:
    writer = AsgiWriter(server.send)
    writer.write(b"one")
    writer.finish(Closing.AGE)
    await settle()
    assert server.messages == [
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]
    assert writer.ended.is_set()


async def test_under_any_server_each_line_is_a_message_and_the_close_says_why(server: FakeServer) -> None:
    writer = AsgiSocketWriter(server.send)
    writer.write(b'{"a":"\xe2\x80\xa8"}\n{"b":2}\n')
    writer.write(b"")
    writer.finish(Closing.DRAIN)
    await settle()
    assert server.messages == [
        {"type": "websocket.send", "text": '{"a":"\u2028"}'},
        {"type": "websocket.send", "text": '{"b":2}'},
        {"type": "websocket.close", "code": 1012, "reason": "drain"},
    ]


async def test_the_end_waits_for_what_is_being_sent(server: FakeServer) -> None:
    writer = AsgiWriter(server.send)
    server.transport.fill()
    writer.write(b"one")
    writer.write(b"two")
    writer.finish(Closing.AGE)
    await settle()
    assert not writer.ended.is_set()
    server.transport.empty()
    await settle()
    assert bodies(server) == [b"one", b"two", b""]
    assert writer.ended.is_set()


async def test_the_connection_ends_only_once_its_last_message_was_taken(server: FakeServer) -> None:
    writer = AsgiWriter(server.send)
    writer.write(b"one")
    server.transport.fill()
    writer.finish(Closing.AGE)
    await settle()
    assert not writer.ended.is_set()
    server.transport.empty()
    await settle()
    assert writer.ended.is_set()


async def test_messages_of_one_write_stay_together_when_each_has_to_wait(server: FakeServer) -> None:
    writer = AsgiSocketWriter(server.send)

    async def slow(message: Any) -> None:
        await asyncio.sleep(0)
        await server.send(message)

    writer.attach(slow)
    writer.write(b"0\n")
    writer.write(b"1\n2\n")
    writer.write(b"3\n")
    writer.finish(Closing.AGE)
    await settle()
    assert [one.get("text", one["type"]) for one in server.messages] == [
        "0",
        "1",
        "2",
        "3",
        "websocket.close",
    ]


async def test_after_a_send_that_failed_nothing_more_is_sent(server: FakeServer) -> None:
    writer = AsgiWriter(server.send)
    server.transport.fill()
    writer.write(b"one")
    writer.write(b"two")
    server.fails = ConnectionResetError()
    server.transport.empty()
    await settle()
    assert server.messages == []
    assert not writer.flow.write_paused


async def test_dropping_a_connection_stops_its_send_and_ends_it(server: FakeServer) -> None:
    writer = AsgiWriter(server.send)
    server.transport.fill()
    writer.write(b"one")
    writer.abort()
    server.transport.empty()
    await settle()
    assert server.messages == []
    assert writer.ended.is_set()


# Under our own


async def test_under_our_own_server_a_body_ends_through_the_server(server: FakeServer) -> None:
    writer = TransportWriter(server)  # type: ignore[arg-type]
    writer.attach(server.send)
    writer.write(b"3\r\none\r\n")
    writer.finish(Closing.FINISHED)
    assert server.transport.taken == b"3\r\none\r\n"
    assert server.messages == [{"type": "http.response.body", "body": b"", "more_body": False}]


async def test_who_does_not_read_gets_the_last_chunk_after_the_rest_and_is_closed(server: FakeServer) -> None:
    writer = TransportWriter(server)  # type: ignore[arg-type]
    writer.attach(server.send)
    server.transport.fill()
    writer.write(b"3\r\none\r\n")
    assert writer.unsent == 8
    writer.finish(Closing.AGE)
    assert server.transport.buffered == b"3\r\none\r\n0\r\n\r\n"
    assert server.transport.closing
    assert server.messages == []


async def test_a_socket_is_closed_with_its_code(server: FakeServer) -> None:
    writer = WebSocketWriter(server, server.send)
    writer.finish(Closing.SLOW)
    assert server.messages == [{"type": "websocket.close", "code": 4001, "reason": "slow"}]
    writer.abort()
    assert server.transport.aborted


async def test_who_has_left_is_told_no_end() -> None:
    server = FakeServer()
    server.transport = server.flow = FakeTransport(closed_raises=True)
    writer = TransportWriter(server)  # type: ignore[arg-type]
    assert not writer.gone
    writer.abort()
    assert writer.gone
    writer.finish(Closing.DRAIN)
    assert server.transport.taken == b""
    assert server.messages == []


async def test_a_server_that_says_so_itself_is_asked_itself(server: FakeServer) -> None:
    writer = WebSocketWriter(server, server.send)
    assert writer.flow is writer
    flow = WebSocketFlowControl()
    server.flow_control = flow  # type: ignore[attr-defined]
    assert writer.flow is flow


# Which


def scope(server: object) -> Any:
    return {"extensions": {} if server is None else {"bridge.server": server}}


async def test_the_cheapest_way_out_is_taken_where_the_server_shows_it(server: FakeServer) -> None:
    own, foreign = scope(server), scope(None)
    assert isinstance(http_writer(own), TransportWriter)
    assert type(http_writer(foreign)) is AsgiWriter
    assert isinstance(websocket_writer(server, server.send), WebSocketWriter)
    assert isinstance(websocket_writer(None, server.send), AsgiSocketWriter)
    server.chunked_encoding = False  # HTTP/1.0
    assert not http_writer(own).framed
    del server.chunked_encoding  # a server we do not know frames for itself
    assert type(http_writer(own)) is AsgiWriter

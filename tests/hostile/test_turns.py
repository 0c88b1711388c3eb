"""Work per turn of the event loop: connections are accepted, and requests begun, a few at a time."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from bridge.core.resume import Position
from bridge.core.task import TaskKey
from bridge.delivery.subscriptions import JOINED_PER_TURN, Subscriptions
from bridge.errors import TaskNotFound, without_frames
from bridge.hub.broadcast import WOKEN_PER_TURN
from bridge.server.acceptor import Acceptor
from bridge.server.listeners import listen
from bridge.server.turns import REQUESTS_PER_TURN, RequestTurns
from tests.fakes.hub import Scene as HubScene
from tests.fakes.tasks import TASK, state
from tests.fakes.writers import RecordingWriter

pytestmark = pytest.mark.anyio

REQUEST = b"GET /v1/tasks/qingbo/x HTTP/1.1\r\n"
PROBE = b"GET /livez HTTP/1.1\r\n"


class Loop:
    """An event loop whose turns are called by hand."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], Any]] = []

    def call_soon(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.ready.append(lambda: call(*arguments))

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for call in ready:
            call()


class Transport:
    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> None:
        return None


class Connection:
    """One with a request that has arrived."""

    def __init__(self, loop: Loop, address: str, begun: list[str]) -> None:
        self.loop, self.client, self._begun = loop, (address, 1), begun
        self.transport = Transport()

    def continue_reading(self) -> int:
        self._begun.append(self.client[0])
        return 1


def arrived(turns: Any, connections: list[Connection]) -> None:
    for connection in connections:
        if turns.may_begin(connection, REQUEST):
            connection.continue_reading()
        else:
            turns.wait(connection)


async def test_requests_that_arrive_together_begin_over_several_turns() -> None:
    loop, turns, begun = Loop(), RequestTurns(), list[str]()
    arrived(turns, [Connection(loop, "a", begun) for _ in range(100)])
    assert len(begun) == REQUESTS_PER_TURN
    for number in range(2, 100 // REQUESTS_PER_TURN + 1):
        loop.turn()
        assert len(begun) == number * REQUESTS_PER_TURN
    loop.turn()
    assert not loop.ready


async def test_another_address_does_not_wait_for_all_of_a_crowd() -> None:
    loop, turns, begun = Loop(), RequestTurns(), list[str]()
    arrived(turns, [Connection(loop, "crowd", begun) for _ in range(100)])
    arrived(turns, [Connection(loop, "other", begun)])
    loop.turn()
    assert "other" in begun
    assert len(begun) == 2 * REQUESTS_PER_TURN


async def test_a_probe_begins_at_once_beside_a_crowd() -> None:
    loop, turns, begun = Loop(), RequestTurns(), list[str]()
    crowd = [Connection(loop, "crowd", begun) for _ in range(100)]
    arrived(turns, crowd)
    assert turns.may_begin(Connection(loop, "crowd", begun), PROBE)
    loop.turn()
    allowed = [turns.may_begin(one, PROBE) for one in crowd]
    assert sum(allowed) == REQUESTS_PER_TURN  # probes are a share, not a way around


async def test_one_that_raises_does_not_keep_the_others_waiting() -> None:
    loop, turns, begun = Loop(), RequestTurns(), list[str]()
    connections = [Connection(loop, "a", begun) for _ in range(10)]
    arrived(turns, connections)

    def fail() -> int:
        raise RuntimeError("planted")

    connections[REQUESTS_PER_TURN].continue_reading = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="planted"):
        loop.turn()
    while loop.ready:
        loop.turn()
    assert len(begun) == 9


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def test_long_polls_of_one_task_wake_over_several_turns() -> None:
    scene = HubScene()
    writer = RecordingWriter()
    await scene.join([TASK], writer)
    polls = [asyncio.ensure_future(scene.hub.changed(TASK, Position(0), seconds=60)) for _ in range(100)]
    await asyncio.sleep(0)
    woken = [0]
    event = await scene.record(TASK, state(progress=1))
    while not all(poll.done() for poll in polls):
        await asyncio.sleep(0)
        woken.append(sum(poll.done() for poll in polls))
    assert max(b - a for a, b in itertools.pairwise(woken)) <= WOKEN_PER_TURN
    assert [await poll for poll in polls] == [event] * 100


async def test_an_error_that_is_kept_holds_nothing_that_was_read() -> None:
    def read() -> None:
        try:
            bytes.fromhex("no")
        except ValueError as error:
            raise TaskNotFound("outer") from error

    with pytest.raises(TaskNotFound) as raised:
        read()
    kept = raised.value
    without_frames(kept)
    assert kept.__traceback__ is None
    assert kept.__cause__ is not None
    assert kept.__cause__.__traceback__ is None


async def test_the_tasks_of_a_list_are_joined_over_several_turns() -> None:
    scene = HubScene()
    subscription = scene.place(RecordingWriter())
    subscriptions = Subscriptions.__new__(Subscriptions)
    subscriptions.hub = scene.hub
    keys = [TaskKey("qingbo", str(number)) for number in range(100)]
    joining = asyncio.ensure_future(subscriptions._join(subscription, keys, resumes=False))
    joined = [0]
    while not joining.done():
        await asyncio.sleep(0)
        joined.append(len(subscription.channels))
    assert joined[-1] == 100
    assert max(b - a for a, b in itertools.pairwise(joined)) == JOINED_PER_TURN


async def test_connections_that_were_reset_while_they_waited_cost_no_protocol() -> None:
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    for _ in range(500):
        reset(connect(address))
    made: list[int] = []
    connected = asyncio.Event()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport.get_extra_info("peername")[1])
            connected.set()
            transport.close()

    with connect(address) as good:
        acceptor = Acceptor(listener, Protocol)
        await connected.wait()
        assert made == [good.getsockname()[1]]
    acceptor.close()
    listener.close()


async def test_a_few_connections_are_started_at_each_turn() -> None:
    listener = listen("127.0.0.1", 0)
    clients = [connect(listener.getsockname()) for _ in range(100)]
    loop = asyncio.get_running_loop()
    turn, made_in = 0, []
    everyone = asyncio.Event()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made_in.append(turn)
            transport.close()
            if len(made_in) == len(clients):
                everyone.set()

    def count() -> None:
        nonlocal turn
        turn += 1
        if not everyone.is_set():
            loop.call_soon(count)

    acceptor = Acceptor(listener, Protocol)
    count()
    await everyone.wait()
    assert max(made_in.count(number) for number in made_in) <= 16
    acceptor.close()
    listener.close()
    for client in clients:
        client.close()

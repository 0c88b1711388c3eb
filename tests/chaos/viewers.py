"""Clients in great number: SSE over bare sockets that see every byte, our own client, and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
import websockets
from websockets.asyncio.client import connect

from bridge.client.backoff import Timeouts
from bridge.client.bridge import Bridge
from tests.chaos.judge import Account, Judge
from tests.chaos.proxy import abort

COMES_BACK_AFTER = (0.02, 0.2)  # seconds; far sooner than `retry:` asks for, or the tests would wait for that
SILENCE_SECONDS = 5.0  # without a byte for so long a connection is taken for dead
_LIMIT = 1 << 20

T = TypeVar("T")


class Broken(Exception):
    """The bridge broke a frame, or said what no client survives."""


@dataclass(eq=False)
class Viewers:
    """All clients of a scenario.

    Args:
        address: Where the bridge is now.
        clean: Whether every body must end cleanly, or between two frames at least.
        moves: Each connection is left after so many seconds, at least and at most; None for never.

    Attributes:
        gate: Closed, nobody comes back.
    """

    address: Callable[[], tuple[str, int]]
    judge: Judge
    seed: int = 0
    clean: bool = False
    moves: tuple[float, float] | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: dict[asyncio.Task[None], Account] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    writers: dict[Account, asyncio.StreamWriter] = field(default_factory=dict)
    opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(200))

    def __post_init__(self) -> None:
        self.gate.set()

    def sse(self, *refs: str) -> Account:
        """One more SSE client."""
        account = self.judge.account(self._name("sse"), refs, repeats=len(refs) > 1)
        return self._start(account, _Sse(self, account).run())

    def socket(self, *refs: str) -> Account:
        """One more WebSocket client."""
        account = self.judge.account(self._name("ws"), refs, repeats=True)
        return self._start(account, _socket(self, account))

    def client(self, *refs: str) -> Account:
        """One more user of our Python client."""
        account = self.judge.account(self._name("client"), refs, repeats=True)
        return self._start(account, _client(self, account))

    def vanish(self, accounts: Sequence[Account]) -> None:
        """These go for good, all at once, each by a reset."""
        for account in accounts:
            account.left = True
            writer = self.writers.get(account)
            if writer is not None:
                abort(writer)
        for task, account in list(self.tasks.items()):
            if account.left:
                task.cancel()

    async def reach(self, states: int, seconds: float) -> None:
        """Wait until so many states were seen by all together."""
        await self.until(lambda: self.judge.states >= states, seconds)

    async def until(self, true: Callable[[], bool], seconds: float) -> None:
        """Wait for something that a client's news brings about."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    self.fail_early()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"still waiting: {self.summary()}") from None

    async def all_over(self, seconds: float) -> None:
        """Wait until everybody who stayed was told the end."""
        await self.until(lambda: all(one.over or one.left for one in self.judge.accounts), seconds)

    def fail_early(self) -> None:
        """What is wrong already will not get right by waiting."""
        assert not self.judge.faults, "\n".join(self.judge.faults[:5])

    def summary(self) -> str:
        """Where everybody stands."""
        waiting = [one for one in self.judge.accounts if not (one.over or one.left)]
        shown = [f"{one.name} {one.known}" for one in waiting[:3]]
        return (
            f"{len(waiting)} of {len(self.judge.accounts)} not over,"
            f" {dict(self.judge.counts)}, {self.judge.states} states, {shown}"
        )

    def moved(self) -> None:
        """A client has news."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    def stay(self, chance: random.Random) -> float | None:
        """How long a connection is kept; None for as long as it lasts."""
        return None if self.moves is None else chance.uniform(*self.moves)

    async def close(self) -> None:
        """Send everybody home."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _name(self, kind: str) -> str:
        return f"{kind}-{len(self.judge.accounts)}"

    def _start(self, account: Account, running: Coroutine[None, None, None]) -> Account:
        task = asyncio.ensure_future(running)
        self.tasks[task] = account
        task.add_done_callback(self._ended)
        return account

    def _ended(self, task: asyncio.Task[None]) -> None:
        account = self.tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.judge.find(f"{account.name}: {error!r}")
        self.moved()


class _Sse:
    """One SSE client: connects, reads frames, comes back with its cursor until it is over."""

    def __init__(self, viewers: Viewers, account: Account) -> None:
        self._viewers = viewers
        self._account = account
        self._chance = random.Random(f"{viewers.seed}/{account.name}")
        self._cursor: str | None = None
        self._held = b""

    async def run(self) -> None:
        while not self._account.over:
            await self._viewers.gate.wait()
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(self._viewers.stay(self._chance)):
                    await self._connection()
            if not self._account.over:
                await asyncio.sleep(self._chance.uniform(*COMES_BACK_AFTER))

    async def _connection(self) -> None:
        async with self._viewers.opening:
            reader, writer = await asyncio.open_connection(*self._viewers.address(), limit=_LIMIT)
        self._viewers.writers[self._account] = writer
        self._held = b""
        try:
            writer.write(self._request())
            self._account.connected(cursor=self._cursor)
            head = await _patiently(reader.readuntil(b"\r\n\r\n"))
            status = int(head.split(b" ", 2)[1])
            if status == 204:
                self._account.ended("204")
                self._viewers.moved()
                return
            if status != 200:
                raise Broken(f"HTTP {status} to an event stream: {head!r}")
            await self._body(reader)
        finally:
            del self._viewers.writers[self._account]
            writer.transport.abort()

    async def _body(self, reader: asyncio.StreamReader) -> None:
        within = False  # a chunk
        try:
            while True:
                within = False
                line = await _patiently(reader.readuntil(b"\r\n"))
                within = True
                size = int(line, 16)
                data = await _patiently(reader.readexactly(size + 2))
                if size == 0:
                    break
                self._take(data[:-2])
        except asyncio.IncompleteReadError as cut:
            if self._viewers.clean and (within or cut.partial):
                raise Broken(f"a body that ends within a chunk: {cut.partial[-80:]!r}") from cut
            if not self._viewers.clean:
                return
        except ConnectionError as cut:
            if self._viewers.clean:
                raise Broken("a connection reset") from cut
            raise
        if self._held.replace(b":\n", b"").replace(b": ok\n", b""):
            raise Broken(f"a body that ends within a frame: {self._held[-80:]!r}")

    def _request(self) -> bytes:
        refs = self._account.refs
        path = "/v1/events?" + "&".join(f"task={quote(ref)}" for ref in refs)
        if len(refs) == 1:
            path = f"/v1/tasks/{quote(refs[0])}/events"
        lines = [f"GET {path} HTTP/1.1", "Host: bridge", "Accept: text/event-stream"]
        if self._cursor is not None:
            lines.append(f"Last-Event-ID: {self._cursor}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _take(self, data: bytes) -> None:
        self._held += data
        *blocks, self._held = self._held.split(b"\n\n")
        for block in blocks:
            fields = {
                name: value
                for name, _, value in (line.partition(b": ") for line in block.split(b"\n") if line)
                if name and not name.startswith(b":")
            }
            self._event(fields)
        if blocks:
            self._viewers.moved()

    def _event(self, fields: dict[bytes, bytes]) -> None:
        account = self._account
        event_id = fields[b"id"].decode() if b"id" in fields else None
        document = orjson.loads(fields[b"data"])
        match fields.get(b"event"):
            case None:
                account.state(document, event_id)
            case b"done":
                account.done(document["task"], document["status"])
            case b"end":
                account.ended("end")
            case b"reset":
                account.reset()
            case b"notice":
                account.judge.counts[f"notice {document['code']}"] += 1
            case name:
                raise Broken(f"an event named {name!r}")
        if event_id is not None:
            self._cursor = event_id


async def _client(viewers: Viewers, account: Account) -> None:
    """Our own client does its reconnecting itself."""
    timeouts = Timeouts(silence=SILENCE_SECONDS, first_delay=0.05, min_delay=0.02, max_delay=0.5)

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, COMES_BACK_AFTER[1]))
        await viewers.gate.wait()

    host, port = viewers.address()
    rng = random.Random(f"{viewers.seed}/{account.name}")
    async with Bridge(f"http://{host}:{port}", timeouts=timeouts, rng=rng, sleep=sleep) as bridge:
        account.connected(cursor=None)
        async for state in bridge.watch(*account.refs):
            account.connected(cursor=None)  # which connection brought it is not told
            account.state(state.document)
            viewers.moved()
    account.ended("our client")


async def _socket(viewers: Viewers, account: Account) -> None:
    """A WebSocket stays open when its tasks are done; its user leaves."""
    chance = random.Random(f"{viewers.seed}/{account.name}")
    cursor: str | None = None
    while not account.over:
        await viewers.gate.wait()
        with contextlib.suppress(OSError, TimeoutError, websockets.WebSocketException):
            async with asyncio.timeout(viewers.stay(chance)):
                async for said in _said(viewers, account, cursor):
                    cursor = _heard(account, said) or cursor
                    viewers.moved()
                    if account.complete:
                        account.ended("websocket")
                        break
        await asyncio.sleep(chance.uniform(*COMES_BACK_AFTER))


def _heard(account: Account, said: dict[str, Any]) -> str | None:
    """Take in one message; its cursor, if it has one."""
    match said["type"]:
        case "state":
            # With several tasks the cursor is no place in the order of all: who comes back is told all again.
            account.state(said["state"], said["cursor"] if len(account.refs) == 1 else None)
            return str(said["cursor"])
        case "reset":
            account.reset()
        case "done":
            account.done(said["task"], said["status"])
        case "notice":
            account.judge.counts[f"notice {said['code']}"] += 1
        case "error":
            account.judge.find(f"{account.name}: {said}")
    return None


async def _said(viewers: Viewers, account: Account, cursor: str | None) -> AsyncIterator[dict[str, Any]]:
    host, port = viewers.address()
    async with viewers.opening:
        connecting = connect(f"ws://{host}:{port}/v1/ws", compression=None, proxy=None, open_timeout=5)
        socket = await connecting
    account.connected(cursor=cursor)
    try:
        asked = {"type": "subscribe", "id": 1, "tasks": list(account.refs), "after": cursor}
        await socket.send(orjson.dumps(asked).decode())
        while True:
            yield orjson.loads(await _patiently(socket.recv()))
    finally:
        socket.transport.abort()


async def _patiently(waiting: Awaitable[T]) -> T:
    async with asyncio.timeout(SILENCE_SECONDS):
        return await waiting

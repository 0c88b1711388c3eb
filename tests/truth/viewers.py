"""Clients of every delivery, each with an account of what it was told and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from tests.chaos.judge import Account, Judge
from tests.fakes.virtual import LoopClock
from tests.truth.asgi import App, Response, WebSocket

DELIVERIES = ("sse", "many", "socket", "longpoll", "ndjson")
LOST_AGAIN = 30.0
"""How often a client asks again for a task that is said to be lost, or missing."""


@dataclass(eq=False)
class Viewer:
    """One client.

    Attributes:
        joined: When it asked first for everything.
        told: When it held the final state of each task.
        missing: When it was told that there is no such task.
        firsts: How long each of its connections waited for the first word.
        heard: Codes of the notices, by task.
    """

    kind: str
    account: Account
    clock: LoopClock
    app: App
    chance: random.Random
    address: str
    leaves: bool
    joined: float = 0.0
    told: dict[str, float] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)
    firsts: list[float] = field(default_factory=list)
    heard: dict[str, set[str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    connections: int = 0
    last_join: float = 0.0
    _cursor: str | None = None
    _etag: str | None = None
    _opened: float = 0.0
    _waits: bool = True

    @property
    def refs(self) -> tuple[str, ...]:
        return self.account.refs

    @property
    def done(self) -> bool:
        """Whether it holds the end of everything it asked for."""
        known = self.account.known
        return all(
            ref in self.missing or (ref in known and known[ref].final and known[ref].status != "lost")
            for ref in self.refs
        )

    async def run(self) -> None:
        """Watch until everything has ended; come back whenever the connection ends before."""
        self.joined = self.last_join = self.clock.monotonic()
        while not self.done:
            self._opened, self._waits = self.clock.monotonic(), True
            self.connections += 1
            if self.connections > 400:
                self.complaints.append("it came back 400 times")
                return
            await getattr(self, f"_{self.kind}")()
            if not self.done:
                lost = all(ref in self.account.known and self.account.known[ref].final for ref in self.refs)
                await asyncio.sleep(LOST_AGAIN if lost else self.chance.uniform(1, 3))

    async def _sse(self) -> None:
        await self._stream(f"{_path(self.refs[0])}/events", "", "text/event-stream")

    async def _ndjson(self) -> None:
        await self._stream(f"{_path(self.refs[0])}/events", "", "application/x-ndjson")

    async def _many(self) -> None:
        query = "&".join(f"task={quote(ref, safe='/')}" for ref in self.refs)
        await self._stream("/v1/events", query, "text/event-stream")

    async def _stream(self, path: str, query: str, accept: str) -> None:
        headers = {"accept": accept}
        if self._cursor is not None and self.chance.random() < 0.8:
            headers["last-event-id"] = self._cursor
        self.account.connected(cursor=headers.get("last-event-id"))
        held = b""
        split = b"\n\n" if accept == "text/event-stream" else b"\n"

        def chunk(data: bytes) -> None:
            nonlocal held
            held += data
            *blocks, held = held.split(split)
            for block in blocks:
                self._block(block, accept)

        response = Response(chunk)
        running = asyncio.ensure_future(
            response.run(self.app, "GET", path, headers, query=query, address=self.address)
        )
        await self._until_gone(running, response.gone)
        if response.status == 204:
            self._first_word()
            self.account.ended("204")
        elif response.status == 404:
            self._first_word(3.5)
            self._all_missing(response)
        elif response.status not in (0, 200):
            self._first_word(3.5)
            if response.status != 502:
                self.complaints.append(f"HTTP {response.status}: {response.body[:200]!r}")
            await asyncio.sleep(10)

    async def _until_gone(self, running: asyncio.Future[None], gone: asyncio.Event) -> None:
        try:
            if self.leaves and self.chance.random() < 0.5:
                await asyncio.wait([running], timeout=self.chance.uniform(1, 60))
                if not running.done():
                    gone.set()
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _block(self, block: bytes, accept: str) -> None:
        if accept != "text/event-stream":
            if not block.strip():
                return
            document = orjson.loads(block)
            self._event(document.get("event") or document.get("type"), document, None)
            return
        fields: dict[bytes, bytes] = {}
        for line in block.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name and not name.startswith(b":"):
                fields[name] = value
        if b"data" not in fields:
            return
        name = fields.get(b"event", b"").decode() or None
        event_id = fields[b"id"].decode() if b"id" in fields else None
        self._event(name, orjson.loads(fields[b"data"]), event_id)
        if event_id is not None:
            self._cursor = event_id

    def _event(self, name: str | None, document: Any, event_id: str | None) -> None:
        self._first_word()
        match name:
            case None | "state":
                self._state(document if name is None else document.get("state", document), event_id)
            case "done":
                self.account.done(document["task"], document["status"])
            case "end":
                if not self.missing.keys() & set(self.refs):
                    self.account.ended("end")
            case "reset":
                self.account.reset()
            case "notice":
                self._notice(document)

    def _state(self, document: Mapping[str, Any], event_id: str | None = None) -> None:
        ref = document["task"]
        known = self.account.known.get(ref)
        shown = dict(document)
        unknown = document["status"] == "unknown" and not str(document["cursor"]).endswith("-0")
        if unknown and known is not None and not known.final:
            # A word that nobody mapped says nothing about the order.
            shown["status"] = known.status
        if event_id is not None and event_id.partition(".")[0] == document["cursor"]:
            event_id = document["cursor"]
        self.account.state(shown, event_id)
        if document["status"] == "lost":
            # No task here is away for longer than a provider may forget it.
            self.complaints.append(f"{ref} is said to be lost: {document['error']}")
        now = self.account.known.get(ref)
        if now is not None and now.final and now.status != "lost" and ref not in self.told:
            self.told[ref] = self.clock.monotonic()
            self.finals[ref] = document

    finals: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def _notice(self, document: Mapping[str, Any]) -> None:
        ref, code = document.get("task"), document["code"]
        if ref is None:
            return
        self.heard.setdefault(ref, set()).add(code)
        if code == "task_not_found":
            self.missing.setdefault(ref, self.clock.monotonic())

    def _all_missing(self, response: Response) -> None:
        if b"task_not_found" not in response.body:
            self.complaints.append(f"HTTP 404 without a code: {response.body[:200]!r}")
        for ref in self.refs:
            self.missing.setdefault(ref, self.clock.monotonic())

    def _first_word(self, allowed: float = 2.2) -> None:
        """Something came: a state or a notice, 2 s after the connection at the latest."""
        if not self._waits:
            return
        self._waits = False
        waited = self.clock.monotonic() - self._opened
        self.firsts.append(waited)
        # Who comes back with a cursor hears nothing until there is news.
        if waited > allowed and self.kind != "longpoll" and self.connections == 1:
            self.complaints.append(f"nothing was heard for {waited:.1f} s")

    async def _socket(self) -> None:
        self.account.connected(cursor=self._cursor)
        socket: WebSocket
        running: asyncio.Future[None]

        def said(text: str) -> None:
            message = orjson.loads(text)
            match message["type"]:
                case "state":
                    self._first_word()
                    self._state(message["state"], message["cursor"])
                    self._cursor = message["cursor"]
                case "done":
                    self.account.done(message["task"], message["status"])
                case "reset":
                    self.account.reset()
                case "notice":
                    self._first_word()
                    self._notice(message)
                case "error":
                    self._first_word()
                    if message["code"] == "task_not_found":
                        self._notice(message | {"code": "task_not_found"})
                    else:
                        self.complaints.append(f"{message}")
            if self.done or self._all_final():
                socket.leave()

        socket = WebSocket(said)
        ask = {"type": "subscribe", "id": 1, "tasks": list(self.refs), "after": self._cursor}
        socket.say(orjson.dumps(ask).decode())
        running = asyncio.ensure_future(socket.run(self.app, "/v1/ws", self.address))
        try:
            if self.leaves and self.chance.random() < 0.5:
                await asyncio.wait([running], timeout=self.chance.uniform(1, 60))
                socket.leave()
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _all_final(self) -> bool:
        known = self.account.known
        return all(ref in self.missing or (ref in known and known[ref].final) for ref in self.refs)

    async def _longpoll(self) -> None:
        self.account.connected(cursor=self._etag)
        headers = {"prefer": "wait=25"}
        if self._etag is not None:
            headers["if-none-match"] = self._etag
        response = Response()
        running = asyncio.ensure_future(
            response.run(self.app, "GET", _path(self.refs[0]), headers, address=self.address)
        )
        await self._until_gone(running, response.gone)
        if response.status == 200 and response.body:
            self._etag = response.headers["etag"]
            self._event(None, orjson.loads(response.body), None)
        elif response.status == 404:
            self._all_missing(response)
        elif response.status not in (0, 304, 200, 502, 503, 504):
            self.complaints.append(f"HTTP {response.status}: {response.body[:200]!r}")


def make_viewer(
    judge: Judge,
    kind: str,
    refs: Sequence[str],
    app: App,
    clock: LoopClock,
    chance: random.Random,
    number: int,
) -> Viewer:
    """A new client that has not asked yet."""
    repeats = kind in {"many", "socket", "longpoll"}
    account = judge.account(f"{kind}-{number}", refs, repeats=repeats)
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return Viewer(kind, account, clock, app, chance, address, leaves=chance.random() < 0.3)


def _path(ref: str) -> str:
    upstream, _, task_id = ref.partition("/")
    return f"/v1/tasks/{upstream}/{quote(task_id, safe='')}"

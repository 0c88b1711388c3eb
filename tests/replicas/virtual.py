"""Three whole bridges on one engine in one event loop without waiting: any number of seeds, each repeatable.

Real are pool, watches, hub, deliveries and the replica; the engine is the one in memory, the provider and the
viewers are in this process. What a seed found it finds again.

    python -m tests.replicas.virtual 1-100
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import random
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from bridge.app.bridge import Bridge
from bridge.config.settings import Settings
from bridge.dialects.base import HttpResponse, Request
from bridge.errors import EngineUnavailable
from tests.chaos.judge import Account, Ending
from tests.fakes.replicas import StoppableClock, World
from tests.fakes.virtual import LoopClock, run
from tests.replicas import polls
from tests.replicas.judge import Disturbance, SharedJudge
from tests.replicas.story import HEALS, MAX_SECONDS, MIN_SECONDS
from tests.truth.asgi import Response, WebSocket

LEASE = 3.0
LATENCY = 0.001
SILENCE = 5.0
FAILOVER = LEASE + 1.0
"""Seconds after a kill in which others poll its tasks: docs/replicas.md."""
PATIENCE = 40.0
JSON = {"content-type": "application/json"}
REPLICA_ACTS = ("kill", "stop", "rolling", "slow")
ENGINE_ACTS = ("restart", "wipe", "stale", "outage", "silence", "cut one", "lost answers")
UNSYNCED = "lost second"
"""Not by chance in every run: the seeds that found something would no longer find it."""

HISTORY_CHANGES = frozenset({"restart", "wipe", "stale", UNSYNCED})


@dataclass(frozen=True)
class Life:
    """How a task lives at the provider."""

    born: float
    queue: float
    runs: float
    outcome: str

    @property
    def ends(self) -> float:
        return self.born + self.queue + self.runs

    def document(self, task_id: str, now: float) -> dict[str, Any]:
        """What the provider answers."""
        status, progress = "queued", 0
        if now >= self.ends:
            status, progress = self.outcome, 100 if self.outcome == "completed" else 0
        elif now >= self.born + self.queue:
            status, progress = "processing", int((now - self.born - self.queue) / self.runs * 100)
        result = {"videos": [{"url": [_url(task_id)]}]} if status == "completed" else None
        more = {"result": result} if result else {}
        return {"task_id": task_id, "status": status, "progress": progress, "model": "wan", **more}


class Session:
    """What a bridge has for a connection to the provider."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def base_of(self, request: Request) -> str:
        return request.base_url or "https://provider.example"

    async def ask(
        self, request: Request, timeout_seconds: float | None = None, *, known: bytes | None = None
    ) -> HttpResponse:
        """A status call."""
        process, stage = self._process, self._process.stage
        task_id = request.path.rpartition("/")[2]
        stage.polls.append((stage.clock.monotonic(), task_id))
        stage.note(f"{process.name} polls {task_id} ")
        await asyncio.sleep(stage.answer_seconds / 2)
        life = stage.lives.get(task_id)
        await asyncio.sleep(stage.answer_seconds / 2)
        await process.running.wait()
        if life is None:
            return HttpResponse(404, JSON, b'{"error": {"code": "task_not_found"}}')
        return HttpResponse(200, JSON, orjson.dumps(life.document(task_id, stage.clock.monotonic())))

    def hide(self, data: bytes) -> bytes:
        return data

    def acting_as(self, credential: Any, *, secrets: Any = ()) -> Session:
        del credential, secrets
        return self

    async def close(self) -> None:
        """There is nothing to close."""


class Process:
    """One run of one bridge: from its start to its end.

    Attributes:
        cut, silent, delay, loses: What its way to the engine suffers.
        running: Not set while it is stopped.
        died: Set once it was killed, or has ended.
    """

    def __init__(self, name: str, stage: Stage) -> None:
        self.name = name
        self.stage = stage
        self.cut = self.silent = False
        self.delay = 0.0
        self.loses: set[str] = set()
        self.running = asyncio.Event()
        self.running.set()
        self.died = asyncio.Event()
        self.ready = False
        self.bridge = Bridge(_settings(stage), clock=StoppableClock(stage.clock, self.running))
        self.bridge.connect = self._connect  # type: ignore[attr-defined]
        self.failure: BaseException | None = None
        self._up = asyncio.Event()
        self._end = asyncio.Event()
        self._task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        try:
            async with self.bridge.running():
                parts: Any = self.bridge._parts
                rng = random.Random(f"{self.stage.seed}/{self.name}/{self.stage.clock.monotonic()}").random
                parts.pool._random = parts.subscriptions.random = rng
                for upstream in parts.pool.upstreams.values():
                    await upstream.session.close()
                    upstream.session = Session(self)
                self.ready = True
                self._up.set()
                await self._end.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.ready = False
            self._up.set()
            self.died.set()

    @property
    def reached(self) -> bool:
        """Whether `/readyz` is true: it has reached the engine once."""
        parts: Any = self.bridge._parts
        return parts is not None and parts.journal.usable

    async def started(self) -> Process:
        """Wait until it takes traffic."""
        await self._up.wait()
        return self

    async def kill(self) -> None:
        """As SIGKILL does: nothing is said to anybody."""
        self.ready, self.cut = False, True
        self.running.set()
        self.died.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def drain(self) -> None:
        """As SIGTERM does."""
        self.ready = False
        await self.bridge.drain()
        self._end.set()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _connect(self) -> Any:
        await self.running.wait()
        await asyncio.sleep(self.stage.latency)
        if self.cut or self.stage.world.away:
            raise EngineUnavailable("connection refused")
        return Line(self)


class Line:
    """A connection to the engine: every call, through what its process suffers."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._engine = process.stage.world.engine
        self._open = True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        process = self._process

        async def call(*args: Any, **options: Any) -> Any:
            await self._travel()
            answer = await method(*args, **options)
            if name in process.loses:
                process.loses.discard(name)
                raise EngineUnavailable("connection reset")
            await self._travel()
            return answer

        return call

    async def _travel(self) -> None:
        process = self._process
        await process.running.wait()
        await asyncio.sleep(process.stage.latency + process.delay)
        await process.running.wait()
        while process.silent:  # noqa: ASYNC110 - as a hole in the network
            await asyncio.sleep(0.25)
        if process.cut or process.stage.world.away or not self._open:
            raise EngineUnavailable("connection reset")

    async def close(self) -> None:
        """Of this connection only."""
        self._open = False


def _settings(stage: Stage) -> Settings:
    upstream: dict[str, Any] = {
        "base_url": "https://provider.example",
        "preset": "qingbo",
        "api_key": "test:key",
        "poll_min_seconds": stage.min_seconds,
        "poll_max_seconds": stage.min_seconds * MAX_SECONDS / MIN_SECONDS,
        "requests_per_second": stage.rate,
    }
    return Settings.model_validate(
        {
            "engine": "redis://127.0.0.1:1",
            "engine_lease_seconds": LEASE,
            "upstreams": {"qingbo": upstream},
            "linger_seconds": stage.linger,
            "drain_seconds": 1,
        }
    )


def _url(task_id: str) -> str:
    return f"https://cdn.example/{task_id}.mp4"


@dataclass
class Stage:
    """Everything of one run.

    Args:
        overlap: How often two acts meet.
        linger, min_seconds, rate: Settings of every bridge.
        latency: Seconds each way to the engine.
        answer_seconds: How long the provider takes.

    Attributes:
        trace: What happened, for whoever reduces a fault.
    """

    clock: LoopClock
    seed: int
    seconds: float = 40.0
    acts: tuple[str, ...] = (*REPLICA_ACTS, *ENGINE_ACTS)
    overlap: float = 0.25
    linger: float = 5.0
    min_seconds: float = MIN_SECONDS
    rate: float | None = None
    latency: float = LATENCY
    answer_seconds: float = 0.02
    judge: SharedJudge = field(default_factory=SharedJudge)
    lives: dict[str, Life] = field(default_factory=dict)
    polls: list[tuple[float, str]] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    viewers: list[asyncio.Task[None]] = field(default_factory=list)
    _meanwhile: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.world = World(self.clock)
        random.seed(self.seed)  # the jitter of limiters and schedules

    def note(self, what: str) -> None:
        """Remember what happened."""
        self.trace.append(f"{self.clock.monotonic():9.3f} {what}")

    async def play(self) -> list[str]:
        """Run to the end; everything that was wrong."""
        for number in range(3):
            self.processes.append(await Process(f"b{number}", self).started())
        arriving = asyncio.create_task(self._arrive_for_ever())
        try:
            end = self.clock.monotonic() + self.seconds
            while self.clock.monotonic() < end:
                await asyncio.sleep(self.chance.uniform(0.5, 4.0))
                acts = [self._act(self.chance.choice(self.acts))]
                if self.chance.random() < self.overlap:
                    acts.append(self._later(self.chance.choice(self.acts)))
                await asyncio.gather(*acts)
            arriving.cancel()
            await self._finish()
        finally:
            arriving.cancel()
            for task in self.viewers:
                task.cancel()
            await asyncio.gather(arriving, *self.viewers, return_exceptions=True)
            for process in self.processes:
                await process.kill()
        return self._verdict()

    async def _later(self, name: str) -> None:
        await asyncio.sleep(self.chance.uniform(0.1, 3.0))
        await self._act(name)

    async def _finish(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*self.viewers, return_exceptions=True)
        for account in self.judge.accounts:
            if not account.over:
                held = {ref: account.known.get(ref) for ref in account.refs}
                self.judge.find(f"{account.name} still waits for {held}")

    def _verdict(self) -> list[str]:
        truth = {
            f"qingbo/{task_id}": Ending(life.outcome, _url(task_id) if life.outcome == "completed" else None)
            for task_id, life in self.lives.items()
        }
        found = [*self.faults, *self.judge.verdict(truth)]
        pairs = polls.doubled(self.polls, self.min_seconds)
        found += [str(pair) for pair in pairs if not self.judge.disturbed(pair.at - pair.gap, pair.at)]
        found += [f"{one.name} failed: {one.failure!r}" for one in self.processes if one.failure is not None]
        return found

    def background(self, doing: Coroutine[Any, Any, None]) -> None:
        """Do it meanwhile."""
        task = asyncio.create_task(doing)
        self._meanwhile.add(task)
        task.add_done_callback(self._meanwhile.discard)

    # Tasks and viewers

    async def _arrive_for_ever(self) -> None:
        while True:
            chance, now = self.chance, self.clock.monotonic()
            task_id = f"t{len(self.lives)}"
            outcome = "failed" if chance.random() < 0.2 else "completed"
            self.lives[task_id] = Life(now, chance.uniform(0, 1.5), chance.uniform(1, 15), outcome)
            for _ in range(chance.randint(1, 3)):
                self._watch(task_id)
            await asyncio.sleep(chance.expovariate(0.8))

    def _watch(self, task_id: str) -> None:
        chance = self.chance
        recent = list(self.lives)[-6:]
        some = list(dict.fromkeys([task_id, *chance.sample(recent, min(len(recent), 3))]))
        kind = chance.choice(("sse", "sse", "many", "socket", "poll"))
        if kind == "many" and len(some) < 2:
            kind = "sse"
        refs = [f"qingbo/{one}" for one in (some if kind in {"many", "socket"} else [task_id])]
        number = len(self.judge.accounts)
        account = self.judge.account(f"{kind}-{number}", refs, repeats=kind in {"many", "socket", "poll"})
        viewer = Viewer(self, kind, account, random.Random(f"{self.seed}/{number}"))
        self.viewers.append(asyncio.create_task(viewer.run()))

    # Acts

    async def _act(self, name: str) -> None:
        self.note(f"begin {name}")
        if name in HISTORY_CHANGES:
            self.judge.resets_expected = True
        began = self.clock.monotonic()
        disturbance = Disturbance(began, float("inf"))
        if name not in REPLICA_ACTS:
            self.judge.disturbances.append(disturbance)
        await _ACTS[name](self)
        if name not in REPLICA_ACTS:
            self.judge.disturbances.remove(disturbance)
            self.judge.disturbances.append(Disturbance(began, self.clock.monotonic() + HEALS))
        self.note(f"end {name}")

    def alive(self) -> list[Process]:
        """The processes that take traffic."""
        return [one for one in self.processes if one.ready and one.reached]

    def _one(self) -> Process | None:
        alive = [one for one in self.alive() if one.running.is_set()]
        return self.chance.choice(alive) if alive else None

    async def _kill(self) -> None:
        process = self._one()
        if process is None:
            return
        self.judge.kills.append(self.clock.monotonic())
        self.note(f"kill {process.name}")
        await process.kill()
        await asyncio.sleep(self.chance.uniform(0, 6))
        await self._start_again(process)

    async def _start_again(self, process: Process) -> None:
        place = self.processes.index(process)
        made = Process(process.name, self)
        self.processes[place] = made
        await made.started()
        self.note(f"started {made.name}")

    async def _stop(self) -> None:
        process = self._one()
        if process is None:
            return
        self.note(f"stop {process.name}")
        process.running.clear()
        await asyncio.sleep(self.chance.uniform(0.5, 7))
        process.running.set()
        self.note(f"go on {process.name}")

    async def _rolling(self) -> None:
        for process in self.chance.sample(self.alive(), len(self.alive())):
            if not process.ready or not process.running.is_set():
                continue
            self.note(f"drain {process.name}")
            await process.drain()
            await self._start_again(process)

    async def _slow(self) -> None:
        delay = self.chance.choice((0.05, 0.2))
        for process in self.processes:
            process.delay = delay
        await asyncio.sleep(self.chance.uniform(2, 6))
        for process in self.processes:
            process.delay = 0.0

    async def _restart(self) -> None:
        self.world.away = True
        self.world.restart()
        await asyncio.sleep(self.chance.uniform(0.1, 1.5))
        self.world.away = False

    async def _wipe(self) -> None:
        self.world.wipe()
        await asyncio.sleep(0)

    async def _stale(self) -> None:
        older = copy.deepcopy(self.world.engine.store)
        await asyncio.sleep(self.chance.uniform(0.2, 2.5))
        older.log.epoch = ""  # its history is another one, as an engine says that cannot be sure
        self.world._replace(older)

    async def _lose_second(self) -> None:
        """It is killed, and starts without what it had not written to its disk."""
        older = copy.deepcopy(self.world.engine.store)
        await asyncio.sleep(self.chance.uniform(0.0, 1.0))
        older.log.epoch = ""
        self.world.away = True
        self.world._replace(older)
        await asyncio.sleep(self.chance.uniform(0.1, 1.5))
        self.world.away = False

    async def _outage(self) -> None:
        self.world.away = True
        await asyncio.sleep(self.chance.uniform(0.5, 9))
        self.world.away = False

    async def _silence(self) -> None:
        processes = list(self.processes)
        for process in processes:
            process.silent = True
        await asyncio.sleep(self.chance.uniform(0.5, 6))
        for process in processes:
            process.silent = False

    async def _cut_one(self) -> None:
        process = self._one()
        if process is None:
            return
        self.note(f"cut {process.name}")
        process.cut = True
        await asyncio.sleep(self.chance.uniform(0.5, 8))
        process.cut = not process.ready

    async def _lost_answers(self) -> None:
        for process in self.alive():
            process.loses = set(
                self.chance.sample(("apply", "want", "session", "read", "claim", "release"), 3)
            )
        await asyncio.sleep(1.0)


_ACTS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "kill": Stage._kill,
    "stop": Stage._stop,
    "rolling": Stage._rolling,
    "slow": Stage._slow,
    "restart": Stage._restart,
    "wipe": Stage._wipe,
    "stale": Stage._stale,
    UNSYNCED: Stage._lose_second,
    "outage": Stage._outage,
    "silence": Stage._silence,
    "cut one": Stage._cut_one,
    "lost answers": Stage._lost_answers,
}


class Viewer:
    """One client that moves."""

    def __init__(self, stage: Stage, kind: str, account: Account, chance: random.Random) -> None:
        self._stage = stage
        self._kind = kind
        self._account = account
        self._chance = chance
        self._cursor: str | None = None

    async def run(self) -> None:
        """Watch until everything has ended."""
        while not self._account.over:
            alive = self._stage.alive()
            if alive:
                process = self._chance.choice(alive)
                async with self._connected(process) as leaves:
                    await getattr(self, f"_{self._kind}")(process, leaves)
            if not self._account.over:
                await asyncio.sleep(self._chance.uniform(0.02, 0.2))

    @asynccontextmanager
    async def _connected(self, process: Process) -> AsyncIterator[asyncio.Event]:
        """A connection: left after some seconds, or when the process dies or hangs."""
        leaves = asyncio.Event()

        async def end() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(1, 8)):
                    await process.died.wait()
            leaves.set()

        ending = asyncio.create_task(end())
        self._account.connected(cursor=self._cursor)
        self._stage.note(f"{self._account.name} comes to {process.name} with {self._cursor}")
        try:
            yield leaves
        finally:
            leaves.set()  # what a stopped process wrote arrives at nobody
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    async def _call(
        self, process: Process, leaves: asyncio.Event, path: str, query: str, headers: dict[str, str]
    ) -> Response:
        held = b""

        def read(data: bytes) -> None:
            nonlocal held
            held += data
            *blocks, held = held.split(b"\n\n")
            for block in blocks:
                self._block(block)

        chunk = self._arriving(process, leaves, read)
        streams = headers["accept"] == "text/event-stream"
        response = Response(chunk if streams else None)
        calling = asyncio.create_task(response.run(process.bridge, "GET", path, headers, query=query))
        leaving = asyncio.create_task(leaves.wait())
        try:
            await asyncio.wait([calling, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                response.gone.set()
                if process.died.is_set():
                    calling.cancel()
                await asyncio.wait([calling], timeout=SILENCE)
        finally:
            for task in (calling, leaving):
                task.cancel()
            ends = await asyncio.gather(calling, leaving, return_exceptions=True)
            if isinstance(ends[0], Exception) and not process.died.is_set():
                self._account.judge.find(f"{self._account.name}: {process.name} raised {ends[0]!r}")
        return response

    def _arriving(
        self, process: Process, leaves: asyncio.Event, read: Callable[[Any], None]
    ) -> Callable[[Any], None]:
        """What is read arrives when the process runs, in order; nothing once this client has left."""
        late: list[Any] = []

        async def deliver() -> None:
            await process.running.wait()
            while late and not leaves.is_set():
                read(late.pop(0))

        def arrive(data: Any) -> None:
            if leaves.is_set():
                return
            if late or not process.running.is_set():
                late.append(data)
                if len(late) == 1:
                    self._stage.background(deliver())
            else:
                read(data)

        return arrive

    async def _sse(self, process: Process, leaves: asyncio.Event) -> None:
        await self._stream(process, leaves, f"{_path(self._account.refs[0])}/events", "")

    async def _many(self, process: Process, leaves: asyncio.Event) -> None:
        query = "&".join(f"task={quote(ref, safe='/')}" for ref in self._account.refs)
        await self._stream(process, leaves, "/v1/events", query)

    async def _stream(self, process: Process, leaves: asyncio.Event, path: str, query: str) -> None:
        headers = {"accept": "text/event-stream"}
        if self._cursor is not None:
            headers["last-event-id"] = self._cursor
        response = await self._call(process, leaves, path, query, headers)
        if response.status == 204:
            self._account.ended("204")
        elif response.status not in (0, 200) and not process.died.is_set():
            said = response.body[:200]
            self._account.judge.find(f"{self._account.name}: HTTP {response.status} to a stream: {said!r}")

    async def _poll(self, process: Process, leaves: asyncio.Event) -> None:
        headers = {"accept": "*/*", "prefer": "wait=5"}
        if self._cursor is not None:
            headers["if-none-match"] = self._cursor
        response = await self._call(process, leaves, _path(self._account.refs[0]), "", headers)
        if response.status == 200 and response.body and not leaves.is_set():
            document = orjson.loads(response.body)
            self._cursor = response.headers["etag"]
            self._state(document, None)
            if self._account.complete:
                self._account.ended("long poll")
        elif response.status not in (0, 200, 304, 502, 503, 504) and not process.died.is_set():
            said = response.body[:200]
            self._account.judge.find(f"{self._account.name}: HTTP {response.status}: {said!r}")

    async def _socket(self, process: Process, leaves: asyncio.Event) -> None:
        socket: WebSocket

        def read(text: str) -> None:
            if self._account.over:
                return  # it has left
            message = orjson.loads(text)
            match message["type"]:
                case "state":
                    one = len(self._account.refs) == 1
                    self._state(message["state"], message["cursor"] if one else None)
                    self._cursor = message["cursor"]
                case "done":
                    self._account.done(message["task"], message["status"])
                case "reset":
                    self._account.reset()
                case "error":
                    self._account.judge.find(f"{self._account.name}: {message}")
            if self._account.complete and not self._account.over:
                self._account.ended("websocket")
                socket.leave()

        socket = WebSocket(self._arriving(process, leaves, read))
        ask = {"type": "subscribe", "id": 1, "tasks": list(self._account.refs), "after": self._cursor}
        socket.say(orjson.dumps(ask).decode())
        serving = asyncio.create_task(socket.run(process.bridge, "/v1/ws", "127.0.0.1"))
        leaving = asyncio.create_task(leaves.wait())
        try:
            await asyncio.wait([serving, leaving], return_when=asyncio.FIRST_COMPLETED)
            socket.leave()
            await asyncio.wait([serving], timeout=SILENCE)
        finally:
            for task in (serving, leaving):
                task.cancel()
            await asyncio.gather(serving, leaving, return_exceptions=True)

    def _block(self, block: bytes) -> None:
        fields: dict[bytes, bytes] = {}
        for line in block.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name and not name.startswith(b":"):
                fields[name] = value
        if b"data" not in fields:
            return
        event_id = fields[b"id"].decode() if b"id" in fields else None
        document = orjson.loads(fields[b"data"])
        match fields.get(b"event"):
            case None:
                self._state(document, event_id)
            case b"done":
                self._account.done(document["task"], document["status"])
            case b"end":
                self._account.ended("end")
            case b"reset":
                self._stage.note(f"{self._account.name} is told reset")
                self._account.reset()
            case b"notice":
                self._account.judge.counts[f"notice {document['code']}"] += 1
        if event_id is not None:
            self._cursor = event_id

    def _state(self, document: dict[str, Any], event_id: str | None) -> None:
        told = f"{document['task']} {document['status']} {document['progress']} {document['cursor']}"
        self._stage.note(f"{self._account.name} sees {told} id {event_id}")
        self._account.state(document, event_id)


def _path(ref: str) -> str:
    upstream, _, task_id = ref.partition("/")
    return f"/v1/tasks/{upstream}/{quote(task_id, safe='')}"


def play(seed: int, **options: Any) -> Stage:
    """One seed, to its verdict, which is in `faults`."""
    stages: list[Stage] = []

    async def playing(clock: LoopClock) -> None:
        stage = Stage(clock, seed, **options)
        stages.append(stage)
        stage.faults = await stage.play()

    names, real = random.Random(seed), secrets.token_hex
    secrets.token_hex = lambda size=None: names.randbytes(size or 8).hex()
    try:
        run(playing)
    finally:
        secrets.token_hex = real
    return stages[0]


def main(words: list[str]) -> int:
    """Seeds given as `3` or `1-100`; the exit code."""
    logging.disable(logging.CRITICAL)
    wrong = 0
    for word in words:
        low, _, high = word.partition("-")
        for seed in range(int(low), int(high or low) + 1):
            stage = play(seed)
            counts = dict(stage.judge.counts)
            sys.stdout.write(
                f"seed {seed}: {len(stage.faults)} faults, {stage.judge.states} states, {counts}\n"
            )
            for fault in stage.faults[:5]:
                sys.stdout.write(f"  FAULT {fault}\n")
            wrong += bool(stage.faults)
            sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets must be the same each time
        os.execve(
            sys.executable,
            [sys.executable, "-m", __spec__.name, *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    sys.exit(main(sys.argv[1:]))

"""Submits with an `Idempotency-Key` over a ledger that fails and processes that die: one create at most.

Two processes share one store. Clients submit, are cancelled, and repeat at either; calls of the ledger are
late or fail, before or after they were carried out; a process is killed, or loses its session, in the middle.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.engine.base import Operation, Put
from bridge.engine.embedded import steady_microseconds
from bridge.engine.store import Store
from bridge.errors import (
    BridgeError,
    EngineUnavailable,
    IdempotencyMismatch,
    LimitExceeded,
    SubmitInFlight,
    TaskMayExist,
    UpstreamBusy,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.telemetry.request_context import bind, current_request
from bridge.watchers.submitter import Submitter
from bridge.web.idempotency import IdempotentSubmits, KeyedSubmit, Replayed, SubmitKey
from bridge.web.kept_answers import KeptAnswer
from tests.fakes.virtual import LoopClock, VirtualLoop

UPSTREAM: Any = SimpleNamespace(name="up", account=OWN_ACCOUNT)
NOTHING = (UpstreamRefused, UpstreamBusy, UpstreamUnreachable, LimitExceeded)


@dataclass
class SharedStore:
    """What every process reaches through its own `FailingLedger`."""

    clock: LoopClock
    rng: random.Random
    faults: float = 0.0
    store: Store = field(default_factory=Store)

    def __post_init__(self) -> None:
        self.now = steady_microseconds(self.clock)


class FailingLedger:
    """The ledger of one process."""

    def __init__(self, shared: SharedStore) -> None:
        self.shared = shared
        self.dead = False
        self.away = False
        self.open()

    def open(self) -> None:
        """A session of its own; what an earlier one began is of a dead session."""
        self.session = f"s{self.shared.rng.random()}"
        now = self.shared.now()
        self.shared.store.session(
            self.session, ttl=math.inf, known_head=0, new_epoch="e", about=b"", opens=True, now=now
        )

    def lose_session(self) -> None:
        self.shared.store.crash(self.session, now=self.shared.now())
        self.open()

    async def begin(self, name: str, digest: bytes, *, seconds: float) -> Operation:
        return await self._call(
            lambda now: self.shared.store.begin(self.session, name, digest, seconds=seconds, now=now)
        )

    async def finish(self, name: str, answer: bytes | None) -> bool:
        return await self._call(lambda now: self.shared.store.finish(self.session, name, answer, now=now))

    async def get(self, names: list[str]) -> list[tuple[int, bytes | None]]:
        return await self._call(lambda now: self.shared.store.get(names, now=now))

    async def put(self, name: str, value: bytes, *, expect: int | None, seconds: float) -> Put:
        return await self._call(
            lambda now: self.shared.store.put(name, value, expect=expect, seconds=seconds, now=now)
        )

    async def _call(self, ask: Callable[[int], Any]) -> Any:
        rng, clock = self.shared.rng, self.shared.clock
        await clock.sleep(rng.choice((0, 0, 0.01, 0.2)))
        if self.dead:
            await asyncio.get_running_loop().create_future()
        if self.away or rng.random() < self.shared.faults:
            raise EngineUnavailable("away")
        answer = ask(self.shared.now())
        await clock.sleep(rng.choice((0, 0, 0.01, 0.2)))
        if self.dead:
            await asyncio.get_running_loop().create_future()
        if rng.random() < self.shared.faults:
            raise EngineUnavailable("the answer is lost")
        return answer


class Process:
    """One bridge, as far as submits with a key are concerned."""

    def __init__(self, shared: SharedStore) -> None:
        self.ledger = FailingLedger(shared)
        self.submitter = Submitter(None, None)  # type: ignore[arg-type] # what it watches is not of interest
        self.once = IdempotentSubmits(
            SimpleNamespace(clock=shared.clock, ledger=self.ledger, submitter=self.submitter)  # type: ignore[arg-type]
        )

    def kill(self) -> None:
        """As SIGKILL: nothing it does from here on is seen by anyone."""
        self.ledger.dead = True
        self.ledger.shared.store.crash(self.ledger.session, now=self.ledger.shared.now())


class Story:
    """Random clients, faults and ends."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.clock = LoopClock(self.loop)
        self.shared = SharedStore(self.clock, self.rng, self.rng.choice((0.0, 0.1, 0.3)))
        self.processes = [Process(self.shared) for _ in range(2)]
        self.creates: Counter[SubmitKey] = Counter()
        self.answers: dict[SubmitKey, set[str]] = {}
        self.has_own_id = self.rng.random() < 0.3
        self.outcomes = Counter[str]()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        # Two requests for each key: the second one is for something else.
        keys = [SubmitKey(f"submit:c:{n}", bytes([m])) for n in range(3) for m in (0, 0, 0, 1)]
        clients = [asyncio.ensure_future(self._client(self.rng.choice(keys))) for _ in range(12)]
        clients.append(asyncio.ensure_future(self._misfortunes()))
        await asyncio.wait(clients)
        for client in clients:
            if not client.cancelled():
                client.result()
        for process in self.processes:
            for task in [*process.submitter._running, *process.submitter._background]:
                task.cancel()
        by_name = Counter[str]()
        for key, number in self.creates.items():
            by_name[key.name] += number
        assert max(by_name.values(), default=0) <= 1, self.creates

    async def _misfortunes(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await self.clock.sleep(self.rng.random())
            place = self.rng.randrange(2)
            process = self.processes[place]
            what = self.rng.choice(("kill", "session", "away", "stop"))
            self.outcomes[what] += 1
            if what == "kill":
                process.kill()
                self.processes[place] = Process(self.shared)
            elif what == "session":
                process.ledger.lose_session()
            elif what == "stop":
                for task in [*process.submitter._running, *process.submitter._background]:
                    task.cancel()
            else:
                process.ledger.away = True
                await self.clock.sleep(self.rng.random())
                process.ledger.away = False

    async def _client(self, key: SubmitKey) -> None:
        for _ in range(self.rng.randrange(1, 6)):
            await self.clock.sleep(self.rng.random() * 2)
            timeout = self.rng.choice((0.01, 0.1, 0.5, 5.0, 5.0))
            process = self.rng.choice(self.processes)
            asking = asyncio.ensure_future(self._submit(process, key))
            await asyncio.wait([asking], timeout=timeout)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                self._judge(key, await asking)

    async def _submit(self, process: Process, key: SubmitKey) -> KeptAnswer | BridgeError:
        bind([])
        submit = KeyedSubmit(
            key,
            UPSTREAM,
            admit=self._admit,
            carry_out=lambda: self._create(key),
            answer_of=lambda created: created,
            find=lambda: self._find(key),
        )
        try:
            done = await process.once.run(submit)
        except BridgeError as error:
            return error
        return done.answer if isinstance(done, Replayed) else done

    def _judge(self, key: SubmitKey, answer: KeptAnswer | BridgeError) -> None:
        self.outcomes[type(answer).__name__] += 1
        if isinstance(answer, KeptAnswer):
            assert answer.task is not None
            assert answer.task.task_id == _task(key).task_id
            if answer.body is not None:
                assert answer.body == b"of " + key.digest
            assert self.creates[key] == 1
        else:
            expected = (EngineUnavailable, SubmitInFlight, IdempotencyMismatch, TaskMayExist)
            sent = (UpstreamTimeout, UpstreamUnavailable)
            assert isinstance(answer, (*expected, *sent, *NOTHING)) or answer.code == "journal_unavailable"

    def _admit(self) -> None:
        if self.rng.random() < 0.1:
            raise LimitExceeded

    async def _create(self, key: SubmitKey) -> KeptAnswer:
        await self.clock.sleep(self.rng.random() * 0.1)
        outcome = self.rng.choice(("created", "created", "refused", "busy", "unreachable", "lost", "failed"))
        if outcome == "unreachable":
            raise UpstreamUnreachable
        context = current_request()
        assert context is not None
        context.create_sent = True
        await self.clock.sleep(self.rng.random() * 0.1)
        if outcome in {"created", "lost"}:
            self.creates[key] += 1
        await self.clock.sleep(self.rng.random())
        errors: dict[str, BridgeError] = {
            "refused": UpstreamRefused(provider_status=400),
            "busy": UpstreamBusy(provider_status=429),
            "lost": UpstreamTimeout(),
            "failed": UpstreamUnavailable(provider_status=500),
        }
        if outcome in errors:
            raise errors[outcome]
        return KeptAnswer(status=201, body=b"of " + key.digest, task=_task(key))

    async def _find(self, key: SubmitKey) -> TaskKey | None:
        await self.clock.sleep(self.rng.random() * 0.1)
        return _task(key) if self.has_own_id and self.creates[key] else None


def _task(key: SubmitKey) -> TaskKey:
    return TaskKey("up", f"{key.name}-{key.digest.hex()}")


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_key_creates_two_tasks(seed: int) -> None:
    Story(seed).run()


@pytest.mark.extended
def test_no_key_creates_two_tasks_in_many_stories() -> None:
    seen = Counter[str]()
    for seed in range(1500):
        story = Story(seed)
        story.run()
        seen += story.outcomes
    assert {"KeptAnswer", "TaskMayExist", "SubmitInFlight", "IdempotencyMismatch", "kill", "session"} <= set(
        seen
    )


# One that is cancelled at every place where it waits


class First(random.Random):
    """Chooses the first of everything."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


class Steady(Story):
    """Everything takes a turn of the loop and succeeds."""

    def __init__(self) -> None:
        super().__init__(0)
        self.shared.faults, self.shared.rng = 0.0, First(0)

    def _admit(self) -> None:
        pass

    async def _create(self, key: SubmitKey) -> KeptAnswer:
        await asyncio.sleep(0)
        context = current_request()
        assert context is not None
        context.create_sent = True
        self.creates[key] += 1
        await asyncio.sleep(0)
        return KeptAnswer(status=201, body=b"of " + key.digest, task=_task(key))


@pytest.mark.parametrize("whose", ["client", "process"])
def test_cancelled_at_any_moment_it_is_sent_once(whose: str) -> None:
    results: set[str] = set()
    for turns in range(40):
        story = Steady()

        async def cancelled(story: Steady = story, turns: int = turns) -> str:
            key, process = SubmitKey("submit:c:k", b"d"), story.processes[0]
            asking = asyncio.ensure_future(story._submit(process, key))
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in [asking] if whose == "client" else list(process.submitter._running):
                task.cancel()
            await asyncio.wait([asking])
            if whose == "process":
                process.kill()
                process = Process(story.shared)
            while isinstance(answer := await story._submit(process, key), SubmitInFlight):
                await story.clock.sleep(1)
            assert story.creates[key] <= 1
            if isinstance(answer, KeptAnswer):
                assert story.creates[key] == 1
            return type(answer).__name__

        with asyncio.Runner(loop_factory=lambda story=story: story.loop) as runner:  # type: ignore[misc]
            results.add(runner.run(cancelled()))
    # A process that ends between the create and its answer leaves a doubt, a client that leaves does not.
    assert results == ({"KeptAnswer"} if whose == "client" else {"KeptAnswer", "TaskMayExist"})

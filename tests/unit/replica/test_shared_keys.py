"""The operator's own key, rejected at one replica: the others know it, in virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bridge.core.rate_limit import KEY_RETRY_SECONDS, CallKind
from bridge.core.task import TaskKey
from bridge.errors import CredentialRefused, UpstreamUnreachable
from bridge.replica.shared import SharedKnowledge
from bridge.sources.poll import PollCache, poll
from bridge.sources.upstream import Upstream, UpstreamState, mark_of_key
from tests.fakes.provider import FakeProvider, make_upstream
from tests.fakes.replicas import House, World
from tests.fakes.virtual import LoopClock, run

KEY = TaskKey("qingbo", "task-1")


class Keyed:
    """A replica that asks a provider with the operator's key."""

    def __init__(self, house: House, provider: FakeProvider) -> None:
        self.house = house
        self.provider = provider
        self.upstream: Upstream = make_upstream(provider, house.clock)  # type: ignore[arg-type] # a clock
        self.upstream.key_mark = mark_of_key("old")
        self.knowledge = SharedKnowledge(house.replica, house.clock, retention_seconds=20)
        self.knowledge.share(self.upstream)

    async def ask(self) -> None:
        """One call with the key, as a create or a cancel would be."""
        async with self.upstream.acquire(CallKind.CONTROL, wait_seconds=0.5):
            await poll(self.upstream, KEY.task_id, PollCache())

    async def answer(self) -> str:
        """What became of one call."""
        try:
            await self.ask()
        except UpstreamUnreachable as error:
            return f"held up: {error}"
        except CredentialRefused:
            return "rejected"
        return "ok"


async def started(world: World, provider: FakeProvider, *names: str) -> list[Keyed]:
    found = []
    for name in names:
        keyed = Keyed(world.house(name), provider)
        found.append(keyed)
        keyed.house.start()
        await world.until(lambda keyed=keyed: keyed.house.replica.connection.up)  # type: ignore[misc]
    return found


def rejecting(provider: FakeProvider, status: int) -> None:
    provider.tasks[KEY.task_id] = {"http": status, "status": "processing", "progress": 1}


def play(story: Any) -> None:
    async def playing(clock: LoopClock) -> None:
        world = World(clock)
        provider = FakeProvider(clock)  # type: ignore[arg-type] # a clock
        await story(world, provider)
        await world.close()

    run(playing)


def test_a_key_rejected_at_one_bridge_is_not_tried_at_the_others() -> None:
    async def story(world: World, provider: FakeProvider) -> None:
        a, b, c = await started(world, provider, "a", "b", "c")
        rejecting(provider, 401)
        assert await a.answer() == "rejected"
        await asyncio.sleep(0.1)
        asked = len(provider.asked)
        for one in (a, b, c):
            assert "rejects" in await one.answer()
            assert one.upstream.health.state is UpstreamState.INTERRUPTED
            assert one.upstream.limiter.held_up_by(world.clock.monotonic()) is not None
        late, *_ = await started(world, provider, "late")
        await asyncio.sleep(0.1)
        assert "rejects" in await late.answer()
        assert len(provider.asked) == asked

    play(story)


def test_a_key_accepted_again_at_one_bridge_is_used_by_all() -> None:
    async def story(world: World, provider: FakeProvider) -> None:
        a, b = await started(world, provider, "a", "b")
        rejecting(provider, 401)
        assert await a.answer() == "rejected"
        await asyncio.sleep(KEY_RETRY_SECONDS + 0.5)
        rejecting(provider, 200)
        assert "rejects" in await b.answer()  # who was told so tries first
        assert await a.answer() == "ok"
        await asyncio.sleep(0.1)
        assert await b.answer() == "ok"
        assert b.upstream.health.state is UpstreamState.VALID

    play(story)


def test_one_bridge_tries_a_rejected_key_and_another_one_if_that_is_gone() -> None:
    async def story(world: World, provider: FakeProvider) -> None:
        a, b, c = await started(world, provider, "a", "b", "c")
        rejecting(provider, 401)
        assert await a.answer() == "rejected"
        for _ in range(3):
            await asyncio.sleep(KEY_RETRY_SECONDS + 0.5)
            asked = len(provider.asked)
            assert [(await one.answer())[:8] for one in (a, b, c)] == ["rejected", "held up:", "held up:"]
            assert len(provider.asked) == asked + 1
        await a.house.kill()
        await asyncio.sleep(KEY_RETRY_SECONDS + 2.5)
        assert await b.answer() == "rejected"

    play(story)


def test_a_new_key_ends_the_rest_of_the_old_one_where_it_is_used() -> None:
    async def story(world: World, provider: FakeProvider) -> None:
        a, b = await started(world, provider, "a", "b")
        rejecting(provider, 401)
        assert await a.answer() == "rejected"
        await asyncio.sleep(0.1)
        rejecting(provider, 200)
        for one in (b, a):
            one.upstream.key_mark = mark_of_key("new")
            one.upstream.replace_key()
            assert await one.answer() == "ok"
        # The old key is rejected once more, by a bridge that has not read the new one: nobody cares.
        (late,) = await started(world, provider, "late")
        rejecting(provider, 401)
        assert "reject" in await late.answer()
        await asyncio.sleep(0.1)
        rejecting(provider, 200)
        assert [await one.answer() for one in (a, b)] == ["ok", "ok"]

    play(story)


def test_what_another_program_wrote_about_a_key_is_not_believed() -> None:
    async def story(world: World, provider: FakeProvider) -> None:
        (a,) = await started(world, provider, "a")
        rejecting(provider, 200)
        fields = {"by": "x", "key": mark_of_key("old"), "rejected": True, "inferred": False}
        for odd in (b"", b"{", b"[]", b"null", b"\xff", *_without_each(fields), *_of_other_types(fields)):
            await world.engine.put("key:qingbo", odd, expect=None, seconds=60, announced=True)
            await asyncio.sleep(0.05)
            assert await a.answer() == "ok"
        told = json.dumps(fields).encode()
        await world.engine.put("key:qingbo", told, expect=None, seconds=60, announced=True)
        await asyncio.sleep(0.05)
        assert "rejects" in await a.answer()

    play(story)


def _without_each(fields: dict[str, Any]) -> list[bytes]:
    return [json.dumps({k: v for k, v in fields.items() if k != name}).encode() for name in fields]


def _of_other_types(fields: dict[str, Any]) -> list[bytes]:
    return [json.dumps(fields | {name: [1]}).encode() for name in fields]


def test_the_mark_of_a_key_does_not_tell_the_key() -> None:
    marks = {mark_of_key(f"sk-{number}") for number in range(1000)}
    assert all(len(mark) == 4 for mark in marks)
    assert len(marks) > 900

"""What replicas learn for one another, in virtual time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from bridge.core.learned import LearnedRuns
from bridge.core.task import TaskKey
from bridge.replica.shared import SharedKnowledge
from bridge.sources.accounts import AccountRegistry
from tests.fakes.replicas import House, World
from tests.fakes.virtual import LoopClock, run

KEY = TaskKey("video", "task-1")


class Sharing:
    """What one replica shares."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.knowledge = SharedKnowledge(house.replica, house.clock, retention_seconds=20)
        self.upstream: Any = SimpleNamespace(name="video", account="-", learned=LearnedRuns())
        self.knowledge.share(self.upstream)
        self.registry = AccountRegistry({}, house.clock, secret=b"secret", ownership_cache_seconds=60)
        self.knowledge.share_refusals(self.registry)

    async def find(self, alias: str = "mine", account: str = "-") -> TaskKey | None:
        return await self.knowledge.find_alias("video", account, alias)


async def started(world: World, *names: str) -> list[Sharing]:
    found = []
    for name in names:
        sharing = Sharing(world.house(name))
        found.append(sharing)
        sharing.house.start()
        await world.until(lambda sharing=sharing: sharing.house.replica.connection.up)  # type: ignore[misc]
    return found


def test_an_alias_saved_at_one_replica_is_found_at_another() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        assert await b.find() is None
        a.knowledge.save_alias("mine", KEY)
        await asyncio.sleep(0.05)
        assert await b.find() == KEY
        assert await b.find("other") is None
        assert await b.find(account="theirs") is None
        await asyncio.sleep(21)
        assert await b.find() is None
        await world.close()

    run(play)


def test_an_alias_saved_while_the_engine_is_away_is_shared_on_its_return() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        world.away = True
        a.knowledge.save_alias("mine", KEY)
        await asyncio.sleep(3)
        assert await b.find() is None
        world.away = False
        await asyncio.sleep(3)
        assert await b.find() == KEY
        await world.close()

    run(play)


def test_another_program_s_alias_is_not_believed() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        a.knowledge.save_alias("mine", KEY)
        await asyncio.sleep(0.05)
        (name,) = [name for name in world.engine.store.documents._documents if name.startswith("alias:")]
        for odd in (b"\xff\xfe", b"../up", b"", b"x" * 5000):
            await world.engine.put(name, odd, expect=None, seconds=60)
            assert await b.find() is None
        await world.close()

    run(play)


def test_a_key_rejected_at_one_replica_is_rejected_at_all_within_100_milliseconds() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b, c = await started(world, "a", "b", "c")
        account = b.registry.register("sk-key")
        c.registry.register("sk-key")
        assert b.registry.accepts("video", account, clock.monotonic())
        a.registry.refuse("video", account)
        shown_at = clock.monotonic()
        await asyncio.sleep(0.1)
        for replica in (b, c):
            assert not replica.registry.accepts("video", account, shown_at)
            assert replica.registry.revoked() == [("video", account)]
        puts = sum(one.house.calls.count("put") for one in (a, b, c))
        assert puts == 1  # what came through the log is not written again
        await world.close()

    run(play)


def test_whether_callbacks_arrive_is_known_at_all_replicas_and_by_later_ones() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        a.upstream.callbacks.come = False
        a.upstream.callbacks.come = False
        await asyncio.sleep(0.1)
        assert b.upstream.callbacks.come is False
        (c,) = await started(world, "c")
        await asyncio.sleep(0.1)
        assert c.upstream.callbacks.come is False
        c.upstream.callbacks.come = True
        await asyncio.sleep(0.1)
        assert a.upstream.callbacks.come is b.upstream.callbacks.come is True
        assert a.house.calls.count("put") == 1
        await world.close()

    run(play)

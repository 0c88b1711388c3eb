"""An engine that is slow is not an engine that is away."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import EngineUnavailable
from tests.fakes.replicas import World
from tests.fakes.virtual import LoopClock, run


def test_each_of_several_answers_in_one_call_may_take_the_timeout() -> None:
    """A way of 200 ms each way: six answers one after the other take longer than two may."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")

        async def several() -> None:
            for _ in range(6):
                await asyncio.sleep(0.4)

        connection = a.replica.connection
        await connection.call("census", lambda _: several())
        assert connection.up
        with pytest.raises(EngineUnavailable):
            await connection.call("apply", lambda _: several())
        await asyncio.sleep(0)
        await world.close()

    run(play)

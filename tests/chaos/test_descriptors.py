"""Out of file descriptors: newcomers are turned away, those inside stay, and it passes."""

from __future__ import annotations

import asyncio
import resource
import sys

import pytest

from tests.chaos.crowd import Crowd
from tests.chaos.site import site, studio
from tests.e2e.raw import request
from tests.harness import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the limit of another process is Linux's"
    ),
]

ROOM = 20  # descriptors that are left when the limit falls
TRIES = 40
ANSWERED_WITHIN = 1.0


@pytest.mark.extended
async def test_newcomers_are_turned_away_those_inside_stay_and_it_recovers() -> None:
    async with studio() as provider, site(provider.url) as bridge:
        (ref,) = await provider.submit([{"queue_seconds": 0, "run_seconds": 100, "outcome": "completed"}])
        path = f"/v1/tasks/{ref}/events"
        with Crowd(bridge.address, path) as crowd:
            async with request(bridge.url, path) as stream:
                await stream.state()
                limit = bridge.descriptors() + ROOM
                resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE, (limit, limit))
                turned_away = 0
                for _ in range(TRIES):
                    turned_away += not await _gets_in(crowd)
                assert len(crowd.sockets) <= ROOM
                assert turned_away >= TRIES - ROOM
                provider.advance(10)
                assert (await stream.state())["progress"] == 10
                busy = bridge.cpu_seconds()
                await asyncio.sleep(1.0)  # time itself is what is looked at: a server must not spin meanwhile
                assert bridge.cpu_seconds() - busy < 0.5
                for one in crowd.sockets[::2]:
                    one.close()
                crowd.sockets = crowd.sockets[1::2]
                async with asyncio.timeout(PATIENCE):
                    while not await _gets_in(crowd):
                        pass
                provider.advance(200)
                assert (await stream.rest())[-1].event == "end"
            crowd.vanish()


async def _gets_in(crowd: Crowd) -> bool:
    try:
        async with asyncio.timeout(ANSWERED_WITHIN):
            await crowd.come(1)
    except (OSError, TimeoutError):
        return False
    return True

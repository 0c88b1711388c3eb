"""The clock on the wall jumps; intervals are measured by another, so nothing stalls and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from bridge.app import Bridge
from bridge.clock import SystemClock
from bridge.config.load import load
from bridge.server.listeners import listen
from bridge.server.server import _config
from tests.chaos.judge import Judge
from tests.chaos.site import KEY, QUICK, studio
from tests.chaos.viewers import Viewers
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

HOUR = 3600.0
PROMPT_SECONDS = 5.0


class SteppingClock(SystemClock):
    """The machine's clocks, but what the wall shows can be set."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def step(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self._ahead += seconds

    def time(self) -> float:
        return super().time() + self._ahead


@asynccontextmanager
async def _serving(base_url: str, journal: Path, clock: SteppingClock) -> AsyncIterator[tuple[str, int]]:
    upstream = {"base_url": base_url, "api_key": KEY, "task_deadline_seconds": 1800} | QUICK
    wishes = {"journal": f"sqlite:{journal}", "keepalive_seconds": 1.0, "upstreams": {"qingbo": upstream}}
    bridge = Bridge(load(None, environment={}, **wishes), clock=clock)
    server = uvicorn.Server(_config(bridge, max_head_bytes=65_536))
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server._serve([listener]))
    try:
        async with asyncio.timeout(PATIENCE):
            while not server.started:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
        yield listener.getsockname()[:2]
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("jump", [-HOUR, HOUR], ids=["back", "ahead"])
async def test_states_flow_on_when_the_clock_jumps_an_hour(tmp_path: Path, jump: float) -> None:
    clock, judge = SteppingClock(), Judge()
    async with studio() as provider, _serving(provider.url, tmp_path / "clock.db", clock) as address:
        lives = [{"queue_seconds": 0, "run_seconds": run, "outcome": "completed"} for run in (1, 10, 20)]
        refs = await provider.submit(lives)
        viewers = Viewers(lambda: address, judge)
        try:
            ended = viewers.sse(refs[0])
            for ref in refs[1:]:
                viewers.sse(ref)
            await viewers.until(lambda: all(one.known for one in judge.accounts), PATIENCE)
            provider.advance(2)
            await viewers.until(lambda: ended.over, PATIENCE)
            clock.step(jump)
            for _ in range(5):
                seen = judge.states
                provider.advance(1)
                await viewers.reach(seen + 2, PROMPT_SECONDS)
            viewers.sse(*refs)  # who comes now finds everything, the one that ended before the jump as well
            provider.advance(60)
            await viewers.all_over(PROMPT_SECONDS)
        finally:
            await viewers.close()
        assert judge.verdict(provider.truth(refs)) == []
        assert judge.counts["notice stale"] == 0

"""SIGTERM under load: whole frames to the last byte, and behind a balancer nobody loses anything."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import orjson
import pytest

from tests.chaos.balancer import balanced
from tests.chaos.judge import Account, Judge
from tests.chaos.site import Studio, site, studio
from tests.chaos.viewers import Viewers
from tests.conftest import missing
from tests.contract.clients.driven import CLIENTS, Driven, driven
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

TASKS, CLIENTS_IN_ALL = 40, 200
EVENTSOURCE = next(client for client in CLIENTS if client.name == "eventsource")
LIVES = [
    {
        "queue_seconds": 0.5,
        "run_seconds": 7 + number / 5,
        "outcome": "failed" if number % 7 == 3 else "completed",
    }
    for number in range(TASKS)
]


async def _steps(provider: Studio, viewers: Viewers, refs: list[str], number: int) -> None:
    for _ in range(number):
        before, moving = viewers.judge.states, len(provider.open(refs))
        provider.advance(1)
        await viewers.reach(before + moving // 2, PATIENCE)


def _arrive(viewers: Viewers, refs: list[str]) -> None:
    for number in range(CLIENTS_IN_ALL):
        start = number % TASKS
        if number % 10 == 7:
            viewers.sse(*refs[start:], *refs[:start])
        elif number % 10 == 3:
            viewers.socket(*(refs + refs)[start : start + 3])
        elif number % 10 == 1:
            viewers.client(*(refs + refs)[start : start + 2])
        else:
            viewers.sse(refs[start])


async def test_with_a_second_instance_behind_a_balancer_everybody_gets_the_end_in_whole_frames(
    tmp_path: Path,
) -> None:
    if EVENTSOURCE.missing is not None:
        missing(EVENTSOURCE.missing)
    judge = Judge(histories=2)
    async with (
        studio() as provider,
        site(provider.url, tmp_path / "first.db", drain_seconds=2.0) as first,
        site(provider.url, tmp_path / "second.db") as second,
        balanced(first, second) as balancer,
    ):
        refs = await provider.submit(LIVES)
        viewers = Viewers(lambda: ("127.0.0.1", balancer.front.port), judge, clean=True)
        url = f"{balancer.front.url}/v1/tasks/{refs[-1]}/events"
        try:
            async with driven(EVENTSOURCE, url, "end") as told:
                await told.until_states(1)
                _arrive(viewers, refs)
                await viewers.until(lambda: all(one.known for one in judge.accounts), PATIENCE)
                await _steps(provider, viewers, refs, 4)
                ending = asyncio.ensure_future(first.bridge.stop())
                await _steps(provider, viewers, refs, 6)
                assert await ending == 0
                await _steps(provider, viewers, refs, 8)
                await viewers.all_over(PATIENCE)
                await told.until_it_stops()
        finally:
            await viewers.close()
        _account(judge.account("npm eventsource", refs[-1:], repeats=True), told)
        assert judge.verdict(provider.truth(refs)) == []
        assert judge.counts["notice closing"] >= CLIENTS_IN_ALL // 2
        assert balancer.chosen is second


def _account(account: Account, told: Driven) -> None:
    """What the library handed over; which connection brought it is not told."""
    for heard in told.heard:
        if heard.is_state:
            account.connected(cursor=None)
            account.state(orjson.loads(heard.data or ""), heard.id)


async def test_a_second_sigterm_under_load_stops_at_once() -> None:
    judge = Judge()
    async with studio() as provider, site(provider.url, drain_seconds=3600.0) as bridge:
        refs = await provider.submit(LIVES)
        viewers = Viewers(lambda: bridge.address, judge)
        try:
            _arrive(viewers, refs)
            await viewers.until(lambda: all(one.known for one in judge.accounts), PATIENCE)
            loop = asyncio.get_running_loop()
            began = loop.time()
            bridge.bridge.process.send_signal(signal.SIGTERM)
            await viewers.until(lambda: judge.counts["notice closing"] > 0, PATIENCE)
            viewers.gate.clear()
            assert await bridge.bridge.stop(signal.SIGTERM) == 0
            assert loop.time() - began < 10.0
        finally:
            await viewers.close()
        assert judge.faults == []

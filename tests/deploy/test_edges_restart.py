"""A bridge behind a proxy is killed, drained and restarted: no client loses a state."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from bridge.client.backoff import Timeouts
from bridge.client.bridge import Bridge
from tests.chaos.judge import Account, Judge
from tests.chaos.site import Site, metric, site, studio
from tests.deploy.edge import FILES, Edge, edge, needs
from tests.deploy.front import stream
from tests.fakes.engines import require
from tests.fakes.redis_engines import RedisMaker
from tests.fakes.redis_servers import RedisServer
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

QUICK = Timeouts(silence=10.0, first_delay=0.05, min_delay=0.02, max_delay=0.3)
AT_ONCE = {
    "caddy": {"lb_try_duration 5s": "lb_try_duration 200ms"}
}  # how long a client waits while no bridge answers
LIFE = {"queue_seconds": 0.5, "run_seconds": 20, "outcome": "completed"}
TASKS = 8
LEASE = 3.0


async def test_while_the_only_bridge_is_away_browsers_are_told_to_come_back_and_lose_nothing(
    tmp_path: Path,
) -> None:
    judge = Judge()
    async with studio() as provider, site(provider.url, tmp_path / "a.db") as bridge:
        refs = await provider.submit([LIFE | {"run_seconds": 8 + number} for number in range(TASKS)])
        path = f"/v1/tasks/{refs[0]}/events"
        async with _edges(tmp_path, bridge.port) as fronts, _viewers(fronts, judge, refs) as watching:
            await _until(lambda: all(one.known for one in judge.accounts), watching)
            cursor = await _cursor(fronts[0], path)
            await bridge.end(signal.SIGKILL)
            for front in fronts:
                for asked in (f"{path}?ticket=SECRET", f"/v1/events?task={refs[0]}"):
                    await _is_told_to_come_back(front, asked)
                async with stream(front, path.removesuffix("/events")) as away:
                    assert away.status in {502, 503}
                assert "SECRET" not in front.log()
            await bridge.start()
            provider.advance(6)
            for front in fronts:
                assert (await _back(front, path, cursor))["progress"] > 0
            provider.advance(60)
            await _until(lambda: all(one.over for one in judge.accounts), watching)
        assert judge.verdict(provider.truth(refs)) == []


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
async def test_one_of_two_that_share_an_engine_ends_and_nobody_loses_anything(
    sig: signal.Signals, tmp_path: Path
) -> None:
    judge = Judge()
    require(RedisMaker("valkey"))
    with RedisServer("valkey") as server:
        shared = {"engine": server.url, "engine_lease_seconds": LEASE, "drain_seconds": 1.0}
        async with (
            studio() as provider,
            site(provider.url, **shared) as first,
            site(provider.url, **shared) as second,
            _edges(tmp_path, first.port, second.port) as fronts,
        ):
            refs = await provider.submit([LIFE | {"run_seconds": 8 + number} for number in range(TASKS)])
            async with _viewers(fronts, judge, refs) as watching:
                await _until(lambda: all(one.known for one in judge.accounts), watching)
                provider.advance(3)
                shares = [await _connections(one) for one in (first, second)]
                assert all(shares), f"both bridges have viewers: {shares}"
                ending = asyncio.ensure_future(first.end(sig))
                while not ending.done():
                    provider.advance(0.5)
                    await asyncio.sleep(0.1)
                assert await ending == (0 if sig is signal.SIGTERM else -sig)
                provider.advance(60)
                await _until(lambda: all(one.over for one in judge.accounts), watching)
            assert judge.verdict(provider.truth(refs)) == []


@asynccontextmanager
async def _edges(folder: Path, *bridges: int) -> AsyncIterator[list[Edge]]:
    """All three proxies in front of the same bridges."""
    async with AsyncExitStack() as stack:
        fronts = []
        for name in FILES:
            needs(name)
            (folder / name).mkdir()
            made = edge(name, folder / name, *bridges, also=AT_ONCE.get(name))
            fronts.append(await stack.enter_async_context(made))
        yield fronts


async def _cursor(front: Edge, path: str) -> str:
    async with stream(front, path) as behind:
        await behind.state()
        return str(behind.blocks[-1].id)


async def _is_told_to_come_back(front: Edge, path: str) -> None:
    async with stream(front, path, Origin="https://app.example") as away:
        assert (away.status, away.headers["content-type"]) == (200, "text/event-stream")
        assert away.headers["access-control-allow-origin"] == "https://app.example"
        assert away.headers["cache-control"] == "no-store, no-transform"
        if front.name == "caddy":
            assert await away.body() == b": away"
            return
        (only,) = await away.rest()
        assert only.comments == [b": ok"]
        assert 3000 <= int(only.fields["retry"]) <= 9000
        assert (only.event, only.data["code"], only.data["reason"]) == ("notice", "closing", "drain")
        assert (only.data["task"], only.data["retriable"]) == (None, True)


async def _back(front: Edge, path: str, cursor: str) -> dict:
    """The first state of a client that reconnects until the proxy has found the bridge again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with stream(front, path, Last_Event_ID=cursor) as behind:
                first = None if behind.headers.get("content-length") else await behind.block()
                if first is not None and first.event is None:
                    return first.data
                assert first is None or first.event == "notice"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _viewers(
    fronts: list[Edge], judge: Judge, refs: list[str]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Users of our client at each proxy, one task each, who come back as quickly as tests want to."""
    async with AsyncExitStack() as stack:
        watching = []
        for front in fronts:
            connector = aiohttp.TCPConnector(limit=0, ssl=front.trust)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            for number, ref in enumerate(refs):
                account = judge.account(f"{front.name}-{number}", [ref], repeats=True)
                watching.append(asyncio.create_task(_watch(front, session, account)))
        try:
            yield watching
        finally:
            for one in watching:
                one.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


async def _watch(front: Edge, session: aiohttp.ClientSession, account: Account) -> None:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.2))

    rng = random.Random(account.name)
    async with Bridge(front.url, session=session, timeouts=QUICK, rng=rng, sleep=sleep) as bridge:
        async for state in bridge.watch(*account.refs):
            account.connected(cursor=None)  # the connection that delivered it is unknown
            account.state(state.document)
    account.ended("our client")


async def _until(true, watching: list[asyncio.Task[None]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            for one in watching:
                if one.done() and one.exception() is not None:
                    raise one.exception()
            await asyncio.sleep(0.02)


async def _connections(bridge: Site) -> float:

    async with aiohttp.ClientSession() as http:
        return await metric(http, bridge.url, 'bridge_connections{delivery="sse"}')

"""Providers that flood: other tasks of the same provider are polled on, and nothing is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness import PATIENCE, BridgeProcess, running_bridge
from tests.hostile.provider import ANSWERS, STREAMS, FloodingProvider, flooding_provider

pytestmark = pytest.mark.anyio

POLLS = 6
MEGABYTE = 2**20
RSS_MEGABYTES = 150
# Of each kind of work that did not yield, the one that took longest; the others are the extended run's.
QUICK = {
    *("documents", "states", "chunks", "compressed", "informational", "wide-document"),
}
# An answer that is too long for a line, a head or a document is an error of its task, and asked for again.
ENDS = {"line", "lines", "head", "header", "trailers", "bomb", "bomb-wide", "wide-document", "pipelined"}
ENDS |= {"deep-document", "escaped-document"}


@pytest.fixture(scope="module")
async def provider(anyio_backend: str) -> AsyncIterator[FloodingProvider]:
    async with flooding_provider() as made:
        yield made


@pytest.fixture(scope="module")
async def bridge(anyio_backend: str, provider: FloodingProvider) -> AsyncIterator[BridgeProcess]:
    upstream = {
        "base_url": f"http://127.0.0.1:{provider.port}",
        "api_key": "test-key-0123456789",
        "poll_min_seconds": 0.05,
        "poll_max_seconds": 0.1,
    }
    async with running_bridge({"bytespike": upstream}, linger_seconds=0.1) as made:
        yield made


def kinds() -> list[Any]:
    """Every kind of flood; those that repeat what another shows are extended."""
    return [
        kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.extended)
        for kind in (*STREAMS, *ANSWERS)
    ]


def rss(bridge: BridgeProcess) -> int:
    pages = Path(f"/proc/{bridge.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


async def watch(http: aiohttp.ClientSession, task_id: str) -> None:
    """Follow a task until cancelled."""
    async with http.get(f"/v1/tasks/bytespike/{task_id}/events") as stream:
        while await stream.content.readany():
            pass
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", kinds())
async def test_others_are_polled_on_beside(
    provider: FloodingProvider, bridge: BridgeProcess, kind: str
) -> None:
    good, bad = f"good-{kind}", f"{kind}-1"
    async with (
        aiohttp.ClientSession(bridge.url, timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        http.get(f"/v1/tasks/bytespike/{good}/events") as seen,
    ):
        await seen.content.readuntil(b"\n\n")
        before = rss(bridge)
        flooded = asyncio.ensure_future(watch(http, bad))
        try:
            async with asyncio.timeout(PATIENCE):
                while not provider.sent[kind] and not (kind in ENDS and provider.calls[bad]):  # noqa: ASYNC110
                    await asyncio.sleep(0)  # the provider runs in this loop
            polls, sent = provider.calls[good], provider.sent[kind]
            for _ in range(POLLS):
                await seen.content.readuntil(b"\n\n")
                async with http.get("/livez") as alive:
                    assert alive.status == 200
            assert provider.calls[good] > polls
            assert provider.sent[kind] - sent < 64 * MEGABYTE  # it is read at its rate
            if kind not in ENDS:
                # What floods is not closed. A call beside a stream that is 404 is the third.
                assert provider.streams[bad] == 1 if kind in STREAMS else provider.calls[bad] <= 3
        finally:
            flooded.cancel()
            await asyncio.gather(flooded, return_exceptions=True)
        assert rss(bridge) - before < RSS_MEGABYTES * MEGABYTE
    assert "Traceback" not in "".join(bridge.log)

"""Followers of tags and groups, from outside: what each was told, and how often."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import orjson

from bridge.wire.sse import Decoder
from tests.harness import PATIENCE
from tests.webhooks.places import Place


class Follower:
    """An event stream, read to its end in the background.

    Args:
        again: Whether it comes again when its connection breaks, as a browser does.

    Attributes:
        events: All of them: name (empty for a state) and document.
    """

    def __init__(self, at: Place, site: int, query: str, last_id: str = "", *, again: bool = False) -> None:
        self.events: list[tuple[str, Any]] = []
        self.status = 0
        self.last_id = last_id
        self._news = asyncio.Event()
        url = f"{at.sites[site % len(at.sites)].url}/v1/events?{query}"
        self.reading = asyncio.create_task(self._follow(at.http, url) if again else self._read(at.http, url))

    async def _follow(self, http: aiohttp.ClientSession, url: str) -> None:
        while self.status != 204 and "end" not in [name for name, _ in self.events]:
            with contextlib.suppress(aiohttp.ClientError):
                await self._read(http, url)
            await asyncio.sleep(0.1)

    async def _read(self, http: aiohttp.ClientSession, url: str) -> None:
        decoder = Decoder()
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        async with http.get(url, headers=headers, timeout=aiohttp.ClientTimeout()) as answer:
            self.status = answer.status
            self._news.set()
            async for chunk in answer.content.iter_any():
                for event in decoder.feed(chunk):
                    if event.data:
                        name = event.name or ""
                        self.events.append((name, orjson.loads(event.data)))
                        self.last_id = event.id or self.last_id
                self._news.set()
        self._news.set()

    async def until(self, found: Any) -> None:
        """Wait until the events say so."""
        async with asyncio.timeout(PATIENCE):
            while not found(self.events):
                self._news.clear()
                await self._news.wait()

    async def opened(self) -> None:
        """Wait for the head of the answer."""
        async with asyncio.timeout(PATIENCE):
            while not self.status:
                self._news.clear()
                await self._news.wait()

    def ends(self) -> dict[str, int]:
        """How often each task was reported as final."""
        counts: dict[str, int] = {}
        for name, said in self.events:
            if name == "done":
                counts[said["task"]] = counts.get(said["task"], 0) + 1
        return counts

    def named(self, name: str) -> list[Any]:
        """The documents of the events of one name."""
        return [said for known, said in self.events if known == name]


def has_state(ref: str) -> Any:
    """For `until`: there was a state of the task."""
    return lambda events: any(not name and said["task"] == ref for name, said in events)


async def submit(at: Place, site: int, **headers: str) -> str:
    """Submit at one of the bridges, and the ref of the task."""
    url = at.sites[site % len(at.sites)].url
    async with asyncio.timeout(PATIENCE):
        status, said = await at.submit(url, headers=headers)
        while status == 503:  # a slow machine: the engine did not answer in time, and nothing was sent
            await asyncio.sleep(0.2)
            status, said = await at.submit(url, headers=headers)
    assert status == 201, said
    return str(said["state"]["task"])


async def answered(at: Place, method: str, path: str, site: int, **more: Any) -> tuple[int, Any]:
    """One request to one of the bridges, repeated until it is not 503."""
    async with asyncio.timeout(PATIENCE):
        while True:
            status, said = await at.api(method, path, at.sites[site].url, **more)
            if status != 503:
                return status, said
            await asyncio.sleep(0.2)

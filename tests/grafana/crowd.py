"""Clients that submit and follow tasks by every delivery, and providers that fail now and then."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.harness import PATIENCE, BridgeProcess, answer, running_bridge, running_simulator, upstreams_of

SUBMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "qingbo": ("/v1/tasks/qingbo", {"model": "wan2.7", "prompt": "rain on a window"}),
    "vapi": (
        "/v1/tasks/vapi?endpoint=minimax/v1/video_generation",
        {"model": "hailuo-02", "prompt": "a paper boat"},
    ),
    "bytespike": ("/v1/tasks/bytespike", {"model": "sora-2", "params": {"prompt": "a city of glass"}}),
}
WEATHER = {
    "*": [{"name": "slow", "seconds": 0.3, "rate": 0.05}],
    "qingbo": [{"name": "500", "rate": 0.05}, {"name": "html", "rate": 0.02}],
    "vapi": [{"name": "429-retry-after", "retry_after": "1", "rate": 0.02}],
    "bytespike": [{"name": "reset", "rate": 0.03}],
}
OUTAGE = {"vapi": [{"name": "503"}]}
FOREIGN = "elsewhere-7"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Crowd:
    """All clients, with reproducible random choices.

    Args:
        pause: Seconds between two submits.
        run: Shortest and longest time a task takes.
    """

    def __init__(
        self,
        bridge: str,
        simulator: str,
        http: aiohttp.ClientSession,
        *,
        pause: float = 0.1,
        run: tuple[float, float] = (0.4, 2.0),
    ) -> None:
        self.pause = pause
        self._bridge, self._simulator, self._http = bridge, simulator, http
        self._run = run
        self._dice = random.Random(7)

    async def weather(self, faults: dict[str, Any]) -> None:
        """Set the faults of the providers."""
        async with self._http.put(f"{self._simulator}/_sim/faults", json=faults) as answer:
            assert answer.status < 300, await answer.text()

    async def ask_slowly(self, task_id: str, seconds: float) -> None:
        """A poll of a task with a slow provider; another poll if a fault interfered."""
        name = quote(task_id, safe="")
        slow = answer({"task_id": task_id, "status": "processing"}) | {"delay": seconds}
        script = {"answers": [slow]}
        where = URL(f"{self._simulator}/_sim/qingbo/tasks/{name}", encoded=True)
        async with self._http.put(where, json=script) as made:
            assert made.status < 300, await made.text()
        address = URL(f"{self._bridge}/v1/tasks/qingbo/{name}", encoded=True)
        async with asyncio.timeout(PATIENCE):
            while not await self._is_shown(address):  # noqa: ASYNC110 - faults send no event
                await asyncio.sleep(self.pause)

    async def _is_shown(self, address: URL) -> bool:
        async with self._http.get(address) as state:
            assert state.status == 200 or (await state.json())["retriable"], await state.text()
            return state.status == 200

    async def come(self) -> None:
        """Connect and disconnect until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._one(self._dice.choice(list(SUBMITS))))
                await asyncio.sleep(self.pause)

    async def _one(self, upstream: str) -> None:
        """One task and its subscribers, also while its provider fails."""
        path, body = SUBMITS[upstream]
        life = {
            "queue_seconds": self._dice.uniform(0.1, self._run[0]),
            "run_seconds": self._dice.uniform(*self._run),
            "outcome": "failed" if self._dice.random() < 0.1 else "completed",
        }
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._http.post(self._bridge + path, json=body | {"sim": life}) as answer:
                if answer.status != 201:
                    return
                links = (await answer.json())["links"]
            ways = (
                self._stream,
                self._stream,
                self._stream,
                self._lines,
                self._socket,
                self._poll,
                self._return,
            )
            viewers = self._dice.choices(ways, k=self._dice.randint(2, 6))
            await asyncio.gather(*(view(links) for view in viewers), return_exceptions=True)

    async def _stream(self, links: dict[str, str], cursor: str | None = None, *, events: int = 10_000) -> str:
        """A browser's EventSource, for so many events; the last cursor."""
        last = cursor or ""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor} if cursor else {})
        async with self._http.get(self._bridge + links["events"], headers=headers) as answer:
            async for line in answer.content:
                if line.startswith(b"id:"):
                    last = line[3:].strip().decode()
                    events -= 1
                if events <= 0:
                    break
        return last

    async def _lines(self, links: dict[str, str]) -> None:
        headers = {"Accept": "application/x-ndjson"}
        async with self._http.get(self._bridge + links["events"], headers=headers) as answer:
            await answer.read()

    async def _socket(self, links: dict[str, str]) -> None:
        async with self._http.ws_connect(self._bridge + links["ws"]) as socket:
            while (await socket.receive_json())["type"] != "done":
                pass

    async def _poll(self, links: dict[str, str]) -> None:
        """Long-polls until the final state."""
        etag, final = "", {"completed", "failed", "cancelled", "lost"}
        while True:
            headers = {"If-None-Match": etag, "Prefer": "wait=10"} if etag else {}
            async with self._http.get(self._bridge + links["self"], headers=headers) as answer:
                etag = answer.headers.get("ETag", etag)
                if answer.status == 200 and (await answer.json())["status"] in final:
                    return

    async def _return(self, links: dict[str, str]) -> None:
        """Resumes after the first state, after the final state, and with an invalid cursor."""
        cursor = await self._stream(links, events=1)
        cursor = await self._stream(links, cursor)
        await self._stream(links, cursor)
        await self._stream(links, FOREIGN)


@asynccontextmanager
async def busy_bridge(
    folder: Path, *, polls: tuple[float, float] = (0.1, 0.4), **crowd: Any
) -> AsyncIterator[tuple[BridgeProcess, Crowd]]:
    """A bridge with its journal in `folder`, three failing providers, and running clients.

    Args:
        polls: Shortest and longest interval between two polls of a task, in seconds.
    """
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        running_simulator(manual_clock=False) as simulator,
        running_bridge(
            upstreams_of(simulator, poll_min_seconds=polls[0], poll_max_seconds=polls[1], timeout_seconds=2),
            journal=f"sqlite:{folder / 'bridge.db'}",
            log_level="error",
            # What the simulator answers is no success: attempts are counted, and made again.
            webhooks={"crowd": {"url": f"{simulator.url}/receiver", "secret": SECRET}},
            private_hosts=["127.0.0.1", "localhost"],
        ) as bridge,
        aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
    ):
        everybody = Crowd(bridge.url, simulator.url, http, **crowd)
        await everybody.weather(WEATHER)
        coming = asyncio.create_task(everybody.come())
        try:
            yield bridge, everybody
        finally:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await coming

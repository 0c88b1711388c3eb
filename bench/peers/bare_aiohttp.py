"""Upper bound for an aiohttp client: a loop of requests that only compares bytes.

python -m bench.peers.bare_aiohttp BASE_URL TASKS AT_ONCE SECONDS      prints one line of JSON
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time

import aiohttp
import uvloop
from yarl import URL


async def main(base: str, tasks: int, at_once: int, seconds: float) -> None:
    """Request one task after the other until the time has elapsed."""
    last: dict[int, bytes] = {}
    turns = itertools.count()
    until = time.perf_counter() + seconds

    async def request(http: aiohttp.ClientSession) -> None:
        while time.perf_counter() < until:
            task = next(turns) % tasks
            async with http.get(URL(f"{base}/t{task}", encoded=True), allow_redirects=False) as response:
                body = await response.read()
                if last.get(task) != body:
                    last[task] = body

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=at_once), cookie_jar=aiohttp.DummyCookieJar()
    ) as http:
        started_at, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(request(http) for _ in range(at_once)))
        took, cpu = time.perf_counter() - started_at, time.process_time() - cpu
    calls = next(turns)
    print(json.dumps({"calls": calls, "per_second": calls / took, "cpu_us": cpu / calls * 1e6}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))

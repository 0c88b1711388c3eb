"""The most an aiohttp client can ask: a loop of requests that compares bytes and does nothing else.

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
    """Ask for one task after the other until the time is over."""
    last: dict[int, bytes] = {}
    turns = itertools.count()
    until = time.perf_counter() + seconds

    async def ask(http: aiohttp.ClientSession) -> None:
        while time.perf_counter() < until:
            task = next(turns) % tasks
            async with http.get(URL(f"{base}/t{task}", encoded=True), allow_redirects=False) as answer:
                body = await answer.read()
                if last.get(task) != body:
                    last[task] = body

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=at_once), cookie_jar=aiohttp.DummyCookieJar()
    ) as http:
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(ask(http) for _ in range(at_once)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    calls = next(turns)
    print(json.dumps({"calls": calls, "per_second": calls / took, "cpu_us": cpu / calls * 1e6}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))

"""Submits a task, shows its progress, and downloads the results.

python render.py qingbo '{"model": "veo3", "prompt": "a lighthouse at night"}'
python render.py qingbo/YOUR_TASK_ID        # resume an existing task

Needs `task-event-bridge`. BRIDGE_URL is the address of the bridge, BRIDGE_TOKEN the bearer token.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import aiohttp

from bridge.client.bridge import Bridge
from bridge.client.state import TaskState
from bridge.errors import BridgeError

URL = os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("BRIDGE_TOKEN")


async def main(target: str, body: str | None) -> int:
    """Render, and return the exit code."""
    async with Bridge(URL, token=TOKEN) as bridge:
        try:
            task = (await bridge.submit(target, json.loads(body))).task if body else target
            print(task, flush=True)  # with this line the task can be resumed later
            state = await follow(bridge, task)
        except BridgeError as error:  # not for lost connections: the client reconnects automatically
            print(f"{error.code}: {error}", file=sys.stderr)
            return 2
    if state.status != "completed":
        print(f"{state.status}: {(state.error or {}).get('message')}", file=sys.stderr)
        return 1
    async with aiohttp.ClientSession() as http:
        links = [output["url"] for output in state.outputs if "url" in output]
        for number, link in enumerate(links, start=1):
            await fetch(http, link, number)
    return 0


async def follow(bridge: Bridge, task: str) -> TaskState:
    """Print each state; return the last one."""
    async for state in bridge.watch(task, on_notice=print_notice):
        left = f", about {state.eta_seconds:.0f} s left" if state.eta_seconds else ""
        print(f"{state.status} {state.progress or 0:.0f}%{left}", file=sys.stderr)
    return state


def print_notice(notice: object) -> None:
    """Print notices: the provider is failing, or the connection was lost and is being reopened."""
    print(notice, file=sys.stderr)


async def fetch(http: aiohttp.ClientSession, url: str, number: int) -> None:
    """Download a result at once: result links expire."""
    path = Path(f"{number}{PurePosixPath(urlsplit(url).path).suffix}")
    async with http.get(url, raise_for_status=True) as response:
        with path.open("wb") as file:
            async for piece in response.content.iter_chunked(65_536):
                file.write(piece)
    print(path, flush=True)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None)))

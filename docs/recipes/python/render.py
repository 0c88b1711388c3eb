"""Submits a task, shows how it goes, and fetches what came out.

python render.py qingbo '{"model": "veo3", "prompt": "a lighthouse at night"}'
python render.py qingbo/YOUR_TASK_ID        # go on with one that is under way

Needs `task-event-bridge`. BRIDGE_URL and BRIDGE_TOKEN say where the bridge is and who asks.
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
    """Render; the exit code."""
    async with Bridge(URL, token=TOKEN) as bridge:
        try:
            task = (await bridge.submit(target, json.loads(body))).task if body else target
            print(task, flush=True)  # whoever has this line can come back to the task later
            state = await follow(bridge, task)
        except BridgeError as error:  # lost connections are none: the client comes back by itself
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
    """Each state as it comes; the last one is returned."""
    async for state in bridge.watch(task, on_notice=print_notice):
        left = f", about {state.eta_seconds:.0f} s left" if state.eta_seconds else ""
        print(f"{state.status} {state.progress or 0:.0f}%{left}", file=sys.stderr)
    return state


def print_notice(notice: object) -> None:
    """What a user may want to know: the provider has trouble, the connection was lost and comes back."""
    print(notice, file=sys.stderr)


async def fetch(http: aiohttp.ClientSession, url: str, number: int) -> None:
    """Result links expire, so what came out is fetched at once."""
    path = Path(f"{number}{PurePosixPath(urlsplit(url).path).suffix}")
    async with http.get(url, raise_for_status=True) as answer:
        with path.open("wb") as file:
            async for piece in answer.content.iter_chunked(65_536):
                file.write(piece)
    print(path, flush=True)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None)))

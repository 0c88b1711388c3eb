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
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from task_event_bridge import Bridge, BridgeError, TaskFailed, TaskNotice, TaskState

URL = os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("BRIDGE_TOKEN")


async def main(target: str, body: str | None) -> int:
    """Render, and return the exit code."""
    async with Bridge(URL, token=TOKEN) as bridge:
        try:
            task = (await bridge.submit(target, json.loads(body))).task if body else target
            print(task, flush=True)  # with this line the task can be resumed later
            state = await bridge.result(task, on_state=print_state, on_notice=print_notice)
        except TaskFailed as failed:  # it failed, was cancelled or was lost
            print(failed, file=sys.stderr)
            return 1
        except BridgeError as error:  # not for lost connections: the client reconnects automatically
            print(f"{error.code}: {error}", file=sys.stderr)
            return 2
    async with aiohttp.ClientSession() as http:
        fetched = [await fetch(http, output, number) for number, output in enumerate(state.outputs, start=1)]
    return 0 if all(fetched) else 1


def print_state(state: TaskState) -> None:
    left = state.eta_text()
    print(f"{state.status} {state.progress or 0:.0f}%{f', {left}' if left else ''}", file=sys.stderr)


def print_notice(notice: TaskNotice) -> None:
    """Print notices: the provider is failing, or the connection was lost and is being reopened."""
    print(f"{notice.code}: {notice.message or notice.reason}", file=sys.stderr)


async def fetch(http: aiohttp.ClientSession, output: Mapping[str, Any], number: int) -> bool:
    """Download a result at once: result links expire."""
    url = output.get("url")
    if url is None:
        print(f"the provider does not hand out result {number}", file=sys.stderr)
        return False
    path = Path(f"{number}{PurePosixPath(urlsplit(url).path).suffix}")
    try:
        async with http.get(url, raise_for_status=True) as response:
            with path.open("wb") as file:
                async for piece in response.content.iter_chunked(65_536):
                    file.write(piece)
    except (aiohttp.ClientError, OSError) as error:
        print(f"result {number} cannot be downloaded: {error}", file=sys.stderr)
        return False
    print(path, flush=True)
    return True


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    try:
        sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None)))
    except KeyboardInterrupt:
        sys.exit(130)

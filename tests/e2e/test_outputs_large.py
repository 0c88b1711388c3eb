"""2 GiB through the bridge in less than 200 MiB of its memory, with readers that have stopped beside it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.origin import MP4, Head, head_of, serving_origin
from tests.harness import running_bridge

pytestmark = [pytest.mark.anyio, pytest.mark.extended]

GIBIBYTE = 1024**3
SIZE = 2 * GIBIBYTE
MAX_MEMORY = 200 * 1024**2
READERS = 30


async def test_two_gibibytes_through_less_than_two_hundred_mebibytes() -> None:
    part = bytes(256 * 1024)

    async def answer(head: Head, writer: asyncio.StreamWriter) -> None:
        writer.write(head_of(content_type="video/mp4", content_length=SIZE) + MP4[:64])
        left = SIZE - 64
        while left:
            writer.write(part[:left])
            left -= min(left, len(part))
            await writer.drain()

    async with serving_origin() as origin, aiohttp.ClientSession() as http:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": "sk-0123456789"}
        origin.links["video_1"] = None
        origin.answers["/v1/videos/video_1/content"] = answer
        async with running_bridge({"videos": upstream}) as bridge:
            url = f"{bridge.url}/v1/tasks/videos/video_1/outputs/0"
            stopped = [await http.get(url) for _ in range(READERS)]
            received = 0
            async with http.get(url, timeout=aiohttp.ClientTimeout(total=None)) as whole:
                async for chunk in whole.content.iter_any():
                    received += len(chunk)
            peak = peak_memory(bridge.process.pid)
            for reader in stopped:
                reader.close()
    assert received == SIZE
    assert peak < MAX_MEMORY


def peak_memory(pid: int) -> int:
    """The most bytes of memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) * 1024

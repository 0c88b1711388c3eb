"""Files through the bridge in Chromium: a video plays and seeks by ranges, and a page among them is none."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from importlib.resources import files as package_files

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import launch_chromium, new_page, one_page, origin
from tests.browser.tabs import PAGE
from tests.browser.test_demo import PLAYED
from tests.fakes.origin import Origin, head_of, serving_origin
from tests.harness import BridgeProcess, running_bridge

pytestmark = [pytest.mark.anyio, pytest.mark.extended]

MEBIBYTE = 1024 * 1024


def with_its_index_at_the_end(video: bytes, padding: int) -> bytes:
    """An MP4 file whose `moov` box comes last, behind an empty box: a player has to ask for the end first."""
    boxes: dict[bytes, bytes] = {}
    at = 0
    while at < len(video):
        size, kind = struct.unpack(">I4s", video[at : at + 8])
        boxes.setdefault(kind, video[at : at + size])
        if kind == b"mdat":
            media_at = at
        at += size
    moov = bytearray(boxes[b"moov"])
    table = moov.index(b"stco")
    (count,) = struct.unpack(">I", moov[table + 8 : table + 12])
    for entry in range(table + 12, table + 12 + 4 * count, 4):
        (offset,) = struct.unpack(">I", moov[entry : entry + 4])
        moov[entry : entry + 4] = struct.pack(">I", offset - media_at + len(boxes[b"ftyp"]))
    empty = struct.pack(">I4s", padding + 8, b"free") + bytes(padding)
    return boxes[b"ftyp"] + boxes[b"mdat"] + empty + bytes(moov)


@pytest.fixture
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium("--autoplay-policy=no-user-gesture-required") as launched:
        yield launched


@pytest.fixture
async def provider() -> AsyncIterator[Origin]:
    async with serving_origin() as serving:
        yield serving


@pytest.fixture
async def bridge(provider: Origin) -> AsyncIterator[BridgeProcess]:
    upstream = {"preset": "openai-videos", "base_url": provider.url("/v1"), "api_key": "sk-0123456789"}
    async with running_bridge({"videos": upstream}) as running:
        yield running


def link(bridge: BridgeProcess, task_id: str) -> str:
    return f"{bridge.url}/v1/tasks/videos/{task_id}/outputs/0"


async def test_a_video_plays_and_seeks_by_ranges(
    browser: Browser, bridge: BridgeProcess, provider: Origin
) -> None:
    recorded = package_files("bridge.simulator").joinpath("media/video-1.mp4").read_bytes()
    provider.links["video_1"] = None
    provider.serve("/v1/videos/video_1/content", with_its_index_at_the_end(recorded, 64 * MEBIBYTE))
    async with origin(one_page(PAGE)) as pages:
        page, errors = await new_page(await browser.new_context())
        await page.goto(pages)
        ready, duration, width = await page.evaluate(PLAYED, link(bridge, "video_1"))
    assert ready >= 2
    assert duration > 1.2
    assert width > 0
    assert errors == []
    ranges = [head.headers.get("range", "bytes=0-") for head in provider.asked]
    starts = [int(text.removeprefix("bytes=").partition("-")[0]) for text in ranges]
    assert max(starts) > 32 * MEBIBYTE


@pytest.mark.parametrize("declared", ["text/html", "image/svg+xml", "image/png", "application/xhtml+xml"])
async def test_a_page_among_the_results_does_not_run_on_the_bridges_origin(
    browser: Browser, bridge: BridgeProcess, provider: Origin, declared: str
) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>document.title = "ran"</script></svg>'
    provider.links["video_1"] = None
    provider.answers["/v1/videos/video_1/content"] = (
        head_of(content_type=declared, content_length=len(svg)) + svg
    )
    page, errors = await new_page(await browser.new_context(accept_downloads=True))
    await page.goto(f"{bridge.url}/livez")
    async with page.expect_download() as downloading:
        await page.evaluate("(link) => { location.href = link }", link(bridge, "video_1"))
    download = await downloading.value
    assert download.suggested_filename == "videos-video_1-0"
    assert await page.title() != "ran"
    assert errors == []

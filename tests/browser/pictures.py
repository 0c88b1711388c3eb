"""Takes the screenshots of README.md and docs/inspector.md from the running demo; check them afterwards.

`python -m tests.browser.pictures`
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import expect

from tests.browser.chromium import launch_chromium
from tests.browser.inspecting import GONE, NARROW, Inspector, inspecting
from tests.e2e.test_commands import started
from tests.harness import PATIENCE

PICTURES = Path(__file__).parents[2] / "docs/pictures"
WIDE, TALL = (1240, 660), (NARROW[0], 1160)
LOOKS: dict[str, dict[str, Any]] = {
    "inspector-light.png": {"scheme": "light", "size": WIDE},
    "inspector-dark.png": {"scheme": "dark", "size": WIDE},
    "inspector-narrow.png": {"scheme": "light", "size": TALL},
}
MAX_BYTES = 150_000
ROWS = 9
SECONDS = 90.0


async def main() -> int:
    """Take them all; the exit code."""
    PICTURES.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(launch_chromium("--disable-lcd-text"))
        address = await stack.enter_async_context(demo())
        pages = {
            name: await stack.enter_async_context(inspecting(browser, expected=[GONE], **look))
            for name, look in LOOKS.items()
        }
        for seen in pages.values():
            await seen.open(address)
        ref = await shown(next(iter(pages.values())))
        for name, seen in pages.items():
            await take(seen, ref, PICTURES / name)
    large = [name for name in LOOKS if (PICTURES / name).stat().st_size > MAX_BYTES]
    sys.stderr.writelines(f"{name} has more than {MAX_BYTES} bytes\n" for name in large)
    return 1 if large else 0


@asynccontextmanager
async def demo() -> AsyncIterator[str]:
    """The demo on a free port; the address of its page."""
    async with started("demo", "--port", "0") as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            found = None
            while found is None:
                line = (await process.stdout.readline()).decode()
                assert line, "the demo printed no link"
                found = re.search(r"http://[^/\s]+/", line)
        reading = asyncio.ensure_future(process.stdout.read())  # or it would wait for a reader
        try:
            yield found[0].rstrip("/")
        finally:
            process.terminate()
            await process.wait()
            await reading


async def shown(seen: Inspector) -> str:
    """Wait until there is something to see; the task to select."""
    completed = seen.page.locator("#rows tr:has(.status[data-status=completed])")
    best: dict[str, str] = {}
    async with asyncio.timeout(SECONDS + PATIENCE):
        while "video" not in best or await seen.page.locator("#rows tr").count() < ROWS:
            for ref in await completed.evaluate_all("(rows) => rows.map((row) => row.dataset.task)"):
                if ref not in best.values():
                    best[await kind(seen, ref)] = ref
            await seen.page.wait_for_timeout(1000)
    return best["video"]


async def kind(seen: Inspector, ref: str) -> str:
    """What a task resulted in."""
    await seen.select(ref)
    await expect(seen.page.locator("#outputs li").first).to_be_visible()
    text = await seen.page.locator("#outputs .facts .muted").first.text_content() or ""
    return text.partition(" ")[0]


async def take(seen: Inspector, ref: str, path: Path) -> None:
    """One picture, with a task selected."""
    await seen.select(ref)
    await expect(seen.page.locator("#outputs :is(video, img)")).to_be_visible()
    await seen.page.mouse.move(0, 0)
    await seen.page.evaluate("() => document.activeElement.blur()")
    await seen.page.wait_for_timeout(1000)
    await seen.page.screenshot(path=path)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

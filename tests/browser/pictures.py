"""Takes the screenshots of docs/inspector.md; check them after changing the page.

`python -m tests.browser.pictures`
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from playwright.async_api import Browser, expect

from bridge.clock import SystemClock
from tests.browser.chromium import launch_chromium
from tests.browser.inspecting import NARROW, Inspector, inspecting
from tests.e2e.scene import Scene, stage
from tests.harness import qingbo

PICTURES = Path(__file__).parents[2] / "docs/pictures"
WIDE = (1240, 780)
IDS = ("task-wave1775285160b950328499", "task_01PQ7B3EJM91Z0QYXM1GG43Q9Q", "task_01AK9ZJ02YG5235RF0SHM1EM4Y")
PICTURE = "https://cdn.example/results/lighthouse.svg"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 90">'
    '<rect width="160" height="90" fill="#27476e"/>'
    '<circle cx="122" cy="22" r="10" fill="#f3d9a4"/><path d="M0 66q40-14 80 0t80 0v24H0z" fill="#173049"/>'
    '<path d="M38 66l4-34h10l4 34z" fill="#e8e4da"/><path d="M41 38h12l1 7H40z" fill="#b3443b"/></svg>'
)


async def main() -> None:
    """Take them all."""
    PICTURES.mkdir(exist_ok=True)
    async with launch_chromium("--disable-lcd-text") as browser:
        async with stage(keepalive_seconds=2) as scene:
            await take(browser, scene, "inspector-light.png", scheme="light", tab="Self-test")
        async with stage() as scene:
            await take(browser, scene, "inspector-dark.png", scheme="dark", tab="Bridge")
        async with stage() as scene:
            await take(browser, scene, "inspector-narrow.png", scheme="light", tab="Frames", size=NARROW)


async def take(
    browser: Browser, scene: Scene, name: str, *, scheme: str, tab: str, size: tuple[int, int] = WIDE
) -> None:
    """One picture of four tasks on their way, one of them done."""
    done, half, begun = IDS
    now = int(SystemClock().time())
    refs = [
        await scene.script("qingbo", done, qingbo(done, "queued", 0, created_at=now - 38)),
        await scene.script("qingbo", half, qingbo(half, "processing", 61, created_at=now - 21)),
        await scene.script("qingbo", begun, qingbo(begun, "queued", 0, created_at=now - 2)),
    ]
    body = {"model": "hailuo-02", "prompt": "a paper boat"}
    refs.append(f"vapi/{await scene.submit('vapi', '/task/minimax/v1/video_generation', body)}")
    async with inspecting(browser, scheme=scheme, size=size) as seen:
        await seen.page.route(PICTURE, lambda route: route.fulfill(body=SVG, content_type="image/svg+xml"))
        await seen.open(scene.bridge.url, *refs)
        await seen.says(refs[1], "processing", "61 %")
        for progress in (2, 27, 55, 83):
            await asyncio.sleep(0.3 + progress / 60)
            await scene.then("qingbo", done, qingbo(done, "processing", progress, created_at=now - 38))
            await seen.says(refs[0], "processing", f"{progress} %")
        result = {"images": [{"url": [PICTURE], "expires_at": now + 86_300}]}
        await scene.then("qingbo", done, qingbo(done, "completed", 100, result=result, created_at=now - 38))
        await seen.says(refs[0], "completed", "100 %")
        await seen.select(refs[0])
        await seen.tab(tab)
        await expect(seen.page.locator("#outputs img")).to_be_visible()
        if tab == "Bridge":
            await moving(seen)
        if tab == "Self-test":
            await seen.page.get_by_role("button", name="Run self-test").click()
            await expect(seen.page.locator("#selftest-progress")).to_have_text("Finished.")
        await seen.page.mouse.move(0, 0)
        await seen.page.evaluate("() => document.activeElement.blur()")
        await seen.page.screenshot(path=PICTURES / name, full_page=True)


async def moving(seen: Inspector) -> None:
    """Until the plots have something to show."""
    await expect(seen.page.locator(".plot canvas")).to_have_count(3)
    await seen.page.wait_for_timeout(9000)


if __name__ == "__main__":
    asyncio.run(main())

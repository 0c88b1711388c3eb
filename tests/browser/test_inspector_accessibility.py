"""axe finds nothing serious in the inspector: in every state, in light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import Browser, expect

from tests.browser.inspecting import GONE, NARROW, WIDE, Inspector, inspecting, shared_browser, shared_loop
from tests.e2e.scene import Scene, stage
from tests.fakes.credentials import TOKEN_SETTINGS
from tests.harness import qingbo, qingbo_done

pytestmark = pytest.mark.anyio

anyio_backend, browser = shared_loop, shared_browser

LOOKS = [("light", WIDE), ("dark", NARROW)]  # colours do not depend on the width


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(each={"poll_min_seconds": 0.5, "poll_max_seconds": 1.0}) as made:
        yield made


async def nothing(seen: Inspector, scene: Scene) -> None:
    await seen.open(scene.bridge.url)
    await expect(seen.page.locator("#submit-upstream option")).to_have_count(3)


async def watching(seen: Inspector, scene: Scene) -> None:
    """Every status that is open, a task that is refused, and the frames."""
    statuses = ("queued", "processing", "input_required", "strange")
    refs = [await scene.script("qingbo", one, qingbo(one, one, 30)) for one in statuses]
    await seen.open(scene.bridge.url, *refs, "qingbo/never-was")
    await seen.says("qingbo/never-was", "rejected")
    await seen.says("qingbo/processing", "processing")
    await seen.select("qingbo/never-was")


async def finished(seen: Inspector, scene: Scene) -> None:
    """Results of every kind, a failure, and the lines to copy."""
    links = [
        {"url": [f"https://cdn.example/a.{ending}"], "expires_at": 4102444800} for ending in ("png", "mp3")
    ]
    done = qingbo("done", "completed", 100, result={"images": links[:1], "audios": links[1:]})
    failed = qingbo("failed", "failed", 40, error={"code": "moderation", "message": "not this one"})
    refs = [
        await scene.script("qingbo", "done", done),
        await scene.script("qingbo", "failed", failed),
        await scene.script("qingbo", "video", qingbo_done("video")),
    ]
    await seen.open(scene.bridge.url, *refs)
    for ref, status in zip(refs, ("completed", "failed", "completed"), strict=True):
        await seen.says(ref, status)
    await expect(seen.page.locator("#outputs li").first).to_be_visible()
    await seen.tab("Code")


async def failed(seen: Inspector, scene: Scene) -> None:
    """A failure is looked at, a mistake was typed, somebody is about to cancel."""
    await finished(seen, scene)
    await seen.select("qingbo/failed")
    await seen.page.get_by_label("Task ref").fill("nonsense")
    await seen.page.keyboard.press("Enter")
    await expect(seen.page.get_by_role("alert")).to_be_visible()
    await seen.tab("Submit")


async def plotted(seen: Inspector, scene: Scene) -> None:
    await watching(seen, scene)
    await seen.tab("Bridge")
    await expect(seen.page.locator(".plot canvas")).to_have_count(3)


@pytest.mark.parametrize("state", [nothing, watching, finished, failed, plotted])
async def test_no_serious_finding(
    browser: Browser, scene: Scene, state: Callable[[Inspector, Scene], Awaitable[None]]
) -> None:
    async with inspecting(browser, expected=[GONE]) as seen:
        await state(seen, scene)
        for scheme, (width, height) in LOOKS:
            await seen.page.emulate_media(color_scheme=scheme)
            await seen.page.set_viewport_size({"width": width, "height": height})
            assert await seen.findings() == [], (scheme, width)
            wider = await seen.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wider <= 0, f"scrolls sideways by {wider} at {width}"


async def test_no_serious_finding_where_a_token_is_asked_for(browser: Browser) -> None:
    async with stage(**TOKEN_SETTINGS) as scene, inspecting(browser, expected=[GONE], scheme="dark") as seen:
        await seen.open(scene.bridge.url)
        await expect(seen.page.get_by_label("Token")).to_be_visible()
        assert await seen.findings() == []


async def test_nothing_moves_for_who_wants_no_motion(browser: Browser, scene: Scene) -> None:
    async with inspecting(browser, expected=[GONE], reduced_motion="reduce") as seen:
        await watching(seen, scene)
        moving = await seen.page.locator("body *").evaluate_all(
            "(all) => all.filter((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0).length"
        )
        assert moving == 0

"""The inspector with authentication: it requests a token, shows the user's tasks, leaks nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.browser.inspecting import FILES, GONE, PIXEL, Inspector, inspecting, shared_browser, shared_loop
from tests.e2e.scene import Scene, stage
from tests.fakes.credentials import TOKEN_SETTINGS, bearer, token
from tests.fakes.origin import serving_origin
from tests.harness import qingbo, qingbo_done, running_bridge

pytestmark = pytest.mark.anyio

anyio_backend, browser = shared_loop, shared_browser


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(**TOKEN_SETTINGS) as made:
        yield made


async def watched(scene: Scene, name: str) -> str:
    """A task of which the bridge knows."""
    task = scene.id(name)
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 20))
    answer = await scene.call("GET", f"/v1/tasks/{ref}", headers=bearer("*"))
    assert answer.status == 200
    return ref


async def sign_in(seen: Inspector, credential: str) -> None:
    await seen.page.get_by_label("Token").fill(credential)
    await seen.page.keyboard.press("Enter")


async def test_it_asks_who_one_is_and_shows_nothing_before(browser: Browser, scene: Scene) -> None:
    ref = await watched(scene, "mine")
    async with inspecting(browser, expected=[GONE]) as seen:
        await seen.open(scene.bridge.url, ref)
        await expect(seen.page.get_by_label("Token")).to_be_focused()
        await expect(seen.page.locator("#workspace")).to_be_hidden()
        await sign_in(seen, token(secret="somebody else's secret, as long as ours"))
        await expect(seen.page.locator("#token-why")).to_contain_text("rejected")
        await expect(seen.page.locator("#workspace")).to_be_hidden()
        await sign_in(seen, token(ref))
        await seen.says(ref, "processing", "20 %")
        await seen.page.reload()
        await seen.says(ref, "processing", "20 %")
        await seen.page.get_by_role("button", name="Forget token").click()
        await expect(seen.page.get_by_label("Token")).to_be_visible()


@pytest.mark.parametrize("via", ["sse", "websocket", "longpoll"])
async def test_a_token_reads_its_own_tasks_by_every_delivery(
    browser: Browser, scene: Scene, via: str
) -> None:
    mine, other = await watched(scene, "mine"), await watched(scene, "other")
    credential = token(mine)
    async with inspecting(browser, expected=[GONE]) as seen:
        await seen.open(scene.bridge.url, mine, other, via=via)
        await sign_in(seen, credential)
        await seen.says(mine, "processing", "20 %")
        await seen.says(other, "rejected")
        await seen.connected("Live")
        task = mine.partition("/")[2]
        await scene.then("qingbo", task, qingbo_done(task))
        await seen.says(mine, "completed", "100 %")
        await seen.tab("Code")
        shown = await seen.page.content()
        assert credential not in shown
        assert "BRIDGE_T" in (await seen.page.locator("#code-curl").text_content() or "")
        secret = credential.rpartition(".")[2]
        assert not [one.url for one in seen.asked if secret in one.url]


async def test_it_offers_what_the_caller_may_do(browser: Browser, scene: Scene) -> None:
    mine, other = await watched(scene, "mine"), await watched(scene, "other")
    async with inspecting(browser, expected=[GONE]) as seen:
        await seen.open(scene.bridge.url)
        await sign_in(seen, token(mine))
        await seen.says(mine, "processing")
        assert await seen.row(other).count() == 0
        await seen.select(mine)
        await expect(seen.page.get_by_role("button", name="Cancel task")).to_be_hidden()
        await seen.tab("Submit")
        await expect(seen.page.locator("#submit-none")).to_be_visible()
        await seen.tab("Bridge")
        await expect(seen.page.locator("#plots-problem")).to_contain_text("separate admin port")
        await seen.page.get_by_role("button", name="Forget token").click()
        await sign_in(seen, token("qingbo/*", scope="read submit cancel"))
        await seen.says(other, "processing")
        await seen.select(other)
        await expect(seen.page.get_by_role("button", name="Cancel task")).to_be_visible()
        await seen.tab("Submit")
        options = seen.page.locator("#submit-upstream option")
        assert await options.all_text_contents() == ["qingbo"]


@pytest.mark.parametrize("stored", [False, True])
async def test_results_come_through_the_bridge_with_a_ticket(
    browser: Browser, tmp_path: Path, *, stored: bool
) -> None:
    """The file needs the provider's key; the page has a token, and an image sends no headers."""
    outputs = {"outputs": {"store": f"file:{tmp_path / 'copies'}"}} if stored else {}
    async with serving_origin() as origin:
        origin.links["video_1"] = None
        origin.serve("/v1/videos/video_1/content", PIXEL, "image/png")
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": "sk-0123456789"}
        async with (
            running_bridge({"videos": upstream}, **TOKEN_SETTINGS, **outputs) as bridge,
            inspecting(browser, expected=[GONE]) as seen,
        ):
            await seen.page.unroute(FILES)
            await seen.open(bridge.url, "videos/video_1")
            await sign_in(seen, token("videos/video_1"))
            await seen.says("videos/video_1", "completed")
            image = seen.page.locator("#outputs img")  # some providers return animated images as videos
            await expect(image).to_have_js_property("naturalWidth", 1)
            link = await image.get_attribute("src") or ""
            assert link.startswith(f"{bridge.url}/v1/tasks/videos/video_1/outputs/0?ticket=")
            await expect(seen.page.locator("#outputs", has_text="stored copy")).to_have_count(int(stored))
            assert {head.headers["authorization"] for head in origin.asked} == {"Bearer sk-0123456789"}
            assert len([one for one in seen.asked if one.url.endswith("/v1/tickets")]) == 1

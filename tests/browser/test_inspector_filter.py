"""The inspector's list, limited to a tag or a group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Route, expect

from tests.browser.inspecting import GONE, NARROW, Inspector, inspecting, shared_browser, shared_loop
from tests.e2e.scene import Scene, stage
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

anyio_backend, browser = shared_loop, shared_browser


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def registered(scene: Scene, name: str, **names: object) -> str:
    """An open task with these names."""
    task = scene.id(name)
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 20))
    answer = await scene.call("PUT", f"/v1/tasks/{ref}", json=names)
    assert answer.status == 201
    return ref


async def limit_to(seen: Inspector, word: str) -> None:
    await seen.page.get_by_label("Tag or group").fill(word)
    await seen.page.keyboard.press("Enter")


@pytest.mark.parametrize("size", [(1280, 900), NARROW])
async def test_the_list_is_limited_to_a_tag_or_a_group(
    browser: Browser, scene: Scene, size: tuple[int, int]
) -> None:
    tagged = await registered(scene, "tagged", tags=["user:7"])
    grouped = await registered(scene, "grouped", group="import-17")
    async with inspecting(browser, size=size) as seen:
        await seen.open(scene.bridge.url)
        await seen.says(grouped, "processing")
        await limit_to(seen, "user:7")
        await expect(seen.row(grouped)).to_have_count(0)
        await expect(seen.row(tagged)).to_have_count(1)
        await seen.select(tagged)
        await expect(seen.page.locator("#workspace")).to_contain_text("user:7")
        assert await seen.findings() == []
        await limit_to(seen, "import-17")
        await expect(seen.row(grouped)).to_have_count(1)
        await limit_to(seen, "")
        await expect(seen.row(tagged)).to_have_count(1)
        await expect(seen.row(grouped)).to_have_count(1)


async def test_a_word_that_nothing_has_is_said(browser: Browser, scene: Scene) -> None:
    task = await registered(scene, "any", tags=["user:8"])
    async with inspecting(browser, expected=[GONE]) as seen:
        await seen.open(scene.bridge.url)
        await seen.says(task, "processing")
        await limit_to(seen, "user:nobody")
        await expect(seen.row(task)).to_have_count(0)
        await expect(seen.page.locator("#empty-filtered")).to_be_visible()
        await expect(seen.page.locator("#empty-filtered")).to_contain_text("user:nobody")
        await expect(seen.page.locator("#empty-all")).to_be_hidden()
        await limit_to(seen, "no word")
        await expect(seen.page.locator("#problem")).to_contain_text("tag or group")
        await limit_to(seen, "user:8")
        await expect(seen.row(task)).to_have_count(1)
        await expect(seen.page.locator("#problem")).to_be_hidden()


async def test_an_answer_for_the_word_before_changes_nothing(browser: Browser, scene: Scene) -> None:
    mine = await registered(scene, "mine", tags=["user:9"])
    other = await registered(scene, "other", tags=["user:10"])
    held: asyncio.Event = asyncio.Event()
    waiting: asyncio.Event = asyncio.Event()

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        if held.is_set():
            await route.fulfill(response=answer)
            return
        waiting.set()
        await held.wait()
        await route.fulfill(response=answer)

    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        await seen.says(other, "processing")
        await seen.page.route("**/inspector/tasks", hold)
        await waiting.wait()
        await limit_to(seen, "user:9")
        await expect(seen.row(other)).to_have_count(0)
        async with seen.page.expect_response("**/inspector/tasks"):
            held.set()
        await seen.page.evaluate("() => new Promise((done) => setTimeout(done))")
        assert await seen.row(other).count() == 0
        assert await seen.row(mine).count() == 1

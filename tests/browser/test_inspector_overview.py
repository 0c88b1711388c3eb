"""What the inspector shows of many tasks, of upstreams that fail, and of results that do not load."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Route, expect

from tests.browser.inspecting import GONE, inspecting, shared_browser, shared_loop
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

anyio_backend, browser = shared_loop, shared_browser

MANY, ENDED = 500, 50
UNKNOWN = "\N{EN DASH}"
SILENT_CLIP = (
    b"RIFF\x34\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00"
    b"\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00"
    b"data\x10\x00\x00\x00" + b"\x80" * 16
)


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def done(scene: Scene, kind: str, url: str) -> str:
    task = scene.id(kind)
    result = {f"{kind}s": [{"url": [url], "expires_at": 4102444800}]}
    ref = await scene.script("qingbo", task, qingbo(task, "completed", 100, result=result))
    assert (await scene.get(path_of(ref))).status == 200
    return ref


@pytest.mark.parametrize("kind", ["video", "audio", "image"])
async def test_a_result_that_does_not_load_is_a_sentence_and_a_link(
    browser: Browser, scene: Scene, kind: str
) -> None:
    url = f"https://broken.example/result.{kind}"
    ref = await done(scene, kind, url)
    async with inspecting(browser, expected=[GONE]) as seen:
        for address in (
            "https://broken.example/**",
            "**/outputs/0",
        ):  # neither from the provider nor the bridge
            await seen.page.route(address, lambda route: route.fulfill(status=403))
        await seen.open(scene.bridge.url)
        await seen.select(ref)
        await expect(seen.page.locator("#outputs .unloaded")).to_contain_text("cannot be shown here")
        await expect(seen.page.locator("#outputs :is(video, audio, img)")).to_have_count(0)
        await expect(seen.page.locator("#outputs .unloaded a")).to_have_attribute("href", url)


async def test_the_time_left_is_in_words_by_the_bridges_clock(browser: Browser) -> None:
    moments: dict[str, Any] = {}

    async def serve(route: Route) -> None:
        body = await (await route.fetch()).json()
        for row in body["tasks"]:
            row.update(moments)
        # An hour ahead of this machine, and without a tag: each list is taken.
        await route.fulfill(json=body | {"now": "2030-01-01T12:00:00.000Z"})

    async with stage() as made, inspecting(browser) as seen:
        task = made.id()
        ref = await made.script("qingbo", task, qingbo(task, "processing", 3))
        await made.get(path_of(ref))
        await seen.page.route("**/inspector/tasks", serve)
        moments.update(eta_at="2030-01-01T12:02:05.000Z", eta_by="2030-01-01T12:03:00.000Z")
        await seen.open(made.bridge.url)
        await seen.select(ref)
        await expect(seen.row(ref)).to_contain_text(re.compile("about 2 min 0[0-5] s"))
        await expect(seen.page.locator("#details-line")).to_contain_text(
            re.compile("about 2 min 0[0-5] s left")
        )
        moments.update(eta_at="2030-01-01T11:59:00.000Z")
        await expect(seen.row(ref)).to_contain_text("should finish soon")
        moments.update(eta_by="2030-01-01T11:59:30.000Z")
        await expect(seen.row(ref)).to_contain_text("taking longer than usual")
        await expect(seen.page.locator("#details-line")).to_contain_text("taking longer than usual")


async def test_a_sound_is_played_in_the_page(browser: Browser, scene: Scene) -> None:
    ref = await done(scene, "audio", "https://cdn.example/a.wav")
    async with inspecting(browser) as seen:

        async def serve(route: Route) -> None:
            await route.fulfill(body=SILENT_CLIP, content_type="audio/wav")

        await seen.page.route("https://cdn.example/a.wav", serve)
        await seen.open(scene.bridge.url)
        await seen.select(ref)
        await seen.page.wait_for_function("() => document.querySelector('#outputs audio')?.readyState >= 1")
        assert await seen.page.locator(".unloaded").count() == 0


async def test_progress_that_is_unknown_is_indeterminate(browser: Browser, scene: Scene) -> None:
    task = scene.id("strange")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", progress=None))
    await scene.get(path_of(ref))
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        await seen.says(ref, "processing", UNKNOWN)
        bar = seen.row(ref).locator("progress")
        assert await bar.evaluate("(bar) => bar.position") == -1
        assert await bar.evaluate("(bar) => getComputedStyle(bar).animationName") != "none"
        await seen.page.emulate_media(reduced_motion="reduce")
        assert await bar.evaluate("(bar) => getComputedStyle(bar).animationName") == "none"
        await scene.then("qingbo", task, qingbo(task, "failed", progress=None))
        await seen.says(ref, "failed")
        await expect(bar).to_be_hidden()


async def test_an_open_task_that_nobody_polls_says_so_and_is_not_followed(browser: Browser) -> None:
    async with stage(linger_seconds=0.1) as made, inspecting(browser) as seen:
        task = made.id()
        ref = await made.script("qingbo", task, qingbo(task, "processing", 40))
        assert (await made.get(path_of(ref))).status == 200

        async def watched() -> bool:
            return bool((await made.get("/inspector/tasks")).json["tasks"][0]["watched"])

        await until(watched, value=False)
        await seen.open(made.bridge.url)
        await expect(seen.row(ref)).to_contain_text("not polled")
        await seen.connected("Waiting for tasks")
        asked = made.ledger.of("qingbo", task)
        await seen.page.wait_for_timeout(1500)
        assert made.ledger.of("qingbo", task) == asked
        await seen.row(ref).get_by_role("button", name=f"Watch {ref}").click()
        await seen.connected("Live")
        await expect(seen.row(ref)).not_to_contain_text("not polled")


async def test_an_upstream_that_rejects_the_key_is_red_with_its_reason(browser: Browser) -> None:
    also = {"off": {"preset": "qingbo", "enabled": False}}
    async with stage(also=also) as made, inspecting(browser, expected=[GONE]) as seen:
        await seen.open(made.bridge.url)
        upstreams = seen.page.locator("#upstream-health li")
        await expect(upstreams.filter(has_text="qingbo")).to_have_attribute("data-state", "INITIALIZING")
        await made.faults(qingbo=["401"])
        task = made.id()
        await made.script("qingbo", task, qingbo(task, "processing"))
        async with made.events(f"qingbo/{task}") as stream:
            await stream.notice("credential_refused")
        broken = seen.page.locator("#upstream-health [data-state=INTERRUPTED]")
        await expect(broken).to_contain_text(
            "the provider rejects the bridge's key for the upstream 'qingbo'"
        )
        await expect(seen.page.locator("#announcer")).to_contain_text("qingbo is interrupted")
        await expect(upstreams.filter(has_text="switched off")).to_have_attribute("data-state", "OFF")
        schemes: tuple[Any, ...] = ("light", "dark")
        for scheme in schemes:
            await seen.page.emulate_media(color_scheme=scheme)
            assert await seen.findings() == []


async def test_characters_that_turn_text_around_are_shown_as_escapes(browser: Browser, scene: Scene) -> None:
    task = scene.id("\u202egnp.exe\u2066")
    error = {"code": "\u202eedoc", "message": "\u2067right to left"}
    ref = await scene.script("qingbo", task, qingbo(task, "failed", error=error))
    await scene.get(path_of(ref))
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        await seen.row(ref).locator("button.ref").click()
        await expect(seen.page.locator("#details-heading")).to_have_text(
            ref.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
        )
        await expect(seen.page.locator("#details-error")).to_contain_text("\\u202eedoc")
        shown = await seen.page.evaluate("() => document.body.innerText")
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", shown)


async def test_equal_frames_are_counted_and_each_opens_to_its_raw_text(
    browser: Browser, scene: Scene
) -> None:
    task = scene.id("folded")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url, ref)
        await seen.says(ref, "processing", "10 %")
        await scene.then("qingbo", task, qingbo(task, "processing", 20))
        line = seen.page.locator("#frames li").filter(has_text="progress 10 → 20")
        await line.locator("summary").press("Enter")
        await expect(line.locator("pre")).to_contain_text('"progress":20')
        await line.locator("summary").press("Enter")
        await expect(line.locator("pre")).to_have_count(0)


async def test_the_page_holds_five_hundred_tasks_that_all_change(browser: Browser, scene: Scene) -> None:
    base = (await scene.get("/inspector/tasks")).json
    listed = 0

    def row(number: int, **more: Any) -> dict[str, Any]:
        at = f"2026-11-29T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000Z"
        empty = dict.fromkeys(("eta_seconds", "model", "created_at", "error"))
        seen = {"first_seen_at": at, "changed_at": at, "source": "poll", "watched": False, "viewers": 0}
        return {"task": f"qingbo/many-{number:04}", "status": "processing"} | empty | seen | more

    async def serve(route: Route) -> None:
        nonlocal listed
        listed += 1
        rows = [
            row(number, progress=(number + listed) % 100, changed_at=f"2026-11-30T00:00:{listed:02}.000Z")
            for number in range(MANY)
        ]
        rows += [row(MANY + number, progress=100, status="completed") for number in range(ENDED)]
        await route.fulfill(json=base | {"tasks": rows, "more": True})

    async with inspecting(browser, expected=[GONE]) as seen:  # a task that the bridge does not know
        await seen.page.route("**/inspector/tasks", serve)
        await seen.page.add_init_script(
            "window.drawn = 0; (function step() { drawn += 1; requestAnimationFrame(step); })()"
        )
        await seen.open(scene.bridge.url)
        await expect(seen.page.locator("#rows tr")).to_have_count(MANY + ENDED)
        before, begun = await seen.page.evaluate("() => drawn"), listed
        while listed < begun + 3:
            await seen.page.wait_for_timeout(100)
        assert await seen.page.evaluate("() => drawn") - before > 15  # 54 a second on a free core
        await seen.row("qingbo/many-0250").locator("button.ref").click()
        await expect(seen.page.locator("#details-heading")).to_have_text("qingbo/many-0250")

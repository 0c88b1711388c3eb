"""The inspector page works in a browser."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from playwright.async_api import Browser, expect

from tests.browser.inspecting import FILES, GONE, PIXEL, Inspector, inspecting, shared_browser, shared_loop
from tests.chaos.site import site, studio
from tests.e2e.scene import Scene, path_of, stage
from tests.e2e.test_commands import started
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

VIA = {"sse": "SSE", "websocket": "WebSocket", "longpoll": "Long-poll"}

anyio_backend, browser = shared_loop, shared_browser


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(keepalive_seconds=1, linger_seconds=1) as made:
        yield made


async def running(scene: Scene, name: str = "task", progress: int = 10) -> str:
    task = scene.id(name)
    return await scene.script("qingbo", task, qingbo(task, "processing", progress))


async def moves(scene: Scene, ref: str, progress: int) -> None:
    task = ref.partition("/")[2]
    await scene.then("qingbo", task, qingbo(task, "processing", progress))


async def ends(scene: Scene, ref: str) -> None:
    task = ref.partition("/")[2]
    await scene.then("qingbo", task, qingbo_done(task))


@pytest.mark.parametrize("via", VIA)
async def test_a_task_is_seen_moving_to_its_end(browser: Browser, scene: Scene, via: str) -> None:
    ref = await running(scene)
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        await seen.deliver_by(VIA[via])
        await seen.page.get_by_label("Task ref").fill(f"{scene.bridge.url}{path_of(ref)}/events")
        await seen.page.keyboard.press("Enter")
        await seen.says(ref, "processing", "10 %")
        await seen.connected(f"Live via {VIA[via]}, 1 task")
        await moves(scene, ref, 60)
        await seen.says(ref, "processing", "60 %")
        assert await seen.row(ref).locator("progress").evaluate("(bar) => bar.value") == 60
        await ends(scene, ref)
        await seen.says(ref, "completed", "100 %")
        await seen.connected("All watched tasks are final")
        await expect(seen.page.locator("#frames .fold").filter(has_text="progress 10 → 60")).to_have_count(1)
        assert await seen.page.locator("#frames pre").count() == 0
        await seen.page.get_by_role("button", name="Raw").click()
        await expect(seen.page.locator("#frames pre").first).to_be_visible()
        frames = " ".join(await seen.page.locator("#frames pre").all_text_contents())
        assert '"progress":60' in frames
        assert f"watch={ref}" in seen.page.url
        link = seen.page.locator("#outputs a")
        assert await link.get_attribute("href") == "https://cdn.example/v.mp4"
        assert await link.get_attribute("rel") == "noopener noreferrer"
        steps = await seen.page.locator("#timeline li .what").all_text_contents()
        assert steps == ["processing 10 %", " 60 %", "completed"]


async def test_the_timeline_begins_before_the_page_came(browser: Browser, scene: Scene) -> None:
    ref = await running(scene)
    async with scene.events(ref) as stream:
        await stream.state()
        await moves(scene, ref, 40)
        await stream.state()
        async with inspecting(browser) as seen:
            await seen.open(scene.bridge.url, ref)
            await expect(seen.page.locator("#timeline li")).to_have_count(2)
            # When it is polled next, and why then.
            why = re.compile(
                "next poll (now|in).* · reason: (its progress|nothing known|how long such tasks)"
            )
            await expect(seen.page.locator("#details-poll")).to_contain_text(why)


async def test_what_others_watch_is_listed_while_the_page_watches_something_else(
    browser: Browser, scene: Scene
) -> None:
    ref, own = await running(scene), await running(scene)
    async with scene.events(ref) as stream, inspecting(browser) as seen:
        await stream.state()
        await seen.open(scene.bridge.url, own)
        await seen.says(ref, "processing", "10 %")
        viewers = seen.row(ref).locator("td").nth(5)
        await expect(viewers).to_have_text("1")
        await moves(scene, ref, 30)
        await seen.says(ref, "processing", "30 %")  # by the list alone
        await seen.page.get_by_role("button", name="Watch all open").click()
        await seen.connected("Live")
        await expect(viewers).to_have_text("2")
        await seen.row(ref).get_by_role("button", name=f"Stop {ref}").click()
        await expect(viewers).to_have_text("1")
        await ends(scene, ref)
        await ends(scene, own)


async def test_with_nothing_asked_for_it_follows_what_is_open_and_what_comes_and_keeps_what_ended(
    browser: Browser,
) -> None:
    async with stage(linger_seconds=1) as scene, inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        await seen.connected("Waiting for tasks")
        await expect(seen.page.locator("#empty")).to_be_visible()
        refs = []
        for number in range(3):
            refs.append(await running(scene, f"task-{number}"))
            async with scene.events(refs[-1]) as stream:
                await stream.state()
                await seen.says(refs[-1], "processing", "10 %")
                await seen.connected(f"Live via SSE, {number + 1} task")
        rows = seen.page.locator("#rows tr")
        assert await rows.evaluate_all("(rows) => rows.map((row) => row.dataset.task)") == refs[::-1]
        await expect(seen.page.locator("#details-heading")).to_have_text(refs[0])  # the first stays selected
        await moves(scene, refs[1], 60)
        await seen.says(refs[1], "processing", "60 %")
        await ends(scene, refs[2])
        await seen.says(refs[2], "completed", "100 %")
        await expect(rows.last).to_have_attribute("data-task", refs[2])
        await ends(scene, refs[0])
        await expect(seen.page.locator("#outputs a")).to_have_attribute("href", "https://cdn.example/v.mp4")
        assert seen.page.url == f"{scene.bridge.url}/"
        await seen.page.reload()
        for ref in (refs[0], refs[2]):
            await seen.says(ref, "completed", "100 %")
        await seen.says(refs[1], "processing", "60 %")


async def test_kill_9_and_a_restart_under_the_page(browser: Browser, tmp_path: Path) -> None:
    lives = [{"queue_seconds": 1, "run_seconds": 4 + number} for number in range(3)]
    async with studio() as provider, site(provider.url, tmp_path / "kill.db") as bridge:
        refs = await provider.submit(lives)
        async with inspecting(browser, expected=[GONE]) as seen:
            await seen.open(bridge.url, *refs)
            provider.advance(2)
            for ref in refs:
                await seen.says(ref, "processing")
            await bridge.end(signal.SIGKILL)
            await seen.connected("Connection lost")
            provider.advance(20)
            await bridge.start()
            for ref in refs:
                await seen.says(ref, "completed", "100 %")
            await seen.connected("All watched tasks are final")


@pytest.mark.parametrize("via", ["sse", "longpoll"])  # a WebSocket takes none of the six connections
async def test_forty_tasks_share_what_a_browser_has(browser: Browser, scene: Scene, via: str) -> None:
    refs = [await running(scene, "many") for _ in range(40)]
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url, *refs, via=via)
        followed = seen.page.locator("tr[data-followed] .status")
        await expect(followed.filter(has_text="processing")).to_have_count(40)
        if via == "sse":
            await scene.reaches('bridge_connections{delivery="sse"}', 1)
        async with asyncio.timeout(10):  # there is room for what else a page asks
            assert await seen.page.evaluate("() => fetch('livez').then((one) => one.status)") == 200
        await asyncio.gather(*(ends(scene, ref) for ref in refs))
        await expect(followed.filter(has_text="completed")).to_have_count(40)
        await seen.connected("All watched tasks are final")


async def test_a_slow_network(browser: Browser, scene: Scene) -> None:
    refs = [await running(scene) for _ in range(5)]
    async with inspecting(browser) as seen:
        network = await seen.page.context.new_cdp_session(seen.page)
        await network.send("Network.enable")
        slow = {"offline": False, "latency": 300, "downloadThroughput": 40_000, "uploadThroughput": 10_000}
        await network.send("Network.emulateNetworkConditions", slow)
        await seen.open(scene.bridge.url, *refs)
        for ref in refs:
            await seen.says(ref, "processing", "10 %")
        for ref in refs:
            await ends(scene, ref)
        for ref in refs:
            await seen.says(ref, "completed", "100 %")


async def test_one_bad_ref_keeps_nobody_else_out(browser: Browser, scene: Scene) -> None:
    good, strange, missing = await running(scene), "nobody/task-1", "qingbo/never-was"
    async with inspecting(browser, expected=[GONE]) as seen:
        await seen.open(scene.bridge.url, good, strange, missing)
        await seen.says(good, "processing", "10 %")
        await seen.says(strange, "rejected")
        await seen.says(missing, "rejected")
        await seen.select(strange)
        await expect(seen.page.locator("#remarks")).to_contain_text("no upstream 'nobody'")
        await moves(scene, good, 70)
        await seen.says(good, "processing", "70 %")


async def test_nothing_but_a_task_ref_is_taken(browser: Browser, scene: Scene) -> None:
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        field = seen.page.get_by_label("Task ref")
        for wrong in ("task-1", "Qingbo/task", "qingbo/", f"qingbo/{'x' * 1025}"):
            await field.fill(wrong)
            await field.press("Enter")
            await expect(seen.page.get_by_role("alert")).to_contain_text("task")
            assert await field.get_attribute("aria-invalid") == "true"
        assert seen.page.url == f"{scene.bridge.url}/"


HOSTILE = "<img src=x onerror=pwned(1)>'\"; $(touch pwned) `touch pwned` / javascript:pwned(2)"


async def test_what_a_provider_says_is_never_more_than_text(browser: Browser, tmp_path: Path) -> None:
    urls = [
        "javascript:pwned(3)",
        "data:text/html,<script>opener.pwned(4)</script>",
        "http://router.invalid/reboot",
        "//elsewhere.invalid/x.png",
        '"><script>pwned(5)</script>',
    ]
    error = {"code": HOSTILE, "message": HOSTILE + "</p><script>pwned(6)</script>"}
    failed = qingbo(HOSTILE, "failed", 50, error=error, model=HOSTILE)
    done = qingbo("hostile", "completed", 100, result={"images": [{"url": urls}]})
    async with stage() as scene, inspecting(browser, expected=[GONE]) as seen:
        await seen.page.unroute(FILES)
        refs = [
            await scene.script("qingbo", HOSTILE, failed),
            await scene.script("qingbo", "hostile", done),
        ]
        await seen.open(scene.bridge.url)
        for ref in refs:
            await seen.page.get_by_label("Task ref").fill(ref)
            await seen.page.keyboard.press("Enter")
            await expect(seen.row(ref)).to_be_visible()
        await seen.says(refs[0], "failed")
        await seen.says(refs[1], "completed")
        await expect(seen.page.locator("#outputs li").first).to_be_visible()
        links = await seen.page.locator("#outputs a").evaluate_all("(all) => all.map((one) => one.href)")
        assert sorted(links) == ["http://elsewhere.invalid/x.png", "http://router.invalid/reboot"]
        # The bridge cannot get them, and the page asks nobody else on its own.
        await expect(seen.page.get_by_role("button", name="Load this")).to_have_count(2)
        assert await seen.page.locator("#outputs img, #outputs video").count() == 0
        await seen.select(refs[0])
        await expect(seen.page.locator("#details-error")).to_contain_text("<script>pwned(6)</script>")
        await seen.tab("Code")
        for via, name in VIA.items():
            await seen.deliver_by(name)
            curl = await seen.page.locator("#code-curl").text_content() or ""
            assert "touch" in curl
            if via == "sse":
                said = await shell(curl, tmp_path)
                assert '"status":"failed"' in said
        assert left_in(tmp_path) == []
        hosts = {re.match(r"\w+:(?://[^/]+)?", one.url)[0] for one in seen.asked}
        assert hosts == {scene.bridge.url}


async def test_the_page_trusts_not_even_the_bridge(browser: Browser, scene: Scene) -> None:
    ref = await running(scene, "trusted")
    state = (await scene.get(path_of(ref))).json
    urls = [
        "javascript:pwned(1)",
        "JAVASCRIPT:pwned(2)",
        "data:text/html,<script>pwned(3)</script>",
        " vbscript:x",
    ]
    outputs = [{"type": kind, "url": url} for url in urls for kind in ("image", "video", "file", HOSTILE)]
    body = f"data: {orjson.dumps(state | {'outputs': outputs}).decode()}\n\n"
    async with inspecting(browser) as seen:
        await seen.page.route(
            "**/events*", lambda route: route.fulfill(body=body, content_type="text/event-stream")
        )
        await seen.open(scene.bridge.url, ref)
        await expect(seen.page.locator("#outputs li")).to_have_count(len(outputs))
        assert await seen.page.locator("#outputs :is(a, img, video, audio, script)").count() == 0
        await expect(seen.page.locator("#outputs")).to_contain_text("not an http URL: javascript:pwned(1)")


def left_in(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


async def shell(lines: str, folder: Path, **more: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", lines, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        said, complained = await process.communicate()
    assert process.returncode == 0, (lines, complained)
    return said.decode()


@pytest.mark.parametrize("via", VIA)
async def test_the_lines_to_copy_do_what_the_page_does(
    browser: Browser, scene: Scene, via: str, tmp_path: Path
) -> None:
    ref = await scene.script("qingbo", task := scene.id('it\'s "one" ☃'), qingbo_done(task))
    async with inspecting(browser, expected=[GONE]) as seen:
        await seen.open(scene.bridge.url, via=via)
        await seen.page.get_by_label("Task ref").fill(ref)
        await seen.page.keyboard.press("Enter")
        await seen.says(ref, "completed")
        await seen.tab("Code")
        lines = {
            name: await seen.page.locator(f"#code-{name}").text_content() or ""
            for name in ("curl", "javascript", "python")
        }
        if via != "websocket":
            assert '"status":"completed"' in await shell(lines["curl"], tmp_path)
        script = tmp_path / "watch.py"
        script.write_text(lines["python"])
        assert f"{ref} completed 100" in await shell(f"{sys.executable} watch.py", tmp_path)
        async with seen.page.expect_console_message(lambda said: said.text == f"{ref} completed 100"):
            await seen.page.evaluate(f"async () => {{ {lines['javascript']}\n }}")


async def test_copied_is_what_is_shown(browser: Browser, scene: Scene, tmp_path: Path) -> None:
    ref = await running(scene)
    async with inspecting(browser, permissions=["clipboard-read", "clipboard-write"]) as seen:
        await seen.open(scene.bridge.url, ref)
        await seen.tab("Code")
        button = seen.page.get_by_role("button", name="Copy the curl code")
        await button.click()
        await expect(button).to_have_text("Copied")
        copied = await seen.page.evaluate("() => navigator.clipboard.readText()")
        assert copied == f"curl -N '{scene.bridge.url}{path_of(ref)}/events'"
        await seen.tab("Submit")
        await seen.page.get_by_label("Upstream", exact=True).select_option("qingbo")
        await seen.page.get_by_label("Body").fill('{"model": "veo3", "prompt": "it\'s $(touch pwned)"}')
        await seen.page.get_by_role("button", name="Copy as curl").click()
        await expect(seen.page.get_by_role("button", name="Copied")).to_be_visible()
        copied = await seen.page.evaluate("() => navigator.clipboard.readText()")
        assert '"status":"queued"' in await shell(copied, tmp_path)
        assert left_in(tmp_path) == []


async def test_everything_can_be_done_from_the_keyboard(browser: Browser, scene: Scene) -> None:
    ref = await running(scene)
    other = await running(scene)
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        press, focused = seen.page.keyboard.press, seen.page.locator(":focus")
        await press("Tab")
        await expect(focused).to_have_text("Skip to the tasks")
        await press("Enter")
        await press("Tab")
        await expect(focused).to_have_id("ref")
        for one in (ref, other):
            await seen.page.keyboard.type(one)
            await press("Enter")
            await seen.says(one, "processing")
        await tab_to(seen, "button.ref")
        assert await focused.get_attribute("title") == other  # it is selected
        await press("End")
        await press("Home")
        chosen = await focused.get_attribute("title")
        assert chosen == ref
        await press("Enter")
        await expect(seen.page.locator("#details-heading")).to_have_text(chosen or "")
        await tab_to(seen, "#cancel")
        await press("Enter")
        await expect(seen.page.get_by_role("dialog")).to_be_visible()
        await press("Escape")
        await expect(seen.page.get_by_role("dialog")).to_be_hidden()
        await expect(focused).to_have_id("cancel")
        await tab_to(seen, "[role=tab]")
        for name in ("Code", "Submit", "Self-test", "Webhooks", "Bridge", "Frames"):
            await press("ArrowRight")
            await expect(focused).to_have_text(name)
            await expect(seen.page.get_by_role("tabpanel", name=name)).to_be_visible()
        await tab_to(seen, "[name=via]", key="Shift+Tab")
        await press("ArrowRight")
        await seen.connected("Live via WebSocket, 2 tasks")


_RING = "(node) => getComputedStyle(node.type === 'radio' ? node.nextSibling : node).outlineStyle"


async def tab_to(seen: Inspector, selector: str, *, key: str = "Tab") -> None:
    """Go on until such a thing has the focus, which must be seen."""
    for _ in range(60):
        await seen.page.keyboard.press(key)
        focused = seen.page.locator(":focus")
        if await focused.count() and await focused.evaluate("(node, one) => node.matches(one)", selector):
            ring = await focused.evaluate(_RING)
            assert ring == "solid", selector
            return
    raise AssertionError(f"no {selector} in the order of the Tab key")


async def test_submit_and_cancel(browser: Browser, scene: Scene) -> None:
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        await seen.tab("Submit")
        await seen.page.get_by_label("Upstream", exact=True).select_option("qingbo")
        await seen.page.get_by_label("Body").fill("{")
        await seen.page.get_by_role("button", name="Submit", exact=True).click()
        await expect(seen.page.locator("#submit-result")).to_contain_text("not JSON")
        await seen.page.get_by_label("Body").fill('{"model": "veo3", "prompt": "a lighthouse"}')
        await seen.page.get_by_role("button", name="Submit", exact=True).click()
        await expect(seen.page.locator("#submit-result")).to_contain_text("Created qingbo/")
        ref = await seen.page.locator("#details-heading").text_content() or ""
        await seen.says(ref, "queued", "0 %")
        await seen.page.get_by_role("button", name="Cancel task").click()
        await seen.page.get_by_role("button", name="Keep task").click()
        await seen.says(ref, "queued")
        await seen.page.get_by_role("button", name="Cancel task").click()
        await seen.page.get_by_role("button", name="Cancel the task").click()
        await seen.says(ref, "cancelled")
        await expect(seen.page.get_by_role("button", name="Cancel task")).to_be_hidden()


async def test_the_plots_and_the_upstreams(browser: Browser, scene: Scene) -> None:
    ref = await running(scene)
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url, ref)
        await seen.tab("Bridge")
        await expect(seen.page.locator("#plot-connections-value")).to_have_text(re.compile(r"^[1-9]"))
        await expect(seen.page.locator("#plot-latency-value")).to_have_text(re.compile(r"^\d+ ms"))
        await expect(seen.page.locator(".plot canvas")).to_have_count(3)
        await expect(seen.page.get_by_role("rowheader", name="qingbo", exact=True)).to_be_visible()


async def test_outputs_that_came_as_bytes_are_shown_when_asked_for(browser: Browser, scene: Scene) -> None:
    picture = b64encode(PIXEL).decode()
    body = {"code": 0, "data": {"status": "Success", "binary_data_base64": [picture]}, "message": "success"}
    ref = await scene.script("vapi", scene.id(), answer(body))
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url, ref)
        await seen.says(ref, "completed")
        assert await seen.page.locator("#outputs img").count() == 0
        await seen.page.get_by_role("button", name=re.compile("Show this")).click()
        await expect(seen.page.locator("#outputs img")).to_have_js_property("naturalWidth", 1)


async def test_the_link_of_the_demo_shows_its_tasks_moving(browser: Browser) -> None:
    async with started("demo", "--port", "0", "--speed", "4") as process:
        link = await line_with(process, r"http://\S+/$")
        async with inspecting(browser, expected=[GONE]) as seen:
            await seen.page.goto(link)
            await expect(seen.page.locator("#rows tr").nth(4)).to_be_visible()
            await expect(seen.page.locator("#rows")).to_contain_text("completed")
        process.terminate()
        assert await process.wait() == 0


async def line_with(process: Any, pattern: str) -> str:
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode():
            if found := re.search(pattern, line):
                return found[0]
    raise AssertionError(f"nothing like {pattern}")

"""The self-test of the inspector detects harmful proxies, and reports nothing without one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from playwright.async_api import Browser, Route, expect

from tests.browser.inspecting import GONE, Inspector, inspecting, shared_browser, shared_loop
from tests.chaos.proxy import GOOD, proxied
from tests.e2e.scene import Scene, stage

pytestmark = pytest.mark.anyio

anyio_backend, browser = shared_loop, shared_browser


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(keepalive_seconds=2) as made:
        yield made


async def begin(seen: Inspector, base: str) -> None:
    await seen.open(base)
    await seen.tab("Self-test")
    await seen.page.get_by_role("button", name="Run self-test").click()


async def outcome(seen: Inspector) -> dict[str, list[str]]:
    """The sentences of a finished test, by verdict."""
    await expect(seen.page.locator("#selftest-progress")).to_have_text("Finished.")
    items = seen.page.locator("#selftest-findings li")
    told = await items.evaluate_all("(all) => all.map((one) => [one.dataset.verdict, one.textContent])")
    return {verdict: [text for one, text in told if one == verdict] for verdict in ("good", "bad", "info")}


async def test_nothing_stands_between(browser: Browser, scene: Scene) -> None:
    async with inspecting(browser) as seen:
        await begin(seen, scene.bridge.url)
        told = await outcome(seen)
        assert told["bad"] == []
        assert [re.sub(r"\d+ ms", "N ms", one) for one in told["good"]] == [
            "Round-trip time of a request: N ms.",
            "Events arrive without delay: at most N ms late.",
            "Idle connection stayed open for 2 s, the interval of keepalives.",
            "The stream is not compressed.",
            "WebSocket works: ping time N ms.",
        ]
        assert "six connections" in told["info"][0]


async def test_a_proxy_that_holds_events_back(browser: Browser, scene: Scene) -> None:
    async with proxied(scene.bridge.url) as proxy, inspecting(browser) as seen:
        await begin(seen, proxy.url)
        await expect(seen.page.locator("#selftest-progress")).to_contain_text("Event 1")
        proxy.behave(replace(GOOD, delay=1.5))
        told = await outcome(seen)
        held = re.search(r"delays events by (\S+) s", told["bad"][0])
        assert held
        assert 1.0 <= float(held[1]) <= 4.0


async def test_a_proxy_that_cuts_silence(browser: Browser, scene: Scene) -> None:
    async with proxied(scene.bridge.url) as proxy, inspecting(browser, expected=[GONE]) as seen:
        await begin(seen, proxy.url)
        await expect(seen.page.locator("#selftest-progress")).to_contain_text("on an idle stream")
        proxy.reset_all()
        told = await outcome(seen)
        assert re.search(r"cut after [0-2] s without data", told["bad"][0])


async def test_a_proxy_that_compresses_and_passes_no_websocket(browser: Browser, scene: Scene) -> None:
    async def compress(route: Route) -> None:
        beats = [f'data: {{"beat":{n},"of":2,"elapsed_ms":0}}\n\n' for n in range(2)]
        body = "".join([*beats, 'event: end\ndata: {"beat":2,"of":2,"elapsed_ms":0}\n\n'])
        await route.fulfill(body=body, headers={"Content-Encoding": "x-proxy"})

    async with inspecting(browser, expected=["WebSocket connection"]) as seen:
        await seen.page.route("**/inspector/pulse", compress)
        await seen.page.route_web_socket("**/v1/ws", lambda socket: socket.close(code=1008))
        await begin(seen, scene.bridge.url)
        told = await outcome(seen)
        assert "compresses the stream (x-proxy)" in told["bad"][0]
        assert "WebSocket connections fail" in told["bad"][1]

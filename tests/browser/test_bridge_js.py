"""`/bridge.js` in Chromium, on a page of another origin, against the running bridge."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser

from tests.browser.chromium import launch_chromium, one_page, origin
from tests.browser.tabs import PAGE, Tab, opened
from tests.chaos.balancer import balanced
from tests.chaos.proxy import HOLE, Manners, proxied
from tests.chaos.site import Site, Studio, metric, site, studio
from tests.contract.clients.tap import tapped
from tests.e2e.scene import path_of
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.fakes.fronts import BAD_GATEWAY, holding, scripted
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

OPEN_TO_PAGES: dict[str, Any] = {"allowed_origins": '["*"]', "keepalive_seconds": 0.3}
LIFE = {"queue_seconds": 1, "run_seconds": 9, "outcome": "completed"}
SHORT_LIFE = LIFE | {"run_seconds": 3}
STREAMS = 'bridge_connections{delivery="sse"}'


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One browser and one bridge for most of the tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def chromium(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium() as made:
        yield made


@pytest.fixture(scope="module")
async def pages(anyio_backend: str) -> AsyncIterator[str]:
    async with origin(one_page(PAGE)) as url:
        yield url


@pytest.fixture(scope="module")
async def provider(anyio_backend: str) -> AsyncIterator[Studio]:
    async with studio() as made:
        yield made


@pytest.fixture(scope="module")
async def bridge(provider: Studio) -> AsyncIterator[Site]:
    async with site(provider.url, **OPEN_TO_PAGES) as made:
        yield made


@pytest.fixture
async def open_tab(chromium: Browser, pages: str) -> AsyncIterator[Callable[[], Any]]:
    """Opens tabs of one context; none may stumble over its scripts."""
    context = await chromium.new_context()
    tabs: list[Tab] = []

    async def open_one() -> Tab:
        tabs.append(await opened(context, pages))
        return tabs[-1]

    yield open_one
    await context.close()
    assert [error for tab in tabs for error in tab.errors] == []


def stream(base: str, ref: str) -> str:
    return f"{base}{path_of(ref)}/events"


async def reaches(base: str, series: str, value: float) -> None:
    """Wait until a series of the bridge has that value."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(PATIENCE):
        while await metric(http, base, series) != value:  # noqa: ASYNC110 - nobody tells us from outside
            await asyncio.sleep(0.02)


@asynccontextmanager
async def passing(url: str) -> AsyncIterator[Any]:
    async with proxied(url) as proxy:
        yield proxy


async def test_without_a_token_the_browser_s_own_eventsource_does_it_all(
    provider: Studio, bridge: Site, open_tab: Callable[[], Any]
) -> None:
    (ref,) = await provider.submit([LIFE])
    tab = await open_tab()
    async with tapped(bridge.url) as tap:
        await tab.watch(bridge.url, stream(tap.url, ref))
        await tab.until_status(ref, "queued")
        provider.advance(5)
        await tab.until_status(ref, "processing")
        provider.advance(20)
        (final,) = (await tab.finished())["states"]
        await reaches(bridge.url, STREAMS, 0)
        assert tap.statuses == [200]
    assert (final["status"], final["outputs"][0]["type"]) == ("completed", "video")
    assert await tab.read("heard.filter(([kind]) => kind === 'done').length") == 1
    assert await tab.read("opened") == {"EventSource": 1, "fetch": 0}


async def test_the_browser_comes_back_by_itself_from_a_drain(
    provider: Studio, open_tab: Callable[[], Any]
) -> None:
    async with (
        site(provider.url, drain_seconds=0.5, **OPEN_TO_PAGES) as first,
        site(provider.url, **OPEN_TO_PAGES) as second,
        balanced(first, second) as balancer,
    ):
        (ref,) = await provider.submit([LIFE])
        tab = await open_tab()
        await tab.watch(second.url, stream(balancer.front.url, ref))
        await tab.until_status(ref, "queued")
        assert await first.bridge.stop() == 0
        provider.advance(20)
        (final,) = (await tab.finished())["states"]
        assert final["status"] == "completed"
        assert await tab.read("opened") == {"EventSource": 1, "fetch": 0}
        assert await tab.read("times('closing')") == 1


async def test_kill_9_and_a_gateway_s_html_in_its_place(
    provider: Studio, tmp_path: Path, open_tab: Callable[[], Any]
) -> None:
    async with (
        site(provider.url, tmp_path / "kill.db", **OPEN_TO_PAGES) as bridge,
        scripted([BAD_GATEWAY]) as gateway,
        passing(bridge.url) as front,
    ):
        (ref,) = await provider.submit([LIFE])
        tab = await open_tab()
        await tab.watch(bridge.url, stream(front.url, ref))
        await tab.until_status(ref, "queued")
        front.target = gateway.address
        await bridge.end(signal.SIGKILL)
        provider.advance(5)
        await tab.until_notice("reconnecting", 2)  # EventSource gave up for ever, and so fetch takes over
        await bridge.start()
        front.target = bridge.address
        await tab.until_status(ref, "processing")
        provider.advance(20)
        (final,) = (await tab.finished())["states"]
        assert final["status"] == "completed"
        assert await tab.read("times('reset')") == 0


async def test_a_task_that_is_not_there_is_an_error_with_its_code(
    bridge: Site, open_tab: Callable[[], Any]
) -> None:
    tab = await open_tab()
    await tab.watch(bridge.url, stream(bridge.url, "qingbo/nowhere"))
    failure = (await tab.finished())["failure"]
    assert (failure["name"], failure["code"], failure["status"]) == ("BridgeError", "task_not_found", 404)
    assert await tab.read("opened") == {"EventSource": 1, "fetch": 1}


async def test_a_token_goes_by_fetch_to_another_origin_and_comes_back_with_the_cursor(
    provider: Studio, open_tab: Callable[[], Any]
) -> None:
    (ref,) = await provider.submit([LIFE])
    settings = TOKEN_SETTINGS | {"token_secrets": TOKEN_SETTINGS["token_secrets"]}
    async with site(provider.url, **OPEN_TO_PAGES, **settings) as guarded, passing(guarded.url) as front:
        tab = await open_tab()
        await tab.watch(guarded.url, stream(front.url, ref), token=token(ref))
        await tab.until_status(ref, "queued")
        front.reset_all()
        await tab.until_notice("connected", 2)
        provider.advance(20)
        (final,) = (await tab.finished())["states"]
        assert final["status"] == "completed"
        assert await tab.read("opened") == {"EventSource": 0, "fetch": 2}


async def test_behind_a_proxy_that_holds_streams_back_the_page_polls(
    provider: Studio, bridge: Site, open_tab: Callable[[], Any]
) -> None:
    refs = await provider.submit([LIFE, LIFE])
    tab = await open_tab()
    async with holding(bridge.url) as proxy:
        await tab.watch(
            bridge.url, f"{proxy.url}/v1/events?task={refs[0]}&task={refs[1]}", firstByteSeconds=0.5
        )
        await tab.until_status(refs[1], "queued")
        provider.advance(20)
        states = (await tab.finished())["states"]
    assert {state["status"] for state in states} == {"completed"}
    assert await tab.read("times('buffered')") == 1


async def test_a_dead_line_is_noticed_after_a_sleep_and_by_its_silence(
    provider: Studio, bridge: Site, open_tab: Callable[[], Any]
) -> None:
    (ref,) = await provider.submit([LIFE])
    tab = await open_tab()
    async with passing(bridge.url) as front:
        await tab.watch(bridge.url, stream(front.url, ref), silenceSeconds=3)
        await tab.until_status(ref, "queued")
        front.behave(HOLE)
        front.choose(lambda _: Manners())
        provider.advance(5)
        await tab.page.evaluate("() => { const now = Date.now; Date.now = () => now() + 60_000; }")
        await tab.until_status(ref, "processing")
        assert await tab.read("times('reconnecting')") == 0
        front.behave(HOLE)
        front.choose(lambda _: Manners())
        provider.advance(20)
        (final,) = (await tab.finished())["states"]
    assert final["status"] == "completed"
    assert await tab.read("times('reconnecting')") == 1


async def test_when_the_network_is_back_it_does_not_wait_any_longer(
    provider: Studio, bridge: Site, open_tab: Callable[[], Any]
) -> None:
    (ref,) = await provider.submit([LIFE])
    tab = await open_tab()
    await tab.page.evaluate("() => { Math.random = () => 0.999; }")
    await tab.watch(bridge.url, stream(bridge.url, ref), token="any")
    await tab.until_status(ref, "queued")
    await tab.page.context.set_offline(True)
    await tab.page.evaluate("() => dispatchEvent(new Event('online'))")  # it takes the line for dead
    await tab.until_notice("reconnecting", 2)
    provider.advance(20)
    await tab.page.context.set_offline(False)
    (final,) = (await tab.finished())["states"]
    assert final["status"] == "completed"


async def test_tabs_share_one_connection_and_the_next_takes_over_when_its_tab_is_closed(
    provider: Studio, open_tab: Callable[[], Any]
) -> None:
    async with site(provider.url, **OPEN_TO_PAGES) as bridge, tapped(bridge.url) as tap:
        (ref, other) = await provider.submit([LIFE, SHORT_LIFE])
        url = f"{tap.url}/v1/events?task={ref}&task={other}"
        first = await open_tab()
        await first.watch(bridge.url, url, share=True)
        await first.until_status(ref, "queued")
        second, third = await open_tab(), await open_tab()
        for tab in (second, third):
            await tab.watch(bridge.url, url, share=True)
            await tab.until_status(ref, "queued")  # from the first, which tells what it knows
        provider.advance(5)
        for tab in (first, second, third):
            await tab.until_status(ref, "processing")
            await tab.until_status(other, "completed")
        await reaches(bridge.url, STREAMS, 1)
        assert tap.statuses == [200]
        await first.page.close()
        await second.until_notice("connected")
        await third.until_notice("connected")
        await reaches(bridge.url, STREAMS, 1)
        provider.advance(20)
        for tab in (second, third):
            states = (await tab.finished())["states"]
            assert [state["status"] for state in sorted(states, key=lambda one: one["task"] != ref)] == [
                "completed"
            ] * 2
            assert await tab.read("heard.filter(([kind]) => kind === 'done').length") == 2
        # the last one may be handed the lock before the last words, and asks for them itself
        assert tap.statuses[:2] == [200, 200]
        assert len(tap.statuses) <= 3

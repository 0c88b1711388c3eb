"""fal's own client, unchanged, on a page of another origin: its `proxyUrl` is the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.browser.chromium import launch_chromium, new_page, origin
from tests.contract.sdks.stage import HERE, LIFE, recorded_stage, run_node
from tests.e2e.scene import Scene
from tests.fakes.credentials import TOKEN_SETTINGS, token

pytestmark = pytest.mark.anyio

CATCH = "(input) => subscribe(input)"
TOKEN = token("fal/*", scope="read submit cancel")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One browser and one bridge for most of the tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def chromium(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium() as made:
        yield made


@pytest.fixture(scope="module")
async def pages(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    script: Path = tmp_path_factory.mktemp("fal") / "page.js"
    await run_node("bundle.mjs", str(HERE / "fal_page.js"), str(script))

    async def page(_: web.Request) -> web.Response:
        return web.Response(text='<script src="/page.js"></script>', content_type="text/html")

    async def file(_: web.Request) -> web.FileResponse:
        return web.FileResponse(script)

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/page.js", file)
    async with origin(app) as url:
        yield url


@pytest.fixture(scope="module")
async def scene(pages: str) -> AsyncIterator[Scene]:
    async with recorded_stage("fal", allowed_origins=[pages]) as made:
        yield made


@pytest.fixture
async def open_page(chromium: Browser, pages: str, scene: Scene) -> AsyncIterator[Callable[[], Any]]:
    """Opens pages, each with the client configured; none may stumble over its scripts."""
    context = await chromium.new_context()
    failures: list[list[str]] = []

    async def open_one() -> Page:
        page, errors = await new_page(context)
        failures.append(errors)
        await page.goto(pages)
        await configure(page, scene)
        return page

    yield open_one
    await context.close()
    assert [error for errors in failures for error in errors] == []


async def configure(page: Page, scene: Scene, **more: str) -> None:
    """`fal.config`, with further options as JavaScript."""
    options = "".join(f", {name}: {text}" for name, text in more.items())
    await page.evaluate(f"() => fal.config({{ proxyUrl: '{scene.bridge.url}/proxy/fal'{options} }})")


async def enqueued(page: Page) -> str:
    """Wait for the client to have submitted; the request's id."""
    await page.wait_for_function("() => window.enqueued", polling=20)
    return str(await page.evaluate("() => window.enqueued"))


async def test_subscribe_brings_the_result_and_every_update(open_page: Any, scene: Scene) -> None:
    page = await open_page()
    subscribed = asyncio.create_task(page.evaluate(CATCH, {"prompt": "a cat", "sim": LIFE}))
    request_id = await enqueued(page)
    await page.wait_for_function("() => window.seen.length > 0", polling=20)
    scene.advance(5)
    await page.wait_for_function("() => true")
    scene.advance(5)
    told = await subscribed
    assert told["value"]["requestId"] == request_id
    assert told["value"]["data"]["images"][0]["url"]
    assert (told["seen"][0], told["seen"][-1]) == ("IN_QUEUE", "COMPLETED")
    assert scene.ledger.of("fal", request_id, "submit") == 1


async def test_submit_status_result_and_cancel_each_work_alone(open_page: Any, scene: Scene) -> None:
    page = await open_page()
    submitted = await page.evaluate(
        "(input) => told(() => fal.queue.submit('fal-ai/flux/dev', { input, priority: 'low' }))",
        {"prompt": "a cat", "sim": LIFE},
    )
    request_id = submitted["value"]["request_id"]
    assert submitted["value"]["status_url"].startswith(f"{scene.bridge.url}/proxy/fal/")
    ask = "([call, requestId]) => told(() => fal.queue[call]('fal-ai/flux/dev', { requestId }))"
    status = await page.evaluate(ask, ["status", request_id])
    assert status["value"]["status"] == "IN_QUEUE"
    assert await page.evaluate(ask, ["cancel", request_id]) == {"value": None}
    assert scene.ledger.of("fal", request_id, "cancel") == 1
    other = await page.evaluate(
        "(input) => told(() => fal.queue.submit('fal-ai/flux/dev', { input }))",
        {"prompt": "a cat", "sim": LIFE},
    )
    scene.advance(60)
    result = await page.evaluate(ask, ["result", other["value"]["request_id"]])
    assert result["value"]["data"]["images"]
    assert result["value"]["requestId"] == other["value"]["request_id"]


async def test_ten_pages_at_one_request_cost_one_call_an_interval(open_page: Any, scene: Scene) -> None:
    pages = [await open_page() for _ in range(10)]
    submitted = await pages[0].evaluate(
        "(input) => fal.queue.submit('fal-ai/flux/dev', { input })", {"prompt": "a cat", "sim": LIFE}
    )
    request_id = submitted["request_id"]
    follow = (
        "(requestId) => fal.queue.subscribeToStatus('fal-ai/flux/dev', { requestId, pollInterval: 20,"
        " onQueueUpdate: () => (window.updates = (window.updates || 0) + 1) })"
    )
    following = [asyncio.create_task(page.evaluate(follow, request_id)) for page in pages]
    for page in pages:
        await page.wait_for_function("() => window.updates >= 5", polling=20)
    calls, gaps = scene.ledger.of("fal", request_id), scene.ledger.gaps("fal", request_id)
    asked = sum([await page.evaluate("() => window.updates") for page in pages])
    scene.advance(60)
    ends = await asyncio.gather(*following)
    assert {end["status"] for end in ends} == {"COMPLETED"}
    assert min(gaps, default=1.0) > 0.03  # the bridge's interval here: 0.05 s, jittered
    assert calls < asked


async def test_the_stream_of_a_status_ends_with_it(open_page: Any, scene: Scene) -> None:
    page = await open_page()
    running = asyncio.create_task(
        page.evaluate(
            "(input) => subscribe(input, { mode: 'streaming', logs: false, onQueueUpdate: () => 0 })",
            {"prompt": "a cat", "sim": LIFE},
        )
    )
    request_id = await enqueued(page)
    await scene.reaches('bridge_connections{delivery="sse"}', 1)
    scene.advance(60)
    told = await running
    assert told["value"]["requestId"] == request_id


async def test_what_fails_is_the_errors_of_the_client(open_page: Any, scene: Scene) -> None:
    page = await open_page()
    running = asyncio.create_task(
        page.evaluate(CATCH, {"prompt": "a cat", "sim": LIFE | {"outcome": "failed"}})
    )
    await enqueued(page)
    scene.advance(60)
    told = await running
    assert (told["kind"], told["status"]) == ("ValidationError", 422)
    missing = await page.evaluate(
        "() => told(() => fal.queue.status('fal-ai/flux/dev', { requestId: 'nowhere' }))"
    )
    assert (missing["kind"], missing["status"]) == ("ApiError", 404)
    assert missing["message"] == missing["body"]["error"]["message"] == missing["body"]["detail"]


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("fal.storage.upload(new Blob(['a cat'], { type: 'text/plain' }))", "carries no uploads"),
        ("fal.subscribe('fal-ai/flux/dev', { input: { image: new Blob(['x']) } })", "carries no uploads"),
        ("fal.run('fal-ai/flux/dev', { input: {} })", "fal.subscribe or fal.queue.submit"),
        ("fal.stream('fal-ai/any-llm', { input: {} }).then((stream) => stream.done())", "fal.queue.submit"),
    ],
)
async def test_what_the_bridge_does_not_carry_is_refused_with_a_sentence(
    open_page: Any, scene: Scene, work: str, words: str
) -> None:
    page = await open_page()
    told = await page.evaluate(f"() => told(() => {work})")
    assert (told["kind"], told["status"]) == ("ApiError", 404)
    assert words in told["message"]


@pytest.fixture
async def guarded(pages: str) -> AsyncIterator[Scene]:
    """A bridge that wants a token of every request."""
    async with recorded_stage("fal", allowed_origins=[pages], **TOKEN_SETTINGS) as made:
        yield made


WAYS = {
    "a header": {
        "requestMiddleware": "async (request) => ({ ...request, headers: { ...request.headers,"
        f" Authorization: 'Bearer {TOKEN}' }} }})"
    },
    "its own option": {"credentials": f"() => '{TOKEN}'", "suppressLocalCredentialsWarning": "true"},
    "a cookie": {"fetch": "(url, init) => fetch(url, { ...init, credentials: 'include' })"},
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_bridges_own_token_goes_in_a_header_or_a_cookie(
    chromium: Browser, pages: str, guarded: Scene, way: str
) -> None:
    context = await chromium.new_context()
    if way == "a cookie":
        await context.add_cookies([{"name": "bridge_token", "value": TOKEN, "url": guarded.bridge.url}])
    page, errors = await new_page(context)
    await page.goto(pages)
    await configure(page, guarded)
    without = await page.evaluate(CATCH, {"prompt": "a cat"})
    assert (without["kind"], without["status"]) == ("ApiError", 401)
    assert "Authorization: Bearer" in without["message"]
    await configure(page, guarded, **WAYS[way])
    running = asyncio.create_task(page.evaluate(CATCH, {"prompt": "a cat", "sim": LIFE}))
    await enqueued(page)
    guarded.advance(60)
    told = await running
    assert told["value"]["data"]["images"]
    await context.close()
    assert errors == []


async def test_a_page_of_a_strange_origin_submits_nothing(
    chromium: Browser, scene: Scene, pages: str, tmp_path: Path
) -> None:
    context = await chromium.new_context()
    page, _ = await new_page(context)
    await page.goto(pages.replace("127.0.0.1", "localhost"))
    await configure(page, scene)
    before = sum(call == "submit" for _, call, _ in scene.ledger.times)
    told = await page.evaluate(CATCH, {"prompt": "a cat"})
    assert told["kind"] == "Error"
    assert sum(call == "submit" for _, call, _ in scene.ledger.times) == before
    await context.close()

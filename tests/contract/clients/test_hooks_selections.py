"""`useTasks({ tag })` and `useTasks({ group })` of React and Vue, in Chromium and on a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.browser.chromium import launch_chromium, new_page, origin
from tests.conftest import missing
from tests.contract.clients.test_bridge_js_package import TOOLS, run
from tests.contract.clients.test_bridge_js_selections import GROUP_DONE, end, shown
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
PAGE = "<!doctype html><main></main><script type=module src=/{}.js></script>"
KINDS = ["react", "vue"]


@dataclass
class Streams:
    """A bridge that says what the test says, to everyone who listens.

    Attributes:
        said: What a new connection is sent at once, by its query.
        refused: The queries that are rejected.
        asked: The query of each request.
        open: The queues of the open connections, by query.
    """

    said: dict[str, list[bytes]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    open: dict[str, list[asyncio.Queue[bytes]]] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        query = request.rel_url.raw_query_string
        self.asked.append(query)
        if query in self.refused:
            problem = {"code": "forbidden", "detail": "not for you", "status": 403}
            return web.json_response(problem, status=403, content_type="application/problem+json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": ok\n" + b"".join(self.said.get(query, [])))
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.open.setdefault(query, []).append(queue)
        async with self.changed:
            self.changed.notify_all()
        try:
            while piece := await queue.get():
                await response.write(piece)
        finally:
            self.open[query].remove(queue)
            async with self.changed:
                self.changed.notify_all()
        return response

    def say(self, query: str, *events: bytes) -> None:
        for queue in self.open[query]:
            queue.put_nowait(b"".join(events))

    def hang_up(self) -> None:
        for queues in self.open.values():
            for queue in queues:
                queue.put_nowait(b"")

    async def until_closed(self, query: str) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: not self.open.get(query))

    async def until_open(self, query: str) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: bool(self.open.get(query)))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("esbuild", "react-dom", "vue"):
        if not (TOOLS / tool).is_dir():
            missing(f"npm {tool}")
    folder = tmp_path_factory.mktemp("hooks")
    made = run(str(HERE / "hooks.mjs"), str(folder))
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium() as made:
        yield made


@asynccontextmanager
async def opened(browser: Browser, built: Path, kind: str) -> AsyncIterator[tuple[Page, Streams]]:
    """A page with the hooks, whose own origin is the bridge."""
    streams = Streams()

    async def page_of(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.format(kind), content_type="text/html")

    app = web.Application(handler_args={"handler_cancellation": True})
    app.router.add_get("/page", page_of)
    app.router.add_get("/v1/events", streams.serve)
    app.router.add_static("/", built)
    async with origin(app) as url:
        context = await browser.new_context()
        page, errors = await new_page(context)
        await page.goto(f"{url}/page")
        await page.wait_for_function("() => !!window.show")
        yield page, streams
        streams.hang_up()
        await context.close()
        assert errors == []


async def show(page: Page, selection: dict[str, str] | None = None, **props: Any) -> None:
    await page.evaluate("(props) => show(props)", {"selection": selection} | props)


async def shows(page: Page, *lines: str) -> None:
    """Wait until the component shows this; the last line says that both uses of the hook got the same."""
    wanted = "\n".join((*lines, "true"))
    try:
        await page.wait_for_function(
            "(text) => document.querySelector('pre')?.innerText === text", arg=wanted, polling=20
        )
    except Exception as error:
        raise AssertionError(f"not {wanted!r} but {await page.inner_text('body')!r}") from error


@pytest.mark.parametrize("kind", KINDS)
async def test_the_tasks_of_a_tag_appear_on_one_connection(browser: Browser, built: Path, kind: str) -> None:
    async with opened(browser, built, kind) as (page, streams):
        query = "tag=user%3A7"
        streams.said[query] = [shown("q/1", 1)]
        for _ in range(3):  # with new objects and callbacks each time
            await show(page, {"tag": "user:7"})
        await shows(page, "q/1 processing", "null", "-", "-")
        streams.say(query, shown("q/2", 2, "queued"), shown("q/1", 3, "completed"))
        await shows(page, "q/1 completed", "q/2 queued", "null", "-", "-")
        await show(page, {"tag": "user:7"})
        streams.say(query, shown("q/1", 4), shown("q/2", 5, "failed"))  # a final state is a latch
        await shows(page, "q/1 completed", "q/2 failed", "null", "-", "-")
        assert streams.asked == [query]
        assert await page.evaluate("heard") == [
            ["q/1", "processing"],
            ["q/2", "queued"],
            ["q/1", "completed"],
            ["q/2", "failed"],
        ]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_group_is_done_with_its_counts_and_asked_for_no_more(
    browser: Browser, built: Path, kind: str
) -> None:
    async with opened(browser, built, kind) as (page, streams):
        streams.said["group=g"] = [shown("q/1", 1, "completed"), GROUP_DONE, end(1)]
        await show(page, {"group": "g"})
        await shows(page, "q/1 completed", '{"completed":1,"failed":1}', "-", "-")
        await streams.until_closed("group=g")
        await show(page, {"group": "g"})
        await shows(page, "q/1 completed", '{"completed":1,"failed":1}', "-", "-")
        assert streams.asked == ["group=g"]


@pytest.mark.parametrize("kind", KINDS)
async def test_another_tag_never_shows_the_tasks_of_the_one_before(
    browser: Browser, built: Path, kind: str
) -> None:
    async with opened(browser, built, kind) as (page, streams):
        streams.said["tag=a"] = [shown("q/1", 1)]
        await show(page)
        await shows(page, "null", "-", "-")
        await show(page, {"tag": "a"})
        await shows(page, "q/1 processing", "null", "-", "-")
        await show(page, {"tag": "b"})
        await shows(page, "null", "-", "-")
        await streams.until_closed("tag=a")
        streams.say("tag=b", shown("q/2", 2))
        await shows(page, "q/2 processing", "null", "-", "-")
        await show(page)
        await shows(page, "null", "-", "-")
        await streams.until_closed("tag=b")
        streams.said["tag=a"] = []
        await show(page, {"tag": "a"})  # what was known of it is not shown as if it were new
        await shows(page, "null", "-", "-")
        await streams.until_open("tag=a")
        await show(page, {"tag": "a"}, gone=True)
        await streams.until_closed("tag=a")
        assert streams.asked == ["tag=a", "tag=b", "tag=a"]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_bridge_rejects_is_an_error(browser: Browser, built: Path, kind: str) -> None:
    async with opened(browser, built, kind) as (page, streams):
        streams.refused.add("tag=x")
        await show(page, {"tag": "x"})
        await shows(page, "null", "-", "forbidden")
        assert streams.asked == ["tag=x"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_connection_is_a_notice_and_keeps_the_tasks(
    browser: Browser, built: Path, kind: str
) -> None:
    async with opened(browser, built, kind) as (page, streams):
        streams.said["tag=a"] = [shown("q/1", 1)]
        await show(page, {"tag": "a"})
        await shows(page, "q/1 processing", "null", "-", "-")
        streams.hang_up()
        await shows(page, "q/1 processing", "null", "reconnecting", "-")
        await shows(page, "q/1 processing", "null", "-", "-")
        assert len(streams.asked) == 2


async def test_a_thousand_tasks_at_once_are_a_few_renders(browser: Browser, built: Path) -> None:
    async with opened(browser, built, "react") as (page, streams):
        streams.said["group=g"] = [shown(f"q/{number}", number) for number in range(1000)]
        await show(page, {"group": "g"})
        await page.wait_for_function("() => [...views].at(-1).tasks.size === 1000")
        assert await page.evaluate("renders") < 100
        assert await page.evaluate("[...views].map(({ tasks }) => tasks.size).at(0)") == 0


def test_on_a_server_nothing_is_connected(built: Path) -> None:
    made = run(str(built / "server.cjs"))
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout) == ["<p>0</p>", "<p>0</p>"]

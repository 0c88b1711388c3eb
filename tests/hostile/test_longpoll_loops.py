"""Loops of long-polls whose entity tag is changed on the way: counted in requests, not in time."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.raw import connection
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

LOOP_SECONDS = 1.2
FINISHED = 'bridge_disconnects_total{delivery="longpoll",reason="finished"}'
LONGPOLLS = 'bridge_connections{delivery="longpoll"}'


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(first_state_timeout_seconds=0.4, drain_seconds=1) as made:
        yield made


async def _new(scene: Scene) -> str:
    """A task that nobody was shown."""
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 3))


async def _ref(scene: Scene) -> str:
    """A task whose state was read a moment ago."""
    ref = await _new(scene)
    assert (await scene.get(path_of(ref))).json["progress"] == 3
    return ref


def httpd(tag: str) -> str:
    """As Apache's mod_deflate, which does not take its suffix off again."""
    return re.sub(r'"$', '-gzip"', tag)


PROXIES = {
    "httpd": (httpd, str),
    "httpd-2.2": (lambda tag: f"{tag}-gzip", str),
    "brotli": (lambda tag: re.sub(r'"$', '-br"', tag), str),
    "jetty": (lambda tag: re.sub(r'"$', '--gzip"', tag), str),
    "semicolon": (lambda tag: re.sub(r'"$', ';gzip"', tag), str),
    "weak": (lambda tag: f"W/{tag}", str),
    "weak-lower": (lambda tag: f"w/{tag}", str),
    "unquoted": (lambda tag: tag.strip('"'), str),
    "quoted-twice": (str, lambda tag: f'"{tag}"'),
    "list": (str, lambda tag: f'"other-1", {tag}, "other-2"'),
    "two-of-them": (lambda tag: f"W/{httpd(tag)}", lambda tag: f"{tag[:-1]}-br"),
}


@asynccontextmanager
async def rewriting(scene: Scene, change: object, send_on: object) -> AsyncIterator[str]:
    """A proxy that changes the entity tag of responses, and that of requests. Yields its URL."""

    async def forward(request: web.Request) -> web.Response:
        headers = {name: request.headers[name] for name in ("Prefer",) if name in request.headers}
        if "If-None-Match" in request.headers:
            headers["If-None-Match"] = send_on(request.headers["If-None-Match"])  # type: ignore[operator]
        reply = await scene.call("GET", str(request.rel_url), headers=headers)
        more = {"ETag": change(reply.headers["ETag"])}  # type: ignore[operator]
        return web.Response(
            status=reply.status, body=reply.body, headers=more, content_type="application/json"
        )

    app = web.Application()
    app.router.add_get("/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_changed_entity_tag_is_known_again_and_waits(scene: Scene, proxy: str) -> None:
    ref = await _ref(scene)
    change, send_on = PROXIES[proxy]
    async with rewriting(scene, change, send_on) as url, aiohttp.ClientSession() as http:
        async with http.get(url + path_of(ref)) as first:
            tag = first.headers["ETag"]
        wish = {"If-None-Match": tag, "Prefer": "wait=30"}
        waiting = asyncio.ensure_future(http.get(url + path_of(ref), headers=wish))
        await scene.reaches(LONGPOLLS, 1)
        await scene.then("qingbo", ref.removeprefix("qingbo/"), qingbo(ref, "processing", 4))
        async with await waiting as later:
            assert (later.status, (await later.json())["progress"]) == (200, 4)
    await scene.reaches(LONGPOLLS, 0)


async def _loop(scene: Scene, path: str, seconds: float = LOOP_SECONDS, **headers: str) -> Counter[int]:
    """What a loop that never sleeps is answered in so many seconds."""
    answers: Counter[int] = Counter()
    try:
        async with asyncio.timeout(seconds):
            while True:
                answers[(await scene.get(path, **headers)).status] += 1
    except TimeoutError:
        return answers


LOOPS: list[dict[str, str]] = [
    {},
    {"If_None_Match": '"stripped"'},
    {"If_None_Match": '"zzzz-999999"'},
    {"If_None_Match": "", "Prefer": "respond-async, wait=0"},
]


async def test_loops_whose_tag_never_matches_get_a_state_once_a_second(scene: Scene) -> None:
    refs = [await _ref(scene) for _ in LOOPS]
    loops = [
        _loop(scene, path_of(ref), **{"Prefer": "wait=25"} | headers)
        for ref, headers in zip(refs, LOOPS, strict=True)
    ]
    for answers in await asyncio.gather(*loops):
        assert set(answers) == {200}
        assert answers[200] <= 1 + LOOP_SECONDS


async def test_loops_whose_wait_is_short_or_malformed_are_answered_once_a_second(scene: Scene) -> None:
    loops = []
    for prefer in ("wait=0.001", "wait", "wait=-1", "wait=1e9"):
        ref = await _ref(scene)
        known = {"If_None_Match": (await scene.get(path_of(ref))).headers["ETag"]}
        loops += [_loop(scene, path_of(ref), Prefer=prefer, **more) for more in ({}, known)]
    for answers in await asyncio.gather(*loops):
        assert answers.total() <= 1 + LOOP_SECONDS


async def test_a_loop_over_a_missing_task_is_answered_once_a_second(scene: Scene) -> None:
    path = path_of(f"qingbo/{scene.id()}")

    async def status() -> int:
        return (await scene.get(path)).status

    await until(status, 404)  # the second look, a second later, decides
    answers = await _loop(scene, path, Prefer="wait=25")
    assert set(answers) == {404}
    assert answers[404] <= 1 + LOOP_SECONDS


async def test_loops_that_go_on_after_the_end_are_answered_once_a_second(scene: Scene) -> None:
    refs = []
    for _ in range(2):
        task = scene.id()
        refs.append(await scene.script("qingbo", task, qingbo_done(task)))
    known = {"If_None_Match": (await scene.get(path_of(refs[1]))).headers["ETag"]}
    loops = [
        _loop(scene, path_of(ref), Prefer="wait=25", **more)
        for ref, more in zip(refs, ({}, known), strict=True)
    ]
    for answers in await asyncio.gather(*loops):
        assert answers.total() <= 1 + LOOP_SECONDS


async def test_a_state_that_changes_meanwhile_is_sent_at_once_and_plain_requests_are_never_held(
    scene: Scene,
) -> None:
    ref = await _new(scene)
    assert (await scene.get(path_of(ref), Prefer="wait=25")).json["progress"] == 3
    held = asyncio.ensure_future(scene.get(path_of(ref), Prefer="wait=25"))
    await scene.reaches(LONGPOLLS, 1)
    plain = await asyncio.gather(*(scene.get(path_of(ref)) for _ in range(20)))
    assert {reply.json["progress"] for reply in plain} == {3}
    assert not held.done()
    await scene.then("qingbo", ref.removeprefix("qingbo/"), qingbo(ref, "processing", 4))
    assert (await held).json["progress"] == 4


async def test_other_tasks_and_other_states_of_the_same_caller_are_not_held(scene: Scene) -> None:
    before = await scene.metric(FINISHED)
    for ref in [await _new(scene) for _ in range(3)]:
        assert (await scene.get(f"{path_of(ref)}?after=zzzz-1", Prefer="wait=25")).status == 200
        await scene.then("qingbo", ref.removeprefix("qingbo/"), qingbo(ref, "processing", 4))
        async with scene.events(ref) as stream:
            await stream.state_with(progress=4)
        assert (await scene.get(path_of(ref), Prefer="wait=25")).json["progress"] == 4
    assert await scene.metric(FINISHED) == before


async def test_the_cursor_in_the_url_does_what_the_header_does(scene: Scene) -> None:
    ref = await _ref(scene)
    first = await scene.get(path_of(ref))
    for after in (first.json["cursor"], first.headers["ETag"].replace('"', "%22")):
        path = f"{path_of(ref)}?after={after}"
        reply = await scene.get(path)
        assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (await scene.get(path, If_None_Match='"other-1"')).status == 304
    assert (await scene.get(f"{path_of(ref)}?after=")).status == 200
    waiting = asyncio.ensure_future(scene.get(path, Prefer='wait="30"'))
    await scene.reaches(LONGPOLLS, 1)
    await scene.then("qingbo", ref.removeprefix("qingbo/"), qingbo(ref, "processing", 4))
    assert (await waiting).json["progress"] == 4


async def test_what_proxies_and_caches_are_told(scene: Scene) -> None:
    ref = await _ref(scene)
    tag = (await scene.get(path_of(ref))).headers["ETag"]
    for reply in (await scene.get(path_of(ref)), await scene.get(path_of(ref), If_None_Match=tag)):
        assert reply.headers["Cache-Control"] == "no-cache, no-transform"
        assert "Prefer" in reply.headers["Vary"]
    head = await scene.call("HEAD", path_of(ref), headers={"If-None-Match": httpd(tag)})
    assert (head.status, head.headers["ETag"]) == (304, tag)
    head = await scene.call("HEAD", path_of(ref))
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", tag)


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=1", "wait=1"),
        ('wait="1"', "wait=1"),
        ("WAIT = 1", "wait=1"),
        ("respond-async, wait=1", "wait=1"),
        ("wait=1; foo=bar", "wait=1"),
        ("handling=lenient;x, wait=1.9", "wait=1"),
        ("wait=99999999999999999999", "wait=60"),
        ("wait=0", "wait=0"),
        ("wait", "wait=0"),
        ("wait=soon", "wait=0"),
        ("wait=-1", "wait=0"),
        ("await=1", None),
        ('wait="1', "wait=0"),
    ],
)
async def test_every_spelling_of_a_wait(scene: Scene, prefer: str, applied: str | None) -> None:
    ref = await _new(scene)
    reply = await scene.get(f"{path_of(ref)}?after=zzzz-1", Prefer=prefer)
    assert (reply.status, reply.headers.get("Preference-Applied")) == (200, applied)


async def test_a_wait_whose_client_has_left_frees_its_place_at_once(scene: Scene) -> None:
    ref = await _ref(scene)
    tag = (await scene.get(path_of(ref))).headers["ETag"]
    head = f"GET {path_of(ref)} HTTP/1.1\r\nHost: x\r\nIf-None-Match: {tag}\r\nPrefer: wait=60\r\n\r\n"
    for _ in range(3):
        async with connection(scene.bridge.url) as (_, writer):
            writer.write(head.encode())
            await scene.reaches(LONGPOLLS, 1)
        await scene.reaches(LONGPOLLS, 0)


async def test_a_wait_whose_client_has_closed_its_half_is_answered_with_what_is_known(scene: Scene) -> None:
    ref = await _ref(scene)
    tag = (await scene.get(path_of(ref))).headers["ETag"]
    head = f"GET {path_of(ref)} HTTP/1.1\r\nHost: x\r\nIf-None-Match: {tag}\r\nPrefer: wait=60\r\n\r\n"
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(head.encode())
        await scene.reaches(LONGPOLLS, 1)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            assert (await reader.read()).startswith(b"HTTP/1.1 304 ")
    await scene.reaches(LONGPOLLS, 0)

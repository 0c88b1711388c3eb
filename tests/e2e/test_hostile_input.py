"""Whatever arrives on the socket, the bridge answers or hangs up, and goes on serving everybody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.e2e.raw import connection
from tests.e2e.scene import Scene, stage
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(log_level="debug") as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


async def _well(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    async with scene.events(ref) as stream:
        assert [block.event for block in await stream.rest()] == [None, "done", "end"]


GARBAGE = [
    b"\r\n\r\n\r\n",
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nzzzz\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnot-hex\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00" * 1000,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_refused_and_hurts_nobody(scene: Scene, data: bytes) -> None:
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            said = await reader.read()
    assert said == b"" or said.split()[1][:1] in {b"4", b"5"}, said
    await _well(scene)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /livez",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
    ],
    ids=["line", "headers", "body"],
)
async def test_half_a_request_keeps_nobody_waiting_and_may_hang_up(scene: Scene, data: bytes) -> None:
    async with connection(scene.bridge.url) as (_, writer):
        writer.write(data)
        await writer.drain()
        await _well(scene)
    await _well(scene)


async def test_64_kib_of_headers_are_answered_or_refused(scene: Scene) -> None:
    async with scene.stream("/livez", headers={f"X-{number}": "y" * 1000 for number in range(64)}) as stream:
        assert stream.status in {200, 400, 431}
    await _well(scene)


async def test_a_head_without_end_is_cut_off(scene: Scene) -> None:
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):  # four megabytes
                writer.write(b"X-More: " + b"y" * 65_000 + b"\r\n")
                await writer.drain()
        async with asyncio.timeout(PATIENCE):
            try:
                said = await reader.read()
            except ConnectionError:
                said = b""
    assert said == b"" or said.startswith(b"HTTP/1.1 4")
    await _well(scene)


async def test_a_very_long_path_is_refused_or_404(scene: Scene) -> None:
    async with scene.stream("/v1/tasks/qingbo/" + "x" * 60_000) as stream:
        assert stream.status in {400, 404, 414}
    await _well(scene)


async def test_header_injection_by_a_task_id_is_400_or_encoded(scene: Scene) -> None:
    async with scene.stream("/v1/tasks/qingbo/a%0d%0aX-Evil:%201") as stream:
        assert stream.status == 400
        assert "x-evil" not in stream.headers


async def test_several_requests_in_one_write_are_answered_in_order(scene: Scene) -> None:
    async with connection(scene.bridge.url) as (reader, writer):
        one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        writer.write(one + one + last)
        async with asyncio.timeout(PATIENCE):
            said = await reader.read()
    assert said.count(b"HTTP/1.1 200") == 3
    assert said.endswith(b'{"ready":true,"reasons":[]}')


async def test_a_request_after_a_finished_stream_goes_on_the_same_connection(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    upstream, _, task_id = ref.partition("/")
    path = f"/v1/tasks/{upstream}/{task_id}/events".encode()
    async with connection(scene.bridge.url) as (reader, writer):
        for _ in range(3):
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert body.count(b"event: end") == 1


async def test_an_http_1_0_client_gets_its_stream(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    path = f"/v1/tasks/{ref}/events".encode()
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(b"GET " + path + b" HTTP/1.0\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            said = await reader.read()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.split()[1] == b"200"
    if b"chunked" not in head.lower():
        assert body.startswith(b": ok\n")
    assert b"event: end" in body


async def test_clients_that_come_and_go_leave_no_connection_behind(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    for _ in range(50):
        async with scene.events(ref):
            pass
    await scene.reaches('bridge_connections{delivery="sse"}', 0)
    await scene.reaches('bridge_interests{upstream="qingbo"}', 0)


async def test_a_stream_asked_for_with_a_body_or_strange_headers_is_a_stream(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    headers = {
        "Accept": "*/*;q=nonsense",
        "Prefer": "wait=x,,=",
        "If-None-Match": '"',
        "Connection": "keep-alive, x",
    }
    async with scene.events(ref, headers=headers, body=b"ignored") as stream:
        assert (await stream.rest())[-1].event == "end"

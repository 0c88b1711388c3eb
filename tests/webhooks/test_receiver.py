"""The receiver does what it is told, and the judge finds what is wrong: else their silence proves nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from bridge.clock import SystemClock
from bridge.webhooks.signature import signed_headers
from tests.webhooks.judge import verdict
from tests.webhooks.places import SECRET
from tests.webhooks.receiver import BROKEN, OK, RESET, Receiver, Reply, Request, receiver

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sink() -> AsyncIterator[Receiver]:
    async with receiver(SECRET) as made:
        yield made


def body_of(status: str, progress: int = 0, task: str = "qingbo/a", **more: Any) -> bytes:
    data = {"task": task, "status": status, "progress": progress, "cursor": f"k3f9-{progress}"} | more
    kind = "task.final" if status == "completed" else "task.status"
    document = {"type": kind, "timestamp": "2026-01-01T00:00:00.000Z", "data": data}
    return json.dumps(document).encode()


async def send(
    http: aiohttp.ClientSession, url: str, delivery: str, body: bytes, secret: str = SECRET
) -> int:
    now = int(SystemClock().time())
    headers = {"Content-Type": "application/json", **signed_headers(delivery, now, body, [secret])}
    async with http.post(url, data=body, headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_what_is_good_is_not_complained_about(sink: Receiver, http: aiohttp.ClientSession) -> None:
    replies = iter((BROKEN, OK, OK, OK))
    sink.answer = lambda _: next(replies)
    url = sink.url + "/hook"
    statuses = [
        await send(http, url, "msg_1", body_of("queued")),
        await send(http, url, "msg_1", body_of("queued")),
        await send(http, url, "msg_2", body_of("processing", 10)),
        await send(http, url, "msg_3", body_of("completed", 100)),
    ]
    assert statuses == [500, 204, 204, 204]
    assert verdict(sink.requests, ended=["qingbo/a"]) == []
    assert {one.verified for one in sink.requests} == {(SECRET,)}


@pytest.mark.parametrize(
    ("deliveries", "fault"),
    [
        ([("msg_1", body_of("completed")), ("msg_2", body_of("completed"))], "one content as"),
        ([("msg_1", body_of("queued")), ("msg_1", body_of("completed"))], "another content"),
        ([("msg_1", body_of("completed")), ("msg_2", body_of("processing", 10))], "came after"),
        ([("msg_1", body_of("processing", 50)), ("msg_2", body_of("processing", 10))], "first came after"),
        (
            [
                ("msg_1", body_of("queued")),
                ("msg_2", body_of("processing", 50)),
                ("msg_1", body_of("queued")),
            ],
            "sent again after",
        ),
        ([("msg_1", body_of("processing", 50))], "did not arrive"),
        ([("msg_1", body_of("completed", cursor="k3f9-1~2"))], "not recorded"),
        ([("msg_1", b"{}")], "KeyError"),
        ([], "nothing came"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_wrong_is_found(
    sink: Receiver, http: aiohttp.ClientSession, deliveries: list[tuple[str, bytes]], fault: str
) -> None:
    for delivery, body in deliveries:
        await send(http, sink.url + "/hook", delivery, body)
    faults = verdict(sink.requests, ended=["qingbo/a"])
    assert any(fault in one for one in faults), faults


async def test_another_secret_is_found(sink: Receiver, http: aiohttp.ClientSession) -> None:
    await send(http, sink.url, "msg_1", body_of("completed"), "whsec_" + "bm90IHRo" * 4)
    assert "not verified" in verdict(sink.requests)[0]


async def test_two_at_a_time_about_one_task_are_found(sink: Receiver, http: aiohttp.ClientSession) -> None:
    sink.answer = lambda request: Reply(delay=0.1 if request.id == "msg_1" else 0.0)
    first = asyncio.create_task(send(http, sink.url, "msg_1", body_of("queued")))
    await sink.until(lambda: sink.requests)
    await send(http, sink.url, "msg_2", body_of("completed"))
    await first
    assert "in flight" in verdict(sink.requests)[0]


async def test_manners(sink: Receiver, http: aiohttp.ClientSession) -> None:
    def answer(request: Request) -> Reply:
        return {
            "/reset": RESET,
            "/big": Reply(status=200, size=1_000_000),
            "/moved": Reply(status=307, headers=(("Location", "http://127.0.0.1:1/"),)),
            "/drip": Reply(drip=0.001),
        }[request.target]

    sink.answer = answer
    with pytest.raises(aiohttp.ClientError):
        await send(http, sink.url + "/reset", "msg_1", b"{}")
    assert await send(http, sink.url + "/big", "msg_2", b"{}") == 200
    assert await send(http, sink.url + "/drip", "msg_3", b"{}") == 204
    async with http.post(sink.url + "/moved", data=b"{}", allow_redirects=False) as answered:
        assert (answered.status, answered.headers["Location"]) == (307, "http://127.0.0.1:1/")


async def test_nobody_is_accepted_or_all_are_refused(sink: Receiver, http: aiohttp.ClientSession) -> None:
    sink.accept_nobody()
    waiting = asyncio.create_task(send(http, sink.url, "msg_1", b"{}"))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    sink.accept_again()
    assert await waiting == 204
    await sink.refuse()
    with pytest.raises(aiohttp.ClientError):
        await send(http, sink.url, "msg_2", b"{}")
    await sink.listen()
    assert await send(http, sink.url, "msg_3", b"{}") == 204

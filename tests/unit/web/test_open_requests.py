"""Requests that are cancelled: each is answered as on its route, and the answer says whether to repeat it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from bridge.core.event import Closing
from bridge.telemetry.request_context import bind, current_request
from bridge.web.open_requests import OpenRequests

pytestmark = pytest.mark.anyio


class Served:
    """One request, served by an app that waits; `sent` is what the server was given."""

    def __init__(self, path: str = "/v1/tasks/qingbo", *, create: bool = False, **more: Any) -> None:
        self.metrics = SimpleNamespace(rejected=lambda _: None)
        self.subscriptions = SimpleNamespace(closed=None, random=lambda: 0.5, metrics=self.metrics)
        self.requests = OpenRequests(cast("Any", self.subscriptions))
        self.sent: list[dict[str, Any]] = []
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "http_version": "1.1",
            "headers": [],
            "extensions": {},
        } | more
        self._create = create
        self._first: list[dict[str, Any]] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        request = current_request()
        assert request is not None
        request.create_sent = self._create
        for message in self._first:
            await send(message)
        await asyncio.Event().wait()

    async def begun(self, *first: dict[str, Any]) -> asyncio.Task[None]:
        self._first = list(first)

        async def served() -> None:
            bind([])
            await self.requests.middleware(self.app)(cast("Any", self.scope), self._receive, self._send)

        task = asyncio.ensure_future(served())
        await asyncio.sleep(0)
        return task

    async def interrupted(self) -> None:
        task = await self.begun()
        self.requests.interrupt()
        await self.requests.wait(1)
        assert task.done()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> Any:
        return orjson.loads(self.sent[1]["body"])

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def test_a_create_that_was_sent_must_not_be_repeated() -> None:
    native = Served(create=True)
    await native.interrupted()
    assert (native.status, native.body["code"], native.body["retriable"]) == (503, "over_capacity", False)
    assert native.headers["content-type"] == "application/problem+json"
    assert native.headers["x-should-retry"] == "false"
    assert "retry-after" not in native.headers
    proxied = Served("/proxy/qingbo/v1/tasks", create=True)
    await proxied.interrupted()
    assert (proxied.status, proxied.body["error"]["code"]) == (503, "over_capacity")
    assert proxied.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", ["/v1/tasks/qingbo", "/proxy/qingbo/v1/tasks/x", "/v1/tickets"])
async def test_anything_else_may_be_repeated_in_a_while(path: str) -> None:
    served = Served(path)
    await served.interrupted()
    assert served.status == 503
    assert int(served.headers["Retry-After".lower()]) >= 1
    assert "x-should-retry" not in served.headers


async def test_an_event_source_gets_a_status_after_which_it_reconnects() -> None:
    served = Served("/v1/tasks/qingbo/t/events", headers=[(b"accept", b"text/event-stream")])
    await served.interrupted()
    assert served.status == 200
    assert b'"code":"closing"' in served.sent[1]["body"]


async def test_a_server_that_cancels_by_itself_gets_the_same_answers() -> None:
    served = Served(create=True)
    task = await served.begun()
    task.cancel()
    await task
    assert (served.status, served.headers["x-should-retry"]) == (503, "false")


async def test_a_response_that_has_begun_is_cut_off_and_not_answered_twice() -> None:
    aborted: list[bool] = []
    transport = SimpleNamespace(abort=lambda: aborted.append(True))
    served = Served(extensions={"bridge.server": SimpleNamespace(transport=transport)})
    task = await served.begun({"type": "http.response.start", "status": 200, "headers": []})
    served.requests.interrupt()
    assert aborted == [True]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(served.sent) == 1


@pytest.mark.parametrize(
    ("version", "closed", "expected"),
    [
        ("1.1", Closing.DRAIN, "close"),
        ("1.0", Closing.DRAIN, "close"),
        ("2", Closing.DRAIN, None),
        ("1.1", None, None),
    ],
)
async def test_during_a_drain_every_response_ends_its_connection(
    version: str, closed: Closing | None, expected: str | None
) -> None:
    served = Served(http_version=version)
    served.subscriptions.closed = closed
    task = await served.begun(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    assert served.headers == {"content-length": "0"} | ({"connection": expected} if expected else {})
    task.cancel()


async def test_websockets_are_left_to_their_own() -> None:
    served = Served()
    served.scope["type"] = "websocket"
    task = await served.begun()
    served.requests.interrupt()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()

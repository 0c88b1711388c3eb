"""Single calls of the client: read, find, submit, cancel."""

from __future__ import annotations

import orjson
import pytest

from bridge.client.bridge import Bridge
from bridge.client.errors import BridgeUnreachable
from bridge.core.task import Status
from bridge.errors import Conflict, UnknownTask, UnreadablePayload

pytestmark = pytest.mark.anyio


async def test_a_state_is_read(fake):
    fake.plays(fake.answer(200, fake.document("q/a/b", "queued", "e-1")))
    async with fake("t") as bridge:
        state = await bridge.state("q/a/b")
        assert state is not None
        assert (state.task, state.status, state.cursor) == ("q/a/b", Status.QUEUED, "e-1")
        await bridge.state("q/1", wait=25, etag="e-1", include=("raw", "data"))
    first, second = fake.seen
    assert (first.method, first.path) == ("GET", "/v1/tasks/q/a%2Fb")
    assert first.headers["Authorization"] == "Bearer t"
    assert "Prefer" not in first.headers
    assert second.path == "/v1/tasks/q/1?include=raw&include=data"
    assert second.headers["Prefer"] == "wait=25"
    assert second.headers["If-None-Match"] == '"e-1"'


async def test_an_unchanged_state_is_none(fake):
    fake.plays(fake.answer(304))
    async with fake() as bridge:
        assert await bridge.state("q/1", etag='"e-1"') is None
    assert fake.seen[0].headers["If-None-Match"] == '"e-1"'


async def test_a_task_is_found_by_its_alias(fake):
    fake.plays(fake.answer(200, fake.document("q/1", "queued", "e-1", alias="mine/1")))
    async with fake() as bridge:
        assert (await bridge.find("q", "mine/1")).task == "q/1"
    assert fake.seen[0].path == "/v1/aliases/q/mine%2F1"


async def test_a_task_is_submitted_once_and_its_body_unchanged(fake):
    links = {"self": "/v1/tasks/q/1", "events": "...", "ws": "...", "cancel": "..."}
    fake.plays(fake.answer(201, {"state": fake.document("q/1", "queued", "e-1"), "links": links}))
    async with fake() as bridge:
        assert (await bridge.submit("q", {"prompt": "猫"})).task == "q/1"
        fake.plays(fake.problem(503, "upstream_unavailable"))
        with pytest.raises(Exception, match="so it is"):
            await bridge.submit("q", {})
    first, _ = fake.seen
    assert (first.method, first.path, orjson.loads(first.body)) == ("POST", "/v1/tasks/q", {"prompt": "猫"})
    assert first.headers["Content-Type"] == "application/json"


async def test_a_task_is_cancelled(fake):
    fake.plays(fake.answer(200, fake.document("q/1", "cancelled", "e-1")), fake.problem(409, "conflict"))
    async with fake() as bridge:
        assert (await bridge.cancel("q/1")).status is Status.CANCELLED
        with pytest.raises(Conflict):
            await bridge.cancel("q/1")
    assert (fake.seen[0].method, fake.seen[0].path) == ("POST", "/v1/tasks/q/1/cancel")


async def test_refusals_and_nonsense_are_told_apart(fake):
    fake.plays(fake.problem(404, "task_not_found"), fake.answer(200, []), fake.answer(200))
    async with fake() as bridge:
        with pytest.raises(UnknownTask):
            await bridge.state("q/1")
        for _ in range(2):
            with pytest.raises(UnreadablePayload):
                await bridge.state("q/1")


async def test_nobody_there_is_told_at_once():
    async with Bridge("http://127.0.0.1:1") as bridge:
        with pytest.raises(BridgeUnreachable):
            await bridge.state("q/1")


async def test_a_bridge_is_used_within_async_with():
    with pytest.raises(RuntimeError, match="async with"):
        await Bridge("http://127.0.0.1:1").state("q/1")

"""A cursor outlives the process that gave it: restarts, lost journals, and what no bridge ever gave out."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.chaos.site import Site, Studio, site, studio
from tests.e2e.raw import Block, RawStream, request

pytestmark = pytest.mark.anyio

MOVING = {"queue_seconds": 1, "run_seconds": 10, "outcome": "completed"}
STRANGE = {
    "garbage": "garbage",
    "of another epoch": "k3f9-17",
    "10 KB": "x" * 10_000,
    "no number": "-",
    "controls": "%00%01",
}


@dataclass
class Before:
    """What was seen before the kill, and the bridge after it.

    Attributes:
        one: A task that was followed for a while, and its states.
        many: Tasks that were followed together, and the newest cursor of that.
        ended: Tasks that ended, were seen to, and are forgotten by the provider; their newest cursor.
    """

    provider: Studio
    bridge: Site
    one: tuple[str, list[tuple[str, float, str]]]
    many: tuple[list[str], str]
    ended: tuple[list[str], str]


@pytest.fixture(scope="module")
async def before(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Before]:
    journal = tmp_path_factory.mktemp("resume") / "resume.db"
    async with studio() as provider, site(provider.url, journal) as bridge:
        ended = await provider.submit([MOVING | {"run_seconds": 0.1}] * 2)
        provider.advance(2)
        async with _events(bridge, *ended) as stream:
            ended_at = [block.id or "" for block in await stream.rest() if block.id][-1]
        provider.forget(ended)
        (one,) = await provider.submit([MOVING])
        many = await provider.submit(MOVING | {"run_seconds": 10 + number} for number in range(10))
        seen = await _run(provider, bridge, one, 4)
        many_at = ""
        async with _events(bridge, *many) as stream:
            while len({block.data["task"] for block in stream.blocks if block.event is None}) < len(many):
                block = await stream.block()
                assert block is not None
                many_at = block.id or many_at
        provider.advance(3)
        await bridge.end(signal.SIGKILL)
        await bridge.start()
        yield Before(provider, bridge, (one, seen), (many, many_at), (ended, ended_at))


def _events(
    bridge: Site, *refs: str, cursor: str | None = None, query: str = ""
) -> AbstractAsyncContextManager[RawStream]:
    path = f"/v1/tasks/{refs[0]}/events?{query}"
    if len(refs) > 1:
        path = "/v1/events?" + "&".join([*(f"task={ref}" for ref in refs), query])
    headers = {} if cursor is None else {"Last-Event-ID": cursor}
    return request(bridge.url, path.rstrip("?&"), headers=headers)


def _states(blocks: list[Block]) -> list[tuple[str, float, str]]:
    return [
        (block.data["status"], block.data["progress"], block.data["cursor"])
        for block in blocks
        if block.event is None
    ]


async def _run(provider: Studio, bridge: Site, ref: str, seconds: int) -> list[tuple[str, float, str]]:
    """Let a task go on, a second at a time; every state somebody who stayed has seen."""
    async with _events(bridge, ref) as stream:
        await stream.state()
        for _ in range(seconds):
            provider.advance(1)
            await stream.state()
        return _states(stream.blocks)


async def test_the_end_is_204_although_the_provider_has_forgotten_the_tasks(before: Before) -> None:
    bridge, (refs, cursor) = before.bridge, before.ended
    looks = len([ref for _, ref in before.provider.polled_since(0) if ref in refs])
    async with _events(bridge, *refs, cursor=cursor) as stream:
        assert stream.status == 204
    for ref, other in ((refs[1], cursor), (refs[0], None)):  # a cursor of a list says nothing of one task
        async with _events(bridge, ref, cursor=other) as stream:
            said = [block.event for block in await stream.rest()]
            assert [event for event in said if event != "notice"] == [None, "done", "end"]
    assert len([ref for _, ref in before.provider.polled_since(0) if ref in refs]) == looks


@pytest.mark.parametrize("name", [*STRANGE, "of the future"])
@pytest.mark.parametrize("tasks", [1, 3], ids=["one task", "many tasks"])
async def test_what_cannot_be_honoured_is_a_reset_never_an_error_never_silence(
    before: Before, name: str, tasks: int
) -> None:
    refs = before.many[0][:tasks]
    token = STRANGE.get(name) or f"{before.many[1].partition('-')[0]}-{10**9}"
    async with _events(before.bridge, *refs, query=f"last_event_id={quote(token)}") as stream:
        await _is_reset(stream, refs)


async def test_a_cursor_from_before_the_kill_gets_what_it_missed(before: Before) -> None:
    ref, seen = before.one
    async with _events(before.bridge, ref, cursor=seen[1][2]) as stream:
        missed = await stream.state_with(progress=60)
        assert missed["cursor"].partition("-")[0] == seen[0][2].partition("-")[0]
        assert {progress for _, progress, _ in _states(stream.blocks)} <= {seen[-1][1], 60}


async def test_who_missed_nothing_is_told_nothing_after_the_kill_either(before: Before) -> None:
    ref, _ = before.one
    async with _events(before.bridge, ref) as stream:
        cursor = (await stream.state_with(progress=60))["cursor"]
    async with _events(before.bridge, ref, cursor=cursor) as stream:
        assert [await stream.piece(), await stream.piece()] == [b": ok\n", b":\n"]


async def test_history_replays_what_was_recorded_before_the_kill_in_order_once(before: Before) -> None:
    ref, seen = before.one
    async with _events(before.bridge, ref, query="history=1") as stream:
        await stream.state_with(progress=60)
        replayed = _states(stream.blocks)
    assert replayed[: len(seen)] == seen
    assert [progress for _, progress, _ in replayed[len(seen) :]] == [60]


async def test_a_many_task_stream_misses_nothing_over_a_kill(before: Before) -> None:
    refs, cursor = before.many
    async with _events(before.bridge, *refs, cursor=cursor) as stream:
        before.provider.advance(60)
        blocks = await stream.rest()
    assert "reset" not in [block.event for block in blocks]
    assert sorted(block.data["task"] for block in blocks if block.event == "done") == sorted(refs)
    assert blocks[-1].event == "end"
    cursors = [int(cursor.rpartition("-")[2]) for *_, cursor in _states(blocks)]
    assert cursors == sorted(set(cursors))
    async with _events(before.bridge, *refs, cursor=[block.id for block in blocks if block.id][-1]) as stream:
        assert stream.status == 204


async def test_a_cursor_of_a_journal_that_was_deleted_is_a_reset(tmp_path: Path) -> None:
    async with studio() as provider, site(provider.url, tmp_path / "resume.db") as bridge:
        refs = await provider.submit([MOVING] * 3)
        async with _events(bridge, *refs) as stream:
            while len(stream.blocks) < len(refs):
                await stream.block()
            cursor = stream.blocks[-1].id
        await bridge.end(signal.SIGKILL)
        bridge.forget()
        await bridge.start()
        for asked in (refs[:1], refs):
            async with _events(bridge, *asked, cursor=cursor) as stream:
                assert await _is_reset(stream, asked) == "new_epoch"


async def _is_reset(stream: RawStream, refs: list[str]) -> str:
    assert stream.status == 200
    first = await stream.block()
    assert first is not None
    assert first.event == "reset"
    told: set[str] = set()
    while told != set(refs):
        told.add((await stream.state())["task"])
    return str(first.data["reason"])

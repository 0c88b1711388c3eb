"""Coming back: a cursor, however it is sent and whatever it holds, never costs a state and never an error."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.scene import Scene, stage
from tests.harness import qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(keepalive_seconds=0.2) as made:
        yield made


WAYS = {
    "header": lambda cursor: {"headers": {"Last-Event-ID": cursor}},
    "last_event_id": lambda cursor: {"query": f"?last_event_id={cursor}"},
    "lastEventId": lambda cursor: {"query": f"?lastEventId={cursor}"},
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_newer_state_is_sent_and_nothing_older(scene: Scene, way: str) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        cursor = (await stream.state())["cursor"]
        await scene.then("qingbo", task, qingbo(task, "processing", 20))
        newest = (await stream.state())["cursor"]
    async with scene.events(ref, **WAYS[way](cursor)) as stream:
        first = await stream.block()
        assert first is not None
        assert (first.event, first.data["progress"], first.id) == (None, 20, newest)


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_newer_keeps_quiet_and_goes_on(scene: Scene, way: str) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        cursor = (await stream.state())["cursor"]
    async with scene.events(ref, **WAYS[way](cursor)) as stream:
        assert await stream.piece() == b": ok\n"
        assert await stream.piece() == b":\n"
        await scene.then("qingbo", task, qingbo(task, "processing", 11))
        assert (await stream.state())["progress"] == 11  # on a busy machine perhaps after a notice


async def test_the_header_wins_over_the_parameters(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        cursor = (await stream.state())["cursor"]
    async with scene.events(
        ref, "?last_event_id=garbage", headers={"Last-Event-ID": cursor, "X": "y"}
    ) as stream:
        assert await stream.piece() == b": ok\n"
        assert await stream.piece() == b":\n"


@pytest.mark.parametrize("way", WAYS)
async def test_the_same_final_state_seen_before_is_204(scene: Scene, way: str) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    async with scene.events(ref) as stream:
        cursor = (await stream.state())["cursor"]
    async with scene.events(ref, **WAYS[way](cursor)) as stream:
        assert stream.status == 204
        assert await stream.body() == b""


async def test_204_for_many_tasks_only_once_all_have_ended_and_were_seen(scene: Scene) -> None:
    one, two = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", one, qingbo_done(one)),
        await scene.script("qingbo", two, qingbo(two, "processing", 5)),
    ]
    path = "/v1/events?" + "&".join(f"task={ref}" for ref in refs)
    async with scene.stream(path) as stream:
        while {block.data.get("task") for block in stream.blocks if block.event is None} != set(refs):
            await stream.block()
        cursor = [block.id for block in stream.blocks if block.id][-1]
    async with scene.stream(path, headers={"Last-Event-ID": cursor}) as stream:
        assert stream.status == 200
        await scene.then("qingbo", two, qingbo_done(two))
        await stream.rest()
        last = [block.id for block in stream.blocks if block.id][-1]
        assert stream.blocks[-1].event == "end"
    async with scene.stream(path, headers={"Last-Event-ID": last or ""}) as stream:
        assert stream.status == 204


@pytest.mark.parametrize(
    "token",
    [
        "garbage",
        "0",
        "-",
        "k3f9-17",
        "k3f9-999999999999999999999999",
        "x" * 10_000,
        "%00%01",
        "' OR 1=1 --",
        "\u4f60\u597d",
        "-1",
    ],
    ids=["word", "zero", "dash", "foreign", "huge", "10KB", "controls", "sql", "unicode", "negative"],
)
async def test_what_cannot_be_honoured_is_a_reset_with_a_reason_and_then_the_current_state(
    scene: Scene, token: str
) -> None:
    from urllib.parse import quote

    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref, f"?last_event_id={quote(token)}") as stream:
        assert stream.status == 200
        first, second = await stream.block(), await stream.block()
        assert first is not None
        assert second is not None
        assert (first.comments[0], first.event) == (b": ok", "reset")
        assert isinstance(first.data["reason"], str)
        assert (second.event, second.data["progress"]) == (None, 10)


async def test_a_cursor_of_10_kilobytes_in_the_header_is_a_reset_too(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref, headers={"Last-Event-ID": "x" * 10_000}) as stream:
        assert (await stream.event("reset"))["reason"]


async def test_a_cursor_of_the_future_is_a_reset(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        epoch = (await stream.state())["cursor"].partition("-")[0]
    async with scene.events(ref, headers={"Last-Event-ID": f"{epoch}-99999999"}) as stream:
        first = await stream.block()
        assert first is not None
        assert first.event == "reset"
        assert (await stream.state())["progress"] == 10


async def test_the_first_block_carries_the_retry_even_after_a_reset(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref, headers={"Last-Event-ID": "garbage"}) as stream:
        first, second = await stream.block(), await stream.block()
        assert first is not None
        assert second is not None
        assert 1000 <= int(first.fields["retry"]) <= 3000
        assert "retry" not in second.fields


async def test_a_client_of_a_bridge_that_was_started_anew_gets_a_reset(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    async with stage() as older:
        await older.script("qingbo", task, qingbo_done(task))
        async with older.events(ref) as stream:
            cursor = (await stream.state())["cursor"]
    async with scene.events(ref, headers={"Last-Event-ID": cursor}) as stream:
        events = [block.event for block in await stream.rest()]
    assert events == ["reset", None, "done", "end"]


async def test_history_replays_the_recorded_states_in_order(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "queued"))
    async with scene.events(ref) as stream:
        await stream.state()
        for progress in (10, 20, 30):
            await scene.then("qingbo", task, qingbo(task, "processing", progress))
            await stream.state_with(progress=progress)
        await scene.then("qingbo", task, qingbo_done(task))
        await stream.rest()
        live = [block.data["progress"] for block in stream.blocks if block.event is None]
        cursors = [block.id for block in stream.blocks if block.event is None]
    assert live == [0, 10, 20, 30, 100]
    async with scene.events(ref, "?history=1") as stream:
        blocks = await stream.rest()
    assert [block.data["progress"] for block in blocks if block.event is None] == live
    assert [block.event for block in blocks][-2:] == ["done", "end"]
    async with scene.events(ref, "?history=1", headers={"Last-Event-ID": cursors[1] or ""}) as stream:
        blocks = await stream.rest()
    assert [block.data["progress"] for block in blocks if block.event is None] == live[2:]

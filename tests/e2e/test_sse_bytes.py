"""Contract section 4 as bytes on a plain socket: what a library would forgive is seen here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(first_state_timeout_seconds=0.4, keepalive_seconds=0.2) as made:
        yield made


async def test_a_stream_begins_with_the_comment_the_state_and_a_retry_and_nothing_else(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 42))
    async with scene.events(ref) as stream:
        first = await stream.block()
    assert first is not None
    lines = first.raw.split(b"\n")
    assert lines[0] == b": ok"
    assert [line.partition(b":")[0] for line in lines[1:]] == [b"retry", b"data", b"id"]
    assert first.event is None
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", first.id or "")
    assert 1000 <= int(first.fields["retry"]) <= 3000
    assert first.data["cursor"] == first.id
    assert (first.data["task"], first.data["status"], first.data["progress"]) == (ref, "processing", 42)


async def test_the_headers_are_the_contracts(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    async with scene.events(ref) as stream:
        assert stream.status == 200
        names = [name.lower() for name, _ in stream.head]
        assert len(names) == len(set(names))
        assert {
            name: stream.headers.get(name)
            for name in ("content-type", "cache-control", "x-accel-buffering", "x-content-type-options")
        } == {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store, no-transform",
            "x-accel-buffering": "no",
            "x-content-type-options": "nosniff",
        }
        assert "content-length" not in stream.headers
        assert "content-encoding" not in stream.headers


async def test_a_head_request_answers_at_once_with_the_same_headers(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    async with scene.events(ref) as stream, scene.events(ref, method="HEAD") as head:
        assert head.status == 200
        for name in ("content-type", "cache-control", "x-accel-buffering", "x-content-type-options"):
            assert head.headers[name] == stream.headers[name]
    async with scene.stream("/v1/events?task=qingbo/nobody-asked", method="HEAD") as many:
        assert many.status == 200
        assert many.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_silence_is_broken_by_two_bytes(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 42))
    async with scene.events(ref) as stream:
        await stream.state()
        assert await stream.piece() == b":\n"
        assert await stream.piece() == b":\n"
        await scene.then("qingbo", task, qingbo(task, "processing", 43))
        assert (await stream.state())["progress"] == 43


async def test_every_block_carries_data_and_a_finished_task_ends_with_done_end_and_a_clean_close(
    scene: Scene,
) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "queued"))
    async with scene.events(ref) as stream:
        await stream.state()
        await scene.then("qingbo", task, qingbo(task, "processing", 50))
        await stream.state_with(progress=50)
        await scene.then("qingbo", task, qingbo_done(task))
        await stream.rest()
        *states, final, done, end = stream.blocks
    assert stream.ended_cleanly
    assert [block.event for block in states] == [None] * len(states)
    assert all("data" in block.fields for block in stream.blocks)
    assert ["retry" in block.fields for block in stream.blocks[1:]] == [False] * (len(states) + 1) + [True]
    assert final.data["status"] == "completed"
    assert (done.event, done.id, done.data) == ("done", final.id, {"task": ref, "status": "completed"})
    assert (end.event, end.id, end.data) == ("end", None, {"tasks": 1})
    assert end.fields["retry"] == "86400000"
    assert all(block.raw.splitlines()[-1].startswith(b"id: ") for block in [*states, final, done])
    offsets = [int((block.id or "").rpartition("-")[2]) for block in [*states, final]]
    assert offsets == sorted(set(offsets))


async def test_a_finished_task_is_told_whole_to_a_newcomer(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    for _ in range(2):
        async with scene.events(ref) as stream:
            assert [block.event for block in await stream.rest()] == [None, "done", "end"]
            assert 1000 <= int(stream.blocks[0].fields["retry"]) <= 3000


async def test_a_cold_task_reads_unknown_after_the_wait_and_then_what_it_is(scene: Scene) -> None:
    task = scene.id()
    late = qingbo(task, "processing", 7) | {"delay": 1}
    ref = await scene.script("qingbo", task, late)
    async with scene.events(ref) as stream:
        first = await stream.block()
        assert first is not None
        assert first.comments[0] == b": ok"
        assert first.data["status"] == "unknown"
        assert first.data["upstream_status"] is None
        scene.advance(1)
        assert (await stream.state())["progress"] == 7


async def test_the_first_block_of_a_cold_task_carries_the_retry_too(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 7) | {"delay": 1})
    async with scene.events(ref) as stream:
        first = await stream.block()
        assert first is not None
        assert 1000 <= int(first.fields["retry"]) <= 3000


async def test_every_key_of_the_state_document_is_there_even_when_nothing_is_known(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "queued") | {"delay": 1})
    keys = [
        "task",
        "upstream",
        "task_id",
        "alias",
        "status",
        "upstream_status",
        "progress",
        "eta_seconds",
        "eta_at",
        "eta_by",
        "queue_position",
        "model",
        "action",
        "created_at",
        "completed_at",
        "outputs",
        "error",
        "cost",
        "changed_at",
        "observed_at",
        "source",
        "cursor",
        "raw",
    ]
    async with scene.events(ref) as stream:
        assert set(await stream.state()) == set(keys)
        scene.advance(1)
        assert set(await stream.state()) == set(keys)


async def test_no_keepalive_comes_before_the_head_while_the_first_look_takes_long() -> None:
    async with stage(first_state_timeout_seconds=1.0, keepalive_seconds=0.1) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "queued") | {"delay": 1})
        async with scene.events(ref) as stream:  # its head is parsed strictly
            assert stream.status == 200
            first = await stream.block()
            assert first is not None
            assert first.comments[0] == b": ok"


async def test_include_raw_and_data_change_only_what_they_name(scene: Scene) -> None:
    task = scene.id()
    document = {
        "code": 0,
        "data": {"status": "Success", "binary_data_base64": ["aGVsbG8="]},
        "message": "success\nand more",
    }
    ref = await scene.script("vapi", task, {"status": 200, "body": document})
    async with scene.events(ref) as stream:
        plain = await stream.state()
    async with scene.events(ref, "?include=raw") as stream:
        with_raw = await stream.state()
    async with scene.events(ref, "?include=raw,data") as stream:
        with_both = await stream.state()
    async with scene.events(ref, "?include=raw&include=data") as stream:
        assert await stream.state() == with_both
    assert plain["raw"] is None
    assert with_raw["raw"] == document
    assert with_raw | {"raw": None} == plain
    assert (plain["outputs"][0]["bytes"], plain["outputs"][0]["url"]) == (5, None)
    assert with_both["outputs"][0]["url"].endswith(";base64,aGVsbG8=")
    assert with_both["outputs"][0]["url"].startswith("data:")
    assert (await scene.get(f"{path_of(ref)}?include=raw")).json["raw"] == document


async def test_ndjson_tells_the_same_one_object_a_line(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    async with scene.events(ref, headers={"Accept": "application/x-ndjson"}) as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        lines = [orjson.loads(line) for line in (await stream.body()).splitlines()]
    async with scene.events(ref) as stream:
        state = await stream.state()
    assert lines[0] | {"observed_at": 0} == state | {"observed_at": 0}
    assert lines[1] == {"event": "done", "task": ref, "status": "completed", "cursor": state["cursor"]}
    assert lines[2] == {"event": "end", "tasks": 1}

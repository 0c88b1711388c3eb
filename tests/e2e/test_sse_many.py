"""Many tasks on one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from tests.e2e.scene import Scene, stage
from tests.harness import answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

NOT_FOUND = answer({"error": {"code": "task_not_found", "message": "no such task"}}, status=404)


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(first_state_timeout_seconds=2) as made:
        yield made


async def _three(scene: Scene) -> list[str]:
    tasks = [scene.id() for _ in range(3)]
    return [await scene.script("qingbo", task, qingbo_done(task)) for task in tasks]


def _query(refs: list[str]) -> str:
    return "/v1/events?" + "&".join(f"task={ref}" for ref in refs)


async def test_each_task_has_its_states_and_its_done_and_one_end_closes(scene: Scene) -> None:
    refs = await _three(scene)
    async with scene.stream(_query(refs)) as stream:
        blocks = await stream.rest()
    states = [block.data for block in blocks if block.event is None and block.data["status"] == "completed"]
    assert sorted(state["task"] for state in states) == sorted(refs)
    assert sorted(block.data["task"] for block in blocks if block.event == "done") == sorted(refs)
    assert [block.data for block in blocks if block.event == "end"] == [{"tasks": 3}]
    assert blocks[-1].event == "end"
    assert stream.ended_cleanly


async def test_tasks_of_several_upstreams_share_a_connection(scene: Scene) -> None:
    one, two = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", one, qingbo_done(one)),
        await scene.script("bytespike", two, answer({"task_id": two, "status": "failed", "error_code": "x"})),
    ]
    async with scene.stream(_query(refs)) as stream:
        blocks = await stream.rest()
    done = {block.data["task"]: block.data["status"] for block in blocks if block.event == "done"}
    assert done == {refs[0]: "completed", refs[1]: "failed"}


async def test_a_long_list_goes_by_post(scene: Scene) -> None:
    refs = await _three(scene)
    body = orjson.dumps({"tasks": refs})
    async with scene.stream("/v1/events", method="POST", body=body) as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        blocks = await stream.rest()
    assert sorted(block.data["task"] for block in blocks if block.event == "done") == sorted(refs)
    async with scene.stream(
        "/v1/events", method="POST", body=body, headers={"Accept": "application/x-ndjson"}
    ) as stream:
        lines = [orjson.loads(line) for line in (await stream.body()).splitlines()]
    assert lines[-1] == {"event": "end", "tasks": 3}


async def test_a_task_named_twice_is_one_task(scene: Scene) -> None:
    (ref, *_) = await _three(scene)
    async with scene.stream(_query([ref, ref, ref])) as stream:
        blocks = await stream.rest()
    assert [block.event for block in blocks] == [None, "done", "end"]
    assert blocks[-1].data == {"tasks": 1}


async def test_two_hundred_tasks_fit_and_one_more_is_refused(scene: Scene) -> None:
    tasks = [scene.id() for _ in range(200)]
    for task in tasks:
        await scene.script("qingbo", task, qingbo_done(task))
    refs = [f"qingbo/{task}" for task in tasks]
    async with scene.stream("/v1/events", method="POST", body=orjson.dumps({"tasks": refs})) as stream:
        blocks = await stream.rest()
    assert {block.data["task"] for block in blocks if block.event == "done"} == set(refs)
    assert blocks[-1].data == {"tasks": 200}
    one_more = [*refs, "qingbo/one-more"]
    for reply in (
        await scene.call("POST", "/v1/events", json={"tasks": one_more}),
        await scene.get(_query(one_more)),
    ):
        assert (reply.status, reply.json["code"]) == (400, "invalid_request")


async def test_a_missing_task_is_a_notice_and_the_others_go_on(scene: Scene) -> None:
    there, gone = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", there, qingbo(there, "processing", 5)),
        await scene.script("qingbo", gone, NOT_FOUND),
    ]
    async with scene.stream(_query(refs)) as stream:
        assert stream.status == 200
        notice = await stream.notice("task_not_found")
        assert notice == {
            "code": "task_not_found",
            "task": refs[1],
            "retriable": False,
            "message": notice["message"],
        }
        await scene.then("qingbo", there, qingbo_done(there))
        blocks = await stream.rest()
    assert [block.event for block in blocks][-2:] == ["done", "end"]
    assert not [block for block in stream.blocks if block.event is None and block.data["task"] == refs[1]]


async def test_when_none_exists_the_answer_is_404(scene: Scene) -> None:
    refs = [await scene.script("qingbo", scene.id(), NOT_FOUND) for _ in range(3)]
    async with scene.stream(_query(refs)) as stream:
        assert stream.status == 404
        assert stream.headers["content-type"] == "application/problem+json"
        assert orjson.loads(await stream.body())["code"] == "task_not_found"


async def test_one_slow_cold_task_does_not_keep_the_others_waiting(scene: Scene) -> None:
    quick, slow = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", slow, qingbo(slow, "processing", 2) | {"delay": 1}),
        await scene.script("qingbo", quick, qingbo(quick, "processing", 1)),
    ]
    async with scene.stream(_query(refs)) as stream:
        first = await stream.state()
        assert (first["task"], first["progress"]) == (refs[1], 1)
        assert (await stream.state())["status"] == "unknown"
        scene.advance(1)
        state = await stream.state()
        assert (state["task"], state["progress"]) == (refs[0], 2)


async def test_a_task_that_answers_within_the_wait_is_never_unknown_however_quick_the_others_are() -> None:
    async with stage(first_state_timeout_seconds=30) as scene:
        quick, slow = scene.id(), scene.id()
        refs = [
            await scene.script("qingbo", slow, qingbo(slow, "processing", 2) | {"delay": 1}),
            await scene.script("qingbo", quick, qingbo(quick, "processing", 1)),
        ]
        async with scene.stream(_query(refs)) as stream:
            await stream.state_with(task=refs[1])
            await scene.ledger.reach("qingbo", quick, 3)
            scene.advance(1)
            await stream.state_with(task=refs[0])
    assert "unknown" not in [block.data.get("status") for block in stream.blocks]

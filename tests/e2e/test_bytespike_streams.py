"""ByteSpike documents the route of its stream and not one frame of it: every framing ends with the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest

from bridge.simulator.framing import FRAMINGS
from tests.e2e.scene import Scene, stage
from tests.harness import answer

pytestmark = pytest.mark.anyio

ORDER = ["unknown", "queued", "processing", "completed"]
ALSO: Mapping[str, Mapping[str, Any]] = {
    "polled": {"preset": "bytespike", "max_streams": 0},
    "patient": {"preset": "bytespike", "poll_min_seconds": 0.2, "poll_max_seconds": 60},
    # The safety net is six times this: a status call in between is not the pace's doing.
    "slow": {"preset": "bytespike", "poll_min_seconds": 20, "poll_max_seconds": 20},
}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(also=ALSO, first_state_timeout_seconds=0.4, linger_seconds=0) as made:
        yield made


async def _submitted(scene: Scene, **sim: Any) -> str:
    wishes = {"queue_seconds": 2, "run_seconds": 10, "outcome": "completed"} | sim
    body = {"model": "sora-2", "params": {"prompt": "x"}}
    return await scene.submit("bytespike", "/v1/tasks/submit", body, **wishes)


@pytest.mark.parametrize(
    "framing", [*sorted(FRAMINGS), "named,with-ids,crlf", "wrapped,split,crlf", "duplicate,reorder"]
)
async def test_each_framing_ends_with_the_true_final_state_each_state_once_and_in_order(
    scene: Scene, framing: str
) -> None:
    task = await _submitted(scene, shape={"framing": framing})
    async with scene.events(f"bytespike/{task}") as stream:
        await stream.state_with(status="queued")
        await scene.ledger.reach("bytespike", task, 1, "stream")
        scene.advance(3)
        await stream.state_with(status="processing")
        scene.advance(10)
        await stream.rest()
    states = [block.data for block in stream.blocks if block.event is None]
    words = [state["status"] for state in states]
    assert words == [word for word in ORDER if word in words], words
    assert words[-1] == "completed"
    assert states[-1]["outputs"][0]["url"]
    assert states[-1]["cost"]["credits_used"] > 0
    assert [block.event for block in stream.blocks][-2:] == ["done", "end"]
    assert not [block for block in stream.blocks if block.event == "reset"]


async def test_a_stream_brings_states_that_no_poll_has_seen(scene: Scene) -> None:
    """The pace of this upstream is twenty seconds; what comes sooner came by the stream."""
    task = await _submitted(scene)
    async with scene.events(f"slow/{task}") as stream:
        await stream.state_with(status="queued")
        await scene.ledger.reach("bytespike", task, 1, "stream")
        await scene.ledger.reach("bytespike", task, 1)
        scene.advance(3)
        running = await stream.state_with(status="processing")
        scene.advance(10)
        final = await stream.state_with(status="completed")
    assert (running["source"], final["source"]) == ("stream", "stream")
    assert scene.ledger.of("bytespike", task) == 1


async def test_a_key_that_a_frame_quotes_is_not_passed_on(scene: Scene) -> None:
    task = scene.id()
    running = answer({"task_id": task, "status": "running"})
    frame = _frame(task, "failed", error={"code": "bad_key", "message": "no such key: test-key!"})
    halves = [frame[: frame.index("test-") + 3], frame[frame.index("test-") + 3 :]]
    await scene.script("bytespike", task, running, stream=halves, hold=True)
    async with scene.events(f"slow/{task}") as stream:
        failed = await stream.state_with(status="failed")
    assert failed["error"]["message"] == "no such key: ***!"


async def test_after_every_disconnect_the_state_is_asked_for(scene: Scene) -> None:
    """The estimate is far, so the pace of this upstream is a minute; each look is a disconnect's doing."""
    task = scene.id()
    document = {"task_id": task, "status": "running", "estimated_seconds": 1000}
    frame = f"data: {orjson.dumps(document).decode()}\n\n"
    await scene.script("bytespike", task, answer(document), stream=[frame])  # ends without a final state
    async with scene.events(f"patient/{task}") as stream:
        await stream.state()
        for number in (2, 3, 4):
            await scene.ledger.reach("bytespike", task, number - 1, "stream")
            await scene.ledger.reach("bytespike", task, number)
        assert [block.data["status"] for block in stream.blocks] == ["processing"]


async def test_a_refused_stream_falls_back_to_polling(scene: Scene) -> None:
    task = await _submitted(scene, faults=["refuse-stream"])
    async with scene.events(f"bytespike/{task}") as stream:
        await stream.state_with(status="queued")
        scene.advance(3)
        assert (await stream.state_with(status="processing"))["source"] == "poll"
        scene.advance(10)
        assert (await stream.state_with(status="completed"))["source"] == "poll"


@pytest.mark.parametrize(
    "fault", ["html", "redirect", "envelope-error", {"name": "refuse-stream", "status": 404}]
)
async def test_a_stream_that_is_none_is_given_up_and_polling_goes_on(scene: Scene, fault: Any) -> None:
    named = fault if isinstance(fault, dict) else {"name": fault}
    task = await _submitted(scene, faults=[named | {"calls": ["stream"]}])
    async with scene.events(f"bytespike/{task}") as stream:
        await stream.state_with(status="queued")
        scene.advance(13)
        assert (await stream.state_with(status="completed"))["source"] == "poll"
    assert "elsewhere" not in scene.simulator.world.calls.report()


async def test_a_silent_stream_leaves_polling_at_its_pace(scene: Scene) -> None:
    task = await _submitted(scene, shape={"framing": "silent"})
    async with scene.events(f"bytespike/{task}") as stream:
        await stream.state_with(status="queued")
        await scene.ledger.reach("bytespike", task, 5)
        scene.advance(13)
        assert (await stream.state_with(status="completed"))["source"] == "poll"


async def test_no_stream_is_opened_where_none_is_wanted(scene: Scene) -> None:
    task = await _submitted(scene)
    async with scene.events(f"polled/{task}") as stream:
        await stream.state_with(status="queued")
        scene.advance(13)
        await stream.state_with(status="completed")
    assert scene.ledger.of("bytespike", task, "stream") == 0


async def test_frames_without_a_state_change_nothing(scene: Scene) -> None:
    task = scene.id()
    frames = [
        'data: {"hello":"world"}\n\n',
        "data: not json\n\n",
        "data: [1,2,3]\n\n",
        "event: message\ndata:\n\n",
    ]
    running = answer({"task_id": task, "status": "running"})
    await scene.script("bytespike", task, running, stream=frames, hold=True)
    async with scene.events(f"slow/{task}") as stream:
        await stream.state()
        await scene.ledger.reach("bytespike", task, 1, "stream")
        await scene.provider("bytespike").push(task, _frame(task, "cancelled"))
        await stream.rest()
    words = [block.data["status"] for block in stream.blocks if block.event is None]
    assert words == ["processing", "cancelled"]


async def test_another_tasks_frame_is_not_taken_for_this_ones(scene: Scene) -> None:
    task = scene.id()
    running = answer({"task_id": task, "status": "running"})
    await scene.script("bytespike", task, running, stream=[_frame("somebody-elses", "queued")], hold=True)
    async with scene.events(f"slow/{task}") as stream:
        await stream.state()
        await scene.ledger.reach("bytespike", task, 1, "stream")
        await scene.provider("bytespike").push(task, _frame(task, "cancelled"))
        await stream.rest()
    words = [block.data["status"] for block in stream.blocks if block.event is None]
    assert words == ["processing", "cancelled"]


async def test_another_tasks_end_does_not_end_this_ones_stream(scene: Scene) -> None:
    task = scene.id()
    running = answer({"task_id": task, "status": "running"})
    await scene.script("bytespike", task, running, stream=[_frame("somebody-elses", "failed")], hold=True)
    async with scene.events(f"slow/{task}") as stream:
        await stream.state()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(scene.ledger.reach("bytespike", task, 2, "stream"), 3)


def _frame(task: str, word: str, **more: Any) -> str:
    return f"data: {orjson.dumps({'task_id': task, 'status': word} | more).decode()}\n\n"

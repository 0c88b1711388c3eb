"""Waiting for the result of a task."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from bridge.client import (
    BridgeError,
    BridgeUnreachable,
    InvalidRequest,
    ResultTimeout,
    Status,
    TaskFailed,
    TaskNotice,
    TaskState,
    Unauthenticated,
    UnknownTask,
)

pytestmark = pytest.mark.anyio


async def result(fake: Any, ref: Any = "q/1", **more: Any) -> TaskState:
    async with fake() as bridge:
        return await bridge.result(ref, **more)


async def test_the_final_state_of_a_completed_task_is_returned(fake):
    fake.plays([fake.state("e-1"), fake.finish("e-2", outputs=[{"url": "u"}])])
    state = await result(fake)
    assert (state.status, state.outputs) == (Status.COMPLETED, ({"url": "u"},))


@pytest.mark.parametrize(
    ("status", "ended"), [("failed", "failed"), ("cancelled", "was cancelled"), ("lost", "was lost")]
)
async def test_a_task_without_a_result_raises_its_final_state(fake, status, ended):
    error = {"code": "nsfw", "message": "not that"}
    fake.plays([fake.state("e-1"), fake.finish("e-2", status, error=error)])
    with pytest.raises(TaskFailed, match=f"q/1 {ended}: not that: nsfw") as failed:
        await result(fake)
    assert not isinstance(failed.value, BridgeError)  # the bridge works
    assert failed.value.state.status == status
    copied = pickle.loads(pickle.dumps(failed.value))  # to the process that waits for a job
    assert (str(copied), copied.state) == (str(failed.value), failed.value.state)


async def test_a_task_that_fails_without_a_reason_is_named(fake):
    fake.plays([fake.finish("e-1", "failed")])
    with pytest.raises(TaskFailed, match=r"^q/1 failed$"):
        await result(fake)


async def test_a_real_result_after_lost_is_the_result(fake):
    fake.plays([fake.state("e-1", "lost"), fake.state("e-2", "completed"), fake.end()])
    assert (await result(fake)).cursor == "e-2"


async def test_restarts_drains_overload_and_cuts_are_survived_with_the_cursor(fake):
    fake.plays(
        fake.problem(429, "too_many_requests", Retry_After="0"),
        [fake.state("e-1"), fake.notice("closing", reason="drain", retry=1), fake.end()],
        fake.problem(503, "over_capacity", Retry_After="0"),
        fake.answer(502),
        [fake.state("e-2")[:30], fake.CUT],
        [fake.state("e-2"), fake.CUT],
        [fake.finish("e-3")],
    )
    seen: list[str | None] = []
    assert (await result(fake, on_state=lambda state: seen.append(state.cursor))).cursor == "e-3"
    assert seen == ["e-1", "e-2", "e-3"]
    cursors = [request.headers.get("Last-Event-ID") for request in fake.seen]
    assert cursors == [None, None, "e-1", "e-1", "e-1", "e-1", "e-2"]


async def test_a_watch_that_ends_without_a_final_state_is_requested_anew(fake):
    fake.plays(
        [fake.state("e-1"), fake.CUT], fake.answer(204), [fake.end()], fake.answer(502), [fake.finish("e-2")]
    )
    assert (await result(fake)).cursor == "e-2"
    assert [request.headers.get("Last-Event-ID") for request in fake.seen] == [None, "e-1", None, None, None]


async def test_a_task_that_does_not_exist_or_vanishes_is_unknown(fake):
    fake.plays(fake.problem(404, "task_not_found"))
    with pytest.raises(UnknownTask):
        await result(fake)
    gone = fake.notice("task_not_found", task="q/1", retriable=False, message="no such task")
    fake.plays([fake.state("e-1"), gone, fake.end()])
    with pytest.raises(UnknownTask, match="no such task"):
        await result(fake)


async def test_what_the_bridge_refuses_is_raised(fake):
    fake.plays(fake.problem(401, "unauthenticated"))
    with pytest.raises(Unauthenticated):
        await result(fake)
    fake.plays(fake.answer(503))
    with pytest.raises(BridgeUnreachable):
        await result(fake, unreachable_after=0.02)


async def test_a_timeout_has_the_newest_state_and_closes_the_connection(fake):
    fake.plays([fake.state("e-1"), fake.HANG])
    with pytest.raises(ResultTimeout, match=r"no result within 0\.1 s: processing") as late:
        await result(fake, timeout=0.1)
    assert isinstance(late.value, TimeoutError)  # as the standard library has it
    assert isinstance(late.value, BridgeError)
    assert late.value.state.cursor == "e-1"
    copied = pickle.loads(pickle.dumps(late.value))
    assert (str(copied), copied.state) == (str(late.value), late.value.state)
    fake.plays([fake.HANG])
    with pytest.raises(ResultTimeout, match="unknown") as late:
        await result(fake, timeout=0)
    assert late.value.state is None


async def test_callbacks_may_be_plain_or_async_and_see_every_state_and_notice(fake):
    told: list[str | None] = []

    async def on_state(state: TaskState) -> None:
        await asyncio.sleep(0)
        told.append(state.cursor)

    async def on_notice(notice: TaskNotice) -> None:
        await asyncio.sleep(0)
        told.append(notice.code)

    fake.plays([fake.state("e-1"), fake.notice("stale"), fake.finish("e-2")])
    await result(fake, on_state=on_state, on_notice=on_notice)
    assert told == ["e-1", "stale", "e-2"]
    fake.plays([fake.notice("stale"), fake.finish("e-2")])
    async with fake() as bridge:
        assert [state.cursor async for state in bridge.watch("q/1", on_notice=on_notice)] == ["e-2"]
    assert told == ["e-1", "stale", "e-2", "stale"]


@pytest.mark.parametrize("name", ["on_state", "on_notice"])
@pytest.mark.parametrize("error", [ValueError("of the callback"), TimeoutError("of the callback")])
async def test_what_a_callback_raises_is_raised_and_ends_the_wait(fake, name, error):
    fake.plays([fake.notice("stale"), fake.state("e-1"), fake.HANG])

    def callback(_: object) -> None:
        raise error

    with pytest.raises(type(error), match="of the callback") as caught:
        await result(fake, timeout=30, **{name: callback})
    assert caught.value is error
    assert len(fake.seen) == 1


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        ("q/a/b", "a%2Fb"),
        (("q", "a/b"), "a%2Fb"),
        (("q", "ü b?%2F"), "%C3%BC%20b%3F%2F"),
        ("q/100%", "100%25"),
        (("q", "猫"), "%E7%8C%AB"),
    ],
)
async def test_a_task_is_named_by_its_ref_or_both_of_its_parts(fake, ref, path):
    fake.plays([fake.finish("e-1")])
    state = await result(fake, ref)
    assert fake.seen[-1].path == f"/v1/tasks/q/{path}/events"
    fake.plays(fake.answer(200, fake.document("q/1", "queued", "e-1")))
    async with fake() as bridge:
        await bridge.state(ref)
        await bridge.cancel(ref)
        assert [request.path for request in fake.seen[-2:]] == [
            f"/v1/tasks/q/{path}",
            f"/v1/tasks/q/{path}/cancel",
        ]
        fake.plays([fake.finish("e-1")])
        await bridge.result(state)
    assert fake.seen[-1].path == "/v1/tasks/q/1/events"


@pytest.mark.parametrize(
    "ref",
    ["q", "", ("q",), ("q", "a", "b"), ("q", ""), ("Q", "a"), ("q", 1), ("q/1", "q/2"), ["q/1", "q/2"], 5],
)
async def test_what_names_no_task_is_told_at_once(fake, ref):
    async with fake() as bridge:
        with pytest.raises(InvalidRequest):
            await bridge.result(ref)
        with pytest.raises(InvalidRequest):
            bridge.watch(ref)
    assert fake.seen == []


async def test_a_cancelled_wait_leaves_nothing(fake):
    fake.plays([fake.state("e-1"), fake.HANG])
    started = asyncio.Event()
    waiting = asyncio.create_task(result(fake, on_state=lambda _: started.set()))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

"""The client without `await`: as the async one, from any thread."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import aiohttp
import orjson
import pytest

import bridge.client
import task_event_bridge
from bridge.client import (
    Bridge,
    InvalidRequest,
    ResultTimeout,
    Status,
    SyncBridge,
    TaskFailed,
    TaskNotice,
    TaskState,
    UnknownTask,
)

pytestmark = pytest.mark.anyio


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "SyncBridge"]


async def within(fake: Any, program: Callable[[SyncBridge], Any], **more: Any) -> Any:
    """Run a program with a client, in a thread without an event loop."""

    def run() -> Any:
        with SyncBridge(fake.url, timeouts=fake.QUICK, **more) as bridge:
            return program(bridge)

    try:
        return await asyncio.to_thread(run)
    finally:
        assert not threads()


def test_the_alias_has_exactly_the_public_names():
    public = {name for name in vars(task_event_bridge) if not name.startswith("_")}
    assert public == set(task_event_bridge.__all__) == set(bridge.client.__all__)
    assert all(getattr(task_event_bridge, name) is getattr(bridge.client, name) for name in public)


def test_both_clients_have_the_same_methods_with_the_same_arguments():
    def methods(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(cls).items()
            if inspect.isfunction(method) and not name.startswith("_")
        }

    ours = methods(SyncBridge)
    assert ours.pop("close") == ["self"]
    assert ours == methods(Bridge)


async def test_a_watch_is_an_iterator(fake):
    fake.plays([fake.state("e-1"), fake.notice("stale"), fake.CUT], [fake.finish("e-2")])
    told: list[Any] = []

    def on_notice(notice: TaskNotice) -> None:
        told.append((notice.code, threading.get_ident()))

    def program(bridge: SyncBridge) -> list[str | None]:
        here = threading.get_ident()
        seen = [state.cursor for state in bridge.watch("q/1", on_notice=on_notice)]
        assert told == [("stale", here), ("reconnecting", here)]
        return seen

    assert await within(fake, program) == ["e-1", "e-2"]


async def test_a_result_calls_back_in_the_thread_that_waits(fake):
    fake.plays([fake.state("e-1"), fake.notice("stale"), fake.finish("e-2")])
    told: list[Any] = []

    def program(bridge: SyncBridge) -> TaskState:
        def on_state(state: TaskState) -> None:
            assert bridge.result is not None  # it may use the client, which waits for nothing
            told.append((state.cursor, threading.get_ident()))

        state = bridge.result("q/1", on_state=on_state, on_notice=lambda n: told.append(n.code))
        assert told == [("e-1", threading.get_ident()), "stale", ("e-2", threading.get_ident())]
        return state

    assert (await within(fake, program)).status is Status.COMPLETED


async def test_a_callback_may_call_the_client(fake):
    fake.plays([fake.state("e-1"), fake.finish("e-2")])

    def program(bridge: SyncBridge) -> TaskState:
        def cancel(state: TaskState) -> None:
            if not state.final:
                fake.script.insert(0, fake.answer(200, fake.document("q/1", "cancelled", "e-9")))
                assert bridge.cancel(state).status is Status.CANCELLED

        return bridge.result("q/1", on_state=cancel)

    assert (await within(fake, program)).cursor == "e-2"


async def test_errors_are_those_of_the_async_client(fake):
    def program(bridge: SyncBridge) -> None:
        fake.plays([fake.finish("e-1", "failed")])
        with pytest.raises(TaskFailed, match="failed"):
            bridge.result("q/1")
        fake.plays([fake.state("e-1"), fake.HANG])
        with pytest.raises(ResultTimeout):
            bridge.result("q/1", timeout=0.05)
        fake.plays(fake.problem(404, "task_not_found"))
        for call in (bridge.result, bridge.state, bridge.cancel, lambda ref: next(bridge.watch(ref))):
            with pytest.raises(UnknownTask):
                call("q/1")
        with pytest.raises(InvalidRequest):
            bridge.watch("q")  # at the call, not at the first state
        with pytest.raises(InvalidRequest):
            bridge.result("q")

    await within(fake, program)
    with pytest.raises(InvalidRequest):
        SyncBridge("localhost:8080")


@pytest.mark.parametrize("name", ["on_state", "on_notice"])
async def test_what_a_callback_raises_is_raised_and_closes_the_connection(fake, name):
    fake.plays([fake.notice("stale"), fake.state("e-1"), fake.HANG])

    def callback(_: object) -> None:
        raise LookupError("of the callback")

    with pytest.raises(LookupError, match="of the callback"):
        await within(fake, lambda bridge: bridge.result("q/1", **{name: callback}))
    if name == "on_notice":
        with pytest.raises(LookupError, match="of the callback"):
            await within(fake, lambda bridge: list(bridge.watch("q/1", on_notice=callback)))


async def test_single_calls(fake):
    def program(bridge: SyncBridge) -> None:
        fake.plays(fake.answer(200, fake.document("q/1", "queued", "e-1")))
        assert bridge.state(("q", "1"), include=["raw"]).status is Status.QUEUED
        assert bridge.find("q", "mine").task == "q/1"
        assert bridge.submit("q", {"prompt": "猫"}, options={"endpoint": "x"}).task == "q/1"
        assert bridge.cancel("q/1").task == "q/1"
        fake.plays(fake.answer(304))
        assert bridge.state("q/1", etag="e-1", wait=1) is None

    await within(fake, program)
    assert [request.path for request in fake.seen] == [
        "/v1/tasks/q/1?include=raw",
        "/v1/aliases/q/mine",
        "/v1/tasks/q?endpoint=x",
        "/v1/tasks/q/1/cancel",
        "/v1/tasks/q/1",
    ]
    assert orjson.loads(fake.seen[2].body) == {"prompt": "猫"}


async def test_a_token_is_fetched_for_each_request_and_may_call_the_client(fake):
    fake.plays(fake.answer(200, fake.document("q/1", "queued", "e-1")))
    tokens = iter(["t1", "t2", "t3"])
    made: list[SyncBridge] = []
    asked: list[bool] = []

    def token() -> str:
        asked.append(threading.current_thread() in threads())
        if len(asked) == 1:  # as a backend might, which fetches its token with what it has
            made[0].state("q/1")
        return next(tokens)

    def program(bridge: SyncBridge) -> None:
        made.append(bridge)
        bridge.state("q/1")
        bridge.state("q/1")

    await within(fake, program, token=token)
    assert [request.headers["Authorization"] for request in fake.seen] == [
        "Bearer t1",
        "Bearer t2",
        "Bearer t3",
    ]
    assert asked == [False] * 3


async def test_a_session_of_ones_own(fake):
    fake.plays(fake.answer(200, fake.document("q/1", "queued", "e-1")))
    made: list[aiohttp.ClientSession] = []

    def factory() -> aiohttp.ClientSession:
        made.append(aiohttp.ClientSession(headers={"X-Ours": "1"}))
        return made[0]

    await within(fake, lambda bridge: bridge.state("q/1"), session_factory=factory)
    assert fake.seen[0].headers["X-Ours"] == "1"
    assert made[0].closed

    def broken() -> aiohttp.ClientSession:
        raise LookupError("no certificate")

    with pytest.raises(LookupError, match="no certificate"):
        await within(fake, lambda bridge: bridge.state("q/1"), session_factory=broken)


async def test_many_threads_share_one_client(fake):
    fake.plays([fake.state("e-1"), fake.finish("e-2")])

    def program(bridge: SyncBridge) -> list[str | None]:
        results: list[str | None] = []
        workers = [
            threading.Thread(target=lambda: results.append(bridge.result("q/1").cursor)) for _ in range(20)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(threads()) == 1
        return results

    assert await within(fake, program) == ["e-2"] * 20


async def test_closing_ends_the_calls_of_other_threads(fake):
    waiting = threading.Event()
    fake.plays([fake.state("e-1"), fake.HANG])

    def program(bridge: SyncBridge) -> list[str]:
        ends: list[str] = []

        def work() -> None:
            try:
                bridge.result("q/1", on_state=lambda _: waiting.set())
            except RuntimeError as error:
                ends.append(str(error))

        worker = threading.Thread(target=work)
        worker.start()
        waiting.wait()
        bridge.close()
        bridge.close()
        worker.join()
        with pytest.raises(RuntimeError, match="closed"):
            bridge.state("q/1")
        return ends

    assert await within(fake, program) == ["this SyncBridge is closed"]


async def test_leaving_a_watch_early_closes_its_connection(fake):
    fake.plays([fake.state("e-1"), fake.HANG])

    def program(bridge: SyncBridge) -> None:
        with closing(bridge.watch("q/1")) as states:
            assert next(states).cursor == "e-1"
        assert len(asyncio.all_tasks(bridge._loop._loop)) == 1
        for _ in bridge.watch("q/1"):
            break  # dropped, not closed
        gc.collect()
        assert len(asyncio.all_tasks(bridge._loop._loop)) == 1
        left = bridge.watch("q/1")
        next(left)
        bridge.close()
        with pytest.raises(RuntimeError, match="closed"):
            next(left)

    await within(fake, program)


async def test_a_client_that_is_dropped_ends_its_thread(fake):
    fake.plays(fake.answer(200, fake.document("q/1", "queued", "e-1")))

    def program() -> None:
        SyncBridge(fake.url).state("q/1")
        gc.collect()
        assert not threads()
        SyncBridge(fake.url)  # no thread before it is needed
        assert not threads()

    await asyncio.to_thread(program)


async def test_it_works_where_an_event_loop_runs(fake):
    fake.plays([fake.state("e-1"), fake.finish("e-2")])

    def notebook() -> str | None:
        async def cell() -> str | None:
            with SyncBridge(fake.url) as bridge:
                return bridge.result("q/1").cursor

        return asyncio.run(cell())

    assert await asyncio.to_thread(notebook) == "e-2"

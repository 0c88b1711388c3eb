"""The outermost layer: runs what was handed over, and keeps nothing of a request that is over."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from bridge.delivery.handoff import SERVER, ConnectionHandoff, detach, server_of, timeout_of_client

pytestmark = pytest.mark.anyio


class Transport:
    def get_write_buffer_size(self) -> int:
        return 0


class Cycle:
    """As uvicorn's: it holds the scope, and `send` is its method."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.transport = Transport()

    async def send(self, message: Any) -> None: ...


async def receive() -> Any:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize("fails", [False, True])
async def test_a_request_that_is_over_leaves_no_circle(*, fails: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert server_of(scope) is send.__self__
        if fails:
            raise ValueError

    cycle = Cycle({"type": "http", "headers": []})
    gone = weakref.ref(cycle)
    gc.disable()  # what only the collector frees stays for minutes under our thresholds
    try:
        try:
            await ConnectionHandoff(app)(cycle.scope, receive, cycle.send)
        except ValueError:
            assert fails
        del cycle
        assert gone() is None
    finally:
        gc.enable()


async def test_what_was_handed_over_runs_once_the_framework_has_returned() -> None:
    story = []

    async def stay(receive: Any, send: Any) -> None:
        story.append("stayed")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        detach(scope, stay)
        story.append("returned")

    cycle = Cycle({"type": "http", "headers": [(b"a", b"b")]})
    await ConnectionHandoff(app)(cycle.scope, receive, cycle.send)
    assert story == ["returned", "stayed"]
    assert cycle.scope["headers"] == []


class Leaving:
    """A server that tells when the client leaves."""

    leave: Callable[[], None] | None = None

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        self.leave = callback


async def test_a_client_that_leaves_while_its_time_runs_out_is_no_fault() -> None:
    server, failures = Leaving(), []

    def leaves() -> None:
        assert server.leave is not None
        try:
            server.leave()  # the timeout has expired, and the task has not noticed yet
        except RuntimeError as error:
            failures.append(error)

    async def wait() -> None:
        async with timeout_of_client(0, {"extensions": {SERVER: server}}):
            asyncio.get_running_loop().call_soon(leaves)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait()
    assert failures == []
    assert server.leave is None

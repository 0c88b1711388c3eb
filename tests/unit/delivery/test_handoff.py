"""The outermost layer: runs what was handed over, and keeps nothing of a request that is over."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from bridge.delivery.handoff import ConnectionHandoff, detach, server_of

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

"""A new delivery is one class and its place in a list: added here at run time, it streams like the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.app import Bridge
from bridge.config.load import load
from bridge.core.event import Event
from bridge.telemetry import metrics as metrics_module
from bridge.wire import formats
from bridge.wire.frames import Format
from tests.harness import Provider, qingbo_done, running_simulator, upstreams_of
from tests.truth.asgi import Response

pytestmark = pytest.mark.anyio


class TextFormat(Format):
    """A line of words for each event."""

    __slots__ = ()

    label = "text"
    content_type = "text/plain; charset=utf-8"

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:
        return f"{event.key.ref} is {event.state.status}\n".encode()

    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:
        return f"{name}\n".encode()


@pytest.fixture
async def bridge(monkeypatch: pytest.MonkeyPatch, http: Any) -> AsyncIterator[Bridge]:
    monkeypatch.setattr(formats, "STREAMS", [*formats.STREAMS, TextFormat])
    monkeypatch.setattr("bridge.web.params.STREAMS", formats.STREAMS)
    monkeypatch.setattr(metrics_module, "DELIVERIES", (*metrics_module.DELIVERIES, TextFormat.label))
    async with running_simulator() as simulator:
        for task in ("a", "b"):
            await Provider(simulator, "qingbo", http).script(task, qingbo_done(task))
        made = Bridge(load(None, environment={}, journal="memory", upstreams=upstreams_of(simulator)))
        async with made.running():
            yield made


async def test_it_is_negotiated_counted_and_ended(bridge: Bridge) -> None:
    stream, scrape = Response(), Response()
    query = "task=qingbo/a&task=qingbo/b"
    await stream.run(
        bridge, "GET", "/v1/events", {"accept": "text/plain, text/event-stream;q=0.1"}, query=query
    )
    assert stream.headers["content-type"] == "text/plain; charset=utf-8"
    lines = stream.body.decode().splitlines()
    assert sorted(lines[:-1]) == ["qingbo/a is completed", "qingbo/b is completed"]
    assert lines[-1] == "end"
    await scrape.run(bridge, "GET", "/metrics", {})
    assert b'bridge_events_total{delivery="text"} 2.0' in scrape.body

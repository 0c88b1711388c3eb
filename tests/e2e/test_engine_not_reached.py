"""A bridge whose engine was never there, as clients see it: not ready, and no status ends an EventSource."""

from __future__ import annotations

import aiohttp
import pytest

from tests.e2e.scene import QUICK
from tests.harness import PATIENCE, running_bridge

pytestmark = pytest.mark.anyio

UPSTREAMS = {"qingbo": QUICK | {"base_url": "http://127.0.0.1:1", "api_key": "key"}}
STREAMS = [
    ("GET", "/v1/tasks/qingbo/task_1/events", None),
    ("GET", "/v1/tasks/qingbo/task_1/events?last_event_id=mx25u1t4pa-1795976179689298~p500", None),
    ("GET", "/v1/tasks/qingbo/task_1/events?history=1", None),
    ("GET", "/v1/events?task=qingbo/task_1&task=qingbo/task_2", None),
    ("POST", "/v1/events", {"tasks": ["qingbo/task_1"]}),
]


async def test_a_stream_gets_the_reason_and_a_longer_delay_never_an_error_status() -> None:
    async with (
        running_bridge(UPSTREAMS, engine="redis://127.0.0.1:1") as bridge,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
    ):
        for method, path, body in STREAMS:
            headers = {"Accept": "text/event-stream"}
            async with http.request(method, bridge.url + path, json=body, headers=headers) as reply:
                text = await reply.text()
                assert (reply.status, reply.content_type) == (200, "text/event-stream"), text
            assert "not reached yet" in text
            assert '"reason":"over_capacity"' in text
            assert int(text.partition("retry: ")[2].partition("\n")[0]) >= 1000
            assert "\nid:" not in text
        async with http.get(f"{bridge.url}/v1/tasks/qingbo/task_1") as reply:
            assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        async with http.get(f"{bridge.url}/readyz") as reply:
            assert reply.status == 503
        async with http.get(f"{bridge.url}/livez") as reply:
            assert reply.status == 200
        async with http.ws_connect(f"{bridge.url}/v1/ws?task=qingbo/task_1") as socket:
            said = await socket.receive_json()
            assert said["type"] in {"error", "notice"}, said

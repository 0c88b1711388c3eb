"""Traces of the real process, as a collector receives them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.scene import stage
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

pytestmark = pytest.mark.anyio

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Receiver:
    """What a collector was sent: OTLP over HTTP, as protocol buffers."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        return web.Response(content_type="application/x-protobuf")

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for body in self.bodies
            for resource in collector.ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, str]:
        sent = collector.ExportTraceServiceRequest.FromString(self.bodies[0])
        return {one.key: one.value.string_value for one in sent.resource_spans[0].resource.attributes}


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def told(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def linked(span: Any) -> set[tuple[str, str]]:
    return {(link.trace_id.hex(), link.span_id.hex()) for link in span.links}


async def test_looks_and_changes_of_a_submitted_task_lead_to_each_other_and_to_the_submitter() -> None:
    async with receiving() as receiver:
        wishes = {
            "otlp_endpoint": receiver.url,
            "environment": {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=marker-1"},
        }
        async with stage(log_level="debug", **wishes) as scene:
            submitted = await scene.call(
                "POST",
                "/v1/tasks/qingbo",
                json={"model": "wan2.7", "prompt": "marker-3", "sim": {}},
                headers={"traceparent": f"00-{TRACE}-{SPAN}-01", "Authorization": "Bearer marker-4"},
            )
            assert submitted.status == 201, submitted.body
            ref = submitted.json["state"]["task"]
            task = ref.partition("/")[2]
            await scene.then(
                "qingbo", task, qingbo(task, "processing", 5), answer("<html>", status=502), qingbo_done(task)
            )
            async with scene.events(ref) as stream:
                await stream.rest()
                metrics = (await scene.get("/metrics", Accept="application/openmetrics-text")).body.decode()
            assert await scene.bridge.stop() == 0
        log = "".join(scene.bridge.log)
    spans = receiver.spans
    (submit,) = [span for span in spans if told(span).get("bridge.call") == "submit"]
    assert (submit.trace_id.hex(), submit.parent_span_id.hex()) == (TRACE, SPAN)
    looks = {span.span_id.hex(): span for span in spans if told(span).get("bridge.call") == "status"}
    assert len(looks) == scene.ledger.of("qingbo", task)
    for look in looks.values():
        assert told(look)["bridge.task"] == ref
        assert (TRACE, SPAN) in linked(look)
        assert look.trace_id.hex() != TRACE
    assert {told(look)["http.response.status_code"] for look in looks.values()} == {200, 502}
    changes = [span for span in spans if span.name == "publish qingbo"]
    assert [told(change)["bridge.status"] for change in changes][-2:] == ["processing", "completed"]
    for change in changes:
        assert (TRACE, SPAN) in linked(change)
        (cause,) = linked(change) - {(TRACE, SPAN)}
        assert cause[1] in looks or cause[1] == submit.span_id.hex()
    for span in spans:
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 < PATIENCE
    assert receiver.resource["service.name"] == "task-event-bridge"
    assert receiver.resource["service.version"]
    assert receiver.headers[0]["api-key"] == "marker-1"
    assert b"marker-" not in b"".join(receiver.bodies)
    assert f'trace_id="{changes[-1].trace_id.hex()}"' in metrics
    assert f'"trace_id": "{TRACE}"' in log
    assert "marker-" not in log


async def test_a_collector_that_is_away_costs_a_few_lines_and_nothing_else() -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async with stage(environment=environment) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo_done(task))
        async with scene.events(ref) as stream:
            assert [block.event for block in await stream.rest()] == [None, "done", "end"]
        async with asyncio.timeout(PATIENCE):
            while not any("opentelemetry" in line for line in scene.bridge.log):  # noqa: ASYNC110 - see test_logs
                await asyncio.sleep(0.02)
        assert await scene.bridge.stop() == 0

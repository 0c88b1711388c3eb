"""Spans as OpenTelemetry sees them: short, linked, and without a secret."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from bridge.core.task import Source, Status, TaskKey
from bridge.dialects.base import Request
from bridge.errors import UpstreamTimeout
from bridge.telemetry import otel
from bridge.telemetry.otel import OtelTracing
from bridge.telemetry.request_context import Trace, bind
from bridge.telemetry.tracing import NO_TRACING, make_tracing
from tests.fakes.tasks import state

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORIGIN = Trace(TRACE, SPAN, sampled=True)
KEY = TaskKey("qingbo", "task-1")
LOOK = Request(method="GET", path="/v1/tasks/a%2Fb?key=secret-marker", headers={"X": "secret-marker"})
BASE = "https://user:secret-marker@api.example:8443/base"


class Recorder:
    """A tracing whose spans can be read."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = OtelTracing(provider)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def look(tracing: OtelTracing, *, status: int = 200, origin: Trace | None = ORIGIN) -> None:
    with tracing.about(KEY, origin), tracing.request("qingbo", "status", LOOK, BASE) as span:
        span.answered(status)


def publish(tracing: OtelTracing, source: Source = Source.POLL, origin: Trace | None = ORIGIN) -> None:
    with tracing.publish(KEY, state(Status.PROCESSING), source, origin):
        pass


def places(span: ReadableSpan) -> list[tuple[str, str]]:
    return [(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links]


def place(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def test_a_look_is_a_client_span_named_by_the_conventions(recorder: Recorder) -> None:
    look(recorder.tracing)
    (span,) = recorder.spans
    assert (span.name, span.kind) == ("GET", SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "url.full": "https://api.example:8443/base/v1/tasks/a%2Fb",
        "server.address": "api.example",
        "server.port": 8443,
        "http.response.status_code": 200,
        "bridge.upstream": "qingbo",
        "bridge.call": "status",
        "bridge.task": "qingbo/task-1",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent is None
    assert places(span) == [(TRACE, SPAN)]


def test_a_change_is_linked_to_the_look_that_brought_it_and_to_its_submitter(recorder: Recorder) -> None:
    look(recorder.tracing)
    publish(recorder.tracing)
    looked, published = recorder.spans
    assert (published.name, published.kind) == ("publish qingbo", SpanKind.PRODUCER)
    assert published.attributes is not None
    assert published.attributes["bridge.status"] == "processing"
    assert published.attributes["messaging.operation.type"] == "send"
    assert places(published) == [place(looked), (TRACE, SPAN)]
    assert place(published)[0] != place(looked)[0]


def test_a_change_a_stream_brought_is_linked_to_no_look(recorder: Recorder) -> None:
    look(recorder.tracing, origin=None)
    publish(recorder.tracing, Source.STREAM, None)
    assert places(recorder.spans[-1]) == []


def test_what_is_asked_for_a_client_belongs_to_the_clients_trace(recorder: Recorder) -> None:
    def visit() -> None:
        bind([(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())])
        with recorder.tracing.request("qingbo", "submit", LOOK, BASE) as span:
            span.answered(201)

    copy_context().run(visit)
    (span,) = recorder.spans
    assert place(span)[0] == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN


def test_what_a_client_does_not_record_is_not_recorded(recorder: Recorder) -> None:
    def visit() -> None:
        bind([(b"traceparent", f"00-{TRACE}-{SPAN}-00".encode())])
        with recorder.tracing.request("qingbo", "submit", LOOK, BASE):
            pass

    copy_context().run(visit)
    assert recorder.spans == ()


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_an_answer_that_is_an_error_is_one(recorder: Recorder, status: int) -> None:
    look(recorder.tracing, status=status)
    (span,) = recorder.spans
    assert span.attributes is not None
    assert span.attributes["error.type"] == str(status)
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UpstreamTimeout("secret-marker"), "upstream_timeout"), (OSError("secret-marker"), "OSError")],
)
def test_how_it_failed_is_told_without_the_text_of_the_exception(
    recorder: Recorder, error: Exception, kind: str
) -> None:
    with pytest.raises(type(error)), recorder.tracing.request("qingbo", "status", LOOK, BASE):
        raise error
    with pytest.raises(type(error)), recorder.tracing.publish(KEY, state(Status.QUEUED), Source.POLL, None):
        raise error
    asked, published = recorder.spans
    assert asked.attributes is not None
    assert asked.attributes["error.type"] == kind
    for span in (asked, published):
        assert span.status.status_code is StatusCode.ERROR
        assert "secret-marker" not in span.to_json()
        assert not span.events


def test_nothing_secret_is_in_a_span(recorder: Recorder) -> None:
    look(recorder.tracing)
    publish(recorder.tracing)
    assert all("secret-marker" not in span.to_json() for span in recorder.spans)


def test_looks_at_the_same_time_do_not_mix(recorder: Recorder) -> None:
    async def one(task: str) -> None:
        key = TaskKey("qingbo", task)
        with recorder.tracing.about(key, None), recorder.tracing.request("qingbo", "status", LOOK, BASE):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        with recorder.tracing.publish(key, state(Status.QUEUED), Source.POLL, None):
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(*(one(str(number)) for number in range(5)))

    asyncio.run(both())
    spans: dict[Any, dict[str, ReadableSpan]] = {}
    for span in recorder.spans:
        assert span.attributes is not None
        spans.setdefault(span.attributes["bridge.task"], {})[span.name] = span
    assert len(spans) == 5
    for pair in spans.values():
        assert places(pair["publish qingbo"]) == [place(pair["GET"])]


def test_the_newest_trace_of_a_task_is_known_for_exemplars(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recorder.tracing.trace_of("qingbo/task-1") is None
    look(recorder.tracing)
    assert recorder.tracing.trace_of("qingbo/task-1") == place(recorder.spans[-1])[0]
    publish(recorder.tracing)
    assert recorder.tracing.trace_of("qingbo/task-1") == place(recorder.spans[-1])[0]
    monkeypatch.setattr(otel, "CACHE_SIZE", 3)
    for number in range(10):
        with recorder.tracing.publish(TaskKey("a", str(number)), state(Status.QUEUED), Source.POLL, None):
            pass
    assert recorder.tracing.trace_of("qingbo/task-1") is None
    assert recorder.tracing.trace_of("a/9")


def test_without_tracing_nothing_is_made(recorder: Recorder) -> None:
    first = NO_TRACING.request("a", "status", LOOK, BASE)
    assert (
        first
        is NO_TRACING.about(KEY, None)
        is NO_TRACING.publish(KEY, state(Status.QUEUED), Source.POLL, None)
    )
    with first as span:
        span.answered(200)
    with pytest.raises(KeyError), first:
        raise KeyError
    assert NO_TRACING.trace_of("x") is None


@pytest.mark.parametrize(
    ("endpoint", "environment", "on"),
    [
        (None, {}, False),
        ("http://127.0.0.1:1", {}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (None, {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (None, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        (None, {"OTEL_SERVICE_NAME": "x"}, False),
        ("http://127.0.0.1:1", {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
@pytest.mark.anyio
async def test_it_is_off_unless_somebody_asks_for_it(
    endpoint: str | None, environment: dict[str, str], on: bool
) -> None:
    tracing = make_tracing(endpoint, environment)
    assert (tracing is not NO_TRACING) is on
    await tracing.close()


@pytest.mark.anyio
async def test_without_the_extra_a_variable_of_the_cluster_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bridge.telemetry.tracing.can_export", lambda: False)
    assert make_tracing(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) is NO_TRACING
    assert ["task-event-bridge[otel]" in record.needs for record in caplog.records] == [True]


@pytest.mark.anyio
async def test_a_collector_that_hangs_does_not_hang_the_end(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    stuck = threading.Event()
    monkeypatch.setattr(otel, "FLUSH_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(recorder.tracing._provider, "shutdown", stuck.wait)
    async with asyncio.timeout(5):
        await recorder.tracing.close()
    stuck.set()

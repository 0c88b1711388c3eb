"""Spans by OpenTelemetry, sent by OTLP over HTTP. An extra: `pip install 'task-event-bridge[otel]'`.

Attributes follow the semantic conventions where there are any; ours begin with `bridge.`. No span holds a
query, a header, a body or the text of an exception, because those can contain secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags

from bridge import __version__
from bridge.core.task import Source, State, TaskKey
from bridge.dialects.base import Request
from bridge.errors import BridgeError
from bridge.telemetry.request_context import Trace, current_request

FLUSH_TIMEOUT_SECONDS = 3.0
CACHE_SIZE = 10_000
NAME = "task-event-bridge"

_NO_PARENT = Context()
_HTTPS_PORT, _HTTP_PORT = 443, 80


class _RequestSpan:
    """The span of a request in progress."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def answered(self, status: int) -> None:
        """Set the HTTP status; from 400 on the span is an error (semantic conventions for HTTP clients)."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)


class OtelTracing:
    """See `bridge.telemetry.tracing.Tracing`.

    The current task and request are kept in context variables: a poll, its request and the recording of its
    result follow each other in one asyncio task.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._newest: OrderedDict[str, str] = OrderedDict()
        self._tracer = provider.get_tracer("bridge", __version__)
        self._about: ContextVar[tuple[TaskKey, Trace | None] | None] = ContextVar(
            "bridge_about", default=None
        )
        self._last_request: ContextVar[SpanContext | None] = ContextVar("bridge_last_request", default=None)

    @contextmanager
    def about(self, key: TaskKey, origin: Trace | None) -> Iterator[None]:
        """The requests made in the body are about this task."""
        token = self._about.set((key, origin))
        try:
            yield
        finally:
            self._about.reset(token)

    @contextmanager
    def request(self, upstream: str, call: str, request: Request, base_url: str) -> Iterator[_RequestSpan]:
        """The span of one request to a provider."""
        key, origin = self._about.get() or (None, None)
        attributes = _address(request, base_url) | {"bridge.upstream": upstream, "bridge.call": call}
        if key is not None:
            attributes["bridge.task"] = key.ref
        span = self._tracer.start_span(
            request.method, _parent(), SpanKind.CLIENT, attributes, links=_links(_remote(origin))
        )
        try:
            yield _RequestSpan(span)
        except BaseException as error:
            kind = error.code if isinstance(error, BridgeError) else type(error).__qualname__
            span.set_attribute("error.type", kind)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            self._last_request.set(span.get_span_context())
            if key is not None:
                self._store(key, span.get_span_context())
            span.end()

    @contextmanager
    def publish(self, key: TaskKey, state: State, source: Source, origin: Trace | None) -> Iterator[None]:
        """The span of recording a state; linked to the poll and to the submit that led to it."""
        # States of a stream or callback were not requested, so the last request has nothing to do with them.
        requested = source in {Source.POLL, Source.SUBMIT}
        attributes = {
            "messaging.system": NAME,
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": key.upstream,
            "bridge.upstream": key.upstream,
            "bridge.task": key.ref,
            "bridge.status": state.status.value,
            "bridge.source": source.value,
        }
        links = _links(self._last_request.get() if requested else None, _remote(origin))
        name = f"publish {key.upstream}"
        span = self._tracer.start_span(name, _parent(), SpanKind.PRODUCER, attributes, links=links)
        self._store(key, span.get_span_context())
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    async def close(self) -> None:
        """Send queued spans, from a thread: a collector that hangs must not block the exit of the process."""
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed: the timeout below was faster
                loop.call_soon_threadsafe(closed.set)

        threading.Thread(target=shut_down, name="traces-shutdown", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), FLUSH_TIMEOUT_SECONDS)

    def trace_of(self, ref: str) -> str | None:
        """The newest trace of a task, for exemplars; None if it is no longer cached."""
        return self._newest.get(ref)

    def _store(self, key: TaskKey, context: SpanContext) -> None:
        if context.trace_flags.sampled:
            self._newest[key.ref] = f"{context.trace_id:032x}"
            self._newest.move_to_end(key.ref)  # an update keeps its old position in the order of eviction
            if len(self._newest) > CACHE_SIZE:
                self._newest.popitem(last=False)


def export_to(endpoint: str | None, environment: Mapping[str, str]) -> OtelTracing:
    """Traces sent to a collector; the SDK reads everything else from its `OTEL_` variables.

    Args:
        endpoint: The URL of the collector, to which `/v1/traces` is added.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - not installed for tests

    address = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
    provider = TracerProvider(resource=_resource(environment), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
    return OtelTracing(provider)


def _resource(environment: Mapping[str, str]) -> Resource:
    """The service name and version, unless the operator set a name in the `OTEL_` variables."""
    named = "OTEL_SERVICE_NAME" in environment or f"{SERVICE_NAME}=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    ours = {SERVICE_VERSION: __version__} | ({} if named else {SERVICE_NAME: NAME})
    return Resource.create(ours)


def _parent() -> Context:
    """The trace of the client whose request is being served; otherwise a new trace."""
    request = current_request()
    remote = _remote(request.trace) if request is not None else None
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), _NO_PARENT) if remote else _NO_PARENT


def _remote(remote: Trace | None) -> SpanContext | None:
    if remote is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if remote.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(remote.trace_id, 16), int(remote.span_id, 16), is_remote=True, trace_flags=flags)


def _links(*remotes: SpanContext | None) -> list[Link]:
    return [Link(remote) for remote in remotes if remote is not None]


def _address(request: Request, base_url: str) -> dict[str, str | int]:
    parts = urlsplit(base_url)
    path = request.path.partition("?")[0]
    host = parts.hostname or ""
    return {
        "http.request.method": request.method,
        "url.full": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{path}",
        "server.address": host,
        "server.port": parts.port or (_HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT),
    }

"""Traces: one short span for each request to a provider, and one for each change of state.

No span lives as long as a stream: it would be exported when the stream ends, after its data is of use.
Related spans are linked instead: a change to the poll that detected it, both to the trace of the client that
submitted the task.
"""

# ruff: noqa: ARG002 - a null object ignores its arguments
from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Protocol

from bridge.core.task import Source, State, TaskKey
from bridge.dialects.base import Request
from bridge.telemetry.request_context import Trace

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXTRA = "pip install 'task-event-bridge[otel]'"

logger = logging.getLogger(__name__)


class Span(Protocol):
    """The span of one request in progress."""

    def answered(self, status: int) -> None:
        """Set the HTTP status of the provider's response."""


class Tracing(Protocol):
    """Creates spans. No method blocks or raises."""

    def about(self, key: TaskKey, origin: Trace | None) -> AbstractContextManager[object]:
        """The requests made in the body are about this task.

        Args:
            origin: The trace of the client that submitted it; None if unknown.
        """

    def request(
        self, upstream: str, call: str, request: Request, base_url: str
    ) -> AbstractContextManager[Span]:
        """The span of one request to a provider; an exception in the body marks it as failed."""

    def publish(
        self, key: TaskKey, state: State, source: Source, origin: Trace | None
    ) -> AbstractContextManager[object]:
        """The span of recording a state; linked to the last request if that request returned the state."""

    def trace_of(self, ref: str) -> str | None:
        """The id of the newest trace of a task; None if there is none."""

    async def close(self) -> None:
        """Send queued spans, up to a few seconds."""


class _NoSpan:
    """A span that is not recorded."""

    def answered(self, status: int) -> None:
        pass


class NoTracing:
    """Creates no spans. All methods share one object, so a call costs almost nothing."""

    _span: AbstractContextManager[Span] = nullcontext(_NoSpan())

    def about(self, key: TaskKey, origin: Trace | None) -> AbstractContextManager[object]:
        return self._span

    def request(
        self, upstream: str, call: str, request: Request, base_url: str
    ) -> AbstractContextManager[Span]:
        return self._span

    def publish(
        self, key: TaskKey, state: State, source: Source, origin: Trace | None
    ) -> AbstractContextManager[object]:
        return self._span

    def trace_of(self, ref: str) -> None:
        """Always None."""

    async def close(self) -> None:
        pass


def can_export() -> bool:
    """Whether the OTLP exporter is installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # raised if a parent package is missing
        return False


def make_tracing(endpoint: str | None, environment: Mapping[str, str]) -> Tracing:
    """The tracing that the settings and `OTEL_` variables ask for.

    Args:
        endpoint: The URL of a collector; None to use the `OTEL_` variables.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NO_TRACING
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    named = any(environment.get(name) for name in _ENDPOINTS) or "OTEL_TRACES_EXPORTER" in environment
    if endpoint is None and (exporter != "otlp" or not named):
        return NO_TRACING
    if not can_export():
        # No error: a cluster may set these variables for every process.
        logger.warning("tracing disabled: exporter not installed", extra={"needs": EXTRA})
        return NO_TRACING
    from bridge.telemetry.otel import export_to  # noqa: PLC0415 - an optional extra that takes 30 MB

    return export_to(endpoint, environment)


NO_TRACING = NoTracing()

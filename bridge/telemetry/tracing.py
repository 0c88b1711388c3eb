"""Traces: a short span for each request to a provider, and for each change of state.

No span lives as long as a stream: it would be exported when the stream ends, which is when nobody asks any
more. What belongs together is linked instead: a change to the look that brought it, both to the trace of
whoever submitted the task.
"""

# ruff: noqa: ARG002 - a null object looks at nothing
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
    """One request under way."""

    def answered(self, status: int) -> None:
        """The provider answered with this HTTP status."""


class Tracing(Protocol):
    """Makes spans. Nothing here waits, and nothing fails."""

    def about(self, key: TaskKey, origin: Trace | None) -> AbstractContextManager[object]:
        """The requests made within are about this task.

        Args:
            origin: Where in the trace of its submitter it was created; None when nobody said.
        """

    def request(
        self, upstream: str, call: str, request: Request, base_url: str
    ) -> AbstractContextManager[Span]:
        """One request to a provider; an exception is how it failed."""

    def publish(
        self, key: TaskKey, state: State, source: Source, origin: Trace | None
    ) -> AbstractContextManager[object]:
        """A change of state is recorded; linked to the request made last, where a look brought it."""

    def trace_of(self, ref: str) -> str | None:
        """The id of the trace in which something was last seen of a task."""

    async def close(self) -> None:
        """Send what waits; not for long."""


class _NoSpan:
    """What is told to it is forgotten."""

    def answered(self, status: int) -> None:
        """Nobody asks."""


class NoTracing:
    """Costs next to nothing: each method gives out one object that was made before."""

    _span: AbstractContextManager[Span] = nullcontext(_NoSpan())

    def about(self, key: TaskKey, origin: Trace | None) -> AbstractContextManager[object]:
        """Nothing begins."""
        return self._span

    def request(
        self, upstream: str, call: str, request: Request, base_url: str
    ) -> AbstractContextManager[Span]:
        """Nothing begins."""
        return self._span

    def publish(
        self,
        key: TaskKey,
        state: State,
        source: Source,
        origin: Trace | None,
    ) -> AbstractContextManager[object]:
        """Nothing begins."""
        return self._span

    def trace_of(self, ref: str) -> None:
        """There is none."""

    async def close(self) -> None:
        """Nothing waits."""


def can_export() -> bool:
    """Whether what speaks to a collector is installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # not even its parents are there
        return False


def make_tracing(endpoint: str | None, environment: Mapping[str, str]) -> Tracing:
    """Traces, where the operator wants them.

    Args:
        endpoint: Of a collector; None to see what the `OTEL_` variables say.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NO_TRACING
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    named = any(environment.get(name) for name in _ENDPOINTS) or "OTEL_TRACES_EXPORTER" in environment
    if endpoint is None and (exporter != "otlp" or not named):
        return NO_TRACING
    if not can_export():  # a cluster may set these variables for everybody
        logger.warning("no traces, although OTEL_ variables ask for them: they need %s", EXTRA)
        return NO_TRACING
    from bridge.telemetry.otel import export_to  # noqa: PLC0415 - an extra, and 30 MB for those who want it

    return export_to(endpoint, environment)


NO_TRACING = NoTracing()

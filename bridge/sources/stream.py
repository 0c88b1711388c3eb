"""Follows a provider's own SSE stream of one task, with frames of any format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from bridge.core.rate_limit import CallKind
from bridge.core.task import Observation
from bridge.dialects.base import Request
from bridge.errors import UnreadablePayload, UpstreamError, UpstreamRefused
from bridge.sources.upstream import Upstream
from bridge.wire.sse import Decoder

OPEN_WAIT_SECONDS = 30.0  # polls carry the state meanwhile

OnObservations = Callable[[Sequence[Observation]], Awaitable[bool]]


async def follow(
    upstream: Upstream,
    request: Request,
    *,
    on_observations: OnObservations,
    on_alive: Callable[[], None],
) -> None:
    """Pass on what the stream shows until it ends or shows the end of the task.

    Args:
        on_observations: Called with the observations of one chunk, in order; returns whether the task has
            ended.
        on_alive: Called for every chunk, heartbeats included.

    Raises:
        UpstreamError: The connection was lost, or there is no stream; a poll must find what is missing.
    """
    try:
        async with (
            upstream.acquire(CallKind.STREAM, wait_seconds=OPEN_WAIT_SECONDS),
            upstream.session.listen(request) as (head, chunks),
        ):
            if head.status != 200:
                upstream.dialect.read_status(head)  # raises the provider's own error
            if head.status != 200 or not head.headers.get("content-type", "").startswith("text/event-stream"):
                raise UpstreamRefused("the upstream has no stream for this task", provider_status=head.status)
            decoder = Decoder()
            async for chunk in chunks:
                on_alive()
                read = [_read(upstream, frame.name, frame.data) for frame in decoder.feed(chunk)]
                observations = [observation for observation in read if observation is not None]
                if observations and await on_observations(observations):
                    break
    except UpstreamError as error:
        upstream.record_stream(error.outcome)
        raise
    upstream.record_stream("ok")


def _read(upstream: Upstream, name: str | None, data: str) -> Observation | None:
    try:
        shown_name = None if name is None else _shown(upstream, name)
        return upstream.dialect.read_stream_event(shown_name, _shown(upstream, data))
    except UnreadablePayload:
        # One malformed frame is skipped: the next one, or a poll, carries the same state.
        return None


def _shown(upstream: Upstream, text: str) -> str:
    return upstream.session.hide(text.encode()).decode("utf-8", "replace")

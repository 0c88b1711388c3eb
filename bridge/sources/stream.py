"""Follows a provider's own SSE stream of one task, with frames of any format."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from bridge.core.rate_limit import CallKind
from bridge.core.task import Observation
from bridge.dialects.base import Request
from bridge.errors import UnreadablePayload, UpstreamError, UpstreamRefused
from bridge.sources.body_memory import UNCOUNTED_BYTES
from bridge.sources.http_client import MAX_MASKED_IN_LOOP
from bridge.sources.slices import Turns
from bridge.sources.upstream import Upstream
from bridge.wire.sse import MAX_EVENT_BYTES, Decoder

OPEN_WAIT_SECONDS = 30.0  # polls carry the state meanwhile
_MAX_NAME = 256

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
        on_observations: Called with the observations of one slice of time, in order; returns whether the task
            has ended.
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
            await _read_frames(upstream, chunks, on_observations, on_alive)
    except UpstreamError as error:
        upstream.record_stream(error.outcome)
        raise
    upstream.record_stream("ok")


async def _read_frames(
    upstream: Upstream,
    chunks: AsyncIterator[bytes],
    on_observations: OnObservations,
    on_alive: Callable[[], None],
) -> None:
    """In turns: a chunk of half a megabyte may hold sixty thousand frames."""
    decoder, turns = Decoder(), upstream.session.turns()
    with upstream.session.event_share() as share:
        async for chunk in chunks:
            on_alive()
            async for piece in turns.pieces(chunk):
                observations = await _read_piece(upstream, decoder, piece, turns)
                if observations and await on_observations(observations):
                    return
                # A hundred streams may each be in the middle of an event of 8 MB.
                if not share.covers(decoder.held):
                    await share.grow(decoder.held, MAX_EVENT_BYTES)
                elif decoder.held < UNCOUNTED_BYTES:
                    share.close()


async def _read_piece(upstream: Upstream, decoder: Decoder, piece: bytes, turns: Turns) -> list[Observation]:
    began = turns.work()
    observations: list[Observation] = []
    for frame in decoder.feed(piece):
        if len(frame.data) > MAX_MASKED_IN_LOOP:
            data = await upstream.session.hide_large(frame.data.encode(), turns)
            began = turns.work()
        else:
            data = upstream.session.hide(frame.data.encode())
        observation = _read(upstream, frame.name, data.decode("utf-8", "replace"))
        if observation is not None:
            observations.append(observation)
    # Merging the observations takes about as long as reading them.
    turns.bill(len(piece), began, 2 if observations else 1)
    return observations


def _read(upstream: Upstream, name: str | None, data: str) -> Observation | None:
    if name is not None:
        # A name is a word: its rest is cut off.
        name = upstream.session.hide(name[:_MAX_NAME].encode()).decode("utf-8", "replace")
    try:
        return upstream.dialect.read_stream_event(name, data)
    except UnreadablePayload:
        # One malformed frame is skipped: the next one, or a poll, carries the same state.
        return None

"""Which states a connection has to be sent: of its backlogs, and of the tasks it was too slow for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bridge.core.event import Confirmation
from bridge.core.resume import Position, is_caught_up, is_end_seen, is_seen
from bridge.hub.channel import Channel
from bridge.hub.subscription import Backlog, Subscription
from bridge.wire.frames import Format, Frames

Held = dict[Channel[Subscription], Position]


class Due(NamedTuple):
    """A state that a flush is about to write.

    Args:
        first: Whether it comes from a backlog.
    """

    offset: int
    channel: Channel[Subscription]
    frames: Frames
    first: bool


def frame_of(
    subscription: Subscription, due: Due, fmt: Format, *, now: float, confirmation: Confirmation | None
) -> bytes:
    """Its bytes; the first one carries the reconnect delay of its connection.

    Args:
        fmt: That of the connection, or the same without ids.
        now: Unix seconds.
        confirmation: The newest one of the state.
    """
    if not due.first:
        return due.frames.payload_for(fmt, now=now, confirmation=confirmation)
    frame = due.frames.payload_for(fmt, now=now, confirmation=confirmation, retry=subscription.retry)
    subscription.retry = None  # sent with the first block
    return frame


def due_states(pending: Mapping[Channel[Subscription], Backlog | None], held: Held) -> Iterator[Due]:
    """The states that a flush of these tasks writes, in no particular order.

    Args:
        held: Receives the tasks of which it is unclear what the client has seen.
    """
    for channel, backlog in pending.items():
        if backlog is None:
            if channel.frames is not None:
                yield Due(channel.offset, channel, channel.frames, first=False)
            continue
        newest, event = channel.frames, backlog.event
        known = 0
        if event is not None and event.cursor.offset == 0 and not event.cursor.shown:
            if newest is None:  # a placeholder, which nothing has replaced
                yield Due(0, channel, Frames(event), first=True)
        elif _is_unordered(channel, backlog):
            yield from _unordered(channel, backlog, held)
            continue
        elif event is not None:
            known = event.cursor.offset
            channel.update(event)
            if known > backlog.floor:
                # With the channel's own frames, subscribers that join between two polls share one encoding.
                shared = channel.frames if channel.offset == known else None
                yield Due(known, channel, shared or Frames(event), first=True)
        # The journal was read a moment ago; the channel may have received a newer event meanwhile.
        if newest is not None and newest.event.cursor.offset > max(known, backlog.floor):
            yield Due(newest.event.cursor.offset, channel, newest, first=True)


def _is_unordered(channel: Channel[Subscription], backlog: Backlog) -> bool:
    """Whether offsets alone do not decide what the client lacks: never where one process alone records."""
    event = backlog.event
    shown = event is not None and event.cursor.shown
    return backlog.position is not None or channel.unrecorded or channel.pushed or bool(shown)


def _unordered(channel: Channel[Subscription], backlog: Backlog, held: Held) -> Iterator[Due]:
    """The same for a task where offsets alone do not say what the client lacks."""
    if backlog.event is not None and not (channel.unrecorded or backlog.event.cursor.shown):
        channel.update(backlog.event)
    position = backlog.position or Position(after=backlog.floor if backlog.floor >= 0 else None)
    event = channel.latest
    if event is None or channel.frames is None:
        held[channel] = position
    elif not is_seen(event, position):
        yield Due(channel.offset, channel, channel.frames, first=True)
    elif backlog.position is None and not event.cursor.shown:
        pass  # its offset decides, as ever
    elif not is_caught_up(event, position) and not (
        event.state.status.final and is_end_seen(event, position)
    ):
        held[channel] = position


def is_unsent(subscription: Subscription, channel: Channel[Subscription]) -> bool:
    """Whether a broadcast still has to write the newest event; False while the subscription is joining."""
    return (
        channel.offset > subscription.sent_offset
        and not channel.pushed
        and channel.includes(subscription)
        and not channel.is_held(subscription)
    )

"""Which states a connection has to be sent: of its backlogs, and of the tasks it was too slow for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bridge.hub.channel import Channel
from bridge.hub.subscription import Backlog, Subscription
from bridge.wire.frames import Frames


class Due(NamedTuple):
    """A state that a flush is about to write.

    Args:
        first: Whether it comes from a backlog: with the newest confirmation.
    """

    offset: int
    channel: Channel[Subscription]
    frames: Frames
    first: bool


def frame_of(subscription: Subscription, due: Due) -> bytes:
    """Its bytes; the first one carries the reconnect delay of its connection."""
    if not due.first:
        return due.frames.payload_for(subscription.fmt)
    frame = due.frames.payload_for(
        subscription.fmt, confirmed_at=due.channel.confirmed_at, retry=subscription.retry
    )
    subscription.retry = None  # sent with the first block
    return frame


def due_states(pending: Mapping[Channel[Subscription], Backlog | None]) -> Iterator[Due]:
    """The states that a flush of these tasks writes, in no particular order."""
    for channel, backlog in pending.items():
        if backlog is None:
            if channel.frames is not None:
                yield Due(channel.offset, channel, channel.frames, first=False)
            continue
        newest, event = channel.frames, backlog.event
        known = 0
        if event is not None and event.cursor.offset == 0:
            if newest is None:  # a placeholder, which nothing has replaced
                yield Due(0, channel, Frames(event), first=True)
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


def is_unsent(subscription: Subscription, channel: Channel[Subscription]) -> bool:
    """Whether a broadcast still has to write the newest event; False while the subscription is joining."""
    return channel.offset > subscription.sent_offset and channel.includes(subscription)

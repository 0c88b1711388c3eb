"""Long polling: respond as soon as the state differs from the one the client has."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.subscriptions import Subscriptions
from bridge.telemetry.metrics import LEFT
from bridge.wire.formats import JsonFormat

MAX_WAIT_SECONDS = 60
LABEL = JsonFormat.label

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LongPollResult:
    """The result of one request.

    Args:
        modified: False if the client's state is still the newest (HTTP 304).
        observed_at: Unix seconds of the newest confirmation.
    """

    event: Event
    modified: bool
    observed_at: float | None


async def read(
    subscriptions: Subscriptions, key: TaskKey, *, have: str | None, wait: float | None
) -> LongPollResult:
    """The state of a task; with `wait`, once it differs from `have`.

    Args:
        have: The ETag of the state the client holds.
        wait: Seconds; only together with `have`.

    Raises:
        BridgeError: The task has no recorded state, and this is why.
    """
    event = await subscriptions.read_or_poll(key)
    if have is None or not _matches(event, have):
        return _result(subscriptions, event, modified=True)
    if not wait or event.state.status.final:
        return _result(subscriptions, event, modified=False)
    subscriptions.metrics.connected(LABEL)
    started_at, reason, newer = subscriptions.clock.monotonic(), LEFT, None
    try:
        newer = await subscriptions.hub.changed(key, event.cursor.offset, seconds=min(wait, MAX_WAIT_SECONDS))
        reason = "finished"
    finally:
        # Also when the client disconnects, which cancels the wait: `reason` is still `LEFT` then.
        subscriptions.metrics.disconnected(LABEL, reason)
        logger.info(
            "connection ended",
            extra={
                "delivery": LABEL,
                "reason": reason,
                "seconds": round(subscriptions.clock.monotonic() - started_at, 3),
                "task": key.ref,
                "events": int(newer is not None),
            },
        )
    if newer is None:
        return _result(subscriptions, event, modified=False)
    # The hub counts only events it writes itself; this one is written by the route.
    seconds = subscriptions.clock.monotonic() - newer.observed_at if newer.observed_at else None
    subscriptions.metrics.record_broadcast({LABEL: 1}, {}, seconds, task=key.ref)
    return _result(subscriptions, newer, modified=True)


def etag(event: Event) -> str:
    """The cursor as an HTTP entity tag (RFC 9110 section 8.8.3)."""
    return f'"{event.cursor}"'


def _matches(event: Event, have: str) -> bool:
    """Whether an `If-None-Match` header names the state of `event`."""
    if have.strip() == "*":
        return True
    # Weak comparison, as RFC 9110 section 13.1.2 asks for If-None-Match.
    tags = (tag.strip().removeprefix("W/").strip('"') for tag in have.split(","))
    return any(Cursor.parse(tag) == event.cursor for tag in tags)


def _result(subscriptions: Subscriptions, event: Event, *, modified: bool) -> LongPollResult:
    channel = subscriptions.hub.channel_of(event.key)
    return LongPollResult(event, modified, channel.confirmed_at if channel is not None else None)

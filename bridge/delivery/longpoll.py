"""Long-poll: the state as soon as it differs from what the caller has."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.subscriptions import Subscriptions
from bridge.telemetry.metrics import LEFT

MAX_WAIT_SECONDS = 60
LABEL = "longpoll"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LongPollResult:
    """A state, or that it is still the one the caller has.

    Args:
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
        have: The ETag the caller holds.
        wait: Seconds; only together with `have`.

    Raises:
        BridgeError: Nothing was ever seen of the task, and why.
    """
    event = await subscriptions.look_up(key)
    if have is None or not _same(event, have):
        return _answer(subscriptions, event, modified=True)
    if not wait or event.state.status.final:
        return _answer(subscriptions, event, modified=False)
    subscriptions.metrics.connected(LABEL)
    began, reason, later = subscriptions.clock.monotonic(), LEFT, None
    try:
        later = await subscriptions.hub.changed(key, event.cursor.offset, seconds=min(wait, MAX_WAIT_SECONDS))
        reason = "finished"
    finally:
        subscriptions.metrics.disconnected(LABEL, reason)
        _tell_end(key, reason=reason, seconds=subscriptions.clock.monotonic() - began, news=later is not None)
    if later is None:
        return _answer(subscriptions, event, modified=False)
    seconds = subscriptions.clock.monotonic() - later.seen if later.seen else None
    subscriptions.metrics.record_broadcast({LABEL: 1}, {}, seconds, task=key.ref)
    return _answer(subscriptions, later, modified=True)


def _tell_end(key: TaskKey, *, reason: str, seconds: float, news: bool) -> None:
    fields = {"delivery": LABEL, "reason": reason, "seconds": round(seconds, 3), "task": key.ref}
    logger.info("connection ended", extra=fields | {"events": int(news)})


def etag(event: Event) -> str:
    """The cursor, as HTTP wants it."""
    return f'"{event.cursor}"'


def _same(event: Event, have: str) -> bool:
    if have.strip() == "*":
        return True
    offered = (one.strip().removeprefix("W/").strip('"') for one in have.split(","))
    return any(Cursor.parse(one) == event.cursor for one in offered)


def _answer(subscriptions: Subscriptions, event: Event, *, modified: bool) -> LongPollResult:
    channel = subscriptions.hub.channel_of(event.key)
    return LongPollResult(event, modified, channel.confirmed_at if channel is not None else None)

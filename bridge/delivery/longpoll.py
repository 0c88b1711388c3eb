"""Long-poll: the state as soon as it differs from what the caller has."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.subscriptions import Desk
from bridge.telemetry.metrics import LEFT

LONGEST_WAIT_SECONDS = 60
LABEL = "longpoll"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A state, or that it is still the one the caller has.

    Args:
        observed_at: Unix seconds of the newest confirmation.
    """

    event: Event
    modified: bool
    observed_at: float | None


async def read(desk: Desk, key: TaskKey, *, have: str | None, wait: float | None) -> Answer:
    """The state of a task; with `wait`, once it differs from `have`.

    Args:
        have: The ETag the caller holds.
        wait: Seconds; only together with `have`.

    Raises:
        BridgeError: Nothing was ever seen of the task, and why.
    """
    event = await desk.look_up(key)
    if have is None or not _same(event, have):
        return _answer(desk, event, modified=True)
    if not wait or event.state.status.final:
        return _answer(desk, event, modified=False)
    desk.metrics.connected(LABEL)
    began, reason, later = desk.clock.now(), LEFT, None
    try:
        later = await desk.hub.changed(key, event.cursor.offset, seconds=min(wait, LONGEST_WAIT_SECONDS))
        reason = "finished"
    finally:
        desk.metrics.disconnected(LABEL, reason)
        _tell_end(key, reason=reason, seconds=desk.clock.now() - began, news=later is not None)
    if later is None:
        return _answer(desk, event, modified=False)
    seconds = desk.clock.now() - later.seen if later.seen else None
    desk.metrics.carried({LABEL: 1}, {}, seconds, task=key.ref)
    return _answer(desk, later, modified=True)


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


def _answer(desk: Desk, event: Event, *, modified: bool) -> Answer:
    channel = desk.hub.channel_of(event.key)
    return Answer(event, modified, channel.confirmed_at if channel is not None else None)

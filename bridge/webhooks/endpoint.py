"""An endpoint of a receiver: where deliveries go, of which states, and with which secrets they are signed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from bridge.core.merge import amends, newly_stored
from bridge.core.task import State

ROTATION_SECONDS = 86_400.0
"""How long the secret before signs beside the new one."""


class EventType(StrEnum):
    """What a delivery is about."""

    FINAL = "task.final"
    STATUS = "task.status"
    STATE = "task.state"
    STORED = "task.stored"
    TEST = "webhook.test"


SUBSCRIBABLE = (EventType.FINAL, EventType.STATUS, EventType.STATE, EventType.STORED)


class Disabled(StrEnum):
    """Why nothing is delivered to an endpoint."""

    OPERATOR = "operator"
    GONE = "gone"  # it answered 410
    FAILING = "failing"  # nothing arrived for 24 hours
    FULL = "full"  # too many deliveries wait for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One endpoint.

    Args:
        id: `wh_` and random; of an endpoint in the configuration its name there.
        events: What is sent to it; the most specific one that fits a state names the delivery. `STORED` is of
            an amendment of the end, which makes no other.
        upstreams: Of which upstreams; empty for all.
        tags: Of tasks with one of these tags; empty for all.
        secret: `whsec_` and base64.
        previous_secret: The one before, which signs too until `previous_until` (Unix seconds).
        created_at: Unix seconds.
        disabled: Why nothing is delivered; None while it is enabled.
        disabled_at: Unix seconds.
        static: Whether it is in the configuration.
    """

    id: str
    url: str
    events: tuple[EventType, ...] = (EventType.FINAL,)
    upstreams: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    secret: str
    previous_secret: str | None = None
    previous_until: float = 0.0
    created_at: float = 0.0
    disabled: Disabled | None = None
    disabled_at: float | None = None
    static: bool = False

    @property
    def queue(self) -> str:
        """Of its jobs in the ledger."""
        return f"webhook:{self.id}"

    def event_of(
        self, upstream: str, tags: Collection[str], previous: State | None, state: State
    ) -> EventType | None:
        """What of a state is sent to it; None for nothing."""
        if self.upstreams and upstream not in self.upstreams:
            return None
        if self.tags and not any(tag in tags for tag in self.tags):
            return None
        if amends(previous, state):
            stored = EventType.STORED in self.events and newly_stored(previous, state)
            return EventType.STORED if stored else None
        if state.status.final and EventType.FINAL in self.events:
            return EventType.FINAL
        if EventType.STATUS in self.events and (previous is None or previous.status is not state.status):
            return EventType.STATUS
        return EventType.STATE if EventType.STATE in self.events else None

    def signing_secrets(self, now: float) -> tuple[str, ...]:
        """Those that sign now, the newest one first."""
        if self.previous_secret is not None and now < self.previous_until:
            return self.secret, self.previous_secret
        return (self.secret,)

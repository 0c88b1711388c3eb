"""One round a second over all connections: keepalives, ages, and those who take nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.core.event import Closing
from bridge.hub.hub import Hub
from bridge.hub.subscription import Subscription
from bridge.wire.frames import closing_frame, keepalive

SLICE = 1000
RETRY_SECONDS = (1.0, 3.0)
BUSY_RETRY_SECONDS = (5.0, 15.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """When a connection is spoken to, ended, or given up; all in seconds.

    Args:
        write_timeout_seconds: How long a connection may take no byte that waits for it.
    """

    keepalive_seconds: float = 15.0
    write_timeout_seconds: float = 30.0
    period_seconds: float = 1.0


class ConnectionMaintenance:
    """Looks after every connection, so that none needs a timer of its own."""

    def __init__(
        self, hub: Hub, clock: Clock, random: Callable[[], float], settings: MaintenanceSettings
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._random = random
        self._settings = settings

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self._clock.sleep(self._settings.period_seconds)
            await self.once()

    async def once(self) -> None:
        """One round, a slice at a time."""
        for number, subscription in enumerate(list(self._hub.subscriptions), start=1):
            if subscription.closing is None:
                self._check(subscription, self._clock.monotonic())
            if number % SLICE == 0:
                await asyncio.sleep(0)

    async def drain(self, seconds: float) -> None:
        """End every connection, spread over `seconds` at the most: those who come back come spread."""
        subscriptions = [one for one in self._hub.subscriptions if one.closing is None]
        window = min(seconds, len(subscriptions) / 100)
        for number, subscription in enumerate(subscriptions, start=1):
            if subscription.closing is None:
                self.close(subscription, Closing.DRAIN)
            if number % 20 == 0:
                await self._clock.sleep(window * 20 / len(subscriptions))

    def close(self, subscription: Subscription, closing: Closing) -> None:
        """Tell a client why its connection ends and when to come back, then end it."""
        retry = retry_milliseconds(self._random(), busy=closing is Closing.OVER_CAPACITY)
        farewell = closing_frame(subscription.fmt, closing, CLOSING_SENTENCES[closing], retry=retry)
        self._hub.finish(subscription, closing, farewell)

    def _check(self, subscription: Subscription, now: float) -> None:
        if self._is_stalled(subscription, now):
            self._hub.drop(subscription, Closing.SLOW)
        elif now >= subscription.ends_at:
            self.close(subscription, subscription.ends_by)
        elif now - _last_write(subscription) >= self._settings.keepalive_seconds:
            if not subscription.gate.write_paused:
                self._hub.write(subscription, keepalive(subscription.fmt))
            subscription.last_write = now

    def _is_stalled(self, subscription: Subscription, now: float) -> bool:
        unsent = subscription.outlet.unsent
        if unsent == 0 or subscription.stuck_since is None or unsent < subscription.stuck_bytes:
            subscription.stuck_since = now if unsent else None
            subscription.stuck_bytes = unsent
            return False
        subscription.stuck_bytes = unsent
        return now - subscription.stuck_since >= self._settings.write_timeout_seconds


CLOSING_SENTENCES = {
    Closing.FINISHED: "nothing more will come",
    Closing.GONE: "the client left",
    Closing.DRAIN: "this bridge is restarting; come back",
    Closing.AGE: "this connection has lived long enough; come back",
    Closing.SLOW: "this connection took no byte for too long",
    Closing.EXPIRED: "the credential of this connection expired",
    Closing.OVER_CAPACITY: "this bridge is full; come back later",
}


def retry_milliseconds(rng: float, *, busy: bool = False) -> int:
    """How long a client should wait before it comes back, spread by chance."""
    least, most = BUSY_RETRY_SECONDS if busy else RETRY_SECONDS
    return int(1000 * (least + (most - least) * rng))


def _last_write(subscription: Subscription) -> float:
    return max([subscription.last_write, *(channel.last_write for channel in subscription.channels.values())])

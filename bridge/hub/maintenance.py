"""Once a second: send keepalives, close connections past their maximum age, and abort slow clients.

Slow clients are those past the write timeout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.core.event import Closing
from bridge.hub.hub import Hub
from bridge.hub.subscription import Subscription

SLICE = 1000  # connections checked before the event loop gets a turn
DRAIN_BATCH = 20  # connections closed between two sleeps of a drain
DRAIN_RATE = 100  # connections closed per second, where the drain time allows it
RETRY_SECONDS = (1.0, 3.0)
BUSY_RETRY_SECONDS = (5.0, 15.0)

logger = logging.getLogger(__name__)


class ConnectionMaintenance:
    """Checks all connections in one periodic scan, so that none needs a timer of its own."""

    def __init__(self, hub: Hub, clock: Clock, random: Callable[[], float], settings: Settings) -> None:
        self._hub = hub
        self._clock = clock
        self._random = random
        self._settings = settings
        # One round per second, unless the settings ask for intervals that need finer rounds.
        self._period_seconds = min(
            1.0, settings.keepalive_seconds / 2, settings.max_connection_age_seconds / 10
        )

    async def run(self) -> None:
        """Scan periodically until cancelled."""
        while True:
            await self._clock.sleep(self._period_seconds)
            await self.once()

    async def once(self) -> None:
        """Scan all connections once, yielding to the event loop after each slice."""
        self._hub.retry_stuck()
        self._hub.catch_up()
        # A copy, because connections come and go while the loop has its turn.
        for number, subscription in enumerate(list(self._hub.subscriptions), start=1):
            if subscription.closing is None:
                try:
                    self._check(subscription, self._clock.monotonic())
                except Exception:
                    # One connection must not end the scan of all the others.
                    logger.exception("unhandled exception in connection")
                    self._hub.drop(subscription, Closing.GONE)
            if number % SLICE == 0:
                await asyncio.sleep(0)

    async def drain(self, seconds: float) -> None:
        """Close every connection, spread over at most `seconds`, so that the reconnects are spread too."""
        subscriptions = [
            subscription for subscription in self._hub.subscriptions if subscription.closing is None
        ]
        # A few clients are closed within a moment, at 100 per second; many share the whole drain time.
        window = min(seconds, len(subscriptions) / DRAIN_RATE)
        for number, subscription in enumerate(subscriptions, start=1):
            if subscription.closing is None:
                try:
                    self.close(subscription, Closing.DRAIN)
                except Exception:
                    logger.exception("unhandled exception in connection")
                    self._hub.drop(subscription, Closing.DRAIN)
            if number % DRAIN_BATCH == 0:
                await self._clock.sleep(window * DRAIN_BATCH / len(subscriptions))

    def close(self, subscription: Subscription, closing: Closing) -> None:
        """Send the reason and the reconnect delay, then close."""
        retry = retry_milliseconds(self._random(), busy=closing is Closing.OVER_CAPACITY)
        final_frame = subscription.fmt.closing(closing, retry=retry)
        self._hub.finish(subscription, closing, final_frame)

    def _check(self, subscription: Subscription, now: float) -> None:
        if subscription.writer is None:
            # Its response has not begun: the reason is sent when it does.
            if now >= subscription.ends_at:
                self.close(subscription, subscription.ends_by)
            return
        if self._is_stalled(subscription, now):
            # Aborted, not closed: a closing notice would only wait behind the bytes the client does not read.
            self._hub.drop(subscription, Closing.SLOW)
        elif now >= subscription.ends_at:
            self.close(subscription, subscription.ends_by)
        else:
            # A broadcast stamps its channel instead of each subscriber, so the newest stamp counts.
            last_write = max(
                [
                    subscription.last_write,
                    *(channel.last_write for channel in subscription.channels.values()),
                    *(collection.last_write for collection in subscription.collections),
                ]
            )
            if now - last_write >= self._settings.keepalive_seconds:
                if not subscription.flow.write_paused:  # a full buffer already keeps the connection busy
                    self._hub.write(subscription, subscription.fmt.keepalive())
                subscription.last_write = now

    def _is_stalled(self, subscription: Subscription, now: float) -> bool:
        """Whether the kernel has accepted no byte of a non-empty write buffer for the write timeout."""
        assert subscription.writer is not None
        unsent = subscription.writer.unsent
        # A shrinking buffer is progress, however slow. It may grow while the client reads, but only up to the
        # high-water mark, where the hub stops writing; from then on every byte read shows.
        if unsent == 0 or subscription.stalled_since is None or unsent < subscription.stalled_bytes:
            subscription.stalled_since = now if unsent else None
            subscription.stalled_bytes = unsent
            return False
        subscription.stalled_bytes = unsent
        return now - subscription.stalled_since >= self._settings.write_timeout_seconds


def retry_milliseconds(jitter: float, *, busy: bool = False) -> int:
    """The reconnect delay for one client.

    Args:
        jitter: 0 to 1; spreads clients that reconnect at the same moment.
        busy: Use the longer delay of a bridge at capacity.
    """
    shortest, longest = BUSY_RETRY_SECONDS if busy else RETRY_SECONDS
    return int(1000 * (shortest + (longest - shortest) * jitter))

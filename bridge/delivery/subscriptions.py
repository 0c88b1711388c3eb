"""Where every client arrives: what is known of its tasks, and what it is told first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.merge import unknown
from bridge.core.resume import Position, Resume, locate, resume
from bridge.core.task import TaskKey
from bridge.errors import BridgeError, CredentialRefused, TaskNotFound, UpstreamRefused
from bridge.hub.hub import Hub
from bridge.hub.maintenance import retry_milliseconds
from bridge.hub.subscription import ConnectionWriter, Subscription
from bridge.journal.base import Journal
from bridge.telemetry.metrics import LEFT, Metrics
from bridge.watchers.pool import Pool
from bridge.wire import sse
from bridge.wire.frames import Transport, closing_frame, reset_frame

LINKS_EXPIRE_SOON_SECONDS = 600.0
REFUSED = "refused"  # in the log: it was answered with a problem document, or the client left before

logger = logging.getLogger(__name__)
RECHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How arrivals are treated.

    Args:
        first_state_timeout_seconds: How long a first answer may wait for a task nobody has looked at.
        max_connection_age_seconds: Each connection lives 0.8 to 1.0 of this.
        sync_wait_seconds: How long a provider's own waiting call is held before it is told to poll.
        max_tasks_per_connection: Tasks one connection may follow; 0 for as many as it likes.
        max_body_bytes: The largest body read of any request but a submit.
        max_submission_bytes: The largest body of a submit.
    """

    first_state_timeout_seconds: float = 2.0
    max_connection_age_seconds: float = 600.0
    sync_wait_seconds: float = 60.0
    max_tasks_per_connection: int = 200
    max_body_bytes: int = 1024 * 1024
    max_submission_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """One request for the events of some tasks, understood.

    Args:
        token: What the client sent as its last event id.
        history: Whether the recorded states come first.
        doubts: Tasks that were asked for and may not be shown, and why.
    """

    keys: Sequence[TaskKey]
    token: str | None = None
    history: bool = False
    unverified: Mapping[TaskKey, BridgeError] = field(default_factory=dict)


@dataclass(slots=True)
class PendingSubscription:
    """A subscription that has its place and has not begun."""

    subscription: Subscription
    arrival: SubscribeRequest
    position: Position
    resume: Resume | None
    latest: list[Event | None]
    cold_until: float
    waited: bool = False

    @property
    def ended(self) -> bool:
        """Whether the client has seen the end of everything it asks for."""
        return self.resume is Resume.ENDED


class Subscriptions:
    """Brings clients to the hub, the pool and the journal in the one order that leaves no gap."""

    def __init__(
        self,
        hub: Hub,
        pool: Pool,
        journal: Journal,
        clock: Clock,
        metrics: Metrics,
        *,
        random: Callable[[], float],
        settings: DeliverySettings,
    ) -> None:
        self.hub = hub
        self.pool = pool
        self.journal = journal
        self.clock = clock
        self.metrics = metrics
        self.random = random
        self.settings = settings
        self.closed: Closing | None = None

    def retry(self) -> int:
        """Milliseconds a client should wait before it comes back."""
        return retry_milliseconds(self.random())

    def ends_at(self) -> float:
        """When a connection that begins now has lived long enough."""
        return self.clock.monotonic() + self.settings.max_connection_age_seconds * (0.8 + 0.2 * self.random())

    def reserve(
        self,
        outlet: ConnectionWriter,
        label: str,
        *,
        stays_open: bool = False,
        expires_at: float | None = None,
    ) -> Subscription:
        """A place for a connection.

        Args:
            expires_at: Monotonic seconds when its credential ends; None for never.
        """
        subscription = self.hub.reserve(outlet, label=label, ends_at=self.ends_at(), stays_open=stays_open)
        if expires_at is not None and expires_at < subscription.ends_at:
            subscription.ends_at, subscription.ends_by = expires_at, Closing.EXPIRED
        return subscription

    async def open(
        self, subscription: Subscription, arrival: SubscribeRequest, *, patient: bool
    ) -> PendingSubscription:
        """Register the tasks and find out what is known of them.

        Args:
            patient: Wait for the first look when nothing is known, because the answer's status
                depends on it.

        Raises:
            TaskNotFound: The provider shows none of the tasks.
            UpstreamRefused: The provider refuses to show the only task.
            JournalError: The journal cannot be read.
        """
        cold_until = self.clock.monotonic() + self.settings.first_state_timeout_seconds
        self.hub.join(subscription, arrival.keys)
        latest = await self.journal.latest(arrival.keys)
        position = locate(arrival.token, epoch=self.journal.epoch, head=self.journal.head)
        outcome = resume(position, latest)
        if outcome is not None:
            self.metrics.resumes.labels(subscription.label, outcome.value).inc()
        opened = PendingSubscription(subscription, arrival, position, outcome, latest, cold_until)
        if patient and not opened.ended and not any(latest):
            opened.waited = True
            await self._wait_cold(opened)
        return opened

    async def begin(self, opened: PendingSubscription) -> None:
        """Send what is known, and let everything that comes follow."""
        subscription, arrival = opened.subscription, opened.arrival
        events = [event for event in opened.latest if event is not None]
        if arrival.history:
            events = await self._history(opened)
        preface = sse.OK_COMMENT if subscription.fmt.transport is Transport.SSE else b""
        retry: int | None = self.retry()
        if opened.position.reset_reason is not None:
            preface += reset_frame(subscription.fmt, opened.position.reset_reason, retry=retry)
            retry = None
        if any(
            error.retryable for error in arrival.unverified.values()
        ):  # whoever comes back may be shown more
            again = self.clock.monotonic() + RECHECK_SECONDS
            subscription.ends_at = min(subscription.ends_at, again)
        cold = [key for key, event in zip(arrival.keys, opened.latest, strict=True) if event is None]
        self.hub.begin(
            subscription,
            events,
            arrival.keys,
            preface=preface,
            remarks=[
                *self._warnings(events),
                *((key, withheld(error)) for key, error in arrival.unverified.items()),
            ],
            after=opened.position.after,
            retry=retry,
        )
        if cold and opened.resume is not Resume.CURRENT:
            self._place_later(opened, cold)

    async def look_up(self, key: TaskKey) -> Event:
        """The newest event of a task; a task nobody watches is looked at first.

        Raises:
            BridgeError: Nothing was ever seen of it, and this is why.
        """
        (known,) = await self.journal.latest([key])
        if known is not None and known.state.status.final:
            return known
        self.pool.want(key)  # whoever reads a state may come back for the next one: the watch lingers
        try:
            error = await self._looked(key)
        finally:
            self.pool.unwant(key)
        (known,) = await self.journal.latest([key])
        if known is None and error is not None:
            raise error
        return known or self.placeholder(key)

    def placeholder(self, key: TaskKey) -> Event:
        """What is said of a task nobody has seen; never recorded."""
        return Event(key, Cursor(self.journal.epoch, 0), unknown(wall=self.clock.time()))

    def leave(self, subscription: Subscription) -> None:
        """The connection is over, by us or by the client."""
        closing = subscription.closing
        reason = closing.value if closing is not None else LEFT
        self.hub.leave(subscription, reason)
        began = closing is not None or subscription.sent or subscription.stays_open
        logger.info(
            "connection ended",
            extra={
                "delivery": subscription.label,
                "reason": reason if began else REFUSED,
                "seconds": round(self.clock.monotonic() - subscription.since, 3),
                "tasks": subscription.tasks,
                "events": subscription.events,
                "bytes": subscription.sent,
            },
        )

    def farewell(self, subscription: Subscription, closing: Closing, message: str) -> bytes:
        """The last word to a client that must come back later."""
        retry = retry_milliseconds(self.random(), busy=True)
        return closing_frame(subscription.fmt, closing, message, retry=retry)

    async def _wait_cold(self, opened: PendingSubscription) -> None:
        """Wait until one task was seen, all were looked at, or the time is over."""
        keys = opened.arrival.keys
        errors: dict[TaskKey, BridgeError | None] = {}
        looks = {asyncio.ensure_future(self.pool.wait_polled(key)): key for key in keys}
        try:
            async with asyncio.timeout(self.settings.first_state_timeout_seconds):
                for look in asyncio.as_completed(looks):
                    await look
                    errors = {key: look.result() for look, key in looks.items() if look.done()}
                    if any(self._seen(key) for key in errors):
                        break
        except TimeoutError:
            pass
        finally:
            for look in looks:
                look.cancel()
        opened.latest = await self.journal.latest(keys)
        if not any(opened.latest) and len(errors) == len(keys):
            _raise_if_hopeless(list(errors.values()))

    async def _looked(self, key: TaskKey) -> BridgeError | None:
        try:
            async with asyncio.timeout(self.settings.first_state_timeout_seconds):
                return await self.pool.wait_polled(key)
        except TimeoutError:
            return None

    def _looked_at(self, key: TaskKey) -> bool:
        watcher = self.pool.watcher(key)
        return watcher is not None and watcher.polled_once.is_set()

    def _seen(self, key: TaskKey) -> bool:
        watcher = self.pool.watcher(key)
        return watcher is not None and watcher.watch.known is not None

    async def _history(self, opened: PendingSubscription) -> list[Event]:
        after = opened.position.after or 0
        kept = [await self.journal.since(key, after) for key in opened.arrival.keys]
        newest = [event for event in opened.latest if event is not None]
        return sorted(
            {event.cursor: event for events in [*kept, newest] for event in events}.values(), key=_offset
        )

    def _place_later(self, opened: PendingSubscription, cold: list[TaskKey]) -> None:
        """Say `unknown` once the cold wait is over, unless something better came."""

        def place() -> None:
            for key in cold:
                self.hub.place(opened.subscription, self.placeholder(key))

        left = opened.cold_until - self.clock.monotonic()
        if left <= 0 or (opened.waited and all(self._looked_at(key) for key in cold)):
            place()
        else:  # one task that was seen ends the wait for the answer, not the wait for the others
            asyncio.get_running_loop().call_later(left, place)

    def _warnings(self, events: Sequence[Event]) -> list[tuple[TaskKey, Notice]]:
        soon = self.clock.time() + LINKS_EXPIRE_SOON_SECONDS
        message = "a result link of this task expires within ten minutes, or has expired"
        return [
            (event.key, Notice(NoticeCode.LINKS_EXPIRING, message))
            for event in events
            if any(
                output.expires_at is not None and output.expires_at < soon for output in event.state.outputs
            )
        ]


def withheld(error: BridgeError) -> Notice:
    """What is told of a task that may not be shown."""
    code = NoticeCode.TASK_NOT_FOUND if isinstance(error, TaskNotFound) else NoticeCode.UPSTREAM_UNAVAILABLE
    return Notice(code, str(error), retriable=error.retryable)


def _raise_if_hopeless(errors: list[BridgeError | None]) -> None:
    """Nothing retriable is ever said by status to a stream; what cannot get better is."""
    first = errors[0]
    if isinstance(first, TaskNotFound) and all(isinstance(error, TaskNotFound) for error in errors):
        raise first
    hopeless = isinstance(first, UpstreamRefused) and not isinstance(first, CredentialRefused)
    if len(errors) == 1 and first is not None and hopeless:
        raise first


def _offset(event: Event) -> int:
    return event.cursor.offset

"""Opens subscriptions: registers with the hub, reads the journal and sends the initial states.

Rule 1: register first, read second, send third. Any other order can miss an event between two steps.
Rule 2: a retryable error never becomes an HTTP status of a stream: an EventSource would not reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.core.cursor import Cursor, EventId, mark_of
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.merge import unknown
from bridge.core.resume import Decision, Position, Resume, decide, is_end_seen
from bridge.core.task import Status, TaskKey
from bridge.core.watch import NO_LINK_SENTENCE
from bridge.delivery.handoff import timeout_of_client
from bridge.delivery.history import Pace, Replay
from bridge.errors import BridgeError, CredentialRefused, TaskNotFound, UpstreamRefused
from bridge.hub.hub import Hub
from bridge.hub.maintenance import retry_milliseconds
from bridge.hub.subscription import Backlog, Subscription
from bridge.journal.base import Journal
from bridge.telemetry.metrics import LEFT, Metrics
from bridge.telemetry.request_context import current_request
from bridge.watchers.pool import Pool
from bridge.wire.frames import Format

LINKS_EXPIRE_SOON_SECONDS = 600.0
LINKS_EXPIRING_SENTENCE = "a result link of this task has expired or expires within 10 minutes"
REFUSED = "refused"  # in the log: a problem document was the response, or the client left before it

JOINED_PER_TURN = 20
RECHECK_SECONDS = 30.0  # age of a connection with tasks that could not be verified yet

RenewLinks = Callable[[Sequence[Event | None]], Awaitable[bool]]
"""Renews the links to copies that expire soon, in the newest states of some tasks; whether there were any."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """One parsed request for the events of some tasks.

    Args:
        token: The last event id the client sent.
        history: Whether to send all recorded states first instead of only the newest.
        unverified: Requested tasks that may not be shown, with the reason.
        refused: How many more tasks of the same list were refused already.
        pace: Counts bytes of history; returns the seconds to wait before they may be read.
        has_room: Whether a first burst of so many bytes may wait for the client.

    Attributes:
        mark: What the event ids of this list carry; None for a request that names one task.
    """

    keys: Sequence[TaskKey]
    token: str | None = None
    history: bool = False
    unverified: Mapping[TaskKey, BridgeError] = field(default_factory=dict)
    refused: int = 0
    pace: Pace = lambda _: 0.0
    has_room: Callable[[int], bool] = lambda _: True

    mark: str | None = field(init=False)

    def __post_init__(self) -> None:
        # Of the tasks that are shown: one that may be seen later is then sent at any offset.
        several = len(self.keys) + len(self.unverified) + self.refused > 1
        object.__setattr__(self, "mark", mark_of(self.keys) if several else None)


@dataclass(slots=True)
class PendingSubscription:
    """A subscription registered with the hub whose initial states have not been sent yet.

    Args:
        decision: What the client gets.
        latest: The newest event of each task, in the order of the request; None without a recorded state.
        first_poll_until: Monotonic seconds until which the first poll of a new task is awaited.
        epoch: Of the journal when that was read.
        sure: What `Journal.caught_up` said about its cursor.
        wait_done: Whether `Subscriptions.open` has already waited for it.
    """

    subscription: Subscription
    request: SubscribeRequest
    decision: Decision
    latest: list[Event | None]
    first_poll_until: float
    epoch: str
    sure: bool
    wait_done: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will come, and the client that resumes has seen it all."""
        return self.decision.resume is Resume.ENDED


class Subscriptions:
    """Connects clients to the hub, the pool and the journal.

    Attributes:
        closed: Why new connections are rejected; None while they are not.
        on_leave: Called for each connection that has ended.
    """

    def __init__(
        self,
        hub: Hub,
        pool: Pool,
        journal: Journal,
        clock: Clock,
        metrics: Metrics,
        *,
        random: Callable[[], float],
        settings: Settings,
    ) -> None:
        self.hub = hub
        self.pool = pool
        self.journal = journal
        self.clock = clock
        self.metrics = metrics
        self.random = random
        self.settings = settings
        self.closed: Closing | None = None
        self.on_leave: Callable[[Subscription], None] = _nothing
        self.renew_links: RenewLinks | None = None

    def retry(self) -> int:
        """The reconnect delay for one client, in milliseconds."""
        return retry_milliseconds(self.random())

    def reserve(self, fmt: Format, *, expires_at: float | None = None) -> Subscription:
        """Register a connection with the hub.

        Args:
            expires_at: Monotonic seconds at which its credential expires; None for never.
        """
        # Spread over 20 % of the maximum age: clients that connected together reconnect apart.
        age = self.settings.max_connection_age_seconds * (0.8 + 0.2 * self.random())
        subscription = self.hub.reserve(fmt, ends_at=self.clock.monotonic() + age)
        if expires_at is not None and expires_at < subscription.ends_at:
            subscription.ends_at, subscription.ends_by = expires_at, Closing.EXPIRED
        request = current_request()
        subscription.token_id = request.token_id if request is not None else None
        return subscription

    def expire(self, token_ids: Container[str]) -> None:
        """End the connections opened with these tokens, as if the tokens had expired."""
        for subscription in self.hub.subscriptions:
            if subscription.token_id in token_ids:
                # The next maintenance scan closes them.
                subscription.ends_at, subscription.ends_by = self.clock.monotonic(), Closing.EXPIRED

    async def open(
        self,
        subscription: Subscription,
        request: SubscribeRequest,
        *,
        wait_for_state: bool,
        scope: Scope | None = None,
    ) -> PendingSubscription:
        """Register for the tasks and read their newest states.

        Args:
            wait_for_state: Wait for the first poll if no task has a state: the response status depends
                on it.
            scope: The HTTP request; that wait ends soon after its client has left.

        Raises:
            TaskNotFound: The provider has none of the tasks.
            UpstreamRefused: The provider rejects the poll of the only task.
            JournalError: The journal cannot be read.
        """
        first_poll_until = self.clock.monotonic() + self.settings.first_state_timeout_seconds
        await self._join(subscription, request.keys, resumes=request.token is not None)
        epoch, sure, latest = await self._read(request)
        while epoch != self.journal.epoch:
            epoch, sure, latest = await self._read(request)
        decision = self._decide(request, latest, sure=sure)
        pending = PendingSubscription(subscription, request, decision, latest, first_poll_until, epoch, sure)
        if wait_for_state and request.keys and not decision.nothing_more and not any(latest):
            pending.wait_done = True
            await self._wait_first_poll(pending, scope)
        decision = pending.decision
        if decision.resume is not None:
            self.metrics.resumes.labels(subscription.fmt.label, decision.resume.value).inc()
        elif wait_for_state and decision.nothing_more:
            # Without its traceback, which would grow with every client that gets this exception.
            raise self._why_missing(request).with_traceback(None)
        return pending

    async def _read(self, request: SubscribeRequest) -> tuple[str, bool, list[Event | None]]:
        """The newest states, once the log has reached the client's cursor, with the epoch they began in."""
        epoch = self.journal.epoch
        event_id = EventId.parse(request.token) if request.token else None
        # A cursor of an earlier epoch waits for bridges that have shown more than is recorded.
        sure = event_id is None or await self.journal.caught_up(event_id.cursor)
        latest = await self.journal.latest(request.keys)
        if self.renew_links is not None and await self.renew_links(latest):
            latest = await self.journal.latest(request.keys)
        return epoch, sure, latest

    async def _join(self, subscription: Subscription, keys: Sequence[TaskKey], *, resumes: bool) -> None:
        """Register for the tasks, some at each turn of the event loop: each new one starts a watch."""
        for start in range(0, len(keys), JOINED_PER_TURN):
            if start:
                await asyncio.sleep(0)
                if subscription.closing is not None:
                    return
            self.hub.join(subscription, keys[start : start + JOINED_PER_TURN], resumes=resumes)

    def _decide(self, request: SubscribeRequest, latest: Sequence[Event | None], *, sure: bool) -> Decision:
        missing = [
            event is None and self.pool.known_missing(key) is not None
            for key, event in zip(request.keys, latest, strict=True)
        ]
        decision = decide(
            request.token,
            request.mark,
            epoch=self.journal.epoch,
            head=self.journal.head,
            latest=latest,
            missing=missing,
            sure=sure,
        )
        hidden = request.unverified.values()
        if decision.nothing_more and not all(isinstance(error, TaskNotFound) for error in hidden):
            # A task that may be shown later: the stream has a notice about it.
            resume = None if decision.resume is None else Resume.CURRENT
            return decision._replace(resume=resume, nothing_more=False)
        return decision

    def _why_missing(self, request: SubscribeRequest) -> BridgeError:
        errors = (self.pool.known_missing(key) for key in request.keys)
        return next((error for error in errors if error is not None), TaskNotFound("no such task"))

    async def begin(self, pending: PendingSubscription) -> None:
        """Send the initial states; from then on the hub sends every new event."""
        subscription, request = pending.subscription, pending.request
        if pending.epoch != self.journal.epoch:
            await self._read_again(pending)
        position, fmt = pending.decision.position, subscription.fmt
        events = [event for event in pending.latest if event is not None]
        preface = fmt.preface
        retry: int | None = self.retry()
        if position.reset_reason is not None:
            # The reset is the first block then, so it carries the reconnect delay.
            preface += fmt.reset(position.reset_reason, retry=retry)
            retry = None
        if not request.has_room(sum(fmt.bytes_of(event) for event in events)):
            frame = self.final_frame(subscription, Closing.OVER_CAPACITY)
            self.hub.finish(subscription, Closing.OVER_CAPACITY, preface + frame)
            return
        reached: dict[TaskKey, int] = {}
        if request.history:
            reached = await self._replay(pending, preface, retry)
            if reached:
                # What it has been sent begins the stream: the newest states follow only where they are newer.
                preface, retry = b"", None
        if request.unverified and any(error.retryable for error in request.unverified.values()):
            # The check failed only for now. Closed early, the client reconnects and is checked again.
            subscription.ends_at = min(subscription.ends_at, self.clock.monotonic() + RECHECK_SECONDS)
        new = [key for key, event in zip(request.keys, pending.latest, strict=True) if event is None]
        remarks = self.remarks(events)
        remarks += [(key, denied_notice(error)) for key, error in request.unverified.items()]
        # A WebSocket has no status 204: the end that the client saw on another connection is sent again.
        backlogs = self._backlogs(request.keys, events, position, reached, again=fmt.stays_open)
        self.hub.begin(
            subscription, backlogs, preface=preface, remarks=remarks, retry=retry, resumed=position.epoch
        )
        if position.ahead or (position.after is not None and not self.journal.settled(new)):
            return  # it may have seen more of them than `unknown`
        if new and pending.decision.resume is not Resume.CURRENT:
            self._send_placeholders(pending, new)

    async def _replay(
        self, pending: PendingSubscription, preface: bytes, retry: int | None
    ) -> dict[TaskKey, int]:
        """Send the recorded states; returns the offset of the newest one sent of each task."""
        subscription, request = pending.subscription, pending.request
        head = self.journal.head
        recorded = await self.journal.history(request.keys, pending.decision.position.after or 0)
        if self.hub.history is not None:
            # Of several tasks, read one after the other, it may have newer states and lack older ones.
            recorded = [one for one in recorded if one.offset <= head]
        replay = Replay(self.journal, self.hub, self.clock, preface=preface, retry=retry)
        reached = await replay.run(subscription, recorded, pace=request.pace, has_room=request.has_room)
        if pending.epoch != self.journal.epoch:
            # What was sent is of another history now: the client reconnects, and begins with a reset.
            self.hub.finish(subscription, Closing.AGE, self.final_frame(subscription, Closing.AGE))
        return reached

    def remarks(self, events: Sequence[Event]) -> list[tuple[TaskKey, Notice]]:
        """The notices about some states that are for the client alone that begins with them."""
        remarks: list[tuple[TaskKey, Notice]] = []
        links_expire_before = self.clock.time() + LINKS_EXPIRE_SOON_SECONDS
        for key, state in [(event.key, event.state) for event in events if event.state.outputs]:
            expiries = [output.expires_at for output in state.outputs if output.expires_at is not None]
            if expiries and min(expiries) < links_expire_before:
                remarks.append((key, Notice(NoticeCode.LINKS_EXPIRING, LINKS_EXPIRING_SENTENCE)))
            lacks_link = not all(output.fetchable for output in state.outputs)
            # While its watch lingers, the task's own notice says why.
            told = self.hub.is_noticed(key, NoticeCode.RESULT_UNAVAILABLE)
            if state.status is Status.COMPLETED and lacks_link and not told:
                notice = Notice(NoticeCode.RESULT_UNAVAILABLE, NO_LINK_SENTENCE, retriable=False)
                remarks.append((key, notice))
        return remarks

    async def _read_again(self, pending: PendingSubscription) -> None:
        """Decide once more; if the journal's history has become another one, with what it is now."""
        while pending.epoch != self.journal.epoch:
            pending.epoch, pending.sure, pending.latest = await self._read(pending.request)
        pending.decision = self._decide(pending.request, pending.latest, sure=pending.sure)

    def _backlogs(
        self,
        keys: Sequence[TaskKey],
        events: Sequence[Event],
        position: Position,
        reached: Mapping[TaskKey, int],
        *,
        again: bool,
    ) -> dict[TaskKey, Backlog]:
        """What each task begins with.

        Args:
            reached: The offsets of the newest states that were replayed.
            again: Whether an end that the client has seen is sent once more.
        """
        floor = -1 if position.after is None else position.after
        known = dict.fromkeys(keys) | {event.key: event for event in events}
        backlogs = {key: Backlog(event, reached.get(key, floor)) for key, event in known.items()}
        if position.after is not None:
            for key, event in known.items():
                if event is not None and event.state.status.final and is_end_seen(event, position):
                    if again:
                        backlogs[key] = Backlog(event)
                elif key not in reached and self._is_unclear(key, event, position):
                    backlogs[key] = Backlog(event, floor, position)
        elif position.ahead:
            backlogs = {key: Backlog(event, floor, position) for key, event in known.items()}
        return backlogs

    def _is_unclear(self, key: TaskKey, event: Event | None, position: Position) -> bool:
        """Whether the client may have seen more of a task than its cursor says and this process knows."""
        unrecorded = position.shown or (event is not None and event.cursor.shown)
        return bool(unrecorded) or position.ahead or not self.journal.settled([key])

    async def read_or_poll(self, key: TaskKey, scope: Scope | None = None, *, resumes: bool = False) -> Event:
        """The newest event of a task; a task without a running watch is polled first.

        Args:
            scope: The HTTP request; the wait for that poll ends soon after its client has left.
            resumes: Whether the client has seen a state before, here or elsewhere.

        Raises:
            BridgeError: The task has no recorded state, and this is why.
        """
        (known,) = await self.journal.latest([key])
        if known is not None and known.state.status.final:
            if self.renew_links is not None and await self.renew_links([known]):
                (known,) = await self.journal.latest([key])
            return known or self.placeholder(key)
        # A client that reads a state may read the next one soon: the watch lingers after `unwant`.
        self.pool.want(key, resumes=resumes)
        error: BridgeError | None = None
        try:
            async with timeout_of_client(self.settings.first_state_timeout_seconds, scope):
                error = await self.pool.wait_polled(key)
        except TimeoutError:
            pass
        finally:
            self.pool.unwant(key)
        (known,) = await self.journal.latest([key])
        if known is None and error is not None:
            raise error
        return known or self.placeholder(key)

    def placeholder(self, key: TaskKey) -> Event:
        """The state `unknown` of a task without a recorded state; never recorded itself."""
        return Event(key, Cursor(self.journal.epoch, 0), unknown(unix_time=self.clock.time()))

    def leave(self, subscription: Subscription) -> None:
        """Deregister a connection that has ended, from either side, and log it."""
        closing = subscription.closing
        reason = closing.value if closing is not None else LEFT
        flow = None if subscription.writer is None else subscription.flow  # without a response there is none
        if closing is None and getattr(flow, "silent", False):
            reason = Closing.SLOW.value  # the kernel was the first to notice the write timeout
        self.hub.leave(subscription, reason)
        self.on_leave(subscription)
        began = closing is not None or subscription.sent or subscription.fmt.stays_open
        logger.info(
            "connection ended",
            extra={
                "delivery": subscription.fmt.label,
                "reason": reason if began else REFUSED,
                "seconds": round(self.clock.monotonic() - subscription.since, 3),
                "tasks": subscription.tasks,
                "events": subscription.events,
                "bytes": subscription.sent,
            },
        )

    def final_frame(self, subscription: Subscription, closing: Closing) -> bytes:
        """The closing notice for a client that should reconnect later."""
        retry = retry_milliseconds(self.random(), busy=True)
        return subscription.fmt.closing(closing, retry=retry)

    async def _wait_first_poll(self, pending: PendingSubscription, scope: Scope | None) -> None:
        """Wait until one task has a state, every task was polled, or the time is up."""
        keys = pending.request.keys
        errors: dict[TaskKey, BridgeError | None] = {}
        polls = {asyncio.ensure_future(self.pool.wait_polled(key)): key for key in keys}
        try:
            async with timeout_of_client(self.settings.first_state_timeout_seconds, scope):
                for completed in asyncio.as_completed(polls):
                    await completed
                    errors = {key: poll.result() for poll, key in polls.items() if poll.done()}
                    # One state decides the status: 200. The other tasks follow on the stream.
                    watchers = [self.pool.watcher(key) for key in errors]
                    if any(watcher is not None and watcher.watch.known is not None for watcher in watchers):
                        break
        except TimeoutError:
            pending.first_poll_until = self.clock.monotonic()
        finally:
            for poll in polls:
                poll.cancel()
        if pending.epoch == self.journal.epoch:
            pending.latest = await self.journal.latest(keys)
        # Whether its cursor was reached was asked in the epoch of before.
        await self._read_again(pending)
        if any(pending.latest) or len(errors) < len(keys):
            return
        # Only an error that no reconnect can resolve decides the status (rule 2). A rejected credential can
        # be replaced by the operator while the stream is open.
        first = errors[keys[0]]
        refused = len(keys) == 1 and isinstance(first, UpstreamRefused)
        if first is not None and refused and not isinstance(first, CredentialRefused | TaskNotFound):
            raise first

    def _send_placeholders(self, pending: PendingSubscription, new: list[TaskKey]) -> None:
        """Send `unknown` for tasks without a state, once the time for their first poll is up."""

        def send() -> None:
            self.hub.send_placeholders(pending.subscription, [self.placeholder(key) for key in new])

        remaining = pending.first_poll_until - self.clock.monotonic()
        watchers = [self.pool.watcher(key) for key in new]
        polled = all(watcher is not None and watcher.polled_once.is_set() for watcher in watchers)
        if remaining <= 0 or (pending.wait_done and polled):
            send()
        else:
            # The first state ended the wait for the response, but the other tasks still have their time.
            asyncio.get_running_loop().call_later(remaining, send)


def _nothing(_subscription: Subscription) -> None:
    """Default of `Subscriptions.on_leave`."""


def denied_notice(error: BridgeError) -> Notice:
    """The notice for a task that may not be shown to the client."""
    code = NoticeCode.TASK_NOT_FOUND if isinstance(error, TaskNotFound) else NoticeCode.UPSTREAM_UNAVAILABLE
    return Notice(code, str(error), retriable=error.retryable)

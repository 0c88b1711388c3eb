"""Everything that is written to one connection apart from a broadcast: see the rules in `bridge.hub.hub`."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from bridge.clock import Clock
from bridge.core.event import Closing, Confirmation, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.hub.channel import Channel
from bridge.hub.due import Held, due_states, frame_of, is_unsent
from bridge.hub.subscription import ONE_EVENT, Backlog, Subscription, counts_of
from bridge.telemetry.metrics import Metrics
from bridge.wire.frames import Format, Frames

BURST_BYTES = 128 * 1024  # of states that one flush writes; a connection takes the rest when it has drained
PUSHED_PER_TURN = 100  # connections flushed before the event loop gets a turn
NEVER = 2**62  # above every offset
UNSETTLED_SECONDS = 0.1  # how long the states of a collection have no ids, at least
MAX_LARGE = 8  # large documents whose bytes are kept for the next subscriber

logger = logging.getLogger(__name__)


class Confirmations(Protocol):
    """What the hub asks the journal of each state that it writes to one connection: see `Journal`."""

    def confirmation(self, key: TaskKey) -> Confirmation | None:
        """The newest confirmation of the newest state of a task."""


class SharedHistory(Protocol):
    """What the hub asks a journal that other processes write to as well: see `Journal`."""

    @property
    def epoch(self) -> str:
        """The name of its history."""

    @property
    def head(self) -> int:
        """The newest offset received."""

    @property
    def reconciled(self) -> bool:
        """Whether what other processes showed before it was recorded has been recorded, in this epoch."""

    def settled(self, keys: Collection[TaskKey]) -> bool:
        """Whether the newest recorded state of each task is known here."""


class ConnectionGuard:
    """Drops a connection if the body raises: a failure of one connection is its own, no other may notice."""

    __slots__ = ("_connections", "_subscription")

    def __init__(self, connections: Connections, subscription: Subscription) -> None:
        self._connections = connections
        self._subscription = subscription

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._connections.drop_broken(self._subscription, error)
        return True


class Connections(ABC):
    """Writes what is pending, closes, aborts. A failure of one connection is caught here.

    For a slow client only the newest state of a task is pending: see `Hub`, rule 1.

    Attributes:
        subscriptions: All of them, in the order they came.
        batched: Frames for the one write of this round (`bridge.hub.broadcast`).
        mixed: Those that one event may reach in two ways (`Subscription.mixed`).
        history: The journal, if other processes write to it as well; else None.
    """

    def __init__(self, confirmations: Confirmations, metrics: Metrics, clock: Clock) -> None:
        self._confirmations = confirmations
        self._metrics = metrics
        self._clock = clock
        self._large: dict[Frames, None] = {}  # those whose bytes are kept, the newest last
        self._stuck: dict[Subscription, None] = {}  # those with a state that could not be encoded
        self._pushed: deque[Subscription] = deque()
        self.history: SharedHistory | None = None
        self.subscriptions: dict[Subscription, None] = {}
        self.batched: dict[Subscription, list[bytes]] = {}
        self.mixed: dict[Subscription, None] = {}

    @abstractmethod
    def unsubscribe(self, subscription: Subscription, key: TaskKey) -> None:
        """Stop sending events of one task. Idempotent."""

    @abstractmethod
    def ended(self, subscription: Subscription) -> None:
        """Everything was written that precedes the ends of its collections, and those."""

    @abstractmethod
    def release_over(self, channel: Channel[Subscription]) -> None:
        """Of a task that was broadcast: release it where nothing more will come of it, or it is to be."""

    def guard(self, subscription: Subscription) -> ConnectionGuard:
        """Drop `subscription` if the body of the `with` statement raises."""
        return ConnectionGuard(self, subscription)

    def write(self, subscription: Subscription, data: bytes) -> None:
        """Write to one connection now; does nothing if it is closed or has not begun."""
        if data and subscription.writer is not None:
            subscription.last_write = self._clock.monotonic()
            subscription.counts += counts_of(data, events=0)
            with self.guard(subscription):
                subscription.write(data)

    def flush(self, subscription: Subscription) -> None:
        """Send everything pending on one connection, once it can be written to."""
        if subscription.waiting or subscription.closing is not None or subscription.writer is None:
            return
        with self.guard(subscription):
            if subscription.flow.write_paused:
                self.resume_when_writable(subscription)
            elif subscription.replayed:
                self._flush_replayed(subscription)
            else:
                self._flush(subscription)

    def _flush(self, subscription: Subscription) -> None:
        fmt = subscription.fmt
        pending, subscription.pending = subscription.pending, {}
        notices, subscription.pending_notices = subscription.pending_notices, {}
        # Events that a broadcast is about to write belong to the same burst: what follows them here would
        # move the cursor past them.
        for channel in subscription.channels.values():
            if channel not in pending and is_unsent(subscription, channel):
                pending[channel] = None
        for collection in subscription.collections:
            collection.take_unsent(subscription, pending)
        held: Held = {}
        states, more = self._states_due(subscription, pending, held)
        burst, subscription.preface = [subscription.preface, *states], b""
        if more:
            subscription.pending_notices, notices = notices, {}
            self.resume_soon(subscription)
        if notices:
            burst += [self._notice_frame(subscription, key, notice) for (key, _), notice in notices.items()]
        ends = subscription.ending is not None and not (more or subscription.pending)
        if ends:
            burst += [ending.frame for ending in (subscription.ending or {}).values()]
        data = fmt.pack(b"".join(burst))
        if self.batched:
            # Frames batched in this round are older than anything pending, so they go first (rule 2).
            data = b"".join([*self.batched.pop(subscription, ()), data])
        self.write(subscription, data)
        self._metrics.sent(fmt.label, len(states))
        subscription.counts += ONE_EVENT * len(states)
        self._flushed(subscription, pending, notices, held)
        if ends:
            self.ended(subscription)

    def _flushed(
        self,
        subscription: Subscription,
        pending: Mapping[Channel[Subscription], Backlog | None],
        notices: Iterable[tuple[TaskKey, NoticeCode]],
        held: Held,
    ) -> None:
        """Record what a flush has written, and close the tasks that it ended."""
        own = subscription.channels
        for channel, position in held.items():
            if own.get(channel.key) is channel:
                channel.hold(subscription, position)
        sent = [channel for channel in pending if channel not in subscription.pending and channel not in held]
        for channel in sent:
            # A broadcast under way skips the subscription for offsets up to this one; without that, it would
            # send an older state after a newer one.
            offset, backlog = channel.offset, pending[channel]
            if own.get(channel.key) is channel:
                channel.add(subscription, offset if backlog is None else max(offset, backlog.floor))
            subscription.sent_offset = max(subscription.sent_offset, offset)
        for collection in subscription.collections:
            collection.flushed(subscription, sent, held)
        # Tasks close after the write, so that the end frame follows their final states.
        for channel in sent:
            if channel.latest is not None and channel.latest.state.status.final:
                self.close_task(subscription, channel)
        for key, code in notices:
            missing = own.get(key)
            if code is NoticeCode.TASK_NOT_FOUND and missing is not None:
                self.close_task(subscription, missing)

    def _flush_replayed(self, subscription: Subscription) -> None:
        """Write one burst of recorded states; the rest of them follows before anything else."""
        fmt, now = subscription.fmt, self._clock.time()
        burst, subscription.preface = [subscription.preface], b""
        size = position = states = 0
        events = subscription.replayed
        while position < len(events) and size < BURST_BYTES:
            event = events[position]
            position += 1
            try:
                frame = Frames(event).payload_for(fmt, now=now, retry=subscription.retry)
            except Exception:
                # The states behind it continue; the newest one of its task is pending.
                logger.exception("state cannot be written", extra={"task": event.key.ref})
                continue
            burst.append(frame)
            size += len(frame)
            states += 1
            subscription.retry = None
            subscription.sent_offset = event.cursor.offset
        subscription.replayed = events[position:]
        if subscription.replayed or subscription.pending or subscription.pending_notices:
            self.resume_soon(subscription)
        subscription.counts += ONE_EVENT * states
        self._metrics.sent(fmt.label, states)
        self.write(subscription, fmt.pack(b"".join(burst)))

    def _states_due(
        self, subscription: Subscription, due: Mapping[Channel[Subscription], Backlog | None], held: Held
    ) -> tuple[list[bytes], bool]:
        """The states to write now, oldest first, and whether others did not fit into the burst.

        Those are pending again: 200 large documents must not wait in the write buffer of one connection.
        """
        frames: list[bytes] = []
        size = 0
        more = False
        fmt, late_below, now = subscription.fmt, self._late_below(subscription), self._clock.time()
        marked = _with_marks(subscription)
        for state in sorted(due_states(due, held), key=lambda state: state.offset):
            again = Backlog(state.frames.event) if state.first else None
            if size >= BURST_BYTES:
                more = True
                subscription.pending[state.channel] = again
                continue
            try:
                placed = state.offset >= late_below
                written = marked if placed else fmt.without_ids
                confirmation = self._confirmations.confirmation(state.channel.key)
                frames.append(frame_of(subscription, state, written, now=now, confirmation=confirmation))
                size += len(frames[-1])
            except Exception:
                logger.exception("state cannot be written", extra={"task": state.channel.key.ref})
                # Its other tasks continue.
                subscription.pending[state.channel] = again
                subscription.waiting = True
                self._stuck[subscription] = None
            if state.frames.large:
                self.bound_memory(state.frames)
        return frames, more

    def _late_below(self, subscription: Subscription) -> int:
        """The offset from which on a state may have an id: what is below it is news of before.

        On a stream of many tasks, an id says that of each of them everything up to there was written.
        """
        if subscription.fmt.mark is None and not subscription.collections:
            return 0
        late_below = subscription.sent_offset if self.history is not None or subscription.collections else 0
        for collection in subscription.collections:
            if not collection.gives_ids:
                return NEVER
            # The state of a task that became a member later may have any offset.
            late_below = max(late_below, collection.floors.get(subscription, 0))
        return late_below if self.is_settled(subscription) else NEVER

    def is_settled(self, subscription: Subscription) -> bool:
        """Whether the newest recorded state of each of its tasks is known here."""
        history = self.history
        if history is None:
            return True
        for collection in subscription.collections:
            # Each follower asks, and a collection may have many members: a refusal holds for a moment.
            if self._clock.monotonic() < collection.unsettled_until:
                return False
            if not history.settled(collection.members):
                collection.unsettled_until = self._clock.monotonic() + UNSETTLED_SECONDS
                return False
        return history.settled(subscription.channels)

    def push(self, subscriptions: Iterable[Subscription]) -> None:
        """Flush these connections, some at each turn of the event loop."""
        if not self._pushed:
            asyncio.get_running_loop().call_soon(self._push_some)
        for subscription in subscriptions:
            if not subscription.waiting:
                subscription.waiting = True
                self._pushed.append(subscription)

    def _push_some(self) -> None:
        for _ in range(min(len(self._pushed), PUSHED_PER_TURN)):
            self._resume(self._pushed.popleft())
        if self._pushed:
            asyncio.get_running_loop().call_soon(self._push_some)

    def reconsider(self, channel: Channel[Subscription]) -> None:
        """Decide again what those are sent of a task whose position is unclear."""
        held = dict(channel.held or {})
        for collection in channel.collections or ():
            held |= collection.unclear(channel)
        for subscription, position in held.items():
            subscription.pending[channel] = Backlog(position=position)
        if held:
            self.push(held)

    def bound_memory(self, frames: Frames) -> None:
        """Keep the bytes of a few large documents only: the event has each of them already."""
        self._large.pop(frames, None)
        self._large[frames] = None
        if len(self._large) > MAX_LARGE:
            oldest = next(iter(self._large))
            del self._large[oldest]
            oldest.release()

    def _notice_frame(self, subscription: Subscription, key: TaskKey, notice: Notice) -> bytes:
        fmt = subscription.fmt
        try:
            ids = subscription.subscribe_ids or {}
            # Of a member of a collection it is a notice: no message named the task.
            if not fmt.answers_subscribe(notice) or (subscription.collections and key not in ids):
                return fmt.notice(key, notice)
            return fmt.reply(ids.get(key), key, notice)
        except Exception:
            logger.exception("unhandled exception in broadcast", extra={"task": key.ref})
            return b""

    def retry_stuck(self) -> None:
        """Try again to write the states that could not be encoded; once a second."""
        stuck, self._stuck = self._stuck, {}
        for subscription in stuck:
            self._resume(subscription)

    def resume_soon(self, subscription: Subscription) -> None:
        """Flush in the next turn of the event loop; until then everything of the connection is pending."""
        if not subscription.waiting:
            subscription.waiting = True
            asyncio.get_running_loop().call_soon(self._resume, subscription)

    def resume_when_writable(self, subscription: Subscription) -> None:
        """Flush once the write buffer has drained; until then everything of the connection is pending."""
        if not subscription.waiting and subscription.writer is not None:
            subscription.waiting = True
            with self.guard(subscription):
                subscription.writer.when_writable(lambda: self._resume(subscription))

    def _resume(self, subscription: Subscription) -> None:
        """The write buffer drained: send the newest state of every task skipped meanwhile."""
        subscription.waiting = False
        self.flush(subscription)

    def drop_broken(self, subscription: Subscription, error: Exception) -> None:
        """Drop a connection whose write failed; other connections are not affected."""
        if subscription.writer is not None and subscription.writer.gone:
            return  # clients disconnect at any moment; the server reports it as a disconnect
        logger.error("unhandled exception in connection", exc_info=error)
        self.drop(subscription, Closing.GONE)

    def close_task(self, subscription: Subscription, channel: Channel[Subscription]) -> None:
        """Unsubscribe from a finished or missing task; close the connection if it was the last one.

        A lost task is kept as long as the connection has another: a real end may still replace it, and events
        of the other tasks would move the cursor past that end.
        """
        with self.guard(subscription):
            if not channel.is_lost:
                self.unsubscribe(subscription, channel.key)
            if not (subscription.fmt.stays_open or subscription.collections) and all(
                one.is_lost and one not in subscription.pending for one in subscription.channels.values()
            ):
                self.finish(subscription, Closing.FINISHED, subscription.fmt.end(subscription.tasks))

    def finish(self, subscription: Subscription, closing: Closing, final_frame: bytes = b"") -> None:
        """Close a connection cleanly, after `final_frame`. Idempotent."""
        if subscription.closing is not None:
            return
        self.write(subscription, subscription.fmt.pack(final_frame))
        if closing is not Closing.FINISHED:
            self._metrics.notices.labels(NoticeCode.CLOSING.value).inc()
        if subscription.closing is not None:
            return  # the write failed, and dropped it
        subscription.closing = closing
        subscription.write = discard  # the body has ended; further bytes would corrupt the connection
        if subscription.writer is None:
            return  # the coroutine that begins the response ends it
        with self.guard(subscription):
            subscription.writer.finish(closing)

    def drop(self, subscription: Subscription, closing: Closing) -> None:
        """Abort a connection without a final frame."""
        subscription.closing = closing
        subscription.write = discard
        if subscription.writer is None:
            return
        try:
            subscription.writer.abort()
        except Exception:
            logger.exception("unhandled exception in connection")


def _with_marks(subscription: Subscription) -> Format:
    """Its format; of a connection that may follow several collections, with the marks of all."""
    fmt = subscription.fmt
    marks = [one.mark for one in subscription.collections if one.mark] if fmt.stays_open else ()
    return fmt.with_mark(".".join(marks)) if marks else fmt


def discard(_data: bytes) -> None:
    """Replaces the `write` of a closed connection."""

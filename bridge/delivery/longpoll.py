"""Long polling: respond as soon as the state differs from the one the client has.

Rule 1: a wait ends when the state changes, on timeout, when the client has left, and on drain.
Rule 2: with `Prefer: wait`, one reader gets the same answer at most once a second, an error too.
        A loop whose entity tag never matches, because a proxy strips or changes it, is slowed down to one
        request per second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from bridge.core.entity_tags import cursors, names
from bridge.core.event import Closing, Event
from bridge.core.repeats import REPEAT_SECONDS, RecentAnswers
from bridge.core.resume import Position, is_seen, locate
from bridge.core.task import TaskKey
from bridge.delivery.handoff import on_leave, server_of
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import BridgeError
from bridge.telemetry.metrics import LEFT
from bridge.wire.formats import JsonFormat

MAX_WAIT_SECONDS = 60
LABEL = JsonFormat.label

_FINISHED = "finished"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LongPollRequest:
    """One request for the state of a task.

    Args:
        reader: The caller and its address, for rule 2.
        have: The entity tags of the states the client has; None for none.
        wait: Seconds; None without `Prefer: wait`.
    """

    key: TaskKey
    reader: Hashable
    have: str | None = None
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class LongPollResult:
    """The result of one request.

    Args:
        modified: False if the client's state is still the newest (HTTP 304).
    """

    event: Event
    modified: bool


class LongPolls:
    """The requests that wait for a change."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions
        self._waits: dict[_Wait, None] = {}
        self._answers = RecentAnswers()

    async def read(self, request: LongPollRequest, client: Request) -> LongPollResult:
        """The state of a task; with `wait`, once it differs from the one the client has.

        Args:
            receive: The request's own, whose body was read; returns when the client has left.

        Raises:
            BridgeError: The task has no recorded state, and this is why.
        """
        positions = await self._positions(request)
        try:
            event = await self._subscriptions.read_or_poll(
                request.key, client.scope, resumes=request.have is not None
            )
        except BridgeError as error:
            if request.wait is not None:
                await self._hold((request.reader, request.key, error.code), client)
            raise
        seen = request.have is not None and (
            names(request.have, str(event.cursor)) or any(is_seen(event, one) for one in positions)
        )
        modified = not seen or not _has_copies(request.have, event)
        seconds = 0.0
        if request.wait is not None:
            seconds = self._repeat_wait((request.reader, request.key, event.cursor, modified))
            if not modified and not event.state.status.final:
                seconds = max(seconds, min(request.wait, MAX_WAIT_SECONDS))
        if seconds > 0:
            newer = await self._wait(event, seconds, client, positions)
            event, modified = newer or event, modified or newer is not None
        answer = (request.reader, request.key, event.cursor, modified)
        self._answers.give(answer, now=self._subscriptions.clock.monotonic())
        return LongPollResult(event, modified)

    async def changed(self, event: Event, seconds: float, client: Request) -> Event | None:
        """The next event of a task after `event`; None after `seconds`, or when rule 1 ends the wait."""
        newer, _ = await self._changed(event, seconds, client)
        return newer

    async def _positions(self, request: LongPollRequest) -> list[Position]:
        """Where the client is that has a state which this process may lack; waits until it has caught up.

        Not of a recorded state that is known here: the same state has the same entity tag.
        """
        journal, positions = self._subscriptions.journal, []
        for cursor in cursors(request.have or ""):
            sure = await journal.caught_up(cursor)
            place = locate(str(cursor), None, epoch=journal.epoch, head=journal.head, sure=sure)
            shared = self._subscriptions.hub.history is not None
            if place.of_epoch_before or (place.after is not None and (place.shown or place.ahead or shared)):
                positions.append(place)
        return positions

    def end(self) -> None:
        """End all waits (the bridge drains). Later ones last a second at most, so that no client spins."""
        for wait in self._waits:
            wait.end(Closing.DRAIN.value)

    def _repeat_wait(self, answer: Hashable) -> float:
        return self._answers.wait(answer, now=self._subscriptions.clock.monotonic())

    async def _hold(self, answer: Hashable, client: Request) -> None:
        """Wait until an error may be given to the same reader once more (rule 2)."""
        seconds = self._repeat_wait(answer)
        if seconds > 0:
            wait = _Wait()
            with contextlib.suppress(TimeoutError):
                async with wait.timeout:
                    with _watching(client, partial(wait.end, LEFT)):
                        await asyncio.sleep(seconds)
        self._answers.give(answer, now=self._subscriptions.clock.monotonic())

    async def _wait(
        self, event: Event, seconds: float, client: Request, positions: Sequence[Position]
    ) -> Event | None:
        """As `changed`, counted and logged as a connection."""
        subscriptions = self._subscriptions
        subscriptions.metrics.connected(LABEL)
        started_at, reason, newer = subscriptions.clock.monotonic(), LEFT, None
        try:
            newer, reason = await self._changed(event, seconds, client, positions)
        finally:
            # Also when the server cancels the request: `reason` is still `LEFT` then.
            subscriptions.metrics.disconnected(LABEL, reason)
            logger.info(
                "connection ended",
                extra={
                    "delivery": LABEL,
                    "reason": reason,
                    "seconds": round(subscriptions.clock.monotonic() - started_at, 3),
                    "task": event.key.ref,
                    "events": int(newer is not None),
                },
            )
        if newer is not None:
            # The hub counts only events it writes itself; this one is written by the route.
            late = subscriptions.clock.monotonic() - newer.observed_at if newer.observed_at else None
            subscriptions.metrics.record_broadcast({LABEL: 1}, {}, late, task=event.key.ref)
        return newer

    async def _changed(
        self, event: Event, seconds: float, client: Request, positions: Sequence[Position] = ()
    ) -> tuple[Event | None, str]:
        """The next event of a task, if it comes in time, and why the wait ended."""
        if self._subscriptions.closed is not None:
            seconds = min(seconds, REPEAT_SECONDS)
        newer: Event | None = None
        wait = _Wait()
        self._waits[wait] = None
        try:
            async with wait.timeout:
                with _watching(client, partial(wait.end, LEFT)):
                    newer = await self._next(event, seconds, positions)
        except TimeoutError:
            pass
        finally:
            del self._waits[wait]
        return newer, wait.reason

    async def _next(self, event: Event, seconds: float, positions: Sequence[Position]) -> Event | None:
        if event.state.status.final:
            # A wait for rule 2 alone: the hub would begin to watch the task again.
            await asyncio.sleep(seconds)
            return None
        epoch, after, shown = event.cursor
        # The client's own position, if it may have seen more than is known here.
        own = (one for one in positions if is_seen(event, one))
        position = next(own, Position(after, epoch=epoch, shown=shown))
        return await self._subscriptions.hub.changed(event.key, position, seconds=seconds)


def etag(event: Event) -> str:
    """The cursor as an HTTP entity tag (RFC 9110 section 8.8.3).

    Copies of outputs may be added at the same cursor: how many there are is a part of it.
    """
    return f'"{event.cursor}{_copies_mark(event)}"'


def _copies_mark(event: Event) -> str:
    copies = sum(output.stored_url is not None for output in event.state.outputs)
    return f"-copies{copies}" if copies else ""


def _has_copies(have: str | None, event: Event) -> bool:
    """Whether a client that has the state has it with the copies that were added, if any were.

    One that names a cursor without quotes asks for what is newer, not for the newest document.
    """
    mark = _copies_mark(event)
    return not mark or have is None or '"' not in have or mark in have


class _Wait:
    """A wait that can be ended from outside.

    Attributes:
        reason: Why it ended.
    """

    def __init__(self) -> None:
        self.timeout = asyncio.timeout(None)
        self.reason = _FINISHED

    def end(self, reason: str) -> None:
        """End it now, if it has not ended."""
        if not self.timeout.expired():
            self.reason = reason
            self.timeout.reschedule(asyncio.get_running_loop().time())


@contextlib.contextmanager
def _watching(client: Request, left: Callable[[], None]) -> Iterator[None]:
    """Call `left` once the client has closed the connection; under our server also if it closed its half."""
    if hasattr(server_of(client.scope), "on_leave"):
        on_leave(client.scope, left)
        try:
            yield
        finally:
            on_leave(client.scope, None)
        return
    watch = asyncio.ensure_future(_watch(client, left))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(client: Request, left: Callable[[], None]) -> None:
    while (await client.receive())["type"] != "http.disconnect":
        pass
    left()

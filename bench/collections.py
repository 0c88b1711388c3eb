"""What a delivery costs by a plain channel and by a collection, in one process and one run; no sockets.

Writers that only count take the place of transports, so the numbers are those of the hub alone. The kinds
take turns, and of each the fastest pass counts: other load makes a pass slower, never faster.

    python -m bench.collections [FOLLOWERS] [MEMBERS] [PASSES] [plain]      "plain": no collections
"""

from __future__ import annotations

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Callable, Hashable

from prometheus_client import CollectorRegistry

from bridge.clock import SystemClock
from bridge.core.cursor import Cursor
from bridge.core.event import Closing, Event
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import Source, State, Status, TaskKey
from bridge.hub.collection import Collection
from bridge.hub.hub import Hub
from bridge.hub.subscription import Backlog, Subscription
from bridge.telemetry.metrics import Metrics
from bridge.wire.formats import SseFormat
from bridge.wire.frames import Format, format_of

EVENTS = 200  # of one pass
PLAIN = format_of(SseFormat, framed=True)
MARKED = format_of(SseFormat, mark="abcd2345", framed=True)


class NoInterest:
    """Starts no watch."""

    def want(self, key: TaskKey, by: Hashable = None, *, resumes: bool = False) -> None:
        """Nothing."""

    def unwant(self, key: TaskKey) -> None:
        """Nothing."""


class NoConfirmations:
    """Every state as it was recorded."""

    def confirmation(self, key: TaskKey) -> None:
        """None is known."""


class CountingWriter:
    """A client that keeps up."""

    write_paused = gone = left = False
    unsent = 0

    def __init__(self) -> None:
        self.writes = 0

    @property
    def flow(self) -> CountingWriter:
        """Never full."""
        return self

    def write(self, data: bytes) -> None:  # noqa: ARG002 - the socket is left out
        """Count."""
        self.writes += 1

    def when_writable(self, resume: Callable[[], None]) -> None:
        """At once."""
        resume()

    def finish(self, closing: Closing) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""


class Measured:
    """A hub and a journal that is a counter."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        metrics = Metrics(CollectorRegistry(), ["bytespike"])
        self.hub = Hub(NoInterest(), NoConfirmations(), metrics, self.clock)
        self.offset = 0
        self.writers: list[CountingWriter] = []

    def connect(self, fmt: Format) -> Subscription:
        """A connection that asks for nothing yet."""
        writer = CountingWriter()
        subscription = self.hub.reserve(fmt, ends_at=self.clock.monotonic() + 600)
        subscription.begin(writer, fmt)
        self.writers.append(writer)
        return subscription

    async def microseconds(self, keys: list[TaskKey]) -> float:
        """One pass: a turn of the event loop for each event; returns what one delivery took."""
        before = sum(one.writes for one in self.writers)
        started = time.process_time()
        for number in range(EVENTS):
            self.offset += 1
            state = State(
                status=Status.PROCESSING,
                upstream_status="running",
                progress=number % 100,
                changed_at=1.0,
                observed_at=1.0,
                source=Source.POLL,
            )
            self.hub.recorded(Event(keys[number % len(keys)], Cursor("k3f9", self.offset), state))
            while self.hub.broadcast.busy:  # noqa: ASYNC110 - it is awaited turn by turn, as it runs
                await asyncio.sleep(0)
        seconds = time.process_time() - started
        deliveries = sum(one.writes for one in self.writers) - before
        assert deliveries == EVENTS * len(self.writers), "not one write per event and follower"
        return seconds / deliveries * 1e6


def plain(subscribers: int, fmt: Format) -> Measured:
    """One task with so many subscribers."""
    measured = Measured()
    key = TaskKey("bytespike", "t0")
    for _ in range(subscribers):
        subscription = measured.connect(fmt)
        measured.hub.join(subscription, [key])
        measured.hub.begin(subscription, {key: Backlog()})
    return measured


def collected(followers: int, members: int) -> Measured:
    """One collection of so many tasks with so many followers."""
    measured = Measured()
    collection = Collection(Selection(SelectionKind.GROUP, "g"))
    for number in range(members):
        measured.hub.collect(collection, TaskKey("bytespike", f"t{number}"))
    tracemalloc.start()
    for _ in range(followers):
        measured.hub.listen(measured.connect(MARKED), collection, [])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{size / followers:.0f} bytes per follower of {members} tasks")
    return measured


async def main(followers: int = 1000, members: int = 10_000, passes: int = 7, *, only: bool = False) -> None:
    """Measure, and print microseconds of processor time per delivery."""
    keys = [TaskKey("bytespike", f"t{number}") for number in range(members)]
    kinds = {
        "plain channel": (plain(followers, PLAIN), keys[:1]),
        "one subscriber": (plain(1, PLAIN), keys[:1]),
    }
    if not only:
        kinds["collection, one task"] = collected(followers, members), keys[:1]
        kinds["collection, many tasks"] = collected(followers, members), keys
    fastest = dict.fromkeys(kinds, float("inf"))
    for _ in range(passes):
        for kind, (measured, asked) in kinds.items():
            fastest[kind] = min(fastest[kind], await measured.microseconds(asked))
    for kind, microseconds in fastest.items():
        print(f"{kind:24} {microseconds:8.3f} µs per delivery")


if __name__ == "__main__":
    numbers = [int(one) for one in sys.argv[1:] if one.isdigit()]
    asyncio.run(main(*numbers, only="plain" in sys.argv))

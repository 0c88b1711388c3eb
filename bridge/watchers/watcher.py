"""One watch, run: what its sources see goes through the decisions of `core.watch` into the journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bridge.core.estimate import PLAUSIBLE_SECONDS, TaskKind
from bridge.core.event import Event
from bridge.core.schedule import CallbackSupport
from bridge.core.task import Observation, Source, State, Status, TaskKey
from bridge.core.watch import Update, Watch
from bridge.errors import BridgeError, JournalError, UpstreamError
from bridge.journal.base import Journal
from bridge.sources.poll import CachedResponse, PollCache, poll
from bridge.sources.upstream import Upstream
from bridge.telemetry.request_context import Trace, current_request

RETRY_JOURNAL_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Watcher:
    """Everything that happens to one watched task.

    Args:
        changed: Called whenever the time of the next look moved.

    Attributes:
        kept: Whether the watch goes on without viewers until the task ends.
        looking: Whether a look is under way.
        looked_at: Monotonic seconds when the last look was over; minus infinity before the first.
        looks: How often the provider was asked.
        origin: Where in the trace of its submitter the task was created; None when nobody said.
        shown_at: When the provider last showed the task to this credential; the same way.
    """

    __slots__ = (
        "_askers",
        "_began",
        "_callbacks",
        "_changed",
        "_hydrated",
        "_journal",
        "_memory",
        "_status_since",
        "error",
        "generation",
        "kept",
        "key",
        "left_at",
        "looked_at",
        "looking",
        "looks",
        "origin",
        "polled_once",
        "shown_at",
        "source",
        "upstream",
        "viewers",
        "watch",
    )

    def __init__(
        self,
        key: TaskKey,
        upstream: Upstream,
        journal: Journal,
        random: Callable[[], float],
        changed: Callable[[Watcher], None],
    ) -> None:
        self.key = key
        self.upstream = upstream
        self.viewers = 0
        self.kept = False
        self.left_at = upstream.clock.monotonic()
        self.generation = 0
        self.source = Source.POLL
        self.polled_once = asyncio.Event()
        self.looking = False
        self.looks = 0
        self.origin: Trace | None = None
        self._began: float | None = None
        self.looked_at = self.shown_at = float("-inf")
        self.error: BridgeError | None = None
        self._journal = journal
        self._memory = PollCache()
        self._status_since: float | None = None
        self._hydrated = False
        self._changed = changed
        self._callbacks: CallbackSupport | None = None
        self._askers: asyncio.Event | None = None
        self.watch = self._begin(random, None)

    def _begin(self, random: Callable[[], float], known: State | None) -> Watch:
        return Watch(
            pace=self.upstream.pace,
            run_times=self.upstream.run_times,
            random=random,
            started=self.upstream.clock.monotonic(),
            known=known,
            deadline_seconds=self.upstream.deadline_seconds,
            callbacks=self._callbacks,
        )

    def expect_callbacks(self) -> None:
        """The provider was asked to call back about this task: the poll is a safety net while it does."""
        self._callbacks = self.watch.callbacks = self.upstream.callbacks

    @property
    def shown(self) -> CachedResponse | None:
        """The newest answer to a status call; None when none came, or another source knows better."""
        return self._memory.shown

    @property
    def over(self) -> bool:
        """Whether there is nothing left to look at."""
        return self.watch.over

    @property
    def ended(self) -> bool:
        """Whether the task has come to an end that stays."""
        known = self.watch.known
        return self.over and known is not None and known.status is not Status.LOST

    async def hydrate(self) -> None:
        """Learn what the journal knows, before the first look.

        Raises:
            JournalError: It cannot be read.
        """
        if self._hydrated:
            return
        (latest,) = await self._journal.latest([self.key])
        if self._hydrated:
            return  # the stream and the first look both come here
        self._hydrated = True
        if latest is not None:
            self.watch = self._begin(self.watch.random, latest.state)
        if self.over:
            self.polled_once.set()

    def remember(self, event: Event) -> None:
        """Begin from a recorded state, without asking the journal again."""
        self._hydrated = True
        self.watch = self._begin(self.watch.random, event.state)
        self.polled_once.set()

    async def wait_news(self, seconds: float) -> None:
        """Wait until the next look is over, whatever it brings, or the task; at most `seconds`."""
        if self._askers is None:
            self._askers = asyncio.Event()
        await self.upstream.clock.wait(self._askers, seconds)

    async def poll(self) -> None:
        """Ask the provider once and take in what it says.

        Raises:
            JournalError: What was seen could not be recorded; it will be seen again.
        """
        self._tell_begin()
        self.looking = True
        self.looks += 1
        try:
            await self._look()
        finally:
            self.looking = False
            self.looked_at = self.upstream.clock.monotonic()
            self._tell_askers()

    async def _look(self) -> None:
        clock = self.upstream.clock
        asked = clock.monotonic()
        try:
            with self.upstream.tracing.about(self.key, self.origin):
                seen = await poll(self.upstream, self.key.task_id, self._memory)
        except UpstreamError as error:
            self.upstream.polled("failed")
            self.error = error
            self.upstream.limiter.failed(error, clock.monotonic())
            await self._act(self.watch.failed(error, now=clock.monotonic(), wall=clock.time()))
            self.polled_once.set()
            return
        except BaseException:
            self.upstream.limiter.abandoned()
            raise
        self.upstream.limiter.succeeded()
        self.shown_at = clock.monotonic()
        if seen is None:
            self.upstream.polled("unchanged")
            self._journal.confirm(self.key, clock.time())
            await self._act(self.watch.unchanged(now=clock.monotonic(), asked=asked))
        else:
            await self.take(seen, Source.POLL, asked=asked)
        self.error = None
        self.polled_once.set()

    async def take(self, seen: Observation, source: Source, *, asked: float | None = None) -> None:
        """Weigh what a source saw and record it when it is news.

        Raises:
            JournalError: It could not be recorded.
        """
        clock = self.upstream.clock
        if source is Source.SUBMIT:
            visit = current_request()
            self.origin = visit.trace if visit is not None else None
        self._tell_begin()
        before = self.watch.known
        verdict = self.watch.observed(
            seen, source=source, now=clock.monotonic(), wall=clock.time(), asked=asked
        )
        if source is Source.POLL:
            result = "unchanged" if verdict.news is None else "changed"
            self.upstream.polled(result)
        if verdict.news is not None:
            if source is not Source.POLL or not self.looking:
                self._memory = PollCache()  # a look that says what the last look said is news again
            self._measure(before, verdict.news, seen)
        elif not self.over:
            self._journal.confirm(self.key, clock.time())
        await self._act(verdict)

    async def tick(self) -> None:
        """Let time pass.

        Raises:
            JournalError: What follows from it could not be recorded.
        """
        clock = self.upstream.clock
        verdict = self.watch.ticked(now=clock.monotonic(), wall=clock.time())
        if verdict.news is not None or verdict.notices:
            await self._act(verdict)

    def streaming(self) -> None:
        """The stream showed a sign of life."""
        self.watch.streaming(now=self.upstream.clock.monotonic())
        self._changed(self)

    def stream_ended(self) -> None:
        """The stream is gone; look."""
        self.watch.stream_ended(now=self.upstream.clock.monotonic())
        self._changed(self)

    def poll_now(self, at: float | None = None) -> None:
        """Somebody says there is news; look `at` then (monotonic seconds), or at once."""
        self.watch.poll_now(now=self.upstream.clock.monotonic() if at is None else at)
        self._changed(self)

    def tell_end(self) -> None:
        """One line of the log for the end of the watch, once: the task ended, or nobody wants it any more."""
        if self._began is None:
            return
        known = self.watch.known
        fields = {
            "status": (known.status if known is not None else Status.UNKNOWN).value,
            "seconds": round(self.upstream.clock.monotonic() - self._began, 3),
            "looks": self.looks,
        }
        self._began = None
        how = "task not found" if self.watch.unseen else "task ended" if self.over else "task left"
        logger.info(how, extra=self._names() | fields)

    def _tell_begin(self) -> None:
        if self._began is None and not self.over:
            self._began = self.upstream.clock.monotonic()
            logger.info("task watched", extra=self._names())

    def _names(self) -> dict[str, object]:
        names: dict[str, object] = {"task": self.key.ref, "upstream": self.key.upstream}
        return names if self.origin is None else names | {"trace_id": self.origin.trace_id}

    async def _act(self, verdict: Update) -> None:
        if verdict.news is not None:
            try:
                await self._record(verdict.news)
            except Exception:
                await self._forget()
                raise
        for notice in verdict.notices:
            self._journal.announce(self.key, notice)
        self._changed(self)
        if self.over:
            self._tell_askers()
            self.tell_end()

    def _tell_askers(self) -> None:
        askers, self._askers = self._askers, None
        if askers is not None:
            askers.set()

    async def _record(self, state: State) -> None:
        clock = self.upstream.clock
        began = clock.monotonic()
        try:
            with self.upstream.tracing.publish(self.key, state, state.source, self.origin):
                await self._journal.append(self.key, state, seen=began)
        except JournalError:
            self.upstream.metrics.journal_failures.inc()
            raise
        self.upstream.metrics.journal_append_seconds.observe(clock.monotonic() - began)

    async def _forget(self) -> None:
        """What was not recorded was not seen: begin again from the journal, soon."""
        self._memory = PollCache()
        self._hydrated = False
        self.watch = self._begin(self.watch.random, None)
        self.watch.due = self.upstream.clock.monotonic() + RETRY_JOURNAL_SECONDS
        self._changed(self)

    def _measure(self, before: State | None, state: State, seen: Observation) -> None:
        metrics = self.upstream.metrics
        name = self.key.upstream
        example = metrics.example(self.key.ref)
        if before is None or before.status is not state.status:
            metrics.task_transitions.labels(name, state.status.value).inc()
            if (
                before is not None
                and self._status_since is not None
                and before.status in {Status.QUEUED, Status.PROCESSING}
            ):
                spent = max(state.changed_at - self._status_since, 0.0)
                metrics.task_seconds.labels(name, before.status.value).observe(spent, example)
            self._status_since = state.changed_at
        at = (
            seen.changed_at
            if seen.changed_at is not None
            else (seen.completed_at if state.status.final else None)
        )
        if at is not None and before is not None and 0 <= state.changed_at - at <= PLAUSIBLE_SECONDS:
            late = state.changed_at - at
            metrics.detection_seconds.labels(name, state.source.value).observe(late, example)
        if state.status is Status.COMPLETED and state.created_at is not None:
            took = (state.completed_at or state.changed_at) - state.created_at
            if 0 <= took <= PLAUSIBLE_SECONDS:
                self.upstream.run_times.learn(TaskKind(state.model, state.action), took)

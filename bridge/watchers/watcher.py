"""Runs one watch: passes what its sources observe through `core.watch` into the journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence

from bridge.core.estimate import PLAUSIBLE_SECONDS, TaskKind
from bridge.core.event import Event, Notice
from bridge.core.rate_limit import Permit
from bridge.core.schedule import CallbackSupport
from bridge.core.task import OWN_ACCOUNT, Observation, Source, State, Status, TaskKey
from bridge.core.watch import MISSING_RESULT_SECONDS, Update, Watch
from bridge.dialects.words import fold
from bridge.errors import BridgeError, JournalError, TaskNotFound, UpstreamError, without_frames
from bridge.journal.base import Journal
from bridge.sources.poll import CachedResponse, PollCache, WithoutResult, poll
from bridge.sources.upstream import Upstream
from bridge.telemetry.request_context import Trace, current_request

RETRY_JOURNAL_SECONDS = 1.0
MAX_LOGGED_WORDS = 100

logger = logging.getLogger(__name__)


class Watcher:
    """One watched task: its sources, its state machine, its place in the journal.

    Args:
        changed: Called whenever the time of the next poll moved.

    Attributes:
        asked_by: The connection whose turn the first poll takes; None for the bridge itself.
        party: The caller and address of that connection.
        persistent: Whether the watch continues without viewers until the task ends.
        polling: Whether a poll is in flight.
        polled_at: Monotonic seconds when the last poll finished; minus infinity before the first.
        polled_once: Set once something is known of the task: a state, or why there is none.
        polls: Number of polls so far.
        error: Why the last poll failed; None after a successful one.
        origin: The trace of the request that submitted the task; None when it carried none.
        shown_at: Monotonic seconds when the provider last showed the task to this credential; minus infinity
            before.
        generation: Number of the scheduler entry that counts; older entries are stale.
    """

    __slots__ = (
        "_cache",
        "_callbacks",
        "_called_back",
        "_changed",
        "_hydrated",
        "_journal",
        "_poll_done",
        "_started_at",
        "_status_since",
        "_vouched_at",
        "asked_by",
        "error",
        "generation",
        "key",
        "left_at",
        "origin",
        "party",
        "persistent",
        "polled_at",
        "polled_once",
        "polling",
        "polls",
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
        self.persistent = False
        self.left_at = upstream.clock.monotonic()
        self.asked_by: Hashable = None
        self.party: Hashable = None
        self.generation = 0
        self.source = Source.POLL
        self.polled_once = asyncio.Event()
        self.polling = False
        self.polls = 0
        self.origin: Trace | None = None
        self.polled_at = self.shown_at = float("-inf")
        self.error: BridgeError | None = None
        self._journal = journal
        self._cache = PollCache()
        self._started_at: float | None = None
        self._status_since: float | None = None
        self._hydrated = False
        self._changed = changed
        self._callbacks: CallbackSupport | None = None
        self._vouched_at: float | None = None
        self._called_back = False
        self._poll_done: asyncio.Event | None = None
        self.watch = self._begin(random, None)

    def _begin(self, random: Callable[[], float], known: State | None) -> Watch:
        word = known.upstream_status if known is not None else None
        watch = Watch(
            pace=self.upstream.pace,
            run_times=self.upstream.run_times,
            random=random,
            started=self.upstream.clock.monotonic(),
            known=known,
            deadline_seconds=self.upstream.deadline_seconds,
            callbacks=self._callbacks,
            grace_seconds=getattr(self.upstream.dialect, "result_grace_seconds", MISSING_RESULT_SECONDS),
            # After a restart too: once the provider has reported the task as completed, later 404s do not
            # change that.
            succeeded=word is not None and self.upstream.dialect.words.get(fold(word)) is Status.COMPLETED,
        )
        if self._vouched_at is not None:
            watch.vouch(now=self._vouched_at)
        return watch

    def vouch(self) -> None:
        """Take the task for existing: the bridge submitted it, or an authentic callback named it."""
        if self._vouched_at is None:
            self._vouched_at = self.upstream.clock.monotonic()
            self.watch.vouch(now=self._vouched_at)

    def joined(self) -> None:
        """A subscriber was added."""
        due = self.watch.due
        self.watch.joined(now=self.upstream.clock.monotonic())
        if self.watch.due != due:
            self._changed(self)

    def recall_missing(self, error: BridgeError, at: float) -> None:
        """Start from a 404 that is still believed, without a poll.

        Args:
            at: Monotonic seconds when the provider gave it.
        """
        self._hydrated = True
        self.error = error
        self.watch.recall_missing(str(error), at=at)
        self.polled_once.set()

    def expect_callbacks(self) -> None:
        """The provider was asked to call back about this task: poll only as a safety net while it does."""
        self._callbacks = self.watch.callbacks = self.upstream.callbacks

    def ask_for_details(self) -> None:
        """A client wants what the provider leaves out unless asked: the next polls ask for it."""
        self._cache.ask_for_details()

    @property
    def shown(self) -> CachedResponse | None:
        """The newest response to a status call; None before it, or if another source is ahead."""
        return self._cache.shown

    @property
    def over(self) -> bool:
        """Whether no further poll is due."""
        return self.watch.over

    @property
    def ended(self) -> bool:
        """Whether the task has a final status that nothing can replace; `lost` can be replaced."""
        known = self.watch.known
        return self.over and known is not None and known.status is not Status.LOST

    @property
    def lost(self) -> bool:
        """Whether the task is lost: it is polled rarely, in case the provider shows its end after all."""
        known = self.watch.known
        return known is not None and known.status is Status.LOST

    @property
    def hydrated(self) -> bool:
        """Whether the recorded state was loaded."""
        return self._hydrated

    def waits_since(self, now: float) -> float:
        """Seconds for which a poll has been due; negative until it is."""
        return now - self.watch.due if self.watch.due is not None else 0.0

    @property
    def own(self) -> bool:
        """Whether it is polled with the operator's own credential."""
        return self.key.account == OWN_ACCOUNT

    async def hydrate(self) -> None:
        """Load the recorded state, once, before the first poll.

        Raises:
            JournalError: It cannot be read.
        """
        if self._hydrated:
            return
        (latest,) = await self._journal.latest([self.key])
        if self._hydrated:
            # The stream and the first poll both come here: a second load would discard what the first led to.
            return
        self._hydrated = True
        if latest is not None:
            self.watch = self._begin(self.watch.random, latest.state)
        if self.over:
            self.polled_once.set()

    def remember(self, event: Event | None) -> None:
        """Start from a recorded state instead of reading the journal; None when there is none."""
        self._hydrated = True
        if event is None:
            return
        self.watch = self._begin(self.watch.random, event.state)
        self.polled_once.set()

    def held_up(self, reason: str) -> None:
        """Polls of this upstream are held up: send the notice, and keep why there is no state."""
        if self.watch.known is None and not self.watch.not_found:
            own_failure = isinstance(self.error, UpstreamError) and self.error.about_task
            if not own_failure:
                self.error = self.upstream.held_up() or self.error
            if self.error is not None:
                self.polled_once.set()
        update = self.watch.held_up(reason, now=self.upstream.clock.monotonic())
        self._announce(update)

    async def wait_news(self, seconds: float) -> None:
        """Wait for the next poll to finish, with any result, or for the watch to end.

        Args:
            seconds: Return after this long in any case.
        """
        if self._poll_done is None:
            self._poll_done = asyncio.Event()
        await self.upstream.clock.wait(self._poll_done, seconds)

    async def poll(self, permit: Permit) -> None:
        """Poll the provider once and process the result. A failed poll is a result, not an exception.

        Args:
            permit: The capacity of this poll; its outcome is reported to the limiter.

        Cancellation: the capacity is given back, nothing is recorded.

        Raises:
            JournalError: The result could not be recorded; the next poll observes it again.
        """
        clock = self.upstream.clock
        if self.lost and (await self._journal.latest([self.key]))[0] is None:
            # Retained no longer: no client can request it.
            self.upstream.abandon(permit)
            self.watch.due = None
            return
        self._log_start()
        self.polling = True
        self.polls += 1
        try:
            started_at = clock.monotonic()
            source = Source.CALLBACK if self._called_back else Source.POLL
            self._called_back = False
            try:
                with self.upstream.hold(permit), self.upstream.tracing.about(self.key, self.origin):
                    observation = await poll(self.upstream, self.key.task_id, self._cache)
            except UpstreamError as error:
                without_frames(error)
                self.upstream.record_poll("failed")
                # The next poll brings what the callback was about.
                self._called_back |= source is Source.CALLBACK
                if self.watch.known is not None or not isinstance(error, TaskNotFound):
                    self.error = error
                update = self.watch.failed(
                    error, now=clock.monotonic(), unix_time=clock.time(), watched=self.viewers > 0
                )
                await self._act(update)
                if self.watch.not_found:
                    self.error = error
                if self.error is not None:
                    # The first 404 decides nothing: a second poll must confirm it.
                    self.polled_once.set()
                return
            self.shown_at = clock.monotonic()
            if observation is None:
                self.upstream.record_poll("unchanged")
                self._journal.confirm(self.key, clock.time())
                await self._act(self.watch.unchanged(now=clock.monotonic(), started_at=started_at))
            elif isinstance(observation, WithoutResult):
                await self._take_without_result(observation, source, started_at)
            else:
                await self.take(observation, source, started_at=started_at)
            self.error = None
            self.polled_once.set()
        finally:
            self.polling = False
            self.polled_at = clock.monotonic()
            self._wake_waiters()

    async def take(
        self, observation: Observation, source: Source, *, started_at: float | None = None
    ) -> None:
        """Merge an observation into the known state and record the result if it is an event.

        Args:
            started_at: Monotonic seconds when the poll started; None for what was pushed to us.

        Raises:
            JournalError: It could not be recorded.
        """
        clock = self.upstream.clock
        if source is Source.SUBMIT:
            request = current_request()
            self.origin = request.trace if request is not None else None
        self._log_start()
        before = self.watch.known
        update = self.watch.observed(
            observation, source=source, now=clock.monotonic(), unix_time=clock.time(), started_at=started_at
        )
        self._log_word(observation)
        polled = source in (Source.POLL, Source.CALLBACK)
        if polled:
            self.upstream.record_poll("unchanged" if update.state is None else "changed")
        if update.state is not None:
            if not polled or not self.polling:
                # Another source is ahead of the cached response. If a poll now returns those bytes again, the
                # task has moved back, and that must be read, not skipped as unchanged.
                self._cache = PollCache()
            self._measure(before, update.state, observation)
        elif not self.over:
            self._journal.confirm(self.key, clock.time())
        await self._act(update)

    async def take_pushed(self, observations: Sequence[Observation]) -> None:
        """Merge what a stream showed in one slice of time, in order, and record the newest state of it.

        No matter how many states a provider streams, each slice makes at most one event.

        Raises:
            JournalError: It could not be recorded.
        """
        clock = self.upstream.clock
        self._log_start()
        newest: State | None = None
        notices: list[Notice] = []
        for observation in observations:
            before = self.watch.known
            update = self.watch.observed(
                observation, source=Source.STREAM, now=clock.monotonic(), unix_time=clock.time()
            )
            self._log_word(observation)
            notices += update.notices
            if update.state is not None:
                newest = update.state
                self._measure(before, newest, observation)
        if newest is not None:
            self._cache = PollCache()  # for the reason given in `take`
        elif not self.over:
            self._journal.confirm(self.key, clock.time())
        await self._act(Update(newest, tuple(notices)))

    async def _take_without_result(self, reading: WithoutResult, source: Source, started_at: float) -> None:
        clock = self.upstream.clock
        before = self.watch.known
        update = self.watch.without_result(
            reading.observation,
            reading.failure,
            source=source,
            now=clock.monotonic(),
            unix_time=clock.time(),
            started_at=started_at,
        )
        self.upstream.record_poll("unchanged" if update.state is None else "changed")
        if update.state is not None:
            self._measure(before, update.state, reading.observation)
        elif not self.over:
            self._journal.confirm(self.key, clock.time())
        await self._act(update)

    def _log_word(self, observation: Observation) -> None:
        """Log a status word that the dialect does not map, once per word and upstream."""
        word, logged = observation.upstream_status, self.upstream.unknown_words
        if observation.status is not Status.UNKNOWN or word is None or word in logged:
            return
        if len(logged) < MAX_LOGGED_WORDS:
            logged.add(word)
            fields: dict[str, object] = {"upstream": self.key.upstream, "word": word}
            logger.warning("status word without a mapping", extra=fields)

    async def tick(self, spacing: float = 0.0) -> None:
        """Process the passing of time.

        Args:
            spacing: Seconds between two polls of one task that the rate limit leaves to each task.

        Raises:
            JournalError: A resulting state could not be recorded.
        """
        clock = self.upstream.clock
        update = self.watch.ticked(now=clock.monotonic(), unix_time=clock.time(), spacing=spacing)
        # Nearly always nothing: no await, and no rescheduling, for each of many thousand watches per second.
        if update.state is not None or update.notices:
            await self._act(update)

    def streaming(self) -> None:
        """The stream is alive."""
        self.watch.streaming(now=self.upstream.clock.monotonic())
        self._changed(self)

    def stream_ended(self) -> None:
        """The stream is closed: poll soon."""
        self.watch.stream_ended(now=self.upstream.clock.monotonic())
        self._changed(self)

    def poll_now(self, at: float | None = None) -> None:
        """Poll out of turn.

        Args:
            at: Monotonic seconds; None for now.
        """
        self.watch.poll_now(now=self.upstream.clock.monotonic() if at is None else at)
        self._changed(self)

    def called_back(self, at: float) -> None:
        """An authentic callback named the task: poll, and give the new state `callback` as its source."""
        self._called_back = True
        self.vouch()
        self.poll_now(at)

    def log_end(self) -> None:
        """Log the end of the watch, once, if its start was logged."""
        if self._started_at is None:
            return
        known = self.watch.known
        fields = {
            "status": (known.status if known is not None else Status.UNKNOWN).value,
            "seconds": round(self.upstream.clock.monotonic() - self._started_at, 3),
            "polls": self.polls,
        }
        self._started_at = None
        event = (
            "task not found"
            if self.watch.not_found
            else "task ended"
            if self.watch.ended
            else "watch stopped"
        )
        logger.info(event, extra=self._log_fields() | fields)

    def _log_start(self) -> None:
        if self._started_at is None and not self.over and not self.watch.ended:
            self._started_at = self.upstream.clock.monotonic()
            logger.info("watch started", extra=self._log_fields())

    def _log_fields(self) -> dict[str, object]:
        fields: dict[str, object] = {"task": self.key.ref, "upstream": self.key.upstream}
        return fields if self.origin is None else fields | {"trace_id": self.origin.trace_id}

    async def _act(self, update: Update) -> None:
        """Record the state and announce the notices."""
        if update.state is not None and update.state.status.final:
            # Before the end: nothing reaches a subscriber after it.
            self._announce(update)
        if update.state is not None:
            try:
                await self._record(update.state)
            except Exception:
                # What is not recorded counts as not observed: start again from the journal, soon. Without
                # this the watch would call the state known, and no subscriber would ever receive it.
                self._cache = PollCache()
                self._hydrated = False
                self.watch = self._begin(self.watch.random, None)
                self.watch.due = self.upstream.clock.monotonic() + RETRY_JOURNAL_SECONDS
                self._changed(self)
                raise
        if update.state is None or not update.state.status.final:
            self._announce(update)
        self._changed(self)
        if self.watch.ended:
            self._wake_waiters()
            self.log_end()

    def _announce(self, update: Update) -> None:
        for notice in update.notices:
            self._journal.announce(self.key, notice)

    def _wake_waiters(self) -> None:
        # Replaced, not cleared: later waiters wait for the next poll.
        poll_done, self._poll_done = self._poll_done, None
        if poll_done is not None:
            poll_done.set()

    async def _record(self, state: State) -> None:
        clock = self.upstream.clock
        started_at = clock.monotonic()
        try:
            with self.upstream.tracing.publish(self.key, state, state.source, self.origin):
                await self._journal.append(self.key, state, observed_at=started_at)
        except JournalError:
            self.upstream.metrics.journal_failures.inc()
            raise
        self.upstream.metrics.journal_append_seconds.observe(clock.monotonic() - started_at)

    def _measure(self, before: State | None, state: State, observation: Observation) -> None:
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
        # Detection latency, where the provider dates its change. Not for the first observation: the task may
        # have changed long before the watch started.
        changed_at = observation.changed_at
        if changed_at is None and state.status.final:
            changed_at = observation.completed_at
        if changed_at is not None and before is not None:
            latency = state.changed_at - changed_at
            if 0 <= latency <= PLAUSIBLE_SECONDS:
                metrics.detection_seconds.labels(name, state.source.value).observe(latency, example)
        if state.status is Status.COMPLETED and state.created_at is not None:
            run_time = (state.completed_at or state.changed_at) - state.created_at
            if 0 <= run_time <= PLAUSIBLE_SECONDS:
                self.upstream.run_times.learn(TaskKind(state.model, state.action), run_time)

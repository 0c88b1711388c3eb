"""Runs one watch: passes what its sources observe through `core.watch` into the journal.

Where several processes share the tasks, one polls each and the others attend: `role` says which this one is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence

from bridge.core.estimate import PLAUSIBLE_SECONDS, RememberedEstimate
from bridge.core.event import Confirmation, Event, Notice, NoticeCode
from bridge.core.forecast import Forecast
from bridge.core.learned import TaskKind
from bridge.core.many import MAX_ALONE
from bridge.core.merge import is_ended, is_unseen
from bridge.core.rate_limit import Permit
from bridge.core.schedule import CallbackSupport
from bridge.core.task import OWN_ACCOUNT, Observation, Source, State, Status, TaskKey
from bridge.core.watch import CUT_SHORT_SECONDS, MISSING_RESULT_SECONDS, NO_UPDATE, Update, Watch
from bridge.dialects.words import fold
from bridge.engine.ownership import KnownTask, Ownership
from bridge.errors import (
    TIMEOUT_SENTENCE,
    BridgeError,
    CredentialRefused,
    InvalidRequest,
    JournalError,
    NotOwner,
    ResultNotReady,
    Superseded,
    TaskNotFound,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    without_frames,
)
from bridge.journal.base import Journal
from bridge.sources.poll import (
    JSON,
    CachedResponse,
    ManyAnswers,
    PollCache,
    WithoutResult,
    poll,
    read_one,
)
from bridge.sources.upstream import Upstream
from bridge.telemetry.request_context import Trace, current_request
from bridge.watchers.missing import BELIEVED_SECONDS
from bridge.watchers.role import POLLING, Role, Turn, after
from bridge.watchers.sole import SoleOwner

RETRY_JOURNAL_SECONDS = 1.0
CALL_SECONDS = 1.0
"""How often the owner of a task elsewhere is asked to poll it."""

OWN_ERROR_SECONDS = 1.0
"""How long the error of a task's own poll is what clients get, while all polls are held up."""

MAX_MERGES = 5
"""How often an observation is merged again because a newer state was recorded meanwhile."""

MAX_LOGGED_WORDS = 100

_SOLE_OWNER = SoleOwner()

logger = logging.getLogger(__name__)


def _no_update() -> Update:
    """Nothing is left to merge."""
    return NO_UPDATE


class Watcher:
    """One watched task: its sources, its state machine, its place in the journal.

    Args:
        changed: Called whenever the time of the next poll moved.
        ownership: Decides whether this process polls the task.

    Attributes:
        alone: So many of its next polls are of this task alone, not with others in one call.
        role: What this process does for the task.
        polls_here: Whether it polls the task and follows the provider's stream of it.
        offset: Of the newest recorded state known here; 0 for none.
        newcomer: Whether a viewer came that has seen no state of the task elsewhere.
        recheck: Whether a 404 that was believed too long is asked for again: only a new one counts.
        asked_by: The connection whose turn the first poll takes; None for the bridge itself.
        party: The caller and address of that connection.
        persistent: Whether the watch continues without viewers until the task ends.
        polling: Whether a poll is in flight.
        polled_at: Monotonic seconds when the last poll here finished, or until when an owner before may have
            started one; minus infinity before the first.
        polled_once: Set once something is known of the task: a state, or why there is none.
        polls: Number of polls so far.
        ending: Whether its end is about to be recorded, once what comes before it is done.
        error: Why the last poll failed; None after a successful one.
        origin: The trace of the request that submitted the task; None when it carried none.
        shown_at: Monotonic seconds when the provider last showed the task to this credential; minus infinity
            before.
        generation: Number of the scheduler entry that counts; older entries are stale.
    """

    __slots__ = (
        "_cache",
        "_call_at",
        "_callbacks",
        "_called_at",
        "_called_back",
        "_changed",
        "_costs_now",
        "_deadline",
        "_deadline_seconds",
        "_end_task",
        "_estimated",
        "_forecast",
        "_heard_at",
        "_hydrated",
        "_journal",
        "_kind",
        "_left_out",
        "_ownership",
        "_poll_done",
        "_started_at",
        "_status_since",
        "_vouched_at",
        "alone",
        "asked_by",
        "asked_until",
        "ending",
        "error",
        "generation",
        "key",
        "left_at",
        "newcomer",
        "offset",
        "origin",
        "party",
        "persistent",
        "polled_at",
        "polled_once",
        "polling",
        "polls",
        "polls_here",
        "recheck",
        "role",
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
        ownership: Ownership = _SOLE_OWNER,
    ) -> None:
        self.key = key
        self.polls_here = not ownership.shared
        self.role = Role.ASKING if ownership.shared else Role.OWNING
        self.offset = 0
        self.newcomer = self.recheck = self.ending = False
        self._ownership = ownership
        self._call_at: float | None = None
        self._called_at = self._heard_at = float("-inf")
        self.upstream = upstream
        self.viewers = 0
        self.persistent = False
        self.left_at = upstream.clock.monotonic()
        self.asked_until = float("-inf")
        self.asked_by: Hashable = None
        self.party: Hashable = None
        self.generation = 0
        self.source = Source.POLL
        self.polled_once = asyncio.Event()
        self.polling = False
        self.polls = self.alone = self._left_out = 0
        self._costs_now = False
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
        self._deadline: float | None = None
        self._deadline_seconds: float | None = None
        self._forecast = Forecast(random, self.left_at)
        self._kind = TaskKind(*upstream.dialect.kind_of(key.task_id))
        self._estimated = RememberedEstimate()
        self._poll_done: asyncio.Event | None = None
        self._end_task: asyncio.Task[None] | None = None
        self.watch = self._begin(random, None)

    def _begin(self, random: Callable[[], float], known: State | None) -> Watch:
        registered = known is not None and is_unseen(known)
        if registered:
            known = None  # no source has shown the task: two 404s mean that it does not exist
        watch = Watch(
            pace=self.upstream.pace,
            learned=self.upstream.learned,
            price=self.upstream.price,
            random=random,
            started=self.upstream.clock.monotonic(),
            known=known,
            deadline_seconds=self.upstream.deadline_seconds,
            registered=registered,
            callbacks=self._callbacks,
            grace_seconds=getattr(self.upstream.dialect, "result_grace_seconds", MISSING_RESULT_SECONDS),
            # After a restart too: once the provider has reported the task as completed, later 404s do not
            # change that.
            succeeded=known is not None and self._has_succeeded(known),
            kind=self._kind,
            forecast=self._forecast,  # what earlier polls showed of its times stays true
        )
        watch.viewed = self.viewed
        if self._deadline is not None:
            watch.deadline = self._deadline
        if self._vouched_at is not None:
            watch.vouch(now=self._vouched_at)
        return watch

    def _has_succeeded(self, state: State) -> bool:
        """Whether the provider's word in a state is one for a completed task."""
        word = state.upstream_status
        return word is not None and self.upstream.dialect.words.get(fold(word)) is Status.COMPLETED

    def vouch(self) -> None:
        """Take the task for existing: the bridge submitted it, or an authentic callback named it."""
        if self._vouched_at is None:
            self._vouched_at = self.upstream.clock.monotonic()
            self.watch.vouch(now=self._vouched_at)

    def registered(self, event: Event) -> None:
        """It was recorded that the task is registered; no source has shown it yet."""
        if self.watch.known is None:
            self.watch.registered = True
            self.offset = max(self.offset, event.cursor.offset)

    def discard(self) -> None:
        """The task was deleted: what a poll that is still running shows of it counts no more."""
        self.polls_here = False

    def expect_end(self, deadline_seconds: float | None) -> None:
        """The task has a deadline of its own, so many seconds after its first state; None for none."""
        self._deadline_seconds = deadline_seconds

    async def _find_deadline(self, seconds: float) -> None:
        """When the task's own deadline is, once it has a first state.

        Raises:
            JournalError: It cannot be read when that was.
        """
        (first_seen,) = await self._journal.first_seen([self.key])
        if first_seen is None:
            return
        self._deadline_seconds = None
        clock = self.upstream.clock
        self._deadline = self.watch.deadline = clock.monotonic() + first_seen + seconds - clock.time()

    def joined(self) -> None:
        """A subscriber was added."""
        if not self.polls_here:
            self._cut_back_off_short()
            return
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
        """The newest response to a status call; None before it, or if another source is ahead.

        Where another process polls, it is the provider's document of the recorded state.
        """
        if self.polls_here:
            return self._cache.shown
        known = self.watch.known
        recorded = known is not None and self.offset > 0
        return CachedResponse(200, JSON, known.raw, self._heard_at) if known and recorded else None

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
    def viewed(self) -> bool:
        """Whether a client waits for the task: a viewer, or one that polls the bridge.

        Where several processes share the tasks, the viewers may be at another one, which the owner does not
        know: it takes each task for viewed.
        """
        here = self.viewers > 0 or self.upstream.clock.monotonic() < self.asked_until
        return here or self._ownership.shared

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
            self._begin_from(latest)
        if self.over:
            self.polled_once.set()

    def remember(self, event: Event | None) -> None:
        """Start from a recorded state instead of reading the journal; None when there is none."""
        self._hydrated = True
        if event is None:
            return
        self._begin_from(event)
        if self.watch.known is not None:
            self.polled_once.set()

    def _begin_from(self, event: Event) -> None:
        self.watch.retire()
        self._deadline_seconds = self._journal.details(self.key).deadline_seconds
        self.watch = self._begin(self.watch.random, event.state)
        self.offset = event.cursor.offset
        self._heard_at = self._monotonic(event.state.observed_at)

    def held_up(self, reason: str) -> None:
        """Polls of this upstream are held up: send the notice, and keep why there is no state."""
        if self.watch.known is None and not self.watch.not_found:
            # What a poll just brought goes first to the clients that waited for it.
            just_polled = self.upstream.clock.monotonic() < self.polled_at + OWN_ERROR_SECONDS
            own_failure = isinstance(self.error, UpstreamError) and (self.error.about_task or just_polled)
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
        self._ownership.polls(self.key)
        self.polling = True
        self.polls += 1
        if self.alone:
            self.alone -= 1
        source = Source.CALLBACK if self._called_back else Source.POLL
        self._called_back = False
        try:
            started_at = clock.monotonic()
            try:
                with self.upstream.hold(permit), self.upstream.tracing.about(self.key, self.origin):
                    observation = await poll(self.upstream, self.key.task_id, self._cache)
            except UpstreamError as error:
                await self._take_failure(error, source)
            else:
                # If another process polls the task by now, it sees what is newer than this.
                if self.polls_here:
                    await self._take_answer(observation, source, started_at)
        finally:
            self.polling = False
            self.polled_at = clock.monotonic()
            self._wake_waiters()

    # Polls of many tasks with one call

    @property
    def goes_with_others(self) -> bool:
        """Whether the next poll may be made with those of other tasks, in one call."""
        return (
            not self.alone
            and self._hydrated
            and self.polls_here
            and self.watch.healthy
            and not self._cache.details
        )

    @property
    def left_out(self) -> bool:
        """Whether the last call about this task and others did not show it."""
        return self._left_out > 0

    def begin_with_others(self) -> None:
        """A call about this task and others starts."""
        self._log_start()
        self._ownership.polls(self.key)
        self.polling = True

    def read(self, answers: ManyAnswers) -> Observation | None:
        """What such a call showed of this task; None if that is the same as before.

        Raises:
            UpstreamError: Only a call about this task alone decides; that is the next one.
        """
        try:
            observation = read_one(self.upstream, answers, self.key.task_id, self._cache)
        except Exception as error:
            left_out = not isinstance(error, ResultNotReady)
            # A task that is left out again and again is polled alone for longer and longer.
            self.alone = min(1 << self._left_out, MAX_ALONE) if left_out else 1
            self._left_out = min(self._left_out + left_out, MAX_ALONE)
            raise
        self._left_out = 0
        return observation

    def confirm_with_others(self, started_at: float, now: float, unix_time: float) -> None:
        """Process that such a call showed this task as it was; the caller counts the poll."""
        self.polls += 1
        self._called_back = self.polling = False
        self.polled_at = self.shown_at = now
        if self.polls_here:
            # What `_take_answer` does, without the coroutines: a hundred of these cost less than the request.
            update = self.watch.unchanged(now=now, unix_time=unix_time, started_at=started_at)
            self._journal.confirm(self.key, Confirmation(unix_time, *self.watch.estimate))
            self._announce(update)
            self.error = None
            self.polled_once.set()
            self._estimated.record_poll(self.watch.estimate, jitter=self.watch.random())
        self._changed(self)
        self._wake_waiters()

    async def take_with_others(self, observation: Observation, started_at: float) -> None:
        """Process what such a call showed of this task, which is not what it showed before.

        Raises:
            JournalError: The result could not be recorded.
        """
        self.polls += 1
        source = Source.CALLBACK if self._called_back else Source.POLL
        self._called_back = False
        try:
            if self.polls_here:
                await self._take_answer(observation, source, started_at)
        finally:
            self.polling = False
            self.polled_at = self.upstream.clock.monotonic()
            self._wake_waiters()

    async def fail_for_others(self, error: UpstreamError) -> None:
        """Such a call failed for a reason that any call with this credential would have failed for.

        Raises:
            JournalError: The result could not be recorded.
        """
        self.polls += 1
        source = Source.CALLBACK if self._called_back else Source.POLL
        await self._take_failure(error, source)
        self.polled_at = self.upstream.clock.monotonic()
        self._wake_waiters()

    async def _take_failure(self, error: UpstreamError, source: Source) -> None:
        """Process a failed poll.

        Raises:
            JournalError: The result could not be recorded.
        """
        without_frames(error)
        self.upstream.record_poll("failed")
        if not self.polls_here:
            return
        # The next poll brings what the callback was about.
        self._called_back |= source is Source.CALLBACK
        if self.watch.known is not None or not isinstance(error, TaskNotFound):
            self.error = error
        clock = self.upstream.clock
        update = self.watch.failed(
            error, now=clock.monotonic(), unix_time=clock.time(), watched=self.viewers > 0
        )
        await self._act(update)
        if self.watch.not_found:
            if self.watch.registered:
                await self._forget()
            self.error = error
        if self.error is not None:
            # The first 404 decides nothing: a second poll must confirm it.
            self.polled_once.set()

    async def _forget(self) -> None:
        """The registered task does not exist: nothing is left of it.

        Raises:
            JournalError: It could not be deleted; the next poll finds out again.
        """
        try:
            await self._journal.forget(self.key)
        except JournalError:
            self._start_again()
            raise
        self.watch.registered, self.offset = False, 0

    async def _take_answer(
        self, answer: Observation | WithoutResult | None, source: Source, started_at: float
    ) -> None:
        """Process what a poll showed; None if that is the same as the one before.

        Raises:
            JournalError: The result could not be recorded.
        """
        clock = self.upstream.clock
        self.shown_at = clock.monotonic()
        if answer is None:
            self.upstream.record_poll("unchanged")
            now, unix_time = clock.monotonic(), clock.time()
            update = self.watch.unchanged(now=now, unix_time=unix_time, started_at=started_at)
            self._confirm()
            if update.notices:
                await self._act(update)
            else:
                self._changed(self)
        elif isinstance(answer, WithoutResult):
            await self._take_without_result(answer, source, started_at)
        else:
            await self.take(answer, source, started_at=started_at)
        self.error = None
        if not self.ending:
            self.polled_once.set()
        self._estimated.record_poll(self.watch.estimate, jitter=self.watch.random())

    async def take(
        self,
        observation: Observation,
        source: Source,
        *,
        started_at: float | None = None,
        free: bool = False,
    ) -> None:
        """Merge an observation into the known state and record the result if it is an event.

        Args:
            started_at: Monotonic seconds when the poll started; None for what was pushed to us.
            free: Whether it counts wherever the task is polled: what a submit or a cancel showed.

        Raises:
            JournalError: It could not be recorded.
        """
        clock = self.upstream.clock
        if source is Source.SUBMIT:
            request = current_request()
            self.origin = request.trace if request is not None else None
        self._log_start()
        before = self.watch.known

        def observed() -> Update:
            return self.watch.observed(
                observation,
                source=source,
                now=clock.monotonic(),
                unix_time=clock.time(),
                started_at=started_at,
            )

        update = observed()
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
        elif not self.over and self.polls_here:
            self._confirm()
        await self._act(update, again=observed, free=free)

    async def take_pushed(self, observations: Sequence[Observation]) -> None:
        """Merge what a stream showed in one slice of time, in order, and record the newest state of it.

        No matter how many states a provider streams, each slice makes at most one event.

        Raises:
            JournalError: It could not be recorded.
        """
        self._log_start()
        update = self._observed_pushed(observations)
        if update.state is not None:
            self._cache = PollCache()  # for the reason given in `take`
        elif not self.over:
            self._confirm()
        await self._act(update, again=lambda: self._observed_pushed(observations))

    def _observed_pushed(self, observations: Sequence[Observation]) -> Update:
        clock = self.upstream.clock
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
        return Update(newest, tuple(notices))

    async def _take_without_result(self, reading: WithoutResult, source: Source, started_at: float) -> None:
        clock = self.upstream.clock
        before = self.watch.known

        def observed() -> Update:
            return self.watch.without_result(
                reading.observation,
                reading.failure,
                source=source,
                now=clock.monotonic(),
                unix_time=clock.time(),
                started_at=started_at,
            )

        update = observed()
        self.upstream.record_poll("unchanged" if update.state is None else "changed")
        if update.state is not None:
            self._measure(before, update.state, reading.observation)
        elif not self.over:
            self._confirm()
        await self._act(update, again=observed)

    def _confirm(self) -> None:
        self._journal.confirm(self.key, Confirmation(self.upstream.clock.time(), *self.watch.estimate))

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
        if self._deadline_seconds is not None:
            await self._find_deadline(self._deadline_seconds)
        if self.watch.viewed and not self.viewers:
            self.watch.viewed = self.viewed  # a client that polls the bridge has stayed away
        due = self.watch.due
        update = self.watch.ticked(now=clock.monotonic(), unix_time=clock.time(), spacing=spacing)
        # Nearly always nothing: no await, and no rescheduling, for each of many thousand watches per second.
        if update.state is not None or update.notices:
            await self._act(update)
        if self.watch.due != due:
            self._changed(self)

    def streaming(self) -> None:
        """The stream is alive."""
        self.watch.streaming(now=self.upstream.clock.monotonic())
        self._changed(self)

    def stream_ended(self) -> None:
        """The stream is closed: poll soon."""
        self.watch.stream_ended(now=self.upstream.clock.monotonic())
        self._changed(self)

    def poll_now(self, at: float | None = None) -> None:
        """Poll out of turn; where another process polls, ask that one.

        Args:
            at: Monotonic seconds; None for now.
        """
        now = self.upstream.clock.monotonic()
        if not self.polls_here:
            self._call(now, now if at is None else at)
            return
        self.watch.poll_now(now=now if at is None else at)
        self._changed(self)

    def poll_soon(self, at: float) -> None:
        """Poll at `at`, monotonic seconds, unless a poll starts before: one from now on is as good."""
        self.watch.poll_now(now=self.upstream.clock.monotonic(), at=at)
        self._changed(self)

    def called_back(self, at: float) -> None:
        """An authentic callback named the task: poll, and give the new state `callback` as its source."""
        self.vouch()
        if not self.polls_here:
            self._ownership.call(self.key, called_back=True)
            return
        self._called_back = True
        self.poll_now(at)

    # Several processes share the tasks

    def turn(self, turn: Turn) -> None:
        """Change the role; what polls, and follows the provider's stream, is the pool's to start or stop."""
        self.role = after(self.role, turn)
        self.polls_here = self.role in POLLING
        if not self.polls_here:
            self.watch.retire()
            self.source = Source.POLL
            self._cache = PollCache()  # another process is ahead of it
        self._changed(self)

    def stands(self, turn: Turn, decided: KnownTask) -> None:
        """It is decided who polls the task.

        Args:
            turn: `GRANTED` to this process, or it `ATTENDS`.
        """
        now, polled = self.upstream.clock.monotonic(), self.polls_here
        self._take_record(decided)
        self._take_promises(decided)
        soonest = now
        if turn is Turn.GRANTED:
            self.polled_at = max(self.polled_at, decided.polled_at)
            polled_at = max(self.polled_at, self.shown_at)
            if decided.due is None and decided.event is not None and decided.polled_at == float("-inf"):
                polled_at = now  # nothing is known of its owner: that may have polled it just now
            soonest = polled_at + self.upstream.pace.min_seconds
            if not polled:
                self.watch.granted(now=now, due=decided.due, polled_at=polled_at)
            elif self.watch.due is not None:
                # It polled all the time, and so may another one: its session had ended meanwhile.
                self.watch.due = max(self.watch.due, soonest)
        self.turn(turn)
        due = self.watch.due
        if self.watch.known is not None and (turn is Turn.ATTENDS or due is None or due > now):
            self.polled_once.set()  # else a poll comes at once: clients that read the state wait for it
        self._stand(turn, decided, now)
        if self._call_at is not None:
            at, self._call_at = self._call_at, None
            if self.polls_here:
                self.poll_soon(max(at, soonest))
            else:
                self.poll_now(at)

    def _take_promises(self, decided: KnownTask) -> None:
        if decided.persistent:
            self.persistent = True
            if not self.watch.registered:
                self.vouch()
        if decided.called_back:
            self.expect_callbacks()

    def _take_record(self, decided: KnownTask) -> None:
        if decided.event is None:
            self._hydrated = True
        elif self._hydrated:
            self.recorded_elsewhere(decided.event)
        else:
            notices = self.watch.active_notices
            self._hydrated = True
            self._begin_from(decided.event)
            self.watch.active_notices = notices
        if decided.confirmation is not None:
            self.watch.take_estimate(decided.confirmation)
            confirmed_at = self._monotonic(decided.confirmation.observed_at)
            self._heard_at = max(self._heard_at, confirmed_at)
            self.shown_at = max(self.shown_at, confirmed_at)

    def _stand(self, turn: Turn, decided: KnownTask, now: float) -> None:
        """The notices that are active."""
        believed_until = decided.due if decided.due is not None and decided.due > now else None
        for notice in decided.notices:
            if notice.code is not NoticeCode.TASK_NOT_FOUND:
                self._notice_stands(notice)
            elif believed_until is not None:
                # Its owner would have polled it again when the 404 is no longer believed.
                self._missing_since(notice, believed_until - BELIEVED_SECONDS)
            elif turn is Turn.ATTENDS and not self.recheck:
                self._missing_since(notice, now)

    def expect_grant(self, *, called_back: bool) -> None:
        """This process is asked to poll the task, and does not know yet that it owns it."""
        self._call_at = self.upstream.clock.monotonic()
        self._called_back |= called_back

    def recorded_elsewhere(self, event: Event) -> None:
        """Another process recorded a state."""
        if self._hydrated and event.cursor.offset <= self.offset:
            return
        now = self.upstream.clock.monotonic()
        self._hydrated = True
        if self.watch.known is None and is_unseen(event.state):
            self.registered(event)
            return
        self.offset = event.cursor.offset
        self._cache = PollCache()  # for the reason given in `take`
        self.error = None
        self._heard_at = self._monotonic(event.state.observed_at)
        self.shown_at = max(self.shown_at, self._heard_at)
        self._status_since = event.state.changed_at
        self.watch.recorded_elsewhere(event.state, now=now, succeeded=self._has_succeeded(event.state))
        self.polled_once.set()
        self._wake_waiters()
        self._changed(self)
        if self.watch.ended:
            self.log_end()

    def confirmed_elsewhere(self, confirmation: Confirmation) -> None:
        """Another process saw the newest state again."""
        now = self.upstream.clock.monotonic()
        # The clock of that machine may differ: what arrives now counts as now.
        self._heard_at = self.shown_at = now
        if self.polls_here:
            return
        self.error = None
        self._announce(self.watch.confirmed_elsewhere(confirmation, now=now, at=now))
        self._wake_waiters()

    def noticed_elsewhere(self, notice: Notice) -> None:
        """The process that polls the task announced a notice."""
        if self.polls_here:
            return
        if notice.code is NoticeCode.TASK_NOT_FOUND:
            self._missing_since(notice, self.upstream.clock.monotonic())
        else:
            self._notice_stands(notice)

    def _missing_since(self, notice: Notice, at: float) -> None:
        if self.watch.known is None:  # else it was shown since
            self.recall_missing(TaskNotFound(notice.message), min(at, self.upstream.clock.monotonic()))
            self._wake_waiters()
            self._changed(self)

    def _notice_stands(self, notice: Notice) -> None:
        self.watch.noticed_elsewhere(notice, now=self.upstream.clock.monotonic())
        error = _error_of(notice)
        if notice.code is NoticeCode.FRESH or error is not None:
            self.error = error
            if error is not None:
                self.polled_once.set()
            self._wake_waiters()

    def attend(self, *, cut_off: bool) -> None:
        """Process the passing of time where another process polls the task.

        Args:
            cut_off: Whether nothing is received from that process.
        """
        now = self.upstream.clock.monotonic()
        if self._call_at is not None and now >= self._call_at:
            self._call(now, self._call_at)
        if self.watch.may_be_stale(now=now):
            longest = self.upstream.pace.max_seconds
            if not cut_off and (self._callbacks is not None or self._has_stream()):
                longest = self.upstream.pace.safety_net_seconds
            self._announce(self.watch.attended(now=now, cut_off=cut_off, longest=longest))

    def _has_stream(self) -> bool:
        try:
            return self.upstream.dialect.stream_request(self.key.task_id) is not None
        except InvalidRequest:
            return False

    def _call(self, now: float, at: float) -> None:
        """Ask who polls the task to poll it now; not before `at`, and once a second at most."""
        at = max(at, self._called_at + CALL_SECONDS)
        if self.role is Role.ASKING or at > now:
            self._call_at = at if self._call_at is None else min(self._call_at, at)
            return
        self._call_at, self._called_at = None, now
        self._ownership.call(self.key)

    def _cut_back_off_short(self) -> None:
        """A viewer joined: a back-off that its owner may be in is cut short."""
        now = self.upstream.clock.monotonic()
        waits = self.lost or NoticeCode.UPSTREAM_UNAVAILABLE in self.watch.active_notices
        if waits and now - self._called_at >= CUT_SHORT_SECONDS:
            self._call(now, now)

    def _monotonic(self, unix_time: float) -> float:
        """That moment on the monotonic clock; not in the future."""
        clock = self.upstream.clock
        return clock.monotonic() - max(clock.time() - unix_time, 0.0)

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

    async def _take_over(self, refused: JournalError) -> None:
        """What was seen here is not recorded: start again from what is."""
        if isinstance(refused, NotOwner) and self.role in POLLING:
            self.turn(Turn.REFUSED)
            self._ownership.want(self.key)
        (latest,) = await self._journal.latest([self.key])
        self._cache = PollCache()
        notices, due = self.watch.active_notices, self.watch.due
        known = None if latest is None else latest.state
        self.watch.retire()
        self.watch = self._begin(self.watch.random, known)
        self.watch.active_notices = notices
        if latest is not None:
            self.offset = latest.cursor.offset
        if due is not None and self.watch.due is not None:
            self.watch.due = due
        self._changed(self)

    async def _act(  # noqa: C901 - one story: each further call would cost each state a coroutine
        self,
        update: Update,
        *,
        again: Callable[[], Update] = _no_update,
        free: bool = False,
        merges: int = 0,
        ended: State | None = None,
    ) -> None:
        """Record the state and announce the notices.

        Args:
            again: Merges the same observation with what is known by then.
            free: Whether it counts although another process polls the task.
            merges: How often it was merged again.
            ended: The end after what comes before it; None before that, or without one.

        Raises:
            JournalError: The state could not be recorded.
        """
        state = update.state if ended is None else ended
        if state is not None and state.status.final and ended is None:
            # Before the end: nothing reaches a subscriber after it.
            self._announce(update)
            work = None
            if self.upstream.before_end is not None and not merges:
                work = self.upstream.before_end(self.upstream, self.key, state)
            if work is not None and not free:
                # Neither the turn of this poll nor its stream is held for that long.
                self.ending = True
                self._end_task = asyncio.create_task(self._end_after(work, update, again))
                return
            if work is not None:
                state = await self._ended_by(work)
        if state is not None:
            try:
                await self._record(state)
            except (NotOwner, Superseded) as error:
                await self._take_over(error)
                if isinstance(error, NotOwner) and not free:
                    return  # the process that polls the task sees it too
                if merges == MAX_MERGES:
                    raise
                await self._act(again(), again=again, free=free, merges=merges + 1)
                return
            except Exception:
                # What is not recorded counts as not observed: start again from the journal, soon. Without
                # this the watch would call the state known, and no subscriber would ever receive it.
                self._start_again()
                raise
        if state is None or not state.status.final:
            self._announce(update)
        self._changed(self)
        if self.watch.ended:
            self._wake_waiters()
            self.log_end()

    async def _ended_by(self, work: Awaitable[State]) -> State:
        """Wait for what comes before an end.

        Meanwhile the watch has ended, and no client knows: it must not be replaced by a new one, which would
        record the end once more.
        """
        self.ending = True
        try:
            return await work
        finally:
            self.ending = False

    async def _end_after(self, work: Awaitable[State], update: Update, again: Callable[[], Update]) -> None:
        """Record an end that a poll or a stream showed, after what comes before it."""
        try:
            state = await work
            await self._act(update, again=again, ended=state)
        except BridgeError as error:
            logger.warning("end not recorded yet", extra={"task": self.key.ref, "error": str(error)})
        except Exception:
            logger.exception("unhandled exception in watch", extra={"task": self.key.ref})
        finally:
            self.ending = False
            self._end_task = None
            self.polled_once.set()
            self._wake_waiters()
            self._changed(self)

    async def finish_end(self) -> None:
        """Wait until an end that is about to be recorded is; what it waits for must be over soon."""
        if self._end_task is not None:
            await asyncio.gather(self._end_task, return_exceptions=True)

    def _start_again(self) -> None:
        """Start again from the journal, soon."""
        self._cache = PollCache()
        self._hydrated = False
        self.watch.retire()
        self.watch = self._begin(self.watch.random, None)
        wait = max(RETRY_JOURNAL_SECONDS, self.upstream.pace.min_seconds)
        self.watch.due = self.upstream.clock.monotonic() + wait
        self._changed(self)

    def _announce(self, update: Update) -> None:
        if not update.notices:
            return
        here = self.role is not Role.OWNING
        for notice in update.notices:
            self._journal.announce(self.key, notice, here=here)

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
                if self.role is Role.OWNING:
                    event = await self._journal.append(self.key, state, observed_at=started_at)
                else:
                    event = await self._journal.append(self.key, state, observed_at=started_at, free=True)
        except (NotOwner, Superseded):
            raise
        except JournalError:
            self.upstream.metrics.journal_failures.inc()
            raise
        self.offset = event.cursor.offset
        self.upstream.metrics.journal_append_seconds.observe(clock.monotonic() - started_at)
        if self._costs_now:
            self._costs_now = False
            self.upstream.record_cost(state.credits_used)

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
        # One that had ended when it was first seen was counted when it ended, here or elsewhere.
        seen_open = state.source is Source.SUBMIT if before is None else not is_ended(before)
        self._costs_now = seen_open and is_ended(state)
        if before is not None and self.polls_here:
            self._measure_end(before, state)
        # Detection latency, where the provider dates its change. Not for the first observation: the task may
        # have changed long before the watch started.
        changed_at = observation.changed_at
        if changed_at is None and state.status.final:
            changed_at = observation.completed_at
        if changed_at is not None and before is not None:
            latency = state.changed_at - changed_at
            if 0 <= latency <= PLAUSIBLE_SECONDS:
                metrics.detection_seconds.labels(name, state.source.value).observe(latency, example)

    def _measure_end(self, before: State, state: State) -> None:
        """Count what the polls of a task came to that was open when it was seen first."""
        ends = is_ended(state) and not before.status.final
        if not ends:
            return
        metrics, name = self.upstream.metrics, self.key.upstream
        metrics.polls_per_task.labels(name).observe(self.polls)
        now = self.upstream.clock
        watched_since = now.time() - (now.monotonic() - self.watch.started)
        error = self._estimated.error(
            began_at=state.created_at or watched_since, ended_at=state.completed_at or state.changed_at
        )
        if error is not None:
            metrics.eta_error_ratio.labels(name).observe(error)


def _error_of(notice: Notice) -> BridgeError | None:
    """Why the poll of another process failed, as far as its notice says."""
    if notice.code is NoticeCode.CREDENTIAL_REFUSED:
        return CredentialRefused(notice.message)
    if notice.code is not NoticeCode.UPSTREAM_UNAVAILABLE:
        return None
    if not notice.retriable:
        return UpstreamRefused(notice.message)
    timed_out = notice.message == TIMEOUT_SENTENCE
    return (UpstreamTimeout if timed_out else UpstreamUnavailable)(notice.message)

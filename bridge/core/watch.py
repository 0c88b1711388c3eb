"""The state machine of one watched task: what is known, what is an event, when to poll next, which notices.

Rule 1: every transition of a watched task is decided in this file.
Rule 2: this file does no I/O and reads no clock; callers feed it and poll at `due`.
Rule 3: after a final status nothing is due, and only a final status that replaces `lost` is an event. A lost
        task is still polled, rarely.
Rule 4: a failure of one task slows down the polls of that task only.
Rule 5: a task whose provider said "completed" ends as completed, failed or cancelled, never as lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bridge.core.estimate import NO_ESTIMATE, PLAUSIBLE_SECONDS, Estimate
from bridge.core.event import Confirmation, Notice, NoticeCode
from bridge.core.forecast import Forecast, Ground
from bridge.core.learned import LearnedRuns, TaskKind
from bridge.core.merge import lost, merge
from bridge.core.price import PlannedPoll, PollPrice
from bridge.core.schedule import MAX_WAIT, CallbackSupport, Pace, grace_delay
from bridge.core.task import Failure, Observation, Source, State, Status
from bridge.errors import (
    CredentialRefused,
    ResultFailure,
    ResultUnavailable,
    TaskNotFound,
    UpstreamError,
    UpstreamRefused,
)

MISSING_AGAIN_SECONDS = 1.0
"""A task never seen is missing when a second poll, this long after the first, gets 404 too."""

LOST_AFTER_POLLS = 3
LOST_AFTER_SECONDS = 10.0
VOUCHED_SECONDS = 60.0
"""The same for a task that the bridge submitted or was called back about."""

LOST_POLL_SECONDS = 300.0
CUT_SHORT_SECONDS = 10.0
"""How often a viewer or a callback may cut a task's back-off short."""

REFUSED_RESULT_SECONDS = 15.0
MISSING_RESULT_SECONDS = 60.0
UNAVAILABLE_RESULT_SECONDS = 600.0
RESULT_POLLS = 3
REASON_SECONDS = 60.0
"""A standing notice is sent again with a new reason at most this often."""

NO_LINK_SENTENCE = "the provider gives no link to a result of this task"

MAX_UNVIEWED_FACTOR = 5.0
UNVIEWED_PRICE = 10.0
"""How much dearer a poll of a task is that no viewer waits for."""

STALE_AFTER_INTERVALS = 3
STALLED_AFTER_MEDIANS = 4.0
MIN_STALLED_SECONDS = 300.0
STALLED_WITHOUT_MEDIAN_SECONDS = 1800.0

NO_KIND = TaskKind(None, None)
_NEVER = float("-inf")
_TAUGHT_BY = frozenset({Status.COMPLETED, Status.FAILED})
_ANNOUNCED_BY_CALLBACK = frozenset(
    {Status.COMPLETED, Status.FAILED}
)  # no provider documents one for a cancel
_OF_STATE = frozenset({NoticeCode.STALLED, NoticeCode.UNKNOWN_STATUS, NoticeCode.RESULT_UNAVAILABLE})
"""Notices about a state that the upstream confirmed: they need no `fresh`."""


@dataclass(frozen=True, slots=True)
class Update:
    """The result of one observation: a state to record as an event, notices to send."""

    state: State | None = None
    notices: tuple[Notice, ...] = ()


NO_UPDATE = Update()


@dataclass(slots=True)
class _Streak:
    """Polls in a row with the same failure.

    Args:
        since: Monotonic seconds of the first of them.
    """

    polls: int = 0
    since: float = 0.0

    def add(self, now: float) -> float:
        """Count one more; the seconds since the first."""
        if self.polls == 0:
            self.since = now
        self.polls += 1
        return now - self.since


@dataclass(slots=True)
class _ResultWait:
    """A task that is completed by the status call's word, while the call for its result brings none.

    Args:
        grace_seconds: How long a missing result is waited for.
        observation: What the newest status call showed.
    """

    grace_seconds: float
    observation: Observation
    any_failure: _Streak = field(default_factory=_Streak)
    _streaks: dict[ResultFailure, _Streak] = field(default_factory=dict)

    def failed(self, kind: ResultFailure, now: float) -> tuple[bool, _Streak, float]:
        """Whether the result is given up; polls with this kind of failure; the seconds they may last."""
        if kind is ResultFailure.NOT_READY:
            # The provider works on it: what went wrong before counts no more.
            self._streaks.clear()
            self.any_failure = _Streak()
            return False, _Streak(), 0.0
        limit = {
            ResultFailure.REFUSED: REFUSED_RESULT_SECONDS,
            ResultFailure.MISSING: self.grace_seconds,
        }.get(kind, UNAVAILABLE_RESULT_SECONDS)
        streak = self._streaks.setdefault(kind, _Streak())
        lasting = streak.add(now)
        # Failures that change their kind again and again still have an end.
        too_long = self.any_failure.add(now) >= UNAVAILABLE_RESULT_SECONDS
        given_up = too_long or (streak.polls >= RESULT_POLLS and lasting >= limit)
        return given_up, streak, limit


@dataclass(slots=True)
class Watch:
    """The decisions about one task, without any I/O.

    Feed it with `observed`, `unchanged`, `failed`, `streaming` and `ticked`; poll again at `due`; when that
    is None the watch has ended. `now` is monotonic seconds everywhere, `unix_time` Unix seconds.

    Args:
        learned: What ended tasks of the upstream taught.
        price: What a poll costs with this credential.
        random: Returns 0-1, for jitter.
        started: When the watch started.
        known: The last recorded state, when a watch resumes.
        deadline_seconds: How long an open task is watched before it counts as lost.
        registered: Whether it is recorded although no source has shown it: it has a deadline too.
        callbacks: Set when the provider was asked to call back about this task: whether its callbacks arrive.
        grace_seconds: How long a completed task's missing result is waited for.
        succeeded: Whether the provider's word in `known` is one for a completed task.
        kind: What the id of the task shows of its kind, where the provider reports none.
        forecast: Of the watch before, if another one of the same task replaces it.

    Attributes:
        viewed: Whether a viewer waits for the task; without, a poll is dearer.
        estimate: When the task probably ends, as of the newest poll.
        deadline: When the open task counts as lost.
        why: What the time of the next poll rests on: the measure of `ground` (`run:3`, `work`,
            `slope:3`, `estimate`, `eta`), else `wait`, `growth`, `poll_after`, `callback`, `stream`, `retry`,
            `lost`; `first` before the first poll.
        due: When to poll next, monotonic seconds.
        confirmed: When the upstream last confirmed the known state.
        interval: Seconds between polls as currently planned, before any limit delays them.
        last_poll: When the newest poll with a result started, or the newest failed one ended.
        active_notices: Notices that still apply; new subscribers receive them too.
        not_found: Whether the watch ended because the upstream never showed the task.
    """

    pace: Pace
    learned: LearnedRuns
    price: PollPrice
    random: Callable[[], float]
    started: float
    known: State | None = None
    deadline_seconds: float | None = None
    registered: bool = False
    callbacks: CallbackSupport | None = None
    grace_seconds: float = MISSING_RESULT_SECONDS
    succeeded: bool = False
    kind: TaskKind = NO_KIND
    forecast: Forecast | None = None
    due: float | None = field(init=False)
    deadline: float = field(init=False, default=float("inf"))
    confirmed: float = field(init=False)
    interval: float = field(init=False)
    not_found: bool = field(init=False, default=False)
    failures: int = field(init=False, default=0)
    task_failures: int = field(init=False, default=0)
    active_notices: dict[NoticeCode, Notice] = field(init=False, default_factory=dict)
    last_poll: float = field(init=False)
    _missing: _Streak = field(init=False, default_factory=_Streak)
    _vouched_at: float | None = field(init=False, default=None)
    _result: _ResultWait | None = field(init=False, default=None)
    _cut_short_at: float = field(init=False, default=_NEVER)
    _sent_at: dict[NoticeCode, float] = field(init=False, default_factory=dict)
    _new_reason: dict[NoticeCode, Notice] = field(init=False, default_factory=dict)
    _wait: float = field(init=False, default=0.0)
    _changed_at: float = field(init=False)
    _stream_alive_at: float = field(init=False, default=_NEVER)
    _poll_requested_at: float = field(init=False, default=_NEVER)
    _requested_for: float = field(init=False, default=_NEVER)
    _not_before: float = field(init=False, default=_NEVER)
    _poll_after: float | None = field(init=False, default=None)
    viewed: bool = field(init=False, default=True)
    estimate: Estimate = field(init=False, default=NO_ESTIMATE)
    why: str = field(init=False, default="first")
    _quiet: int = field(init=False, default=0)
    _planned_freely: bool = field(init=False, default=False)
    _planned: PlannedPoll | None = field(init=False, default=None)
    _kind_known: TaskKind = field(init=False)
    _kind_of: State | None = field(init=False, default=None)
    _forecast: Forecast = field(init=False)
    _poll_gap: float = field(init=False, default=0.0)
    _heard_gap: float = field(init=False, default=0.0)
    _deaf: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        ended = self.known is not None and self.known.status.final
        if self.deadline_seconds is not None:
            self.deadline = self.started + self.deadline_seconds
        self.due = None if ended and not self._lost else self.started
        self.confirmed = self._changed_at = self.last_poll = self.started
        if self.known is not None:
            self.estimate = Estimate(self.known.eta_at, self.known.eta_by)
        self.interval = self.pace.recommended_seconds
        self._kind_known = self.kind
        self._forecast = self.forecast or Forecast(self.random, self.started)

    @property
    def over(self) -> bool:
        """Whether no further poll is due."""
        return self.due is None

    @property
    def ended(self) -> bool:
        """Whether an end was sent to subscribers: a final status, or that there is no such task."""
        return self.not_found or (self.known is not None and self.known.status.final)

    @property
    def ground(self) -> Ground | None:
        """What the newest estimate rests on; None without any."""
        return self._forecast.ground

    @property
    def backing_off(self) -> bool:
        """Whether polls are rare because of a failure of this task, not of the provider."""
        return self.task_failures > 0 or self._result is not None or self._lost

    @property
    def healthy(self) -> bool:
        """Whether the provider has shown the task, and nothing has gone wrong with it since."""
        known = self.known
        if known is None or (known.status is Status.UNKNOWN and known.upstream_status is None):
            return False
        return not (self._missing.polls or self.task_failures or self._result is not None or self._lost)

    def may_be_early(self, now: float) -> bool:
        """Whether a poll before `due` breaks neither the shortest interval nor what delays it."""
        freely = self._planned_freely or self.why == "first"
        return freely and now >= self.last_poll + self.pace.min_seconds

    @property
    def _lost(self) -> bool:
        """Whether the task counts as lost: the one final status that a poll may still correct."""
        return self.known is not None and self.known.status is Status.LOST

    def observed(
        self,
        observation: Observation,
        *,
        source: Source,
        now: float,
        unix_time: float,
        started_at: float | None = None,
    ) -> Update:
        """Process what a source observed.

        Args:
            started_at: Monotonic seconds when the poll started; None for what was pushed to us.
        """
        # Only a poll that started after the newest change cannot show an older state.
        late = started_at is None or started_at < self._changed_at
        estimate = self._forecast_from(observation, source, now, unix_time, started_at)
        state = merge(
            self.known, observation, source=source, unix_time=unix_time, estimate=estimate, late=late
        )
        if self._latched(state):
            return NO_UPDATE
        notices = self._confirm(now)
        self.not_found = False
        self.estimate = estimate
        if started_at is not None:
            self._result, self.succeeded = None, False
            if (
                state is not None
                and source is Source.POLL
                and not self._poll_requested
                and self.callbacks is not None
                and state.status in _ANNOUNCED_BY_CALLBACK
            ):
                # The callback should have come first. Until one comes, no task of this upstream may count on
                # them, or every end would be found only by the slow safety-net poll.
                self.callbacks.come = False
            self._record_poll(started_at)
            self._poll_after = observation.poll_after
        self._keep(state, now)
        notices += self._about_state(now, result_unavailable=observation.result_unavailable)
        self._schedule(now, ended=observation.status.final, poll_after=observation.poll_after)
        if started_at is None and self.due is not None:
            # A chatty stream must not postpone the poll again and again: a stream can be alive and wrong.
            self.due = max(min(self.due, self._safety_net(now)), self._not_before)
            self._wait = max(self.due - now, 0.0)
            self._replan()
        if state is not None and state.status in _TAUGHT_BY:
            self._learn(state, now, unix_time, started_at)
        return Update(state, notices) if state is not None or notices else NO_UPDATE

    def without_result(
        self,
        observation: Observation,
        failure: ResultUnavailable,
        *,
        source: Source,
        now: float,
        unix_time: float,
        started_at: float,
    ) -> Update:
        """Process a poll whose status call showed a completed task, and whose call for the result failed.

        Until the result is there, or given up, the task is `processing` with the provider's word.
        """
        if self._latched(None):
            return NO_UPDATE
        self._missing.polls = self.failures = self.task_failures = 0
        self.confirmed = now
        self.not_found = False
        self._record_poll(started_at)
        self._poll_after = None
        if self._result is None:
            self._result = _ResultWait(self.grace_seconds, observation)
        self._result.observation = observation
        given_up, streak, limit = self._result.failed(failure.kind, now)
        if given_up:
            return self._end_without_result(str(failure), source=source, now=now, unix_time=unix_time)
        state = merge(
            self.known,
            replace(observation, status=Status.PROCESSING, outputs=(), completed_at=None, error=None),
            source=source,
            unix_time=unix_time,
            late=started_at < self._changed_at,
        )
        self._keep(state, now)
        notices = self._about_state(now)
        if streak.polls >= 2:
            message = f"the task is completed, but its result cannot be fetched: {failure}"
            notices += self._notify(NoticeCode.UPSTREAM_UNAVAILABLE, message, now)
        self._forecast.drop()  # only the result is waited for
        self.estimate = NO_ESTIMATE
        self._schedule(now, ended=False, poll_after=observation.poll_after)
        if streak.polls and self.due is not None and not self._poll_requested:
            if failure.kind is ResultFailure.UNAVAILABLE:
                wait = self.pace.retry_delay(jitter=self.random(), failures=streak.polls, retry_after=None)
            else:
                elapsed = now - streak.since
                wait = grace_delay(streak.polls, elapsed, limit, shortest=self.pace.min_seconds)
            self._set_due(now, max(wait, min(failure.retry_after or 0.0, MAX_WAIT)))
        return Update(state, notices)

    def unchanged(self, *, now: float, unix_time: float, started_at: float) -> Update:
        """Process a poll that returned the same bytes as the one before."""
        if self.over:
            return NO_UPDATE
        notices = self._confirm(now)
        self._record_poll(started_at)
        self._quiet += 1
        # No new document: what is known of the task is the same, a moment older, and the provider's hint
        # still holds.
        notices += self._about_state(now)
        seen_at = (started_at + now) / 2
        self._forecast.saw_again(seen_at)
        if self._result is None:
            forecast, kind = self._forecast, self._kind()
            forecast.choose_again(self.learned, kind)
            if forecast.ground is None and not forecast.queued:
                forecast.wait, self.estimate = None, NO_ESTIMATE
            else:
                forecast.schedule(self.learned, kind, now, self._price())
                self.estimate = forecast.estimate(now, unix_time)
        self._schedule(now, ended=False, poll_after=self._poll_after)
        return Update(None, notices) if notices else NO_UPDATE

    def failed(self, error: UpstreamError, *, now: float, unix_time: float, watched: bool = True) -> Update:
        """Process a failed poll.

        Args:
            watched: Whether the task has subscribers.
        """
        if self.over:
            return NO_UPDATE
        self.last_poll = now
        self._not_before = now + min(error.retry_after or 0.0, MAX_WAIT)
        if self._lost:
            self._set_due(now, self._lost_delay())
            return NO_UPDATE
        if isinstance(error, TaskNotFound):
            return self._missed(error, now=now, unix_time=unix_time)
        # 404s count only in a row: an outage in between says nothing about the task.
        self._missing.polls = 0
        self.failures += 1
        if error.about_task:
            self.task_failures += 1
            wait = self.pace.task_delay(jitter=self.random(), failures=self.task_failures, watched=watched)
        elif isinstance(error, CredentialRefused):
            # When a rejected key is tried again is decided for all its calls together.
            self.task_failures, wait = 0, self.pace.min_seconds
        else:
            self.task_failures = 0
            wait = self.pace.retry_delay(
                jitter=self.random(), failures=self.failures, retry_after=error.retry_after
            )
        self._set_due(now, wait)
        if isinstance(error, CredentialRefused):
            message = f"the provider rejects {error.key_name}"
            if error.about_task:
                message = "the provider does not show this task to the API key it is polled with"
            return Update(None, self._notify(NoticeCode.CREDENTIAL_REFUSED, message, now))
        if self.failures < 2 and self.known is not None:
            # A single failed poll is routine; subscribers would see a warning flash up and vanish.
            return NO_UPDATE
        retriable = not isinstance(error, UpstreamRefused)
        notices = self._notify(NoticeCode.UPSTREAM_UNAVAILABLE, str(error), now, retriable=retriable)
        return Update(None, notices) if notices else NO_UPDATE

    def held_up(self, reason: str, *, now: float) -> Update:
        """Process that the polls of this upstream are held up.

        Args:
            reason: Why, in words for a notice.
        """
        if self.over:
            return NO_UPDATE
        notices = self._notify(NoticeCode.UPSTREAM_UNAVAILABLE, reason, now)
        return Update(None, notices) if notices else NO_UPDATE

    def vouch(self, *, now: float) -> None:
        """Take the task for existing: the bridge submitted it, or an authentic callback named it."""
        if self._vouched_at is None:
            self._vouched_at = now

    def streaming(self, *, now: float) -> None:
        """The stream is alive: while it stays so, polling is only a safety net."""
        self._stream_alive_at = now
        if self.due is not None and self.known is not None and not self._poll_requested:
            # At most one interval ahead, or a stream that dies silently would leave a gap of a minute.
            due = max(self.due, min(now + self.pace.max_seconds, self._safety_net(now)))
            if due > self.due:
                self.due, self.why, self._planned_freely = due, "stream", False
            self._wait = max(self._wait, self.due - now)
            self._replan()

    def stream_ended(self, *, now: float) -> None:
        """The stream is closed: poll soon, since its last frames may be missing."""
        self.poll_now(now=now, at=self.last_poll + self.pace.min_seconds)

    def poll_now(self, *, now: float, at: float = _NEVER) -> None:
        """Poll again, even if a poll that started before `now` is still running: it may miss the change.

        Args:
            at: When, if no poll starts before; not before `now`.
        """
        if self.due is None:
            return
        at = max(at, now)
        if self.backing_off:
            if self._cut_short_at > now:
                return  # a poll is planned already, and reads any change this call is about
            # The shortest interval holds for what is polled rarely, too.
            soonest = max(self._cut_short_at + CUT_SHORT_SECONDS, self.last_poll + self.pace.min_seconds)
            at = self._cut_short_at = max(at, soonest)
        self._poll_requested_at = max(self._poll_requested_at, now)
        self._requested_for = max(self._requested_for, at)
        # A provider's Retry-After holds against callbacks and clients too.
        self.due = max(min(self.due, at), self._not_before)

    def recall_missing(self, message: str, *, at: float) -> None:
        """Start from a 404 that is still believed: there is no such task, and nothing is due.

        Args:
            at: Monotonic seconds when the upstream gave it.
        """
        self.last_poll = at
        self._not_found(message)

    def granted(self, *, now: float, due: float | None, polled_at: float = _NEVER) -> None:
        """This process polls the task from now on.

        Args:
            due: When its owner before wanted to poll it, monotonic seconds; None if that is unknown.
            polled_at: No owner before started a poll after this, monotonic seconds.
        """
        if self.due is None:
            return
        soonest = max(now, polled_at + self.pace.min_seconds)
        if due is not None:
            self.due = max(min(due, now + LOST_POLL_SECONDS), soonest)
        elif self.known is None:
            self.due = soonest
        elif self._lost:
            self.due = soonest + LOST_POLL_SECONDS * self.random()
        else:
            # Spread: tasks whose owner died together must not be polled together.
            self.due = soonest + self.interval * self.random()
        # One interval more for its first poll here before the task counts as stale.
        self.confirmed = max(self.confirmed, now - (STALE_AFTER_INTERVALS - 1) * self.interval)
        self.last_poll = now
        self._wait = self.due - now
        self._planned_freely = False  # the owner before may have waited for the provider's `Retry-After`
        self._deaf = False
        self._replan()

    def recorded_elsewhere(self, state: State, *, now: float, succeeded: bool) -> None:
        """Take over a state that another process recorded after the known one.

        What it saw itself and could not record is forgotten: a source shows it again.

        Args:
            succeeded: Whether the provider's word in `state` is one for a completed task.
        """
        if self.known is not None and self.known.status.final and not self._lost and not state.status.final:
            return  # the latch holds: an end that was seen here is recorded again by the one who holds it
        self.known = state
        self.succeeded = succeeded
        self.estimate = Estimate(state.eta_at, state.eta_by)
        self._changed_at = now
        self._heard(now, now)
        self.not_found = False
        for code in (NoticeCode.STALLED, NoticeCode.TASK_NOT_FOUND, NoticeCode.UNKNOWN_STATUS):
            if code is not NoticeCode.UNKNOWN_STATUS or state.status is not Status.UNKNOWN:
                self.active_notices.pop(code, None)
        if self._lost:
            self._set_due(now, self._lost_delay())
        elif state.status.final:
            self.due = self._result = None
            self._replan()
        elif self.due is None:
            self._set_due(now, self.pace.recommended_seconds)

    def confirmed_elsewhere(self, confirmation: Confirmation, *, now: float, at: float) -> Update:
        """Another process saw the known state again.

        Args:
            at: Monotonic seconds at which it did.
        """
        if self.known is None or self.ended:
            return NO_UPDATE
        self.take_estimate(confirmation)
        self._heard(now, at)
        if not self._deaf:
            return NO_UPDATE
        # Only a notice of this process is revoked here: the owner revokes its own.
        self._deaf = False
        if self.active_notices.pop(NoticeCode.STALE, None) is None:
            return NO_UPDATE
        notices = tuple(self.active_notices.values())
        # `fresh` revokes every notice: those still active follow it.
        return Update(None, (Notice(NoticeCode.FRESH, "confirmed by the upstream again"), *notices))

    def take_estimate(self, confirmation: Confirmation) -> None:
        """Another process made an estimate when it saw the known state again; not if that was one before."""
        if self.known is not None and confirmation.observed_at >= self.known.observed_at:
            self.estimate = Estimate(confirmation.eta_at, confirmation.eta_by)

    def noticed_elsewhere(self, notice: Notice, *, now: float) -> None:
        """The process that polls the task announced a notice."""
        if notice.code is NoticeCode.FRESH:
            self.active_notices.clear()
            self._new_reason.clear()
            self._deaf = False
        else:
            self.active_notices[notice.code] = notice
            self._sent_at[notice.code] = now
        if notice.code is NoticeCode.STALE:
            self._deaf = False

    def may_be_stale(self, *, now: float) -> bool:
        """Whether the known state was not confirmed for three of the shortest intervals."""
        return now - self.confirmed > STALE_AFTER_INTERVALS * self.interval

    def attended(self, *, now: float, cut_off: bool, longest: float) -> Update:
        """Process the passing of time where another process polls the task; call about once a second.

        Args:
            cut_off: Whether nothing is received from that process.
            longest: Seconds between two polls of the task at most, if no limit delays them.
        """
        if self.ended or NoticeCode.STALE in self.active_notices:
            return NO_UPDATE
        interval = max(self.interval, self._heard_gap)
        if not cut_off:
            if self.known is None:
                return NO_UPDATE
            # Its owner says when polls fail, and knows the interval in force: this is for one that is silent,
            # and must not speak before it.
            interval = max(interval, longest)
        if now - self.confirmed <= STALE_AFTER_INTERVALS * interval:
            return NO_UPDATE
        self._deaf = True
        reason = "not confirmed by the upstream for three poll intervals"
        if cut_off:
            reason = "this bridge receives nothing from the one that polls this task"
        return Update(None, self._notify(NoticeCode.STALE, reason, now))

    def _heard(self, now: float, at: float) -> None:
        """The newest state was seen elsewhere at `at`; the gaps show how often it is polled."""
        at = min(at, now)
        if at > self.confirmed:
            self._heard_gap = min(at - self.confirmed, MAX_WAIT)
            self.confirmed = at
            # Its owner knows why it polls when it does; here only the gaps show how often.
            pace = self.pace
            self.interval = min(max(self._heard_gap, pace.recommended_seconds), pace.max_seconds)

    def joined(self, *, now: float) -> None:
        """A subscriber was added: a back-off for a failure of this task alone is cut short.

        What a poll of a task without viewers was planned for is planned again: a viewer waits for it now.
        """
        was_viewed, self.viewed = self.viewed, True
        if self.backing_off:
            self.poll_now(now=now)
        elif not was_viewed:
            self._plan_earlier(now)

    def _plan_earlier(self, now: float) -> None:
        """Plan the next poll again, unless something else delays it: it is worth more now, or costs less."""
        if self.due is None or not self._planned_freely:
            return
        self._forecast.schedule(self.learned, self._kind(), self.last_poll, self._price())
        interval = self._interval(None)
        if self.last_poll + interval < self.due:
            self.interval = interval
            self.due = max(self.last_poll + interval, now)
            self._wait = self.due - now
            self._replan()

    def ticked(self, *, now: float, unix_time: float, spacing: float = 0.0) -> Update:
        """Process the passing of time; call about once a second.

        Args:
            spacing: Seconds between two polls of one task that the rate limit leaves to each task.
        """
        if self.over or self._lost:
            return NO_UPDATE
        notices = self._due_reasons(now) if self._new_reason else ()
        if now > self.deadline and (self.known is not None or self.registered):
            return self._out_of_time(now, unix_time)
        if self.known is None:
            return Update(None, notices) if notices else NO_UPDATE
        if self.price.factor <= 1.0 and self.due is not None and self.due - now > self.pace.max_seconds:
            # Planned while the rate limit was short: it is no longer.
            self._plan_earlier(now)
        # A tight rate limit, a stream or the provider's own `Retry-After` spaces polls wider than the pace:
        # that is a slow interval, not a stale task.
        interval = max(self.interval, self._poll_gap, self._wait, min(spacing, MAX_WAIT))
        if now - max(self.confirmed, self._stream_alive_at) > STALE_AFTER_INTERVALS * interval:
            notices += self._notify(
                NoticeCode.STALE, "not confirmed by the upstream for three poll intervals", now
            )
        quiet = now - self._changed_at
        # Compared before the median is computed: most tasks never get that far, and this runs every second.
        if quiet > MIN_STALLED_SECONDS:
            curve = self.learned.curve(self._kind(), "run")
            limit = STALLED_WITHOUT_MEDIAN_SECONDS
            if curve is not None:
                limit = curve.quantile(0.5) * STALLED_AFTER_MEDIANS
            if quiet > limit:
                message = "no change for much longer than such tasks usually take"
                notices += self._notify(NoticeCode.STALLED, message, now)
        return Update(None, notices) if notices else NO_UPDATE

    def _out_of_time(self, now: float, unix_time: float) -> Update:
        if self._has_succeeded:
            message = "the task's deadline passed before the provider handed its result out"
            return self._end_without_result(message, source=Source.POLL, now=now, unix_time=unix_time)
        return self._lose("deadline", "the deadline of the task passed", now=now, unix_time=unix_time)

    def _missed(self, error: TaskNotFound, *, now: float, unix_time: float) -> Update:
        """Process a 404."""
        missing_for = self._missing.add(now)
        polls, grace, wait = self._missing_grace(missing_for)
        vouched_for = VOUCHED_SECONDS if self._vouched_at is None else now - self._vouched_at
        if self._missing.polls >= polls and missing_for >= grace and vouched_for >= VOUCHED_SECONDS:
            return self._gone(error, now=now, unix_time=unix_time)
        self._set_due(now, wait)
        if self.known is None or self._missing.polls < 2:
            return NO_UPDATE
        message = f"the provider does not show this task at the moment: {error}"
        notices = self._notify(NoticeCode.UPSTREAM_UNAVAILABLE, message, now)
        return Update(None, notices) if notices else NO_UPDATE

    def _missing_grace(self, missing_for: float) -> tuple[int, float, float]:
        """How many 404s, over how many seconds, are believed; seconds until the next poll."""
        if self.known is None and self._vouched_at is None:
            # One 404 may come from a replica that lags behind: right after a create that is usual.
            return 2, MISSING_AGAIN_SECONDS, max(MISSING_AGAIN_SECONDS - missing_for, 0.1)
        grace = LOST_AFTER_SECONDS if self._vouched_at is None else VOUCHED_SECONDS
        wait = grace_delay(self._missing.polls, missing_for, grace, shortest=self.pace.min_seconds)
        return LOST_AFTER_POLLS, grace, wait

    def _gone(self, error: TaskNotFound, *, now: float, unix_time: float) -> Update:
        """The 404s are believed. Case 1: never seen; 2: completed, the result is gone too; 3: seen before."""
        if self.known is None:
            return self._not_found(str(error))
        if self._has_succeeded:
            return self._end_without_result(str(error), source=Source.POLL, now=now, unix_time=unix_time)
        return self._lose("not_found", str(error), now=now, unix_time=unix_time)

    def _not_found(self, message: str) -> Update:
        self.due = None
        self._replan()
        self.not_found = True
        # Active, so that all later subscribers receive it too.
        notice = Notice(NoticeCode.TASK_NOT_FOUND, message, retriable=False)
        self.active_notices = {notice.code: notice}
        return Update(None, (notice,))

    def _lose(self, code: str, message: str, *, now: float, unix_time: float) -> Update:
        self.known = lost(self.known, Failure(code, message), unix_time=unix_time)
        self.active_notices.clear()
        self._new_reason.clear()
        self._set_due(now, self._lost_delay())
        return Update(self.known)

    @property
    def _has_succeeded(self) -> bool:
        """Whether the newest status word of the provider was one for a completed task."""
        return self._result is not None or self.succeeded

    def _end_without_result(self, why: str, *, source: Source, now: float, unix_time: float) -> Update:
        """The task is completed, and the provider does not hand the result out."""
        if self._result is not None:
            observation = self._result.observation
        else:
            assert self.known is not None
            observation = Observation(
                status=Status.COMPLETED,
                upstream_status=self.known.upstream_status,
                progress=self.known.progress,
                raw=self.known.raw,
            )
        state = merge(self.known, observation, source=source, unix_time=unix_time)
        self._keep(state, now)
        self._result = None
        self.due = None
        self._replan()
        self.active_notices.clear()
        self._new_reason.clear()
        message = f"the provider does not hand out the result of this task: {why}"
        return Update(state, self._notify(NoticeCode.RESULT_UNAVAILABLE, message, now, retriable=False))

    def _latched(self, state: State | None) -> bool:
        """Whether the known state is final for good, and no poll is due."""
        if state is not None or self.known is None or not self.known.status.final or self._lost:
            return False
        self.due = None
        self._replan()
        return True

    def _keep(self, state: State | None, now: float) -> None:
        if state is None:
            self._quiet += 1
            return
        before, self.known = self.known, state
        self._changed_at = now
        moved = before is None or (before.status, before.progress) != (state.status, state.progress)
        # A new place in the queue brings the end no nearer than it was: it hurries no poll.
        self._quiet = 0 if moved else self._quiet + 1
        self.active_notices.pop(NoticeCode.STALLED, None)

    def _about_state(self, now: float, *, result_unavailable: bool = False) -> tuple[Notice, ...]:
        """What has to be said about the known state itself.

        Args:
            result_unavailable: Whether a place of a link was empty; the state does not show that.
        """
        if self.known is None:
            return ()
        if self.known.status is Status.UNKNOWN:
            word = self.known.upstream_status
            message = f"the dialect has no mapping for the status {word!r}"
            if word is None:
                message = "the response shows the task without a status word"
            return self._notify(NoticeCode.UNKNOWN_STATUS, message, now)
        if self.active_notices or self._new_reason:
            self.active_notices.pop(NoticeCode.UNKNOWN_STATUS, None)
            self._new_reason.pop(NoticeCode.UNKNOWN_STATUS, None)
        if self.known.status is Status.COMPLETED and (
            result_unavailable or not all(one.fetchable for one in self.known.outputs)
        ):
            return self._notify(NoticeCode.RESULT_UNAVAILABLE, NO_LINK_SENTENCE, now, retriable=False)
        return ()

    def _notify(
        self, code: NoticeCode, message: str, now: float, *, retriable: bool = True
    ) -> tuple[Notice, ...]:
        """Activate a notice. Empty when it is active already; a new reason is sent at most once a minute."""
        standing = self.active_notices.get(code)
        notice = Notice(code, message, retriable)
        if standing is not None:
            if standing.message == message:
                self._new_reason.pop(code, None)
                return ()
            if now - self._sent_at[code] < REASON_SECONDS:
                self._new_reason[code] = notice
                return ()
        self._new_reason.pop(code, None)
        self._sent_at[code] = now
        self.active_notices[code] = notice
        return (notice,)

    def _due_reasons(self, now: float) -> tuple[Notice, ...]:
        """The new reasons of standing notices whose minute has passed."""
        notices: tuple[Notice, ...] = ()
        for code, notice in list(self._new_reason.items()):
            notices += self._notify(code, notice.message, now, retriable=notice.retriable)
        return notices

    def _confirm(self, now: float) -> tuple[Notice, ...]:
        self.confirmed = now
        self.failures = self.task_failures = 0
        self._missing.polls = 0
        if not (self.active_notices or self._new_reason):
            return ()
        self._new_reason.clear()
        self.active_notices.pop(NoticeCode.TASK_NOT_FOUND, None)
        if not self.active_notices.keys() - _OF_STATE:
            return ()
        # `fresh` revokes every notice, those about the state included: what is still so is reported again.
        self.active_notices.clear()
        return (Notice(NoticeCode.FRESH, "confirmed by the upstream again"),)

    def _schedule(self, now: float, *, ended: bool, poll_after: float | None) -> None:
        """Set `due`. Case 1: the task ended; 2: a poll was requested; 3: a stream is alive; 4: neither."""
        if self.known is not None and self.known.status.final:
            if ended or not self._lost:
                self.due = None
                self._replan()
            else:
                self._set_due(now, self._lost_delay())
            return
        self.interval = self._interval(poll_after)
        self._planned_freely = poll_after is None
        if self.callbacks is not None and self.callbacks.come:
            self.interval = max(self.interval, self.pace.max_seconds)
            self.why, self._planned_freely = "callback", False
        self.due = now + self.interval
        if self._poll_requested:
            # The request came while this poll was running, which may have read the state before the change.
            # It hurries the next poll and delays none: callbacks without end ask for one a second later each.
            self.due = min(self.due, max(now, self._requested_for))
        elif now < self._stream_alive_at + self.pace.max_seconds:
            self.due = max(self.due, min(now + self.pace.max_seconds, self._safety_net(now)))
            self.why, self._planned_freely = "stream", False
        self._wait = max(self.due - now, 0.0)
        self._replan()

    def _price(self) -> float:
        """Of a poll of this task, in seconds of delay."""
        seconds = self.learned.watched_seconds or self._forecast.seconds or self.pace.max_seconds
        price = self.pace.price(seconds) * self.price.factor
        if self.viewed:
            return price
        # While the rate is short, still dearer: what it costs viewers grows as well.
        return price * UNVIEWED_PRICE * min(self.price.factor, MAX_UNVIEWED_FACTOR)

    def _interval(self, poll_after: float | None) -> float:
        """Seconds until the next poll of the healthy task; sets `why`."""
        forecast, pace = self._forecast, self.pace
        if poll_after is not None:
            self.why = "poll_after"
            return pace.requested_delay(poll_after)
        wait, factor = forecast.wait, self.price.factor
        if forecast.ground is not None:
            self.why = forecast.ground.name
        else:
            self.why = "growth" if wait is None else "wait"
        if wait is None:
            wait = pace.growing(self._quiet, factor)
        longest = self.price.longest(pace.max_seconds) if factor > 1.0 else pace.max_seconds
        return pace.spread(wait, self.random(), longest)

    def _replan(self) -> None:
        """Report to the price what this task's polls come to."""
        if self.due is not None:
            seconds = max(self._wait, self.pace.min_seconds)
            self._planned = self.price.replan(self._planned, seconds, now=self.due - self._wait)
        else:
            self.retire()

    def retire(self) -> None:
        """Nothing is polled here from now on: give the planned polls back."""
        if self._planned is not None:
            self._planned = self.price.replan(self._planned, None, now=self.last_poll)

    def _set_due(self, now: float, wait: float) -> None:
        self.why, self._planned_freely = "lost" if self._lost else "retry", False
        self.due = max(now + wait, self._not_before)
        self._wait = self.due - now
        if self._poll_requested:
            self.due = max(min(self.due, max(now, self._requested_for)), self._not_before)
        self._replan()

    def _lost_delay(self) -> float:
        # Spread: tasks that were lost together must not be polled together.
        return LOST_POLL_SECONDS * (0.95 + 0.1 * self.random())

    def _record_poll(self, started_at: float) -> None:
        # Bounded: after one very long gap, `stale` would otherwise be late by three such gaps.
        self._poll_gap = min(started_at - self.last_poll, MAX_WAIT)
        self.last_poll = started_at
        self._not_before = _NEVER

    @property
    def _poll_requested(self) -> bool:
        """Whether a requested poll has not started yet."""
        return self.last_poll < self._poll_requested_at

    def _safety_net(self, now: float) -> float:
        """The latest time for the next poll, however much is pushed."""
        return max(now, self.last_poll + max(self.pace.safety_net_seconds, self.interval))

    def _forecast_from(
        self,
        observation: Observation,
        source: Source,
        now: float,
        unix_time: float,
        started_at: float | None,
    ) -> Estimate:
        """When the task probably ends, by what was observed just now."""
        forecast = self._forecast
        seen_at = now if started_at is None else (started_at + now) / 2
        if source is Source.SUBMIT:
            forecast.born(seen_at, known=True)  # by our clock: the provider's may be wrong
        created_at = observation.created_at
        if self.known is not None:
            created_at = created_at or self.known.created_at
            forecast.born(now - max(unix_time - self.known.changed_at, 0.0), known=False)
        if created_at is not None and 0 <= unix_time - created_at <= PLAUSIBLE_SECONDS:
            forecast.born(now - (unix_time - created_at), known=True)
        if observation.status.final:
            return NO_ESTIMATE
        forecast.saw(observation, seen_at)
        if observation.status is Status.UNKNOWN:
            return NO_ESTIMATE
        kind = self._kind(observation.model, observation.action)
        forecast.choose(self.learned, kind)
        forecast.schedule(self.learned, kind, now, self._price())
        return forecast.estimate(now, unix_time)

    def _learn(self, state: State, now: float, unix_time: float, started_at: float | None) -> None:
        """The task ended by the provider's word: what it teaches."""
        stamped = None
        if state.completed_at is not None and abs(unix_time - state.completed_at) <= PLAUSIBLE_SECONDS:
            stamped = now - (unix_time - state.completed_at)
        seen_at = now if started_at is None else (started_at + now) / 2
        run = self._forecast.ended(self._kind(), stamped=stamped, at=seen_at, unix_time=unix_time)
        if run is not None:
            self.learned.learn(run)

    def _kind(self, model: str | None = None, action: str | None = None) -> TaskKind:
        # Frames often leave the model out: then it is the one known before.
        known = self.known
        if known is not None:
            if known is self._kind_of and model is None and action is None:
                return self._kind_known
            self._kind_of = known
            model, action = model or known.model, action or known.action
        kind = self._kind_known
        if (model, action) != kind:
            kind = self._kind_known = TaskKind(model or self.kind.model, action or self.kind.action)
        return kind

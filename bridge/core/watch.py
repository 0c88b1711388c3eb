"""The state machine of one watched task: what is known, what is an event, when to poll next, which notices.

Rule 1: every transition of a watched task is decided in this file.
Rule 2: this file does no I/O and reads no clock; callers feed it and poll at `due`.
Rule 3: after a final status nothing is due, and only a final status that replaces `lost` is an event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.core.estimate import ProgressRate, RuntimeHistory, TaskKind, age, eta_seconds
from bridge.core.event import Notice, NoticeCode
from bridge.core.merge import lost, merge
from bridge.core.schedule import MAX_WAIT, CallbackSupport, Pace
from bridge.core.task import Observation, Source, State, Status
from bridge.errors import CredentialRefused, TaskNotFound, UpstreamError, UpstreamRefused

LOST_AFTER_POLLS = 3
LOST_AFTER_SECONDS = 10.0
STALE_AFTER_INTERVALS = 3
STALLED_AFTER_MEDIANS = 4.0
MIN_STALLED_SECONDS = 300.0
STALLED_WITHOUT_MEDIAN_SECONDS = 1800.0

_NEVER = float("-inf")
_ANNOUNCED_BY_CALLBACK = frozenset(
    {Status.COMPLETED, Status.FAILED}
)  # no provider documents one for a cancel


@dataclass(frozen=True, slots=True)
class Update:
    """The result of one observation: a state to record as an event, notices to send."""

    state: State | None = None
    notices: tuple[Notice, ...] = ()


NO_UPDATE = Update()


@dataclass(slots=True)
class _Missing:
    """Consecutive 404s.

    Args:
        since: Monotonic seconds of the first of them.
    """

    polls: int = 0
    since: float = 0.0


@dataclass(slots=True)
class Watch:
    """The decisions about one task, without any I/O.

    Feed it with `observed`, `unchanged`, `failed`, `streaming` and `ticked`; poll again at `due`; when that
    is None the watch has ended. `now` is monotonic seconds everywhere, `unix_time` Unix seconds.

    Args:
        random: Returns 0-1, for jitter.
        started: When the watch started.
        known: The last recorded state, when a watch resumes.
        deadline_seconds: How long an open task is watched before it counts as lost.
        callbacks: Set when the provider was asked to call back about this task: whether its callbacks arrive.

    Attributes:
        due: When to poll next, monotonic seconds.
        confirmed: When the upstream last confirmed the known state.
        interval: Seconds between polls as currently planned, before any limit delays them.
        last_poll: When the newest poll with a result started, or the newest failed one ended.
        active_notices: Notices that still apply; new subscribers receive them too.
        not_found: Whether the watch ended because the upstream never showed the task.
    """

    pace: Pace
    run_times: RuntimeHistory
    random: Callable[[], float]
    started: float
    known: State | None = None
    deadline_seconds: float | None = None
    callbacks: CallbackSupport | None = None
    due: float | None = field(init=False)
    confirmed: float = field(init=False)
    interval: float = field(init=False)
    not_found: bool = field(init=False, default=False)
    unchanged_polls: int = field(init=False, default=0)
    failures: int = field(init=False, default=0)
    active_notices: dict[NoticeCode, Notice] = field(init=False, default_factory=dict)
    last_poll: float = field(init=False)
    _missing: _Missing = field(init=False, default_factory=_Missing)
    _changed_at: float = field(init=False)
    _stream_alive_at: float = field(init=False, default=_NEVER)
    _poll_requested_at: float = field(init=False, default=_NEVER)
    _not_before: float = field(init=False, default=_NEVER)
    _poll_after: float | None = field(init=False, default=None)
    _progress_rate: ProgressRate | None = field(init=False, default=None)
    _poll_gap: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        ended = self.known is not None and self.known.status.final
        self.due = None if ended and not self._lost else self.started
        self.confirmed = self._changed_at = self.last_poll = self.started
        self.interval = self.pace.recommended_seconds

    @property
    def over(self) -> bool:
        """Whether no further poll is due."""
        return self.due is None

    @property
    def _lost(self) -> bool:
        """Whether the task counts as lost: the one final status that a poll may still correct."""
        return self.known is not None and self.known.status is Status.LOST

    @property
    def near_end(self) -> bool:
        """Whether the task is expected to end within one poll interval."""
        eta = self.known.eta_seconds if self.known is not None else None
        return eta is not None and eta <= self.pace.max_seconds

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
        estimate = self._estimate(observation, now=now, unix_time=unix_time)
        state = merge(
            self.known, observation, source=source, unix_time=unix_time, eta_seconds=estimate, late=late
        )
        if state is None and self.known is not None and self.known.status.final and not self._lost:
            self.due = None
            return NO_UPDATE
        notices = self._confirm(now)
        self.not_found = False
        if started_at is not None:
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
        if state is not None:
            self.known = state
            self._changed_at = now
            self.unchanged_polls = 0
            self.active_notices.pop(NoticeCode.STALLED, None)
        else:
            self.unchanged_polls += 1
        self._schedule(
            now, ended=observation.status.final, estimate=estimate, poll_after=observation.poll_after
        )
        if started_at is None and self.due is not None:
            # A chatty stream must not postpone the poll again and again: a stream can be alive and wrong.
            self.due = max(min(self.due, self._safety_net(now)), self._not_before)
        return Update(state, notices)

    def unchanged(self, *, now: float, started_at: float) -> Update:
        """Process a poll that returned the same bytes as the one before."""
        if self.over:
            return NO_UPDATE
        notices = self._confirm(now)
        self._record_poll(started_at)
        self.unchanged_polls += 1
        # No new document, so the estimate is the recorded one, counted down, and the provider's hint still
        # holds.
        estimate = self.known.eta_seconds if self.known is not None else None
        if estimate is not None:
            estimate = max(estimate - (now - self._changed_at), 0.0)
        self._schedule(now, ended=False, estimate=estimate, poll_after=self._poll_after)
        return Update(None, notices) if notices else NO_UPDATE

    def failed(self, error: UpstreamError, *, now: float, unix_time: float) -> Update:
        """Process a failed poll."""
        if self.over:
            return NO_UPDATE
        self.last_poll = now
        self._not_before = now + min(error.retry_after or 0.0, MAX_WAIT)
        if isinstance(error, TaskNotFound):
            return self._missed(error, now=now, unix_time=unix_time)
        # 404s count only in a row: an outage in between says nothing about the task.
        self._missing.polls = 0
        self.failures += 1
        self.due = now + self.pace.retry_delay(
            jitter=self.random(), failures=self.failures, retry_after=error.retry_after
        )
        if isinstance(error, CredentialRefused):
            message = "the provider rejected the API key this task is polled with"
            return Update(None, self._notify(NoticeCode.CREDENTIAL_REFUSED, message))
        if self.failures < 2 and self.known is not None:
            # A single failed poll is routine; subscribers would see a warning flash up and vanish.
            return NO_UPDATE
        retriable = not isinstance(error, UpstreamRefused)
        return Update(None, self._notify(NoticeCode.UPSTREAM_UNAVAILABLE, str(error), retriable=retriable))

    def streaming(self, *, now: float) -> None:
        """The stream is alive: while it stays so, polling is only a safety net."""
        self._stream_alive_at = now
        if self.due is not None and self.known is not None and not self._poll_requested:
            # At most one interval ahead, or a stream that dies silently would leave a gap of a minute.
            self.due = max(self.due, min(now + self.pace.max_seconds, self._safety_net(now)))

    def stream_ended(self, *, now: float) -> None:
        """The stream is closed: poll soon, since its last frames may be missing."""
        self.poll_now(now=max(now, self.last_poll + self.pace.min_seconds))

    def poll_now(self, *, now: float) -> None:
        """Poll at `now`, even if a poll that started before is still running: it may miss the change."""
        if self.due is None and not self._lost:
            return
        self._poll_requested_at = max(self._poll_requested_at, now)
        # A provider's Retry-After holds against callbacks and clients too.
        self.due = max(now if self.due is None else min(self.due, now), self._not_before)

    def ticked(self, *, now: float, unix_time: float) -> Update:
        """Process the passing of time; call about once a second."""
        if self.over or self.known is None or self.known.status.final:
            return NO_UPDATE
        if self.deadline_seconds is not None and now - self.started > self.deadline_seconds:
            return self._lose(unix_time)
        notices: tuple[Notice, ...] = ()
        # A tight rate limit spaces polls wider than planned: that is a slow interval, not a stale task.
        interval = max(self.interval, self._poll_gap)
        if now - max(self.confirmed, self._stream_alive_at) > STALE_AFTER_INTERVALS * interval:
            notices += self._notify(
                NoticeCode.STALE, "not confirmed by the upstream for three poll intervals"
            )
        quiet = now - self._changed_at
        # Compared before the median is computed: most tasks never get that far, and this runs every second.
        if quiet > MIN_STALLED_SECONDS:
            median = self.run_times.median(self._kind())
            limit = STALLED_WITHOUT_MEDIAN_SECONDS if median is None else median * STALLED_AFTER_MEDIANS
            if quiet > limit:
                message = "no change for much longer than such tasks usually take"
                notices += self._notify(NoticeCode.STALLED, message)
        return Update(None, notices) if notices else NO_UPDATE

    def _missed(self, error: TaskNotFound, *, now: float, unix_time: float) -> Update:
        """Process a 404. Case 1: the task was never seen; 2: it is lost already; 3: it was seen before."""
        if self.known is None:
            self.due = None
            self.not_found = True
            return Update(None, (Notice(NoticeCode.TASK_NOT_FOUND, str(error), retriable=False),))
        if self._lost:
            self.due = None
            return NO_UPDATE
        # One 404 may come from a replica that lags behind, so several are needed, over some time.
        if self._missing.polls == 0:
            self._missing.since = now
        self._missing.polls += 1
        missing_for = now - self._missing.since
        if self._missing.polls >= LOST_AFTER_POLLS and missing_for >= LOST_AFTER_SECONDS:
            return self._lose(unix_time)
        polls_left = max(LOST_AFTER_POLLS - self._missing.polls, 1)
        wait = max(self.pace.min_seconds, (LOST_AFTER_SECONDS - missing_for) / polls_left)
        self.due = max(now + wait, self._not_before)
        return NO_UPDATE

    def _lose(self, unix_time: float) -> Update:
        self.known = lost(self.known, unix_time=unix_time)
        self.due = None
        return Update(self.known)

    def _notify(self, code: NoticeCode, message: str, *, retriable: bool = True) -> tuple[Notice, ...]:
        """Activate a notice; empty when it is active already, so that it is sent once."""
        if code in self.active_notices:
            return ()
        self.active_notices[code] = Notice(code, message, retriable)
        return (self.active_notices[code],)

    def _confirm(self, now: float) -> tuple[Notice, ...]:
        self.confirmed = now
        self.failures = 0
        self._missing.polls = 0
        if not self.active_notices.keys() - {NoticeCode.STALLED}:
            return ()
        # `fresh` revokes every notice, `stalled` included: a task that is still stalled is reported again.
        self.active_notices.clear()
        return (Notice(NoticeCode.FRESH, "confirmed by the upstream again"),)

    def _schedule(self, now: float, *, ended: bool, estimate: float | None, poll_after: float | None) -> None:
        """Set `due`. Case 1: the task ended; 2: a poll was requested; 3: a stream is alive; 4: neither."""
        if self.known is not None and self.known.status.final and (ended or not self._lost):
            self.due = None
            return
        self.interval = self.pace.delay(
            jitter=self.random(),
            unchanged=self.unchanged_polls,
            eta_seconds=estimate,
            poll_after=poll_after,
        )
        if self.callbacks is not None and self.callbacks.come:
            self.interval = max(self.interval, self.pace.max_seconds)
        self.due = now + self.interval
        if self._poll_requested:
            # The request came while this poll was running, which may have read the state before the change.
            self.due = max(now, self._poll_requested_at)
        elif now < self._stream_alive_at + self.pace.max_seconds:
            self.due = max(self.due, min(now + self.pace.max_seconds, self._safety_net(now)))

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

    def _estimate(self, observation: Observation, *, now: float, unix_time: float) -> float | None:
        created_at = observation.created_at or (self.known.created_at if self.known is not None else None)
        by_rate = None
        if observation.progress is not None:
            self._progress_rate = self._progress_rate or ProgressRate(now, observation.progress)
            by_rate = self._progress_rate.seconds_left(observation.progress, now)
        return eta_seconds(
            observation,
            elapsed=age(created_at, unix_time=unix_time, watched_seconds=now - self.started),
            median=self.run_times.median(self._kind(observation.model, observation.action)),
            by_rate=by_rate,
        )

    def _kind(self, model: str | None = None, action: str | None = None) -> TaskKind:
        # Frames often leave the model out: then it is the one known before.
        if self.known is None:
            return TaskKind(model, action)
        return TaskKind(model or self.known.model, action or self.known.action)

"""One watched task: what we know, what is news, when to look again, what viewers must be told.

Rule 1: every transition of a watched task is decided in this file.
Rule 2: this file cannot tell the time, wait, or look; it is fed, and read at `due`.
Rule 3: after a final state nothing is due, and nothing but a real ending after `lost` is news.
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
STALLED_AFTER_USUAL = 4.0
STALLED_AT_LEAST_SECONDS = 300.0
STALLED_WITHOUT_GROUND_SECONDS = 1800.0

_NEVER = float("-inf")
_TOLD_BY_CALLBACK = frozenset({Status.COMPLETED, Status.FAILED})  # of a cancel no provider says that it calls


@dataclass(frozen=True, slots=True)
class Update:
    """What one observation amounts to: a state to record, notices to give."""

    news: State | None = None
    notices: tuple[Notice, ...] = ()


NO_UPDATE = Update()


@dataclass(slots=True)
class _Missing:
    """404s in a row."""

    looks: int = 0
    since: float = 0.0


@dataclass(slots=True)
class Watch:
    """The decisions about one task, without any I/O.

    Feed it with `observed`, `unchanged`, `failed`, `streaming` and `ticked`; look again at
    `due` (monotonic seconds); None means the watch is over.

    Args:
        random: Chance between 0 and 1.
        known: The last recorded state, when a watch resumes.
        started: Monotonic seconds when the watch began.
        deadline_seconds: How long an open task is watched before it counts as lost.
        callbacks: Where the provider was asked to call back about this task, whether its callbacks come.

    Attributes:
        last_look: Monotonic seconds of the newest look that told something.
        told: The notices that stand; whoever comes now must hear them too.
        unseen: Whether the watch is over because the upstream never showed the task.
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
    unseen: bool = field(init=False, default=False)
    unchanged_polls: int = field(init=False, default=0)
    failures: int = field(init=False, default=0)
    told: dict[NoticeCode, Notice] = field(init=False, default_factory=dict)
    _missing: _Missing = field(init=False, default_factory=_Missing)
    last_look: float = field(init=False)
    _changed: float = field(init=False)
    _alive: float = field(init=False, default=_NEVER)
    _wanted_at: float = field(init=False, default=_NEVER)
    _not_before: float = field(init=False, default=_NEVER)
    _poll_after: float | None = field(init=False, default=None)
    _slope: ProgressRate | None = field(init=False, default=None)
    _gap: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        ended = self.known is not None and self.known.status.final
        self.due = None if ended and not self._lost else self.started
        self.confirmed = self._changed = self.last_look = self.started
        self.interval = self.pace.recommended_seconds

    @property
    def over(self) -> bool:
        """Whether there is nothing left to look at."""
        return self.due is None

    @property
    def _lost(self) -> bool:
        """Whether the task counts as lost: the one ending that a look may still correct."""
        return self.known is not None and self.known.status is Status.LOST

    @property
    def near_end(self) -> bool:
        """Whether the next look may well be the one that finds the end."""
        eta = self.known.eta_seconds if self.known is not None else None
        return eta is not None and eta <= self.pace.max_seconds

    def observed(
        self, seen: Observation, *, source: Source, now: float, wall: float, asked: float | None = None
    ) -> Update:
        """Take in what a source saw.

        Args:
            asked: Monotonic seconds when the look began; None for what was pushed to us.
        """
        late = asked is None or asked < self._changed
        estimate = self._estimate(seen, now=now, wall=wall)
        news = merge(self.known, seen, source=source, wall=wall, eta_seconds=estimate, late=late)
        if news is None and self.known is not None and self.known.status.final and not self._lost:
            self.due = None
            return NO_UPDATE
        notices = self._confirm(now)
        self.unseen = False
        if asked is not None:
            if news is not None and source is Source.POLL and not self._wanted:
                self._uncalled(news)
            self._looked(asked)
            self._poll_after = seen.poll_after
        if news is not None:
            self.known = news
            self._changed = now
            self.unchanged_polls = 0
            self.told.pop(NoticeCode.STALLED, None)
        else:
            self.unchanged_polls += 1
        self._schedule(now, ended=seen.status.final, estimate=estimate, poll_after=seen.poll_after)
        if asked is None and self.due is not None:
            self.due = max(min(self.due, self._net(now)), self._not_before)
        return Update(news, notices)

    def unchanged(self, *, now: float, asked: float) -> Update:
        """Take in that a look brought the same bytes as the one before."""
        if self.over:
            return NO_UPDATE
        notices = self._confirm(now)
        self._looked(asked)
        self.unchanged_polls += 1
        self._schedule(now, ended=False, estimate=self._eta_now(now), poll_after=self._poll_after)
        return Update(None, notices) if notices else NO_UPDATE

    def failed(self, error: UpstreamError, *, now: float, wall: float) -> Update:
        """Take in that a look could not see the task, and why."""
        if self.over:
            return NO_UPDATE
        self.last_look = now
        self._not_before = now + min(error.retry_after or 0.0, MAX_WAIT)
        if isinstance(error, TaskNotFound):
            return self._not_found(error, now=now, wall=wall)
        self._missing.looks = 0
        self.failures += 1
        self.due = now + self.pace.backoff(
            rng=self.random(), failures=self.failures, retry_after=error.retry_after
        )
        return Update(None, self._trouble(error))

    def streaming(self, *, now: float) -> None:
        """Take in that the stream is alive: the poll becomes a safety net while it stays so."""
        self._alive = now
        if self.due is not None and self.known is not None and not self._wanted:
            self.due = max(self.due, min(now + self.pace.max_seconds, self._net(now)))

    def stream_ended(self, *, now: float) -> None:
        """Take in that the stream is gone: whatever it did not say, a look must find."""
        self.poll_now(now=max(now, self.last_look + self.pace.min_seconds))

    def poll_now(self, *, now: float) -> None:
        """Somebody says there is news: look at `now`, even if a look that began before is on its way."""
        if self.due is None and not self._lost:
            return
        self._wanted_at = max(self._wanted_at, now)
        self.due = max(now if self.due is None else min(self.due, now), self._not_before)

    def ticked(self, *, now: float, wall: float) -> Update:
        """Take in that time passed; call about once a second."""
        if self.over or self.known is None or self.known.status.final:
            return NO_UPDATE
        if self.deadline_seconds is not None and now - self.started > self.deadline_seconds:
            return self._lose(wall)
        notices: tuple[Notice, ...] = ()
        pace = max(
            self.interval, self._gap
        )  # a tight budget spaces looks wider than planned; that is no trouble
        if now - max(self.confirmed, self._alive) > STALE_AFTER_INTERVALS * pace:
            notices += self._tell(NoticeCode.STALE, "not confirmed with the upstream for three intervals")
        quiet = now - self._changed
        if quiet > STALLED_AT_LEAST_SECONDS and quiet > self._stalled_after():
            notices += self._tell(NoticeCode.STALLED, "no change for far longer than usual")
        return Update(None, notices) if notices else NO_UPDATE

    def _not_found(self, error: TaskNotFound, *, now: float, wall: float) -> Update:
        if self.known is None:
            self.due = None
            self.unseen = True
            return Update(None, (Notice(NoticeCode.TASK_NOT_FOUND, str(error), retriable=False),))
        if self._lost:
            self.due = None
            return NO_UPDATE
        if self._missing.looks == 0:
            self._missing.since = now
        self._missing.looks += 1
        missing_for = now - self._missing.since
        if self._missing.looks >= LOST_AFTER_POLLS and missing_for >= LOST_AFTER_SECONDS:
            return self._lose(wall)
        looks_left = max(LOST_AFTER_POLLS - self._missing.looks, 1)
        wait = max(self.pace.min_seconds, (LOST_AFTER_SECONDS - missing_for) / looks_left)
        self.due = max(now + wait, self._not_before)
        return NO_UPDATE

    def _lose(self, wall: float) -> Update:
        self.known = lost(self.known, wall=wall)
        self.due = None
        return Update(self.known)

    def _trouble(self, error: UpstreamError) -> tuple[Notice, ...]:
        if isinstance(error, CredentialRefused):
            message = "the upstream refuses the credential that looks at this task"
            return self._tell(NoticeCode.CREDENTIAL_REFUSED, message)
        if self.failures < 2 and self.known is not None:
            return ()  # one failed look is weather, not an outage
        retriable = not isinstance(error, UpstreamRefused)
        return self._tell(NoticeCode.UPSTREAM_UNAVAILABLE, str(error), retriable=retriable)

    def _tell(self, code: NoticeCode, message: str, *, retriable: bool = True) -> tuple[Notice, ...]:
        if code in self.told:
            return ()
        self.told[code] = Notice(code, message, retriable)
        return (self.told[code],)

    def _confirm(self, now: float) -> tuple[Notice, ...]:
        self.confirmed = now
        self.failures = 0
        self._missing.looks = 0
        if not self.told.keys() - {NoticeCode.STALLED}:
            return ()
        self.told.clear()  # `fresh` takes back every notice; a task that is still stalled is told again
        return (Notice(NoticeCode.FRESH, "confirmed with the upstream again"),)

    def _schedule(self, now: float, *, ended: bool, estimate: float | None, poll_after: float | None) -> None:
        if self.known is not None and self.known.status.final and (ended or not self._lost):
            self.due = None
            return
        self.interval = self.pace.delay(
            rng=self.random(), unchanged=self.unchanged_polls, eta_seconds=estimate, poll_after=poll_after
        )
        if self.callbacks is not None and self.callbacks.come:
            self.interval = max(self.interval, self.pace.max_seconds)
        self.due = now + self.interval
        if self._wanted:
            self.due = max(now, self._wanted_at)
        elif now < self._alive + self.pace.max_seconds:
            self.due = max(self.due, min(now + self.pace.max_seconds, self._net(now)))

    def _uncalled(self, news: State) -> None:
        """Nobody called about these news: if they are an end, polls are more than a safety net here."""
        if self.callbacks is not None and news.status in _TOLD_BY_CALLBACK:
            self.callbacks.come = False

    def _looked(self, asked: float) -> None:
        self._gap = min(asked - self.last_look, MAX_WAIT)
        self.last_look = asked
        self._not_before = _NEVER

    @property
    def _wanted(self) -> bool:
        """Whether somebody asked for a look that has not begun."""
        return self.last_look < self._wanted_at

    def _net(self, now: float) -> float:
        """However much is pushed, a look is put off no further than this."""
        return max(now, self.last_look + max(self.pace.safety_net_seconds, self.interval))

    def _estimate(self, seen: Observation, *, now: float, wall: float) -> float | None:
        created = seen.created_at or (self.known.created_at if self.known is not None else None)
        by_slope = None
        if seen.progress is not None:
            self._slope = self._slope or ProgressRate(now, seen.progress)
            by_slope = self._slope.seconds_left(seen.progress, now)
        return eta_seconds(
            seen,
            elapsed=age(created, wall=wall, watched_seconds=now - self.started),
            usual=self.run_times.usual(self._kind(seen.model, seen.action)),
            by_slope=by_slope,
        )

    def _kind(self, model: str | None = None, action: str | None = None) -> TaskKind:
        """What run times are kept under: a frame that names no model is of the model known before."""
        if self.known is None:
            return TaskKind(model, action)
        return TaskKind(model or self.known.model, action or self.known.action)

    def _eta_now(self, now: float) -> float | None:
        if self.known is None or self.known.eta_seconds is None:
            return None
        return max(self.known.eta_seconds - (now - self._changed), 0.0)

    def _stalled_after(self) -> float:
        usual = self.run_times.usual(self._kind())
        if usual is None:
            return STALLED_WITHOUT_GROUND_SECONDS
        return max(usual * STALLED_AFTER_USUAL, STALLED_AT_LEAST_SECONDS)

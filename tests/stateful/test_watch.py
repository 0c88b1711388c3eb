"""Whatever a provider does, in whatever order, a watch keeps its promises."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.core.event import NoticeCode
from bridge.core.learned import LearnedRuns
from bridge.core.price import PollPrice
from bridge.core.schedule import MAX_POLL_AFTER, MAX_WAIT, Pace
from bridge.core.task import Observation, Source, State, Status
from bridge.core.watch import REASON_SECONDS, Update, Watch
from bridge.errors import (
    CredentialRefused,
    ResultNotReady,
    ResultUnavailable,
    TaskNotFound,
    UnreadablePayload,
    UpstreamBusy,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from tests.fakes.tasks import WALL, observations, seen

PACE = Pace(min_seconds=2, max_seconds=10, recommended_seconds=2, safety_net_seconds=60)
START = 1000.0

errors = st.builds(
    lambda make, wait: make("why", retry_after=wait),
    st.sampled_from(
        [
            UpstreamUnavailable,
            UpstreamBusy,
            UpstreamRefused,
            CredentialRefused,
            UnreadablePayload,
            TaskNotFound,
        ]
    ),
    st.none() | st.floats(0, 500),
)
seconds = st.floats(0, 100) | st.sampled_from([0.0, 1.0, 2.0, 10.0, 31.0, 60.0])


OF_STATE = {NoticeCode.STALLED, NoticeCode.UNKNOWN_STATUS, NoticeCode.RESULT_UNAVAILABLE}


class AnyProvider(RuleBasedStateMachine):
    """A provider that says anything at any moment, by poll and by stream."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.watch = Watch(PACE, LearnedRuns(), PollPrice(), lambda: 0.5, START, deadline_seconds=5000)
        self.recorded: list[State] = []
        self.standing: dict[NoticeCode, tuple[str, float]] = {}
        self.vouched_at: float | None = None
        self.succeeded = False
        self.asked: float | None = None
        self.not_before = 0.0
        self.missing: list[float] = []
        self.last_look = START
        self.shown = seen("queued")

    @property
    def wall(self) -> float:
        return WALL + self.now - START

    def take(self, update: Update) -> None:
        if update.state is not None:
            self.recorded.append(update.state)
            if update.state.status is Status.LOST:
                too_old = self.now - START > 5000
                grace = 10 if self.vouched_at is None else 60
                assert too_old or (len(self.missing) >= 3 and self.missing[-1] - self.missing[0] >= grace)
                assert update.state.error is not None
                assert update.state.error.code in {"not_found", "deadline"}
                assert not self.succeeded, "a success was lost"
            self.standing.pop(NoticeCode.STALLED, None)
            if update.state.status is not Status.UNKNOWN:
                self.standing.pop(NoticeCode.UNKNOWN_STATUS, None)
        for notice in update.notices:
            if notice.code is NoticeCode.FRESH:
                assert self.standing.keys() - OF_STATE, "fresh takes back what was never said"
                self.standing.clear()
            else:
                message, at = self.standing.get(notice.code, ("", 0.0))
                if notice.code in self.standing:
                    assert notice.message != message, "a notice was repeated"
                    assert self.now - at >= REASON_SECONDS, "reasons came faster than once a minute"
                self.standing[notice.code] = notice.message, self.now
        if update.state is not None and update.state.status.final:
            # What an end brings with it, `fresh` too, is told before it.
            self.standing.clear()

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        self.take(self.watch.ticked(now=self.now, unix_time=self.wall))

    @precondition(lambda self: self.asked is None and self.watch.due is not None)
    @rule()
    def begin_to_look(self) -> None:
        assert self.watch.due is not None
        self.now = self.asked = max(self.now, self.watch.due)

    @precondition(lambda self: self.asked is not None)
    @rule()
    def end_to_look_as_before(self) -> None:
        self.end_to_look(self.shown)

    @rule()
    def push_as_before(self) -> None:
        self.push(self.shown)

    @precondition(lambda self: self.asked is not None)
    @rule(shows=observations | errors | st.none())
    def end_to_look(self, shows: Observation | UpstreamError | None) -> None:
        assert self.asked is not None
        asked, self.asked = self.asked, None
        over = self.watch.over
        if isinstance(shows, UpstreamError):
            self.fail(shows, over=over)
            return
        self.missing = []
        self.last_look, self.not_before = self.now, 0.0
        if isinstance(shows, Observation):
            self.shown = shows
            self.succeeded = False
        if shows is None:
            self.take(self.watch.unchanged(now=self.now, unix_time=self.wall, started_at=asked))
        else:
            self.take(
                self.watch.observed(
                    shows, source=Source.POLL, now=self.now, unix_time=self.wall, started_at=asked
                )
            )

    def fail(self, error: UpstreamError, *, over: bool) -> None:
        if isinstance(error, TaskNotFound):
            self.missing.append(self.now)
        else:
            self.missing = []
        seen_before = self.watch.known is not None
        update = self.watch.failed(error, now=self.now, unix_time=self.wall)
        self.take(update)
        if self.watch.not_found and not over:
            assert not seen_before
            assert len(self.missing) >= 2
            assert self.missing[-1] - self.missing[0] >= 1
            assert self.vouched_at is None or self.now - self.vouched_at >= 60
        elif not seen_before and not isinstance(error, TaskNotFound):
            assert self.standing, "somebody without a state heard nothing of a failed poll"
        self.last_look = self.now
        if not over:
            self.not_before = self.now + min(error.retry_after or 0.0, MAX_WAIT)

    @precondition(lambda self: self.asked is not None)
    @rule(shows=observations, cause=errors | st.just(ResultNotReady()))
    def end_to_look_without_a_result(self, shows: Observation, cause: UpstreamError) -> None:
        assert self.asked is not None
        asked, self.asked = self.asked, None
        over = self.watch.over
        self.missing = []
        self.last_look, self.not_before = self.now, 0.0
        update = self.watch.without_result(
            replace(shows, status=Status.COMPLETED, upstream_status="DONE"),
            ResultUnavailable(cause),
            source=Source.POLL,
            now=self.now,
            unix_time=self.wall,
            started_at=asked,
        )
        self.succeeded = True
        assert over or self.watch.known is not None
        self.take(update)
        if update.state is not None:
            assert update.state.status in {Status.PROCESSING, Status.COMPLETED}
            assert update.state.upstream_status == "DONE"

    @rule()
    def somebody_joins(self) -> None:
        self.watch.joined(now=self.now)

    @rule()
    def vouch(self) -> None:
        self.watch.vouch(now=self.now)
        self.vouched_at = self.now if self.vouched_at is None else self.vouched_at

    @rule(shows=observations)
    def push(self, shows: Observation) -> None:
        before = self.watch.known
        self.missing = []
        self.watch.streaming(now=self.now)
        update = self.watch.observed(shows, source=Source.STREAM, now=self.now, unix_time=self.wall)
        rank = {Status.UNKNOWN: 0, Status.QUEUED: 1, Status.PROCESSING: 2, Status.INPUT_REQUIRED: 2}
        if update.state is not None and before is not None and not update.state.status.final:
            assert rank[update.state.status] >= rank[before.status], "a pushed frame moved a status back"
        self.take(update)

    @rule()
    def beat(self) -> None:
        self.watch.streaming(now=self.now)

    @rule()
    def stream_ends(self) -> None:
        self.watch.stream_ended(now=self.now)

    @rule()
    def callback(self) -> None:
        self.watch.poll_now(now=self.now)

    @invariant()
    def never_records_the_same_twice_in_a_row(self) -> None:
        plain = [
            replace(one, changed_at=0, observed_at=0, eta_at=None, raw=None, source=Source.POLL)
            for one in self.recorded
        ]
        assert all(earlier != later for earlier, later in pairwise(plain))

    @invariant()
    def progress_never_goes_down(self) -> None:
        shown = [one.progress for one in self.recorded if one.progress is not None]
        assert shown == sorted(shown)

    @invariant()
    def an_ending_is_a_latch(self) -> None:
        for earlier, later in pairwise(one.status for one in self.recorded):
            assert not earlier.final or (earlier is Status.LOST and later.final and later is not Status.LOST)

    @invariant()
    def it_is_over_exactly_after_an_end(self) -> None:
        known = self.watch.known
        really_over = known is not None and known.status.final and known.status is not Status.LOST
        if really_over:
            assert self.watch.due is None
        if self.watch.due is None:
            assert self.watch.not_found or really_over
        assert self.watch.over == (self.watch.due is None)

    @invariant()
    def an_unknown_word_is_said(self) -> None:
        known = self.watch.known
        if known is not None and known.status is Status.UNKNOWN and known.upstream_status is not None:
            assert NoticeCode.UNKNOWN_STATUS in self.watch.active_notices

    @invariant()
    def it_knows_what_it_recorded(self) -> None:
        assert self.watch.known == (self.recorded[-1] if self.recorded else None)
        assert not (self.watch.not_found and self.recorded)

    @invariant()
    def it_waits_as_long_as_the_provider_asked(self) -> None:
        if self.watch.due is not None:
            assert self.watch.due >= self.not_before - 1e-6

    @invariant()
    def it_waits_no_longer_than_anybody_asked(self) -> None:
        if self.watch.due is not None:
            assert self.watch.due - self.now <= MAX_POLL_AFTER + 1e-6


TestAnyProvider = AnyProvider.TestCase
TestAnyProvider.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


class GoodProvider(RuleBasedStateMachine):
    """A provider where all is well: looks come at the pace agreed on, whoever pushes what."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.watch = Watch(PACE, LearnedRuns(), PollPrice(), lambda: 0.5, START)
        self.last_look: float | None = None
        self.last_beat = 0.0

    @rule(progress=st.none() | st.integers(0, 99), same=st.booleans())
    def look(self, progress: int | None, same: bool) -> None:
        assert self.watch.due is not None
        self.now = max(self.now, self.watch.due)
        if self.last_look is not None:
            assert self.now - self.last_look >= PACE.min_seconds - 1e-6
            latest = max(self.last_look, self.last_beat) + PACE.max_seconds
            assert self.watch.due <= min(latest, self.last_look + PACE.safety_net_seconds) + 1e-6
        if same and self.last_look is not None:
            self.watch.unchanged(now=self.now, unix_time=WALL, started_at=self.now)
        else:
            showed = seen("processing", progress)
            self.watch.observed(showed, source=Source.POLL, now=self.now, unix_time=WALL, started_at=self.now)
        self.last_look = self.now

    @precondition(lambda self: self.last_look is not None)
    @rule(after=st.floats(0, 9), progress=st.none() | st.integers(0, 99))
    def push(self, after: float, progress: int | None) -> None:
        assert self.watch.due is not None
        self.now = min(self.now + after, self.watch.due)
        self.last_beat = self.now
        self.watch.streaming(now=self.now)
        self.watch.observed(seen("processing", progress), source=Source.STREAM, now=self.now, unix_time=WALL)

    @precondition(lambda self: self.last_look is not None)
    @rule()
    def stream_ends(self) -> None:
        self.watch.stream_ended(now=self.now)

    @invariant()
    def something_is_always_due(self) -> None:
        assert self.watch.due is not None


TestGoodProvider = GoodProvider.TestCase
TestGoodProvider.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)

LIFE = [("queued", 0.0), ("queued", 5.0), ("processing", 5.0), ("processing", 40.0), ("processing", 80.0)]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["completed", "failed", "cancelled"]),
    st.lists(st.tuples(st.sampled_from(["move", "push", "ask", "answer"]), st.integers(0, 9)), max_size=60),
)
def test_racing_sources_never_announce_out_of_order(ending: str, steps: list[tuple[str, int]]) -> None:
    """Frames may be lost, doubled and reordered; a poll shows what was so at some moment of its look."""
    life = [*LIFE, (ending, 100.0)]
    watch = Watch(PACE, LearnedRuns(), PollPrice(), lambda: 0.5, START)
    now, truth, told = START, 0, []
    looking: tuple[float, int] | None = None
    for step, pick in steps:
        now += 0.25
        if step == "move":
            truth = min(truth + 1, len(life) - 1)
        elif step == "push":
            status, progress = life[min(pick, truth)]
            news = watch.observed(seen(status, progress), source=Source.STREAM, now=now, unix_time=WALL).state
            told += [news] if news is not None else []
        elif step == "ask" and looking is None:
            looking = (now, truth)
        elif looking is not None:
            asked, at_least = looking
            status, progress = life[min(max(pick, at_least), truth)]
            update = watch.observed(
                seen(status, progress), source=Source.POLL, now=now, unix_time=WALL, started_at=asked
            )
            told += [update.state] if update.state is not None else []
            looking = None
    order = [status for status, _ in life]
    places = [order.index(one.status.value) for one in told]
    assert places == sorted(places)
    assert [one.progress for one in told] == sorted(one.progress or 0.0 for one in told)

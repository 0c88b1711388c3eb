"""The decisions about one task, one at a time; in any order: tests/stateful/test_watch.py."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import cycle, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.event import NoticeCode
from bridge.core.learned import LearnedRuns, Measurement, Run, TaskKind
from bridge.core.price import PollPrice
from bridge.core.schedule import MAX_POLL_AFTER, MAX_WAIT, CallbackSupport, Pace
from bridge.core.task import Failure, Observation, Output, Source, State, Status
from bridge.core.watch import LOST_AFTER_SECONDS, LOST_POLL_SECONDS, VOUCHED_SECONDS, Update, Watch
from bridge.errors import (
    CredentialRefused,
    ResultNotReady,
    ResultUnavailable,
    TaskNotFound,
    UnreadablePayload,
    UpstreamBusy,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from tests.fakes.tasks import WALL, seen, state, video

PACE = Pace(min_seconds=2, max_seconds=10, recommended_seconds=2, safety_net_seconds=60)
START = 1000.0


@dataclass
class Story:
    """A watch with a clock of its own, told what happens."""

    known: State | None = None
    deadline: float | None = None
    learned: LearnedRuns = field(default_factory=LearnedRuns)
    price: PollPrice = field(default_factory=PollPrice)
    pace: Pace = PACE
    now: float = START

    def __post_init__(self) -> None:
        self.watch = Watch(self.pace, self.learned, self.price, lambda: 0.5, START, self.known, self.deadline)

    @property
    def wall(self) -> float:
        return WALL + self.now - START

    @property
    def wait(self) -> float:
        assert self.watch.due is not None
        return self.watch.due - self.now

    def poll(
        self,
        shows: Observation | UpstreamError | tuple[Observation, ResultUnavailable] | None,
        *,
        takes: float = 0.0,
    ) -> Update:
        """Look when it is due."""
        assert self.watch.due is not None
        self.now = asked = max(self.now, self.watch.due)
        self.now += takes
        if shows is None:
            return self.watch.unchanged(now=self.now, unix_time=self.wall, started_at=asked)
        if isinstance(shows, tuple):
            observation, why = shows
            return self.watch.without_result(
                observation,
                why,
                source=Source.POLL,
                now=self.now,
                unix_time=self.wall,
                started_at=asked,
            )
        if isinstance(shows, UpstreamError):
            return self.watch.failed(shows, now=self.now, unix_time=self.wall)
        return self.watch.observed(
            shows, source=Source.POLL, now=self.now, unix_time=self.wall, started_at=asked
        )

    def push(self, shows: Observation) -> Update:
        """A frame comes on the stream."""
        self.watch.streaming(now=self.now)
        return self.watch.observed(shows, source=Source.STREAM, now=self.now, unix_time=self.wall)

    def beat(self) -> None:
        """The stream shows a sign of life."""
        self.watch.streaming(now=self.now)

    def tick(self, after: float = 0.0) -> Update:
        self.now += after
        return self.watch.ticked(now=self.now, unix_time=self.wall)


def taught_runs(model: str, seconds: float, *, spread: float = 0.0) -> list[Run]:
    """Runs of tasks that took about as long."""
    times = [seconds * (1 + spread * place / 5) for place in range(-5, 6)]
    return [
        Run(
            TaskKind(model, None),
            WALL,
            {"run": Measurement(one), "work": Measurement(one), "watched": Measurement(one)},
        )
        for one in times
    ]


def taught(model: str, seconds: float, *, spread: float = 0.0) -> LearnedRuns:
    """What such tasks taught."""
    learned = LearnedRuns()
    learned.load(taught_runs(model, seconds, spread=spread))
    return learned


def codes(update: Update) -> list[NoticeCode]:
    return [notice.code for notice in update.notices]


@pytest.mark.parametrize("fails", [False, True])
def test_callbacks_without_end_delay_no_poll(*, fails: bool) -> None:
    shows = UpstreamUnavailable("busy") if fails else seen("processing", 10)
    quiet, called = Story(state("processing")), Story(state("processing"))
    for _ in range(5):
        called.watch.poll_now(now=called.now + 60)  # as far ahead as a flood can push it, and further
        quiet.poll(shows)
        called.poll(shows)
        assert called.wait == quiet.wait


def test_a_new_watch_looks_at_once_and_one_that_saw_the_end_never() -> None:
    assert Story().wait == 0
    assert Story(state("processing")).wait == 0
    assert Story(state("completed")).watch.over
    assert Story(state("lost")).wait == 0  # the one ending a look may correct


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_after_an_ending_nothing_is_due_and_nothing_is_news(ending: str) -> None:
    story = Story()
    assert story.poll(seen(ending)).state is not None
    assert story.watch.over
    assert story.push(seen("processing", 10)) == Update()
    assert story.push(seen("failed")) == Update()
    story.watch.poll_now(now=story.now)
    story.watch.stream_ended(now=story.now)
    assert story.watch.failed(UpstreamUnavailable(), now=story.now, unix_time=WALL) == Update()
    assert story.watch.unchanged(now=story.now, unix_time=WALL, started_at=story.now) == Update()
    assert story.tick(1e6) == Update()
    assert story.watch.over


# 404


def test_a_task_never_seen_that_is_not_there_ends_the_watch() -> None:
    story = Story()
    assert story.poll(TaskNotFound("no such task")) == Update()
    assert (story.wait, story.watch.not_found) == (1.0, False)
    update = story.poll(TaskNotFound("no such task"))
    assert codes(update) == [NoticeCode.TASK_NOT_FOUND]
    assert not update.notices[0].retriable
    assert (update.state, story.watch.over, story.watch.not_found) == (None, True, True)


def test_a_task_shown_after_all_is_watched_again() -> None:
    story = Story()
    story.poll(TaskNotFound())
    story.poll(TaskNotFound())
    assert story.watch.not_found
    assert story.push(seen("queued")).state is not None
    assert not story.watch.not_found
    assert not story.watch.over


def test_three_404s_over_ten_seconds_lose_a_task_and_no_fewer_and_no_sooner() -> None:
    story = Story(state("processing"))
    story.poll(seen("processing"))
    since = None
    for number in (1, 2, 3):
        update = story.poll(TaskNotFound())
        since = since or story.now
        assert (update.state is None) == (number < 3)
    assert update.state is not None
    assert update.state.status is Status.LOST
    assert update.state.error == Failure("not_found", "The provider does not know this task.")
    assert LOST_AFTER_SECONDS <= story.now - since < LOST_AFTER_SECONDS + 1
    assert story.wait == LOST_POLL_SECONDS


def test_404s_that_come_quicker_than_due_lose_nothing_before_ten_seconds() -> None:
    story = Story(state("processing"))
    for _ in range(20):
        assert story.watch.failed(TaskNotFound(), now=story.now, unix_time=story.wall).state is None
        story.now += 0.49
    assert story.watch.failed(TaskNotFound(), now=START + 10, unix_time=WALL).state is not None


@pytest.mark.parametrize("between", [seen("processing"), None, UpstreamUnavailable()])
def test_404s_count_only_in_a_row(between: Observation | UpstreamError | None) -> None:
    story = Story(state("processing"))
    for shows in (TaskNotFound(), TaskNotFound(), between, TaskNotFound(), TaskNotFound()):
        assert story.poll(shows).state is None
        story.now += 20
    assert story.poll(TaskNotFound()).state is not None


def test_a_task_that_turns_up_again_replaces_lost_only_with_its_real_end() -> None:
    story = Story(state("lost", 40))
    assert story.poll(seen("processing", 50)).state is None
    assert not story.watch.over
    assert story.tick(1e6) == Update()
    news = story.poll(seen("completed")).state
    assert news is not None
    assert news.status is Status.COMPLETED
    assert story.watch.over


def test_a_lost_task_is_polled_every_five_minutes_whatever_the_polls_bring() -> None:
    story = Story(state("lost"))
    for shows in (TaskNotFound(), UpstreamUnavailable(), seen("processing"), None, UpstreamRefused()):
        assert story.poll(shows) == Update()
        assert story.wait == LOST_POLL_SECONDS
    story.watch.poll_now(now=story.now)  # but a callback is heard
    assert story.wait == PACE.min_seconds


@pytest.mark.parametrize("known", [None, state("queued")])
def test_a_task_the_bridge_submitted_or_was_called_back_about_is_given_a_minute(known: State | None) -> None:
    story = Story(known)
    story.watch.vouch(now=story.now)
    since = story.now
    while not (story.watch.ended and story.now > since):
        update = story.poll(TaskNotFound())
        assert story.watch.ended or story.wait <= 31
    assert story.now - since == VOUCHED_SECONDS
    assert (update.state is None) == (known is None)
    assert story.watch.not_found == (known is None)


def test_a_task_vouched_for_after_its_first_404_still_has_its_minute() -> None:
    story = Story()
    story.poll(TaskNotFound())
    story.watch.vouch(now=story.now)
    while not story.watch.not_found:
        story.poll(TaskNotFound())
    assert story.now >= START + VOUCHED_SECONDS


# The result


def trouble(cause: UpstreamError) -> ResultUnavailable:
    return ResultUnavailable(cause)


DONE = seen("completed", 100, upstream_status="Success", outputs=(Output(type="video", file_id="7"),))


@pytest.mark.parametrize(
    ("cause", "least", "most"),
    [
        (UpstreamRefused("no"), 15, 20),
        (UnreadablePayload("no link"), 15, 20),
        (TaskNotFound("gone"), 60, 65),
        (UpstreamUnavailable("broken"), 600, 700),
        (UpstreamTimeout(), 600, 700),
        (UpstreamBusy(), 600, 700),
    ],
)
def test_a_success_without_a_result_is_processing_and_then_completed_without_a_link(
    cause: UpstreamError, least: float, most: float
) -> None:
    story = Story(state("processing", 50))
    began = None
    states, told = [], []
    while not story.watch.over:
        update = story.poll((DONE, trouble(cause)))
        began = began or story.now
        states += [update.state] if update.state is not None else []
        told += codes(update)
        story.tick()
    assert [(one.status.value, one.upstream_status) for one in states] == [
        ("processing", "Success"),
        ("completed", "Success"),
    ]
    assert least <= story.now - began <= most
    assert [(one.file_id, one.url) for one in states[-1].outputs] == [("7", None)]
    assert (states[0].outputs, told[-1]) == ((), NoticeCode.RESULT_UNAVAILABLE)


def test_a_result_that_is_not_ready_is_waited_for_at_the_usual_pace() -> None:
    story = Story()
    for _ in range(500):
        story.poll((DONE, trouble(ResultNotReady("Request is still in progress"))))
        assert story.wait <= PACE.max_seconds
    news = story.poll(replace(DONE, outputs=(video("https://a/1.mp4"),))).state
    assert news is not None
    assert news.status is Status.COMPLETED
    assert story.watch.over


def test_trouble_that_changes_its_kind_again_and_again_still_ends() -> None:
    story = Story()
    causes = cycle([UpstreamRefused(), ResultNotReady(), UpstreamUnavailable(), TaskNotFound()])
    story.poll((DONE, trouble(next(causes))))
    causes = cycle([UpstreamRefused(), UpstreamUnavailable(), TaskNotFound()])
    while not story.watch.over:
        story.poll((DONE, trouble(next(causes))))
    assert story.now - START < 1000


def test_a_success_is_never_lost_by_404s_of_the_status_call_or_by_its_deadline() -> None:
    for story in (Story(), Story(deadline=100)):
        story.poll((DONE, trouble(TaskNotFound())))
        for _ in range(4):
            if not story.watch.over:
                story.poll(TaskNotFound()) if story.deadline is None else story.tick(40)
        assert story.watch.known is not None
        assert story.watch.known.status is Status.COMPLETED


def test_a_success_known_from_before_a_restart_is_never_lost() -> None:
    story = Story(state("processing", upstream_status="Success"))
    story.watch.succeeded = True
    while not story.watch.over:
        story.poll(TaskNotFound())
    assert story.watch.known is not None
    assert (story.watch.known.status, story.watch.known.upstream_status) == (Status.COMPLETED, "Success")


def test_a_file_that_came_late_ends_the_wait_and_a_failure_told_there_is_the_end() -> None:
    for ending in (replace(DONE, outputs=(video("https://a/1.mp4"),)), seen("failed")):
        story = Story()
        story.poll((DONE, trouble(TaskNotFound())))
        news = story.poll(ending).state
        assert news is not None
        assert news.status is ending.status
        assert story.watch.over


# The task's own trouble


@pytest.mark.parametrize(("watched", "limit"), [(True, 300), (False, 3600)])
def test_a_tasks_own_trouble_backs_off_by_doubling(watched: bool, limit: float) -> None:
    story = Story(state("processing"))
    waits = []
    for _ in range(16):
        assert story.watch.due is not None
        story.now = max(story.now, story.watch.due)
        story.watch.failed(UnreadablePayload(), now=story.now, unix_time=story.wall, watched=watched)
        waits.append(story.wait)
    assert waits == [min(PACE.min_seconds * 2**n, limit) for n in range(16)]


def test_a_viewer_or_a_callback_cuts_a_back_off_short_once_in_ten_seconds() -> None:
    story = Story(state("processing"))
    for _ in range(10):
        story.poll(UnreadablePayload())
    for cut in (story.watch.joined, story.watch.poll_now):
        story.now += 60
        cut(now=story.now)
        assert story.wait == 0
        story.poll(UnreadablePayload())
        for _ in range(3):
            cut(now=story.now)
            assert story.wait == 10
        story.poll(UnreadablePayload())


def test_a_viewer_hurries_no_healthy_task() -> None:
    story = Story()
    story.poll(seen("processing", poll_after=200.0))
    story.watch.joined(now=story.now)
    assert story.wait == 200


def test_the_wait_a_healthy_answer_asks_for_is_an_hour_at_most() -> None:
    story = Story()
    story.poll(seen("processing", poll_after=1e9))
    assert story.wait == MAX_POLL_AFTER


# What has to be said


def test_a_response_without_a_word_is_said_too() -> None:
    story = Story()
    update = story.poll(Observation(status=Status.UNKNOWN, task_id="7"))
    assert codes(update) == [NoticeCode.UNKNOWN_STATUS]


def test_an_unknown_word_is_said_once_and_again_with_another_word() -> None:
    story = Story()
    update = story.poll(seen("unknown", upstream_status="HALTED"))
    assert codes(update) == [NoticeCode.UNKNOWN_STATUS]
    assert "HALTED" in update.notices[0].message
    assert story.poll(None) == Update()
    assert codes(story.poll(seen("unknown", upstream_status="PAUSED"))) == []
    assert NoticeCode.UNKNOWN_STATUS in codes(story.tick(61))
    story.poll(seen("processing"))
    assert NoticeCode.UNKNOWN_STATUS not in story.watch.active_notices


def test_a_new_reason_is_sent_at_most_once_a_minute() -> None:
    story = Story(state("processing"))
    sent: list[tuple[float, str]] = []
    for second in range(200):
        story.now = START + second
        update = story.watch.failed(UpstreamUnavailable(f"reason {second}"), now=story.now, unix_time=WALL)
        sent += [(story.now, one.message) for one in (*update.notices, *story.tick().notices)]
    sent = [(at, message) for at, message in sent if message.startswith("reason")]
    assert [later - earlier for (earlier, _), (later, _) in pairwise(sent)] == [60.0, 60.0, 60.0]
    story.watch.failed(UpstreamUnavailable("the last"), now=story.now, unix_time=WALL)
    assert codes(story.tick(59)) in ([], [NoticeCode.UPSTREAM_UNAVAILABLE])


def test_a_completed_task_whose_file_has_no_link_is_said_so() -> None:
    assert codes(Story().poll(DONE)) == [NoticeCode.RESULT_UNAVAILABLE]


def test_a_healthy_stream_that_says_little_is_not_stale() -> None:
    story = Story()
    story.poll(seen("queued", 0))
    for number in range(20):
        story.push(seen("processing", number))
        for _ in range(9):
            assert story.tick(1.0) == Update()
            if story.watch.due is not None and story.watch.due <= story.now:
                story.poll(None)


# Patience


def test_a_failed_look_waits_as_long_as_the_provider_asks() -> None:
    story = Story(state("processing"))
    story.poll(UpstreamBusy(retry_after=45))
    assert story.wait == 45
    story.poll(UpstreamBusy(retry_after=1e9))
    assert story.wait == MAX_WAIT


def test_nothing_shortens_the_wait_a_provider_asked_for() -> None:
    story = Story(state("processing"))
    story.poll(UpstreamBusy(retry_after=45))
    story.watch.poll_now(now=story.now)
    assert story.wait == 45
    story.push(seen("processing", 50))
    assert story.wait == 45
    story.watch.stream_ended(now=story.now)
    assert story.wait == 45
    story.poll(seen("processing", 60))
    story.watch.poll_now(now=story.now)
    assert story.wait == 0


def test_what_the_last_answer_asked_for_holds_when_the_next_says_the_same_bytes() -> None:
    story = Story()
    story.poll(seen("processing", poll_after=30.0))
    assert story.wait == 30
    story.poll(None)
    assert story.wait == 30
    story.poll(seen("processing", 5))
    story.poll(None)
    assert story.wait <= PACE.max_seconds


def test_looks_without_news_become_rarer_and_news_makes_them_frequent_again() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    waits = []
    for _ in range(12):
        story.poll(None)
        waits.append(story.wait)
    assert waits == sorted(waits)
    assert waits[-1] == PACE.max_seconds
    story.poll(seen("processing", 2))
    assert story.wait == PACE.min_seconds


# Streams


def test_a_healthy_stream_slows_the_poll_to_the_safety_net() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    looks = []
    for second in range(300):
        story.now = START + second
        if story.watch.due is not None and story.watch.due <= story.now:
            story.poll(seen("processing", 1))
            looks.append(second)
        story.push(seen("processing", second / 3))
    gaps = [later - earlier for earlier, later in zip([0, *looks], looks, strict=False)]
    assert gaps
    assert all(PACE.safety_net_seconds <= gap <= PACE.safety_net_seconds + PACE.max_seconds for gap in gaps)


@pytest.mark.parametrize("every", [0.1, 1.0, 5.0, 9.9])
def test_a_chatty_stream_never_puts_the_safety_net_off_for_ever(every: float) -> None:
    story = Story()
    story.poll(seen("processing", 0))
    last = story.now
    for number in range(int(400 / every)):
        story.now += every
        story.push(seen("processing", number % 7))
        if story.watch.due is not None and story.watch.due <= story.now:
            story.poll(seen("processing", 0))
            last = story.now
        assert story.now - last <= PACE.safety_net_seconds + PACE.max_seconds


def test_a_silent_stream_wakes_the_poll_within_one_longest_interval() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    for _ in range(20):
        story.now += 1
        story.beat()
    assert 0 < story.wait <= PACE.max_seconds


def test_a_stream_that_only_beats_puts_off_no_first_look() -> None:
    story = Story()
    for _ in range(20):
        story.beat()
        assert story.watch.due == START
        story.now += 1


def test_a_stream_that_ends_brings_a_look_at_once_but_not_more_often_than_the_pace() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    for _ in range(5):
        story.now += 1
        story.beat()
    story.watch.stream_ended(now=story.now)
    assert story.wait == 0
    story.poll(seen("processing", 1))
    story.watch.stream_ended(now=story.now)
    assert story.wait == PACE.min_seconds


# Look now


def test_who_says_there_is_news_brings_a_look_forward() -> None:
    story = Story()
    story.poll(seen("processing", poll_after=200.0))
    story.now += 5
    story.watch.poll_now(now=story.now)
    assert story.wait == 0
    story.beat()  # and a heartbeat does not put it off again
    assert story.wait == 0
    story.push(seen("processing", 60))
    assert story.wait == 0
    story.poll(seen("processing", 61))
    assert story.wait > 0


def test_a_look_that_began_before_somebody_said_there_is_news_is_followed_by_another() -> None:
    story = Story()
    asked = story.now
    story.now += 1
    story.watch.poll_now(now=story.now)
    story.now += 1
    story.watch.observed(
        seen("queued"), source=Source.POLL, now=story.now, unix_time=story.wall, started_at=asked
    )
    assert story.wait == 0
    story.poll(seen("queued"))
    assert story.wait > 0


# Notices


def test_a_state_not_confirmed_for_three_intervals_is_stale_once_and_then_fresh() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    limit = 3 * story.watch.interval
    assert story.tick(limit) == Update()
    assert codes(story.tick(0.1)) == [NoticeCode.STALE]
    assert story.tick(5) == Update()
    assert codes(story.poll(None)) == [NoticeCode.FRESH]
    assert story.poll(None) == Update()
    assert codes(story.tick(3 * PACE.max_seconds + 1)) == [NoticeCode.STALE]


def test_a_live_stream_that_has_nothing_to_say_is_not_stale() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    for _ in range(50):
        story.beat()
        assert story.tick(1.0) == Update()
    assert codes(story.tick(3 * PACE.max_seconds)) == [NoticeCode.STALE]


@pytest.mark.parametrize("frames_first", [True, False])
def test_a_quiet_stream_of_a_provider_that_is_polled_often_is_not_stale(frames_first: bool) -> None:
    """fal: polled every half second, and a stream that says nothing while nothing changes."""
    pace = Pace(min_seconds=0.5, max_seconds=5.0, recommended_seconds=0.5)
    story = Story(pace=pace)
    if frames_first:
        story.push(seen("queued"))
    story.poll(seen("processing"))
    story.push(seen("processing"))
    for _ in range(60):
        while story.now + 1.0 < (story.watch.due or 0.0):
            assert story.tick(1.0) == Update()
        assert story.poll(None) == Update()
        story.beat()


@given(
    steps=st.lists(st.sampled_from(["beat", "push", "poll", "wait"]), max_size=40),
    waits=st.lists(st.floats(0.1, 3.0), min_size=40, max_size=40),
)
def test_a_task_whose_polls_come_when_they_are_due_is_never_stale(
    steps: list[str], waits: list[float]
) -> None:
    story = Story(pace=Pace(min_seconds=0.5, max_seconds=5.0, recommended_seconds=0.5))
    story.poll(seen("processing", 1))
    for step, wait in zip(steps, waits, strict=False):
        if step == "beat":
            story.beat()
        elif step == "push":
            story.push(seen("processing", 1))
        elif step == "poll":
            assert story.watch.due is not None
            while story.now + 0.5 < story.watch.due:
                assert NoticeCode.STALE not in codes(story.tick(0.5))
            story.poll(None)
        assert NoticeCode.STALE not in codes(story.tick(min(wait, max(story.wait, 0.0))))


def test_a_task_that_the_rate_limit_lets_wait_is_not_stale() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    story.now += 40.0
    assert story.watch.ticked(now=story.now, unix_time=story.wall, spacing=20.0) == Update()
    story.now += 21.0
    update = story.watch.ticked(now=story.now, unix_time=story.wall, spacing=20.0)
    assert codes(update) == [NoticeCode.STALE]


def test_a_task_without_change_for_far_too_long_is_stalled_until_it_changes() -> None:
    story = Story(learned=taught("wan", 100.0))
    story.poll(seen("processing", 1, model="wan"))
    told: list[NoticeCode] = []
    while story.now < START + 380:
        told += codes(story.poll(None)) + codes(story.tick())
    assert told == []
    story.now = START + 401
    story.watch.unchanged(now=story.now, unix_time=WALL, started_at=story.now)
    assert codes(story.tick()) == [NoticeCode.STALLED]
    assert story.tick(1) == Update()
    story.poll(seen("processing", 2, model="wan"))
    assert story.tick(1) == Update()
    story.poll(None)
    story.now += 401
    assert NoticeCode.STALLED in codes(story.tick())


def test_what_fresh_takes_back_is_told_again_while_it_is_so() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    assert codes(story.tick(1801)) == [NoticeCode.STALE, NoticeCode.STALLED]
    assert codes(story.poll(None)) == [NoticeCode.FRESH]
    assert codes(story.tick()) == [NoticeCode.STALLED]
    assert story.poll(None) == Update()  # nothing to take back but that


def test_one_failed_look_is_weather_and_two_are_an_outage() -> None:
    story = Story(state("processing"))
    assert story.poll(UpstreamUnavailable()) == Update()
    update = story.poll(UpstreamUnavailable("down"))
    assert codes(update) == [NoticeCode.UPSTREAM_UNAVAILABLE]
    assert update.notices[0].retriable
    assert story.poll(UpstreamUnavailable()) == Update()
    assert codes(story.poll(seen("processing", 5))) == [NoticeCode.FRESH]


def test_a_viewer_who_sees_nothing_at_all_is_told_at_the_first_failure() -> None:
    assert codes(Story().poll(UpstreamUnavailable())) == [NoticeCode.UPSTREAM_UNAVAILABLE]
    refused = Story().poll(UpstreamRefused("bad id"))
    assert [notice.retriable for notice in refused.notices] == [False]


def test_a_refused_credential_is_told_once() -> None:
    story = Story(state("processing"))
    assert codes(story.poll(CredentialRefused())) == [NoticeCode.CREDENTIAL_REFUSED]
    assert story.poll(CredentialRefused()) == Update()


# The rest


def test_a_task_watched_beyond_its_deadline_is_lost() -> None:
    story = Story(deadline=100)
    story.poll(seen("processing", 40))
    assert story.tick(99).state is None
    news = story.tick(2).state
    assert news is not None
    assert (news.status, news.progress) == (Status.LOST, 40)
    assert news.error is not None
    assert news.error.code == "deadline"
    assert story.wait == LOST_POLL_SECONDS


def test_a_late_frame_moves_nothing_back_and_the_next_look_may() -> None:
    story = Story()
    story.poll(seen("processing", 50))
    assert story.push(seen("queued", 10)).state is None
    news = story.poll(seen("queued", 10)).state
    assert news is not None
    assert (news.status, news.progress) == (Status.QUEUED, 50)


def test_a_look_that_began_before_the_newest_change_moves_nothing_back() -> None:
    story = Story()
    asked = story.now
    story.now += 1
    story.push(seen("processing", 50))
    story.now += 1
    late = story.watch.observed(
        seen("queued", 10), source=Source.POLL, now=story.now, unix_time=story.wall, started_at=asked
    )
    assert late.state is None


@pytest.mark.parametrize("viewers", [0, 1])
def test_a_viewer_that_comes_has_the_next_poll_planned_anew(viewers: int) -> None:
    pace = Pace(min_seconds=2, max_seconds=60, recommended_seconds=2)
    story = Story(learned=taught("wan", 100.0, spread=0.3), pace=pace)
    story.watch.viewed = viewers > 0
    story.poll(seen("processing", model="wan"))
    due, planned = story.watch.due, story.price.planned
    assert due is not None
    assert planned == pytest.approx(1 / story.wait)
    story.watch.joined(now=story.now)
    assert story.watch.due is not None
    assert story.watch.due < due - 1 if not viewers else story.watch.due == due
    assert story.price.planned == pytest.approx(1 / story.wait)
    story.watch.retire()
    assert (story.price.planned, story.price.open_tasks) == (0.0, 0)


@pytest.mark.parametrize(
    "last",
    ["retry after", "outage", "missing", "rejected", "stream", "sign of life", "callbacks", "asked for"],
)
def test_a_viewer_hurries_no_poll_that_waits_for_another_reason(last: str) -> None:
    pace = Pace(min_seconds=2, max_seconds=20, recommended_seconds=2, safety_net_seconds=60)
    story = Story(learned=taught("wan", 12.0, spread=0.3), pace=pace)
    story.watch.viewed = False
    if last == "callbacks":
        story.watch.callbacks = CallbackSupport()
    story.poll(seen("processing", model="wan"))
    if last == "stream":
        story.push(seen("processing", 10))
    elif last == "sign of life":
        story.now += 5
        story.beat()
        assert story.watch.why == "stream"
    elif last == "retry after":
        story.poll(UpstreamBusy("slow down", retry_after=120.0))
    elif last == "outage":
        for _ in range(6):
            story.poll(UpstreamUnavailable("down"))
    elif last == "missing":
        story.poll(TaskNotFound())
        story.poll(TaskNotFound())
    elif last == "rejected":
        story.poll(CredentialRefused("no"))
    elif last == "asked for":
        story.watch.poll_now(now=story.now, at=story.now + 3)
    due = story.watch.due
    story.watch.joined(now=story.now)
    assert story.watch.due == due


def test_an_end_gives_its_plan_back_and_teaches_its_times() -> None:
    learned = LearnedRuns()
    runs: list[Run] = []
    learned.taught = runs.append
    story = Story(learned=learned)
    story.watch.observed(
        seen("queued", model="wan"), source=Source.SUBMIT, now=START, unix_time=WALL, started_at=START
    )
    for progress in (0, 20, 60):
        story.poll(seen("processing", progress, model="wan"))
    before = story.now
    story.poll(seen("completed", 100, model="wan"))
    assert (story.price.planned, story.price.open_tasks) == (0.0, 0)
    [run] = runs
    assert run.kind == TaskKind("wan", None)
    # The provider dates nothing: the end is a moment between the last two polls, not that of the poll.
    assert before - START < run.samples["run"].value < story.now - START
    assert {"run", "work", "wait", "watched", "run:2", "run:6"} <= set(run.samples)


@pytest.mark.parametrize("ending", ["cancelled", "lost"])
def test_an_end_that_says_nothing_of_the_time_it_takes_teaches_nothing(ending: str) -> None:
    story = Story()
    runs: list[Run] = []
    story.learned.taught = runs.append
    story.poll(seen("processing"))
    if ending == "lost":
        for _ in range(3):
            story.poll(TaskNotFound())
            story.now += LOST_AFTER_SECONDS
    else:
        story.poll(seen(ending))
    assert story.watch.ended
    assert runs == []


def test_a_new_place_in_the_queue_hurries_no_poll() -> None:
    still, moving = Story(), Story()
    for place in range(40, 20, -1):
        still.poll(seen("queued", queue_position=40))
        moving.poll(seen("queued", queue_position=place))
        assert moving.wait == still.wait


@pytest.mark.parametrize(
    ("names", "eta"), [({"model": "wan"}, 95.0), ({}, 95.0), ({"model": "other"}, 395.0)]
)
def test_a_frame_that_names_no_model_is_of_the_model_known(names: dict[str, Any], eta: float) -> None:
    learned = taught("wan", 100.0)
    for run in taught_runs("other", 400.0):
        learned.learn(run)
    story = Story(state("processing", model="wan"), learned=learned)
    story.now += 5
    news = story.push(seen("processing", 1, **names)).state
    assert news is not None
    assert news.eta_at == pytest.approx(story.wall + eta, abs=3)  # since a moment between


def test_looks_spaced_by_a_tight_budget_are_not_stale() -> None:
    story = Story()
    story.poll(seen("processing", 1))
    apart = 4 * PACE.max_seconds
    story.tick(apart)
    story.poll(None)
    for _ in range(5):
        assert codes(story.tick(apart)) == []
        assert story.poll(None) == Update()

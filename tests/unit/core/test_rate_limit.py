"""Rate, concurrency, pause, circuit breaker and key of one credential."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.core.rate_limit import (
    CIRCUIT_AFTER_FAILURES,
    CONFIRM_KEY_SECONDS,
    FORBIDDEN_WINDOW_SECONDS,
    KEY_RETRY_SECONDS,
    CallKind,
    CredentialLimiter,
    Permit,
    Scope,
)
from bridge.core.schedule import MAX_WAIT
from bridge.errors import (
    CredentialRefused,
    TaskNotFound,
    UnreadablePayload,
    UpstreamBusy,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)

NOW = 1000.0
WAY = [
    UpstreamUnavailable(),
    UpstreamUnavailable(provider_status=502),
    UpstreamTimeout(),
    UpstreamUnreachable(),
]
REDIRECTED = UpstreamUnavailable("HTTP 302: redirects are not followed", provider_status=302)
BROKEN_BODY = UpstreamUnavailable("the response was cut short", provider_status=200)
ONE_TASK = [UnreadablePayload(), TaskNotFound(), UpstreamRefused(), REDIRECTED, BROKEN_BODY]


def limiter(
    max_in_flight: int = 8, requests_per_second: float | None = None, **more: float
) -> CredentialLimiter:
    return CredentialLimiter(
        max_in_flight=max_in_flight,
        random=lambda: 0.5,
        requests_per_second=requests_per_second,
        **more,  # type: ignore[arg-type] # numbers only, for settings that are numbers
    )


def fail(
    one: CredentialLimiter,
    error: UpstreamError,
    now: float = NOW,
    call: CallKind = CallKind.POLL,
    task: str = "t",
) -> Scope:
    return one.fail(one.start(call, now, task_id=task, shown=call is CallKind.POLL), error, now)


def succeed(one: CredentialLimiter, now: float = NOW, call: CallKind = CallKind.POLL) -> None:
    one.succeed(one.start(call, now, task_id="fine", shown=True), now)


def open_circuit(now: float = NOW) -> CredentialLimiter:
    one = limiter()
    for number in range(CIRCUIT_AFTER_FAILURES):
        fail(one, UpstreamUnavailable(), now, task=f"t{number}")
    assert one.open_circuit
    return one


# Rate and pools


def test_calls_keep_the_rate_and_idle_time_is_not_saved_up() -> None:
    one = limiter(max_in_flight=99, requests_per_second=4)
    starts = []
    for _ in range(5):
        at = one.free_at(CallKind.POLL, NOW)
        assert at is not None
        one.start(CallKind.POLL, at)
        starts.append(at)
    assert starts == [NOW, NOW + 0.25, NOW + 0.5, NOW + 0.75, NOW + 1.0]
    later = NOW + 100
    one.start(CallKind.POLL, later)
    assert one.free_at(CallKind.POLL, later) == later + 0.25


def test_a_second_request_within_a_call_counts_against_the_rate() -> None:
    one = limiter(requests_per_second=4)
    one.start(CallKind.POLL, NOW)
    one.take_rate(NOW)
    assert one.free_at(CallKind.POLL, NOW) == NOW + 0.5


def test_hanging_repeats_leave_a_quarter_of_the_pool_to_newcomers() -> None:
    one = limiter(max_in_flight=8)
    permits = [one.start(CallKind.POLL, NOW) for _ in range(6)]
    assert one.free_at(CallKind.POLL, NOW) is None
    assert one.free_at(CallKind.FIRST, NOW) == NOW
    one.abandon(permits[0])
    assert one.free_at(CallKind.POLL, NOW) == NOW


def test_first_polls_may_take_the_whole_pool_and_no_more() -> None:
    one = limiter(max_in_flight=8)
    for _ in range(8):
        assert one.free_at(CallKind.FIRST, NOW) == NOW
        one.start(CallKind.FIRST, NOW)
    assert one.free_at(CallKind.FIRST, NOW) is None


def test_one_place_is_enough_for_every_kind() -> None:
    one = limiter(max_in_flight=1)
    for call in CallKind:
        permit = one.start(call, NOW)
        one.succeed(permit, NOW)
        assert one.free_at(call, NOW) == NOW


@pytest.mark.parametrize("call", [CallKind.CREATE, CallKind.CONTROL, CallKind.STREAM])
def test_hanging_calls_of_clients_stop_no_poll(call: CallKind) -> None:
    one = limiter(max_in_flight=8)
    started = 0
    while one.free_at(call, NOW) is not None:
        one.start(call, NOW)
        started += 1
    assert started > 0
    assert one.free_at(CallKind.POLL, NOW) == NOW
    assert one.free_at(CallKind.FIRST, NOW) == NOW


@pytest.mark.parametrize(("kind", "at_once", "polls"), [(CallKind.CREATE, 12, 1), (CallKind.CONTROL, 4, 3)])
def test_a_few_calls_of_clients_go_first_and_a_flood_leaves_the_polls_their_part(
    kind: CallKind, at_once: int, polls: int
) -> None:
    one = limiter(max_in_flight=32, requests_per_second=1)
    one.polls_wait = True
    now, order = NOW, []
    for _ in range(80):
        theirs, ours = one.free_at(kind, now), one.free_at(CallKind.POLL, now)
        assert theirs is not None
        assert ours is not None
        order.append(kind if theirs <= ours else CallKind.POLL)
        now = min(theirs, ours)
        one.succeed(one.start(order[-1], now), now)
    assert order[:at_once] == [kind] * at_once
    assert order[at_once:][: 4 * (polls + 1)] == ([CallKind.POLL] * polls + [kind]) * 4


def test_polls_leave_a_waiting_call_of_a_client_its_slot() -> None:
    """Both are woken when the slot comes; without that the polls, whose timer is older, are always first."""
    one = limiter(max_in_flight=32, requests_per_second=1)
    one.polls_wait = True
    now, polls = NOW, 0
    while (at := one.free_at(CallKind.CREATE, now)) is None or at > now:
        one.other_at = at
        poll = one.free_at(CallKind.POLL, now)
        assert poll is not None
        if poll <= now:
            one.succeed(one.start(CallKind.POLL, now), now)
            polls += 1
            continue
        now = min(poll, at)
        # The poll's turn is tried first, as in the scheduler.
        if one.free_at(CallKind.POLL, now) == now:
            one.succeed(one.start(CallKind.POLL, now), now)
            polls += 1
        assert polls < 5, "the create never gets a slot"
    one.start(CallKind.CREATE, now)
    one.other_at = None
    assert one.free_at(CallKind.POLL, now) == now + 1


def test_a_call_of_a_client_that_may_not_start_yet_holds_up_no_poll() -> None:
    one = limiter(max_in_flight=32, requests_per_second=1)
    one.polls_wait = True
    for second in range(8):
        one.other_at = NOW + 60  # creates are paused until then
        assert one.free_at(CallKind.POLL, NOW + second) == NOW + second
        one.succeed(one.start(CallKind.POLL, NOW + second), NOW + second)


def test_a_timer_that_fires_early_by_less_than_its_precision_is_in_time() -> None:
    one = limiter(requests_per_second=1)
    one.start(CallKind.POLL, NOW)
    early = NOW + 1 - 1e-9
    assert one.free_at(CallKind.POLL, early) == early


# The provider's own limit


def test_one_429_pauses_every_call_for_as_long_as_asked() -> None:
    one = limiter()
    assert fail(one, UpstreamBusy(retry_after=30)) is Scope.CREDENTIAL
    for call in (CallKind.POLL, CallKind.FIRST, CallKind.CREATE, CallKind.CONTROL):
        assert one.free_at(call, NOW) == NOW + 30
    assert one.paused(NOW + 10) == 20


def test_a_pause_has_an_end_however_long_was_asked() -> None:
    one = limiter()
    fail(one, UpstreamBusy(retry_after=1e9))
    assert one.free_at(CallKind.POLL, NOW) == NOW + MAX_WAIT


def test_429s_without_a_time_pause_longer_each_time_and_success_shortens_that() -> None:
    one, now, pauses = limiter(), NOW, []
    for _ in range(10):
        fail(one, UpstreamBusy(), now)
        pauses.append(one.paused(now))
        now += pauses[-1]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60
    for _ in range(10):
        succeed(one, now)
    fail(one, UpstreamBusy(), now)
    assert one.paused(now) < 2


@pytest.mark.parametrize("wait", [None, 2.0])
def test_calls_in_flight_together_meet_the_same_limit_once(wait: float | None) -> None:
    one = limiter()
    permits = [one.start(CallKind.POLL, NOW, task_id=str(number), shown=True) for number in range(5)]
    paused = []
    for permit in permits:
        one.fail(permit, UpstreamBusy(retry_after=wait), NOW)
        paused.append(one.paused(NOW))
    assert len(set(paused)) == 1


def test_a_429_for_an_id_never_shown_is_that_ids_own_beside_successes() -> None:
    one = limiter(interval=10.0)
    succeed(one)
    assert fail(one, UpstreamBusy(retry_after=30), NOW + 5, CallKind.FIRST, "random") is Scope.TASK
    assert one.free_at(CallKind.POLL, NOW + 5) == NOW + 5
    # with no success for an interval it is the credential's after all
    assert fail(one, UpstreamBusy(retry_after=30), NOW + 15, CallKind.FIRST, "other") is Scope.CREDENTIAL


def test_a_create_that_meets_429_slows_every_call() -> None:
    one = limiter()
    succeed(one)
    assert fail(one, UpstreamBusy(retry_after=7), call=CallKind.CREATE) is Scope.CREDENTIAL
    assert one.free_at(CallKind.POLL, NOW) == NOW + 7


# The circuit


@pytest.mark.parametrize("error", WAY, ids=lambda error: type(error).__name__)
def test_the_circuit_opens_when_the_way_fails_for_different_tasks(error: UpstreamError) -> None:
    one = limiter()
    for number in range(CIRCUIT_AFTER_FAILURES - 1):
        assert fail(one, error, task=f"t{number}") is Scope.TASK
    assert not one.open_circuit
    assert fail(one, error, task="last") is Scope.CREDENTIAL
    assert one.open_circuit
    at = one.free_at(CallKind.POLL, NOW)
    assert at is not None
    assert NOW < at < NOW + 2
    one.start(CallKind.POLL, at)
    assert one.free_at(CallKind.POLL, at) is None, "one probe at a time"
    assert one.free_at(CallKind.STREAM, at) is None


def test_one_task_that_fails_again_and_again_opens_no_circuit() -> None:
    one = limiter()
    for _ in range(50):
        assert fail(one, UpstreamUnavailable(), task="sick") is Scope.TASK
    assert not one.open_circuit


@given(st.lists(st.sampled_from(ONE_TASK), min_size=1, max_size=60))
def test_what_is_about_one_task_holds_up_no_other(errors: list[UpstreamError]) -> None:
    one = limiter()
    for number, error in enumerate(errors):
        assert fail(one, error, task=f"sick{number % 20}") is Scope.TASK
    assert not one.probing
    assert one.free_at(CallKind.POLL, NOW) == NOW


def test_a_success_between_starts_the_count_again() -> None:
    one = limiter()
    for number in range(CIRCUIT_AFTER_FAILURES - 1):
        fail(one, UpstreamTimeout(), task=f"t{number}")
    succeed(one)
    for number in range(CIRCUIT_AFTER_FAILURES - 1):
        fail(one, UpstreamTimeout(), task=f"t{number}")
    assert not one.open_circuit


def test_ids_that_hang_together_beside_a_success_are_no_outage() -> None:
    one = limiter(max_in_flight=32)
    hanging = [one.start(CallKind.FIRST, NOW, task_id=f"h{number}") for number in range(20)]
    succeed(one, NOW + 9)
    for permit in hanging:
        one.fail(permit, UpstreamTimeout(), NOW + 10)
    assert not one.open_circuit


def test_ids_never_shown_that_break_connections_are_no_outage_beside_successes() -> None:
    one = limiter(interval=10.0)
    succeed(one)
    for number in range(50):
        fail(one, UpstreamUnavailable(), NOW + number / 10, CallKind.FIRST, f"random{number}")
    assert not one.open_circuit
    for number in range(50):  # but with no success for an interval they are
        fail(one, UpstreamUnavailable(), NOW + 11, CallKind.FIRST, f"random{number}")
    assert one.open_circuit


@pytest.mark.parametrize("error", [UpstreamUnavailable(), UpstreamTimeout()], ids=["5xx", "timeout"])
def test_creates_that_fail_open_no_circuit(error: UpstreamError) -> None:
    one = limiter()
    for number in range(50):
        fail(one, error, call=CallKind.CREATE, task=str(number))
    assert not one.open_circuit
    assert one.free_at(CallKind.POLL, NOW) == NOW


def test_a_refused_connection_counts_whoever_met_it() -> None:
    one = limiter()
    for number in range(CIRCUIT_AFTER_FAILURES):
        fail(
            one,
            UpstreamUnreachable(),
            call=CallKind.CREATE if number % 2 else CallKind.POLL,
            task=str(number),
        )
    assert one.open_circuit


def test_probes_that_fail_come_rarer_up_to_about_a_minute_and_a_success_closes() -> None:
    one, now, waits = open_circuit(), NOW, []
    for number in range(12):
        at = one.free_at(CallKind.POLL, now)
        assert at is not None
        waits.append(at - now)
        now = at
        fail(one, UpstreamUnavailable(), now, task=f"probe{number}")
    assert waits == sorted(waits)
    assert 45 <= waits[-1] <= 75
    now += 100
    succeed(one, now)
    assert not one.open_circuit
    assert one.free_at(CallKind.POLL, now) == now


def test_a_hanging_create_does_not_keep_polls_from_probing() -> None:
    one = open_circuit()
    later = NOW + 100
    one.start(CallKind.CREATE, later)
    assert one.free_at(CallKind.CREATE, later) is None
    assert one.free_at(CallKind.POLL, later) == later


def test_an_abandoned_probe_leaves_room_for_the_next() -> None:
    one = open_circuit()
    later = NOW + 100
    one.abandon(one.start(CallKind.POLL, later))
    assert one.free_at(CallKind.POLL, later) == later
    assert one.open_circuit


# The key


def test_a_401_rests_the_key_and_one_call_every_30_s_tries_it() -> None:
    one = limiter()
    assert fail(one, CredentialRefused(provider_status=401)) is Scope.CREDENTIAL
    assert one.probing
    assert one.free_at(CallKind.POLL, NOW) == one.free_at(CallKind.CREATE, NOW) == NOW + KEY_RETRY_SECONDS
    at = NOW + KEY_RETRY_SECONDS
    fail(one, CredentialRefused(provider_status=401), at)
    assert one.free_at(CallKind.POLL, at) == at + KEY_RETRY_SECONDS
    succeed(one, at + KEY_RETRY_SECONDS)
    assert not one.probing
    assert one.free_at(CallKind.POLL, at + KEY_RETRY_SECONDS) == at + KEY_RETRY_SECONDS


def test_a_404_does_not_show_that_a_rejected_key_is_accepted_again() -> None:
    one = limiter()
    fail(one, CredentialRefused(provider_status=401))
    fail(one, UnreadablePayload(), NOW + 30)
    assert one.rejected is not None


@pytest.mark.parametrize("status", [402, 403])
def test_402_and_403_are_the_tasks_until_two_tasks_meet_them(status: int) -> None:
    one = limiter()
    for _ in range(9):
        assert fail(one, CredentialRefused(provider_status=status), task="a") is Scope.TASK
    succeed(one)
    assert fail(one, CredentialRefused(provider_status=status), task="b") is Scope.TASK
    late = NOW + FORBIDDEN_WINDOW_SECONDS + 1
    assert fail(one, CredentialRefused(provider_status=status), late, task="c") is Scope.TASK
    assert fail(one, CredentialRefused(provider_status=status), late, task="d") is Scope.CREDENTIAL


def test_two_403s_with_a_valid_answer_while_they_were_under_way_are_the_tasks_whatever_the_order() -> None:
    """All were on their way together; which of the responses is read first says nothing."""
    for order in permutations("ab+"):
        one = limiter()
        permits = {name: one.start(CallKind.POLL, NOW, task_id=name, shown=True) for name in order}
        scopes = []
        for name in order:
            if name == "+":
                one.succeed(permits[name], NOW + 1)
            else:
                scopes.append(one.fail(permits[name], CredentialRefused(provider_status=403), NOW + 1))
        if order[-1] != "+":
            assert scopes == [Scope.TASK] * 2, order
        else:  # corrected at once
            assert one.rejected is None


def test_what_two_403s_suggest_is_tried_soon_by_other_tasks_before_the_key_rests() -> None:
    one = limiter()
    fail(one, CredentialRefused(provider_status=403), task="a")
    assert fail(one, CredentialRefused(provider_status=403), task="b") is Scope.CREDENTIAL
    at = NOW
    for number, rest in enumerate((*CONFIRM_KEY_SECONDS, KEY_RETRY_SECONDS, KEY_RETRY_SECONDS)):
        assert one.free_at(CallKind.POLL, at) == at + rest
        at += rest
        fail(one, CredentialRefused(provider_status=403), at, task=str(number))


def test_a_good_answer_that_disproves_it_makes_two_403s_suggest_less_for_a_minute() -> None:
    one = limiter()
    fail(one, CredentialRefused(provider_status=403), task="a")
    assert fail(one, CredentialRefused(provider_status=403), task="b") is Scope.CREDENTIAL
    succeed(one, NOW + 1)
    assert one.rejected is None
    scopes = [fail(one, CredentialRefused(provider_status=403), NOW + 2, task=str(n)) for n in range(4)]
    assert scopes == [Scope.TASK] * 3 + [Scope.CREDENTIAL]
    succeed(one, NOW + 3)
    later = NOW + 4 + FORBIDDEN_WINDOW_SECONDS
    fail(one, CredentialRefused(provider_status=403), later, task="c")
    assert fail(one, CredentialRefused(provider_status=403), later, task="d") is Scope.CREDENTIAL


def test_a_create_without_credit_says_nothing_about_the_tasks_that_exist() -> None:
    one = limiter()
    for status in (402, 403):
        error = CredentialRefused(provider_status=status)
        error.names_key = True
        assert fail(one, error, call=CallKind.CREATE) is Scope.TASK
    assert one.rejected is None
    assert fail(one, CredentialRefused(provider_status=401), call=CallKind.CREATE) is Scope.CREDENTIAL


def test_a_403_that_the_dialect_names_is_the_key_at_once() -> None:
    error = CredentialRefused(provider_status=403)
    error.names_key = True
    assert fail(limiter(), error) is Scope.CREDENTIAL


def test_another_key_ends_the_rest_and_late_answers_to_the_old_one_reject_nothing() -> None:
    one = limiter()
    late = one.start(CallKind.POLL, NOW, task_id="late")
    fail(one, CredentialRefused(provider_status=401))
    one.replace_key()
    assert one.free_at(CallKind.POLL, NOW) is not None
    assert one.fail(late, CredentialRefused(provider_status=401), NOW) is Scope.TASK
    assert one.rejected is None
    assert fail(one, CredentialRefused(provider_status=401), NOW + 1) is Scope.CREDENTIAL


def test_an_answer_to_a_call_from_before_the_rejection_does_not_end_the_rest() -> None:
    one = limiter()
    early = one.start(CallKind.POLL, NOW - 1, task_id="early")
    fail(one, CredentialRefused(provider_status=401))
    one.succeed(early, NOW + 1)
    assert one.rejected is not None
    succeed(one, NOW + KEY_RETRY_SECONDS)
    assert one.rejected is None


def test_no_call_starts_while_the_upstream_is_off() -> None:
    one = limiter()
    one.off = True
    assert [one.free_at(call, NOW) for call in CallKind] == [None] * len(CallKind)
    assert one.lasting_hold(NOW) is not None
    assert one.for_other_credential(max_in_flight=2).off


@pytest.mark.parametrize("wait", [30.0, None])
def test_a_503_that_asks_a_create_to_wait_pauses_creates_only(wait: float | None) -> None:
    one = limiter()
    fail(one, UpstreamBusy(provider_status=503, retry_after=wait), call=CallKind.CREATE)
    assert one.free_at(CallKind.CREATE, NOW) == NOW + (wait or 1.0)
    assert one.free_at(CallKind.POLL, NOW) == NOW
    assert one.lasting_hold(NOW) is None


def test_a_callers_own_key_is_not_judged_by_other_peoples_tasks() -> None:
    one = limiter().for_other_credential(max_in_flight=4)
    for number in range(20):
        assert fail(one, CredentialRefused(provider_status=403), task=str(number)) is Scope.TASK


# Any order


class Limiting(RuleBasedStateMachine):
    """Calls of every kind that start when they may and end in any way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.one = limiter(max_in_flight=5, requests_per_second=3, max_submits_in_flight=2, max_streams=2)
        self.running: list[Permit] = []
        self.starts: list[float] = []

    @rule(seconds=st.floats(0, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(call=st.sampled_from(CallKind), task=st.integers(0, 3), shown=st.booleans())
    def start(self, call: CallKind, task: int, shown: bool) -> None:
        at = self.one.free_at(call, self.now)
        if at is None:
            return
        assert at >= self.now
        assert at - self.now <= MAX_WAIT + KEY_RETRY_SECONDS + 5
        self.now = at
        self.starts.append(at)
        self.running.append(self.one.start(call, at, task_id=str(task), shown=shown))

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        error=st.sampled_from(
            [
                None,
                "abandon",
                UpstreamBusy(),
                UpstreamBusy(retry_after=9),
                CredentialRefused(provider_status=401),
                CredentialRefused(provider_status=403),
                *WAY,
                *ONE_TASK,
            ]
        ),
    )
    def end(self, data: st.DataObject, error: UpstreamError | str | None) -> None:
        permit = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if error is None:
            self.one.succeed(permit, self.now)
        elif isinstance(error, str):
            self.one.abandon(permit)
            self.one.abandon(permit)  # idempotent
        else:
            self.one.fail(permit, error, self.now)

    @invariant()
    def capacity_is_what_runs(self) -> None:
        for call in CallKind:
            assert self.one.in_flight_of(call) == sum(permit.call is call for permit in self.running)
        assert self.one.in_flight <= 5
        assert self.one.in_flight_of(CallKind.CREATE) <= 2
        assert self.one.in_flight_of(CallKind.STREAM) <= 2

    @invariant()
    def the_rate_is_kept(self) -> None:
        last = self.starts[-4:]
        assert len(last) < 4 or last[-1] - last[0] >= 1 - 1e-6

    @invariant()
    def an_idle_credential_can_be_used_some_time(self) -> None:
        if not self.running:
            for call in (CallKind.POLL, CallKind.FIRST, CallKind.CREATE, CallKind.CONTROL):
                assert self.one.free_at(call, self.now) is not None


TestLimiting = Limiting.TestCase

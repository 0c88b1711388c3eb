"""What one credential may ask: rate, concurrency, patience, circuit."""

from __future__ import annotations

import pytest

from bridge.core.rate_limit import CIRCUIT_AFTER_FAILURES, CredentialLimiter
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
)

NOW = 1000.0


def budget(max_in_flight: int = 8, requests_per_second: float | None = None) -> CredentialLimiter:
    return CredentialLimiter(
        max_in_flight=max_in_flight, random=lambda: 0.5, requests_per_second=requests_per_second
    )


def fail(one: CredentialLimiter, error: UpstreamError, now: float = NOW) -> None:
    one.started(now)
    one.failed(error, now)


def test_a_request_starts_at_once_until_too_many_are_in_flight() -> None:
    one = budget(max_in_flight=2)
    for _ in range(2):
        assert one.free_at(NOW) == NOW
        one.started(NOW)
    assert one.free_at(NOW) is None
    one.abandoned()
    assert one.free_at(NOW) == NOW


def test_requests_keep_the_rate_and_time_unused_is_not_saved_up() -> None:
    one = budget(max_in_flight=99, requests_per_second=4)
    starts = []
    for _ in range(5):
        at = one.free_at(NOW)
        assert at is not None
        one.started(at)
        starts.append(at)
    assert starts == [NOW, NOW + 0.25, NOW + 0.5, NOW + 0.75, NOW + 1.0]
    later = NOW + 100
    one.started(later)
    assert one.free_at(later) == later + 0.25


def test_one_429_pauses_the_whole_budget_for_as_long_as_asked() -> None:
    one = budget()
    fail(one, UpstreamBusy(retry_after=30))
    assert one.free_at(NOW) == NOW + 30
    assert one.free_at(NOW + 31) == NOW + 31
    assert one.statistics(NOW)["paused_seconds"] == 30


def test_a_pause_has_an_end_whatever_was_asked() -> None:
    one = budget()
    fail(one, UpstreamBusy(retry_after=1e9))
    assert one.free_at(NOW) == NOW + MAX_WAIT


def test_429s_without_a_wish_pause_longer_each_time_and_success_forgives() -> None:
    one, now, pauses = budget(), NOW, []
    for _ in range(9):
        fail(one, UpstreamBusy(), now)
        free = one.free_at(now)
        assert free is not None
        pauses.append(free - now)
        now = free
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for _ in range(9):
        one.started(now)
        one.succeeded()
    fail(one, UpstreamBusy(), now)
    assert one.free_at(now) == now + 1


@pytest.mark.parametrize("retry_after", [None, 2.0])
def test_requests_in_flight_together_meet_the_same_limit_once(retry_after: float | None) -> None:
    one = budget(max_in_flight=32)
    for _ in range(32):
        one.started(NOW)
    for _ in range(32):
        one.failed(UpstreamBusy(retry_after=retry_after), NOW)
    assert one.free_at(NOW) == NOW + (retry_after or 1)
    later = NOW + 10
    fail(one, UpstreamBusy(), later)
    assert one.free_at(later) == later + 2  # the second time, not the thirty-third


def test_the_longest_wish_of_those_in_flight_together_counts() -> None:
    one = budget()
    for _ in range(3):
        one.started(NOW)
    for wish in (5.0, 40.0, 1.0):
        one.failed(UpstreamBusy(retry_after=wish), NOW)
    assert one.free_at(NOW) == NOW + 40


def test_a_refused_credential_slows_the_budget_and_opens_no_circuit() -> None:
    one = budget()
    for n in range(2 * CIRCUIT_AFTER_FAILURES):
        fail(one, CredentialRefused(), NOW + 100 * n)
    assert not one.open_circuit
    assert (one.free_at(NOW) or 0) > NOW


@pytest.mark.parametrize("error", [TaskNotFound(), UpstreamRefused()])
def test_a_404_or_a_refusal_says_that_the_provider_works(error: UpstreamError) -> None:
    one = budget()
    for _ in range(CIRCUIT_AFTER_FAILURES - 1):
        fail(one, UpstreamUnavailable())
    fail(one, error)
    fail(one, UpstreamUnavailable())
    assert not one.open_circuit
    for _ in range(99):
        fail(one, error)
    assert one.free_at(NOW) == NOW


@pytest.mark.parametrize("error", [UpstreamUnavailable(), UpstreamTimeout(), UnreadablePayload()])
def test_the_circuit_opens_after_failures_in_a_row_and_lets_one_probe_through(error: UpstreamError) -> None:
    one = budget()
    for _ in range(CIRCUIT_AFTER_FAILURES):
        assert not one.open_circuit
        assert one.free_at(NOW) == NOW
        fail(one, error)
    assert one.open_circuit
    free = one.free_at(NOW)
    assert free is not None
    assert free > NOW
    one.started(free)
    assert one.free_at(free) is None  # one probe at a time
    one.succeeded()
    assert not one.open_circuit
    assert one.free_at(free) == free


def test_probes_that_fail_come_rarer_up_to_about_a_minute() -> None:
    one, now, waits = budget(), NOW, []
    for _ in range(CIRCUIT_AFTER_FAILURES):
        fail(one, UpstreamUnavailable(), now)
    for _ in range(8):
        free = one.free_at(now)
        assert free is not None
        waits.append(free - now)
        now = free
        fail(one, UpstreamUnavailable(), now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_requests_in_flight_when_the_circuit_opens_do_not_hold_it_open_longer() -> None:
    one = budget(max_in_flight=32)
    for _ in range(32):
        one.started(NOW)
    for _ in range(32):
        one.failed(UpstreamUnavailable(), NOW)
    assert one.free_at(NOW) == NOW + 1


def test_an_abandoned_probe_leaves_room_for_the_next() -> None:
    one = budget()
    for _ in range(CIRCUIT_AFTER_FAILURES):
        fail(one, UpstreamUnavailable())
    one.started(NOW + 5)
    one.abandoned()
    assert one.free_at(NOW + 5) == NOW + 5
    assert one.open_circuit

"""Token buckets: what may be taken over any stretch of time, and that idle ones are forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.web.limits import rate_limiter
from bridge.web.limits.rate_limiter import RateLimiter
from tests.fakes.clock import FakeClock


def taken(rate: RateLimiter, key: str, tries: int) -> int:
    return sum(rate.take(key) == 0 for _ in range(tries))


def test_a_burst_goes_through_and_then_as_many_as_come_back() -> None:
    clock = FakeClock()
    rate = RateLimiter(2, 6, clock)
    assert taken(rate, "a", 10) == 6
    assert taken(rate, "b", 10) == 6, "keys share nothing"
    clock.skip(1.5)
    assert taken(rate, "a", 10) == 3
    clock.skip(1000)
    assert taken(rate, "a", 10) == 6, "a bucket holds no more than its burst"


def test_whoever_waits_as_long_as_told_gets_one() -> None:
    clock = FakeClock()
    rate = RateLimiter(0.25, 1, clock)
    assert rate.take("a") == 0
    wait = rate.take("a")
    assert wait == pytest.approx(4)
    clock.skip(wait + 1e-6)
    assert rate.take("a") == 0


def test_no_rate_is_no_limit_and_no_memory() -> None:
    rate = RateLimiter(0, 0, FakeClock())
    assert taken(rate, "a", 1000) == 1000
    assert len(rate) == 0


def test_a_small_burst_still_lets_one_through() -> None:
    assert taken(RateLimiter(0.01, 0.1, FakeClock()), "a", 5) == 1


def test_full_buckets_are_forgotten_as_others_come() -> None:
    clock = FakeClock()
    rate = RateLimiter(1, 5, clock)
    for number in range(1000):
        rate.take(f"k{number}")
        clock.skip(0.01)
    assert len(rate) <= 110, "those of the last second, and who came since"


def test_what_is_kept_is_bounded_whoever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "MAX_KEYS", 50)
    rate = RateLimiter(0.001, 1, FakeClock())
    for number in range(1000):
        rate.take(f"k{number}")
    assert len(rate) <= 50
    assert rate.take("k999") > 0, "the newest are remembered"


@given(
    st.floats(0.1, 50),
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=80),
)
def test_over_any_stretch_nobody_gets_more_than_burst_and_rate(
    per_second: float, burst: int, steps: list[tuple[str, float]]
) -> None:
    clock = FakeClock()
    rate = RateLimiter(per_second, burst, clock)
    times: dict[str, list[float]] = {}
    for key, pause in steps:
        clock.skip(pause)
        if rate.take(key) == 0:
            times.setdefault(key, []).append(clock.monotonic())
    for got in times.values():
        for first in range(len(got)):
            for last in range(first, len(got)):
                allowed = burst + (got[last] - got[first]) * per_second
                assert last - first + 1 <= allowed + 1e-3

"""Whether one call may show many tasks, learned from how such calls end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.many import MAX_REST_SECONDS, REST_SECONDS, ManyCalls
from bridge.core.price import PollPrice


def calls(max_ids: int = 100) -> ManyCalls:
    return ManyCalls(max_ids, random=lambda: 0.5)


def failed(many: ManyCalls, now: float, *, own: bool = True) -> bool:
    many.started()
    return many.failed("no", now, own=own)


def test_a_failure_of_its_own_rests_at_once_and_longer_each_time() -> None:
    many, now, waits = calls(), 0.0, []
    for number in range(9):
        assert failed(many, now) is (number == 0)
        assert many.limit(now) == 1
        waits.append(many.rests_for(now))
        now += waits[-1]
        assert many.limit(now) == max(100 >> (number + 1), 2)
    assert waits[:3] == [REST_SECONDS, 2 * REST_SECONDS, 4 * REST_SECONDS]
    assert waits[-1] == MAX_REST_SECONDS


def test_a_failure_that_may_have_another_reason_counts_the_second_time() -> None:
    many = calls()
    assert not failed(many, 0.0, own=False)
    assert many.limit(0.0) == 100
    many.started()
    assert not many.succeeded()
    assert not failed(many, 1.0, own=False)
    assert failed(many, 2.0, own=False)
    assert many.limit(2.0) == 1


def test_calls_that_were_under_way_together_rest_once() -> None:
    many = calls()
    for _ in range(5):
        many.started()
    assert many.failed("no", 0.0, own=True)
    for _ in range(4):
        assert not many.failed("no", 1.0, own=True)
    assert many.failures == 1
    assert many.rests_for(0.0) == REST_SECONDS


def test_after_a_rest_one_call_finds_out_and_then_they_grow_back() -> None:
    many = calls()
    failed(many, 0.0)
    assert many.limit(REST_SECONDS) == 50
    many.started()
    assert many.limit(REST_SECONDS) == 1
    assert many.succeeded()
    assert (many.limit(REST_SECONDS), many.last_error) == (100, None)


@given(st.lists(st.sampled_from(["ok", "own", "other", "abandoned", "wait"]), max_size=60))
def test_whatever_happens_the_number_stays_in_its_bounds(story: list[str]) -> None:
    many, now = calls(), 0.0
    for what in story:
        if what == "wait":
            now += 45.0
            continue
        many.started()
        if what == "ok":
            many.succeeded()
        elif what == "abandoned":
            many.abandoned()
        else:
            many.failed("no", now, own=what == "own")
        assert 1 <= many.limit(now) <= 100
        assert 0 <= many.rests_for(now) <= MAX_REST_SECONDS * 1.25
    assert many._in_flight == 0


def test_the_price_counts_a_call_about_many_as_one_request() -> None:
    alone, together = PollPrice(rate=1.0), PollPrice(rate=1.0)
    for _ in range(200):
        together.sent(20)
    for price in (alone, together):
        for _ in range(3):
            for _ in range(10):
                price.replan(None, 2.0, now=0.0)
    assert alone.requests == 15.0
    assert together.requests < 0.8
    assert together.load(0.0) == together.requests
    assert alone.factor > 3
    assert together.factor == 1.0
    assert together.longest(10.0) == 10.0


def test_without_such_calls_nothing_changes() -> None:
    price = PollPrice(rate=1.0)
    assert price.together == 1.0
    price.replan(None, 2.0, now=0.0)
    assert price.requests == price.planned

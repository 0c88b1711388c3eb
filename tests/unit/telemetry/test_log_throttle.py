"""Repeated lines are counted instead of written."""

from __future__ import annotations

import logging
from typing import Any

from bridge.telemetry.log_throttle import BURST, CACHE_SIZE, WINDOW_SECONDS, LogThrottle


def record(text: str = "look failed", at: float = 1000.0, level: int = logging.WARNING, **extra: Any) -> Any:
    made = logging.LogRecord("bridge.watchers", level, __file__, 1, text, None, None)
    made.created = at
    made.__dict__ |= extra
    return made


def passed(throttle: LogThrottle, number: int, *arguments: Any, **extra: Any) -> int:
    return sum(throttle.filter(record(*arguments, **extra)) for _ in range(number))


def test_the_first_of_a_kind_pass_and_the_others_are_counted_once_a_minute() -> None:
    throttle = LogThrottle()
    assert passed(throttle, 317) == BURST
    assert throttle.take_counts(1000 + WINDOW_SECONDS - 1) == []
    (told,) = throttle.take_counts(1000 + WINDOW_SECONDS)
    assert told.getMessage() == "... 312 more like this in 60 s"
    assert (told.name, told.levelno) == ("bridge.watchers", logging.WARNING)
    assert (told.like, told.suppressed, told.seconds) == ("look failed", 312, 60)
    assert throttle.take_counts(5000) == []


def test_after_its_minute_a_line_is_news_again_and_the_count_is_not_lost() -> None:
    throttle = LogThrottle()
    passed(throttle, BURST + 2)
    assert passed(throttle, 1, at=1000 + WINDOW_SECONDS) == 1
    (told,) = throttle.take_counts(1000 + WINDOW_SECONDS)
    assert told.suppressed == 2


def test_few_lines_leave_no_count() -> None:
    throttle = LogThrottle()
    assert passed(throttle, BURST) == BURST
    assert throttle.take_counts(9999, last=True) == []


def test_the_last_count_comes_before_its_minute_is_over() -> None:
    throttle = LogThrottle()
    passed(throttle, BURST + 1)
    (told,) = throttle.take_counts(1010, last=True)
    assert told.getMessage() == "... 1 more like this in 10 s"


def test_kinds_are_told_apart_by_template_logger_and_upstream_and_not_by_task() -> None:
    throttle = LogThrottle()
    assert passed(throttle, 9, task="a/1") == BURST
    assert passed(throttle, 9, task="a/2") == 0
    assert passed(throttle, 9, upstream="vapi") == BURST
    assert passed(throttle, 9, "another sentence") == BURST
    assert {(one.like, getattr(one, "upstream", None)) for one in throttle.take_counts(9999)} == {
        ("look failed", None),
        ("look failed", "vapi"),
        ("another sentence", None),
    }


def test_the_template_counts_and_not_what_is_put_into_it() -> None:
    throttle = LogThrottle()
    filled = [logging.LogRecord("x", logging.ERROR, "", 0, "no %s", (number,), None) for number in range(50)]
    assert sum(map(throttle.filter, filled)) == BURST


def test_what_is_told_once_a_connection_and_what_somebody_debugs_is_never_held_back() -> None:
    throttle = LogThrottle()
    assert passed(throttle, 100, level=logging.INFO) == 100
    assert passed(throttle, 100, level=logging.DEBUG) == 100


def test_what_is_kept_is_bounded_and_the_oldest_count_is_told_when_it_has_to_go() -> None:
    throttle = LogThrottle()
    passed(throttle, BURST + 3, "the first")
    for number in range(CACHE_SIZE * 3):
        passed(throttle, 1, f"line {number}")
    assert len(throttle._windows) == CACHE_SIZE
    (told,) = throttle.take_counts(1000)
    assert (told.like, told.suppressed) == ("the first", 3)


def test_a_clock_that_goes_back_opens_the_way_instead_of_closing_it_for_long() -> None:
    throttle = LogThrottle()
    passed(throttle, 50, at=5000.0)
    assert passed(throttle, 1, at=1000.0) == 1

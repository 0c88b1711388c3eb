from __future__ import annotations

import gc
import sys
import weakref
from itertools import pairwise

import pytest

from bridge.server.memory import MANY, MIN_TRIM_INTERVAL_SECONDS, MemoryTrimmer, trim_memory


class Knot:
    """A circle of one."""

    def __init__(self) -> None:
        self.itself = self


class Asked:
    """A crowd asked every five seconds."""

    def __init__(self) -> None:
        self.crowd = MemoryTrimmer()
        self.now = 1000.0

    def __call__(self, ended: int, still_open: int = 0) -> bool:
        self.now += 5
        return self.crowd.should_trim(ended=ended, still_open=still_open, now=self.now)


def test_a_few_that_leave_are_not_worth_it() -> None:
    asked = Asked()
    assert [asked(ended) for ended in (0, MANY // 2, MANY - 1, MANY - 1)] == [False] * 4


def test_many_are_and_what_left_after_them_once_it_is_quiet() -> None:
    asked = Asked()
    assert asked(MANY + 100, still_open=3)  # amid their leaving
    assert not asked(MANY + 2000, still_open=1)
    assert asked(MANY + 2000)
    assert [asked(MANY + 2000) for _ in range(20)] == [False] * 20


def test_quiet_without_a_crowd_before_is_not_worth_it() -> None:
    asked = Asked()
    asked(MANY)
    asked(MANY)  # settled
    assert not asked(MANY + 10)
    assert not asked(MANY + 10)


def test_a_full_house_is_stopped_seldom() -> None:
    asked = Asked()
    assert asked(MANY, still_open=20_000)
    times = [asked.now for turn in range(1, 40) if asked(MANY + 1000 * turn, still_open=20_000)]
    assert [later - one for one, later in pairwise(times)] == [MIN_TRIM_INTERVAL_SECONDS] * (len(times) - 1)
    assert len(times) == 39 * 5 // MIN_TRIM_INTERVAL_SECONDS


def test_nor_because_it_is_quiet() -> None:
    asked = Asked()
    assert asked(MANY, still_open=20_000)
    times = [asked.now - 1005 for _ in range(20) if asked(MANY, still_open=20_000)]
    assert times == [MIN_TRIM_INTERVAL_SECONDS]


def test_circles_are_freed() -> None:
    gc.disable()
    try:
        circle = weakref.ref(Knot())
        assert circle() is not None
        assert trim_memory() >= 1
        assert circle() is None
    finally:
        gc.enable()


def test_names_the_interpreter_keeps_are_let_go() -> None:
    name = (
        b"no_such_attribute".decode()
    )  # nobody else has it, as with those that `email.utils` makes for a date
    held = sys.getrefcount(name)
    hasattr(Knot, name)
    if sys.getrefcount(name) == held:
        pytest.skip("this interpreter keeps no such names")
    trim_memory()
    assert sys.getrefcount(name) == held

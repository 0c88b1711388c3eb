"""The judge of several bridges finds what it is there to find, and allows what users are told to expect."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.judge import Ending
from tests.replicas.judge import Disturbance, SharedAccount, SharedJudge

pytestmark = pytest.mark.anyio

REF = "qingbo/a"
TRUTH = {REF: Ending("completed", "/v")}
ALWAYS = Disturbance(0.0, float("inf"))


def _state(
    offset: int, status: str = "processing", progress: float = 0, *, epoch: str = "e1", shown: str = ""
) -> dict[str, Any]:
    outputs = [{"url": "/v"}] if status == "completed" else []
    cursor = f"{epoch}-{offset}" + (f"~{shown}" if shown else "")
    return {"task": REF, "cursor": cursor, "status": status, "progress": progress, "outputs": outputs}


def _account(*, repeats: bool = False) -> tuple[SharedJudge, SharedAccount]:
    judge = SharedJudge()
    account = judge.account("client", [REF], repeats=repeats)
    assert isinstance(account, SharedAccount)
    account.connected(cursor=None)
    return judge, account


def _told(account: SharedAccount, *states: dict[str, Any]) -> None:
    for one in states:
        account.state(one, one["cursor"])


async def test_states_shown_before_they_are_recorded_are_in_order() -> None:
    judge, account = _account()
    _told(account, _state(0, "unknown"), _state(5, progress=10))
    _told(account, _state(5, progress=20, shown="p200"), _state(5, progress=30, shown="p300"))
    _told(account, _state(9, progress=40), _state(12, "completed", 100))
    account.done(REF, "completed")
    account.ended("end")
    assert judge.verdict(TRUTH) == []


async def test_a_later_epoch_may_begin_on_an_open_connection_and_an_earlier_one_may_not() -> None:
    judge, account = _account()
    _told(account, _state(5, progress=10), _state(3, progress=20, epoch="e2"))
    assert judge.faults == []
    _told(account, _state(9, progress=30, epoch="e1"))
    assert "on one connection" in judge.faults[0]


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([_state(5, progress=9), _state(6, progress=9)], "twice"),
        ([_state(5, progress=9), _state(3, progress=9, epoch="e2")], "twice"),
        ([_state(5, progress=9), _state(5, progress=9, shown="p90")], "twice"),
        ([_state(5, progress=9), _state(4, progress=10)], "after"),
        ([_state(5, progress=9), _state(6, progress=8)], "progress=8"),
        ([_state(5), _state(6, "queued")], "queued"),
        ([_state(5, "completed"), _state(6, "failed")], "was final and became"),
        ([_state(5, "completed"), _state(6, "processing")], "processing"),
        ([_state(5, "completed"), _state(6, "completed", 99)], "after its end"),
        ([_state(5), _state(0, "unknown")], "a placeholder after a state"),
    ],
    ids=[
        "twice",
        "epoch",
        "unrecorded",
        "back",
        "progress",
        "status",
        "not final",
        "open again",
        "end",
        "placeholder",
    ],
)
async def test_what_is_out_of_order_is_found(states: list[dict[str, Any]], found: str) -> None:
    judge, account = _account()
    _told(account, *states)
    assert any(found in fault for fault in judge.faults), judge.faults


async def test_who_comes_back_with_a_cursor_is_told_nothing_twice_by_another_bridge() -> None:
    for repeats, faults in ((False, 1), (True, 0)):
        judge, account = _account(repeats=repeats)
        _told(account, _state(5, progress=9))
        account.connected(cursor="e1-5")
        _told(account, _state(7, progress=9))
        assert judge.counts["faults"] == faults


async def test_after_a_reset_the_current_state_comes_again_but_nothing_older() -> None:
    judge, account = _account()
    judge.resets_expected = True
    _told(account, _state(5, progress=9))
    account.connected(cursor="e1-5")
    account.reset()
    _told(account, _state(2, progress=9, epoch="e2"))
    assert judge.faults == []
    account.connected(cursor="e2-2")
    account.reset()
    _told(account, _state(1, progress=5, epoch="e3"))
    assert "progress=5" in judge.faults[0]


async def test_a_reset_is_found_where_the_engine_has_lost_nothing() -> None:
    judge, account = _account()
    account.reset()
    assert "has lost nothing" in judge.faults[0]


@pytest.mark.parametrize(("repeats", "faults"), [(True, 0), (False, 1)], ids=["many tasks", "one task"])
async def test_only_a_many_task_stream_may_go_back_in_an_outage(*, repeats: bool, faults: int) -> None:
    judge, account = _account(repeats=repeats)
    judge.disturbances.append(ALWAYS)
    _told(account, _state(5, progress=9, shown="p90"))
    account.connected(cursor="e1-5")
    _told(account, _state(5, progress=8))
    assert judge.counts["faults"] == faults
    assert judge.counts["tolerated"] == 1 - faults


async def test_what_was_recorded_does_not_go_back_even_among_many_tasks_in_an_outage() -> None:
    judge, account = _account(repeats=True)
    judge.disturbances.append(ALWAYS)
    _told(account, _state(5, "completed", 100))
    account.connected(cursor="e1-5")
    _told(account, _state(3, progress=8))
    assert judge.counts["tolerated"] == 0
    assert "after" in judge.faults[-1]


async def test_after_a_reset_progress_may_go_back_where_the_engine_was_split() -> None:
    judge, account = _account()
    judge.resets_expected = True
    judge.disturbances.append(Disturbance(0.0, float("inf"), split=True))
    _told(account, _state(5, progress=9))
    account.connected(cursor="e1-5")
    account.reset()
    _told(account, _state(2, progress=5, epoch="e2"))
    assert (judge.faults, judge.counts["tolerated"]) == ([], 1)


async def test_an_end_that_was_missed_is_found() -> None:
    judge, account = _account()
    _told(account, _state(5, progress=90))
    account.connected(cursor="e1-5")
    account.ended("204")
    assert "before everything was final" in judge.faults[0]
    assert "the provider says" in judge.verdict(TRUTH)[-1]

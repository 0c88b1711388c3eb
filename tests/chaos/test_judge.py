"""The judge finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.judge import Account, Ending, Judge

REF = "qingbo/a"
TRUTH = {REF: Ending("completed", "/v"), "qingbo/b": Ending("failed")}


def _state(offset: int, status: str = "processing", progress: float = 0, **more: Any) -> dict[str, Any]:
    outputs = [{"url": "/v"}] if status == "completed" else []
    document = {"task": REF, "cursor": f"e-{offset}", "status": status, "progress": progress}
    return document | {"outputs": outputs} | more


def _account(*, repeats: bool = False) -> tuple[Judge, Account]:
    judge = Judge()
    account = judge.account("client", [REF], repeats=repeats)
    account.connected(cursor=None)
    return judge, account


def test_a_client_that_saw_everything_in_order_is_right() -> None:
    judge, account = _account()
    for state in (
        _state(0, "unknown"),
        _state(3, "queued"),
        _state(5, progress=10),
        _state(9, "completed", 100),
    ):
        account.state(state, state["cursor"])
    account.done(REF, "completed")
    account.ended("end")
    assert judge.verdict(TRUTH) == []


def test_behind_one_address_another_history_may_begin_further_back_but_must_end_right() -> None:
    faults = []
    for histories in (1, 2):
        judge = Judge(histories=histories)
        account = judge.account("client", [REF])
        for epoch, status in (("e", "completed"), ("f", "processing")):
            account.connected(cursor=None)
            account.state(_state(5, status, cursor=f"{epoch}-5"))
        faults.append(len(judge.faults))
        assert judge.verdict(TRUTH) != []
        account.state(_state(6, "completed", cursor="f-6"))
        assert judge.verdict(TRUTH) == judge.faults
    assert faults == [2, 0]


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([_state(5), _state(5)], "on one connection"),
        ([_state(5), _state(4)], "on one connection"),
        ([_state(5), _state(6, cursor="f-6")], "on one connection"),
        ([_state(5), _state(6, "queued")], "queued after processing"),
        ([_state(5, progress=9), _state(6, progress=8)], "progress 8 after 9"),
        ([_state(5, "completed"), _state(6, "completed")], "after its end"),
        ([_state(5, "completed"), _state(6, "failed")], "was final and became"),
        ([_state(5), _state(0, "unknown")], "a placeholder after a state"),
        ([_state(5, task="qingbo/other")], "never asked for"),
    ],
    ids=[
        "twice",
        "back",
        "epoch",
        "status",
        "progress",
        "after the end",
        "not final",
        "placeholder",
        "alien",
    ],
)
def test_what_is_out_of_order_is_found(states: list[dict[str, Any]], found: str) -> None:
    judge, account = _account()
    for state in states:
        account.state(state)
    assert any(found in fault for fault in judge.faults), judge.faults


def test_a_state_seen_before_the_client_came_back_is_found_unless_it_may_repeat() -> None:
    for repeats, faults in ((False, 1), (True, 0)):
        judge, account = _account(repeats=repeats)
        account.state(_state(5))
        account.connected(cursor="e-5")
        account.state(_state(5))
        assert judge.counts["faults"] == faults


def test_after_a_reset_the_current_state_comes_again() -> None:
    judge, account = _account()
    account.state(_state(5))
    account.connected(cursor="e-5")
    account.reset()
    account.state(_state(5))
    account.connected(cursor="e-5")
    account.reset()
    account.state(_state(1, cursor="new-1"))
    assert judge.faults == []


def test_an_end_too_early_and_a_final_state_that_is_not_the_providers_are_found() -> None:
    judge, account = _account()
    account.state(_state(5))
    account.ended("204")
    assert "before everything was final" in judge.faults[0]
    account.state(_state(6, "failed"))
    assert "the provider says" in judge.verdict(TRUTH)[-1]


def test_a_client_that_left_holds_nothing_and_one_that_stayed_must() -> None:
    judge, account = _account()
    assert judge.verdict(TRUTH)
    account.left = True
    assert judge.verdict(TRUTH) == []


def test_a_wrong_url_or_a_done_that_does_not_fit_is_found() -> None:
    judge, account = _account()
    account.state(_state(5, "completed", outputs=[{"url": "/other"}]))
    assert judge.verdict(TRUTH)
    account.done(REF, "failed")
    assert "`done` says failed" in judge.faults[0]

"""Whose first poll starts next: newcomers beside repeats, connections in turn."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.fair_share import FairShare


def turns(share: FairShare[str], number: int, *, share_size: int = 8) -> list[str]:
    """What starts in so many starts, with repeats always waiting and every poll ending at once."""
    started = []
    for _ in range(number):
        item = share.next_first(repeats_wait=True, in_flight=0, share=share_size, limit=32)
        if item is None:
            share.repeat_started()
            started.append("repeat")
        else:
            share.finished(item.partition("/")[0])
            started.append(item)
    return started


def test_a_newcomer_starts_at_once_and_repeats_keep_three_of_four() -> None:
    share: FairShare[str] = FairShare()
    for number in range(20):
        share.add(f"c{number}", f"c{number}/x")
    started = turns(share, 40)
    assert started[0] == "c0/x"
    assert Counter(item == "repeat" for item in started) == {True: 30, False: 10}


def test_a_flood_leaves_seven_of_eight_to_repeats_and_the_next_turn_to_a_newcomer() -> None:
    share: FairShare[str] = FairShare()
    for number in range(100):
        share.add("flood", f"flood/{number}")
    started = turns(share, 80)
    assert Counter(item == "repeat" for item in started) == {True: 70, False: 10}
    share.add("new", "new/1")
    assert "new/1" in turns(share, 4)


def test_a_newcomer_has_the_next_turn_before_many_connections_that_had_theirs() -> None:
    share: FairShare[str] = FairShare()
    for number in range(20):
        for task in range(20):
            share.add(f"c{number}", f"c{number}/{task}")
    turns(share, 4 * 25)
    share.add("new", "new/1")
    assert "new/1" in turns(share, 4)
    turns(share, 4 * 25)
    share.add("new", "new/2")
    assert "new/2" in turns(share, 4), "its last turn is long past"


def test_what_is_not_started_uses_up_no_turn() -> None:
    share: FairShare[str] = FairShare()
    share.add("gone", "gone/1")
    share.add("new", "new/1")
    for connection in ("gone", "new"):
        item = share.next_first(repeats_wait=True, in_flight=0, share=8, limit=32)
        assert item == f"{connection}/1"
        share.not_started(connection)


def test_newcomers_without_end_leave_turns_to_those_who_wait() -> None:
    share: FairShare[str] = FairShare()
    for task in range(20):
        share.add("waits", f"waits/{task}")
    turns(share, 8)
    started = []
    for number in range(80):
        share.add(f"new{number}", f"new{number}/1")
        started += turns(share, 4)
    assert sum(item.startswith("waits") for item in started) >= 8


def test_one_connection_holds_half_of_the_share_at_most() -> None:
    share: FairShare[str] = FairShare()
    for number in range(100):
        share.add("flood", f"flood/{number}")
    held = 0
    while share.next_first(repeats_wait=False, in_flight=held, share=8, limit=32) is not None:
        held += 1
    assert held == 16, "half of what is free for first polls while no repeat waits"
    share.add("new", "new/1")
    assert share.next_first(repeats_wait=False, in_flight=held, share=8, limit=32) == "new/1"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_nothing_is_lost_or_started_twice(steps: list[tuple[str, bool]]) -> None:
    share: FairShare[str] = FairShare()
    added, started = [], []
    for number, (connection, repeats_wait) in enumerate(steps):
        item = f"{connection}/{number}"
        share.add(connection, item)
        added.append(item)
        first = share.next_first(repeats_wait=repeats_wait, in_flight=0, share=4, limit=16)
        if first is None:
            share.repeat_started()
        else:
            share.finished(first[0])
            started.append(first)
    while (first := share.next_first(repeats_wait=False, in_flight=0, share=4, limit=16)) is not None:
        share.finished(first[0])
        started.append(first)
    assert sorted(started) == sorted(added)
    assert len(share) == 0
    for connection in "abc":
        mine = [item for item in added if item[0] == connection]
        assert [item for item in started if item[0] == connection] == mine, "in the order they came"


def test_a_flood_by_ever_new_connections_of_one_party_leaves_the_next_turn_to_another() -> None:
    share: FairShare[str] = FairShare()
    for number in range(300):
        share.add(f"flood-{number}", f"flood-{number}", party=("-", "192.0.2.1"))
    assert set(turns(share, 12)) == {"repeat", "flood-0", "flood-1", "flood-2"}
    share.add("newcomer", "newcomer", party=("-", "192.0.2.2"))
    share.add("flood-x", "flood-x", party=("-", "192.0.2.1"))
    assert "newcomer" in turns(share, 5)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=60))
def test_parties_take_turns_however_many_connections_they_have(steps: list[tuple[str, int, bool]]) -> None:
    share: FairShare[tuple[str, int]] = FairShare()
    waiting: list[tuple[str, int]] = []
    for party, number, takes in steps:
        if not takes:
            share.add((party, number), (party, number), party=party)
            waiting.append((party, number))
            continue
        item = share.next_first(repeats_wait=False, in_flight=0, share=4, limit=8)
        assert (item is None) == (not waiting)
        if item is not None:
            waiting.remove(item)
            share.finished(item)
        assert len(share) == len(waiting)
    for connection in set(waiting):
        share.drop(connection)
    assert (len(share), share._queues, share._party_of, share._connections) == (0, {}, {}, {})

"""What ended tasks taught, as bytes: read back exactly, and whatever else is in the storage is left out."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.learned import MAX_KINDS, MAX_RUNS, MEASURES, Measurement, Run, TaskKind
from bridge.engine.base import LEARNED_SECONDS
from bridge.journal.learned import (
    MAX_NAME,
    MAX_RUN_BYTES,
    MAX_VALUE,
    OLD_RUNS,
    OLD_SECONDS,
    Choice,
    LearnedIndex,
    chosen_lists,
    decode_list,
    decode_run,
    encode_run,
    kind_digest,
    unexpired,
)

NOW = 1_800_000_000.0
KIND = TaskKind("wan2.7", "generate")


def run(seconds: float = 90.0, ended_at: float = NOW, kind: TaskKind = KIND) -> Run:
    return Run(kind, ended_at, {"run": Measurement(seconds)})


names = st.none() | st.text(max_size=MAX_NAME)
values = st.floats(0, MAX_VALUE).map(lambda value: float(f"{value:.6g}"))
runs = st.builds(
    Run,
    st.builds(TaskKind, names, names),
    st.floats(0, 4e9).map(lambda value: round(value, 3)),
    st.dictionaries(st.sampled_from(sorted(MEASURES)), st.builds(Measurement, values, values), min_size=1),
)


@settings(max_examples=30)
@given(runs)
def test_a_run_comes_back_as_it_was(learned: Run) -> None:
    data = encode_run(learned)
    assert data is not None
    assert decode_run(data) == learned
    assert data.isascii()
    assert len(data) <= MAX_RUN_BYTES


def test_what_no_task_can_measure_is_not_stored() -> None:
    odd = Run(
        KIND,
        NOW,
        {"run": Measurement(math.nan), "work": Measurement(1.0, math.inf), "wait": Measurement(-1.0)},
    )
    assert encode_run(odd) is None
    assert encode_run(run(MAX_VALUE * 2)) is None
    assert encode_run(run(ended_at=math.nan)) is None
    assert encode_run(run(ended_at=math.inf)) is None
    assert encode_run(run(kind=TaskKind("x" * (MAX_NAME + 1), None))) is None
    mixed = Run(
        KIND,
        NOW,
        {"run": Measurement(3.0), "work": Measurement(math.inf), "of another version": Measurement(1.0)},
    )
    assert decode_run(encode_run(mixed) or b"") == run(3.0)


GOOD: list[Any] = [1, "m", "a", NOW, {"run": [5]}]


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\xff",
        b"[1",
        b"{}",
        b"null",
        b"[" * 20_000,
        b"[" * 2000,
        b'[1,"m","a",NaN,{"run":[5]}]',
        b'[1,"m","a",1,{"run":[1e999]}]',
        b'[1,"m","a",1,{"run":[' + b"9" * 5000 + b"]}]",
        json.dumps([2, *GOOD[1:]]).encode(),
        json.dumps([*GOOD, 1]).encode(),
        json.dumps([1, 5, *GOOD[2:]]).encode(),
        json.dumps([1, "m" * 513, *GOOD[2:]]).encode(),
        json.dumps([1, "\ud800", *GOOD[2:]]).encode(),
        json.dumps([*GOOD[:3], "now", GOOD[4]]).encode(),
        json.dumps([*GOOD[:3], -1, GOOD[4]]).encode(),
        *(
            json.dumps([*GOOD[:4], samples]).encode()
            for samples in (
                {},
                [],
                {"odd": [1]},
                {"run": []},
                {"run": 1},
                {"run": "12"},
                {"run": ["1"]},
                {"run": [True]},
                {"run": [-1]},
                {"run": [1, 2, 3]},
                {"run": [None]},
                {"run": {"1": 1}},
            )
        ),
    ],
)
def test_what_makes_no_sense_is_left_out(odd: bytes) -> None:
    assert decode_run(odd) is None
    good = json.dumps(GOOD).encode()
    digest = kind_digest(TaskKind("m", "a"))
    assert decode_list(digest, [odd, good, good]) == [Run(TaskKind("m", "a"), NOW, {"run": Measurement(5.0)})]
    assert decode_list(kind_digest(TaskKind("m", None)), [good]) == []  # of another list


@settings(max_examples=30)
@given(st.binary(max_size=20) | st.lists(st.none() | st.floats() | st.text("m1", max_size=2)).map(json.dumps))
def test_anything_may_be_in_the_storage(odd: bytes | str) -> None:
    data = odd.encode() if isinstance(odd, str) else odd
    decode_run(data)
    assert LearnedIndex.read(data).kinds == {}


def test_a_week_a_day_and_the_newest_of_too_many() -> None:
    old = [run(1.0, NOW - OLD_SECONDS - 1 - number) for number in range(20)]
    new = [run(2.0, NOW - number) for number in range(20)]
    too_old = [run(3.0, NOW - LEARNED_SECONDS - 1)]
    ahead = [run(4.0, NOW + 10 * LEARNED_SECONDS)]  # by a clock that was wrong
    found = unexpired([*ahead, *new, *old, *too_old], NOW)
    assert [one.samples["run"].value for one in found] == [1.0] * OLD_RUNS + [2.0] * 20 + [4.0]
    assert found == sorted(found, key=lambda one: one.ended_at)
    assert found[0].ended_at == NOW - OLD_SECONDS - OLD_RUNS
    many = unexpired([run(number, NOW + number) for number in range(100)], NOW)
    assert [one.samples["run"].value for one in many] == list(range(100 - MAX_RUNS, 100))


def test_the_kinds_that_ended_last_are_kept() -> None:
    kinds = [TaskKind(str(number), None) for number in range(MAX_KINDS + 5)]
    found = unexpired([run(1.0, NOW + number, kind) for number, kind in enumerate(kinds)], NOW)
    assert [one.kind for one in found] == kinds[5:]


def test_an_index_is_bounded_and_forgets_what_is_old() -> None:
    index = LearnedIndex()
    digests = [kind_digest(TaskKind(str(number), None)) for number in range(MAX_KINDS + 3)]
    assert index.change(digests[-2:], "aa", NOW - LEARNED_SECONDS - 1) == []
    assert index.change(digests[:MAX_KINDS], "ab", NOW) == digests[-2:]
    assert index.change([digests[0]], "ac", NOW) == []
    assert index.change(digests[MAX_KINDS:], "ad", NOW) == digests[1:4]
    again = LearnedIndex.read(index.encode())
    assert list(again.kinds.items()) == list(index.kinds.items())
    assert list(again.kinds)[-4] == digests[0]


@pytest.mark.parametrize(
    "entry",
    [None, [], ["x", "ab", 1], [kind_digest(KIND), "?", 1], [kind_digest(KIND), "ab", math.nan], [1, 2, 3]],
)
def test_an_entry_that_makes_no_sense_costs_that_entry(entry: Any) -> None:
    good = [kind_digest(KIND), "ab", NOW]
    document = json.dumps({"version": 1, "id": "ab", "kinds": [entry, good]}).encode()
    assert list(LearnedIndex.read(document).kinds) == [kind_digest(KIND)]
    assert LearnedIndex.read(json.dumps({"version": 2, "id": "ab", "kinds": [good]}).encode()).kinds == {}
    assert LearnedIndex.read(json.dumps({"version": 1, "id": "ab", "kinds": {"a": 1}}).encode()).kinds == {}


def test_kinds_are_chosen_by_model_and_action() -> None:
    kinds = [TaskKind("a", "x"), TaskKind("a", None), TaskKind("b", "x")]
    lists = {kind_digest(kind): [encode_run(run(kind=kind)) or b""] for kind in kinds}
    lists["0" * 32] = [b"damaged"]

    def chosen(**which: str) -> list[int]:
        found = chosen_lists(lists, Choice("video", **which))
        return [list(lists).index(digest) for digest in found]

    assert chosen() == [0, 1, 2, 3]
    assert chosen(model="a") == [0, 1]
    assert chosen(action="x") == [0, 2]
    assert chosen(model="a", action="x") == [0]
    assert chosen(model="unknown") == []

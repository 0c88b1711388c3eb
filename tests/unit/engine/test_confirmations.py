"""Confirmations as other processes wrote them: of a version before, of a later one, and broken."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bridge.core.event import Confirmation, read_confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import ConfirmEntry
from bridge.engine.keeper.wire import MalformedFrame, decode_entries, encode_entries
from bridge.engine.redis.keys import task_text
from bridge.engine.redis.replies import read_entry, read_record
from bridge.engine.store.changes import PartKind
from bridge.engine.store.rows import dump, read_task, restore
from bridge.engine.store.store import Store
from bridge.engine.store.tasks import TaskRecord
from tests.fakes.tasks import TASK

NOW = 1_800_000_000
WHOLE = Confirmation(NOW + 0.25, NOW + 40.5, NOW + 60.0)


def entry(*values: bytes) -> Any:
    flat = [b"p", b"4", b"o", b""]
    for value in values:
        flat += [task_text(TASK), value]
    return read_entry(b"5-1", flat)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1800000000.25", Confirmation(NOW + 0.25)),
        (b"1800000000.25 1800000040.5 1800000060.0", WHOLE),
        (b"1800000000.25 1800000040.5 -", WHOLE._replace(eta_by=None)),
        (b"1800000000.25 - -", Confirmation(NOW + 0.25)),
        (b"1800000000.25 1800000040.5 1800000060.0 0.7 and more", WHOLE),
        (b"1800000000.25 nan inf", Confirmation(NOW + 0.25)),
        (b"1800000000.25 -3 1e300", Confirmation(NOW + 0.25)),
    ],
)
def test_an_entry_of_any_version_is_read(value: bytes, expected: Confirmation) -> None:
    assert entry(value) == ConfirmEntry(5, 4, [(TASK, expected)])
    words = value.split(b" ", 1)
    record = read_record(TASK, [b"v", b"1", b"at", words[0], *([b"eta", words[1]] if len(words) > 1 else [])])
    assert record.confirmation == expected


def test_a_record_that_was_never_confirmed_has_no_confirmation() -> None:
    assert read_record(TASK, [b"v", b"1"]).confirmation is None


@pytest.mark.parametrize("value", [b"", b"soon", b"nan", b"-1", b"inf 1800000040.5"])
def test_one_without_its_time_is_left_out_and_the_log_goes_on(value: bytes) -> None:
    assert entry(value, b"7.0 8.0") == ConfirmEntry(5, 4, [(TASK, Confirmation(7.0, 8.0))])
    assert read_record(TASK, [b"v", b"1", b"at", value]).confirmation is None


def test_numbers_and_their_texts_are_the_same_and_nothing_else_is_a_moment() -> None:
    assert read_confirmation(NOW, "7", math.nan) == Confirmation(NOW, 7.0, None)
    assert read_confirmation(NOW, [], {}, "of a later version") == Confirmation(NOW)


def test_between_keeper_and_workers_nothing_is_lost() -> None:
    sent = [ConfirmEntry(5, 4, [(TASK, WHOLE), (TaskKey("vapi", "x"), Confirmation(1.0))])]
    received = decode_entries(encode_entries(sent))
    assert received == sent
    assert isinstance(received[0].confirmed[0][1], Confirmation)  # type: ignore[union-attr]
    with pytest.raises(MalformedFrame):
        decode_entries(encode_entries([ConfirmEntry(5, 4, [(TASK, "soon")])]))  # type: ignore[list-item]


def test_the_file_of_the_keeper_brings_it_back_also_from_a_version_before() -> None:
    store = Store()
    task = store.tasks.ensure(TASK, 1)
    task.confirmation = WHOLE
    row = dump(store, PartKind.TASK, (TASK.upstream, TASK.account, TASK.task_id))
    values = restore(Store(), [row], 2)[TASK]
    for value, expected in (
        (values[7], WHOLE),
        (NOW + 0.25, Confirmation(NOW + 0.25)),
        (0.0, None),
        (None, None),
        ([NOW], Confirmation(NOW)),
        ([NOW, None, NOW + 9.0, "later"], Confirmation(NOW, None, NOW + 9.0)),
    ):
        again = TaskRecord(TASK, 2)
        read_task(again, [*values[:7], value, *values[8:]])
        assert again.confirmation == expected

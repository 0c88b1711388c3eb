"""What tasks were submitted with: kept as bytes, and joined where several submits created one task."""

from __future__ import annotations

import pytest

from bridge.core.details import MAX_WEBHOOKS, NO_DETAILS, TaskDetails, decode_details

FULL = TaskDetails("https://a.test/?t=ü", ("x", "y"), "album", ("https://b.test", "https://c.test"))


@pytest.mark.parametrize("details", [NO_DETAILS, FULL, TaskDetails(tags=("x",))])
def test_they_are_read_as_they_were_written(details: TaskDetails) -> None:
    assert decode_details(details.encode()) == details


@pytest.mark.parametrize(
    "encoded",
    [
        None,
        b"",
        b"[]",
        b"7",
        b"\xff",
        b"{",
        b'{"webhook":1,"tags":{"a":1},"group":[],"further":"x"}',
        b"[" * 9999,
    ],
)
def test_what_cannot_be_used_is_left_out(encoded: bytes | None) -> None:
    assert decode_details(encoded) == NO_DETAILS


def test_only_so_many_addresses_are_read() -> None:
    encoded = b'{"webhook":"u","further":[%b7]}' % (b'"v",' * 1000)
    assert len(decode_details(encoded).webhooks) == MAX_WEBHOOKS


def test_of_several_submits_all_is_kept_and_of_too_many_addresses_the_newest() -> None:
    assert NO_DETAILS.joined(FULL) == FULL.joined(NO_DETAILS) == FULL.joined(FULL) == FULL
    other = TaskDetails("https://d.test", ("y", "z"), "other")
    both = FULL.joined(other)
    assert both.webhooks == (*FULL.webhooks, "https://d.test")
    assert (both.tags, both.group) == (("x", "y", "z"), "other")
    details = NO_DETAILS
    for number in range(MAX_WEBHOOKS + 2):
        details = details.joined(TaskDetails(str(number)))
    assert details.webhooks == tuple(map(str, range(2, MAX_WEBHOOKS + 2)))


def test_words_that_say_nothing_new_keep_since_when_they_count() -> None:
    """A client that comes again with its cursor is not sent the task once more."""
    known = FULL._replace(since=7)
    assert known.replaced(TaskDetails(tags=("x", "y"), group="album")) is known
    assert known.replaced(FULL) is known
    assert known.replaced(TaskDetails(tags=("x",), group="album")).since == 0
    assert known.replaced(TaskDetails("https://new.test", ("x", "y"), "album")).since == 0

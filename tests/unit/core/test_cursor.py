"""Names of epochs: the later one is told by its name."""

from __future__ import annotations

import pytest

from bridge.core.cursor import Cursor, is_later, new_epoch

NOW = 1_795_905_000.0


@pytest.mark.parametrize("behind", [-3600.0, 0.0, 3600.0])
def test_an_epoch_is_later_than_the_one_before_by_any_clock(behind: float) -> None:
    before = new_epoch(NOW, 7)
    name = new_epoch(NOW - behind, 7, after=before)

    assert is_later(name, before)
    assert Cursor.parse(f"{name}-1") == Cursor(name, 1)


@pytest.mark.parametrize("before", ["", "x", "Epoch-1", "z" * 32])
def test_a_name_that_is_no_time_is_not_continued(before: str) -> None:
    assert new_epoch(NOW, 7, after=before) == new_epoch(NOW, 7)

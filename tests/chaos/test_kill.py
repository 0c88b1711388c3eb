"""`kill -9` under load and a restart on the same file and port: nobody loses a final state."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.killed import Plan, kill_under_load
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

SMALL = {"tasks": 100, "clients": 200, "rate": 250.0, "patience": PATIENCE}


async def test_open_tasks_are_watched_again_unasked_and_paced_and_everybody_gets_the_end(
    tmp_path: Path,
) -> None:
    told = await kill_under_load(Plan(**SMALL), tmp_path)
    assert told.faults == []
    assert told.judge.counts["resets"] == 0
    assert told.announced >= 5
    assert told.restored > 50


async def test_without_the_file_everybody_gets_a_reset_and_the_same_end(tmp_path: Path) -> None:
    told = await kill_under_load(Plan(**SMALL, lose_journal=True), tmp_path)
    assert told.faults == []
    assert told.judge.counts["resets"] > 100

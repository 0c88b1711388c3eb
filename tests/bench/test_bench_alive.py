"""The benchmarks run; their results are not judged here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCENARIOS = ["fanout", "connect", "answer"]  # `python -m bench.run --tiny` runs them all

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="epoll and /proc"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


@pytest.mark.extended
@pytest.mark.timeout(240)
def test_scenarios_run_tiny_and_every_client_ends_right(tmp_path: Path) -> None:
    results = tmp_path / "tiny.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--tiny", "--results", str(results), *SCENARIOS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(results.read_text())
    assert list(measured) == SCENARIOS
    assert "ours SSE, 50" in measured["fanout"]["cycles"][0]
    assert "WRONG" not in done.stdout


def test_publisher_and_load_agree_on_tasks() -> None:
    from bench.tokens import TOKEN_LENGTH, pick, token

    assert [pick(seq, 5000) for seq in (1, 2, 3, 1_000_000)] == [4374, 2940, 3099, 1816]
    assert len(token(0)) == len(token(2**31)) == TOKEN_LENGTH

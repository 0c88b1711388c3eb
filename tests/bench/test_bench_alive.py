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
@pytest.mark.timeout(440)
def test_scenarios_run_tiny_and_every_client_ends_right(tmp_path: Path) -> None:
    results = tmp_path / "tiny.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--tiny", "--results", str(results), *SCENARIOS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=420,  # with Go, Mercure is built
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


def flooded(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.flood", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.timeout(620)
def test_a_group_with_followers_is_told_everything_once() -> None:
    done = flooded("--tasks=40", "--followers=12", "--early=15", "--burst=25")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 followers, 80 changes, 960 states delivered" in done.stdout
    assert "`group_done` 12, `end` 12" in done.stdout


@pytest.mark.extended
@pytest.mark.timeout(620)
@pytest.mark.parametrize("journal", ["memory", "sqlite"])
def test_a_large_group_with_many_followers_is_told_everything_once(journal: str) -> None:
    """The size that a group is made for is `make flood`; here more than what a follower begins with."""
    done = flooded("--tasks=2000", "--followers=100", "--early=1200", "--burst=400", f"--journal={journal}")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 followers, 3800 changes, 380000 states delivered" in done.stdout
    assert "missed 0, doubled 0" in done.stdout

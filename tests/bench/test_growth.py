"""`make bench growth`: it runs with small sizes, and writes its table and picture; no figure is judged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import growth

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = {
    "when": "2026-11-30 14:20 UTC",
    "commit": "0123456789",
    "machine": {"cores": "2 x a processor", "memory": "24 GiB", "system": "Linux 6"},
    "open tasks": {
        size: {
            "first_states_s": 1.0,
            "lag_p99_ms": 19.0,
            "kb_per_task": kb,
            "kb_alone": kb / 2,
            "polls": 400.0,
            "cpu_us_per_poll": 130.0,
            "resumed": 1_000.0,
            "ready_s": 3.6,
        }
        for size, kb in (("1,000", 11.0), ("100,000", 7.0))
    },
    "stored events": {
        "10,000": {
            "changes_per_second": 28_000.0,
            "get_p99_ms": 2.5,
            "first_p99_ms": 61.0,
            "spared_get_p99_ms": 2.0,
            "spared_first_p99_ms": 8.5,
            "history_ms": 1.5,
            "file_mb": 9.0,
            "ready_s": 1.0,
        },
        "retention": {
            "tasks": 2_000.0,
            "events": 400_000.0,
            "seconds": 9.5,
            "loop_ms": 12.0,
            "append_ms": 31.0,
        },
    },
}


def test_the_tables_and_the_picture_go_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{growth.BEGIN}\nold\n{growth.END}\nafter\n", "utf-8")

    growth.write(RESULTS, page)

    text = page.read_text("utf-8")
    assert text.startswith(f"before\n{growth.BEGIN}\n![")
    assert text.endswith(f"{growth.END}\nafter\n")
    assert "old" not in text
    assert "| 100,000 | 7.0 | 3.5 | 130 | 400 | 1.0 | 19 | 1,000 | 3.6 |" in text
    assert "| 10,000 | 28,000 | 2.5 | 61.0 | 2.0 | 8.5 | 1.5 | 9 | 1.0 |" in text
    assert "deleted 2,000 ended tasks with 400,000 events in 9.5 s; the event loop was held 12 ms" in text
    image = ET.fromstring((tmp_path / "growth.svg").read_text("utf-8"))
    words = [one.text for one in image.iter("{http://www.w3.org/2000/svg}text")]
    assert {"KB per open task", "100,000 open tasks", "7.0", "durable changes/s"} <= set(words)


def test_the_page_has_the_markers_once() -> None:
    text = PAGE.read_text("utf-8")
    assert text.count(growth.BEGIN) == text.count(growth.END) == 1


@pytest.mark.extended
@pytest.mark.timeout(240)
@pytest.mark.skipif(sys.platform != "linux", reason="epoll and /proc")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_it_runs_with_small_sizes(tmp_path: Path) -> None:
    results = tmp_path / "growth.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.growth", "--quick", "--results", str(results)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert [row["resumed"] for row in found["open tasks"].values()] == list(growth.QUICK.open)
    kept = found["stored events"]["retention"]
    assert kept["tasks"] > 0
    assert kept["events"] > kept["tasks"]

"""The page of `make bench replicas`: a run of one part leaves the others as they were."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.replicas import __main__ as bench
from tests.bench.replicas import report

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


def test_page_is_read_as_it_was_written(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE.read_text("utf-8"), "utf-8")

    results = report.read(page)
    report.write(results, page)

    assert {"cost", "ceiling", "quiet"} <= set(results)
    assert results["ceiling"]["rows"]["64 replicas, 2,000 changes/s"]["ceiling"] > 1000
    assert 0 < results["quiet"]["rows"]["20,000 tasks, 3 replicas"]["engine_share"] < 1
    assert report.read(page) == results
    assert _tables(page) == _tables(PAGE)


def _tables(page: Path) -> str:
    """The tables of the parts; the targets are judged again, from the digits that are shown."""
    return page.read_text("utf-8").partition("### replicas: ")[2].partition(report.END)[0]


def test_newer_results_win_wherever_they_are() -> None:
    old, new = ({"when": f"2026-11-{day} 10:00 UTC", "commit": day, "rows": {}} for day in ("28", "29"))

    merged = report.newest({"cost": old, "busy": new}, {"cost": new, "busy": old, "limit": old})

    assert merged == {"cost": new, "busy": new, "limit": old}


def test_one_part_alone_keeps_the_others_without_a_build_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resume(_: Any) -> AsyncIterator[tuple[str, dict[str, float]]]:
        yield "1,000 streams, 200 changes/s", {"resumes": 7880, "p50_ms": 28.8, "p99_ms": 41.2}

    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "benchmarks.md"
    page.write_text(PAGE.read_text("utf-8"), "utf-8")
    (tmp_path / "docs" / "generate.py").write_text("def main():\n    pass\n")
    before = report.read(page)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "BUILD", tmp_path)
    monkeypatch.setattr(bench, "build", lambda: None)
    monkeypatch.setitem(bench.PARTS, "resume", resume)

    assert asyncio.run(bench.main(["resume"])) == 0

    after = report.read(page)
    assert after["resume"]["rows"]["1,000 streams, 200 changes/s"]["p99_ms"] == 41.2
    assert {part: after[part] for part in before if part != "resume"} == {
        part: result for part, result in before.items() if part != "resume"
    }
    # What other pages quote is still there.
    monkeypatch.chdir(ROOT)
    figures = runpy.run_path(str(ROOT / "docs" / "figures.py"))
    found = figures["Bench"](page.read_text("utf-8"))
    assert found.value("replicas: ceiling", figures["CEILING_ROW"], "changes/s at 70 % of the core") > 0

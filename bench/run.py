"""Runs the scenarios with alternating contenders and reports the results.

python -m bench.run                         everything, three cycles; writes docs/benchmarks.md
python -m bench.run fanout idle             selected scenarios
python -m bench.run --tiny                  takes seconds: checks that the code runs, writes nothing
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import hubs, machine, report
from bench.contenders import BUILD, LOAD_CORE, ROOT, Failed, build
from bench.scenarios import FULL, SCENARIOS, TINY, Sizes

CYCLES = {"idle": 1, "slow": 3}  # idle memory varies little, and the scenario includes three rounds of churn


def main(words: list[str] | None = None) -> int:
    """Run the scenarios given on the command line."""
    config = _parsed(words)
    build()
    for line in hubs.missing():  # before this process is bound to a core: it may build one
        _say(line)
    if (os.cpu_count() or 1) > LOAD_CORE:
        os.sched_setaffinity(0, {LOAD_CORE})
    sizes = TINY if config.tiny else FULL
    path = config.results or BUILD / ("tiny.json" if config.tiny else "results.json")
    results: dict[str, Any] = {}
    if path.exists() and not config.tiny:
        results = json.loads(path.read_text())
    failed = False
    for name in config.scenarios or list(SCENARIOS):
        failed |= not _measured(name, sizes, config, results)
        path.write_text(json.dumps(results, indent=1))
    results = {name: results[name] for name in SCENARIOS if name in results}
    print(report.text(results) if not config.tiny else _tiny(results), flush=True)
    if not config.tiny and not config.no_write:
        report.write(results, ROOT / "docs" / "benchmarks.md")
        runpy.run_path(str(ROOT / "docs" / "generate.py"))["main"]()  # the pages that quote the figures
    return 1 if failed or report.client_errors(results) else 0


def _measured(name: str, sizes: Sizes, config: argparse.Namespace, results: dict[str, Any]) -> bool:
    cycles: list[dict[str, Any]] = []
    number = 1 if config.tiny else config.cycles or CYCLES.get(name, 3)
    succeeded = True
    disk, before = machine.disk_sync_ms(BUILD, times=2 if config.tiny else 100), machine.stolen()
    for turn in range(number):
        cycle: dict[str, Any] = {}
        started_at = time.perf_counter()
        try:
            for contender, numbers in SCENARIOS[name](sizes):
                cycle[contender] = numbers
                _say(f"{name} {turn + 1}/{number} {contender}: {_brief(numbers)}")
        except Failed as error:
            _say(f"{name} {turn + 1}/{number} FAILED: {error}")
            succeeded = False
        _say(f"{name} {turn + 1}/{number} took {time.perf_counter() - started_at:.0f} s")
        if cycle:
            cycles.append(cycle)
    if cycles:
        results[name] = {
            "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),  # noqa: TID251 - no bridge here
            "commit": machine.commit(),
            "machine": machine.description(),
            "disk_sync_ms": disk,
            "stolen": _share(before, machine.stolen()),
            "cycles": cycles,
        }
    return succeeded


def _share(before: tuple[int, int], after: tuple[int, int]) -> float:
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


def _brief(numbers: dict[str, Any]) -> str:
    keys: tuple[str, ...] = (
        "events_per_second",
        "cpu_us_per_event",
        "p99_us",
        "all_p99_us",
        "server_util",
        "skipped",
        "missing_last",
    )
    keys += (
        "kb_per_connection",
        "per_second",
        "cpu_ms",
        "scrape_ms",
        "beside_p99_ms",
        "cpu_us",
        "lag_p99_ms",
        "aborted",
        "back",
        "closed",
    )
    return " ".join(f"{key}={numbers[key]:.6g}" for key in keys if key in numbers)


def _tiny(results: dict[str, Any]) -> str:
    rows = sum(len(cycle) for result in results.values() for cycle in result["cycles"])
    judged = sum(1 for _ in report.targets(results, TINY))
    report.markdown(results)
    errors = "\n".join(f"WRONG: {one}" for one in report.client_errors(results))
    summary = f"tiny: {len(results)} scenarios, {rows} runs, {judged} targets computed, none judged"
    return f"{summary}\n{errors}".strip()


def _say(line: str) -> None:
    print(line, flush=True)


def _parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--tiny", action="store_true", help="seconds instead of minutes; the numbers are meaningless"
    )
    parser.add_argument("--cycles", type=int, help="number of cycles (3)")
    parser.add_argument("--results", type=Path, help="file of the results between runs")
    parser.add_argument("--no-write", action="store_true", help="do not change docs/benchmarks.md")
    config = parser.parse_args(words)
    if unknown := set(config.scenarios) - set(SCENARIOS):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}; available: {', '.join(SCENARIOS)}")
    return config


if __name__ == "__main__":
    sys.exit(main())

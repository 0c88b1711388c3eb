"""`make bench replicas`: several bridges on one engine, and what the engine computes for them.

python -m tests.bench.replicas                      everything, half an hour; writes docs/benchmarks.md
python -m tests.bench.replicas cost failover        some parts; the others keep their newest numbers
python -m tests.bench.replicas --tiny               takes a minute: checks that the code runs, writes nothing
"""

from __future__ import annotations

import argparse
import asyncio
import json
import runpy
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.contenders import BUILD, ROOT, build
from tests.bench.replicas import clients, parts, report
from tests.bench.replicas.parts import FULL, TINY, Row, Sizes
from tests.chaos.long import say
from tests.replicas.engines import available

PARTS: dict[str, Callable[[Sizes], AsyncIterator[Row]]] = {
    "cost": parts.cost,
    "busy": clients.busy,
    "ceiling": clients.ceiling,
    "quiet": parts.quiet,
    "failover": parts.failover,
    "limit": parts.limit,
    "resume": parts.resume,
    "workers": parts.workers,
}


async def main(words: list[str] | None = None) -> int:
    """Run the parts given on the command line; the exit code."""
    config = _parsed(words)
    build()
    sizes = replace(TINY if config.tiny else FULL, engine=config.engine)
    path = BUILD / "replicas.json"
    results: dict[str, Any] = {}
    page = ROOT / "docs" / "benchmarks.md"
    if not config.tiny:
        # What another machine measured, or a build folder that is gone, is in the page.
        measured = json.loads(path.read_text()) if path.exists() else {}
        results = report.newest(report.read(page), measured)
    for name in config.parts or PARTS:
        rows = {}
        async for row, numbers in PARTS[name](sizes):
            rows[row] = numbers
            say(f"{name}: {row}: " + ", ".join(f"{key} {value:,.4g}" for key, value in numbers.items()))
        results[name] = {
            "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),  # noqa: TID251 - no bridge here
            "commit": machine.commit(),
            "engine": config.engine,
            "rows": rows,
        }
        if not config.tiny:
            path.write_text(json.dumps(results, indent=1))
    results = {name: results[name] for name in PARTS if name in results}
    say(report.text(results))
    report.markdown(results)
    if not (config.tiny or config.no_write):
        report.write(results, page)
        runpy.run_path(str(ROOT / "docs" / "generate.py"))["main"]()  # the pages that quote the figures
    return 0


def _parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--tiny", action="store_true", help="the numbers are meaningless")
    parser.add_argument("--engine", default=next(iter(available()), "valkey"))
    parser.add_argument("--no-write", action="store_true", help="do not change docs/benchmarks.md")
    config = parser.parse_args(words)
    if unknown := set(config.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return config


if __name__ == "__main__":
    Path(BUILD).mkdir(parents=True, exist_ok=True)
    sys.exit(asyncio.run(main()))

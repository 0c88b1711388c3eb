"""`make webhooks`: 100,000 deliveries to receivers that fail a third of the time.

make webhooks                   ten endpoints, 10,000 tasks, one bridge with a file
make webhooks KIND=three        three bridges on one engine; KIND=workers: three workers
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.webhooks.flood import Plan, flood


def main() -> int:
    """Run it; exit code 1 if anything was lost, doubled under another id or out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.webhooks.long", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--kind", choices=["one", "three", "workers"], default="one")
    parser.add_argument("--failing", type=int, default=2, help="attempts about one content that may fail")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    plan = Plan(
        tasks=asked.tasks,
        endpoints=asked.endpoints,
        kind=asked.kind,
        failing=asked.failing,
        seed=asked.seed,
        patience=400.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        told = asyncio.run(flood(plan, Path(folder)))
    print(told)  # noqa: T201 - a program for the terminal
    for fault in told.faults[:50]:
        print(fault)  # noqa: T201
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())

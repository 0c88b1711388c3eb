"""`make chaos-replicas`: three bridges on one engine, everything that may break, seed after seed.

SEEDS ("1 2 3", or "1-50"), SECONDS (75) each, REPLICAS (3), ENGINE (valkey, redis7, redis62; in turn),
ACTS (separated by commas; "long outage" and "split" only when named), MOVES ("1-8" seconds, or "none"). Exit
code 1 when the judge found a fault.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator

from tests.chaos.long import say
from tests.replicas.acts import ENGINE_ACTS, ON_DEMAND, REPLICA_ACTS
from tests.replicas.engines import engine_process
from tests.replicas.story import Plan, Verdict, play

SHOWN = 20


async def main() -> int:
    """Everything; the exit code."""
    engines = os.environ.get("ENGINE", "valkey").split()
    faults: Counter[int] = Counter()
    for number, seed in enumerate(_seeds(os.environ.get("SEEDS", "1"))):
        name = engines[number % len(engines)]
        async with engine_process(name) as engine:
            verdict = await play(_plan(seed), engine)
        _tell(seed, name, verdict)
        faults[seed] = len(verdict.faults) + len(verdict.slow)
    wrong = {seed: count for seed, count in faults.items() if count}
    say(f"{len(faults)} seeds, {sum(faults.values())} faults{f', in {wrong}' if wrong else ''}")
    return 1 if wrong else 0


def _plan(seed: int) -> Plan:
    acts = tuple(filter(None, os.environ.get("ACTS", "").split(","))) or (*REPLICA_ACTS, *ENGINE_ACTS)
    if unknown := set(acts) - {*REPLICA_ACTS, *ENGINE_ACTS, *ON_DEMAND}:
        sys.exit(f"unknown acts: {', '.join(sorted(unknown))}")
    wish = os.environ.get("MOVES", "1-8")
    low, _, high = wish.partition("-")
    moves = None if wish == "none" else (float(low), float(high))
    seconds, count = float(os.environ.get("SECONDS", "75")), int(os.environ.get("REPLICAS", "3"))
    return Plan(seed=seed, seconds=seconds, count=count, acts=acts, moves=moves)


def _tell(seed: int, engine: str, verdict: Verdict) -> None:
    say(f"seed {seed}, {engine}: {verdict}")
    for line in verdict.lines:
        say(f"  {line}")
    for what in verdict.judge.tolerated[:SHOWN]:
        say(f"  allowed: {what}")
    for fault in verdict.faults[:SHOWN]:
        say(f"  FAULT {fault}")
    for slow in verdict.slow[:SHOWN]:
        say(f"  SLOW {slow}")


def _seeds(text: str) -> Iterator[int]:
    for part in text.split():
        low, _, high = part.partition("-")
        yield from range(int(low), int(high or low) + 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""Measures the checkout whose `bridge` is imported, and writes the numbers as JSON.

    python -m tests.pacing.measure RESULTS.json [--seeds 5] [--part fast ...] [--workload NAME ...]

`python -m tests.pacing` runs this for the working tree, and for another commit in a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import orjson

from tests.pacing import fast, whole
from tests.pacing.fixed import CLIENTS, client
from tests.pacing.numbers import mean
from tests.pacing.workloads import FLOOD, MISLEADING, WORKLOADS

PROCESSES = 2
COLD_TASKS = 25
COLD_STARTS = 24
RESTARTED = (
    "video log-normal .25",
    "video jitter 3 %",
    "image",
    "many models",
    "estimate x0.5",
    "progress linear",
    "queue M/G/k",
)
RESTARTS = 6
LEARNED_TASKS = 150
EXAMPLE, EXAMPLE_END_SECONDS = "video log-normal .25", 135.0
"""The task of the picture: it ends later than most, where the polls used to become rare."""

CLIENTS_ON = ("video log-normal .25", "image mix of 79 models")

Numbers = dict[str, float]
Results = dict[str, dict[str, Numbers]]
"""By part and row, the means over the seeds."""


class Job(NamedTuple):
    """One run.

    Args:
        tasks: How many; None for as many as the workload has.
    """

    part: str
    row: str
    seed: int
    tasks: int | None


def _fast(job: Job) -> Numbers:
    workload = FLOOD if job.part == "flood" else (WORKLOADS | MISLEADING)[job.row]
    return fast.judge(workload, job.seed, job.tasks).as_dict()


def _cold(job: Job) -> Numbers:
    seeds = range(1_000 * (job.seed + 1), 1_000 * (job.seed + 1) + COLD_STARTS)
    return fast.cold(WORKLOADS[job.row], seeds, COLD_TASKS).as_dict()


def _restart(job: Job) -> Numbers:
    seeds = range(RESTARTS * job.seed, RESTARTS * (job.seed + 1))
    return fast.restarted(WORKLOADS[job.row], seeds, LEARNED_TASKS, COLD_TASKS)


def _whole(job: Job) -> Numbers:
    return whole.judge(whole.WHOLE[job.row], job.seed, job.tasks)


def _whole_restart(job: Job) -> Numbers:
    return whole.restarted(job.seed)


def _example(job: Job) -> Numbers:
    return fast.judge_one(WORKLOADS[job.row], EXAMPLE_END_SECONDS)


def _clients(job: Job) -> Numbers:
    """What other clients do by themselves: needs nothing of the product."""
    name, _, on = job.row.partition(" on ")
    delays = client(WORKLOADS[on].draw(job.seed, job.tasks), CLIENTS[name], job.seed)
    return {"polls": delays.polls, "mean": delays.mean, "p95": delays.p95, "start": delays.start}


PARTS: dict[str, tuple[Callable[[Job], Numbers], tuple[str, ...]]] = {
    "fast": (_fast, tuple(WORKLOADS)),
    "flood": (_fast, (FLOOD.name,)),
    "misleading": (_fast, tuple(MISLEADING)),
    "cold": (_cold, tuple(WORKLOADS)),
    "restart": (_restart, RESTARTED),
    "whole": (_whole, tuple(whole.WHOLE)),
    "whole restart": (_whole_restart, (whole.RESTART.name,)),
    "example": (_example, (EXAMPLE,)),
    "clients": (_clients, tuple(f"{name} on {on}" for on in CLIENTS_ON for name in CLIENTS)),
}

MAX_SEEDS = {"example": 1, "cold": 1, "restart": 1, "whole": 3, "whole restart": 4}


def _run(job: Job) -> Numbers:
    logging.disable(logging.CRITICAL)
    return PARTS[job.part][0](job)


def measure(
    parts: Iterable[str], *, seeds: int, tasks: int | None = None, rows: Iterable[str] | None = None
) -> Results:
    """Run all rows of these parts.

    Args:
        rows: Only these rows.
    """
    wanted = None if rows is None else set(rows)
    jobs = [
        Job(part, row, seed, tasks)
        for part in parts
        for row in PARTS[part][1]
        if wanted is None or row in wanted
        for seed in range(min(seeds, MAX_SEEDS.get(part, seeds)))
    ]
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        done = pool.map(_run, jobs, chunksize=1)
    together: dict[tuple[str, str], list[Numbers]] = {}
    for job, numbers in zip(jobs, done, strict=True):
        together.setdefault((job.part, job.row), []).append(numbers)
    results: Results = {}
    for (part, row), of_seeds in together.items():
        results.setdefault(part, {})[row] = _means(of_seeds)
    return results


def _means(of_seeds: list[Numbers]) -> Numbers:
    """The means, and the 95 % confidence interval of the share."""
    means = {name: mean(one[name] for one in of_seeds) for name in of_seeds[0]}
    if "share" in means and len(of_seeds) > 1:
        spread = sum((one["share"] - means["share"]) ** 2 for one in of_seeds) / (len(of_seeds) - 1)
        means["share_interval"] = 1.96 * math.sqrt(spread / len(of_seeds))
    return means


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What both commands understand."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", type=int, help="tasks of a workload, instead of its own number")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this part")
    parser.add_argument("--workload", action="append", help="only this row")
    return parser


def main() -> None:
    """Measure and write."""
    parser = arguments(__doc__)
    parser.add_argument("results", type=Path)
    args = parser.parse_args()
    results = measure(args.part or PARTS, seeds=args.seeds, tasks=args.tasks, rows=args.workload)
    # JSON has no NaN: orjson writes null.
    args.results.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()

"""`make bench compare COMMIT=...`: CPU of this tree beside another commit; fails if it costs more.

    python -m bench.compare COMMIT [--pairs 5] [--limit 5] [CASE ...]

Each case measures the CPU of the bridge for one thing it does. The other commit is checked out below
build/bench, and its bridge runs with the packages of this environment; load and provider are this tree's.
In every second pair the other commit goes first. The median of the ratios of the pairs decides, since the
machine changes its speed more than a commit does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.contenders import BUILD, LOAD_CORE, ROOT, Failed, build, loading, ours
from bench.scenarios import BUSY, FULL, TINY, Sizes, flooded, in_lockstep, opened, watched

Case = Callable[[Path, Sizes], float]


@dataclass(frozen=True)
class Comparison:
    """What the pairs of one case show.

    Args:
        pairs: CPU microseconds of this tree and of the other commit.
        limit: Share by which this tree may cost more.
    """

    case: str
    pairs: list[tuple[float, float]]
    limit: float

    @property
    def ratios(self) -> list[float]:
        """This tree over the other commit."""
        return [mine / other for mine, other in self.pairs]

    @property
    def holds(self) -> bool:
        """Whether the median is within the limit."""
        return median(self.ratios) <= 1 + self.limit

    def __str__(self) -> str:
        mine, other = (median(side) for side in zip(*self.pairs, strict=True))
        ratios = self.ratios
        return (
            f"{'ok  ' if self.holds else 'MORE'}  {self.case:16} {median(ratios):.3f}x"
            f" ({min(ratios):.3f}-{max(ratios):.3f})  {mine:.1f} us, was {other:.1f}"
        )


def sse(root: Path, sizes: Sizes) -> float:
    """An event of one task to one of many streams, recorded in the file."""
    with ours(root=root) as server, loading(server) as load:
        return _cpu(in_lockstep(server, load, sizes.few, sizes.few_rounds))


def many_memory(root: Path, sizes: Sizes) -> float:
    """An event of many tasks with the memory journal."""
    return _many(root, sizes, memory=True)


def many_durable(root: Path, sizes: Sizes) -> float:
    """An event of many tasks, recorded in the file."""
    return _many(root, sizes, memory=False)


def connect_sse(root: Path, sizes: Sizes) -> float:
    """A new SSE stream with its first state."""
    return _connect(root, sizes, websocket=False)


def connect_ws(root: Path, sizes: Sizes) -> float:
    """A new WebSocket with its first state."""
    return _connect(root, sizes, websocket=True)


def poll(root: Path, sizes: Sizes) -> float:
    """A poll whose answer is the same as before."""
    return float(watched(sizes, min(sizes.watched, 4_000), BUSY, root=root)["cpu_us"])


CASES: dict[str, Case] = {
    case.__name__: case for case in (sse, many_memory, many_durable, connect_sse, connect_ws, poll)
}


def compare(
    cases: dict[str, Case], other: Path, *, sizes: Sizes, pairs: int, limit: float, mine: Path = ROOT
) -> list[Comparison]:
    """Measure all cases of both trees, in pairs whose order alternates."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for turn in range(pairs):
        for name, case in cases.items():
            order = (mine, other) if turn % 2 == 0 else (other, mine)
            cost = {root: case(root, sizes) for root in order}
            found[name].append((cost[mine], cost[other]))
            print(f"{turn + 1}/{pairs} {name}: {cost[mine]:.1f} us, was {cost[other]:.1f}", flush=True)
    return [Comparison(name, ratios, limit) for name, ratios in found.items()]


@contextmanager
def checked_out(commit: str, *, repository: Path = ROOT, below: Path = BUILD) -> Iterator[Path]:
    """A work tree of a commit.

    Raises:
        Failed: There is no such commit.
    """

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"git {words[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    name = git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    tree = below / f"compared-{name[:12]}"
    git("worktree", "prune")
    git("worktree", "add", "--force", "--detach", str(tree), name)
    try:
        yield tree
    finally:
        git("worktree", "remove", "--force", str(tree))


def main(words: list[str] | None = None, *, cases: dict[str, Case] | None = None, root: Path = ROOT) -> int:
    """Print the comparison; 1 if a case costs more than the limit allows."""
    cases = CASES if cases is None else cases
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("commit", help="the commit that this tree is compared with")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(cases))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=5.0, help="per cent by which this tree may cost more")
    parser.add_argument("--tiny", action="store_true", help="takes seconds; the figures mean nothing")
    config = parser.parse_args(words)
    if unknown := set(config.cases) - set(cases):
        parser.error(f"unknown case: {', '.join(sorted(unknown))}; available: {', '.join(cases)}")
    wanted = {name: cases[name] for name in config.cases or cases}
    build()
    if (os.cpu_count() or 1) > LOAD_CORE:
        os.sched_setaffinity(0, {LOAD_CORE})
    try:
        with checked_out(config.commit, repository=root, below=BUILD) as other:
            compared = compare(
                wanted,
                other,
                sizes=TINY if config.tiny else FULL,
                pairs=config.pairs,
                limit=config.limit / 100,
                mine=root,
            )
    except Failed as error:
        print(f"FAILED: {error}")
        return 2
    print(*compared, sep="\n")
    return 0 if all(one.holds for one in compared) else 1


def _many(root: Path, sizes: Sizes, *, memory: bool) -> float:
    with ours(inproc=True, memory=memory, tasks=sizes.tasks, root=root) as server:
        return _cpu(flooded(server, sizes, sizes.tasks, sizes.viewers, 100))


def _connect(root: Path, sizes: Sizes, *, websocket: bool) -> float:
    with ours(websocket=websocket, root=root) as server, loading(server) as load:
        opened(load, 20, 20)
        return float(opened(load, sizes.connects, sizes.at_once)["cpu_us_per_connection"])


def _cpu(numbers: dict[str, float]) -> float:
    """The CPU of an event; a client that ended wrong fails the run."""
    wrong = {key: numbers[key] for key in ("missing_last", "repeats", "backwards", "foreign") if numbers[key]}
    if wrong:
        raise Failed(f"clients ended wrong: {wrong}")
    return float(numbers["cpu_us_per_event"])


if __name__ == "__main__":
    sys.exit(main())

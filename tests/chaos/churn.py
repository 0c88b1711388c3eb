"""Tasks that come, live and end, and clients that come, go and come back, for as long as one likes.

Each client that stayed is judged once it is over and then forgotten: what runs for hours must not grow here.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.judge import Account
from tests.chaos.site import Studio
from tests.chaos.viewers import Viewers

_REMEMBERED = 200


@dataclass
class Churn:
    """Keeps a scene busy.

    Args:
        tasks_per_second: How many tasks begin.
        viewers_per_task: How many clients each of them has, more or less.
        leaving: The share of clients that vanish by a reset before the end.

    Attributes:
        judged: How many clients were found to hold the truth, or were told otherwise by `verdict`.
    """

    provider: Studio
    viewers: Viewers
    chance: random.Random
    tasks_per_second: float = 8.0
    viewers_per_task: int = 4
    leaving: float = 0.2
    judged: int = 0
    tasks: int = 0
    vanished: int = 0
    wrong: list[str] = field(default_factory=list)
    _recent: deque[str] = field(default_factory=lambda: deque(maxlen=10))
    _ending: deque[str] = field(default_factory=deque)

    async def run(self, seconds: float) -> None:
        """Let tasks and clients come for so long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            (ref,) = await self.provider.submit([self._life()])
            self.tasks += 1
            self._recent.append(ref)
            self._ending.append(ref)
            for _ in range(self.chance.randint(1, 2 * self.viewers_per_task - 1)):
                self._arrive(ref)
            self._vanish()
            self.settle()
            await asyncio.sleep(self.chance.expovariate(self.tasks_per_second))

    def settle(self) -> None:
        """Judge who is over; forget them and the tasks that nobody asks for any more."""
        judge = self.viewers.judge
        over = [one for one in judge.accounts if one.over or one.left]
        for account in over:
            if account.over and not account.left:
                self.wrong += account.missing(self.provider.truth(account.refs))
                self.judged += 1
        gone = set(map(id, over))
        judge.accounts = [one for one in judge.accounts if id(one) not in gone]
        self._forget_tasks(judge.accounts)

    async def finish(self, seconds: float) -> None:
        """Wait for everybody who stayed, and judge them."""
        await self.viewers.all_over(seconds)
        self.settle()

    def verdict(self) -> list[str]:
        """Everything that was wrong."""
        return [*self.viewers.judge.faults, *self.wrong]

    def _life(self) -> dict[str, Any]:
        outcome = "failed" if self.chance.random() < 0.15 else "completed"
        queue, run = self.chance.uniform(0, 1.5), self.chance.uniform(0.5, 8)
        return {"queue_seconds": queue, "run_seconds": run, "outcome": outcome}

    def _arrive(self, ref: str) -> None:
        kind = self.chance.random()
        some = list(dict.fromkeys([ref, *self._recent]))[: self.chance.randint(2, 8)]
        if kind < 0.6 or len(some) < 2:
            self.viewers.sse(ref)
        elif kind < 0.8:
            self.viewers.sse(*some)
        elif kind < 0.9:
            self.viewers.socket(*some[:3])
        else:
            self.viewers.client(*some[:2])

    def _vanish(self) -> None:
        staying = [one for one in self.viewers.judge.accounts if not (one.over or one.left)]
        number = sum(self.chance.random() < self.leaving for _ in range(self.viewers_per_task))
        leaving: list[Account] = self.chance.sample(staying, min(number, len(staying)))
        self.vanished += len(leaving)
        self.viewers.vanish(leaving)

    def _forget_tasks(self, accounts: list[Account]) -> None:
        """The provider's own memory is not what is looked at here."""
        if len(self._ending) <= _REMEMBERED:
            return
        asked = {ref for account in accounts for ref in account.refs} | set(self._recent)
        store, calls = self.provider.running.world.store, self.provider.running.world.calls
        while len(self._ending) > _REMEMBERED and self._ending[0] not in asked:
            task_id = self._ending.popleft().partition("/")[2]
            del store._tasks[self.provider.name, task_id]
        self.provider.looks.clear()
        calls.reset()

"""The submitted tasks, their owners, and the stage of each at a given time."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bridge.simulator.clock import wake
from bridge.simulator.faults import ArmedFault
from bridge.simulator.lifecycle import Lifecycle, Media, Stage

Json = dict[str, object]
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task at one moment; `word` replaces the provider's own status word."""

    stage: Stage
    progress: int
    at: float
    word: str | None = None

    def with_word(self, word: str) -> "TaskView":
        return replace(self, word=word)


@dataclass(slots=True, kw_only=True)
class Task:
    """One submitted task. Its transitions are planned at the start; only a cancel changes them."""

    provider: str
    number: int
    id: str
    key: str
    origin: str
    body: Json
    media: Media
    lifecycle: Lifecycle
    created_at: float
    shape: Json = field(default_factory=dict)
    faults: tuple[ArmedFault, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    vendor: str = ""
    action: str = ""
    callback_url: str | None = None
    files_url: str = ""
    cancelled_at: float | None = None
    gone: bool = False
    shown: int = 0
    final_shown: bool = False
    wakeups: set[asyncio.Future[None]] = field(default_factory=set)

    @property
    def model(self) -> str:
        return str(self.body.get("model") or self.body.get("model_name") or "")

    @property
    def transitions(self) -> list[tuple[float, Stage]]:
        running = self.created_at + self.lifecycle.queue_seconds
        steps = [
            (self.created_at, Stage.QUEUED),
            (running, Stage.RUNNING),
            (running + self.lifecycle.run_seconds, self.lifecycle.outcome),
        ]
        if self.cancelled_at is None:
            return steps
        return [
            *(step for step in steps if step[0] <= self.cancelled_at),
            (self.cancelled_at, Stage.CANCELLED),
        ]

    @property
    def ends_at(self) -> float:
        return self.transitions[-1][0]

    def position(self, now: float) -> int:
        """Return the index of the last transition that has happened."""
        return sum(when <= now for when, _ in self.transitions) - 1

    def view(self, now: float) -> TaskView:
        when, stage = self.transitions[max(0, self.position(now))]
        if stage is Stage.RUNNING:
            done = (now - when) / self.lifecycle.run_seconds if self.lifecycle.run_seconds else 1.0
            return TaskView(stage=stage, progress=max(1, min(99, int(done * 100))), at=now)
        return TaskView(stage=stage, progress=100 if stage is Stage.COMPLETED else 0, at=now)

    def cancel(self, now: float) -> None:
        self.cancelled_at = now
        for future in list(self.wakeups):
            wake(future)


class TaskStore:
    """Tasks by provider and id, and the aliases under which a provider finds them."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], Task] = {}
        self._aliases: dict[tuple[str, str, str], Task] = {}
        self._numbers: dict[str, int] = {}

    def next_number(self, provider: str) -> int:
        number = self._numbers.get(provider, 0) + 1
        self._numbers[provider] = number
        return number

    def last_number(self, provider: str) -> int:
        return self._numbers.get(provider, 0)

    def add(self, task: Task) -> None:
        self._tasks[task.provider, task.id] = task

    def name(self, task: Task, kind: str, alias: str) -> None:
        """Add an alias for a task among the tasks of its own key (`out_task_id`, `file_id`)."""
        self._aliases[kind, task.key, alias] = task

    def find(self, provider: str, task_id: str, key: str) -> Task | None:
        """Return the task; `None` also when it belongs to another key (seeds 000 and 004)."""
        task = self._tasks.get((provider, task_id))
        return task if task is not None and task.key == key else None

    def named(self, kind: str, key: str, alias: str) -> Task | None:
        return self._aliases.get((kind, key, alias))

    def forget(self, *, ended_before: float) -> list[Task]:
        """Remove the tasks that ended before a time, with their aliases; return them."""
        ended = [task for task in self._tasks.values() if task.ends_at < ended_before]
        for task in ended:
            del self._tasks[task.provider, task.id]
        gone = {id(task) for task in ended}
        self._aliases = {name: task for name, task in self._aliases.items() if id(task) not in gone}
        return ended

    def everything(self) -> list[Task]:
        return list(self._tasks.values())


def ulid(rng: random.Random) -> str:
    """Return 26 characters shaped like a ULID; it starts with `01`, as ULIDs of this century do."""
    return "01" + "".join(rng.choices(CROCKFORD, k=24))


def digits(rng: random.Random, length: int = 15) -> str:
    return str(rng.randint(1, 9)) + "".join(rng.choices("0123456789", k=length - 1))

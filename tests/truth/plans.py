"""What each scripted task goes through: its life, its troubles, and what its viewers must hold in the end."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from bridge.simulator.lifecycle import Lifecycle, Media, Stage
from bridge.simulator.recorded.style import RecordedStyle
from bridge.simulator.recorded.substitution import file_name
from bridge.simulator.tasks import Task

ORIGIN = "https://provider.example"

ABOUT_TASK = ("404", "html", "truncated", "empty", "list", "huge", "400", "402", "403", "word", "202", "204")
ABOUT_WAY = ("refused", "reset", "timeout", "500", "502", "503", "504", "drip")
ABOUT_RATE = ("429", "429-after", "429-date", "503-after", "503-date")
LENIENT = ("bom", "trailing", "nan", "control", "surrogate", "bytes", "gbk", "spaces", "listed")
RESULT = ("404", "403", "empty-link", "html", "500", "timeout", "reset", "429", "not-ready", "202")
STREAM = ("break", "garbage", "part-failed", "silent", "refused")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One kind of fault for some time, in seconds of the clock that never jumps."""

    kind: str
    begins: float
    ends: float

    def at(self, now: float) -> bool:
        """Whether it is so now."""
        return self.begins <= now < self.ends


@dataclass(slots=True, eq=False)
class Plan:
    """One task: what the provider does with it.

    Attributes:
        born: Since when the provider has it.
        exists: Whether it has it at all.
        lenient: How every answer is broken in a way that usual parsers read.
        hint: Seconds that each answer asks to wait, in `Retry-After`.
        called_back: When an authentic callback names it; None for never.
        result: Trouble of the second call.
        never: Whether the second call brings no result, ever.
    """

    ref: str
    name: str
    task: Task
    preset: Any
    born: float
    exists: bool = True
    submitted: bool = False
    lenient: str | None = None
    hint: float | None = None
    called_back: float | None = None
    troubles: list[Trouble] = field(default_factory=list)
    result: list[Trouble] = field(default_factory=list)
    stream: str | None = None
    never: bool = False
    lost: bool = False
    bodies: dict[Any, Any] = field(default_factory=dict)
    asked: int = 0

    @property
    def ends(self) -> float:
        """When the provider shows the end, by the clock that never jumps."""
        return self.born + self.task.lifecycle.seconds

    @property
    def outcome(self) -> Stage:
        """Its last stage."""
        return self.task.lifecycle.outcome

    @property
    def calm_from(self) -> float:
        """When its own trouble is over."""
        return max([self.born, *(one.ends for one in (*self.troubles, *self.result))])

    @property
    def only_its_own(self) -> bool:
        """Whether no trouble of it can be taken for the provider's."""
        return all(one.kind in ABOUT_TASK for one in self.troubles) and all(
            one.kind in {"404", "403", "empty-link", "html", "not-ready", "202"} for one in self.result
        )

    @property
    def final_status(self) -> str:
        """The provider's last word, by its recorded answer."""
        return str(self._last.expect["status"])

    @property
    def _last(self) -> Any:
        """The recorded answer of its end."""
        return RecordedStyle(self.preset, 0)._recording_for(self.task, self.outcome)

    @property
    def links(self) -> int:
        """How many links its result has."""
        if self.final_status != "completed" or self.never:
            return 0
        recording = self._last
        if "follow" in recording.expect and self.preset.follow_up is not None:
            recording = self.preset.follow_up
        outputs: Any = recording.expect.get("outputs", [])
        return sum(1 for one in outputs if one.get("url"))

    @property
    def file(self) -> str:
        """What each of its links contains."""
        return str(file_name(self.task.id))

    @property
    def followed(self) -> bool:
        """Whether its result needs a second call."""
        return "follow" in self._last.expect and self.preset.follow_up is not None


def make_task(style: Any, number: int, *, wall: float, life: Lifecycle, shape: dict[str, Any]) -> Task:
    """A task as the simulator knows it; `wall` is when it was made, Unix seconds."""
    task = Task(
        provider=style.name,
        number=number,
        id=style.new_id(number),
        key="k",
        origin=ORIGIN,
        body={"model": "m-1"},
        media=Media.VIDEO,
        lifecycle=life,
        created_at=wall,
        shape=shape,
        options=style.preset.submitted.options,
    )
    if life.outcome is Stage.CANCELLED:
        task.cancelled_at = wall + life.seconds
    return task


def some_life(chance: random.Random, *, cancels: bool) -> Lifecycle:
    """A life of up to three minutes."""
    outcome = chance.choices([Stage.COMPLETED, Stage.FAILED, Stage.CANCELLED], [7, 2, 1 if cancels else 0])[0]
    return Lifecycle(
        queue_seconds=chance.choice([0.0, chance.uniform(0, 20)]),
        run_seconds=chance.uniform(1, 160),
        outcome=outcome,
    )


def trouble_at(chance: random.Random, plan: Plan, kinds: tuple[str, ...]) -> Trouble:
    """Trouble some time in the life of a task, or at its end."""
    kind = chance.choice(kinds)
    life = plan.ends - plan.born
    begins = plan.born + chance.choice([0.0, chance.uniform(0, life), life - 3])
    seconds = chance.choice([3.0, chance.uniform(3, 60), chance.uniform(60, 200)])
    if kind in {"202", "204"}:
        # An empty answer says that the provider works on it, not that the task waits.
        begins = max(begins, plan.born + plan.task.lifecycle.queue_seconds)
    if kind == "404":
        # Shorter than what is believed: not yet seen one second, seen ten.
        early = begins - plan.born < 15
        if early and not plan.submitted and plan.called_back is None:
            begins, seconds = plan.born, 0.9
        else:
            seconds = 55 - max(begins - plan.born, 0) if early else 9.0
            begins, seconds = (plan.born, 50.0) if early else (begins, seconds)
    return Trouble(kind, max(begins, plan.born), max(begins, plan.born) + seconds)

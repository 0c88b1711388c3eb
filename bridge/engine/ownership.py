"""Between the watches and what decides which process polls a task.

One process alone polls everything it watches (`bridge.watchers.sole.SoleOwner`). Replicas on one engine ask
first
(`bridge.replica`): a watch then either owns its task and polls it, or attends to it and receives its states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bridge.core.event import Confirmation, Event, Notice
from bridge.core.task import TaskKey


class KnownTask(NamedTuple):
    """What a process knows of a task when it learns whether it polls it.

    Args:
        event: The newest recorded state; None without any.
        due: When the owner before wanted to poll it next, monotonic seconds; None if unknown.
        polled_at: No owner before started a poll of it after this, monotonic seconds; minus infinity if none
            is known.
        persistent: Whether it is watched until its end without viewers.
        called_back: Whether the provider was asked to call back.
        confirmation: When the newest state, or one before, was last seen again; None if unknown.
        notices: The active ones. The hub has them from the journal already.
    """

    event: Event | None
    due: float | None = None
    polled_at: float = float("-inf")
    persistent: bool = False
    called_back: bool = False
    confirmation: Confirmation | None = None
    notices: Sequence[Notice] = ()


class Watches(Protocol):
    """The watches of this process, as the ownership reports to them. Called on the event loop; nothing
    waits.
    """

    def granted(self, key: TaskKey, known_task: KnownTask) -> None:
        """This process polls the task from now on; starts a watch, without viewers, if none runs."""

    def attends(self, key: TaskKey, known_task: KnownTask) -> None:
        """Another process polls it, or none yet; the watch, if one runs, polls no more."""

    def recorded_elsewhere(self, event: Event) -> None:
        """A state that another process recorded. The hub has it from the journal already."""

    def forgotten(self, key: TaskKey) -> None:
        """The task was deleted; it may have begun again since."""

    def confirmed_elsewhere(self, key: TaskKey, confirmation: Confirmation) -> None:
        """The owner saw the newest state again. Copies have it from the journal already."""

    def noticed_elsewhere(self, key: TaskKey, notice: Notice) -> None:
        """The owner announced a notice. The hub has it from the journal already."""

    def called(self, key: TaskKey, *, called_back: bool) -> None:
        """Another process asks the owner, this one, to poll the task now."""

    def cut_off(self, *, since: float | None) -> None:
        """The engine is unreachable since then (monotonic seconds); None: it is reachable again."""


class Ownership(Protocol):
    """Decides which process polls a task. No method waits; `Watches` receives the answers.

    Attributes:
        shared: Whether other processes may own tasks. If not, every watch owns its task from the start.
    """

    shared: bool

    def report_to(self, watches: Watches) -> None:
        """Answer to these watches."""

    def want(self, key: TaskKey) -> None:
        """A watch has started here: own its task if no other process does. Idempotent."""

    def drop(self, key: TaskKey) -> None:
        """The watch has ended here."""

    def keep(self, key: TaskKey, *, called_back: bool) -> None:
        """The task is watched until its end, by its owner."""

    def may_poll(self, key: TaskKey) -> bool:
        """Whether this process owns the task at this moment, and its lease has not run out. Cheap."""

    def polls(self, key: TaskKey) -> None:
        """A poll of it starts now: a successor does not start one within the shortest interval. Cheap."""

    def planned(self, key: TaskKey, due: float | None) -> None:
        """When the owner polls next, monotonic seconds: what a successor begins with."""

    def call(self, key: TaskKey, *, called_back: bool = False) -> None:
        """Ask the owner, elsewhere, to poll now; without one it is due now for the one that takes it."""

"""The state that the providers of one simulator share: clock, tasks, faults, call counts, callbacks."""

from dataclasses import dataclass, field

from bridge.simulator.callbacks import CallbackSender
from bridge.simulator.calls import CallCounts
from bridge.simulator.clock import SimulatorClock, WaitRegistry
from bridge.simulator.faults import FaultSet
from bridge.simulator.script import Script
from bridge.simulator.tasks import TaskStore


@dataclass(slots=True, kw_only=True)
class SimulatorState:
    """All mutable state of a running simulator.

    Args:
        providers: names of the simulated providers.
        sync_seconds: how long qingbo's synchronous call waits; not documented.
        heartbeat_seconds: seconds between heartbeats of a stream.
        files_url: prefix of the links to result files; empty for the simulator's own address.
    """

    providers: tuple[str, ...]
    seed: int
    speed: float
    framing: str
    sync_seconds: float
    heartbeat_seconds: float
    clock: SimulatorClock
    waits: WaitRegistry
    faults: FaultSet
    callbacks: CallbackSender
    files_url: str = ""
    store: TaskStore = field(default_factory=TaskStore)
    calls: CallCounts = field(default_factory=CallCounts)
    scripts: dict[tuple[str, str], Script] = field(default_factory=dict)

    def forget(self, *, ended_before: float) -> None:
        """Remove the tasks that ended before a time, so that a simulator that runs for days stays small."""
        for task in self.store.forget(ended_before=ended_before):
            self.calls.forget(task.provider, task.id)

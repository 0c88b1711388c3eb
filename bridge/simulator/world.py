"""Holds what the providers of one simulator share: time, tasks, faults, counts, callbacks."""

from dataclasses import dataclass, field

from bridge.simulator.callbacks import CallbackSender
from bridge.simulator.calls import Calls
from bridge.simulator.clock import SimulatorClock, Waits
from bridge.simulator.faults import FaultBook
from bridge.simulator.script import Script
from bridge.simulator.tasks import Store


@dataclass(slots=True, kw_only=True)
class World:
    """Everything that changes while the simulator runs.

    Args:
        providers: the names of those that are simulated.
        sync_seconds: how long qingbo's synchronous call waits; its docs do not say.
        heartbeat_seconds: the time between heartbeats of a stream.
    """

    providers: tuple[str, ...]
    seed: int
    speed: float
    framing: str
    sync_seconds: float
    heartbeat_seconds: float
    clock: SimulatorClock
    waits: Waits
    book: FaultBook
    callbacks: CallbackSender
    store: Store = field(default_factory=Store)
    calls: Calls = field(default_factory=Calls)
    scripts: dict[tuple[str, str], Script] = field(default_factory=dict)

"""Serves the providers, the result files and the control routes on one port."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from bridge.simulator import files
from bridge.simulator.bytespike import ByteSpike
from bridge.simulator.callbacks import CallbackSender
from bridge.simulator.clock import ManualClock, RealClock, SimulatorClock, WaitRegistry
from bridge.simulator.control import Control
from bridge.simulator.faults import FaultSet, parse_faults
from bridge.simulator.framing import parse_framing
from bridge.simulator.qingbo import Qingbo
from bridge.simulator.recorded.preset import NotSimulatable, Preset, load_preset, recorded_names
from bridge.simulator.recorded.provider import RecordedProvider
from bridge.simulator.state import SimulatorState
from bridge.simulator.vapi import Vapi

BODY_LIMIT = 64 * 1024 * 1024
GRACE_SECONDS = 0.2
STATE = web.AppKey("world", SimulatorState)


class RouteProvider(Protocol):
    """Anything with routes."""

    def routes(self) -> list[web.RouteDef]: ...


# Written by hand from the providers' documentation; they do more than their recordings show.
HANDWRITTEN: Mapping[str, Callable[[SimulatorState], RouteProvider]] = {
    "qingbo": Qingbo,
    "vapi": Vapi,
    "bytespike": ByteSpike,
}
WRITTEN = HANDWRITTEN  # the earlier name, which tests outside this repository import


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The options of a simulator; two with the same options behave the same.

    Args:
        presets: names of the providers to run: the three hand-written ones, or any with recordings.
        speed: divides the time that tasks are queued and running.
        faults: names or objects as in `docs/simulator.md`, for every provider.
        fault_rate: share of calls that `faults` apply to (0-1).
        framing: framing of ByteSpike's streams; several names can be joined with commas.
        manual_clock: time advances only with `POST /_sim/clock`.
        load: loads a preset that is not hand-written.
        sync_seconds: how long qingbo's synchronous call waits; not documented.
        challenge_seconds: time limit for the echo of a V-API challenge.
        heartbeat_seconds: seconds between heartbeats of a stream.
        files_url: prefix of the links to result files, if these are served elsewhere too.
    """

    presets: tuple[str, ...] = tuple(HANDWRITTEN)
    load: Callable[[str], Preset] = load_preset
    seed: int = 0
    speed: float = 1.0
    faults: tuple[object, ...] = ()
    fault_rate: float = 1.0
    framing: str = "data-only"
    manual_clock: bool = False
    sync_seconds: float = 30.0
    challenge_seconds: float = 3.0
    heartbeat_seconds: float = 15.0
    files_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A simulator that is listening."""

    url: str
    port: int
    state: SimulatorState

    @property
    def world(self) -> SimulatorState:
        """The earlier name of `state`, which tests outside this repository use."""
        return self.state


def make_app(options: SimulatorOptions) -> web.Application:
    """Build the simulator as one aiohttp application.

    Raises:
        ValueError: unknown fault, framing or preset, or a speed that is not positive.
    """
    if options.speed <= 0:
        raise ValueError("speed must be a positive number")
    parse_framing(options.framing)
    clock: SimulatorClock = ManualClock() if options.manual_clock else RealClock()
    waits = WaitRegistry(clock)
    presets = tuple(dict.fromkeys(options.presets))
    state = SimulatorState(
        providers=presets,
        seed=options.seed,
        speed=options.speed,
        framing=options.framing,
        sync_seconds=options.sync_seconds,
        heartbeat_seconds=options.heartbeat_seconds,
        files_url=options.files_url,
        clock=clock,
        waits=waits,
        faults=FaultSet(options.seed, parse_faults(options.faults), options.fault_rate),
        callbacks=CallbackSender(waits, options.challenge_seconds),
    )
    app = web.Application(client_max_size=BODY_LIMIT)
    app[STATE] = state
    for provider in (Control(state), *(_provider(name, state, options.load) for name in presets)):
        app.add_routes(provider.routes())
    app.add_routes(files.routes(state.calls))
    app.on_shutdown.append(_stop)
    return app


def simulated() -> dict[str, str]:
    """Return every preset with recordings and why it cannot be simulated (an empty string where it can)."""
    return {name: _reason(name) for name in recorded_names()}


def _reason(name: str) -> str:
    if name in HANDWRITTEN:
        return ""
    try:
        load_preset(name)
    except NotSimulatable as reason:
        return str(reason)
    return ""


def _provider(name: str, state: SimulatorState, load: Callable[[str], Preset]) -> RouteProvider:
    make = HANDWRITTEN.get(name)
    return make(state) if make else RecordedProvider(state, load(name))


@asynccontextmanager
async def start(options: SimulatorOptions, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Running]:
    """Listen while the context is open; streams still open when it closes are cut."""
    app = make_app(options)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=GRACE_SECONDS)
    await runner.setup()
    try:
        listening = _listen(host, port)
        await web.SockSite(runner, listening, backlog=1024).start()
        real_port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        yield Running(url=f"http://{shown}:{real_port}", port=real_port, state=app[STATE])
    finally:
        await runner.cleanup()


async def _stop(app: web.Application) -> None:
    await app[STATE].callbacks.close()
    app[STATE].waits.close()
    await asyncio.sleep(0)  # lets the cancelled handlers run


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening

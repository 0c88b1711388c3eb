"""Puts the providers, the files and the control routes behind one port."""

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
from bridge.simulator.clock import ManualClock, RealClock, SimulatorClock, Waits
from bridge.simulator.control import Control
from bridge.simulator.faults import FaultBook, parse_faults
from bridge.simulator.framing import parse_framing
from bridge.simulator.qingbo import Qingbo
from bridge.simulator.recorded.preset import NotSimulatable, Preset, load_preset, recorded_names
from bridge.simulator.recorded.provider import RecordedProvider
from bridge.simulator.vapi import Vapi
from bridge.simulator.world import World

BODY_LIMIT = 64 * 1024 * 1024
GRACE_SECONDS = 0.2
WORLD = web.AppKey("world", World)


class ProviderMount(Protocol):
    """Somewhere calls arrive."""

    def routes(self) -> list[web.RouteDef]: ...


# Written by hand, from the documents: what they do goes beyond their recordings.
WRITTEN: Mapping[str, Callable[[World], ProviderMount]] = {
    "qingbo": Qingbo,
    "vapi": Vapi,
    "bytespike": ByteSpike,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """How the simulator behaves; two with the same options behave the same.

    Args:
        presets: the providers to run: the three that are written by hand, or any that is recorded.
        speed: divides the time that tasks queue and run.
        faults: names or objects as in `docs/simulator.md`, for every provider.
        fault_rate: the share of calls that `faults` strike.
        framing: how ByteSpike's streams are framed; several words can be joined with commas.
        manual_clock: the time stands still until `POST /_sim/clock`.
        load: finds a preset that is not written by hand.
        sync_seconds: how long qingbo's synchronous call waits; its docs do not say.
        challenge_seconds: within which a V-API challenge must be echoed.
    """

    presets: tuple[str, ...] = tuple(WRITTEN)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A simulator that listens."""

    url: str
    port: int
    world: World


def make_app(options: SimulatorOptions) -> web.Application:
    """The whole simulator as one application.

    Raises:
        ValueError: a fault, a framing or a preset that does not exist, or a speed that is not positive.
    """
    if options.speed <= 0:
        raise ValueError("speed is a positive number")
    parse_framing(options.framing)
    clock: SimulatorClock = ManualClock() if options.manual_clock else RealClock()
    waits = Waits(clock)
    presets = tuple(dict.fromkeys(options.presets))
    world = World(
        providers=presets,
        seed=options.seed,
        speed=options.speed,
        framing=options.framing,
        sync_seconds=options.sync_seconds,
        heartbeat_seconds=options.heartbeat_seconds,
        clock=clock,
        waits=waits,
        book=FaultBook(options.seed, parse_faults(options.faults), options.fault_rate),
        callbacks=CallbackSender(waits, options.challenge_seconds),
    )
    app = web.Application(client_max_size=BODY_LIMIT)
    app[WORLD] = world
    for place in (Control(world), *(_place(name, world, options.load) for name in presets)):
        app.add_routes(place.routes())
    app.add_routes(files.routes(world.calls))
    app.on_shutdown.append(_stop)
    return app


def simulated() -> dict[str, str]:
    """Every preset with recordings, and why it cannot be simulated; an empty text where it can."""
    return {name: _reason(name) for name in recorded_names()}


def _reason(name: str) -> str:
    if name in WRITTEN:
        return ""
    try:
        load_preset(name)
    except NotSimulatable as reason:
        return str(reason)
    return ""


def _place(name: str, world: World, load: Callable[[str], Preset]) -> ProviderMount:
    make = WRITTEN.get(name)
    return make(world) if make else RecordedProvider(world, load(name))


@asynccontextmanager
async def start(options: SimulatorOptions, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Running]:
    """Listens while the context is open; streams that are still open when it closes are cut."""
    app = make_app(options)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=GRACE_SECONDS)
    await runner.setup()
    try:
        listening = _listen(host, port)
        await web.SockSite(runner, listening, backlog=1024).start()
        real_port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        yield Running(url=f"http://{shown}:{real_port}", port=real_port, world=app[WORLD])
    finally:
        await runner.cleanup()


async def _stop(app: web.Application) -> None:
    await app[WORLD].callbacks.close()
    app[WORLD].waits.close()
    await asyncio.sleep(0)  # lets the handlers that were waiting see it


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

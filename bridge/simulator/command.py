"""Runs the simulator from the command line."""

import asyncio
import signal

import click

from bridge.simulator.faults import NAMES, BadFault, parse_fault
from bridge.simulator.framing import FRAMINGS, BadFraming, parse_framing
from bridge.simulator.server import SimulatorOptions, start

FAULT_HELP = f"Faults for every provider, with commas: {', '.join(sorted(NAMES))}. `slow:3` sets the seconds."
FRAMING_HELP = f"How ByteSpike's streams are framed, with commas: {', '.join(sorted(FRAMINGS))}."


@click.command(short_help="Run the three providers on this machine, without spending credits.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9090, show_default=True, help="0 takes any free port.")
@click.option(
    "--seed", default=0, show_default=True, help="The same seed gives the same ids, times, endings."
)
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--fault", "faults", multiple=True, help=FAULT_HELP)
@click.option("--fault-rate", default=1.0, show_default=True, type=click.FloatRange(0, 1))
@click.option("--framing", default="data-only", show_default=True, help=FRAMING_HELP)
@click.option("--manual-clock", is_flag=True, help="Time moves only by POST /_sim/clock.")
def simulate(
    *,
    host: str,
    port: int,
    seed: int,
    speed: float,
    faults: tuple[str, ...],
    fault_rate: float,
    framing: str,
    manual_clock: bool,
) -> None:
    """Runs qingbo, V-API and ByteSpike as one server, for trying things out without spending credits."""
    names = tuple(name for given in faults for name in given.split(",") if name.strip())
    try:
        for name in names:
            parse_fault(name)
        parse_framing(framing)
    except (BadFault, BadFraming) as wrong:
        raise click.UsageError(str(wrong)) from wrong
    options = SimulatorOptions(
        seed=seed,
        speed=speed,
        faults=names,
        fault_rate=fault_rate,
        framing=framing,
        manual_clock=manual_clock,
    )
    try:
        asyncio.run(_serve(options, host, port))
    except OSError as wrong:
        raise click.ClickException(f"cannot listen on {host}:{port}: {wrong.strerror}") from wrong


async def _serve(options: SimulatorOptions, host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with start(options, host, port) as running:
        click.echo(f"simulator listening on {running.url}")
        click.echo("base URLs for the upstreams of the bridge (any key is accepted):")
        for provider in ("qingbo", "vapi", "bytespike"):
            click.echo(f"  {provider:<10}{running.url}/{provider}")
        await stopped.wait()

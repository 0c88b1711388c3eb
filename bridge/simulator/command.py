"""Runs the simulator from the command line."""

import asyncio
import signal
from typing import Any

import click

from bridge.simulator.faults import NAMES, BadFault, parse_fault
from bridge.simulator.framing import FRAMINGS, BadFraming, parse_framing
from bridge.simulator.recorded.preset import NotSimulatable, load_preset
from bridge.simulator.server import WRITTEN, SimulatorOptions, simulated, start

FAULT_HELP = f"Faults for every provider, with commas: {', '.join(sorted(NAMES))}. `slow:3` sets the seconds."
FRAMING_HELP = f"How ByteSpike's streams are framed, with commas: {', '.join(sorted(FRAMINGS))}."


def _list(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    del option
    if not wanted:
        return
    for name, reason in simulated().items():
        how = "written by hand" if name in WRITTEN else "from its recordings"
        click.echo(f"{name:<16}{f'cannot be simulated: {reason}' if reason else how}")
    context.exit()


@click.command(short_help="Run providers on this machine, without spending credits.")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    help=f"A provider to run, more than once for several; {', '.join(WRITTEN)} without it.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="List the providers there are, and end.",
)
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
    presets: tuple[str, ...],
    host: str,
    port: int,
    faults: tuple[str, ...],
    framing: str,
    **others: Any,  # go into the options under the names they have here
) -> None:
    """Runs providers as one server, for trying things out without spending credits."""
    presets = presets or tuple(WRITTEN)
    names = tuple(name for given in faults for name in given.split(",") if name.strip())
    try:
        for name in names:
            parse_fault(name)
        parse_framing(framing)
        for preset in presets:
            _check(preset)
    except (BadFault, BadFraming, NotSimulatable) as wrong:
        raise click.UsageError(str(wrong)) from wrong
    options = SimulatorOptions(
        presets=presets,
        faults=names,
        framing=framing,
        **others,
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
        width = max(10, *(len(provider) + 2 for provider in options.presets))
        for provider in options.presets:
            click.echo(f"  {provider:<{width}}{running.url}/{provider}")
        await stopped.wait()


def _check(preset: str) -> None:
    if preset in WRITTEN:
        return
    try:
        load_preset(preset)
    except NotSimulatable as reason:
        raise NotSimulatable(f"cannot simulate {preset[:80]}: {reason}") from reason

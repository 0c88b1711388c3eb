"""The `simulate` command."""

import asyncio
import signal
from typing import Any

import click

from bridge.simulator.faults import NAMES, BadFault, parse_fault
from bridge.simulator.framing import FRAMINGS, BadFraming, parse_framing
from bridge.simulator.recorded.preset import NotSimulatable, load_preset
from bridge.simulator.server import HANDWRITTEN, SimulatorOptions, simulated, start

FAULT_HELP = f"Faults of every provider, comma-separated: {', '.join(sorted(NAMES))}. `slow:3`: 3 s."
FRAMING_HELP = f"Framing of ByteSpike's streams, comma-separated: {', '.join(sorted(FRAMINGS))}."


def _list(context: click.Context, option: click.Parameter, requested: bool) -> None:
    del option
    if not requested:
        return
    for name, reason in simulated().items():
        how = "hand-written" if name in HANDWRITTEN else "from recordings"
        click.echo(f"{name:<16}{f'cannot be simulated: {reason}' if reason else how}")
    context.exit()


@click.command(short_help="Run simulated providers locally, without spending credits.")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    help=f"Provider to simulate; repeat for several. Default: {', '.join(HANDWRITTEN)}.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="List available providers and exit.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9090, show_default=True, help="Port to listen on; 0 picks a free one.")
@click.option(
    "--seed", default=0, show_default=True, help="The same seed gives the same ids, times and outcomes."
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Speed factor of the simulated tasks.",
)
@click.option("--fault", "faults", multiple=True, help=FAULT_HELP)
@click.option(
    "--fault-rate",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of calls that get a fault.",
)
@click.option("--framing", default="data-only", show_default=True, help=FRAMING_HELP)
@click.option("--manual-clock", is_flag=True, help="Time advances only with POST /_sim/clock.")
def simulate(
    *,
    presets: tuple[str, ...],
    host: str,
    port: int,
    faults: tuple[str, ...],
    framing: str,
    **others: Any,  # passed on to SimulatorOptions under the same names
) -> None:
    """Run simulated providers in one server, for testing without spending credits."""
    presets = presets or tuple(HANDWRITTEN)
    names = tuple(name for option in faults for name in option.split(",") if name.strip())
    try:
        for name in names:
            parse_fault(name)
        parse_framing(framing)
        for preset in presets:
            _check(preset)
    except (BadFault, BadFraming, NotSimulatable) as error:
        raise click.UsageError(str(error)) from error
    options = SimulatorOptions(
        presets=presets,
        faults=names,
        framing=framing,
        **others,
    )
    try:
        asyncio.run(_serve(options, host, port))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error


async def _serve(options: SimulatorOptions, host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with start(options, host, port) as running:
        click.echo(f"simulator listening on {running.url}")
        click.echo("base URLs for the upstreams of the bridge (any API key is accepted):")
        width = max(10, *(len(provider) + 2 for provider in options.presets))
        for provider in options.presets:
            click.echo(f"  {provider:<{width}}{running.url}/{provider}")
        await stopped.wait()


def _check(preset: str) -> None:
    if preset in HANDWRITTEN:
        return
    try:
        load_preset(preset)
    except NotSimulatable as reason:
        raise NotSimulatable(f"cannot simulate {preset[:80]}: {reason}") from reason

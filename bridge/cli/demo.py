"""The demo: simulated providers, the bridge and four sample tasks in one terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from bridge.cli import terminal
from bridge.cli.progress import ProgressBars

PROVIDERS = ("qingbo", "vapi", "bytespike")
PROMPTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("qingbo", "/v1/tasks", {"model": "veo3", "action": "generate", "prompt": "a cat walking on the beach"}),
    ("qingbo", "/v1/tasks", {"model": "wan2.7", "action": "generate", "prompt": "rain on a window, night"}),
    (
        "vapi",
        "/task/minimax/v1/video_generation",
        {"model": "hailuo-02", "prompt": "a paper boat sails away"},
    ),
    ("bytespike", "/v1/tasks/submit", {"model": "sora-2", "params": {"prompt": "a city made of glass"}}),
)
_LISTENING = re.compile(r"listening on (http://\S+)")
INTERRUPTED = 130


def run(*, port: int, speed: float) -> int:
    """Run the demo.

    Returns:
        0 when all tasks completed; 130 when it was interrupted.
    """

    async def until_signal() -> int:
        # SIGTERM and SIGHUP cancel the demo, so that it stops its child processes, as Ctrl-C does.
        task = asyncio.ensure_future(_run(port, speed))
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(until_signal())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


async def _run(port: int, speed: float) -> int:
    async with AsyncExitStack() as stack:
        simulate = ("simulate", "--port", "0", "--speed", str(speed))
        simulator = await stack.enter_async_context(_command(simulate, {}))
        serve = ("serve", "--port", str(port if _free(port) else 0))
        bridge = await stack.enter_async_context(_command(serve, _environment(simulator)))
        refs = await _submit_all(simulator)
        code = await _show(bridge, refs)
        if sys.stdout.isatty():
            _say(
                "",
                "The bridge is still running; get the final state with:",
                "",
                f"  curl -N {bridge}/v1/tasks/{refs[0]}/events",
                "",
                "Press Ctrl-C to stop.",
            )
            await asyncio.Event().wait()
        return code


async def _show(bridge: str, refs: list[str]) -> int:
    _say(
        "The bridge polls each task once and streams updates to every client. Watch in a browser:",
        "",
        f"  {bridge}/#{'&'.join(f'watch={ref}' for ref in refs)}",
        "",
        "Or from another terminal:",
        "",
        f"  curl -N {bridge}/v1/tasks/{refs[0]}/events",
        f"  curl -N '{bridge}/v1/events?{'&'.join(f'task={ref}' for ref in refs)}'",
        f"  curl -s {bridge}/metrics | grep bridge_polls",
        "",
    )
    bars = ProgressBars(sys.stdout, refs, now=asyncio.get_running_loop().time)
    return await terminal.watch(bridge, refs, json=False, out=sys.stdout, token=None, give_up=30, bars=bars)


def _say(*lines: str) -> None:
    # Commands to be copied are not cut to the width of the terminal, as the bars below are.
    for line in lines:
        print(line, flush=True)  # noqa: T201 - output of the demo


async def _submit_all(simulator: str) -> list[str]:
    refs = []
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer demo-key"}) as http:
        for provider, path, body in PROMPTS:
            async with http.post(f"{simulator}/{provider}{path}", json=body) as response:
                response.raise_for_status()
                refs.append(f"{provider}/{(await response.json())['task_id']}")
    return refs


def _environment(simulator: str) -> dict[str, str]:
    variables = {"BRIDGE_LOG_LEVEL": "warning", "BRIDGE_JOURNAL": "memory", "BRIDGE_ALLOWED_ORIGINS": '["*"]'}
    for provider in PROVIDERS:
        variables[f"BRIDGE_UPSTREAMS__{provider.upper()}__BASE_URL"] = f"{simulator}/{provider}"
        variables[f"BRIDGE_UPSTREAMS__{provider.upper()}__API_KEY"] = "demo-key"
    return variables


@asynccontextmanager
async def _command(arguments: tuple[str, ...], variables: dict[str, str]) -> AsyncIterator[str]:
    """Run one of our own commands as a child process; yields the address it listens on."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bridge",
        *arguments,
        stdout=PIPE,
        env=inherited | variables,
        start_new_session=True,
    )
    try:
        yield await _address(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _address(process: Process) -> str:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        match = _LISTENING.search(line.decode())
        if match:
            return match[1]
    raise RuntimeError(f"the child process exited with code {await process.wait()} before it listened")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

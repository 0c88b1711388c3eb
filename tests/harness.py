"""What tests run against: the real bridge as a process of its own, the simulator on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from bridge.simulator.server import Running, SimulatorOptions, start
from tests.forked import CAN_FORK, Forked, Lines, fork

PROVIDERS = ("qingbo", "vapi", "bytespike")
PATIENCE = 30.0  # seconds any test waits for anything: long, because it only matters when something is broken
_LISTENING = re.compile(r"listening on (https?://\S+)")


@dataclass
class BridgeProcess:
    """A running `bridge serve`."""

    url: str
    process: Process | Forked
    log: list[str] = field(default_factory=list)

    async def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(sig)
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def running_bridge(
    upstreams: dict[str, dict[str, Any]],
    *,
    environment: dict[str, str] | None = None,
    under: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[BridgeProcess]:
    """`bridge serve` on a free port, with these settings; ended at the end, by force if need be.

    Args:
        under: A command that becomes the bridge in the end, such as `unshare`.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    alone = settings.get("engine", "embedded") == "embedded"  # else there is no journal of its own
    wishes = {"port": 0} | ({"journal": "memory"} if alone else {}) | settings
    for name, value in wishes.items():
        variables[f"BRIDGE_{name.upper()}"] = (
            value if isinstance(value, str) else orjson.dumps(value).decode()
        )
    variables["BRIDGE_UPSTREAMS"] = orjson.dumps(upstreams).decode()
    lines = Lines()
    process = await _started(under, variables | (environment or {}), lines)
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    reading = asyncio.create_task(_read_log(process.stderr, log))
    try:
        try:
            line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
        except TimeoutError:
            raise RuntimeError(f"bridge did not start in {PATIENCE:g} s\n" + "".join(log)) from None
        found = _LISTENING.search(line)
        if found is None:
            await process.wait()
            await reading
            raise RuntimeError(f"bridge did not start: {line!r}\n" + "".join(log))
        yield BridgeProcess(found[1], process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading
        lines.close()
        if isinstance(process, Process):
            process._transport.close()  # else its end is noticed after the loop's, as a warning


async def _started(under: Sequence[str], variables: dict[str, str], lines: Lines) -> Process | Forked:
    """Forked, unless there is something that only a new process can be: imports are most of a start."""
    for_python = any(
        name.startswith("PYTHON") and os.environ.get(name) != one for name, one in variables.items()
    )
    if CAN_FORK and not under and not for_python:
        return await fork(["serve"], variables, lines)
    command = (*under, sys.executable, "-m", "bridge", "serve")
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=variables)


async def _read_log(stream: asyncio.StreamReader, log: list[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode(errors="replace"))


@asynccontextmanager
async def running_simulator(**options: Any) -> AsyncIterator[Running]:
    """The three providers on a free port; the clock stands unless `manual_clock=False`."""
    async with start(SimulatorOptions(**({"manual_clock": True} | options))) as running:
        yield running


def upstreams_of(simulator: Running, **each: Any) -> dict[str, dict[str, Any]]:
    """All three providers of a simulator, with the same further settings."""
    return {name: {"base_url": f"{simulator.url}/{name}", "api_key": "test-key"} | each for name in PROVIDERS}


class Provider:
    """One provider of the simulator, as a test scripts and reads it."""

    def __init__(self, simulator: Running, name: str, http: aiohttp.ClientSession) -> None:
        self.base = f"{simulator.url}/_sim/{name}"
        self.root = simulator.url
        self.name = name
        self.http = http

    async def script(self, task_id: str, *answers: dict[str, Any], **more: Any) -> str:
        """Make a task that answers so, one after the other; the last repeats. Returns its ref."""
        await self._send("PUT", f"/tasks/{_quoted(task_id)}", {"answers": list(answers), **more})
        return f"{self.name}/{task_id}"

    async def then(self, task_id: str, *answers: dict[str, Any]) -> None:
        """From now on the task answers so."""
        body = {"answers": list(answers), "replace": True}
        await self._send("POST", f"/tasks/{_quoted(task_id)}/answers", body)

    async def push(self, task_id: str, chunk: str) -> None:
        """Send raw text on the task's held stream."""
        await self._send("POST", f"/tasks/{_quoted(task_id)}/stream", {"chunk": chunk})

    async def calls(self, task_id: str, call: str = "status") -> int:
        """How often a call was made for a task."""
        async with self.http.get(f"{self.root}/_sim/calls") as answer:
            counted = await answer.json()
        return int(counted.get(self.name, {}).get(call, {}).get(task_id, 0))

    async def _send(self, method: str, path: str, body: dict[str, Any]) -> None:
        async with self.http.request(method, self.base + path, json=body) as answer:
            assert answer.status < 300, await answer.text()


def _quoted(task_id: str) -> str:
    from urllib.parse import quote

    return quote(task_id, safe="")


def answer(body: Any, *, status: int = 200, **headers: str) -> dict[str, Any]:
    """One scripted answer of a provider."""
    return {"status": status, "body": body, "headers": headers}


def qingbo(task_id: str, status: str, progress: int = 0, **more: Any) -> dict[str, Any]:
    """A qingbo status document, as seed 000 has it."""
    return answer(
        {
            "task_id": task_id,
            "status": status,
            "action": "generate",
            "model": "wan2.7",
            "progress": progress,
            "created_at": 1720000000,
            **more,
        }
    )


def qingbo_done(task_id: str) -> dict[str, Any]:
    """A qingbo task that completed with one video."""
    result = {"videos": [{"url": ["https://cdn.example/v.mp4"], "expires_at": 4102444800}]}
    return qingbo(task_id, "completed", 100, completed_at=1720000060, result=result)

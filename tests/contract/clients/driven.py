"""Third-party clients, each a process that prints the events of its library on standard output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.harness import PATIENCE

HERE = Path(__file__).parent
NODE_MODULES = HERE.parent.parent / "tools" / "node_modules"


@dataclass(frozen=True)
class Client:
    """A library, and what its user must know.

    Args:
        driver: The program that uses it.
        needs: A program, or an npm package, that must be there.
        quiet: Whether silence on its connection is broken by keepalives.
        tells_names: Whether it shows the name and the id of an event.
        stops_on_204: Whether a 204 alone makes it stop; else its user leaves on `end`.
        comes_back: Whether it reconnects, by itself or, as its authors say, by a loop of its user.
        sends_last_id: Whether it comes back with `Last-Event-ID`.
        end: The last word of the bridge that it shows.
    """

    name: str
    driver: str
    needs: str = "python"
    quiet: bool = True
    tells_names: bool = True
    stops_on_204: bool = False
    comes_back: bool = True
    sends_last_id: bool = True
    end: tuple[str, ...] = ("done", "end")

    @property
    def runs_on_node(self) -> bool:
        """Whether its driver is JavaScript."""
        return self.driver.endswith(".mjs")

    @property
    def missing(self) -> str | None:
        """What must be installed first, if anything."""
        if self.needs == "python":
            return None
        if self.needs.startswith("npm "):
            there = _on_path("node") and (NODE_MODULES / self.needs.removeprefix("npm ")).is_dir()
        else:
            there = _on_path(self.needs)
        return None if there else self.needs


CLIENTS = (
    Client("eventsource", "drive_eventsource.mjs", needs="npm eventsource", stops_on_204=True),
    Client(
        "eventsource-client",
        "drive_eventsource_client.mjs",
        needs="npm eventsource-client",
        stops_on_204=True,
    ),
    Client("fetch-event-source", "drive_fetch_event_source.mjs", needs="npm @microsoft/fetch-event-source"),
    Client("httpx-sse", "drive_httpx_sse.py"),
    Client("launchdarkly-eventsource", "drive_launchdarkly.py"),
    Client("aiohttp-sse-client2", "drive_aiohttp_sse_client2.py", stops_on_204=True),
    Client("requests-sse", "drive_requests_sse.py", stops_on_204=True),
    Client("openai-stream", "drive_openai_stream.py", tells_names=False, comes_back=False),
    Client("openai-get", "drive_openai_get.py", quiet=False, tells_names=False, comes_back=False, end=()),
    Client("curl", "drive_curl.py", needs="curl", comes_back=False),
    Client("websockets", "drive_websockets.py", quiet=False, sends_last_id=False, end=("done",)),
)


@dataclass(frozen=True)
class Heard:
    """One event as a library handed it over."""

    name: str
    id: str | None
    data: str | None

    @property
    def fields(self) -> dict[str, Any]:
        """The data, which must be JSON."""
        read = orjson.loads(self.data or "")
        assert isinstance(read, dict), self
        return read

    @property
    def is_state(self) -> bool:
        """Whether this is a state document, whatever name it came under."""
        return '"progress"' in (self.data or "")


@dataclass
class Driven:
    """A running client and everything it told so far."""

    process: Process
    heard: list[Heard] = field(default_factory=list)

    @property
    def states(self) -> list[Heard]:
        """The states among it."""
        return [one for one in self.heard if one.is_state]

    async def until_states(self, number: int) -> None:
        """Read until the client told of so many states."""
        async with asyncio.timeout(PATIENCE):
            while len(self.states) < number:
                assert await self._read(), f"ended after {self.heard}: {await self._complaint()}"

    async def until_it_stops(self) -> int:
        """Read to the end; the exit code."""
        async with asyncio.timeout(PATIENCE):
            while await self._read():
                pass
            code = await self.process.wait()
        assert code == 0, await self._complaint()
        return code

    async def _read(self) -> bool:
        line = await self.process.stdout.readline()
        if line:
            self.heard.append(Heard(**orjson.loads(line)))
        return bool(line)

    async def _complaint(self) -> str:
        return (await self.process.stderr.read()).decode(errors="replace")


@asynccontextmanager
async def driven(client: Client, url: str, until: str) -> AsyncIterator[Driven]:
    """A client following the stream at `url` until `end`, or until a `204`."""
    runner = "node" if client.runs_on_node else sys.executable
    variables = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        runner, str(HERE / client.driver), url, until, stdout=PIPE, stderr=PIPE, env=variables
    )
    try:
        yield Driven(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        process._transport.close()


def _on_path(program: str) -> bool:
    from shutil import which

    return which(program) is not None

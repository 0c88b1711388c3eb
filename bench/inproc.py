"""The whole bridge with a hook that appends to its journal: for runs not limited by the upstream side.

The app is built from settings as by `taskbridge serve`, on its own server. A control connection then records
states on the event loop, where a watch would: journal, hub, delivery and metrics are in the path; the request
to the provider, its dialect and the watch's decisions are not.

Control, one command per line:
    p FROM COUNT BATCH   record the states FROM .. FROM+COUNT-1, BATCH per turn of the event loop
    f FROM COUNT BATCH   the same, with final states
    g FROM COUNT BATCH   as p, but none of the last task
    a FROM COUNT BATCH   as p, but all of the last task
    r FROM COUNT RATE    as g, but RATE a second and not as fast as it goes
    w                    answer when all of this connection are recorded
    h MILLISECONDS       answer, as JSON, how long the event loop and an append were held at most meanwhile

    python -m bench.inproc CONTROL_PORT TASKS       settings from BRIDGE_ variables
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.tokens import Lines, pick, token
from bridge.app import Bridge
from bridge.clock import SystemClock
from bridge.config.load import load
from bridge.config.settings import Settings
from bridge.core.task import Output, Source, State, Status, TaskKey
from bridge.server.server import serve
from bridge.telemetry.logs import configure

UPSTREAM = "bytespike"
MAX_PENDING = 1000
PROBE_SECONDS = 0.002
PACE_SECONDS = 0.005
"""Of a rate, what comes at once: a provider's changes come by many connections, a few at each turn."""


class Driven(Bridge):
    """A bridge whose journal also takes states from a control connection."""

    def __init__(self, settings: Settings, control: int, tasks: int) -> None:
        super().__init__(settings)
        self._control = control
        self._keys = [TaskKey(UPSTREAM, f"t{number}") for number in range(tasks)]
        self._time = SystemClock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the bridge and serve the control connection."""
        async with super().running():
            server = await asyncio.start_server(self._serve_control, "127.0.0.1", self._control)
            try:
                yield
            finally:
                server.close()

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pending: set[asyncio.Task[None]] = set()

        async def publish(word: str, numbers: list[int]) -> None:
            if word == "w":
                if pending:
                    await asyncio.wait(pending)
                writer.write(b"{}\n")
                return
            if word == "h":
                writer.write(json.dumps(await self._held(numbers[0] / 1000)).encode() + b"\n")
                return
            first, count, batch = numbers
            rate = 0
            if word == "r":
                rate, batch = batch, max(1, int(batch * PACE_SECONDS))
            began = self._time.monotonic()
            for begin in range(first, first + count, batch):
                for seq in range(begin, min(begin + batch, first + count)):
                    append = self._append(self._key(word, seq), seq, final=word == "f")
                    if self.settings.journal == "memory":
                        await append  # never blocks
                    else:  # appends overlap while one waits for the disk, as with real watches
                        task = asyncio.create_task(append)
                        pending.add(task)
                        task.add_done_callback(pending.discard)
                wait = began + (begin + batch - first) / rate - self._time.monotonic() if rate else 0
                await asyncio.sleep(max(0, wait))
                if len(pending) > MAX_PENDING:
                    await asyncio.wait(pending)

        lines = Lines(publish)
        while data := await reader.read(65_536):
            await lines.feed(data)
        writer.close()

    def _key(self, word: str, seq: int) -> TaskKey:
        if word == "a":
            return self._keys[-1]
        return self._keys[pick(seq, len(self._keys) - (word in "gr"))]

    async def _held(self, seconds: float) -> dict[str, float]:
        """The longest holds, in milliseconds: of a turn of the loop, and of an append of the last task."""
        monotonic = self._time.monotonic
        until, holds = monotonic() + seconds, {"loop_ms": 0.0, "append_ms": 0.0}

        async def append() -> None:
            while monotonic() < until:
                began = monotonic()
                await self._append(self._keys[-1], 0, final=False)
                holds["append_ms"] = max(holds["append_ms"], (monotonic() - began) * 1000)
                await asyncio.sleep(PROBE_SECONDS)

        appending = asyncio.create_task(append())
        while monotonic() < until:
            began = monotonic()
            await asyncio.sleep(PROBE_SECONDS)
            holds["loop_ms"] = max(holds["loop_ms"], (monotonic() - began - PROBE_SECONDS) * 1000)
        await appending
        return holds

    async def _append(self, key: TaskKey, seq: int, *, final: bool) -> None:
        now = self._time.time()
        state = State(
            status=Status.COMPLETED if final else Status.PROCESSING,
            upstream_status="completed" if final else "running",
            progress=100 if final else 42,
            model=token(seq),
            outputs=(Output(type="video", url="https://cdn.example/v.mp4"),) if final else (),
            changed_at=now,
            observed_at=now,
            source=Source.STREAM,
        )
        assert self._parts is not None
        await self._parts.journal.append(key, state, observed_at=self._time.monotonic())


if __name__ == "__main__":
    config = load(None)
    configure(config.log_level, config.log_format)
    sys.exit(serve(Driven(config, int(sys.argv[1]), int(sys.argv[2]))))

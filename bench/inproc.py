"""The whole bridge with a hook that appends to its journal: for runs not limited by the upstream side.

The app is built from settings as by `taskbridge serve`, on its own server. A control connection then records
states on the event loop, where a watch would: journal, hub, delivery and metrics are in the path; the request
to the provider, its dialect and the watch's decisions are not.

    python -m bench.inproc CONTROL_PORT TASKS       settings from BRIDGE_ variables
"""

from __future__ import annotations

import asyncio
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
            first, count, batch = numbers
            for begin in range(first, first + count, batch):
                for seq in range(begin, min(begin + batch, first + count)):
                    append = self._append(seq, final=word == "f")
                    if self.settings.journal == "memory":
                        await append  # never blocks
                    else:  # appends overlap while one waits for the disk, as with real watches
                        task = asyncio.create_task(append)
                        pending.add(task)
                        task.add_done_callback(pending.discard)
                await asyncio.sleep(0)
                if len(pending) > MAX_PENDING:
                    await asyncio.wait(pending)

        lines = Lines(publish)
        while data := await reader.read(65_536):
            await lines.feed(data)
        writer.close()

    async def _append(self, seq: int, *, final: bool) -> None:
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
        key = self._keys[pick(seq, len(self._keys))]
        await self._parts.journal.append(key, state, observed_at=self._time.monotonic())


if __name__ == "__main__":
    config = load(None)
    configure(config.log_level, config.log_format)
    sys.exit(serve(Driven(config, int(sys.argv[1]), int(sys.argv[2]))))

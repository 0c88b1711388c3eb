"""The demo: simulated providers, the bridge, and tasks that keep coming, in one process."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.app import Bridge
from bridge.cli.progress import ProgressBars
from bridge.client.bridge import Bridge as Client
from bridge.config.load import load
from bridge.config.settings import Settings
from bridge.core.task import Status
from bridge.errors import BridgeError
from bridge.net import is_loopback
from bridge.server.listeners import listen
from bridge.server.server import DrainingServer, make_server
from bridge.simulator import files
from bridge.simulator.server import SimulatorOptions, start
from bridge.simulator.state import SimulatorState
from bridge.telemetry.logs import configure

if TYPE_CHECKING:
    from bridge.client.state import TaskState

STOPPED = 0
NOT_COMPLETE = 1
DEFAULT_PORT = 8080
TRIED_PORTS = 20  # after the default one, before any free one
PROVIDERS = ("qingbo", "vapi", "bytespike", "fal")
API_KEY = "demo-key"
FILES = "/demo/files"
FIRST_TASKS = 4  # tasks submitted without a pause, so that the page has something to show
PAUSE_SECONDS = 6.0
MIN_PAUSE_SECONDS = 0.1
KEPT_SECONDS = 3600.0
SHOWN_ENDED = 4
GIVE_UP_SECONDS = 10.0
CANCEL_SECONDS = 8.0
MAX_RUN_ONCE_SECONDS = 20.0
REDRAW_SECONDS = 1.0


class Sample(NamedTuple):
    """A task of the demo.

    Args:
        run_seconds: How long it runs at speed 1; with `--once` at most `MAX_RUN_ONCE_SECONDS`.
        cancelled: Whether the demo cancels it while it runs.
    """

    upstream: str
    body: Mapping[str, Any]
    run_seconds: float
    options: Mapping[str, str] | None = None
    outcome: str = "completed"
    cancelled: bool = False


_HAILUO = {"endpoint": "minimax/v1/video_generation"}
SAMPLES = (
    # The slow one is the first: a page that follows it has something to show for minutes.
    Sample("qingbo", {"model": "veo3", "action": "generate", "prompt": "a cat walking on the beach"}, 150),
    Sample("fal", {"prompt": "a lighthouse at night, oil on canvas"}, 12, {"endpoint": "fal-ai/flux/dev"}),
    Sample("vapi", {"model": "hailuo-02", "prompt": "a paper boat sails away"}, 32, _HAILUO),
    Sample("bytespike", {"model": "sora-2", "params": {"prompt": "a glass city"}}, 60, cancelled=True),
    Sample("qingbo", {"model": "suno-v5", "action": "generate", "prompt": "rain, slow piano"}, 16),
    Sample("vapi", {"model": "hailuo-02", "prompt": "a clock that melts"}, 14, _HAILUO, "failed"),
    Sample("qingbo", {"model": "nano-banana", "action": "generate", "prompt": "a red fox, line art"}, 8),
    Sample("bytespike", {"model": "seedance-2", "params": {"prompt": "clouds from above"}}, 26),
)


def run(*, host: str, port: int | None, speed: float, once: bool, public_url: str) -> int:
    """Run the demo until a signal, or with `once` until its tasks have ended.

    Args:
        port: None for the default one, or a free one near it.
        public_url: Where browsers reach the demo; empty if that is the address it listens on.

    Returns:
        0 when stopped; with `once` 1 if a task did not end.

    Raises:
        OSError: It cannot listen there; its `filename` is the address.
        ConfigError: `public_url` is not a URL.
    """
    listener = _listener(host, port)
    configure("error", "auto")
    # Standard output may be closed; the page works without it.
    out = sys.stdout if sys.stdout is not None else Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    demo = Demo(listener, host, speed=speed, once=once, public_url=public_url.rstrip("/"), out=out)
    if port is None and demo.port != DEFAULT_PORT:
        demo.say(f"Port {DEFAULT_PORT} is taken: the demo is at {demo.link}/", "")
    try:
        return asyncio.run(demo.run())
    finally:
        try:
            out.flush()
        except OSError:  # else the interpreter reports the error once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


class Demo:
    """Everything in one process: the simulator, the bridge, and a client that submits, watches and cancels.

    Attributes:
        link: Base URL for browsers, without a slash at the end.
    """

    def __init__(
        self, listener: socket, host: str, *, speed: float, once: bool, public_url: str, out: TextIO
    ) -> None:
        address, self.port = listener.getsockname()[:2]
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared only
        self._listener = listener
        self._host = host
        self._speed = speed
        self._once = once
        self._public_url = public_url
        self._out = out
        self._local = f"http://{_bracketed(wildcard.get(address, address))}:{self.port}"
        self.link = public_url or (
            self._local if host in wildcard else f"http://{_bracketed(host)}:{self.port}"
        )
        self._bars: ProgressBars | None = None
        self._ended: deque[str] = deque()
        self._shown: dict[str, Status] = {}
        self._server: DrainingServer | None = None
        self._failed = False

    async def run(self) -> int:
        """Serve and submit until a signal, or until the samples have ended; return the exit code."""
        options = SimulatorOptions(presets=PROVIDERS, speed=self._speed, files_url=self.link + FILES)
        async with start(options) as simulator, Client(self._local) as client:
            settings = self._settings(simulator.url)
            bridge = _DemoBridge(settings)
            bridge.served_by_us = True
            self._server = server = make_server(bridge)
            server.announces = False
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` wants it
                signal.signal(signal.SIGHUP, server.handle_exit)
            serving = asyncio.ensure_future(server.serve(sockets=[self._listener]))
            feeding = asyncio.ensure_future(self._feed(client, simulator.state, serving))
            try:
                await asyncio.wait({serving, feeding}, return_when=asyncio.FIRST_COMPLETED)
                ended = feeding.done()
                if ended:
                    feeding.result()
                    self._stop()
                await serving
            finally:
                feeding.cancel()
                with suppress(asyncio.CancelledError):
                    await feeding
        return NOT_COMPLETE if ended and self._failed else STOPPED

    def say(self, *lines: str) -> None:
        """Print lines; a reader that has left ends the demo."""
        try:
            # Commands to be copied are not cut to the width of the terminal, as the bars below are.
            self._out.write("".join(f"{line}\n" for line in lines))
            self._out.flush()
        except OSError:
            self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.handle_exit(signal.SIGTERM, None)

    def _settings(self, simulator: str) -> Settings:
        # Faster than presets do, and than providers allow: the simulator has no rate limit.
        shortest = min(0.5, max(5 / self._speed, 0.1))
        upstream = {"api_key": API_KEY, "poll_min_seconds": shortest, "poll_max_seconds": 4 * shortest}
        return load(
            None,
            environment={},
            host=self._host,
            port=self.port,
            insecure=not is_loopback(self._host),
            public_url=self._public_url,
            journal="memory",
            retention_seconds=KEPT_SECONDS,
            drain_seconds=0,
            allowed_origins=["*"],
            # A receiver of webhooks on this machine; elsewhere it would be one of the container's own ports.
            private_hosts=["127.0.0.1"] if is_loopback(self._host) else [],
            upstreams={name: {**upstream, "base_url": f"{simulator}/{name}"} for name in PROVIDERS},
        )

    async def _feed(self, client: Client, simulator: SimulatorState, serving: asyncio.Future[None]) -> None:
        """Print the link, then submit the samples, again and again unless the demo ends with them."""
        assert self._server is not None
        while not self._server.started and not serving.done():  # noqa: ASYNC110 - uvicorn sets a flag
            await asyncio.sleep(0.01)
        self.say("Open in a browser:", "", f"  {self.link}/", "")
        self._bars = ProgressBars(self._out, now=asyncio.get_running_loop().time)
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(self._redraw())
            following = []
            for number in range(len(SAMPLES)) if self._once else count():
                if number >= FIRST_TASKS:
                    pause = 1.0 if self._once else PAUSE_SECONDS
                    await asyncio.sleep(max(pause / self._speed, MIN_PAUSE_SECONDS))
                sample = SAMPLES[number % len(SAMPLES)]
                state = await self._submit(client, sample)
                if state is None:
                    continue
                if number == 0:
                    self._say_commands(state.task)
                self._show(state)
                following.append(group.create_task(self._follow(client, state.task)))
                if sample.cancelled:
                    following.append(group.create_task(self._cancel(client, state.task)))
                following = [task for task in following if not task.done()]
                simulator.forget(ended_before=simulator.clock.now() - KEPT_SECONDS)
            await asyncio.gather(*following)
            ticker.cancel()

    def _say_commands(self, ref: str) -> None:
        self.say(
            f"{'Sample tasks run' if self._once else 'Tasks keep coming'} on four simulated providers.",
            "The bridge polls each once and streams updates to every client. From another terminal:",
            "",
            f"  curl -N {self.link}/v1/tasks/{ref}/events",
            f"  curl -s {self.link}/metrics | grep bridge_polls_total",
            "",
            *([] if self._once else ["Ctrl-C stops it.", ""]),
        )

    async def _submit(self, client: Client, sample: Sample) -> TaskState | None:
        longest = MAX_RUN_ONCE_SECONDS if self._once else sample.run_seconds
        sim = {"run_seconds": min(sample.run_seconds, longest), "outcome": sample.outcome}
        try:
            return await client.submit(sample.upstream, {**sample.body, "sim": sim}, options=sample.options)
        except BridgeError as error:
            self._failed = True
            if self._server is not None and not self._server.stopping:
                self.say(f"{sample.upstream}: {error}")
            return None

    async def _follow(self, client: Client, ref: str) -> None:
        try:
            async for state in client.watch(ref, unreachable_after=GIVE_UP_SECONDS):
                self._show(state)
        except BridgeError:  # the bridge is stopping
            self._failed = True

    async def _cancel(self, client: Client, ref: str) -> None:
        await asyncio.sleep(CANCEL_SECONDS / self._speed)
        with suppress(BridgeError):  # it has ended already
            await client.cancel(ref)

    def _show(self, state: TaskState) -> None:
        """Draw a bar, or without a terminal print each new status; of what ended, only the newest stays."""
        assert self._bars is not None
        is_new = self._shown.get(state.task) is not state.status
        self._shown[state.task] = state.status
        try:
            if is_new or self._out.isatty():
                self._bars.show(state)
        except OSError:
            self._stop()
        if state.final and is_new:
            self._ended.append(state.task)
            if len(self._ended) > SHOWN_ENDED:
                oldest = self._ended.popleft()
                self._bars.forget(oldest)
                del self._shown[oldest]

    async def _redraw(self) -> None:
        """Redraw once a second: elapsed times change between states."""
        assert self._bars is not None
        while True:
            await asyncio.sleep(REDRAW_SECONDS)
            try:
                self._bars.draw()
            except OSError:
                self._stop()


class _DemoBridge(Bridge):
    """The bridge, with the results of the samples: browsers may reach no other port of this machine."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not path.startswith(f"{FILES}/"):
            await super().__call__(scope, receive, send)
            return
        requested = dict(scope["headers"]).get(b"range", b"").decode("latin-1")
        found = files.respond(path.removeprefix(f"{FILES}/"), requested)
        if scope["method"] == "OPTIONS":
            response = Response(status_code=204, headers=files.PREFLIGHT_HEADERS)
        elif scope["method"] not in ("GET", "HEAD"):
            response = Response(status_code=405, headers={"Allow": "GET, HEAD"})
        elif found is None:
            response = Response(status_code=404)
        else:
            response = Response(found.body, found.status, found.headers)
        await response(scope, receive, send)


def _listener(host: str, port: int | None) -> socket:
    """A listening socket at the port; without one at the default, or at the next free one."""
    if port is not None:
        return listen(host, port)
    for candidate in (*range(DEFAULT_PORT, DEFAULT_PORT + TRIED_PORTS + 1), 0):
        try:
            return listen(host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == 0:
                raise
    raise AssertionError("port 0 is free or raises")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

"""Starts and ends servers, provider and load: servers on one core, the rest on another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.tokens import document, sse_frame, token, websocket_frame

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
SERVER_CORE, LOAD_CORE = 0, 1
START_SECONDS = 30.0
MOST_SECONDS = 900

# Only what would disturb a measurement is set; everything else is the bridge as it is shipped.
SETTINGS = {"max_connection_age_seconds": 86_400, "log_level": "warning", "log_format": "json"}
QUIET = {"poll_min_seconds": 600, "poll_max_seconds": 600}


class Failed(Exception):
    """A run that brought no number."""


class NotInstalled(Failed):
    """A contender that this machine does not have."""


@dataclass
class Server:
    """One contender, listening.

    Args:
        trigger: What the load needs to publish.
        provider: Its control port, where there is a provider.
    """

    name: str
    port: int
    process: subprocess.Popen[bytes]
    path: str
    trigger: list[str]
    websocket: bool = False
    item: str | None = None
    protocol: str | None = None
    provider: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        return machine.family(self.process.pid)


class Load:
    """The load generator: commands in, numbers out."""

    def __init__(self, server: Server, *, tasks: int, per_conn: int = 1, patience: float = 30.0) -> None:
        words = [str(BUILD / "load"), "--port", str(server.port), "--path", server.path]
        words += ["--tasks", str(tasks), "--per-conn", str(per_conn), "--patience", str(patience)]
        words += ["--max-seconds", str(MOST_SECONDS), "--pids", ",".join(map(str, server.pids))]
        words += ["--item", server.item] if server.item else []
        words += ["--websocket", "1"] if server.websocket else []
        words += ["--protocol", server.protocol] if server.protocol else []
        self.process = start([*words, *server.trigger], core=LOAD_CORE, stdin=subprocess.PIPE)
        self._rest = b""

    def __call__(self, command: str, *numbers: float, seconds: float = 300.0) -> dict[str, Any]:
        """Give a command and wait for its answer."""
        self.tell(command, *numbers)
        return self.answer(seconds=seconds)

    def tell(self, command: str, *numbers: float) -> None:
        """Give a command; the answer must be fetched with `answer`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{command} {' '.join(f'{one:.10g}' for one in numbers)}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed("the load generator ended") from None

    def answer(self, *, seconds: float = 300.0) -> dict[str, Any]:
        """The answer to the oldest command."""
        line = read_line(self.process, seconds)
        if not line:
            raise Failed("the load generator ended or hangs")
        return dict(json.loads(line))


@contextmanager
def loading(server: Server, *, tasks: int = 1, per_conn: int = 1, patience: float = 30.0) -> Iterator[Load]:
    """A load generator for one server."""
    load = Load(server, tasks=tasks, per_conn=per_conn, patience=patience)
    try:
        yield load
    finally:
        assert load.process.stdin is not None
        with contextlib.suppress(OSError):
            load.process.stdin.close()
        end(load.process, seconds=5)


@contextmanager
def ours(
    *,
    tasks: int = 1,
    websocket: bool = False,
    inproc: bool = False,
    upstream: str = "bytespike",
    streams: bool = True,
    port: int = 0,
    provider: tuple[int, int] | None = None,
    memory: bool = False,
    malloc: bool = False,
    folder: Path | None = None,
    config: dict[str, Any] | None = None,
    pace: dict[str, Any] | None = None,
    more: tuple[str, ...] = (),
) -> Iterator[Server]:
    """The bridge, with the whole product in the path; `inproc` leaves out the upstream side.

    Args:
        memory: The journal that forgets, instead of the SQLite file that is the default.
        malloc: Leave memory to the C library, which can give more of it back.
        folder: Where that file stands, when it must outlive the process.
        provider: Port and control port of one that runs already.
        more: Further upstreams, which nobody asks for anything.
    """
    with ExitStack() as stack:
        source, control = provider or stack.enter_context(providing(tasks))
        settings = {
            "base_url": f"http://127.0.0.1:{source}/{upstream}",
            "api_key": "bench",
            "max_streams": tasks if streams and not inproc else 0,
            **(QUIET if pace is None else pace),
        }
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD)))
        journal = "memory" if memory else f"sqlite:{home / 'bridge.db'}"
        variables = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
        for name, value in {**SETTINGS, "port": port, "journal": journal, **(config or {})}.items():
            variables[f"BRIDGE_{name.upper()}"] = str(value)
        if malloc:
            variables["PYTHONMALLOC"] = "malloc"
        variables["BRIDGE_UPSTREAMS"] = json.dumps(dict.fromkeys((upstream, *more), settings))
        if inproc:
            hook = machine.free_port()
            words = [sys.executable, "-m", "bench.inproc", str(hook), str(tasks)]
        else:
            hook = control
            words = [sys.executable, "-m", "bridge", "serve"]
        process = start(words, core=SERVER_CORE, env=variables)
        stack.callback(end, process)
        said = read_line(process, START_SECONDS).decode()
        if "listening on" not in said:
            raise Failed(f"the bridge did not start: {said}")
        at = int(said.rsplit(":", 1)[1])
        alive(at)
        yield Server(
            name="ours, in-process publisher" if inproc else "ours",
            port=at,
            process=process,
            path=f"/v1/ws?task={upstream}/t%d" if websocket else f"/v1/tasks/{upstream}/t%d/events",
            trigger=["--trigger-port", str(hook)],
            websocket=websocket,
            protocol="bridge.v1.json" if websocket else None,
            provider=control,
        )


@contextmanager
def providing(tasks: int) -> Iterator[tuple[int, int]]:
    """The cheap provider; its port and its control port."""
    port, control = machine.free_port(), machine.free_port()
    words = [sys.executable, "-m", "bench.provider", str(port), str(control), "--tasks", str(tasks)]
    process = start([*words, "--seconds", str(MOST_SECONDS)], core=LOAD_CORE)
    try:
        _expect(process, "provider listening")
        yield port, control
    finally:
        end(process)


@contextmanager
def limit(*, tasks: int = 1, websocket: bool = False) -> Iterator[Server]:
    """`send()` in a loop."""
    port, control = machine.free_port(), machine.free_port()
    body = document("t0", token(0))
    with tempfile.NamedTemporaryFile() as frame:
        frame.write(websocket_frame(body) if websocket else sse_frame(body))
        frame.flush()
        words = [str(BUILD / "limit"), str(port), str(control), str(tasks), frame.name]
        process = start(words + (["websocket"] if websocket else []), core=SERVER_CORE)
        try:
            _expect(process, "limit listening")
            yield Server("C limit", port, process, "/t%d", ["--trigger-port", str(control)], websocket)
        finally:
            end(process)


@contextmanager
def naive(*, tasks: int = 1) -> Iterator[Server]:
    """sse-starlette's response and a queue per client."""
    port, control = machine.free_port(), machine.free_port()
    words = [sys.executable, "-m", "bench.peers.naive", str(port), str(control), str(tasks)]
    process = start(words, core=SERVER_CORE)
    try:
        _reachable(control)
        _reachable(port)
        yield Server("naive sse-starlette", port, process, "/t%d", ["--trigger-port", str(control)])
    finally:
        end(process)


@contextmanager
def nchan(*, websocket: bool = False, publishers: int = 1) -> Iterator[Server]:
    """nginx with nchan; the load publishes by HTTP, as a bridge behind it would have to.

    Raises:
        NotInstalled: It is not there.
    """
    modules = machine.nchan_modules()
    if modules is None:
        raise NotInstalled("nchan is not installed")
    with tempfile.TemporaryDirectory() as folder:
        port = machine.free_port()
        limit_of = machine.descriptor_limit()
        words = {
            "modules": modules,
            "folder": folder,
            "port": port,
            "user": "root" if os.getuid() == 0 else "nobody",
        }
        words |= {"descriptors": limit_of, "connections": limit_of - 100}
        text = (ROOT / "bench/peers/nchan.conf").read_text()
        for word, value in words.items():
            text = text.replace("{" + word + "}", str(value))
        Path(folder, "nginx.conf").write_text(text)
        Path(folder, "state").write_bytes(document("t0", token(0)))
        process = start(
            ["nginx", "-c", f"{folder}/nginx.conf", "-p", folder, "-e", f"{folder}/error.log"],
            core=SERVER_CORE,
        )
        try:
            _reachable(port)
            trigger = [
                "--trigger-port",
                str(port),
                "--trigger-path",
                "/pub/t%d",
                "--template",
                f"{folder}/state",
            ]
            yield Server(
                "nchan",
                port,
                process,
                "/ws/t%d" if websocket else "/sse/t%d",
                [*trigger, "--trigger-conns", str(publishers)],
                websocket,
            )
        finally:
            end(process)


def ask_provider(control: int, word: str) -> dict[str, Any]:
    """What the provider was asked (`s`), or let it forget that (`z`)."""
    with socket.create_connection(("127.0.0.1", control), timeout=10) as line:
        line.sendall(f"{word}\n".encode())
        if word == "z":
            return {}
        return dict(json.loads(line.makefile().readline()))


def streaming(server: Server, streams: int) -> None:
    """Wait until the bridge follows this many streams of the provider."""
    assert server.provider is not None
    until = time.monotonic_ns() + int(START_SECONDS * 1e9)
    while ask_provider(server.provider, "s")["streams"] < streams:
        if time.monotonic_ns() > until:
            raise Failed("the bridge does not follow the provider's streams")
        time.sleep(0.05)


def get(port: int, path: str, *, accept: str = "*/*") -> str:
    """A page of the bridge."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def alive(port: int) -> None:
    """Wait until the bridge has started; it listens a moment before."""
    until = time.monotonic_ns() + int(START_SECONDS * 1e9)
    while time.monotonic_ns() < until:
        try:
            get(port, "/readyz")
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Failed("the bridge does not become ready")


def build() -> None:
    """Compile what is in C, where it is older than its source."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("load", "limit"):
        source, made = ROOT / "bench" / name / f"{name}.c", BUILD / name
        if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
            compiler = os.environ.get("CC", "cc")
            subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", made, source], check=True)


def start(
    words: list[str], *, core: int, stdin: int = subprocess.DEVNULL, env: dict[str, str] | None = None
) -> Any:
    log = (BUILD / "servers.log").open("ab")
    process = subprocess.Popen(words, stdin=stdin, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=env)
    log.close()
    if core < (os.cpu_count() or 1):
        os.sched_setaffinity(process.pid, {core})
    return process


def end(process: subprocess.Popen[bytes], *, seconds: float = 0.5) -> None:
    """End a process and its children, by force after a moment: what it serves is of no interest any more."""
    pids = machine.family(process.pid)
    if seconds < 1:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdout, process.stdin):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def kill(server: Server) -> None:
    """As a crash does it."""
    server.process.kill()
    server.process.wait()


def read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready else b""


def _expect(process: subprocess.Popen[bytes], word: str) -> None:
    if word not in read_line(process, START_SECONDS).decode():
        raise Failed(f"did not start: {word}")


def _reachable(port: int) -> None:
    until = time.monotonic_ns() + int(START_SECONDS * 1e9)
    while time.monotonic_ns() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Failed("nobody listens")

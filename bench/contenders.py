"""Starts and stops servers, provider and load generator: servers on one core, the rest on another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.tokens import document, sse_frame, token, websocket_frame

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
SERVER_CORE, LOAD_CORE = 0, 1
START_SECONDS = 120.0  # a machine that is busy otherwise takes long
REQUEST_SECONDS = 60.0  # with a request, while thousands of connections are made
MAX_SECONDS = 900

# Only settings that would disturb a measurement are changed; everything else is the default.
SETTINGS = {"max_connection_age_seconds": 86_400, "log_level": "warning", "log_format": "json"}
QUIET = {"poll_min_seconds": 600, "poll_max_seconds": 600}


class Failed(Exception):
    """A run without a result."""


class NotInstalled(Failed):
    """A contender that is not installed on this machine."""


@dataclass
class Server:
    """One running contender.

    Args:
        trigger: Options of the load generator for publishing.
        stateless: A new stream gets no state before the next change.
        provider: Control port of the provider, if there is one.
    """

    name: str
    port: int
    process: subprocess.Popen[bytes]
    path: str
    trigger: list[str]
    websocket: bool = False
    item: str | None = None
    protocol: str | None = None
    stateless: bool = False
    provider: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        """All processes of the server."""
        return machine.family(self.process.pid)


class Load:
    """The load generator: takes commands, returns measurements."""

    def __init__(self, server: Server, *, tasks: int, per_conn: int = 1, timeout: float = 30.0) -> None:
        command = [str(BUILD / "load"), "--port", str(server.port), "--path", server.path]
        command += ["--tasks", str(tasks), "--per-conn", str(per_conn), "--timeout", str(timeout)]
        command += ["--max-seconds", str(MAX_SECONDS), "--pids", ",".join(map(str, server.pids))]
        command += ["--item", server.item] if server.item else []
        command += ["--websocket", "1"] if server.websocket else []
        command += ["--protocol", server.protocol] if server.protocol else []
        command += ["--stateless", "1"] if server.stateless else []
        self.process = start([*command, *server.trigger], core=LOAD_CORE, stdin=subprocess.PIPE)
        self._rest = b""

    def __call__(self, command: str, *numbers: float, seconds: float = 300.0) -> dict[str, Any]:
        """Send a command and wait for its reply."""
        self.send(command, *numbers)
        return self.answer(seconds=seconds)

    def send(self, command: str, *numbers: float) -> None:
        """Send a command; fetch its reply with `answer`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(
                f"{command} {' '.join(f'{number:.10g}' for number in numbers)}\n".encode()
            )
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed("the load generator ended") from None

    def answer(self, *, seconds: float = 300.0) -> dict[str, Any]:
        """Return the reply to the oldest command."""
        line = read_line(self.process, seconds)
        if not line:
            raise Failed("the load generator ended or hangs")
        return dict(json.loads(line))


@contextmanager
def loading(server: Server, *, tasks: int = 1, per_conn: int = 1, timeout: float = 30.0) -> Iterator[Load]:
    """Run a load generator for one server."""
    load = Load(server, tasks=tasks, per_conn=per_conn, timeout=timeout)
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
    folder: Path | None = None,
    engine: str | None = None,
    config: dict[str, Any] | None = None,
    pace: dict[str, Any] | None = None,
    more: tuple[str, ...] = (),
    root: Path = ROOT,
) -> Iterator[Server]:
    """Run the bridge, end to end; `inproc` leaves out the upstream side.

    Args:
        memory: Use the memory journal instead of SQLite, the default.
        engine: Address of the engine that replaces the journal.
        folder: Folder of the journal file, if it must outlive the process.
        provider: Port and control port of a provider that is already running.
        more: Names of further upstreams without requests.
        root: The work tree whose bridge runs.
    """
    with ExitStack() as stack:
        source, control = provider or stack.enter_context(providing(tasks))
        settings = {
            "base_url": f"http://127.0.0.1:{source}/{upstream}",
            "api_key": "key-of-the-bench-0123456789",
            "max_streams": tasks if streams and not inproc else 0,
            **(QUIET if pace is None else pace),
        }
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD)))
        journal = "memory" if memory else f"sqlite:{home / 'bridge.db'}"
        states = {"engine": engine} if engine else {"journal": journal}
        variables = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
        for name, value in {**SETTINGS, "port": port, **states, **(config or {})}.items():
            variables[f"BRIDGE_{name.upper()}"] = str(value)
        variables["BRIDGE_UPSTREAMS"] = json.dumps(dict.fromkeys((upstream, *more), settings))
        if inproc:
            hook = machine.free_port()
            words = [sys.executable, "-m", "bench.inproc", str(hook), str(tasks)]
        else:
            hook = control
            words = [sys.executable, "-m", "bridge", "serve"]
        process = start(words, core=SERVER_CORE, env=variables, cwd=root)
        stack.callback(end, process)
        line = read_line(process, START_SECONDS).decode()
        if "listening on" not in line:
            raise Failed(f"the bridge did not start: {line}")
        at = int(line.rsplit(":", 1)[1])
        wait_ready(at, secure="tls_certificate_file" in (config or {}))
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
def with_tls() -> Iterator[Server]:
    """Run the bridge with its own TLS; a program on the load's core decrypts for the load.

    Raises:
        NotInstalled: There is no `openssl` that makes a certificate.
    """
    if shutil.which("openssl") is None:
        raise NotInstalled("openssl is not installed")
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        certificate, key = f"{folder}/tls.crt", f"{folder}/tls.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", "30", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        config = {"tls_certificate_file": certificate, "tls_key_file": key}
        with ours(config=config) as server:
            port = machine.free_port()
            words = [sys.executable, "-m", "bench.peers.decrypt", str(port), str(server.port)]
            process = start(words, core=LOAD_CORE)
            try:
                reachable(port)
                server.port = port
                yield server
            finally:
                end(process)


@contextmanager
def with_engine(*, tasks: int) -> Iterator[Server]:
    """Run the bridge with the in-process publisher and an engine, which is on the load's core.

    Raises:
        NotInstalled: There is neither Valkey nor Redis.
    """
    program = machine.engine_program()
    if program is None:
        raise NotInstalled("neither Valkey nor Redis is installed")
    port = machine.free_port()
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = start(words, core=LOAD_CORE)
    try:
        reachable(port)
        with ours(tasks=tasks, inproc=True, engine=f"redis://127.0.0.1:{port}") as server:
            yield server
    finally:
        end(process)


@contextmanager
def providing(tasks: int, *, seconds: float = MAX_SECONDS, dated: bool = False) -> Iterator[tuple[int, int]]:
    """Run the benchmark provider, for `seconds` at most; yield its port and control port.

    Args:
        dated: Its tasks have a time of creation, so that their run times can be learned.
    """
    port, control = machine.free_port(), machine.free_port()
    words = [sys.executable, "-m", "bench.provider", str(port), str(control), "--tasks", str(tasks)]
    words += ["--seconds", str(seconds), *(["--dated"] if dated else [])]
    process = start(words, core=LOAD_CORE)
    try:
        _expect(process, "provider listening")
        yield port, control
    finally:
        end(process)


@contextmanager
def limit(*, tasks: int = 1, websocket: bool = False) -> Iterator[Server]:
    """Run the C program that calls `send()` in a loop."""
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
    """Run sse-starlette with a queue per client."""
    port, control = machine.free_port(), machine.free_port()
    words = [sys.executable, "-m", "bench.peers.naive", str(port), str(control), str(tasks)]
    process = start(words, core=SERVER_CORE)
    try:
        reachable(control)
        reachable(port)
        yield Server("naive sse-starlette", port, process, "/t%d", ["--trigger-port", str(control)])
    finally:
        end(process)


def ask_provider(control: int, word: str) -> dict[str, Any]:
    """Return the provider's request counts (`s`), or reset them (`z`)."""
    with socket.create_connection(("127.0.0.1", control), timeout=10) as line:
        line.sendall(f"{word}\n".encode())
        if word == "z":
            return {}
        return dict(json.loads(line.makefile().readline()))


def command_provider(control: int, command: str) -> None:
    """Send a command to the provider; returns when it is done."""
    with socket.create_connection(("127.0.0.1", control), timeout=10) as line:
        line.sendall(f"{command}\ns\n".encode())
        line.makefile().readline()


def streaming(server: Server, streams: int) -> None:
    """Wait until the bridge follows this many provider streams."""
    control = server.provider
    assert control is not None
    wait_until(
        lambda: ask_provider(control, "s")["streams"] >= streams,
        "the bridge does not follow the provider's streams",
    )


def get(port: int, path: str, *, accept: str = "*/*") -> str:
    """GET a page of the bridge."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
        return str(response.read().decode())


def wait_ready(port: int, *, secure: bool = False) -> None:
    """Wait until the bridge is ready; it listens slightly earlier."""
    until = time.monotonic_ns() + int(START_SECONDS * 1e9)
    address = f"{'https' if secure else 'http'}://127.0.0.1:{port}/readyz"
    context = ssl._create_unverified_context() if secure else None
    while time.monotonic_ns() < until:
        try:
            urllib.request.urlopen(address, timeout=10, context=context).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Failed("the bridge does not become ready")


def build() -> None:
    """Compile the C programs that are older than their source."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("load", "limit"):
        source, binary = ROOT / "bench" / name / f"{name}.c", BUILD / name
        if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
            compiler = os.environ.get("CC", "cc")
            subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", binary, source], check=True)


def start(
    words: list[str],
    *,
    core: int,
    stdin: int = subprocess.DEVNULL,
    env: dict[str, str] | None = None,
    cwd: Path = ROOT,
) -> Any:
    log = (BUILD / "servers.log").open("ab")
    process = subprocess.Popen(words, stdin=stdin, stdout=subprocess.PIPE, stderr=log, cwd=cwd, env=env)
    log.close()
    if core < (os.cpu_count() or 1):
        os.sched_setaffinity(process.pid, {core})
    return process


def end(process: subprocess.Popen[bytes], *, seconds: float = 0.5) -> None:
    """Terminate a process and its children; kill them after `seconds`."""
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
    """Kill the server, as in a crash."""
    server.process.kill()
    server.process.wait()


def read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready else b""


def _expect(process: subprocess.Popen[bytes], word: str) -> None:
    if word not in read_line(process, START_SECONDS).decode():
        raise Failed(f"did not start: {word}")


def reachable(port: int) -> None:
    """Wait until something listens."""

    def connects() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    wait_until(connects, "the server is not listening")


def wait_until(reached: Callable[[], bool], otherwise: str) -> None:
    """Wait for a server.

    Raises:
        Failed: It took too long.
    """
    until = time.monotonic_ns() + int(START_SECONDS * 1e9)
    while not reached():
        if time.monotonic_ns() > until:
            raise Failed(otherwise)
        time.sleep(0.05)

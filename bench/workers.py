"""From commit to the last of many sockets, with one process and with several workers on one port.

python -m bench.workers                     3,000 viewers of one task, workers 1 and 2 in turn, five times
python -m bench.workers --sockets 300 --turns 1

The viewers do not read meanwhile, so that the servers have all cores; the kernel notes when each state
arrived (`SO_TIMESTAMPNS`). A turn is a new process on an empty journal. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[1]
SO_TIMESTAMPNS = 35
POLL_SECONDS = 0.5
CHANGES = 6  # of the task in one turn; the first is not counted
REST_SECONDS = 1.5  # after a change, before the sockets are read

_TIME = struct.Struct("qq")


class _Task(BaseHTTPRequestHandler):
    """The provider of one task, whose progress the bench sets."""

    progress = 1
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The status of any task."""
        task = {"task_id": "t", "status": "processing", "progress": self.progress, "created_at": 1720000000}
        body = json.dumps(task).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Nothing."""


def main() -> None:
    """Run it and print one line for each turn, then the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=3000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    provider = ThreadingHTTPServer(("127.0.0.1", 0), _Task)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    took: dict[int, list[float]] = {workers: [] for workers in options.workers}
    for _ in range(options.turns):
        for workers in options.workers:
            last, spread = _turn(workers, options.sockets, provider.server_port)
            took[workers] += last
            print(
                f"workers {workers}: commit to last socket {_ms(last)}, first to last {_ms(spread)}",
                flush=True,
            )
    medians = {workers: statistics.median(seconds) for workers, seconds in took.items()}
    base = medians[options.workers[0]]
    for workers, median in medians.items():
        print(f"workers {workers}: median {median * 1000:.1f} ms, {median / base:.2f} of the first")


def _turn(workers: int, sockets: int, provider: int) -> tuple[list[float], list[float]]:
    """Seconds from commit to the last socket, and from the first to the last, of each change."""
    with tempfile.TemporaryDirectory() as folder:
        process, port = _start(workers, folder, provider)
        try:
            clients = [_open(port) for _ in range(sockets)]
            for client in clients:
                _read_until(client, b'"progress"')
            last, spread = [], []
            for change in range(CHANGES):
                _Task.progress += 1
                time.sleep(POLL_SECONDS + REST_SECONDS)
                seen = [_arrival(client) for client in clients]
                committed = max(when for _, when in seen)
                if change:
                    last.append(max(at for at, _ in seen) - committed)
                    spread.append(max(at for at, _ in seen) - min(at for at, _ in seen))
            for client in clients:
                client.close()
        finally:
            process.terminate()
            process.wait()
    return last, spread


def _start(workers: int, folder: str, provider: int) -> tuple[subprocess.Popen[str], int]:
    upstream = {
        "base_url": f"http://127.0.0.1:{provider}",
        "api_key": "k",
        "poll_min_seconds": POLL_SECONDS,
        "poll_max_seconds": POLL_SECONDS,
    }
    variables = {
        "BRIDGE_PORT": "0",
        "BRIDGE_WORKERS": str(workers),
        "BRIDGE_JOURNAL": f"sqlite:{folder}/journal.db",
        "BRIDGE_LOG_LEVEL": "error",
        "BRIDGE_DRAIN_SECONDS": "0",
        "BRIDGE_UPSTREAMS": json.dumps({"qingbo": upstream}),
    }
    command = [sys.executable, "-m", "bridge", "serve"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = re.search(r":(\d+)$", process.stdout.readline().strip())
    assert found, "the bridge does not start"
    return process, int(found[1])


def _open(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    client.settimeout(60)
    client.sendall(
        b"GET /v1/tasks/qingbo/t/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
    )
    return client


def _read_until(client: socket.socket, text: bytes) -> None:
    received = b""
    while text not in received:
        received += client.recv(65_536)


def _arrival(client: socket.socket) -> tuple[float, float]:
    """When the newest state arrived, and when it was seen at the provider by the server's clock."""
    client.setblocking(False)
    arrived, received = 0.0, b""
    while True:
        try:
            data, ancillary, _, _ = client.recvmsg(65_536, 64)
        except BlockingIOError:
            break
        received += data
        for _, kind, value in ancillary:
            if kind == SO_TIMESTAMPNS and b'"progress"' in data:
                seconds, nanoseconds = _TIME.unpack(value[: _TIME.size])
                arrived = seconds + nanoseconds / 1e9
    client.setblocking(True)
    client.settimeout(60)
    found = re.findall(rb'"changed_at":"[^"]*T(\d+):(\d+):([\d.]+)Z"', received)
    assert found, "a state is missing"
    hours, minutes, seconds = map(float, found[-1])
    midnight = arrived - arrived % 86_400
    return arrived, midnight + hours * 3600 + minutes * 60 + seconds


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.1f} ms (worst {max(seconds) * 1000:.1f})"


if __name__ == "__main__":
    main()

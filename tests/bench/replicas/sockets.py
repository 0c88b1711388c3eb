"""When the last of very many sockets had its bytes, by the kernel's own time stamps.

The reader sleeps meanwhile: both cores belong to the bridge. Each socket asks for the time at which its
newest bytes arrived (`SO_TIMESTAMPNS`), so that reading them later costs the measurement nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from bench.contenders import providing
from tests.bench.replicas.load import Publisher
from tests.harness import running_bridge

SO_TIMESTAMPNS = 35
REQUEST = b"GET /v1/tasks/bytespike/t0/events HTTP/1.1\r\nHost: bridge\r\nAccept: text/event-stream\r\n\r\n"
_STAMP = struct.Struct("qq")
_CHANGED_AT = re.compile(rb'"changed_at":"([^"]+)"')
SETTLES_SECONDS = 0.6


async def fan_out(workers: int, sockets: int, rounds: int) -> dict[str, float]:
    """From the change at the provider to the last of `sockets`, in milliseconds; medians."""
    with providing(1) as (port, control), tempfile.TemporaryDirectory() as folder:
        upstream = {
            "base_url": f"http://127.0.0.1:{port}/bytespike",
            "api_key": "bench",
            "max_streams": 1,
            "poll_min_seconds": 600,
            "poll_max_seconds": 600,
        }
        settings = {"journal": f"sqlite:{Path(folder, 'bridge.db')}", "log_level": "warning"}
        if workers > 1:
            settings["workers"] = workers  # type: ignore[assignment]
        async with running_bridge(
            {"bytespike": upstream}, max_connection_age_seconds=86_400, **settings
        ) as bridge:
            host, _, at = bridge.url.rpartition("/")[2].partition(":")
            publisher = Publisher(control, 1)
            opened = await asyncio.to_thread(_open, (host, int(at)), sockets)
            try:
                await publisher.until_streams(1)
                return await _measured(opened, publisher, rounds)
            finally:
                for one in opened:
                    one.close()


async def _measured(opened: list[socket.socket], publisher: Publisher, rounds: int) -> dict[str, float]:
    spans, totals, seen = [], [], []
    for number in range(rounds + 2):
        await asyncio.sleep(SETTLES_SECONDS)
        began = time.time_ns()
        await publisher.one()
        await asyncio.sleep(SETTLES_SECONDS)
        arrivals = [arrival for one in opened if (arrival := _arrival(one, began)) is not None]
        stamps = [at for at, _ in arrivals]
        if number < 2:
            continue  # the first have caches to fill
        if len(stamps) < len(opened):
            raise AssertionError(f"only {len(stamps)} of {len(opened)} sockets had the change")
        spans.append((max(stamps) - min(stamps)) / 1e6)
        totals.append((max(stamps) - began) / 1e6)
        seen.append(max(stamps) / 1e6 - min(changed for _, changed in arrivals))
    return {
        "sockets": len(opened),
        "first_to_last_ms": median(spans),
        "change_to_last_ms": median(totals),
        "seen_to_last_ms": median(seen),
        "worst_ms": max(totals),
    }


def _open(address: tuple[str, int], sockets: int) -> list[socket.socket]:
    made = []
    for _ in range(sockets):
        one = socket.create_connection(address, timeout=30)
        one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        one.sendall(REQUEST)
        made.append(one)
    for one in made:
        data = b""
        while b"\nid: " not in data:
            data += one.recv(65_536)
        one.setblocking(False)
    return made


def _arrival(one: socket.socket, since: int) -> tuple[int, float] | None:
    """When the newest state came, nanoseconds, and when the bridge had seen it, milliseconds.

    None if no state has come since.
    """
    newest, document = 0, b""
    while True:
        try:
            data, extra, _, _ = one.recvmsg(65_536, 256)
        except BlockingIOError:
            break
        if not data:
            raise AssertionError("a socket was closed")
        for level, kind, value in extra:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and b"\ndata: " in b"\n" + data:
                seconds, nanoseconds = _STAMP.unpack(value[: _STAMP.size])
                at = seconds * 1_000_000_000 + nanoseconds
                newest, document = (at, data) if at >= since else (newest, document)
    found = _CHANGED_AT.search(document)
    return (newest, datetime.fromisoformat(found[1].decode()).timestamp() * 1000) if found else None

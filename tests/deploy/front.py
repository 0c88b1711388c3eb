"""What clients do at an edge, over TLS, and see as it comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.chaos.proxy import HOST
from tests.deploy.edge import Edge
from tests.e2e.raw import RawStream
from tests.harness import PATIENCE


@asynccontextmanager
async def stream(
    edge: Edge, path: str, *, source: str = HOST, method: str = "GET", body: bytes = b"", **headers: str
) -> AsyncIterator[RawStream]:
    """One request over HTTP/1.1 on a connection of its own; header names are written with underscores.

    Args:
        source: The address it comes from.
    """
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{edge.port}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(
            HOST, edge.port, ssl=edge.trust, local_addr=(source, 0), limit=2**20
        )
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        made = RawStream(reader, writer)
        await made.read_head()
        yield made
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

"""Sends a file at the pace of its reader; one that breaks off never ends like a whole one."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bridge.delivery.handoff import server_of
from bridge.errors import UpstreamError
from bridge.outputs.store import StoreError

LEFT_SECONDS = 1.0
_RESET = struct.pack("ii", 1, 0)  # on, without waiting for what is not sent

Ended = Callable[[UpstreamError | StoreError | None, bool], None]
"""Called once with the error that cut the file, if one did, and whether all of it was sent."""


class OutputResponse(Response):
    """The response with a file; `chunks` is only read as fast as the client reads.

    Args:
        opened: Closed when the response has ended, however it does.
        sent: Called with the size of each part.
        write_timeout_seconds: A client that does not read for so long is disconnected.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        opened: AsyncExitStack,
        *,
        sent: Callable[[int], None],
        ended: Ended,
        write_timeout_seconds: float,
    ) -> None:
        # Not the base class's: it would announce the length of an empty body.
        self.status_code = status
        self.background = None
        self.init_headers(headers)
        self._chunks = chunks
        self._opened = opened
        self._sent = sent
        self._ended = ended
        self._timeout = write_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            UpstreamError: The file was cut, and this is not the bridge's own server: others break the
                connection of a response that ends with an exception.
        """
        error: UpstreamError | StoreError | None = None
        whole = left = False
        server = server_of(scope)
        async with self._opened:
            try:
                start = {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
                await send(start)
                if scope["method"] == "HEAD" or self.status_code in (304, 416):
                    whole = True
                    await send({"type": "http.response.body", "body": b""})
                    return
                async with anyio.create_task_group() as group:
                    # The server swallows what is sent to a client that has left.
                    group.start_soon(_until_left, receive, group.cancel_scope)
                    left = True  # unless the block comes to its end
                    try:
                        async for part in self._chunks:
                            message = {"type": "http.response.body", "body": part, "more_body": True}
                            await self._write(server, send, message)
                            self._sent(len(part))
                        await self._write(server, send, {"type": "http.response.body", "body": b""})
                        whole = True
                    except (UpstreamError, StoreError) as raised:
                        error = raised
                    except TimeoutError:
                        pass  # the client does not read
                    group.cancel_scope.cancel()
                    left = False
            finally:
                self._ended(error, whole)
        if whole or left:
            return
        if server is None and error is not None:
            raise error
        if server is not None:
            await _break(server, receive)

    async def _write(self, server: Any, send: Send, message: Message) -> None:
        """Send a part once the client has taken the one before.

        Raises:
            TimeoutError: The client does not read.
        """
        while True:
            waiting = server.transport.get_write_buffer_size() if server is not None else 0
            try:
                async with asyncio.timeout(self._timeout):
                    # Waits before it writes, so that what is given up was not written.
                    return await send(message)
            except TimeoutError:
                if server is None or server.transport.get_write_buffer_size() >= waiting:
                    raise


async def _until_left(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _break(server: Any, receive: Receive) -> None:
    """End the connection so that no client takes what it has for the whole file.

    By a reset: to a client of HTTP/1.0 the usual end of a connection is the end of the file.
    """
    with suppress(AttributeError, OSError, ValueError):  # it may be closed already
        server.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    server.transport.abort()
    with suppress(TimeoutError):
        async with asyncio.timeout(LEFT_SECONDS):
            await _until_left(receive, anyio.CancelScope())

"""Calls an ASGI app in this process, as a server would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

App = Any


def _scope(kind: str, path: str, headers: Mapping[str, str], query: str, address: str) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")]
        + [(name.lower().encode(), text.encode()) for name, text in headers.items()],
        "client": (address, 1),
        "server": ("127.0.0.1", 8080),
        "extensions": {},
    }


class Response:
    """A response as it comes.

    Args:
        chunk: Called with each part of the body.
    """

    def __init__(self, chunk: Callable[[bytes], None] | None = None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.gone = asyncio.Event()
        self._chunk = chunk

    async def run(
        self,
        app: App,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        query: str = "",
        body: bytes = b"",
        address: str = "127.0.0.1",
    ) -> None:
        """Make the call, to its end."""
        scope = _scope("http", path, headers, query, address) | {"method": method}
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode().lower(): text.decode() for name, text in message["headers"]}
                return
            part = message.get("body", b"")
            if self._chunk is None or self.status != 200:
                self.body += part
            elif part:
                self._chunk(part)
            if not message.get("more_body", False):
                self.gone.set()

        await app(scope, receive, send)


class WebSocket:
    """A WebSocket as it comes.

    Args:
        said: Called with each message.
    """

    def __init__(self, said: Callable[[str], None]) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.closed: int | None = None
        self._said = said
        self.inbox.put_nowait({"type": "websocket.connect"})

    def say(self, text: str) -> None:
        """Send a message."""
        self.inbox.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        """Close it."""
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})

    async def run(self, app: App, path: str, address: str) -> None:
        """Open it, and serve it to its end."""
        scope = _scope("websocket", path, {}, "", address) | {"subprotocols": ["bridge.v1.json"]}

        async def send(message: Any) -> None:
            if message["type"] == "websocket.send":
                text = message.get("text")
                self._said(text if text is not None else message["bytes"].decode())
            elif message["type"] == "websocket.close":
                self.closed = message.get("code", 1000)
                self.leave()

        await app(scope, self.inbox.get, send)

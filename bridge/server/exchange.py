"""One request and its response: uvicorn's cycle with HTTP/1.0, and with clients that leave before the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache

from starlette.types import ASGIApp, Message
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

_WITHOUT_BODY = (204, 304)
_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_KEPT = 64  # bytes of a field whose line is kept
_MAX_JOINED = 65536  # bytes of a body that is copied behind its head
_DISCONNECT: Message = {"type": "http.disconnect"}


class Exchange(RequestResponseCycle):
    """A request with its response.

    Attributes:
        left: Whether the client has closed its half of the connection, or all of it.
        detached: Whether the response is a stream whose session runs detached. From then on `receive`
            reports a client that closed its half as disconnected; the body of other responses is finished.
    """

    left = False
    detached = False
    _held = b""  # the head, and what leaves with it: at the latest in the next iteration of the event loop
    _waits = False  # whether a detached session has written what was known and waits for the end
    _on_leave: Callable[[], None] | None = None

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once the client has left, at once if it has; replaces the one before."""
        self._on_leave = callback
        if self.left and callback is not None:
            callback()

    def leave(self) -> None:
        """The client sends nothing more and may be gone: end what only waits."""
        self.left = True
        if self._waits and not (self.keep_alive or self.flow.write_paused or self.disconnected):
            # As `send` does, without a turn of the session: `connection_lost` ends that.
            self.write_first(_LAST_CHUNK if self.chunked_encoding else b"")
            self.release()
            self.transport.close()
            return
        self.message_event.set()
        if self._on_leave is not None:
            self._on_leave()

    async def run_asgi(self, app: ASGIApp) -> None:  # type: ignore[override] # as uvicorn's
        """Run the application, and end the body of a stream whose client has closed its half."""
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
            if self.left and self.response_started and not self.response_complete:
                await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        except BaseException:
            self.logger.exception("unhandled exception in the application")
            await self._give_up()
        else:
            if not (self.response_complete or self.disconnected):
                self.logger.error("the application returned without a complete response")
                await self._give_up()
        finally:
            self.on_response = lambda: None

    async def _give_up(self) -> None:
        if self.response_started:
            self.release()
            self.transport.close()
        else:
            await self.send_500_response()

    async def receive(self) -> Message:  # type: ignore[override] # as uvicorn's
        """The next part of the request, or that the client has disconnected."""
        if self.detached:
            if self.left:
                return _DISCONNECT
            self._waits = True
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.waiting_for_100_continue = False
            self.transport.write(_CONTINUE)
        if not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete or (self.left and self.detached):
            return _DISCONNECT
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:  # type: ignore[override] # as uvicorn's
        """Write the head or a part of the body.

        Raises:
            RuntimeError: The message does not belong here, or the body has not the announced length.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started and kind == "http.response.start":
            self._start(message)
        elif self.response_started and not self.response_complete and kind == "http.response.body":
            self._continue(message.get("body", b""), more_body=message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _start(self, message: Message) -> None:
        self.response_started = True
        if self.waiting_for_100_continue and self.more_body:
            # A client that got no `100 Continue` may send the body or its next request: ambiguous.
            self.keep_alive = False
        self.waiting_for_100_continue = False
        status: int = message["status"]
        headers = [*self.default_headers, *message.get("headers", ())]
        content = [STATUS_LINE[status], *[header_line(name, value) for name, value in headers]]
        says_close = False
        fields = [name.lower() for name, _ in headers]
        if b"content-length" in fields and self.chunked_encoding is None:
            self.expected_content_length = int(headers[fields.index(b"content-length")][1])
            self.chunked_encoding = False
        if b"connection" in fields:
            says_close = b"close" in headers[fields.index(b"connection")][1].lower()
            self.keep_alive = self.keep_alive and not says_close
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            # HTTP/1.0 has no chunks (RFC 9112 section 6.1): there the end of the connection ends the body.
            self.chunked_encoding = self.scope["http_version"] != "1.0"
            if self.chunked_encoding:
                content.append(b"transfer-encoding: chunked\r\n")
            else:
                self.expected_content_length = -1
        if not (self.keep_alive or says_close):
            content.append(b"connection: close\r\n")
        content.append(b"\r\n")
        self._held = b"".join(content)
        if self.scope["method"] == "HEAD":
            self.release()
        else:
            # Some clients take what they read first for the whole response: a document is one write. And each
            # write wakes the client: of a stream, too, the head and the first state are one.
            asyncio.get_running_loop().call_soon(self.release)

    def write_first(self, data: bytes) -> None:
        """Write `data`; together with what is held, if there is any."""
        if self._held:
            self._held += data
        else:
            self.transport.write(data)

    def release(self) -> None:
        """Write what is held."""
        held, self._held = self._held, b""
        if held and not self.transport.is_closing():
            self.transport.write(held)

    def _continue(self, body: bytes, *, more_body: bool) -> None:
        if len(body) > _MAX_JOINED:
            self.release()
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            held, self._held = self._held, b""
            self.transport.write(held + (chunk if more_body else chunk + _LAST_CHUNK))
        else:
            if self.expected_content_length >= 0:
                self.expected_content_length -= len(body)
                if self.expected_content_length < 0:
                    raise RuntimeError("the response is longer than its Content-Length")
            held, self._held = self._held, b""
            self.transport.write(held + body)
        if more_body:
            return
        if self.expected_content_length > 0:
            raise RuntimeError("the response is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _line(name: bytes, value: bytes) -> bytes:
    """A line of the head.

    Raises:
        RuntimeError: It would be more than one.
    """
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
        raise RuntimeError("invalid HTTP header")
    return b"%b: %b\r\n" % (name.lower(), value)


_kept_line = lru_cache(512)(_line)  # most lines are the same in all responses


def header_line(name: bytes, value: bytes) -> bytes:
    """A line of a head.

    Raises:
        RuntimeError: It would be more than one.
    """
    return _kept_line(name, value) if len(value) <= _MAX_KEPT else _line(name, value)

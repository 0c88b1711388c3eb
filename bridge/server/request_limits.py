"""HTTP requests with limits: on the size of the head, and on the time until head and body have arrived."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.errors import TooLarge
from bridge.server.peers import own_address, peer_address
from bridge.server.request_head import Malformed
from bridge.server.waiting import Signal
from bridge.web.limits.limits import UnsentBytes

MAX_INCOMING_BYTES = 8 * 1024 * 1024  # of all requests that arrived in part
SMALL_BYTES = 16 * 1024  # of one such request, which is always let in
MAX_FIELDS = 1000  # header fields of one request
TRAILER_BYTES = 256  # that each trailer counts besides its own: hundreds are a fault or an attack
MIN_BODY_RATE = 1000.0  # bytes per second; below that the body timeout runs


def _response(status: bytes, detail: str, *, code: str = "invalid_request", retriable: bool) -> bytes:
    """A problem document that ends the connection."""
    number, _, _ = status.partition(b" ")
    fields = {
        "type": "about:blank",
        "title": code.replace("_", " "),
        "status": int(number),
        "code": code,
        "detail": detail,
        "retriable": retriable,
    }
    body = orjson.dumps(fields)
    final = b"retry-after: 5\r\n" if retriable else b"x-should-retry: false\r\n"
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n%b"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (status, final, len(body), body)
    )


REQUEST_TIMEOUT_RESPONSE = _response(
    b"408 Request Timeout", "the request was not received in time", retriable=True
)


def bad_request(sentence: str) -> bytes:
    """The response to a request whose head or body cannot be read."""
    return _response(b"400 Bad Request", sentence, retriable=False)


OVERLOADED_RESPONSE = _response(
    b"429 Too Many Requests", "too many requests arrive in part", code="too_many_requests", retriable=True
)


class IncomingBytes:
    """Bytes of requests that arrived in part and that no handler has read, over all connections.

    Attributes:
        total: The sum.
    """

    def __init__(self) -> None:
        self.total = 0


class CountedFlow(FlowControl):
    """uvicorn's flow control of one connection.

    Attributes:
        unsent: Counts what the client has not taken; None until it is known whose client it is.
    """

    __slots__ = ("unsent",)

    _is_writable_event: Signal  # type: ignore[assignment] # smaller than uvicorn's

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False
        self._is_writable_event = Signal(is_set=True)
        self.unsent: UnsentBytes | None = None

    def pause_writing(self) -> None:
        """Count the bytes in the write buffer: it is above its high-water mark."""
        super().pause_writing()
        if self.unsent is not None:
            self.unsent.set(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Count them no longer: the client has taken them, or is gone."""
        super().resume_writing()
        if self.unsent is not None:
            self.unsent.set(0)


class TimeLimitedRequest(HttpToolsProtocol):
    """uvicorn's HTTP protocol with the limits its parser lacks: it buffers any head and waits forever.

    Without them a client can hold a connection with one byte per minute (the Slowloris attack) or fill our
    memory with a head that never ends.

    Attributes:
        max_head_bytes: The largest request head, including the URL.
        incoming: What all connections hold of requests that arrived in part.
        waiting_since: The event loop's time since which more of a request is awaited; None while it is the
            server's turn.
    """

    # An instance with more than thirty attributes has a dictionary of its own: 1 KB per connection. Hence the
    # slots here, and below those of uvicorn's attributes that are the same for all, or rarely set.
    __slots__ = (
        "_counted",
        "_field_bytes",
        "_head_bytes",
        "_head_start",
        "_in_body",
        "_in_head",
        "waiting_since",
    )

    flow: CountedFlow
    max_head_bytes = 256 * 1024
    incoming = IncomingBytes()  # one for each server, in its own subclass

    logger = logging.getLogger("uvicorn.error")
    access_logger = logging.getLogger("uvicorn.access")
    timeout_keep_alive_task: asyncio.TimerHandle | None = None
    cycle = None  # type: ignore[assignment] # as uvicorn's
    headers: list[tuple[bytes, bytes]] = None  # type: ignore[assignment] # as uvicorn's

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # Not uvicorn's method: that searches its loggers, and fills twice as many attributes.
        if not config.loaded:
            config.load()
        self.config = config
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn: what follows a request with `Connection: close` does not make that request invalid.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.ws_protocol_class = config.ws_protocol_class
        self.root_path = config.root_path
        self.timeout_keep_alive = config.timeout_keep_alive
        self.app_state = app_state
        self.server_state = server_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Start the header timeout: a client that connects has to send a request."""
        # Not uvicorn's method: that asks the kernel five times, through a socket object made for it.
        self.connections.add(self)
        self.transport = transport
        self.client, self.server = peer_address(transport), own_address(transport)
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._in_head = self._in_body = False
        self._head_bytes = self._field_bytes = self._head_start = self._counted = 0
        self.waiting_since: float | None = self.loop.time()
        self.flow = CountedFlow(transport)

    def on_url(self, url: bytes) -> None:
        """Count the URL as part of the head."""
        self._field_bytes += len(url)
        if self._field_bytes > self.max_head_bytes:
            raise TooLarge  # raised through the parser, which ends the connection with 400
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field; the trailer of a chunked body is counted and dropped."""
        self._field_bytes += len(name) + len(value)
        if self._in_head:
            self.headers.append((name.lower(), value))
            if len(self.headers) > MAX_FIELDS:  # asked at each, as the parser stops where this raises
                raise Malformed("the request has too many header fields")
        else:
            self._field_bytes += TRAILER_BYTES
        if self._field_bytes > self.max_head_bytes:
            raise TooLarge

    def body_begins(self) -> None:
        """Start the body timeout."""
        self._in_head, self._in_body = False, True
        self.waiting_since = self.loop.time()

    def body_arrives(self, size: int) -> None:
        """Extend the body timeout by the time `size` bytes may take at the minimum rate."""
        if self.waiting_since is not None:
            # Never beyond now: a fast start must not pay for a long pause later.
            self.waiting_since = min(self.waiting_since + size / MIN_BODY_RATE, self.loop.time())

    def body_ends(self) -> None:
        """Stop the timeout: the request is complete."""
        self._in_body = False
        self.waiting_since = None

    def count_unfinished_head(self, size: int) -> bool:
        """Count bytes of a head that began in an earlier read; whether it is still small enough."""
        # The parser reports only whole header fields; one endless field shows in the raw bytes alone.
        self._head_bytes += size
        return self._head_bytes <= self.max_head_bytes

    def has_room_for(self, size: int) -> bool:
        """Count that the connection holds `size` bytes of a request that arrived in part.

        Returns:
            False when all connections hold too much and this one is to blame, too.
        """
        self.incoming.total += size - self._counted
        self._counted = size
        return size <= SMALL_BYTES or self.incoming.total <= MAX_INCOMING_BYTES

    def nothing_arrived(self) -> None:
        """Restart the header timeout after bytes that began no message."""
        if self.waiting_since is None and self._is_idle():
            # Line breaks between requests are legal, cancel uvicorn's keep-alive timer and begin no message.
            self.waiting_since = self.loop.time()

    def check_timeout(self, now: float, header_timeout: float, body_timeout: float) -> None:
        """Close the connection if its request arrives too slowly.

        A response that has begun is never interrupted, even if the request body is incomplete.

        Args:
            now: The event loop's time.
            header_timeout: Seconds for the head, from the connection or the first byte of a request.
            body_timeout: Seconds for the body while less than `MIN_BODY_RATE` arrives.
        """
        if self.waiting_since is None or self.transport.is_closing():
            return
        if self.flow.read_paused:
            # The application does not read, or what has arrived waits for its turn: not the client is late.
            self.waiting_since = now
            return
        timeout = body_timeout if self._in_body else header_timeout
        if now - self.waiting_since < timeout:
            return
        # Without a cycle, the response to the body that still arrives is complete.
        response_begun = self.cycle is None or self.cycle.response_started
        if self._in_body:
            if response_begun and self.cycle is not None and not self.cycle.response_complete:
                return
        elif not self._is_idle():
            return
        # A connection that never sent a byte gets no response: browsers open some in advance, and would
        # take a 408 for the response to their next request.
        if self._in_head or (self._in_body and not response_begun):
            self.transport.write(REQUEST_TIMEOUT_RESPONSE)
        self.transport.close()

    def _is_idle(self) -> bool:
        """Whether no request is in progress and uvicorn's own keep-alive timer is not running."""
        in_progress = self.cycle is not None and not self.cycle.response_complete
        return not in_progress and self.timeout_keep_alive_task is None

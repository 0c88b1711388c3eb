"""TLS of one connection: the protocol of its socket, and the transport of its HTTP connection.

The event loop's own TLS does not do here. It buffers another 512 KiB which its `get_write_buffer_size` hides
from us, or the socket's buffer, depending on where the bytes are; it reserves 256 KiB for reading; it drops
what is to be sent to a client that has closed its half; and all handshakes that arrive together are done in
one turn. This one encrypts what the socket's buffer has room for. What is above that waits as it was written,
so that the clients which do not read share the bytes of an event as they do without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

from bridge.server.handshakes import Handshakes
from bridge.server.peers import peer_address
from bridge.server.request_limits import bad_request
from bridge.server.turns import weight

HANDSHAKE = 0x16  # the first byte of a connection that speaks TLS
RECORD = 16 * 1024  # the most that one record carries; OpenSSL's buffers never shrink, so it gets no more
MAX_HANDSHAKE_BYTES = 32 * 1024  # received without the handshake being complete

_WRONG_PORT = bad_request("this port speaks TLS: the URL must begin with https://")

logger = logging.getLogger(__name__)


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """One connection, from its first byte.

    Attributes:
        transport: Of the socket.
        client: Address and port.
        since: The event loop's time at which it was accepted.
    """

    __slots__ = (
        "_ahead",
        "_answered",
        "_backlog",
        "_backlog_bytes",
        "_closing",
        "_ended",
        "_handshakes",
        "_held",
        "_incoming",
        "_outgoing",
        "_paused",
        "_plain_too",
        "_protocol",
        "_received",
        "_stuck",
        "_tls",
        "client",
        "loop",
        "since",
        "transport",
    )

    def __init__(self, handshakes: Handshakes, *, plain_too: bool = False) -> None:
        super().__init__()
        self._handshakes = handshakes
        self._plain_too = plain_too  # whether plain HTTP is served as well
        self._protocol: asyncio.Protocol | None = None  # None until the handshake is complete
        self._tls: ssl.SSLObject | None = None
        self._ahead = b""  # received, and waiting for its turn
        self._received = 0  # bytes of the handshake
        self._answered = False  # whether the expensive step of the handshake is done
        self._ended = False  # whether the client has closed its half
        self._closing = False
        self._backlog: deque[memoryview] | None = None  # written, and not encrypted; None while there is none
        self._backlog_bytes = 0
        self._paused = False  # whether the HTTP connection does not read
        self._stuck = False  # whether the write buffer is full
        self._held = False  # whether nothing is read until it is not

    @property
    def address(self) -> str:
        """The client's IP address; empty if it is not known."""
        return self.client[0] if self.client else ""

    # The protocol of the socket

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # a socket's
        """Expect the handshake."""
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()
        self.client = peer_address(transport)
        self._handshakes.add(self)

    def data_received(self, data: bytes) -> None:
        """Decrypt, or continue the handshake when its turn comes."""
        if self._protocol is not None:
            self._receive(data)
        elif self._closing:
            return
        elif self._tls is None and data[0] != HANDSHAKE:
            self._speak_plain(data)
        elif self._answered or self._handshakes.turns.may_begin(self, data):
            self._shake_hands(data)
        else:
            self._ahead = data
            self.transport.pause_reading()
            self._handshakes.turns.wait(self)

    def eof_received(self) -> bool:
        """The client has closed its half, with or without saying so by TLS before."""
        if self._protocol is None:
            return False
        self._end_of_input()
        return not self._closing or self._backlog is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Report it; free the memory of OpenSSL now."""
        self._closing = True
        self._handshakes.discard(self)
        protocol, self._protocol = self._protocol, None
        self._tls, self._ahead = None, b""
        self._drop_backlog()
        if protocol is not None:
            protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket's write buffer is full."""
        self._stuck = True
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """It has drained."""
        self._stuck = False
        if self._held:
            self._held = False
            if not (self._paused or self._closing):
                self.transport.resume_reading()
        self._work_off()
        if self._protocol is not None and not self._stuck:
            self._protocol.resume_writing()

    # The handshake

    def continue_reading(self) -> int:
        """Process what waited for its turn; how much of a turn it takes."""
        data, self._ahead = self._ahead, b""
        if self._closing or not data:
            return 0
        self.transport.resume_reading()
        self._shake_hands(data)
        return weight(data)

    def _shake_hands(self, data: bytes) -> None:
        if self._tls is None:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = self._handshakes.context()
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._handshakes.begin(self)
        for at in range(0, len(data), RECORD):
            piece = data[at : at + RECORD]
            self._incoming.write(piece)
            self._received += len(piece)
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if self._received > MAX_HANDSHAKE_BYTES:
                    self._fail("the handshake is too long")
                    return
            except ssl.SSLError as error:
                self._fail(reason_of(error))
                return
            else:
                self._begin(data[at + RECORD :])
                return
        self._answered = self._outgoing.pending > 0 or self._answered
        self._flush()

    def _begin(self, rest: bytes) -> None:
        """Start HTTP.

        Args:
            rest: What the client has sent behind the handshake.
        """
        self._handshakes.discard(self)
        self._flush()
        protocol = self._handshakes.make_protocol()
        self._protocol = protocol
        protocol.connection_made(self)
        protocol.waiting_since = self.since  # the handshake is part of the time for the first head
        self._receive(rest)

    def _speak_plain(self, data: bytes) -> None:
        """Hand a connection without TLS over, or refuse it."""
        if self._plain_too:
            self._handshakes.discard(self)
            protocol = self._handshakes.make_protocol()
            self.transport.set_protocol(protocol)
            protocol.connection_made(self.transport)
            protocol.waiting_since = self.since
            protocol.data_received(data)
            return
        logger.warning("plain HTTP on a TLS port, or no HTTP at all", extra={"address": self.address})
        if data[:1].isupper():  # the method of a request
            self.transport.write(_WRONG_PORT)
        self.close()

    def _fail(self, reason: str) -> None:
        self._handshakes.failed(reason)
        self._flush()  # the alert that says why
        self.close()

    # Receiving

    def _receive(self, data: bytes) -> None:
        """Decrypt; hand on all of it in one call, as a socket would."""
        tls, incoming = self._tls, self._incoming
        if tls is None or self._ended or self._closing:
            return
        received: list[bytes] = []
        ended, error = False, None
        try:
            for at in range(0, len(data) or 1, RECORD):
                incoming.write(data if len(data) <= RECORD else data[at : at + RECORD])
                ended = ended or _read_all(tls, incoming, received)
        except ssl.SSLError as broken:
            error = broken
        if self._outgoing.pending:
            self._flush()
            self._hold()
        if received and self._protocol is not None:
            self._protocol.data_received(received[0] if len(received) == 1 else b"".join(received))
        if error is not None:
            logger.debug("TLS connection broken", extra={"error": reason_of(error)})
            self._drop_backlog()
            self._close_now()
        elif ended:
            self._end_of_input()

    def _hold(self) -> None:
        """Read no more from a client that makes OpenSSL respond, and does not read that."""
        if self._stuck and not self._held and not self._closing:
            self._held = True
            if not self._paused:
                self.transport.pause_reading()

    def _end_of_input(self) -> None:
        if self._ended or self._closing:
            return
        self._ended = True
        if self._protocol is not None and not self._protocol.eof_received():
            self.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())

    # The transport of the HTTP connection

    def write(self, data: Any) -> None:
        """Encrypt, and write to the socket; flow control is the socket's."""
        tls = self._tls
        if tls is None or self._closing or not data:
            return
        if self._stuck or len(data) > RECORD:
            if self._backlog is None:
                self._backlog = deque()
            self._backlog.append(memoryview(data))
            self._backlog_bytes += len(data)
            self._work_off()
            return
        try:
            tls.write(data)
        except ssl.SSLError as error:
            self._break(error)
            return
        self.transport.write(self._outgoing.read())

    def _work_off(self) -> None:
        """Encrypt what waits, one record at a time, up to the high-water mark of the socket's buffer."""
        backlog, tls = self._backlog, self._tls
        try:
            while backlog and tls is not None and not self._stuck:
                data = backlog.popleft()
                if len(data) > RECORD:
                    backlog.appendleft(data[RECORD:])
                tls.write(data[:RECORD])
                self._backlog_bytes -= min(len(data), RECORD)
                self.transport.write(self._outgoing.read())
        except ssl.SSLError as error:
            self._break(error)
            return
        if backlog is not None and not backlog:
            self._backlog = None
            if self._closing:
                # Not at once: asyncio's transport loses its connection twice if `resume_writing` closes it.
                self.loop.call_soon(self._close_cleanly)

    def _drop_backlog(self) -> None:
        self._backlog, self._backlog_bytes = None, 0

    def _break(self, error: ssl.SSLError) -> None:
        logger.debug("TLS connection broken", extra={"error": reason_of(error)})
        self.abort()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Write all of them."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Send `close_notify` and close once the write buffer is empty; the client's is not awaited."""
        if self._closing:
            return
        self._closing = True
        if not self._backlog:
            self._close_cleanly()

    def _close_cleanly(self) -> None:
        if self._protocol is not None and self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
        self._close_now()

    def _close_now(self) -> None:
        self._closing = True
        self._handshakes.discard(self)
        self.transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._closing = True
        self._handshakes.discard(self)
        self._drop_backlog()
        self.transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or closing."""
        return self._closing or self.transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of the socket; and `sslcontext` and `ssl_object`."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return default if self._tls is None else self._tls.context
        return self.transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Let the client wait. Idempotent."""
        if not self._paused:
            self._paused = True
            if not (self._held or self.is_closing()):
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on. Idempotent."""
        if self._paused:
            self._paused = False
            if not (self._held or self.is_closing()):
                self.transport.resume_reading()

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self.transport.is_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the HTTP connection."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The HTTP connection, or this object before there is one."""
        return self._protocol or self

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As the socket's, of encrypted bytes."""
        self.transport.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """As the socket's."""
        return self.transport.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not accepted, encrypted or not."""
        return self.transport.get_write_buffer_size() + self._backlog_bytes

    def can_write_eof(self) -> bool:
        """Never, as with any TLS transport."""
        return False


def reason_of(error: ssl.SSLError) -> str:
    """Why OpenSSL gave up, in its words."""
    return (error.reason or str(error)).replace("_", " ").lower()


def _read_all(tls: ssl.SSLObject, incoming: ssl.MemoryBIO, received: list[bytes]) -> bool:
    """Decrypt what has arrived; whether the client has ended what it sends."""
    # An exception costs more than to ask whether there is anything.
    while incoming.pending or tls.pending():
        try:
            piece = tls.read(RECORD)
        except ssl.SSLWantReadError:
            return False
        if not piece:
            return True
        received.append(piece)
    return False

"""One HTTP connection: reads one request at a time, and agrees with proxies on where it ends."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from bridge.server.exchange import Exchange
from bridge.server.flow_control import FlowControlledWebSocket
from bridge.server.request_head import FRAMING_FIELDS, Malformed, ends_in_handshake, framing
from bridge.server.request_limits import OVERLOADED_RESPONSE, TimeLimitedRequest, bad_request
from bridge.server.turns import RequestTurns, weight
from bridge.server.waiting import Signal

# Of one read, which may be 256 KiB: so much is parsed before other connections have their turn.
SLICE_BYTES = 64 * 1024
SLICE_PIECES = 200
CHUNKED_PIECE = 16 * 1024  # a body may consist of chunks of one byte, and each costs a call
MAX_AHEAD = 64 * 1024  # bytes of further requests that are kept while one is answered

_END = b"\r\n\r\n"  # of a head, and of a chunked body


class HttpConnection(TimeLimitedRequest):
    """A connection whose requests are read one after the other, each once the one before is answered.

    uvicorn's own protocol parses ahead, stops at any `Upgrade` without the body, and drops what it was about
    to answer when the client closes its half of the connection.
    """

    __slots__ = ("_ahead", "_deaf", "_eof", "_left", "_tail", "_upgrade", "_websocket")

    turns = RequestTurns()  # one for each server, in its own subclass
    cycle: Exchange | None  # type: ignore[assignment] # None between two requests: an idle connection is small

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Expect the first request."""
        super().connection_made(transport)
        self._ahead = b""  # received and not parsed yet
        self._deaf = False  # whether everything that still arrives is ignored
        self._eof = False
        self._left: int | None = 0  # bytes of the body to come; None if it is chunked
        self._tail = b""  # the last bytes of an unfinished head or chunked body
        self._upgrade = False  # whether the parser stops at the head that was just read
        self._websocket = False  # whether that head is a WebSocket handshake

    # Receiving

    def data_received(self, data: bytes) -> None:
        """Parse `data` up to the end of a request; keep the rest until that is answered."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self._deaf:
            return
        if self._ahead or self._is_answering():
            self._keep(data)
        elif not (self._in_head or self._in_body or self.turns.may_begin(self, data)):
            self._ahead = data
            self.flow.pause_reading()
            self.turns.wait(self)
        elif self._tail or self._in_body or data.find(_END) != len(data) - len(_END):
            self._parse(data)
        else:  # one whole head and nothing else, as nearly always
            self._feed(data)
            if self.cycle is None:
                self._parse(b"")
            return
        if not (self._deaf or self._has_room()):
            self.refuse_for_now()

    def eof_received(self) -> bool:  # type: ignore[override] # as asyncio's
        """The connection is half-closed: finish the requests that the client has sent, then close."""
        self._eof = True
        if self.cycle is not None and self._is_answering():
            self.cycle.keep_alive &= bool(self._ahead)
            self.cycle.leave()
            return True
        return bool(self._ahead)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report it to the application, also to one that waits for something else than the client."""
        cycle, self._deaf, self._ahead = self.cycle, True, b""
        if isinstance(exc, TimeoutError):
            self.flow.silent = True  # type: ignore[attr-defined] # see `bridge.hub.subscription.FlowControl`
        self.has_room_for(0)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete:
            cycle.leave()

    def client_left(self) -> None:
        """Treat the client as one that sends nothing more; what it sent ahead is dropped."""
        self._deaf, self._ahead = True, b""
        if self.cycle is not None and self._is_answering():
            self.cycle.keep_alive = False
            self.cycle.leave()
        else:
            self.transport.close()

    def peer_silent(self) -> None:
        """The client has acknowledged nothing for too long."""
        self.flow.silent = True  # type: ignore[attr-defined] # see `bridge.hub.subscription.FlowControl`
        self.transport.abort()

    def peer_closed(self) -> None:
        """The client has closed its half while nothing is read from it."""
        # A body that waits in the kernel may be complete: it is read first.
        if not self._eof and self._is_answering():
            self.client_left()

    def _is_answering(self) -> bool:
        """Whether a request was read to its end and its response is not complete."""
        return self.cycle is not None and not self.cycle.response_complete and not self._in_body

    def _keep(self, data: bytes) -> None:
        fresh = max(0, len(self._ahead) - len(_END) + 1)
        self._ahead += data
        if self._is_answering() and self._kept_handshake(fresh):
            # Nothing can follow the open response on a connection that is about to change its protocol.
            self.client_left()
        elif len(self._ahead) > MAX_AHEAD:
            if self.cycle is not None and self.cycle.detached:
                self.client_left()  # a stream would hold these requests, and our view of the client, for long
            else:
                self.flow.pause_reading()

    def _kept_handshake(self, fresh: int) -> bool:
        """Whether a head that ends behind the offset `fresh` of what is kept is a WebSocket handshake."""
        # Heads are found by their empty lines. A body that holds one may be taken for a request here, which
        # costs its sender this connection, and clients send no such body without waiting for the response.
        while (end := self._ahead.find(_END, fresh)) >= 0:
            start = self._ahead.rfind(_END, 0, end)
            if ends_in_handshake(self._ahead[start + len(_END) if start >= 0 else 0 : end + len(_END)]):
                return True
            fresh = end + len(_END)
        return False

    def _parse(self, data: bytes) -> None:
        """Parse up to the end of one request, or of one slice."""
        if self._upgrade:
            self._upgrade_after(data)
        rest = data[self._parse_pieces(data) :]
        if self._deaf:
            return
        answering = self._is_answering()
        if rest and not answering:  # the next slice
            self._ahead = rest
            self.flow.pause_reading()
            self.loop.call_soon(self.continue_reading)
            return
        if self.flow.read_paused and (self.cycle is None or len(self.cycle.body) <= HIGH_WATER_LIMIT):
            self.flow.resume_reading()
        if rest:
            self._keep(rest)
        elif self._eof and answering and self.cycle is not None:
            self.cycle.keep_alive = False
        elif self._eof:
            self.transport.close()
        elif not answering:
            self.nothing_arrived()

    def _parse_pieces(self, data: bytes) -> int:
        """The offset up to which `data` was parsed."""
        at, limit, pieces = 0, min(len(data), SLICE_BYTES), 0
        while at < limit and pieces < SLICE_PIECES and not (self._deaf or self._is_answering()):
            end = self._end_of_piece(data, at)
            self._feed(data[at:end])
            at, pieces = end, pieces + 1
            if self._upgrade:
                self._upgrade_after(data[at:])
        return at

    def _upgrade_after(self, rest: bytes) -> None:
        """Switch to WebSockets, or continue with a request whose upgrade is ignored."""
        self._upgrade = False
        if self._deaf:
            return
        if self._websocket:
            self._switch_to_websocket(rest)
        else:
            self._feed(self._head_without_upgrade())

    def continue_reading(self) -> int:
        """Parse what was kept; how much of a turn it takes."""
        if self._deaf or self._is_answering():
            return 0
        data, self._ahead = self._ahead, b""
        if data:
            self._parse(data)
        return weight(data) if data else 0

    def _end_of_piece(self, data: bytes, at: int) -> int:
        """The end of what can be parsed without reaching into another request."""
        if self._in_body and self._left is not None:
            end = min(len(data), at + self._left)
            self._left -= end - at
            return end
        tail = self._tail
        if tail:
            found = (tail + data[at : at + 3]).find(_END)
            if found >= 0:
                self._tail = b""
                return at + found + len(_END) - len(tail)
        limit = min(len(data), at + CHUNKED_PIECE) if self._in_body else len(data)
        found = data.find(_END, at, limit)
        if found >= 0:
            self._tail = b""
            return found + len(_END)
        self._tail = (tail + data[max(at, limit - 3) : limit])[-3:]
        return limit

    def _has_room(self) -> bool:
        """Whether what this connection holds of a request that is not complete may stay."""
        held = len(self._ahead)
        if self._in_head:
            held += self._head_start + self._head_bytes
        elif self._in_body and self.cycle is not None:
            held += len(self.cycle.body)
        return self.has_room_for(held)

    def _feed(self, data: bytes) -> None:
        had_begun = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade = True
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refuse(str(cause) if isinstance(cause, Malformed) else "this is not valid HTTP/1.1")
            return
        if not self._in_head:
            return
        if not had_begun:
            self._head_start = len(data)
        elif not self._upgrade and not self.count_unfinished_head(len(data)):
            self.refuse("the head of the request is too large")

    def _head_without_upgrade(self) -> bytes:
        """The head once more, as the parser has to see it to continue with the body."""
        # The parser stops at every `Upgrade`, also at one that the server ignores.
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([*lines, b"", b""])

    def _switch_to_websocket(self, rest: bytes) -> None:
        """Hand the connection over to the WebSocket protocol.

        Args:
            rest: What the client sent behind the handshake.
        """
        self._deaf = True
        self.connections.discard(self)
        self.flow.resume_reading()
        protocol = self.ws_protocol_class(  # type: ignore[call-arg, misc] # as uvicorn's
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        assert isinstance(protocol, FlowControlledWebSocket)
        protocol.begin(self.url, self.headers)
        if rest:
            protocol.data_received(rest)

    # Responding

    def refuse(self, sentence: str) -> None:
        """Respond with 400, unless a response has begun, and close."""
        self._end_with(bad_request(sentence))

    def refuse_for_now(self) -> None:
        """Respond with 429, unless a response has begun, and close: there is no memory for the request."""
        self._end_with(OVERLOADED_RESPONSE)

    def _end_with(self, response: bytes) -> None:
        self._deaf, self._ahead = True, b""
        self.has_room_for(0)
        cycle = self.cycle
        if cycle is None or not cycle.response_started:
            self.transport.write(response)
        if cycle is not None:
            cycle.release()
            cycle.disconnected = True  # before `connection_lost`, or the application would write behind it
            cycle.message_event.set()
        self.transport.close()

    def on_response_complete(self) -> None:
        """Continue with the next request."""
        self.server_state.total_requests += 1
        if self._counted:
            self.has_room_for(0)
        # Only the parser and the limits remain of an idle connection.
        self.cycle = self.headers = None  # type: ignore[assignment] # as uvicorn's
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self._ahead:
            self.turns.wait(self)
        elif self._eof:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # The parser's calls

    def on_message_begin(self) -> None:
        """Start a request."""
        if self.cycle is not None and self._is_answering():
            raise Malformed("the end of the request before is ambiguous")
        self._in_head = True
        self._head_bytes = self._field_bytes = 0
        self.waiting_since = self.loop.time()
        self.url = b""
        self.headers = []

    def on_headers_complete(self) -> None:
        """Decide where the request ends, and start to answer it."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        headers = self.headers
        fields = [field for field in headers if field[0] in FRAMING_FIELDS]
        decided = framing(method, version, self.url, fields)
        if decided.websocket or self.parser.should_upgrade():
            self._upgrade, self._websocket = True, decided.websocket
            return
        target = httptools.parse_url(self.url)
        raw_path = target.path or b"/"  # an absolute target may lack it
        path = raw_path.decode("ascii")
        self._left = decided.content_length
        self.body_begins()
        self.cycle = Exchange(
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": version,
                "method": method.decode("ascii"),
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme or "http",
                "root_path": self.root_path,
                "path": self.root_path + (unquote(path) if "%" in path else path),
                "raw_path": self.root_path.encode("ascii") + raw_path if self.root_path else raw_path,
                "query_string": target.query or b"",
                "headers": headers,
                "state": self.app_state.copy(),
            },
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            False,
            self.server_state.default_headers,
            Signal(),  # type: ignore[arg-type] # as uvicorn's
            decided.expects_continue,
            decided.keep_alive,
            self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on, if it is still wanted."""
        self.body_arrives(len(body))
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.detached:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End the body."""
        if self._upgrade:  # the parser takes the end of the head for the end of the request
            return
        self.body_ends()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
            if self._eof:
                cycle.leave()

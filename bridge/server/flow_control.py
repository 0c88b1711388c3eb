"""WebSocket flow control as a plain attribute, which the hub reads before every write."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from bridge.web.limits.limits import UnsentBytes


class WebSocketFlowControl:
    """Whether the write buffer of a WebSocket is full; see `bridge.hub.subscription.FlowControl`.

    A separate object: the protocol has more attributes than CPython keeps in an inline dictionary, which
    makes reading one of its own slower.
    """

    __slots__ = ("write_paused",)

    def __init__(self) -> None:
        self.write_paused = False


class FlowControlledWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with `flow`, its flow control."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Create the flow control before the handshake begins."""
        self.flow_control = WebSocketFlowControl()
        self.unsent: UnsentBytes | None = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Process `data`; send the error response of a handshake that the library rejects."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # The library prepares the response and uvicorn never sends it: the client would wait forever.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def pause_writing(self) -> None:
        """The transport's buffer is above its high-water mark."""
        self.flow_control.write_paused = True
        super().pause_writing()
        if self.unsent is not None:
            self.unsent.set(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The transport's buffer is below its low-water mark."""
        self.flow_control.write_paused = False
        super().resume_writing()
        if self.unsent is not None:
            self.unsent.set(0)

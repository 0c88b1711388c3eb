"""Our server's WebSocket protocol says whether its client takes what it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from bridge.server.flow_control import FlowControlledWebSocket

pytestmark = pytest.mark.anyio


class Silent(asyncio.Transport):
    """A connection on which nothing happens."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known of it."""
        del name
        return default

    def get_write_buffer_size(self) -> int:
        """Nothing was written."""
        return 0


async def nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    """An app nobody asks."""


async def test_the_gate_follows_the_buffer_of_the_transport() -> None:
    config = uvicorn.Config(nothing, ws=FlowControlledWebSocket, log_config=None)
    protocol = FlowControlledWebSocket(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(Silent())
    flow = protocol.flow_control
    assert not flow.write_paused
    protocol.pause_writing()
    assert flow.write_paused
    assert not protocol.writable.is_set()
    protocol.resume_writing()
    assert protocol.flow_control is flow
    assert not flow.write_paused
    assert protocol.writable.is_set()

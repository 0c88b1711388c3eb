"""How long a client may be silent before it counts as vanished."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from bridge.server.peers import PROBES, peer_status, silence_limit, watch_peers


@pytest.mark.parametrize("timeout", [0.2, 1.0, 2.0, 5.0, 30.0, 31.7, 300.0])
def test_an_idle_client_is_probed_often_enough_not_to_seem_gone(timeout: float) -> None:
    with socket.socket() as listener:
        watch_peers(listener, timeout)
        interval = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
    assert silence_limit(timeout) >= max(timeout, PROBES * interval)


class _Closed:
    def get_extra_info(self, name: str) -> Any:
        del name


def test_of_a_closed_connection_nothing_is_known() -> None:
    assert peer_status(_Closed()) == (False, 0.0)

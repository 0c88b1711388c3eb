"""Several listeners of one port, and none beside another service."""

from __future__ import annotations

import socket

import pytest

from bridge.server.listeners import listen, listen_together, listen_when_released


def test_the_kernel_spreads_connections_over_all_listeners() -> None:
    listeners = listen_together("127.0.0.1", 0, 3)
    address = listeners[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(300)]
    accepted = []
    for listener in listeners:
        assert listener.getsockname() == address
        number = 0
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            number += 1
        accepted.append(number)
    assert sum(accepted) == len(clients)
    assert min(accepted) > 50
    for one in (*clients, *listeners):
        one.close()


@pytest.mark.parametrize("number", [1, 2])
def test_a_second_service_does_not_share_the_port_of_the_first(number: int) -> None:
    listeners = listen_together("127.0.0.1", 0, 2)
    port = listeners[0].getsockname()[1]
    with pytest.raises(OSError, match="in use") as error:
        listen_together("127.0.0.1", port, number)
    assert error.value.filename == f"127.0.0.1:{port}"
    with pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", port)
    for listener in listeners:
        listener.close()
    listen("127.0.0.1", port).close()


def test_the_workers_of_a_killed_service_keep_its_port_for_a_moment() -> None:
    left = listen("127.0.0.1", 0)
    port = left.getsockname()[1]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            left.close()

    for one in listen_when_released(lambda: listen_together("127.0.0.1", port, 2), sleep=sleep):
        one.close()
    assert len(waits) == 3


def test_a_port_that_stays_in_use_is_reported() -> None:
    waits: list[float] = []
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listen_when_released(lambda: listen("127.0.0.1", port), sleep=waits.append)
    assert 1 < sum(waits) < 10

"""Limits by themselves: who finds a slot, who finds none, and that every slot is given back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

from bridge.config.settings import Settings
from bridge.delivery.handoff import ON_CLOSE
from bridge.errors import LimitExceeded
from bridge.telemetry.metrics import Metrics
from bridge.web.limits.client_address import ClientAddresses
from bridge.web.limits.limits import Limits, UnsentBytes
from tests.fakes.clock import FakeClock


class Door:
    """Limits, and connections that come and go."""

    def __init__(self, **wishes: Any) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics(CollectorRegistry(), [])
        settings = Settings.model_construct(**wishes)
        self.limits = Limits(settings, ClientAddresses([]), self.clock, self.metrics)

    def connection(self, address: str = "192.0.2.1") -> HTTPConnection:
        return HTTPConnection({"type": "http", "client": (address, 1), "headers": [], "extensions": {}})

    def enter(self, address: str = "192.0.2.1", caller: str = "c", tasks: int = 1) -> HTTPConnection:
        connection = self.connection(address)
        try:
            slot = self.limits.open_stream(connection)
            slot.assign_to_caller(caller)
            slot.set_watch_count(tasks)
        except LimitExceeded:
            end(connection)
            raise
        return connection

    def refuses(self, **more: Any) -> bool:
        try:
            end(self.enter(**more))
        except LimitExceeded as error:
            return (error.retry_after or 0) > 0
        return False


def end(connection: HTTPConnection) -> None:
    """As the outermost layer does."""
    for call in connection.scope["extensions"].pop(ON_CLOSE, ()):
        call()


@pytest.mark.parametrize(
    ("wishes", "same", "other"),
    [
        ({"max_connections": 2}, {}, None),
        ({"max_connections_per_address": 2}, {"caller": "d"}, {"address": "192.0.2.2"}),
        ({"max_connections_per_caller": 2}, {"address": "192.0.2.2"}, {"caller": "d"}),
    ],
)
def test_connections_are_limited_in_all_by_address_and_by_caller(
    wishes: dict[str, int], same: dict[str, str], other: dict[str, str] | None
) -> None:
    door = Door(**wishes)
    first, _ = door.enter(), door.enter()
    assert door.refuses(**same)
    assert other is None or not door.refuses(**other)
    end(first)
    assert not door.refuses(**same)


def test_without_limits_everybody_comes_in() -> None:
    door = Door()
    held = [door.enter() for _ in range(500)]
    assert door.limits._open == len(held)


@pytest.mark.parametrize(
    ("wish", "other"),
    [
        ("max_streams_per_second_per_address", {"address": "192.0.2.2"}),
        ("max_streams_per_second_per_caller", {"caller": "d"}),
    ],
)
def test_new_streams_are_limited_by_the_second_in_bursts(wish: str, other: dict[str, str]) -> None:
    door = Door(**{wish: 2})
    assert sum(not door.refuses() for _ in range(40)) == 20
    assert not door.refuses(**other)
    door.clock.skip(1.0)
    assert sum(not door.refuses() for _ in range(40)) == 2


def test_longpolls_take_a_slot_and_no_rate_and_are_counted_when_refused() -> None:
    door = Door(max_connections=1, max_streams_per_second_per_address=0.01)
    connection = door.connection()
    for _ in range(20):
        door.limits.open_longpoll(connection, "c")
        end(connection)
    door.limits.open_longpoll(connection, "c")
    with pytest.raises(LimitExceeded):
        door.limits.open_longpoll(door.connection(), "c")
    labels = {"delivery": "longpoll", "reason": "over_capacity"}
    assert door.metrics.registry.get_sample_value("bridge_disconnects_total", labels) == 1


def test_submits_are_limited_by_the_minute_for_each_caller() -> None:
    door = Door(max_submits_per_minute_per_caller=3)
    for _ in range(3):
        door.limits.open_submit(door.connection(), "c")
    with pytest.raises(LimitExceeded) as refused:
        door.limits.open_submit(door.connection(), "c")
    assert refused.value.retry_after == pytest.approx(20)
    door.limits.open_submit(door.connection(), "d")
    door.clock.skip(20.001)
    door.limits.open_submit(door.connection(), "c")


def test_watches_are_counted_over_all_connections_of_a_caller() -> None:
    door = Door(max_watches_per_caller=10)
    first = door.enter(tasks=6)
    assert door.refuses(tasks=5)
    assert not door.refuses(tasks=4)
    assert not door.refuses(tasks=10, caller="d")
    end(first)
    assert not door.refuses(tasks=10)


def test_a_connection_that_may_not_follow_more_keeps_what_it_had() -> None:
    door = Door(max_watches_per_caller=3)
    slot = door.limits.open_stream(door.connection())
    slot.assign_to_caller("c")
    slot.set_watch_count(2)
    with pytest.raises(LimitExceeded):
        slot.set_watch_count(4)
    slot.set_watch_count(3)
    slot.set_watch_count(0)
    assert not door.refuses(tasks=3)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 4), st.booleans()), max_size=60
    )
)
def test_whatever_comes_and_goes_at_the_end_nothing_is_held(steps: list[tuple[int, str, int, bool]]) -> None:
    door = Door(
        max_connections=6,
        max_connections_per_address=4,
        max_connections_per_caller=5,
        max_watches_per_caller=9,
    )
    held: list[HTTPConnection] = []
    for number, caller, tasks, comes in steps:
        if not comes and held:
            end(held.pop(number % len(held)))
            continue
        with contextlib.suppress(LimitExceeded):
            held.append(door.enter(f"192.0.2.{number}", caller, tasks))
        assert door.limits._open == len(held) <= 6
    for one in held:
        end(one)
    kept = (door.limits._open_by_address, door.limits._open_by_caller)
    assert (door.limits._open, kept) == (0, ({}, {}))
    assert (door.limits.watches.total, len(door.limits.watches)) == (0, 0)


def exposed(**wishes: Any) -> Door:
    """A door that strangers reach."""
    door = Door()
    settings = Settings.model_validate({"limits": "exposed", "upstreams": {"qingbo": {}}} | wishes)
    addresses = ClientAddresses(settings.trusted_proxies, detect=True)
    door.limits = Limits(settings, addresses, door.clock, door.metrics)
    return door


def test_strangers_have_the_streams_of_their_address_and_others_theirs() -> None:
    door = exposed(max_streams_per_second_per_address=0)
    for _ in range(100):
        door.enter(caller="anonymous")
    assert door.refuses(caller="anonymous")
    assert not door.refuses(address="192.0.2.2", caller="anonymous")


def test_a_limit_that_is_set_wins_over_the_profile() -> None:
    door = exposed(max_connections_per_address=3)
    for _ in range(3):
        door.enter(caller="anonymous")
    assert door.refuses(caller="anonymous")


@pytest.mark.parametrize("field", [b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"])
def test_the_users_of_an_unknown_proxy_are_not_one_stranger_and_it_is_named_once(
    field: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    door = exposed()
    made = door.connection
    door.connection = lambda address="192.0.2.1": _relayed(made(address), field)  # type: ignore[method-assign]
    for _ in range(300):
        door.enter(caller="anonymous")
    assert [record.getMessage() for record in caplog.records] == ["unknown proxy"]
    limited = exposed(max_connections_per_address=3)
    limited.connection = door.connection  # type: ignore[method-assign]
    assert [limited.refuses(caller="anonymous") for _ in range(3)] == [False] * 3
    for _ in range(3):
        limited.enter(caller="anonymous")
    assert limited.refuses(caller="anonymous"), "a limit that the operator set counts whoever comes"


def test_where_the_proxies_are_known_nobody_else_is_taken_for_one() -> None:
    door = exposed(trusted_proxies=["198.51.100.1"], max_streams_per_second_per_address=0)
    made = door.connection
    door.connection = lambda address="192.0.2.1": _relayed(made(address), b"x-real-ip")  # type: ignore[method-assign]
    for _ in range(100):
        door.enter(caller="anonymous")
    assert door.refuses(caller="anonymous")


def _relayed(connection: HTTPConnection, field: bytes) -> HTTPConnection:
    connection.scope["headers"].append((field, b"192.0.2.77"))
    return connection


def test_tasks_subscribed_to_are_limited_by_the_second_and_owed_beyond() -> None:
    door = Door(max_subscribes_per_second_per_address=20)
    slot = door.limits.open_stream(door.connection())
    slot.assign_to_caller("c")
    assert slot.subscribe_wait(200) == 0
    assert slot.subscribe_wait(1) == pytest.approx(1 / 20)
    door.clock.skip(0.06)
    assert slot.subscribe_wait(200) == 0
    assert slot.subscribe_wait(1) == pytest.approx(10, abs=0.1)
    other = door.limits.open_stream(door.connection("192.0.2.2"))
    other.subscribe(200)


def test_what_clients_do_not_take_is_counted_until_they_do() -> None:
    door = Door(max_waiting_bytes_per_address=1_000_000, max_waiting_bytes=0)
    slot = door.limits.open_stream(door.connection())
    unsent = UnsentBytes(door.limits.waiting, slot.party("max_waiting_bytes"))
    assert slot.has_room_to_write(5_000_000), "alone, a large document is let through"
    unsent.set(900_000)
    assert not slot.has_room_to_write(200_000)
    assert slot.has_room_to_write(50_000), "small ones fit into the write buffer"
    other = door.limits.open_stream(door.connection("192.0.2.2"))
    assert other.has_room_to_write(200_000)
    unsent.set(0)
    assert slot.has_room_to_write(200_000)
    assert (door.limits.waiting.total, len(door.limits.waiting)) == (0, 0)


def test_submits_in_flight_are_counted_until_their_response() -> None:
    door = Door(max_submits_in_flight_per_address=2)
    held = [door.connection() for _ in range(2)]
    for connection in held:
        door.limits.open_submit(connection, "c")
    with pytest.raises(LimitExceeded) as refused:
        door.limits.open_submit(door.connection(), "c")
    assert (refused.value.retry_after or 0) > 0
    door.limits.open_submit(door.connection("192.0.2.2"), "c")
    end(held[0])
    door.limits.open_submit(door.connection(), "c")


def test_calls_to_providers_are_limited_by_the_second() -> None:
    door = Door(max_provider_calls_per_second_per_caller=2)
    for _ in range(20):
        door.limits.check_provider_call(door.connection(), "c")
    with pytest.raises(LimitExceeded):
        door.limits.check_provider_call(door.connection(), "c")
    door.limits.check_provider_call(door.connection(), "d")

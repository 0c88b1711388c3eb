"""Request ids and `traceparent`, from people we do not know."""

from __future__ import annotations

import re
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.telemetry.request_context import (
    Trace,
    bind,
    current_request,
    detach_from_request,
    name_caller,
    parse_traceparent,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_place_in_a_trace_is_read() -> None:
    assert parse_traceparent(GOOD.encode()) == Trace(TRACE, SPAN, sampled=True)
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-00".encode()) == Trace(TRACE, SPAN, sampled=False)


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent(f"01-{TRACE}-{SPAN}-01-what-ever".encode()) == Trace(TRACE, SPAN, sampled=True)
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-03".encode()) == Trace(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-",
        GOOD + "-more",
        GOOD + " ",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"0-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"01-{TRACE}-{SPAN}-01more",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 1000,
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        "\u0660" * 55,
        "../" * 18 + "x",
    ],
)
def test_everything_else_is_no_place(value: str) -> None:
    assert parse_traceparent(value.encode()) is None


@given(st.binary(max_size=600))
def test_no_bytes_are_trouble(value: bytes) -> None:
    parse_traceparent(value)


def id_of(*headers: tuple[bytes, bytes]) -> str:
    return copy_context().run(bind, headers).request_id


@pytest.mark.parametrize(
    "sane", ["a", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "Root=1-67891233-abcdef0123", "x" * 64, "a/b+c==:d~e_f"]
)
def test_a_sane_id_is_taken_over(sane: str) -> None:
    assert id_of((b"x-request-id", sane.encode())) == sane


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b" ",
        b"a b",
        b"x" * 65,
        b"a\r\nSet-Cookie: b",
        b"a\nb",
        b"a\x00",
        b"\x1b[31m",
        b'"',
        b"<x>",
        "ü".encode(),
        b"a;b",
        b"{}",
    ],
)
def test_another_one_is_replaced(hostile: bytes) -> None:
    made = id_of((b"x-request-id", hostile))
    assert re.fullmatch(r"[0-9a-f]{16}", made)
    assert made != id_of((b"x-request-id", hostile))


def test_of_two_none_counts() -> None:
    assert id_of((b"x-request-id", b"one"), (b"x-request-id", b"two")) not in {"one", "two"}
    headers = [(b"traceparent", GOOD.encode())] * 2
    assert copy_context().run(bind, headers).trace is None


def test_a_visit_is_known_until_somebody_departs() -> None:
    def inside() -> None:
        visit = bind([(b"host", b"x"), (b"traceparent", GOOD.encode())])
        name_caller("me")
        assert current_request() is visit
        assert (visit.caller, visit.trace) == ("me", Trace(TRACE, SPAN, sampled=True))
        detach_from_request()
        assert current_request() is None
        name_caller("nobody")

    copy_context().run(inside)
    assert current_request() is None

"""Reconnect back-off of the client."""

from __future__ import annotations

import random

import pytest

from bridge.client.backoff import Backoff, Timeouts
from bridge.client.errors import refusal, retry_after

PATIENCE = Timeouts(first_delay=1, max_delay=30)


@pytest.mark.parametrize("seed", range(20))
def test_waits_grow_within_bounds_and_start_anew(seed: int) -> None:
    backoff = Backoff(PATIENCE, random.Random(seed))
    waits = [backoff.next() for _ in range(60)]
    assert 1 <= waits[0] <= 1.5
    assert all(1 <= wait <= 30 for wait in waits)
    assert max(waits) > 10
    assert len(set(waits)) > 10
    backoff.reset()
    assert backoff.next() <= 1.5


def test_the_wait_the_stream_asked_for_is_the_least() -> None:
    backoff = Backoff(PATIENCE, random.Random(1))
    backoff.set_retry(60_000)
    assert all(backoff.next() >= 60 for _ in range(20))
    backoff.set_retry(10**12)
    assert backoff.next() <= 450


def test_a_retry_of_nothing_is_no_busy_loop() -> None:
    backoff = Backoff(PATIENCE, random.Random(1))
    backoff.set_retry(0)
    assert all(backoff.next() >= 0.1 for _ in range(20))


def test_a_refusal_may_ask_for_more() -> None:
    assert 25 <= Backoff(PATIENCE, random.Random(1)).next(25) <= 26


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), (" 7 ", 7.0), ("99999", 300.0), ("-1", None), ("1.5", None), ("soon", None), ("٣", None)],
)
def test_retry_after_is_whole_seconds(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": text}) == seconds


@pytest.mark.parametrize(
    ("status", "body", "retryable"),
    [
        (400, b"", False),
        (404, b"<html>", False),
        (408, b"", True),
        (429, b"", True),
        (500, b"[]", True),
        (502, b"", True),
        (502, b'{"code":"upstream_refused"}', False),
        (503, b'{"code":"journal_unavailable"}', True),
        (404, b'{"code":"task_not_found","detail":5}', False),
    ],
)
def test_what_is_worth_another_attempt(status: int, body: bytes, *, retryable: bool) -> None:
    error = refusal(status, {}, body)
    assert (error.retryable, error.status) == (retryable, status)
    assert not refusal(status, {"x-should-retry": "false"}, body).retryable

"""Whoever logs never waits, and never learns that standard error is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.telemetry.log_throttle import BURST, LogThrottle
from bridge.telemetry.log_writer import LogWriter, to_descriptor
from tests.fakes.clock import FakeClock

PATIENCE = 10.0


class Place:
    """A stream that can be full, stuck or gone."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.error: OSError | None = None

    def __call__(self, data: bytes) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        self.lines += data.decode().splitlines(keepends=True)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def sink(place: Place) -> Iterator[LogWriter]:
    with made(place, limit=10) as one:
        yield one


@contextlib.contextmanager
def made(write: Callable[[bytes], None], *, limit: int = 10_000) -> Iterator[LogWriter]:
    sink = LogWriter(write, LogThrottle(), FakeClock(), limit=limit)
    try:
        yield sink
    finally:
        if isinstance(write, Place):
            write.open.set()
        sink.close()


def record(text: str, *arguments: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("bridge.x", level, "f", 1, text, arguments, None)
    made.created = FakeClock().time()
    made.__dict__ |= extra
    return made


def test_lines_come_in_order_and_whole(place: Place, sink: LogWriter) -> None:
    for number in range(5):
        sink.handle(record("line %d", number))
    sink.flush()
    assert place.lines == [f"line {number}\n" for number in range(5)]


def test_what_is_logged_is_what_it_was_then(place: Place, sink: LogWriter) -> None:
    changing = ["first"]
    sink.handle(record("%s", changing))
    changing[0] = "later"
    sink.flush()
    assert place.lines == ["['first']\n"]


def test_a_stuck_stream_costs_lines_and_no_time_and_says_so_afterwards(place: Place, sink: LogWriter) -> None:
    place.open.clear()
    sink.handle(record("stuck"))
    assert place.reached.wait(PATIENCE)
    for number in range(25):
        sink.handle(record("line %d", number))
    place.open.set()
    sink.flush()
    sink.close()
    told = "log lines dropped\n"
    assert [line for line in place.lines if line != told] == [
        "stuck\n",
        *[f"line {number}\n" for number in range(10)],
    ]
    assert place.lines.count(told) == 1


def test_how_many_were_lost_is_counted(place: Place, sink: LogWriter) -> None:
    sink.setFormatter(logging.Formatter("%(message)s %(dropped)s", defaults={"dropped": ""}))
    place.open.clear()
    sink.handle(record("stuck"))
    assert place.reached.wait(PATIENCE)
    for _ in range(25):
        sink.handle(record("x"))
    place.open.set()
    sink.close()
    assert "log lines dropped 15\n" in place.lines


def test_a_closed_stream_costs_lines_only_and_may_come_back(place: Place, sink: LogWriter) -> None:
    place.error = BrokenPipeError()
    for _ in range(3):
        sink.handle(record("into the void"))
    sink.flush()
    place.error = None
    sink.handle(record("heard"))
    sink.flush()
    assert sorted(place.lines) == ["heard\n", "log lines dropped\n"]


def test_a_stream_that_stays_stuck_does_not_hold_up_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.telemetry.log_writer.FLUSH_TIMEOUT_SECONDS", 0.05)
    with made(place) as sink:
        place.open.clear()
        sink.handle(record("stuck"))
        assert place.reached.wait(PATIENCE)
        sink.flush()
        sink.close()
        assert sink._thread.is_alive()
        assert sink._thread.daemon


def test_one_line_that_cannot_be_rendered_does_not_end_the_others(place: Place, sink: LogWriter) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    sink.setFormatter(logging.Formatter("%(message)s %(needed)s", defaults=None))
    sink.handle(record("too few %s %s", 1, needed=1))
    sink.handle(record("%s", Broken(), needed=1))
    sink.setFormatter(logging.Formatter("%(message)s"))
    sink.flush()
    sink.handle(record("fine"))
    sink.flush()
    assert place.lines[-1] == "fine\n"
    assert len(place.lines) == 3
    assert all("could not be rendered" in line for line in place.lines[:2])


def test_repeats_are_counted_when_the_sink_closes(place: Place, sink: LogWriter) -> None:
    for _ in range(BURST + 4):
        sink.handle(record("trouble", level=logging.ERROR))
    sink.close()
    assert place.lines[:BURST] == ["trouble\n"] * BURST
    (count,) = place.lines[BURST:]
    assert count.startswith("... 4 more like this")


def test_a_lone_surrogate_is_written_out(place: Place, sink: LogWriter) -> None:
    sink.handle(record("a\ud800b"))
    sink.flush()
    assert place.lines == ["a\\ud800b\n"]


def test_a_pipe_nobody_reads_takes_the_line_in_parts_when_it_is_read_again() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    line = b"x" * 300_000 + b"\n"
    with made(to_descriptor(writing)) as sink:
        sink.handle(record(line.decode().rstrip("\n")))
        taken = b""
        while not taken.endswith(b"\n"):
            taken += os.read(reading, 65_536)
    assert taken == line
    os.close(reading)
    os.close(writing)


def test_a_pipe_whose_reader_has_left_is_no_trouble() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with made(to_descriptor(writing)) as sink:
        sink.handle(record("nobody hears it"))
        sink.flush()
        assert sink._thread.is_alive()
        assert sink._dropped == 1
    os.close(writing)

"""What the system says of the process, beside what the library's own collector reads."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from bridge.telemetry.process import Process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def read(registry: CollectorRegistry) -> dict[str, float]:
    return {sample.name: sample.value for family in registry.collect() for sample in family.samples}


@pytest.fixture
def ours() -> dict[str, float]:
    registry = CollectorRegistry()
    Process(registry)
    return read(registry)


def test_it_says_what_the_library_says(ours: dict[str, float]) -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    theirs = read(registry)
    assert ours.keys() == theirs.keys()
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert ours[name] == theirs[name]
    for name in (
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_cpu_seconds_total",
    ):
        assert ours[name] == pytest.approx(theirs[name], rel=0.1)
    assert abs(ours["process_open_fds"] - theirs["process_open_fds"]) <= 2  # the listing itself is open


def test_it_began_in_the_past_and_may_open_something(ours: dict[str, float]) -> None:
    assert time.time() - 24 * 3600 < ours["process_start_time_seconds"] <= time.time()  # noqa: TID251 - the real one
    assert ours["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_descriptors_are_counted_as_they_come_and_go() -> None:
    registry = CollectorRegistry()
    Process(registry)
    before = read(registry)["process_open_fds"]
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
    assert read(registry)["process_open_fds"] == before + 50
    for one in held:
        os.close(one)
    assert read(registry)["process_open_fds"] == before


def a_proc(folder: Path) -> Path:
    (folder / "self" / "fd").mkdir(parents=True)
    (folder / "stat").write_text("cpu 1 2\nbtime 1000\n")
    fields = ["S", *map(str, range(4, 53))]  # each field's own number, as proc(5) counts them
    (folder / "self" / "stat").write_text(f"7 (a ) name (7) {' '.join(fields)}\n")
    return folder


def test_a_name_with_brackets_does_not_shift_the_fields(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Process(registry, proc=a_proc(tmp_path))
    ticks = os.sysconf("SC_CLK_TCK")
    said = read(registry)
    assert said["process_cpu_seconds_total"] == (14 + 15) / ticks
    assert said["process_start_time_seconds"] == 1000 + 22 / ticks
    assert said["process_virtual_memory_bytes"] == 23
    assert said["process_resident_memory_bytes"] == 24 * resource.getpagesize()


def test_where_there_is_no_proc_it_says_nothing(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Process(registry, proc=tmp_path)
    assert read(registry) == {}

"""The judge is right where the answer is known, and repeatable."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.pacing import fast, report
from tests.pacing.bars import bars
from tests.pacing.fixed import CLIENTS, at_equal_polls, client
from tests.pacing.numbers import geometric_mean, percentile
from tests.pacing.picture import LANES, polls, svg
from tests.pacing.tasks import ROUND_TRIP, Task, queued
from tests.pacing.workloads import FLOOD, MISLEADING, WORKLOADS


def test_a_fixed_poller_is_half_its_cycle_late_and_a_client_of_that_interval_is_as_late() -> None:
    tasks = WORKLOADS["exponential"].draw(0)
    every_five = client(tasks, CLIENTS["ComfyUI, openai-node (5 s)"], 0)
    fixed = at_equal_polls(tasks, every_five.polls, 0)
    assert fixed.polls == pytest.approx(every_five.polls, rel=0.02)
    half = (5.0 + ROUND_TRIP) / 2 + ROUND_TRIP / 2
    assert every_five.mean == pytest.approx(half, rel=0.05)
    assert fixed.mean == pytest.approx(half, rel=0.1)


def test_a_queue_is_first_come_first_served_and_its_places_count_down_to_none_ahead() -> None:
    at = [0.1 * number for number in range(20)]
    tasks = queued(random.Random(0), at, [5.0] * 20, 2, places=True)
    starts = [task.at + task.start for task in tasks]
    assert starts == sorted(starts)
    last = tasks[-1]
    assert last.place is not None
    places = [last.place(age) for age in (0.0, last.start / 2, last.start - 0.01)]
    assert places == sorted(places, reverse=True)
    assert places[-1] <= 1


def test_the_same_seed_gives_the_same_numbers() -> None:
    workload = WORKLOADS["image mix of 79 models"]
    assert fast.judge(workload, 3, 60) == fast.judge(workload, 3, 60)
    assert fast.judge(workload, 3, 60) != fast.judge(workload, 4, 60)


@pytest.mark.parametrize(
    "workload", [*WORKLOADS.values(), *MISLEADING.values(), FLOOD], ids=lambda one: one.name
)
def test_every_task_of_every_workload_ends_after_it_starts(workload: fast.Workload) -> None:
    tasks: list[Task] = workload.draw(1, 50)
    assert len(tasks) == 50
    assert all(0 <= task.start < task.end for task in tasks)
    assert [task.at for task in tasks] == sorted(task.at for task in tasks)


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([1.0, 2.0, 4.0], 50) == 2.0
    assert percentile([1.0, 2.0, 4.0], 75) == 3.0
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_the_picture_has_a_line_for_each_poll() -> None:
    before = {"end": 131.0, "poll 1": 14.0, "poll 2": 118.5, "poll 3": 146.0}
    now = {"end": 131.0, "poll 1": 20.0, "poll 2": 132.0}
    picture = ET.fromstring(svg(before, now))
    lines = [one.get("class") for one in picture.iter("{http://www.w3.org/2000/svg}line")]
    for name, numbers in zip(LANES, (before, now), strict=True):
        assert lines.count(name) == len(polls(numbers))


def test_the_page_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "pacing.md"
    page.write_text(f"# Pacing\n\n{report.BEGIN}\nold\n{report.END}\n\nThe rest.\n", "utf-8")
    run = fast.judge(WORKLOADS["image"], 0, 30).as_dict()
    ours = {"fast": {"image": run}}
    report.write(page, report.page(ours, ours, list(bars(ours, ours)), "before", "now"))
    text = page.read_text("utf-8")
    assert "old" not in text
    assert "| image |" in text
    assert text.startswith("# Pacing\n")
    assert text.endswith("The rest.\n")

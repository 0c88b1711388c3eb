"""Which states make deliveries: none before a source has shown the task."""

from __future__ import annotations

import pytest

from bridge.core.details import TaskDetails
from bridge.core.merge import lost, registered
from bridge.core.task import Failure, State, Status
from bridge.webhooks.endpoint import EventType
from bridge.webhooks.message import decode_message
from tests.fakes.tasks import state
from tests.fakes.webhooks import TASK, Delivering, endpoint

UNSEEN = registered(unix_time=1_800_000_000.0)
OURS = TaskDetails(webhook="https://mine.example/end")


def planned(events: tuple[EventType, ...], previous: State | None, now: State) -> list[str]:
    use = Delivering(endpoint("mine", *events), hosts=("mine.example",))
    planner = use.journal.planner
    assert planner is not None
    messages = [decode_message(job.body) for job in planner.plan(TASK, previous, now, OURS)]
    return [message.type for message in messages if message is not None]


@pytest.mark.parametrize("events", [(EventType.STATE,), (EventType.STATUS,), tuple(EventType)])
def test_a_registered_task_that_may_not_exist_is_sent_to_nobody(events: tuple[EventType, ...]) -> None:
    assert planned(events, None, UNSEEN) == []


@pytest.mark.parametrize("word", [None, "RUNNING"])
def test_what_a_source_shows_first_is_its_first_status(word: str | None) -> None:
    shown = state("unknown" if word else "queued", upstream_status=word)
    for previous in (None, UNSEEN):
        assert planned((EventType.STATUS,), previous, shown) == ["task.status"]
        assert planned((EventType.STATE,), previous, shown) == ["task.state"]


def test_its_deadline_is_an_end_although_nothing_was_seen() -> None:
    end = lost(UNSEEN, Failure("deadline", "too late"), unix_time=1_800_000_100.0)
    assert end.status is Status.LOST
    assert planned((EventType.FINAL,), UNSEEN, end) == ["task.final", "task.final"]

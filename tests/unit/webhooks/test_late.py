"""Ends that were recorded before it was known where to deliver them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bridge.core.cursor import Cursor
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.engine.base import Job
from bridge.errors import JournalError
from bridge.webhooks.late import LateDeliveries
from tests.fakes.clock import settle
from tests.fakes.webhooks import RECEIVER, TASK, Delivering, endpoint, state

pytestmark = pytest.mark.anyio

OURS = TaskDetails(webhook="https://mine.example/end")
END = Event(TASK, Cursor("e", 7), state())


class Ledger:
    """Takes jobs, or cannot be written."""

    def __init__(self) -> None:
        self.added: list[Job] = []
        self.asked = 0
        self.away = False

    async def add_jobs(self, jobs: Sequence[Job]) -> int:
        self.asked += 1
        if self.away:
            raise JournalError("away")
        self.added += jobs
        return 0


class Use:
    def __init__(self) -> None:
        self.delivering = Delivering(endpoint(), hosts=("mine.example",))
        self.clock = self.delivering.clock
        self.ledger = Ledger()
        self.wrote: list[tuple[Sequence[str], int]] = []
        planner = self.delivering.journal.planner
        assert planner is not None
        self.late = LateDeliveries(
            planner,
            self.ledger,  # type: ignore[arg-type] # all that is used
            self.clock,
            wrote=lambda queues, dropped: self.wrote.append((queues, dropped)),
        )


async def test_what_is_added_is_what_would_have_been_written_with_the_state() -> None:
    use = Use()
    planner = use.delivering.journal.planner
    assert planner is not None
    written = [job for job in planner.plan(TASK, None, END.state, OURS) if job.queue.startswith("submit:")]
    await use.late.deliver(END, OURS)
    assert [(job.queue, job.id, job.offset) for job in use.ledger.added] == [
        (written[0].queue, written[0].id, 7)
    ]
    assert use.wrote == [([written[0].queue], 0)]


async def test_nothing_is_added_for_endpoints_other_hosts_and_what_is_not_recorded() -> None:
    use = Use()
    await use.late.deliver(END, TaskDetails())
    await use.late.deliver(END, TaskDetails(webhook=RECEIVER))
    await use.late.deliver(END._replace(cursor=Cursor("e", 7, "f")), OURS)
    assert (use.ledger.asked, use.wrote) == (0, [])


async def test_while_the_ledger_cannot_be_written_it_is_tried_again() -> None:
    use = Use()
    use.ledger.away = True
    await use.late.deliver(END, OURS)
    for seconds in (0.1, 0.2, 0.4):
        await settle()
        await use.clock.advance(seconds)
    await settle()
    assert (use.ledger.asked, use.wrote) == (4, [])
    use.ledger.away = False
    await use.clock.advance(5)
    await settle()
    assert len(use.ledger.added) == len(use.wrote) == 1
    use.ledger.away = True
    await use.late.deliver(END, OURS)
    await use.late.close()
    use.ledger.away = False
    await use.clock.advance(60)
    await settle()
    assert len(use.ledger.added) == 1

"""Whatever receivers and processes do, each end arrives, in order per task, with one id and one body."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.task import Status, TaskKey
from bridge.webhooks.endpoint import EventType
from tests.fakes.clock import FakeClock
from tests.fakes.webhooks import HANGS, Delivering, SentAttempt, endpoint, state

TASKS = [TaskKey("video", name) for name in "abc"]
STEPS = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(TASKS), st.integers(1, 99)),
    st.tuples(st.just("end"), st.sampled_from(TASKS), st.sampled_from([Status.LOST, Status.COMPLETED])),
    st.tuples(st.just("wait"), st.none(), st.sampled_from([1, 5, 20, 120])),
    st.tuples(st.just("kill"), st.none(), st.none()),
)
ANSWERS = st.lists(st.sampled_from([204, 204, 500, 302, None, HANGS]), max_size=20)


async def whole_life(steps: list[tuple[str, TaskKey | None, object]], answers: list[int | None]) -> None:
    clock = FakeClock()
    hook = endpoint("mine", EventType.FINAL, EventType.STATE)
    use = Delivering(hook, clock=clock)
    left = list(answers)
    taken: list[SentAttempt] = []

    def answer(attempt: SentAttempt) -> int | None:
        status = left.pop(0) if left else 204
        if status == 204:
            taken.append(attempt)
        return status

    use.sender.answer = answer
    ended: dict[TaskKey, Status] = {}
    recorded: defaultdict[str, list[int]] = defaultdict(list)
    while steps:
        async with use.running():
            while steps and steps[0][0] != "kill":
                what, key, value = steps.pop(0)
                if what == "wait":
                    await clock.advance(float(str(value)))
                    continue
                assert key is not None
                clock.skip(0.001)  # no two states of a task begin at the same moment
                if ended.get(key) is Status.COMPLETED or (what == "open" and key in ended):
                    continue
                if what == "open":
                    await use.record(state(Status.PROCESSING, clock.time(), progress=value), key)
                elif ended.get(key) is not value:
                    ended[key] = Status(str(value))
                    await use.record(state(ended[key], clock.time()), key)
                    recorded[key.task_id].append(use.journal.head)
        steps = steps[1:]
        # Another process in its place, which begins with what is recorded.
        use.ledger.store.leave(use.ledger.session, now=use.ledger.now())
        use.ledger.session += "+"
        use.ledger.store.session(
            use.ledger.session,
            ttl=1e9,
            known_head=0,
            new_epoch="x",
            about=b"",
            opens=True,
            now=use.ledger.now(),
        )
        use = Delivering(hook, clock=clock, journal=use.journal, sender=use.sender)
    async with use.running():
        await clock.advance(20 * 3600)  # twenty failures of one delivery take fourteen hours
    assert use.waiting == 0
    judge(use.sender.sent, taken, recorded)


def judge(sent: list[SentAttempt], taken: list[SentAttempt], recorded: defaultdict[str, list[int]]) -> None:
    bodies = defaultdict(set)
    for one in sent:
        bodies[one.id].add(one.body)
    assert all(len(same) == 1 for same in bodies.values())
    order: defaultdict[str, list[int]] = defaultdict(list)
    for one in taken:
        data = one.data["data"]
        order[data["task_id"]].append(int(data["cursor"].rpartition("-")[2]))
    for task, offsets in order.items():
        assert all(before <= later for before, later in pairwise(offsets)), task
    for task, ends in recorded.items():
        assert set(ends) <= set(order[task])


@pytest.mark.parametrize("size", [12, 40])
@settings(max_examples=20)
@given(data=st.data())
def test_every_end_arrives_in_order_over_failures_and_kills(size: int, data: st.DataObject) -> None:
    steps = data.draw(st.lists(STEPS, max_size=size))
    asyncio.run(whole_life(steps, data.draw(ANSWERS)))

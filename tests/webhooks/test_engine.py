"""The shared engine goes away, forgets or falls back while deliveries run: each content keeps its one id."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.replicas.acts import Acts
from tests.webhooks.judge import verdict
from tests.webhooks.places import Place, endpoint, place
from tests.webhooks.receiver import BROKEN, OK, RESET, Answering, Receiver, Reply, Request

pytestmark = [pytest.mark.anyio, pytest.mark.extended]
LATE = 60.0
EVERY = ["task.final", "task.status", "task.state"]


BEGINS_AGAIN = {"wipe", "stale", "engine restart", "split", "stop", "stall", "cut one"}
"""A history that begins again tells of a state again, under the same id; and when the lease of one who was
stopped or cut off has ended, another sends what may have arrived."""


def webhooks(sink: Receiver) -> dict[str, Any]:
    return {"all": endpoint(sink, "/all", events=EVERY), "final": endpoint(sink, "/final")}


def arrived(sink: Receiver, ref: str) -> bool:
    targets = {one.target for one in sink.of(ref) if one.arrived and one.data["status"] == "completed"}
    return targets == {"/all", "/final"}


@pytest.mark.parametrize(
    "act",
    [
        "kill",
        "stop",
        "rolling",
        "very slow",
        "engine restart",
        "wipe",
        "stale",
        "outage",
        "stall",
        "cut one",
        "split",
    ],
)
async def test_whatever_happens_each_end_arrives_under_one_id(act: str, tmp_path: Path) -> None:
    async with place("three", tmp_path, webhooks=webhooks) as at:
        at.receiver.answer = each_fails_at_most_once()
        refs: list[str] = []
        coming = asyncio.create_task(come(at, refs))
        await at.receiver.until(lambda: len(refs) >= 10)
        await Acts(at.fleet, random.Random(act)).do(act)
        enough = len(refs) + 10
        await at.receiver.until(lambda: len(refs) >= enough, LATE)
        coming.cancel()
        await asyncio.wait([coming])
        # What an engine that fell back forgot of tasks nobody asks for, nobody can tell: ask for each once.
        for ref in refs:
            await at.shows(ref, "completed")
        for ref in refs:
            await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref), LATE)
        faults = verdict(at.receiver.requests, ended=refs)
        if act in BEGINS_AGAIN:
            faults = [one for one in faults if "first came" not in one and "sent again" not in one]
        if act == "split":
            # Two engines have two queues, the second with a copy of what waited in the first: what one side
            # sends, also after a failure, does not wait for the other, nor the other for it.
            faults = [one for one in faults if " came after " not in one]
        assert not faults, "\n".join(faults[:20])


def each_fails_at_most_once() -> Answering:
    """A third fails, each task once: what replaces a delivery waits as long as that would have."""
    turns, begun = itertools.count(), set()

    def answer(request: Request) -> Reply:
        about = (request.target, request.data["task"])
        if about in begun:
            return OK
        begun.add(about)
        return (OK, BROKEN, Reply(delay=0.05), OK, RESET, OK)[next(turns) % 6]

    return answer


async def come(at: Place, refs: list[str]) -> None:
    """Tasks that come as long as it lasts, whatever the bridges answer meanwhile."""
    for number in itertools.count():
        steps = [("processing", progress) for progress in range(0, 90, 10)]
        try:
            status, said = await at.submit(id=f"during-{number}", life=[*steps, ("completed", 100)])
        except (OSError, aiohttp.ClientError):
            status, said = 0, None
        if status == 201:
            refs.append(said["state"]["task"])
        await asyncio.sleep(0.1)


async def test_recorded_again_after_a_wipe_it_keeps_its_id(tmp_path: Path) -> None:
    async with place("three", tmp_path, webhooks=webhooks) as at:
        refs = [await at.task(id=f"again-{number}") for number in range(10)]
        for ref in refs:
            at.move(ref, "completed")
        for ref in refs:
            await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref), LATE)
        count = len(at.receiver.requests)
        await Acts(at.fleet, random.Random(1)).do("wipe")
        for ref in refs:
            for site in at.sites:
                await at.shows(ref, "completed", site.url)
        await asyncio.sleep(5.0)
        again = at.receiver.requests[count:]
        known = {one.id for one in at.receiver.requests[:count]}
        assert {one.id for one in again} <= known
        assert verdict(at.receiver.requests, ended=refs) == []

"""kill -9 between what is recorded, what is sent and what is noted: each end arrives, under one id."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.webhooks.judge import verdict
from tests.webhooks.places import SECRET, Kind, Place, freeze, place
from tests.webhooks.receiver import BROKEN, HANG, OK, Reply, Request, ids

pytestmark = pytest.mark.anyio
KINDS = [
    "one",
    pytest.param("three", marks=pytest.mark.extended),
    pytest.param("workers", marks=pytest.mark.extended),
]
LATE = 30.0  # seconds: leases of the killed end, and the next attempt is due


async def ended(at: Place, **body: object) -> str:
    ref = await at.task(**body)
    at.move(ref, "completed")
    return ref


def judged(at: Place, *refs: str) -> None:
    faults = verdict(at.receiver.requests, ended=refs)
    assert not faults, "\n".join(faults)
    for ref in refs:
        assert len(ids(at.receiver.of(ref))) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_recorded_and_not_delivered(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        at.receiver.answer = lambda _: HANG
        ref = await ended(at)
        await at.shows(ref, "completed")
        first = await at.receiver.next_of(ref)
        await at.kill(at.sender(first))
        at.receiver.answer = lambda _: OK
        await at.receiver.until(lambda: any(one.arrived for one in at.receiver.of(ref)), LATE)
        judged(at, ref)


@pytest.mark.parametrize("kind", KINDS)
async def test_recorded_and_nobody_even_accepted(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        await at.receiver.refuse()
        refs = [await ended(at, id=f"refused-{number}") for number in range(3)]
        for ref in refs:
            await at.shows(ref, "completed")
        await at.kill_all()
        await at.receiver.listen()
        await at.receiver.until(lambda: all(at.receiver.of(ref) for ref in refs), LATE)
        await at.receiver.until(lambda: all(one.over_at for one in at.receiver.requests))
        judged(at, *refs)


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["one", "three", "workers"])
async def test_recorded_before_its_submit_was_answered_and_not_delivered(kind: Kind, tmp_path: Path) -> None:
    settings = {"webhooks": {}, "webhook_hosts": ["127.0.0.1"], "webhook_secret": SECRET}
    async with place(kind, tmp_path, **settings) as at:

        async def early(task_id: str) -> None:
            at.provider.move(task_id, "completed")
            await at.shows(f"qingbo/{task_id}", "completed")  # as after a callback

        at.provider.created = early
        await at.receiver.refuse()
        status, _ = await at.submit(headers={"X-Webhook-URL": f"{at.receiver.url}/early"}, id="early")
        assert status == 201
        await at.kill_all()
        await at.receiver.listen()
        await at.receiver.until(lambda: at.receiver.of("qingbo/early"), LATE)
        request = at.receiver.of("qingbo/early")[0]
        assert (request.target, request.verified) == ("/early", (SECRET,))


@pytest.mark.parametrize("kind", KINDS)
async def test_answered_and_not_noted(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        frozen: list[int] = []

        def answer(request: Request) -> Reply:
            if not frozen:
                frozen.append(at.sender(request))
                freeze(frozen[0])
            return OK

        at.receiver.answer = answer
        ref = await ended(at)
        first = await at.receiver.next_of(ref)
        await at.receiver.until(lambda: first.status == 204)
        await at.kill(frozen[0])
        await at.receiver.until(lambda: len(at.receiver.of(ref)) > 1 and at.receiver.of(ref)[1].arrived, LATE)
        judged(at, ref)
        assert {one.id for one in at.receiver.of(ref)} == {first.id}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.extended
async def test_many_ends_while_processes_are_killed_one_after_another(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        refs = []
        for number in range(60):
            life = [*[("processing", 10)] * (number % 7), ("completed", 100)]
            refs.append(await at.task(id=f"many-{number}", life=life))
            if number in {15, 30, 45}:
                pids = at.pids()
                await at.kill(pids[-1] if kind == "workers" else pids[number % len(pids)])
                await asyncio.gather(*(site.start() for site in at.sites if site._bridge is None))
        await at.receiver.until(
            lambda: all(any(one.arrived for one in at.receiver.of(ref)) for ref in refs), LATE
        )
        judged(at, *refs)


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["one", "workers"])
async def test_after_a_restart_what_waits_is_sent_at_once(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        at.receiver.answer = lambda _: BROKEN
        refs = [await ended(at, id=f"waits-{number}") for number in range(20)]
        for ref in refs:
            await at.receiver.until(lambda ref=ref: len(at.receiver.of(ref)) == 2, LATE)
        at.receiver.answer = lambda _: OK
        await asyncio.sleep(0.5)  # the results are noted: the third attempts are due in 25 s
        await at.kill_all()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for ref in refs:
            await at.receiver.until(lambda ref=ref: at.receiver.of(ref)[-1].arrived, LATE)
        assert loop.time() - began < 10.0
        judged(at, *refs)

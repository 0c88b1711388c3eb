"""Receivers that are dead, slow, hostile or elsewhere: each costs itself only, within bounds."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.webhooks.judge import verdict
from tests.webhooks.places import SECRET, Place, endpoint, place
from tests.webhooks.receiver import (
    BROKEN,
    GONE,
    HANG,
    OK,
    RESET,
    Receiver,
    Reply,
    Request,
    by_turns,
    ids,
    receiver,
)

pytestmark = pytest.mark.anyio
LATE = 30.0
MEGABYTES = 1024 * 1024
EVERY = ["task.final", "task.status", "task.state"]


async def ended(at: Place, **body: Any) -> str:
    ref = await at.task(**body)
    at.move(ref, "completed")
    return ref


def arrived(sink: Receiver, ref: str) -> bool:
    return any(one.arrived for one in sink.of(ref, "task.final"))


async def counted(at: Place) -> dict[str, float]:
    """Attempts by result, over all webhooks."""
    _, text = await at.api("GET", "/metrics")
    found: dict[str, float] = {}
    for line in str(text).splitlines():
        if line.startswith("bridge_webhook_deliveries_total{"):
            labels, _, value = line.rpartition(" ")
            result = labels.partition('result="')[2].partition('"')[0]
            found[result] = found.get(result, 0.0) + float(value)
    return found


@pytest.mark.extended
async def test_the_dead_and_the_slow_cost_the_good_nothing(tmp_path: Path) -> None:
    async with receiver(SECRET) as dead, receiver(SECRET) as slow:
        dead.accept_nobody()
        slow.answer = lambda _: Reply(delay=9.0)

        def webhooks(good: Receiver) -> dict[str, Any]:
            return {"dead": endpoint(dead), "good": endpoint(good), "slow": endpoint(slow)}

        async with place("one", tmp_path, webhooks=webhooks) as at:
            loop = asyncio.get_running_loop()
            waits = []
            for number in range(60):
                ref = await ended(at, id=f"beside-{number}")
                await at.shows(ref, "completed")
                began = loop.time()
                request = await at.receiver.next_of(ref)
                waits.append(request.at - began)
            assert sorted(waits)[len(waits) // 2] < 0.5, waits
            assert max(waits) < 3.0, waits
            assert verdict(at.receiver.requests) == []
            assert len(slow.requests) < 60 or len(ids(slow.requests)) == 60
            assert at.sites[0].descriptors() < 300


async def test_410_disables_the_endpoint_and_is_said(tmp_path: Path) -> None:
    async with receiver(SECRET) as gone:
        gone.answer = lambda _: GONE

        def webhooks(good: Receiver) -> dict[str, Any]:
            return {"gone": endpoint(gone), "good": endpoint(good)}

        async with place("one", tmp_path, webhooks=webhooks) as at:
            refs = [await ended(at, id=f"gone-{number}") for number in range(3)]
            for ref in refs:
                await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref))
            await gone.until(lambda: gone.requests)
            later = await ended(at, id="gone-later")
            await at.receiver.until(lambda: arrived(at.receiver, later))
            assert not gone.of(later)
            status, shown = await at.api("GET", "/v1/webhooks")
            assert status == 200
            assert "gone" in str(shown)
            _, condition = await at.api("GET", "/status")
            assert "gone" in str(condition["webhooks"])
            assert any("410" in line or "gone" in line for log in at.sites[0].logs for line in log)
            count = len(gone.requests)
            await at.sites[0].end(signal.SIGTERM)
            await at.sites[0].start()
            last = await ended(at, id="gone-last")
            await at.receiver.until(lambda: arrived(at.receiver, last))
            assert len(gone.requests) == count


@pytest.mark.extended
async def test_a_redirect_is_a_failure_and_leads_nowhere(tmp_path: Path) -> None:
    async with receiver(SECRET) as elsewhere, place("one", tmp_path) as at:
        replies = [
            Reply(status=status, headers=(("Location", elsewhere.url + "/stolen"),))
            for status in (301, 302, 303, 307, 308)
        ]
        turns = iter(replies)
        at.receiver.answer = lambda _: next(turns, OK)
        refs = [await ended(at, id=f"moved-{number}") for number in range(len(replies))]
        for ref in refs:
            await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref), LATE)
        assert elsewhere.connections == 0
        assert verdict(at.receiver.requests, ended=refs) == []
        assert {len(at.receiver.of(ref)) for ref in refs} == {2}


@pytest.mark.extended
async def test_answers_without_end_are_bounded(tmp_path: Path) -> None:
    async with place("one", tmp_path) as at:
        await ended(at, id="warm")
        await at.receiver.until(lambda: at.receiver.requests)
        before = at.sites[0].rss()
        at.receiver.answer = lambda _: Reply(status=200, size=100 * MEGABYTES)
        refs = [await ended(at, id=f"big-{number}") for number in range(20)]
        for ref in refs:
            await at.receiver.until(lambda ref=ref: at.receiver.of(ref), LATE)
        await at.receiver.until(lambda: all(one.over_at for one in at.receiver.requests), LATE)
        assert at.sites[0].rss() - before < 30 * MEGABYTES
        await asyncio.sleep(0.2)
        assert all(len(at.receiver.of(ref)) == 1 for ref in refs)


@pytest.mark.extended
async def test_drips_heads_without_end_and_resets_pass(tmp_path: Path) -> None:
    endless = Reply(status=200, headers=tuple((f"X-{number}", "y" * 1000) for number in range(60)))
    replies = {
        "drip": Reply(drip=0.5, status=200, body=b"x" * 1000),
        "head": endless,
        "reset": RESET,
        "hang": HANG,
        "bare": Reply(status=200, headers=(("Content-Encoding", "gzip"),), body=b"not gzip at all"),
        "weird": Reply(status=999),
        "informal": Reply(status=199),
    }
    async with place("one", tmp_path) as at:

        def answer(request: Request) -> Reply:
            name = request.data["task_id"]
            return OK if len(at.receiver.of(request.data["task"])) > 1 else replies[name]

        at.receiver.answer = answer
        began = asyncio.get_running_loop().time()
        refs = [await ended(at, id=name) for name in replies]
        good = await ended(at, id="reset-2") if "reset-2" in replies else None
        assert good is None
        for ref in refs:
            await at.receiver.until(
                lambda ref=ref: arrived(at.receiver, ref) or len(at.receiver.of(ref)) > 1, LATE
            )
        assert asyncio.get_running_loop().time() - began < LATE
        hang = at.receiver.of("qingbo/hang")[0]
        assert hang.over_at is not None
        assert 9.0 < hang.over_at - hang.at < 13.0
        drip = at.receiver.of("qingbo/drip")[0]
        assert drip.over_at is None or drip.over_at - drip.at < 13.0
        assert verdict(at.receiver.requests, ended=["qingbo/reset", "qingbo/hang"]) == []


async def test_names_of_inside_are_refused_when_connected_to(tmp_path: Path) -> None:
    async with receiver(SECRET) as inside, place("one", tmp_path) as at:
        name = socket.gethostname()
        for url in (
            f"http://localhost:{inside.port}/x",
            f"http://127.0.0.2:{inside.port}/x",
            f"http://2130706433:{inside.port}/x",
            f"http://0x7f.1:{inside.port}/x",
            f"http://[::1]:{inside.port}/x",
            f"http://[::ffff:127.0.0.1]:{inside.port}/x",
            f"http://{name}:{inside.port}/x",
            f"http://localhost.:{inside.port}/x",
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.1/x",
            "ftp://example.com/x",
            "http://example.com/x",
            f"https://user:secret@127.0.0.1:{inside.port}/x",
            "https:///x",
            "nonsense",
        ):
            status, said = await at.api("POST", "/v1/webhooks", json={"url": url})
            assert 400 <= status < 500, (url, status, said)
        # A name that anybody may write down: only its address says that it is inside.
        status, made = await at.api("POST", "/v1/webhooks", json={"url": f"https://{name}:{inside.port}/x"})
        if status == 201:
            status, attempt = await at.api("POST", f"/v1/webhooks/{made['id']}/test")
            assert "delivered" not in str(attempt)
        assert inside.connections == 0


@pytest.mark.parametrize("number", [100])
@pytest.mark.extended
async def test_fast_changes_in_order_and_nothing_after_the_end(number: int, tmp_path: Path) -> None:
    def webhooks(sink: Receiver) -> dict[str, Any]:
        return {
            "all": endpoint(sink, "/all", events=EVERY),
            "state": endpoint(sink, "/state", events=["task.state"]),
            "status": endpoint(sink, "/status", events=["task.status"]),
            "final": endpoint(sink, "/final"),
        }

    async with place("one", tmp_path, webhooks=webhooks) as at:
        turns = itertools.count()
        at.receiver.answer = lambda _: BROKEN if next(turns) % 10 == 3 else Reply(delay=0.01)
        life = [("processing", progress) for progress in range(1, 95)]
        refs = [
            await at.task(id=f"fast-{each}", life=[*life[:: 1 + each], ("completed", 100)])
            for each in range(6)
        ]
        for ref in refs:
            # Its back-offs add up.
            await at.receiver.until(lambda ref=ref: len(last_of(at.receiver, ref)) == 4, 5 * LATE)
        assert verdict(at.receiver.requests, ended=refs) == []
        for ref in refs:
            about = at.receiver.of(ref)
            assert {one.document["type"] for one in about if one.target == "/all"} <= {*EVERY}
            assert {one.document["type"] for one in about if one.target == "/final"} == {"task.final"}
            assert {one.data["status"] for one in about if one.target == "/status"} <= {
                "queued",
                "processing",
                "completed",
            }


def last_of(sink: Receiver, ref: str) -> set[str]:
    """The endpoints to which the end of a task has been delivered."""
    return {one.target for one in sink.of(ref) if one.arrived and one.data["status"] == "completed"}


@pytest.mark.extended
async def test_terminated_while_deliveries_wait(tmp_path: Path) -> None:
    async with place("one", tmp_path, drain_seconds=2.0) as at:
        at.receiver.answer = lambda _: HANG
        refs = [await ended(at, id=f"drained-{number}") for number in range(50)]
        for ref in refs:
            await at.shows(ref, "completed")
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await at.sites[0].end(signal.SIGTERM) == 0
        assert loop.time() - began < 2.0 + 5.0  # an attempt that is cut off is made again
        at.receiver.answer = lambda _: OK
        await at.sites[0].start()
        began = loop.time()
        for ref in refs:
            await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref), LATE)
        assert loop.time() - began < 5.0  # at once after a restart, not when their next attempts were due
        assert verdict(at.receiver.requests, ended=refs) == []


@pytest.mark.extended
async def test_attempts_are_counted(tmp_path: Path) -> None:
    async with place("one", tmp_path) as at:
        at.receiver.answer = by_turns(BROKEN, OK)
        ref = await ended(at)
        await at.receiver.until(lambda: arrived(at.receiver, ref), LATE)
        first, second = at.receiver.of(ref)
        assert 3.0 < second.at - first.at < 9.0
        assert int(second.header("webhook-timestamp") or 0) > int(first.header("webhook-timestamp") or 0)
        assert first.body == second.body
        await asyncio.sleep(0.1)
        assert sum((await counted(at)).values()) == 2


@pytest.mark.extended
async def test_of_submits_too_the_dead_cost_the_good_nothing(tmp_path: Path) -> None:
    settings = {"webhook_hosts": ["127.0.0.1"], "webhook_secret": SECRET, "webhooks": {}}
    async with receiver(SECRET) as dead, place("one", tmp_path, **settings) as at:
        dead.accept_nobody()
        loop = asyncio.get_running_loop()
        for number in range(100):
            status, _ = await at.submit(headers={"X-Webhook-URL": dead.url}, id=f"dead-{number}")
            assert status == 201
            at.move(f"qingbo/dead-{number}", "completed")
        for number in range(100):
            await at.shows(f"qingbo/dead-{number}", "completed")
        waits = []
        for number in range(20):
            ref = f"qingbo/good-{number}"
            status, _ = await at.submit(headers={"X-Webhook-URL": at.receiver.url}, id=f"good-{number}")
            assert status == 201
            at.move(ref, "completed")
            await at.shows(ref, "completed")
            began = loop.time()
            request = await at.receiver.next_of(ref)
            waits.append(request.at - began)
        assert max(waits) < 3.0, waits


@pytest.mark.extended
async def test_a_delivery_that_waited_for_room_is_tried_again_as_soon_as_any_other(tmp_path: Path) -> None:
    """What was claimed and put back has not been attempted."""
    async with place("one", tmp_path) as at:
        at.receiver.accept_nobody()
        refs = [await ended(at, id=f"room-{number}") for number in range(150)]
        for ref in refs:
            await at.shows(ref, "completed")
        await asyncio.sleep(35.0)
        at.receiver.answer = by_turns(BROKEN, OK)
        at.receiver.accept_again()
        fresh = [ref for ref in refs if not at.receiver.of(ref)]
        await at.receiver.until(
            lambda: sum(arrived(at.receiver, ref) for ref in fresh) > len(fresh) // 2, LATE
        )
        late = [
            after.at - before.at
            for ref in fresh
            for before, after in itertools.pairwise(at.receiver.of(ref))
            if before.status == 500
        ]
        assert late
        assert max(late) < 9.0, late

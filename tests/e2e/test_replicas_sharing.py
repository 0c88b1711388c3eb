"""Three bridges on one engine: what one learns holds for all, and to a provider they are one client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, fleet
from tests.e2e.scene import QUICK, path_of
from tests.fakes.tenants import TenantProvider, tenant_provider
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

RATE = 40.0


def calls_of(found: Fleet, call: str) -> list[float]:
    """When the provider received calls of one kind, over all tasks."""
    (first, *_) = found
    return sorted(at for (_, kind, _), times in first.ledger.times.items() if kind == call for at in times)


def fullest_second(times: list[float]) -> int:
    window: deque[float] = deque()
    fullest = 0
    for at in times:
        window.append(at)
        while window[0] <= at - 1:
            window.popleft()
        fullest = max(fullest, len(window))
    return fullest


async def test_an_alias_found_at_one_bridge_needs_no_call_at_another() -> None:
    # Polls are rare: the calls counted are lookups.
    async with fleet(3, each={"poll_min_seconds": 60, "poll_max_seconds": 120}) as found:
        a, b, c = found
        body = {"model": "sora-2", "params": {"prompt": "x"}, "out_task_id": "mine"}
        reply = await a.call("POST", "/v1/tasks/bytespike", json=body)
        assert reply.status == 201
        ref = reply.json["state"]["task"]
        assert (await a.get("/v1/aliases/bytespike/mine")).json["task"] == ref
        await asyncio.sleep(0.3)  # the first poll after a submit
        asked = len(calls_of(found, "status"))
        assert asked >= 1
        for scene in (b, c, a):
            answer = await scene.get("/v1/aliases/bytespike/mine")
            assert (answer.status, answer.json["task"]) == (200, ref)
        assert len(calls_of(found, "status")) == asked


@pytest.mark.extended  # four seconds of arrivals
async def test_the_rate_limit_of_an_upstream_is_one_for_all_bridges() -> None:
    each = {"requests_per_second": RATE, "poll_min_seconds": 0.2, "poll_max_seconds": 0.4}
    async with fleet(3, each=each, linger_seconds=60) as found:
        scenes = list(found)
        for number in range(60):
            scene = scenes[number % 3]
            task = scene.id("rate")
            ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
            await scene.get(path_of(ref))
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(4)
        times = [at for at in calls_of(found, "status") if at >= began]
        # Arrivals, on a machine that may be busy: what the bridges send is exact in virtual time
        # (tests/unit/replica/test_budget.py).
        assert fullest_second(times) <= RATE + 3
        assert len(times) >= RATE


@pytest.fixture
async def tenants() -> AsyncIterator[TenantProvider]:
    async with tenant_provider() as made:
        yield made


async def test_a_key_refused_at_one_bridge_is_refused_at_all_within_100_milliseconds(
    tenants: TenantProvider,
) -> None:
    settings: dict[str, Any] = {
        "auth": "upstream-key",
        "account_secret": "what accounts are named with, a secret",
        "ticket_secret": "what tickets are signed with, a secret",
        "max_new_keys_per_minute_per_address": 0,
        "upstreams": {"qingbo": QUICK | {"base_url": tenants.url}},
    }
    async with fleet(3, **settings) as found:
        a, b, c = found
        tenant = tenants.tenant("ann")
        ref = tenant.put("task-1")
        headers = {"Authorization": f"Bearer {tenant.key}"}
        for scene in (a, b, c):
            assert (await scene.get(path_of(ref), **headers)).status == 200
        tenant.refused = 401
        while (await a.get(path_of(ref), **headers)).status != 401:  # noqa: ASYNC110 - a poll
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        asked = tenants.of(tenant)
        for scene in (b, c):
            assert (await scene.get(path_of(ref), **headers)).status == 401
        assert tenants.of(tenant) == asked

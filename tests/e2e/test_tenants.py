"""Many accounts at one provider, all at once, under the same task ids: not one byte crosses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.scene import path_of
from tests.e2e.test_upstream_keys import House, house, with_key
from tests.fakes.tenants import Tenant, tenant_provider

TASKS = ("one", "two/2")
TENANTS = 3
STATUSES = ("processing", "completed", "failed")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def place(runner: asyncio.Runner) -> Iterator[House]:
    stack = AsyncExitStack()

    async def begin() -> House:
        provider = await stack.enter_async_context(tenant_provider())
        return await stack.enter_async_context(
            house(provider, ownership_cache_seconds=0.2, linger_seconds=0.1, max_connection_age_seconds=2.0)
        )

    try:
        yield runner.run(begin())
    finally:
        runner.run(stack.aclose())


@dataclass
class Party:
    """The tenants of one example, and every byte each of them was sent."""

    house: House
    tenants: list[Tenant]
    heard: dict[int, list[bytes]] = field(default_factory=dict)
    tickets: dict[int, str] = field(default_factory=dict)
    streams: list[asyncio.Task[None]] = field(default_factory=list)

    def hears(self, who: int, data: bytes) -> None:
        self.heard.setdefault(who, []).append(data)

    async def call(self, who: int, path: str, method: str = "GET", **more: Any) -> Any:
        reply = await self.house.call(self.tenants[who], path, method, **more)
        head = "\n".join(f"{name}: {value}" for name, value in reply.headers.items())
        self.hears(who, head.encode() + reply.body)
        return reply

    async def follow(self, who: int, path: str, credential: dict[str, str]) -> None:
        """Hear a stream until it ends or the example does."""
        async with self.house.http.get(self.house.bridge.url + path, headers=credential) as answer:
            async for part in answer.content.iter_any():
                self.hears(who, part)

    async def converse(self, who: int, task: str) -> None:
        async with self.house.socket(self.tenants[who]) as socket:
            await socket.send(
                orjson.dumps({"type": "subscribe", "id": 1, "tasks": [f"qingbo/{task}"]}).decode()
            )
            async for said in socket:
                self.hears(who, said.encode() if isinstance(said, str) else said)

    def start(self, stream: Awaitable[None]) -> None:
        self.streams.append(asyncio.ensure_future(_quietly(stream)))


async def _quietly(stream: Awaitable[None]) -> None:
    try:
        await stream
    except (OSError, websockets.ConnectionClosed, websockets.InvalidStatus):
        return


async def read(party: Party, who: int, task: str) -> None:
    await party.call(who, path_of(f"qingbo/{task}"), headers={"Prefer": "wait=0"})


async def stream(party: Party, who: int, task: str) -> None:
    path = f"{path_of(f'qingbo/{task}')}/events?history=1"
    party.start(party.follow(who, path, with_key(party.tenants[who])))


async def many(party: Party, who: int, task: str) -> None:
    refs = "&".join(f"task=qingbo/{one}" for one in (task, *TASKS))
    party.start(party.follow(who, f"/v1/events?{refs}", with_key(party.tenants[who])))


async def converse(party: Party, who: int, task: str) -> None:
    party.start(party.converse(who, task))


async def submit(party: Party, who: int, task: str) -> None:
    await party.call(who, "/v1/tasks/qingbo", "POST", json={"prompt": "x", "id": task})


async def refused(party: Party, who: int, task: str) -> None:
    await party.call(who, "/v1/tasks/qingbo", "POST", json={"prompt": "no"})


async def cancel(party: Party, who: int, task: str) -> None:
    await party.call(who, f"{path_of(f'qingbo/{task}')}/cancel", "POST")


async def proxied(party: Party, who: int, task: str) -> None:
    await party.call(who, f"/proxy/qingbo/v1/tasks/{task.replace('/', '%2F')}")


async def get_ticket(party: Party, who: int, task: str) -> None:
    reply = await party.call(who, "/v1/tickets", "POST", json={"tasks": [f"qingbo/{task}"]})
    if reply.status == 201:
        party.tickets[who] = reply.json["links"]["events"]


async def use_ticket(party: Party, who: int, task: str) -> None:
    if who in party.tickets:
        party.start(party.follow(who, party.tickets[who], {}))


async def change(party: Party, who: int, task: str) -> None:
    tenant = party.tenants[who]
    shown = tenant.tasks.get(task, {"progress": 0})
    step = len(tenant.submitted) + int(shown["progress"]) + 1
    tenant.put(task, STATUSES[step % 3], step)


async def call_back(party: Party, who: int, task: str) -> None:
    await party.call(who, "/v1/callbacks/qingbo/called-back", "POST", json={"task_id": task})


async def revoke(party: Party, who: int, task: str) -> None:
    party.tenants[who].refused = None if party.tenants[who].refused else 401


ACTS: list[Callable[[Party, int, str], Awaitable[None]]] = [
    read,
    stream,
    many,
    converse,
    submit,
    refused,
    cancel,
    proxied,
    get_ticket,
    use_ticket,
    change,
    call_back,
    revoke,
]
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, TENANTS - 1), st.sampled_from(TASKS)),
    min_size=4,
    max_size=25,
)
_numbers = count()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(1, 6))
def test_no_byte_crosses_between_accounts(
    runner: asyncio.Runner, place: House, steps: list[Any], together: int
) -> None:
    runner.run(example(place, steps, together))


@pytest.mark.extended
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(1, 6))
def test_no_byte_crosses_between_accounts_whatever_they_do(
    runner: asyncio.Runner, place: House, steps: list[Any], together: int
) -> None:
    runner.run(example(place, steps, together))


async def example(place: House, steps: list[Any], together: int) -> None:
    number = next(_numbers)
    marks = [f"mark{number}x{who}z" for who in range(TENANTS)]
    party = Party(place, [place.provider.tenant(mark) for mark in marks])
    for who, tenant in enumerate(party.tenants):
        tenant.put(TASKS[0], progress=10 + who)
    try:
        for begin in range(0, len(steps), together):
            await asyncio.gather(
                *(act(party, who, task) for act, who, task in steps[begin : begin + together])
            )
    finally:
        for one in party.streams:
            one.cancel()
        await asyncio.gather(*party.streams, return_exceptions=True)
    for who, parts in party.heard.items():
        heard = b"".join(parts)
        strangers = [mark for other, mark in enumerate(marks) if other != who]
        assert not [mark for mark in strangers if mark.encode() in heard]
        assert not [tenant.key for tenant in party.tenants if tenant.key.encode() in heard]


def test_whoever_asks_is_shown_what_is_theirs(runner: asyncio.Runner, place: House) -> None:
    """Else silence would pass for privacy."""

    async def ask() -> None:
        tenants = [place.provider.tenant(f"heard{who}y") for who in range(TENANTS)]
        party = Party(place, tenants)
        for tenant in tenants:
            tenant.put(TASKS[0])
        for act in (read, proxied):
            await asyncio.gather(*(act(party, who, TASKS[0]) for who in range(TENANTS)))
        for who, tenant in enumerate(tenants):
            assert b"".join(party.heard[who]).count(tenant.mark.encode()) >= 2

    runner.run(ask())

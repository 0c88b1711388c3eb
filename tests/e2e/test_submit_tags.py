"""`X-Task-Tags` and `X-Task-Group` on every submit: kept with the task, and shown to nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
import orjson
import pytest
from multidict import CIMultiDict

from tests.e2e.bare import Asked, Bare, bare_provider
from tests.e2e.scene import Reply
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

NUMBERS = count()
PATHS = {
    "own": "/v1/tasks/plain",
    "proxy": "/proxy/plain/v1/tasks",
    "fal": "/proxy/fal",
}
TARGET = {"x-fal-target-url": "https://queue.fal.run/fal-ai/flux/dev"}
WORDS = ("user-7", "nightly", "x-task")


@dataclass
class Shop:
    """A bridge before a provider that answers as told."""

    bridge: BridgeProcess
    bare: Bare
    http: aiohttp.ClientSession

    async def submit(self, way: str, *headers: tuple[str, str], **more: Any) -> tuple[Reply, list[Asked]]:
        task = more.pop("task", f"task-{next(NUMBERS)}")
        queued = {"task_id": task, "status": "queued"}
        at = f"https://queue.fal.run/fal-ai/flux/requests/{task}"
        of_fal = {"request_id": task, "status": "IN_QUEUE", "response_url": at, "status_url": f"{at}/status"}
        self.bare.answers[:] = [of_fal if way == "fal" else queued]
        self.bare.asked.clear()
        if not more.keys() & {"data", "json"}:
            more["json"] = {"model": "m"}
        sent = CIMultiDict([*headers, *(TARGET.items() if way == "fal" else ())])
        async with self.http.post(self.bridge.url + PATHS[way], headers=sent, **more) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read())
        return reply, list(self.bare.asked)

    async def listed(self, query: str) -> list[str]:
        async with self.http.get(f"{self.bridge.url}/v1/tasks?{query}") as answer:
            assert answer.status == 200
            return [state["task_id"] for state in (await answer.json())["tasks"]]


@pytest.fixture(scope="module")
async def shop(anyio_backend: str) -> AsyncIterator[Shop]:
    async with bare_provider() as bare:
        each = {"base_url": bare.url, "api_key": "k", "poll_min_seconds": 60, "poll_max_seconds": 120}
        upstreams = {"plain": {"preset": "qingbo", **each}, "fal": {**each, "max_streams": 0}}
        async with (
            running_bridge(upstreams) as bridge,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        ):
            yield Shop(bridge, bare, http)


@pytest.mark.parametrize("way", PATHS)
async def test_the_headers_are_kept_and_reach_nobody(shop: Shop, way: str) -> None:
    task = f"kept-{next(NUMBERS)}"
    reply, asked = await shop.submit(
        way,
        ("X-Task-Tags", f"user-7, {way} ,a:b"),
        ("X-Task-Tags", "second user-7"),
        ("X-Task-Group", f"nightly.{way}"),
        task=task,
    )
    assert reply.status < 300, reply.body
    (one,) = asked
    sent = orjson.dumps(one.headers) + one.body + one.line.encode()
    told = reply.body + repr(dict(reply.headers)).encode()
    for word in WORDS:
        assert word.encode() not in sent.lower()
        assert word.encode() not in told.lower()
    for query in (f"tag={way}", f"tag=second&group=nightly.{way}", f"tag=a:b&group=nightly.{way}"):
        assert [task.rpartition("/")[2] for task in await shop.listed(query)] == [task], query


async def test_a_multipart_submit_keeps_them(shop: Shop) -> None:
    form = aiohttp.FormData()
    form.add_field("model", "m")
    form.add_field("file", b"\x00\x01", filename="a.bin")
    task = f"form-{next(NUMBERS)}"
    reply, _ = await shop.submit("own", ("X-Task-Tags", "form"), data=form, task=task)
    assert reply.status == 201
    assert await shop.listed("tag=form") == [task]


@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize(
    "header",
    [
        ("X-Task-Tags", ""),
        ("X-Task-Tags", " , ,"),
        ("X-Task-Tags", "a/b"),
        ("X-Task-Tags", "a%20b"),
        ("X-Task-Tags", "\u00fcber"),
        ("X-Task-Tags", "x" * 65),
        ("X-Task-Tags", " ".join(f"t{n}" for n in range(17))),
        ("X-Task-Tags", "a " * 40_000),
        ("X-Task-Group", ""),
        ("X-Task-Group", "a b"),
        ("X-Task-Group", "g" * 65),
    ],
)
async def test_malformed_is_400_before_the_provider_is_called(
    shop: Shop, way: str, header: tuple[str, str]
) -> None:
    reply, asked = await shop.submit(way, header)
    assert reply.status == 400, reply.body
    assert asked == []


@pytest.mark.parametrize("way", PATHS)
async def test_two_groups_are_one_too_many(shop: Shop, way: str) -> None:
    reply, asked = await shop.submit(way, ("X-Task-Group", "a"), ("X-Task-Group", "b"))
    assert (reply.status, asked) == (400, [])


async def test_a_read_ignores_them(shop: Shop) -> None:
    headers = {"X-Task-Tags": "///", "X-Task-Group": " "}
    _, _ = await shop.submit("own", task="read-me")
    shop.bare.answers[:] = [{"task_id": "read-me", "status": "queued"}]
    async with shop.http.get(f"{shop.bridge.url}/proxy/plain/v1/tasks/read-me", headers=headers) as answer:
        assert answer.status == 200
    async with shop.http.get(f"{shop.bridge.url}/v1/tasks/plain/read-me", headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("way", ["own", "proxy"])
async def test_a_repeat_with_other_tags_is_the_same_submit(shop: Shop, way: str) -> None:
    task, key = f"once-{next(NUMBERS)}", ("Idempotency-Key", f"k-{way}")
    first, asked = await shop.submit(way, key, ("X-Task-Tags", f"one.{way}"), task=task)
    assert len(asked) == 1
    again, asked = await shop.submit(way, key, ("X-Task-Tags", f"two.{way}"))
    assert (again.status, again.body, asked) == (first.status, first.body, [])
    assert await shop.listed(f"tag=one.{way}") == [task]
    assert await shop.listed(f"tag=two.{way}") == []


async def test_a_task_that_is_known_already_gets_both(shop: Shop) -> None:
    task = f"joined-{next(NUMBERS)}"
    await shop.submit("own", ("X-Task-Tags", "first"), ("X-Task-Group", "g1"), task=task)
    await shop.submit("own", ("X-Task-Tags", "then"), task=task)
    assert await shop.listed("tag=first&group=g1") == await shop.listed("tag=then") == [task]


@pytest.mark.parametrize("way", PATHS)
async def test_a_closed_group_is_409_before_the_provider_is_called(shop: Shop, way: str) -> None:
    group, key = f"closed.{way}", ("Idempotency-Key", f"closed-{way}")
    first, _ = await shop.submit(way, key, ("X-Task-Group", group))
    async with shop.http.post(f"{shop.bridge.url}/v1/groups/{group}/close") as answer:
        assert answer.status == 200, await answer.text()
    refused, asked = await shop.submit(way, ("X-Task-Group", group))
    assert (refused.status, asked) == (409, [])
    again, asked = await shop.submit(way, key, ("X-Task-Group", group))
    assert (again.status, again.body, asked) == (first.status, first.body, [])
    other, _ = await shop.submit(way, ("X-Task-Group", f"{group}.2"))
    assert other.status < 300


async def test_a_closed_group_takes_no_registration_but_keeps_its_own(shop: Shop) -> None:
    own, _ = await shop.submit("own", ("X-Task-Group", "shut"), task="in-it")
    assert own.status == 201
    async with shop.http.post(f"{shop.bridge.url}/v1/groups/shut/close") as answer:
        assert answer.status == 200
    shop.bare.asked.clear()
    path = f"{shop.bridge.url}/v1/tasks/plain"
    async with shop.http.put(f"{path}/not-in-it", json={"group": "shut"}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (409, "conflict")
    assert shop.bare.asked == []
    async with shop.http.put(f"{path}/in-it", json={"group": "shut", "tags": ["more"]}) as answer:
        assert answer.status == 200
    assert await shop.listed("group=shut&tag=more") == ["in-it"]

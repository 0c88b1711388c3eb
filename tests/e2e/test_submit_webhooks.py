"""Where the end of one submitted task is delivered: a header, a parameter, or the callback address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
import orjson
import pytest

from tests.e2e.bare import Asked, Bare, bare_provider
from tests.e2e.scene import Reply
from tests.harness import PATIENCE, BridgeProcess, running_bridge
from tests.webhooks.receiver import Receiver, receiver

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
UNLISTED = "https://not-listed.example/hook"
OURS = "https://bridge.example/v1/callbacks/"
WAVE = "?model=wavespeed-ai/flux-dev"
WAVE_PATH = "/api/v3/wavespeed-ai/flux-dev"
NUMBERS = count()  # one receiver sees the tasks of all bridges here
PATHS = {"plain": "/v1/tasks", "called": "/v1/tasks", "wave": WAVE_PATH, "wave-plain": WAVE_PATH}


@dataclass
class Shop:
    """A bridge before a provider whose tasks have ended when they are created."""

    bridge: BridgeProcess
    bare: Bare
    http: aiohttp.ClientSession

    async def submit(self, upstream: str, query: str = "", *, proxy: bool = False, **more: Any) -> Answered:
        task = f"task-{next(NUMBERS)}"
        ended = {"id": task, "task_id": task, "status": "failed"}
        self.bare.answers[:] = [{"code": 200, "data": ended} if "wave" in upstream else ended]
        self.bare.asked.clear()
        if "wave" in upstream and not proxy:
            query = f"{WAVE}{query.replace('?', '&')}"
        path = f"/proxy/{upstream}{PATHS[upstream]}" if proxy else f"/v1/tasks/{upstream}"
        more.setdefault("json", {"model": "m"})
        async with self.http.post(f"{self.bridge.url}{path}{query}", **more) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read())
        return Answered(reply, f"{upstream}/{task}", list(self.bare.asked))


@dataclass
class Answered:
    """What came of a submit, and what the provider was asked."""

    reply: Reply
    ref: str
    asked: list[Asked]

    @property
    def body(self) -> Any:
        """What the provider got."""
        (asked,) = self.asked
        return orjson.loads(asked.body)

    @property
    def line(self) -> str:
        (asked,) = self.asked
        return asked.line


@pytest.fixture(scope="module")
async def hook(anyio_backend: str) -> AsyncIterator[Receiver]:
    async with receiver(SECRET) as made:
        yield made


@pytest.fixture(scope="module")
async def shop(anyio_backend: str) -> AsyncIterator[Shop]:
    async with bare_provider() as bare:
        each = {"base_url": bare.url, "api_key": "k", "poll_min_seconds": 60, "poll_max_seconds": 120}
        upstreams = {
            "plain": {"preset": "qingbo", **each},
            "called": {"preset": "qingbo", "callback_secret": "s", **each},
            "wave": {"preset": "wavespeed", "callback_secret": "s", **each},
            "wave-plain": {"preset": "wavespeed", **each},
        }
        async with (
            running_bridge(
                upstreams,
                private_hosts=["127.0.0.1"],
                webhook_hosts=["127.0.0.1", "hooks.example"],
                webhook_secret=SECRET,
                callback_url="https://bridge.example",
            ) as bridge,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        ):
            yield Shop(bridge, bare, http)


def about(url: str) -> dict[str, Any]:
    return {"url": url, "events": ["task.final"], "kept": "until_final"}


async def test_the_end_of_a_task_that_ends_in_its_submit_is_delivered(shop: Shop, hook: Receiver) -> None:
    url = f"{hook.url}/mine?a=b"
    done = await shop.submit("plain", headers={"X-Webhook-URL": url})
    assert done.reply.status == 201, done.reply.body
    assert done.reply.json["webhook"] == about(url)
    request = await hook.next_of(done.ref)
    assert (request.target, request.document["type"]) == ("/mine?a=b", "task.final")
    assert request.verified == (SECRET,)
    assert "x-webhook-url" not in done.asked[0].headers
    assert done.body == {"model": "m"}
    assert "webhook" not in (await shop.submit("plain")).reply.json


@pytest.mark.parametrize("proxy", [True, False])
async def test_the_parameter_does_the_same_and_does_not_reach_the_provider(
    shop: Shop, hook: Receiver, *, proxy: bool
) -> None:
    url = f"{hook.url}/parameter"
    done = await shop.submit("plain", f"?webhook={url}", proxy=proxy)
    assert done.reply.status == (200 if proxy else 201)
    assert "webhook" not in done.line
    await hook.next_of(done.ref)
    both = await shop.submit("plain", f"?webhook={url}", proxy=proxy, headers={"X-Webhook-URL": url})
    assert (await hook.next_of(both.ref)).target == "/parameter"
    if proxy:
        assert done.reply.headers["x-webhook-kept"] == "until_final"
        assert "x-webhook-kept" not in (await shop.submit("plain", proxy=True)).reply.headers


@pytest.mark.parametrize("proxy", [True, False])
@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ([("X-Webhook-URL", UNLISTED)], "", 403),
        ([], f"?webhook={UNLISTED}", 403),
        ([("X-Webhook-URL", "https://hooks.example.evil.example/")], "", 403),
        ([("X-Webhook-URL", "http://hooks.example/")], "", 403),
        ([("X-Webhook-URL", "https://hooks.example@evil.example/")], "", 400),
        ([("X-Webhook-URL", "hooks.example")], "", 400),
        ([("X-Webhook-URL", "")], "", 400),
        (
            [("X-Webhook-URL", "https://hooks.example/1"), ("X-Webhook-URL", "https://hooks.example/2")],
            "",
            400,
        ),
        ([("X-Webhook-URL", "https://hooks.example/1")], "?webhook=https://hooks.example/2", 400),
    ],
)
async def test_what_is_not_allowed_is_refused_before_anything_is_sent(
    shop: Shop, headers: Any, query: str, status: int, *, proxy: bool
) -> None:
    refused = await shop.submit("plain", query, proxy=proxy, headers=headers)
    assert refused.reply.status == status, refused.reply.body
    assert refused.asked == []


async def test_the_callers_callback_address_is_taken_over_where_we_may_deliver(
    shop: Shop, hook: Receiver
) -> None:
    own = f"{hook.url}/own-callback"
    done = await shop.submit("called", json={"model": "m", "callback_url": own})
    assert done.reply.json["webhook"] == about(own)
    assert done.body["callback_url"].startswith(f"{OURS}called/")
    assert (await hook.next_of(done.ref)).target == "/own-callback"
    proxied = await shop.submit("called", proxy=True, json={"model": "m", "callback_url": own})
    assert proxied.body["callback_url"].startswith(f"{OURS}called/")
    await hook.next_of(proxied.ref)


async def test_it_stays_where_we_may_not_or_have_none_of_our_own(shop: Shop, hook: Receiver) -> None:
    listed = f"{hook.url}/stays"
    for upstream, own in (("called", UNLISTED), ("plain", listed), ("called", "not a url"), ("called", 7)):
        done = await shop.submit(upstream, json={"model": "m", "callback_url": own})
        assert done.reply.status == 201
        assert (done.body["callback_url"], "webhook" in done.reply.json) == (own, False)
    both = await shop.submit(
        "called", json={"callback_url": listed}, headers={"X-Webhook-URL": f"{hook.url}/header"}
    )
    assert both.body["callback_url"] == listed, "it would get nothing from us"
    assert (await hook.next_of(both.ref)).target == "/header"
    same = await shop.submit("called", json={"callback_url": listed}, headers={"X-Webhook-URL": listed})
    assert same.body["callback_url"].startswith(OURS)


async def test_a_providers_own_parameter_of_that_name_keeps_working(shop: Shop, hook: Receiver) -> None:
    listed = f"{hook.url}/wave"
    for upstream in ("wave", "wave-plain"):
        for proxy in (True, False):
            passed = await shop.submit(upstream, f"?webhook={UNLISTED}", proxy=proxy)
            assert passed.reply.status in {200, 201}, passed.reply.body
            assert "webhook=https%3A%2F%2Fnot-listed.example%2Fhook" in passed.line
    kept = await shop.submit("wave-plain", f"?webhook={listed}", proxy=True)
    assert "%2Fwave" in kept.line
    assert "x-webhook-kept" not in kept.reply.headers
    taken = await shop.submit("wave", f"?webhook={listed}", proxy=True)
    assert "bridge.example" in taken.line
    assert (await hook.next_of(taken.ref)).target == "/wave"
    ours = await shop.submit("wave-plain", f"?webhook={listed}")
    assert "webhook" not in ours.line
    assert (await hook.next_of(ours.ref)).target == "/wave"


async def test_an_end_that_was_recorded_before_the_submit_was_answered_is_delivered(
    shop: Shop, hook: Receiver
) -> None:
    task = f"early-{next(NUMBERS)}"
    ended = {"task_id": task, "status": "failed", "error": {"message": "no"}}
    shop.bare.answers[:] = [ended]
    async with shop.http.get(f"{shop.bridge.url}/v1/tasks/plain/{task}") as answer:
        assert (await answer.json())["status"] == "failed"  # as after a callback that was faster
    shop.bare.answers[:] = [ended]
    headers = {"X-Webhook-URL": f"{hook.url}/early"}
    async with shop.http.post(f"{shop.bridge.url}/v1/tasks/plain", json={}, headers=headers) as answer:
        assert answer.status == 201
    request = await hook.next_of(f"plain/{task}")
    assert (request.target, request.data["status"], request.verified) == ("/early", "failed", (SECRET,))


async def test_pages_may_send_the_header_and_read_what_is_kept() -> None:
    from bridge.web.middleware.cors import ALLOWED_HEADERS, EXPOSED_HEADERS
    from bridge.web.submit_details import KEPT_HEADER, WEBHOOK_HEADER

    assert WEBHOOK_HEADER in ALLOWED_HEADERS
    assert KEPT_HEADER in EXPOSED_HEADERS


@pytest.mark.extended
async def test_without_hosts_in_the_configuration_no_submit_may_name_one(hook: Receiver) -> None:
    async with bare_provider() as bare:
        upstreams = {"plain": {"preset": "qingbo", "base_url": bare.url, "api_key": "k"}}
        async with (
            running_bridge(upstreams, private_hosts=["127.0.0.1"]) as bridge,
            aiohttp.ClientSession() as http,
        ):
            shop = Shop(bridge, bare, http)
            refused = await shop.submit("plain", headers={"X-Webhook-URL": hook.url})
            assert (refused.reply.status, refused.reply.json["code"]) == (403, "forbidden")
            assert refused.asked == []


@pytest.mark.extended
async def test_with_a_callers_own_key_the_answer_says_what_it_depends_on(hook: Receiver) -> None:
    async with bare_provider() as bare:
        upstreams = {"plain": {"preset": "qingbo", "base_url": bare.url}}
        async with (
            running_bridge(
                upstreams,
                auth="upstream-key",
                account_secret="what accounts are named with, a secret",
                private_hosts=["127.0.0.1"],
                webhook_hosts=["127.0.0.1"],
                webhook_secret=SECRET,
            ) as bridge,
            aiohttp.ClientSession() as http,
        ):
            shop = Shop(bridge, bare, http)
            headers = {"X-Webhook-URL": f"{hook.url}/key", "Authorization": "Bearer a-key-of-a-caller"}
            for proxy in (False, True):
                done = await shop.submit("plain", proxy=proxy, headers=headers)
                assert done.reply.status in {200, 201}, done.reply.body
                if proxy:
                    assert done.reply.headers["x-webhook-kept"] == "while_key_known"
                else:
                    assert done.reply.json["webhook"]["kept"] == "while_key_known"
                assert (await hook.next_of(done.ref)).target == "/key"

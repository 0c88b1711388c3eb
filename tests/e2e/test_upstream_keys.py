"""`auth = "upstream-key"` from outside: who brings a key is shown what the provider shows to that key."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import websockets

from bridge.clock import SystemClock
from tests.e2e import raw
from tests.e2e.scene import QUICK, Reply, path_of, until
from tests.e2e.test_commands import run
from tests.fakes.credentials import ISSUER, SECRET, bearer
from tests.fakes.tenants import Tenant, TenantProvider, tenant_provider
from tests.harness import PATIENCE, BridgeProcess, running_bridge, running_simulator, upstreams_of

pytestmark = pytest.mark.anyio

ACCOUNTS = "what accounts are named with, a secret"
TICKETS = "what tickets are signed with, a secret"
KEYS: dict[str, Any] = {
    "auth": "upstream-key",
    "account_secret": ACCOUNTS,
    "ticket_secret": TICKETS,
    "log_level": "debug",
    "keepalive_seconds": 0.2,
    "max_new_keys_per_minute_per_address": 0,
}


@dataclass
class House:
    """A bridge before a provider with tenants."""

    bridge: BridgeProcess
    provider: TenantProvider
    http: aiohttp.ClientSession
    operations: str
    _numbers: Any = field(default_factory=count)

    def tenant(self) -> Tenant:
        return self.provider.tenant(f"tenant-{next(self._numbers)}-mark")

    async def call(self, tenant: Tenant | None, path: str, method: str = "GET", **more: Any) -> Reply:
        headers = more.pop("headers", {}) | (with_key(tenant) if tenant is not None else {})
        async with self.http.request(method, self.bridge.url + path, headers=headers, **more) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    def stream(self, tenant: Tenant | None, path: str, **more: str) -> AbstractAsyncContextManager[Any]:
        headers = more | (with_key(tenant) if tenant is not None else {})
        return raw.request(self.bridge.url, path, headers=headers)

    def socket(self, tenant: Tenant, query: str = "") -> Any:
        url = self.bridge.url.replace("http", "ws") + f"/v1/ws{query}"
        return websockets.connect(url, additional_headers=with_key(tenant))


def with_key(tenant: Tenant) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant.key}"}


@asynccontextmanager
async def house(provider: TenantProvider, **settings: Any) -> AsyncIterator[House]:
    upstream = QUICK | {"base_url": provider.url, "callback_secret": "called-back"}
    upstreams = {"qingbo": upstream, "second": upstream | {"preset": "qingbo"}}
    async with (
        running_bridge(upstreams, **KEYS | settings) as bridge,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
    ):
        stdout = bridge.process.stdout
        assert stdout is not None
        async with asyncio.timeout(PATIENCE):
            found = re.search(r"http://\S+", (await stdout.readline()).decode())
        assert found
        yield House(bridge, provider, http, found[0])


@pytest.fixture(scope="module")
async def provider(anyio_backend: str) -> AsyncIterator[TenantProvider]:
    async with tenant_provider() as made:
        yield made


@pytest.fixture(scope="module")
async def place(provider: TenantProvider) -> AsyncIterator[House]:
    async with house(provider, first_state_timeout_seconds=2.0) as made:
        yield made


@pytest.fixture
def ann(place: House) -> Tenant:
    return place.tenant()


@pytest.fixture
def bob(place: House) -> Tenant:
    return place.tenant()


FORMS = [
    {"Authorization": "Bearer {key}"},
    {"Authorization": "Key {key}"},
    {"authorization": "{key}"},
    {"X-API-Key": "{key}"},
    {"Authorization": "Basic Zm9v", "x-api-key": "{key}"},
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_key_comes_as_it_would_be_sent_to_the_provider(
    place: House, ann: Tenant, form: dict[str, str]
) -> None:
    ref = ann.put("a")
    headers = {name: text.format(key=ann.key) for name, text in form.items()}
    reply = await place.call(None, path_of(ref), headers=headers)
    assert (reply.status, reply.json["model"]) == (200, f"model-{ann.mark}")


async def test_two_different_keys_are_no_credential(place: House, ann: Tenant, bob: Tenant) -> None:
    ref = ann.put("a")
    reply = await place.call(ann, path_of(ref), headers={"x-api-key": bob.key})
    assert (reply.status, reply.json["code"]) == (401, "unauthenticated")
    assert place.provider.of(ann) == place.provider.of(bob) == 0


ROUTES = [
    ("GET", "/v1/tasks/qingbo/a"),
    ("GET", "/v1/tasks/qingbo/a/events"),
    ("HEAD", "/v1/tasks/qingbo/a/events"),
    ("POST", "/v1/tasks/qingbo"),
    ("POST", "/v1/tasks/qingbo/a/cancel"),
    ("GET", "/v1/events?task=qingbo/a"),
    ("POST", "/v1/tickets"),
    ("GET", "/proxy/qingbo/v1/tasks/a"),
    ("POST", "/proxy/qingbo/v1/tasks"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_requires_a_key_the_provider_accepts(place: House, method: str, path: str) -> None:
    assert (await place.call(None, path, method)).status == 401
    assert not [key for key, _, _ in place.provider.calls if not key]
    unknown = Tenant(f"key-of-nobody-{method}{path.replace('/', '-')}", "nobody")
    body = {"tasks": ["qingbo/a"]} if path == "/v1/tickets" else {"prompt": "x"}
    reply = await place.call(unknown, path, method, json=body if method == "POST" else None)
    assert reply.status == 401
    assert unknown.key.encode() not in reply.body


async def test_a_refused_key_is_not_tried_again_and_again(place: House) -> None:
    stranger = Tenant("key-of-a-hammer", "hammer")
    for _ in range(5):
        assert (await place.call(stranger, "/v1/tasks/qingbo/a")).status == 401
        assert (await place.call(stranger, "/v1/tasks/qingbo/b/events")).status == 401
    assert place.provider.of(stranger) == 1


async def test_the_same_id_is_two_tasks_for_two_accounts(place: House, ann: Tenant, bob: Tenant) -> None:
    ref = ann.put("same", progress=11)
    bob.put("same", progress=22)
    mine, theirs = await place.call(ann, path_of(ref)), await place.call(bob, path_of(ref))
    assert (mine.json["progress"], theirs.json["progress"]) == (11, 22)
    assert mine.headers["ETag"] != theirs.headers["ETag"]
    async with (
        place.stream(ann, f"{path_of(ref)}/events") as first,
        place.stream(bob, f"{path_of(ref)}/events") as second,
    ):
        await first.state_with(progress=11)
        await second.state_with(progress=22)
        ann.put("same", "completed")
        ended = await first.state_with(status="completed")
        assert ann.mark in ended["outputs"][0]["url"]
        bob.put("same", progress=33)
        await second.state_with(progress=33)


async def test_somebody_elses_task_is_not_there(place: House, ann: Tenant, bob: Tenant) -> None:
    ref = ann.put("private")
    assert (await place.call(ann, path_of(ref))).status == 200
    for path in (path_of(ref), f"{path_of(ref)}/events", "/v1/events?task=qingbo/private"):
        reply = await place.call(bob, path)
        assert (reply.status, reply.json["code"]) == (404, "task_not_found")
        assert ann.mark.encode() not in reply.body
    assert (await place.call(bob, f"{path_of(ref)}/cancel", "POST")).status == 404
    assert place.provider.of(ann, "cancel") == 0
    reply = await place.call(bob, "/v1/tickets", "POST", json={"tasks": [ref]})
    assert reply.status == 404
    assert (await place.call(bob, "/proxy/qingbo/v1/tasks/private")).status == 404


async def test_the_inspector_lists_an_account_its_own_tasks_while_the_provider_shows_them() -> None:
    async with (
        tenant_provider() as provider,  # its own: other bridges use the same keys
        house(provider, ownership_cache_seconds=0.3, linger_seconds=0.1) as place,
    ):
        ann, bob = place.tenant(), place.tenant()
        ref = ann.put("mine", "completed")
        bob.put("other")
        for tenant, task in ((ann, ref), (bob, "qingbo/other")):
            assert (await place.call(tenant, path_of(task))).status == 200

        async def listed(tenant: Tenant) -> list[str]:
            reply = await place.call(tenant, "/inspector/tasks")
            assert reply.json["upstreams"] == []
            return [row["task"] for row in reply.json["tasks"]]

        assert (await listed(ann), await listed(bob)) == ([ref], ["qingbo/other"])
        assert await listed(place.tenant()) == []
        asked = provider.of(ann)
        # rule 1 of ownership: the recorded end is shown only while the provider showed it to this key lately
        await until(lambda: listed(ann), [])
        assert provider.of(ann) == asked  # the list itself asks nobody


async def test_of_many_tasks_only_those_of_the_key_are_shown(place: House, ann: Tenant, bob: Tenant) -> None:
    bob.put("theirs")
    ann.put("mine")
    async with place.stream(ann, "/v1/events?task=qingbo/mine&task=qingbo/theirs") as stream:
        assert (await stream.state())["task"] == "qingbo/mine"
        notice = await stream.event("notice")
        assert (notice["code"], notice["task"]) == ("task_not_found", "qingbo/theirs")
        ann.put("mine", "completed")
        await stream.state_with(status="completed")
        await stream.event("end")


async def test_a_websocket_asks_for_each_subscribe(place: House, ann: Tenant, bob: Tenant) -> None:
    bob.put("theirs")
    ann.put("mine")
    async with asyncio.timeout(PATIENCE), place.socket(ann, "?task=qingbo/mine") as socket:
        assert orjson.loads(await socket.recv())["tasks"] == ["qingbo/mine"]
        await socket.send('{"type":"subscribe","id":7,"tasks":["qingbo/theirs","qingbo/mine"]}')
        said = [orjson.loads(await socket.recv())]
        while said[-1]["type"] != "subscribed":
            said.append(orjson.loads(await socket.recv()))
        (error,) = (one for one in said if one["type"] == "error")
        assert (error["code"], error["task"], error["id"]) == ("task_not_found", "qingbo/theirs", 7)
        assert said[-1]["tasks"] == ["qingbo/mine"]


async def test_a_websocket_with_a_bad_key_is_refused(place: House) -> None:
    stranger = Tenant("key-of-a-stranger-at-the-socket", "x")
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with place.socket(stranger, "?task=qingbo/a"):
            pass
    assert refused.value.response.status_code == 401
    async with asyncio.timeout(PATIENCE), place.socket(stranger) as socket:
        await socket.send('{"type":"subscribe","id":1,"tasks":["qingbo/a"]}')
        said = orjson.loads(await socket.recv())
        assert (said["type"], said["code"]) == ("error", "unauthenticated")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_key_is_for_one_provider(place: House, ann: Tenant, method: str) -> None:
    ann.put("a")
    refs = ["qingbo/a", "second/a"]
    if method == "GET":
        reply = await place.call(ann, f"/v1/events?task={refs[0]}&task={refs[1]}")
    else:
        reply = await place.call(ann, "/v1/events", "POST", json={"tasks": refs})
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
    assert place.provider.of(ann) == 0


async def test_viewers_of_one_account_share_one_watch(place: House, ann: Tenant) -> None:
    ref = ann.put("shared")
    async with place.stream(ann, f"{path_of(ref)}/events") as first:
        await first.state()
        async with place.stream(ann, f"{path_of(ref)}/events") as second:
            await second.state()
            ann.put("shared", "completed")
            await first.state_with(status="completed")
            await second.state_with(status="completed")
    calls = place.provider.of(ann)
    for _ in range(20):
        assert (await place.call(ann, path_of(ref))).json["status"] == "completed"
    assert place.provider.of(ann) == calls


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_taken_no_more_ends_its_streams_and_its_polls(
    place: House, ann: Tenant, bob: Tenant, status: int
) -> None:
    ref = ann.put("watched")
    bob.put("watched")
    async with (
        place.stream(ann, f"{path_of(ref)}/events") as stream,
        place.stream(bob, f"{path_of(ref)}/events") as other,
        place.socket(ann, f"?task={ref}") as socket,
    ):
        await stream.state()
        await other.state()
        ann.refused = status
        blocks = await stream.rest()
        codes = [block.data.get("code") for block in blocks if block.event == "notice"]
        assert codes[0] == "credential_refused"
        last = blocks[-1].data
        assert (last["code"], last["reason"]) == ("closing", "expired")
        with contextlib.suppress(websockets.ConnectionClosed):
            async with asyncio.timeout(PATIENCE):
                async for _ in socket:
                    pass
        assert socket.close_code == 4501
        bob.put("watched", progress=44)
        await other.state_with(progress=44)
    assert (await place.call(ann, path_of(ref))).status == 401
    calls = place.provider.of(ann)  # with the key its watches are over
    bob.put("watched", progress=45)
    await place.call(bob, path_of(ref))
    assert place.provider.of(ann) == calls


async def test_submit_and_cancel_go_out_with_the_callers_key(place: House, ann: Tenant, bob: Tenant) -> None:
    reply = await place.call(ann, "/v1/tasks/qingbo", "POST", json={"prompt": "x", "id": "new"})
    assert reply.status == 201
    assert [one["prompt"] for one in ann.submitted] == ["x"]
    assert bob.submitted == []
    async with place.stream(ann, "/v1/tasks/qingbo/new/events") as stream:
        await stream.state()
        reply = await place.call(ann, "/v1/tasks/qingbo/new/cancel", "POST")
        assert (reply.status, reply.json["status"]) == (200, "cancelled")
        await stream.state_with(status="cancelled")
    refused = await place.call(ann, "/v1/tasks/qingbo", "POST", json={"prompt": "no"})
    assert (refused.status, refused.json["code"]) == (502, "upstream_refused")
    ann.refused = 402
    broke = await place.call(ann, "/v1/tasks/qingbo", "POST", json={"prompt": "x"})
    assert (broke.status, broke.json["code"]) == (502, "upstream_refused")
    ann.refused = None
    assert (await place.call(ann, "/v1/tasks/qingbo/new")).status == 200, "out of credit is no bad key"


async def test_the_providers_own_paths_take_the_providers_own_key(
    place: House, ann: Tenant, bob: Tenant
) -> None:
    ann.put("own", progress=5)
    bob.put("own", progress=6)
    mine = await place.call(ann, "/proxy/qingbo/v1/tasks/own")
    theirs = await place.call(bob, "/proxy/qingbo/v1/tasks/own")
    assert (mine.json["progress"], theirs.json["progress"]) == (5, 6)
    made = await place.call(bob, "/proxy/qingbo/v1/tasks", "POST", json={"prompt": "y", "id": "via"})
    assert made.json["task_id"] == "via"
    assert (await place.call(bob, "/proxy/qingbo/v1/tasks/via/cancel", "POST")).status == 200
    assert (await place.call(ann, "/proxy/qingbo/v1/tasks/via")).status == 404


async def test_a_ticket_speaks_for_the_account_that_got_it(place: House, ann: Tenant, bob: Tenant) -> None:
    ref = ann.put("shown")
    bob.put("shown", progress=99)
    made = await place.call(ann, "/v1/tickets", "POST", json={"tasks": [ref]})
    assert made.status == 201
    assert ann.key not in made.body.decode()
    async with place.stream(None, made.json["links"]["events"]) as stream:
        assert (await stream.state())["model"] == f"model-{ann.mark}"
        ann.refused = 401
        blocks = await stream.rest()
    assert blocks[-1].data["reason"] == "expired"
    assert (await place.call(None, made.json["links"]["events"])).status == 401


async def test_a_callback_looks_at_the_task_of_one_account_only(
    provider: TenantProvider, tmp_path: Path
) -> None:
    slow = {"poll_min_seconds": 30.0, "poll_max_seconds": 60.0}
    upstream = slow | {"base_url": provider.url, "callback_secret": "called-back"}
    wishes = KEYS | {"public_url": "https://bridge.example"}
    ann, bob = provider.tenant("ann-called"), provider.tenant("bob-called")
    async with (
        running_bridge({"qingbo": upstream}, **wishes) as bridge,
        aiohttp.ClientSession() as http,
    ):
        for tenant in (ann, bob):
            body = {"prompt": "x", "id": "task"}
            async with http.post(
                f"{bridge.url}/v1/tasks/qingbo", json=body, headers=with_key(tenant)
            ) as made:
                assert made.status == 201
        addresses = [one.submitted[0]["callback_url"].partition("bridge.example")[2] for one in (ann, bob)]
        assert addresses[0] != addresses[1]
        assert not any(one.key in address for one in (ann, bob) for address in addresses)
        async with raw.request(bridge.url, "/v1/tasks/qingbo/task/events", headers=with_key(ann)) as stream:
            await stream.state_with(status="queued")
            ann.put("task", "completed")
            before = provider.of(bob)
            forged = addresses[0].replace(addresses[0][-4:], "0000")
            for path, status in ((forged, 403), ("/v1/callbacks/qingbo/x.y", 403), (addresses[0], 200)):
                async with http.post(bridge.url + path, json={"task_id": "task"}) as answer:
                    assert answer.status == status
            await stream.state_with(status="completed")
        assert provider.of(bob) == before


async def test_while_the_provider_is_down_nothing_unproven_is_shown(
    provider: TenantProvider, tmp_path: Path
) -> None:
    ann = provider.tenant("ann-waits")
    ref = ann.put("ended", "completed")
    journal = f"sqlite:{tmp_path / 'bridge.db'}"
    async with house(provider, journal=journal, first_state_timeout_seconds=1.0) as first:
        reply = await first.call(ann, path_of(ref))
        assert reply.json["status"] == "completed"
        cursor = reply.json["cursor"]
        assert await first.bridge.stop() == 0
    try:
        provider.down = True
        async with house(provider, journal=journal, first_state_timeout_seconds=1.0) as second:
            reply = await second.call(ann, path_of(ref))
            assert (reply.status, reply.json["code"]) == (503, "upstream_unavailable")
            async with second.stream(ann, f"{path_of(ref)}/events") as stream:
                assert stream.status == 200
                blocks = await stream.rest()
            assert [block.data["code"] for block in blocks] == ["upstream_unavailable", "closing"]
            assert "retry" in blocks[-1].fields
            proxied = await second.call(ann, "/proxy/qingbo/v1/tasks/ended")
            assert (proxied.status, ann.mark.encode() in proxied.body) == (500, False), "the provider's own"
            assert ann.mark.encode() not in reply.body
            provider.down = False
            await until(lambda: _status(second, ann, ref), 200)
            gone = await second.call(ann, f"{path_of(ref)}/events", headers={"Last-Event-ID": cursor})
            assert gone.status == 204, "with the same account secret the journal is still the account's"
            assert await _history(second, ann, ref) == ["completed"]
    finally:
        provider.down = False


async def _status(house: House, tenant: Tenant, ref: str) -> int:
    return (await house.call(tenant, path_of(ref))).status


async def _history(house: House, tenant: Tenant, ref: str) -> list[str]:
    async with house.stream(tenant, f"{path_of(ref)}/events?history=1") as stream:
        blocks = await stream.rest()
    return [block.data["status"] for block in blocks if block.event is None and block.data]


async def test_what_was_proven_is_asked_again_after_a_while(provider: TenantProvider) -> None:
    ann = provider.tenant("ann-again")
    ref = ann.put("ended", "completed")
    async with house(provider, ownership_cache_seconds=0.05, linger_seconds=0) as place:
        assert (await place.call(ann, path_of(ref))).status == 200
        await until(lambda: _status(place, ann, ref), 200)
        del ann.tasks["ended"]
        await until(lambda: _status(place, ann, ref), 404)
        ann.refused = 401
        await until(lambda: _status(place, ann, ref), 401)


async def test_an_address_that_tries_keys_is_slowed_down(provider: TenantProvider) -> None:
    ann = provider.tenant("ann-known")
    ref = ann.put("a")
    async with house(provider, max_new_keys_per_minute_per_address=3) as place:
        assert (await place.call(ann, path_of(ref))).status == 200
        tried = [Tenant(f"guess-{number}", "x") for number in range(4)]
        said = [(await place.call(one, path_of(ref))).status for one in tried]
        assert said == [401, 401, 429, 429]
        reply = await place.call(tried[-1], path_of(ref))
        assert int(reply.headers["Retry-After"]) >= 1
        assert place.provider.of(tried[-1]) == 0
        assert (await place.call(ann, path_of(ref))).status == 200, "a key that was proven is not slowed"


async def test_a_key_that_only_submits_is_proven_by_what_the_provider_created(
    provider: TenantProvider,
) -> None:
    ann = provider.tenant("ann-creates")
    async with house(provider, max_new_keys_per_minute_per_address=3) as place:
        body = {"model": "wan2.7", "prompt": "x"}
        said = [(await place.call(ann, "/v1/tasks/qingbo", "POST", json=body)).status for _ in range(6)]
        assert said == [201] * 6


async def test_operators_are_somebody_else(place: House, ann: Tenant) -> None:
    for path in ("/status", "/metrics"):
        assert (await place.call(ann, path)).status == 404
        async with place.http.get(place.operations + path) as answer:
            text = await answer.text()
            assert answer.status == 200
        assert not any(
            tenant.key in text or tenant.mark in text for tenant in place.provider.tenants.values()
        )


async def test_operators_may_be_asked_for_tokens(provider: TenantProvider) -> None:
    async with house(provider, token_secrets=[SECRET], token_issuer=ISSUER) as place:
        for headers, status in (({}, 401), (bearer(scope="read"), 403), (bearer(scope="admin"), 200)):
            async with place.http.get(f"{place.operations}/status", headers=headers) as answer:
                assert answer.status == status
        ann = provider.tenant("ann-of-two-modes")
        ref = ann.put("a")
        assert (await place.call(ann, path_of(ref))).status == 200
        assert (await place.call(None, path_of(ref), headers=bearer("*"))).status == 401


async def test_the_clients_own_id_is_looked_for_among_the_callers_own_tasks() -> None:
    async with (
        running_simulator() as simulator,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
    ):
        wishes = upstreams_of(simulator, **QUICK)
        tenants = [Tenant(f"key-of-alias-{number}", "x") for number in range(2)]
        tasks = []
        for tenant in tenants:
            body = {"model": "m", "params": {}, "out_task_id": "mine", "sim": {"queue_seconds": 1000}}
            url = f"{simulator.url}/bytespike/v1/tasks/submit"
            async with http.post(url, json=body, headers=with_key(tenant)) as answer:
                tasks.append((await answer.json())["task_id"])
        async with running_bridge(wishes, **KEYS) as bridge:
            for tenant, task in [*zip(tenants, tasks, strict=True)] * 2:
                async with http.get(
                    f"{bridge.url}/v1/aliases/bytespike/mine", headers=with_key(tenant)
                ) as answer:
                    assert (await answer.json())["task"] == f"bytespike/{task}"
                query = {"out_task_id": "mine"}
                url = f"{bridge.url}/proxy/bytespike/v1/tasks/query"
                async with http.post(url, json=query, headers=with_key(tenant)) as answer:
                    assert task in await answer.text()
            async with http.get(
                f"{bridge.url}/v1/aliases/bytespike/mine", headers={"x-api-key": "bad-key-of-nobody"}
            ) as answer:
                assert answer.status == 401


MISTAKES = [
    ({"account_secret": ACCOUNTS}, 'account_secret: needs auth = "upstream-key"'),
    ({"auth": "upstream-key", "account_secret": "short"}, "32 bytes"),
    ({"auth": "upstream-key", "admin_host": "0.0.0.0"}, "API keys do not identify operators"),
    ({"auth": "upstream-key", "token_secrets": f'["{SECRET}"]'}, "token_issuer"),
]


@pytest.mark.parametrize(("wishes", "sentence"), MISTAKES)
async def test_a_mode_that_cannot_be_is_a_mistake(wishes: dict[str, str], sentence: str) -> None:
    upstreams = orjson.dumps({"qingbo": {"api_key": "k"}}).decode()
    variables = {f"BRIDGE_{name.upper()}": value for name, value in wishes.items()}
    ended = await run("check-config", BRIDGE_UPSTREAMS=upstreams, **variables)
    assert ended.code == 2
    assert sentence in ended.err


async def test_status_shows_the_run_times_of_all_accounts_and_the_models_of_none(
    place: House, ann: Tenant, bob: Tenant
) -> None:
    now = SystemClock().time()
    for tenant in (ann, bob):
        ref = tenant.put("learned")
        tenant.tasks["learned"] |= {"created_at": now - 2}
        async with place.stream(tenant, f"{path_of(ref)}/events") as stream:
            await stream.state()
            tenant.put("learned", "completed", 100)
            tenant.tasks["learned"] |= {"created_at": now - 2, "completed_at": now}
            await stream.event("end")
    async with place.http.get(f"{place.operations}/status") as answer:
        text = await answer.text()
    (row,) = orjson.loads(text)["upstreams"]["qingbo"]["kinds"]
    assert (row["model"], row["action"]) == (None, None)
    assert row["samples"] >= 2
    assert ann.mark not in text
    assert bob.mark not in text

"""Three bridges on one engine: every call works at any of them, and costs the provider what one would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
import websockets

from tests.e2e.fleet import Fleet, fleet
from tests.e2e.scene import QUICK, Scene, path_of
from tests.fakes.tenants import TenantProvider, tenant_provider
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t"


@pytest.fixture(scope="module")
async def three(anyio_backend: str) -> AsyncIterator[Fleet]:
    async with fleet(3) as made:
        yield made


@pytest.fixture(scope="module")
async def slow(anyio_backend: str) -> AsyncIterator[Fleet]:
    """Bridges that poll once a minute: what comes earlier was asked for."""
    each = {"poll_min_seconds": 60, "poll_max_seconds": 120, "callback_secret": SECRET}
    async with fleet(3, each=each) as made:
        yield made


async def viewed(scene: Scene, ref: str) -> None:
    """Its bridge owns the task."""
    assert (await scene.get(path_of(ref))).status == 200


async def test_viewers_at_all_of_them_are_told_every_state_once_from_one_poll(three: Fleet) -> None:
    a, b, c = three
    task = a.id("all")
    ref = await a.script("qingbo", task, qingbo(task, "processing", 10))
    async with a.events(ref) as one, b.events(ref) as two, c.events(ref) as three_:
        streams = (one, two, three_)
        assert [(await stream.state())["progress"] for stream in streams] == [10, 10, 10]
        await a.then("qingbo", task, qingbo(task, "processing", 50))
        states = [await stream.state() for stream in streams]
        assert {(state["progress"], state["cursor"]) for state in states} == {(50, states[0]["cursor"])}
        await a.then("qingbo", task, qingbo_done(task))
        for stream in streams:
            assert (await stream.state())["status"] == "completed"
            assert [block.event for block in await stream.rest()] == ["done", "end"]
    assert sum(three.owner(ref) is scene for scene in three) <= 1


async def test_a_submit_anywhere_is_watched_and_seen_everywhere(three: Fleet) -> None:
    a, b, c = three
    body = {"model": "wan2.7", "prompt": "x", "sim": {"queue_seconds": 0, "run_seconds": 1000}}
    for here, there in ((a, b), (b, c), (c, a)):
        reply = await here.call("POST", "/v1/tasks/qingbo", json=body)
        assert reply.status == 201
        ref = reply.json["state"]["task"]
        state = (await there.get(path_of(ref))).json
        assert state["status"] in {"queued", "processing"}
        task = ref.partition("/")[2]
        assert there.ledger.of("qingbo", task, "submit") == 0 or here.ledger.of("qingbo", task, "submit") == 1


async def test_a_cancel_elsewhere_ends_the_task_for_its_viewers(three: Fleet) -> None:
    a, b, c = three
    body = {"model": "wan2.7", "prompt": "x"}
    ref = "qingbo/" + await a.submit("qingbo", "/v1/tasks", body, queue_seconds=1000, run_seconds=1000)
    async with a.events(ref) as stream, c.events(ref) as other:
        assert (await stream.state())["status"] == (await other.state())["status"] == "queued"
        reply = await b.call("POST", f"{path_of(ref)}/cancel")
        assert (reply.status, reply.json["status"]) == (200, "cancelled")
        assert (await stream.state())["status"] == (await other.state())["status"] == "cancelled"
    again = await c.call("POST", f"{path_of(ref)}/cancel")
    assert (again.status, again.json["status"]) == (200, "cancelled")
    assert a.ledger.of("qingbo", ref.partition("/")[2], "cancel") == 1


async def test_a_cancel_that_comes_too_late_is_a_conflict_at_any_of_them(three: Fleet) -> None:
    a, b, _ = three
    body = {"model": "wan2.7", "prompt": "x"}
    ref = "qingbo/" + await a.submit("qingbo", "/v1/tasks", body, queue_seconds=0, run_seconds=1000)
    await viewed(a, ref)
    reply = await b.call("POST", f"{path_of(ref)}/cancel")
    assert (reply.status, reply.json["code"]) == (409, "conflict")
    assert (await b.get(path_of(ref))).json["status"] == "processing"


async def test_a_callback_at_any_of_them_makes_the_owner_poll_at_once(slow: Fleet) -> None:
    a, b, c = slow
    task = a.id("called")
    ref = await a.script("qingbo", task, qingbo(task, "processing", 10))
    async with a.events(ref) as stream, c.events(ref) as other:
        assert (await stream.state())["progress"] == (await other.state())["progress"] == 10
        assert a.ledger.of("qingbo", task) == 1
        await a.then("qingbo", task, qingbo_done(task))
        reply = await b.call("POST", f"/v1/callbacks/qingbo/{SECRET}", json={"task_id": task})
        assert reply.status == 200
        for one in (stream, other):
            state = await one.state()
            assert (state["status"], state["source"]) == ("completed", "callback")
        assert a.ledger.of("qingbo", task) == 2


async def test_a_callback_about_a_task_no_bridge_watches_starts_one_watch(slow: Fleet) -> None:
    a, b, _ = slow
    task = a.id("unwatched")
    ref = await a.script("qingbo", task, qingbo_done(task))
    reply = await b.call("POST", f"/v1/callbacks/qingbo/{SECRET}", json={"task_id": task})
    assert reply.status == 200
    await a.ledger.reach("qingbo", task, 1)
    async with a.events(ref) as stream:
        assert (await stream.state())["status"] == "completed"
    assert a.ledger.of("qingbo", task) == 1


async def test_a_status_call_under_the_providers_path_is_answered_anywhere(slow: Fleet) -> None:
    a, b, c = slow
    task = a.id("proxied")
    ref = await a.script("qingbo", task, qingbo(task, "processing", 10))
    first = await a.get(f"/proxy/qingbo/v1/tasks/{task}")
    assert first.json["progress"] == 10
    for scene in (b, c):
        reply = await scene.get(f"/proxy/qingbo/v1/tasks/{task}")
        assert reply.status == 200
        assert reply.json == first.json
    assert a.ledger.of("qingbo", task) == 1
    assert (await b.get(path_of(ref))).json["progress"] == 10


async def test_a_status_call_gets_the_end_as_soon_as_its_owner_has_it(three: Fleet) -> None:
    a, b, _ = three
    task = a.id("proxied-end")
    ref = await a.script("qingbo", task, qingbo(task, "processing", 10))
    await viewed(a, ref)
    await b.get(f"/proxy/qingbo/v1/tasks/{task}")
    await a.then("qingbo", task, qingbo_done(task))
    async with asyncio.timeout(PATIENCE), b.events(ref) as stream:
        await stream.state_with(status="completed")
    assert (await b.get(f"/proxy/qingbo/v1/tasks/{task}")).json["status"] == "completed"


async def test_a_long_poll_elsewhere_is_answered_when_the_state_changes(three: Fleet) -> None:
    a, b, _ = three
    task = a.id("polled")
    ref = await a.script("qingbo", task, qingbo(task, "processing", 10))
    first = await a.get(path_of(ref))
    etag = first.headers["etag"]
    assert (await b.get(path_of(ref), If_None_Match=etag)).status == 304
    waiting = asyncio.ensure_future(b.get(path_of(ref), If_None_Match=etag, Prefer="wait=20"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await a.then("qingbo", task, qingbo(task, "processing", 60))
    assert (await waiting).json["progress"] == 60


async def test_websockets_of_different_bridges_say_the_same(three: Fleet) -> None:
    a, b, c = three
    task = a.id("ws")
    ref = await a.script("qingbo", task, qingbo(task, "processing", 10))
    said: list[list[tuple[str, object]]] = []
    begun = asyncio.Semaphore(0)

    async def view(scene: Scene) -> None:
        url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={ref}"
        heard: list[tuple[str, object]] = []
        said.append(heard)
        async with websockets.connect(url, subprotocols=["bridge.v1.json"]) as socket:
            async for text in socket:
                message = orjson.loads(text)
                if message["type"] == "state":
                    heard.append((message["cursor"], message["state"]["progress"]))
                    begun.release()
                if message["type"] == "done":
                    return

    views = [asyncio.ensure_future(view(scene)) for scene in (a, b, c)]
    async with asyncio.timeout(PATIENCE):
        for _ in views:
            await begun.acquire()
        await a.then("qingbo", task, qingbo_done(task))
        await asyncio.gather(*views)
    assert said[0] == said[1] == said[2]
    assert [progress for _, progress in said[0]] == [10, 100]


async def test_a_task_the_provider_does_not_know_is_404_at_all_of_them_after_two_polls(three: Fleet) -> None:
    a, b, c = three
    task = a.id("none")
    replies = await asyncio.gather(*(scene.get(path_of(f"qingbo/{task}")) for scene in (a, b, c)))
    assert [(reply.status, reply.json["code"]) for reply in replies] == [(404, "task_not_found")] * 3
    later = await b.get(f"{path_of(f'qingbo/{task}')}/events", Accept="text/event-stream")
    assert later.status == 404
    assert a.ledger.of("qingbo", task) <= 2


async def test_a_provider_that_fails_is_told_within_two_seconds_at_all_and_to_who_joins(three: Fleet) -> None:
    a, b, c = three
    task = a.id("broken")
    ref = await a.script("qingbo", task, answer({"error": "broken"}, status=500))
    async with a.events(ref) as one, b.events(ref) as two, asyncio.timeout(3):
        for stream in (one, two):
            assert await stream.notice("upstream_unavailable")
        async with c.events(ref) as late:
            assert await late.notice("upstream_unavailable")
        await a.then("qingbo", task, qingbo(task, "processing", 10))
        assert (await one.state_with(status="processing"))["progress"] == 10
        assert (await two.state_with(status="processing"))["progress"] == 10


async def test_a_task_is_found_by_its_alias_at_any_of_them(three: Fleet) -> None:
    a, b, c = three
    body = {"model": "sora-2", "params": {"prompt": "x"}, "out_task_id": "mine-1"}
    reply = await a.call("POST", "/v1/tasks/bytespike", json=body)
    assert reply.status == 201
    for scene in (a, b, c):
        found = await scene.get("/v1/aliases/bytespike/mine-1")
        assert found.json["task"] == reply.json["state"]["task"]


async def test_when_the_owner_is_cut_off_for_good_another_goes_on(three: Fleet) -> None:
    async with fleet(2) as two:
        a, b = two
        task = a.id("taken-over")
        ref = await a.script("qingbo", task, qingbo(task, "processing", 10))
        await viewed(a, ref)
        async with b.events(ref) as stream:
            assert (await stream.state())["progress"] == 10
            assert two.owner(ref) is a
            two.served[0].access.cut = True
            await a.then("qingbo", task, qingbo_done(task))
            assert (await stream.state())["status"] == "completed"


@pytest.fixture(scope="module")
async def provider(anyio_backend: str) -> AsyncIterator[TenantProvider]:
    async with tenant_provider() as made:
        yield made


@pytest.fixture(scope="module")
async def keyed(provider: TenantProvider) -> AsyncIterator[Fleet]:
    """Bridges whose callers bring the provider's keys."""
    upstreams = {"qingbo": QUICK | {"base_url": provider.url, "callback_secret": SECRET}}
    secrets = {"account_secret": "names accounts, " * 3, "ticket_secret": "signs tickets, " * 3}
    more = {"auth": "upstream-key", "max_new_keys_per_minute_per_address": 0}
    async with fleet(2, upstreams=upstreams, **secrets, **more) as made:
        yield made


async def test_a_key_brought_to_one_bridge_is_used_there_and_shows_what_it_sees(
    keyed: Fleet, provider: TenantProvider
) -> None:
    a, b = keyed
    ann, bob = provider.tenant("ann"), provider.tenant("bob")
    ref = ann.put("a", progress=10)
    key = {"Authorization": f"Bearer {ann.key}"}
    assert (await a.get(path_of(ref), **key)).json["progress"] == 10
    polls = provider.of(ann)
    # The key is new there; another bridge polls the task with the same key: that proves it.
    async with asyncio.timeout(1.5):
        reply = await b.get(path_of(ref), **key)
    assert (reply.status, reply.json["progress"]) == (200, 10)
    other = await b.get(path_of(ref), Authorization=f"Bearer {bob.key}")
    assert (other.status, other.json["code"]) == (404, "task_not_found")
    async with a.events(ref, headers=key) as one, b.events(ref, headers=key) as two:
        assert (await one.state())["progress"] == (await two.state())["progress"] == 10
        ann.put("a", "completed", 100)
        for stream in (one, two):
            assert (await stream.state_with(status="completed"))["task"] == ref
    assert provider.of(ann) > polls


async def test_a_ticket_at_a_bridge_without_its_key_is_for_later_not_for_ever(
    keyed: Fleet, provider: TenantProvider
) -> None:
    a, b = keyed
    tom = provider.tenant("tom")
    ref = tom.put("t", progress=10)
    key = {"Authorization": f"Bearer {tom.key}"}
    made = await a.call("POST", "/v1/tickets", json={"tasks": [ref]}, headers=key)
    path = f"{path_of(ref)}/events?ticket={made.json['ticket']}"
    refused = await b.get(path, Accept="text/event-stream")
    assert refused.status == 200
    text = refused.body.decode()
    assert "at another bridge" in text
    assert '"reason":"over_capacity"' in text
    assert (await b.get(f"{path_of(ref)}?ticket={made.json['ticket']}")).status in {401, 503}
    async with a.events(ref, query=f"?ticket={made.json['ticket']}") as stream:
        assert (await stream.state())["progress"] == 10


async def test_a_key_rejected_at_one_bridge_is_rejected_at_the_other(
    keyed: Fleet, provider: TenantProvider
) -> None:
    a, b = keyed
    eve = provider.tenant("eve")
    ref = eve.put("e", progress=10)
    key = {"Authorization": f"Bearer {eve.key}"}
    for scene in (a, b):
        assert (await scene.get(path_of(ref), **key)).status == 200
    async with b.events(ref, headers=key) as stream:
        await stream.state()
        eve.refused = 401
        await stream.notice("credential_refused")
    calls = provider.of(eve)
    for scene in (a, b):
        assert (await scene.get(path_of(ref), **key)).status == 401
    assert provider.of(eve) == calls

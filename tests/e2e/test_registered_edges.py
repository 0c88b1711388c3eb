"""Registering and forgetting where something is wrong: the body, the provider, the key, the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO

import pytest

from tests.e2e.fleet import Fleet, fleet
from tests.e2e.scene import Scene, path_of, stage, until
from tests.e2e.test_registered import listed, put, status_of
from tests.e2e.test_upstream_keys import House, house
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.fakes.tenants import TenantProvider, tenant_provider
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


@pytest.fixture(scope="module")
async def tenants(anyio_backend: str) -> AsyncIterator[TenantProvider]:
    async with tenant_provider() as made:
        yield made


@pytest.fixture(scope="module")
async def keyed(tenants: TenantProvider) -> AsyncIterator[House]:
    async with house(tenants, first_state_timeout_seconds=2.0) as made:
        yield made


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"tags": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"tags": [{"a": ["b"]}]}',
        b'{"deadline_seconds": NaN}',
        b'{"deadline_seconds": 1e400}',
        b'{"deadline_seconds": ' + b"9" * 400 + b"}",
        b'{"deadline_seconds": []}',
        b'{"group": "\\ud800"}',
        b'{"webhook": {"url": "https://receiver.example"}}',
        b'\xef\xbb\xbf{"tags": []}',
        b'{"%b": 1}' % (b"x" * 500_000),
    ],
)
async def test_a_hostile_body_is_400_and_nothing_is_asked(scene: Scene, body: bytes) -> None:
    ref = f"qingbo/{scene.id('hostile')}"
    reply = await scene.call("PUT", path_of(ref), data=body)
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
    assert len(reply.body) < 1000
    assert scene.ledger.of(*ref.split("/")) == 0
    assert await status_of(scene, ref) == "none"


async def test_a_body_that_is_too_large_is_413(scene: Scene) -> None:
    ref = f"qingbo/{scene.id('large')}"
    reply = await scene.call("PUT", path_of(ref), data=BytesIO(b" " * (2 << 20) + b"{}"))
    assert (reply.status, reply.json["code"]) == (413, "too_large")
    assert await status_of(scene, ref) == "none"


async def test_nulls_are_left_out_and_of_a_repeated_key_the_last_counts(scene: Scene) -> None:
    task = scene.id("nulls")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    nulls = dict.fromkeys(("tags", "group", "webhook", "deadline_seconds"))
    assert (await put(scene, ref, nulls)).status == 201
    twice = b'{"tags": ["first-of-two"], "tags": ["second-of-two"]}'
    assert (await scene.call("PUT", path_of(ref), data=twice)).status == 200
    assert await listed(scene, "?tag=first-of-two") == []
    assert await listed(scene, "?tag=second-of-two") == [ref]


@pytest.mark.parametrize("status", [302, 401, 403, 429, 500])
async def test_what_is_wrong_at_the_provider_does_not_undo_it(status: int) -> None:
    """401 is for the bridge's own key: the caller has done nothing wrong."""
    async with stage() as other:
        task = other.id("sick")
        await other.script("qingbo", task, answer({"message": "no"}, status=status))
        reply = await put(other, f"qingbo/{task}", {"tags": ["sick"]})
        assert (reply.status, reply.json["state"]["status"]) == (201, "unknown")
        assert await listed(other, "?tag=sick") == [f"qingbo/{task}"]


async def test_a_deadline_that_has_passed_already_ends_it(scene: Scene) -> None:
    task = scene.id("overdue")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    reply = await put(scene, ref, {"deadline_seconds": 5e-324})
    assert (reply.status, reply.json["state"]["status"]) == (201, "processing")
    await until(lambda: status_of(scene, ref), "lost")
    again = await put(scene, ref, {"deadline_seconds": 3600})
    assert (again.status, again.json["state"]["status"]) == (200, "lost"), "which is final"
    await scene.then("qingbo", task, qingbo_done(task))


async def test_an_open_task_is_not_forgotten_and_its_viewer_goes_on(scene: Scene) -> None:
    task = scene.id("viewed")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        assert (await stream.state())["status"] == "processing"
        reply = await scene.call("DELETE", path_of(ref))
        assert (reply.status, reply.json["code"]) == (409, "conflict")
        await scene.then("qingbo", task, qingbo_done(task))
        assert (await stream.state())["status"] == "completed"
        assert (await scene.call("DELETE", path_of(ref))).status == 204


# Tokens


async def test_who_cannot_read_a_task_neither_tags_nor_forgets_nor_pages_to_it() -> None:
    async with stage(**TOKEN_SETTINGS) as scene:
        everything = bearer("*", scope="read submit cancel")
        task = scene.id("secret")
        ref = await scene.script("qingbo", task, qingbo_done(task))
        words = {"tags": ["of:ann"], "group": "batch"}
        assert (await put(scene, ref, words, headers=everything)).status == 201
        other = await scene.script("qingbo", scene.id("other"), qingbo_done("other"))
        assert (await put(scene, other, {"tags": ["of:ann"]}, headers=everything)).status == 201
        stranger = bearer(scope="read submit cancel", tags=["of:bob"])
        for method, path in (
            ("PUT", path_of(ref)),
            ("DELETE", path_of(ref)),
            ("POST", "/v1/groups/batch/close"),
            ("POST", "/v1/groups/no-such-batch/close"),
        ):
            reply = await scene.call(method, path, headers=stranger)
            assert (reply.status, reply.json["code"]) == (403, "forbidden"), (method, path)
        page = (await scene.call("GET", "/v1/tasks?limit=1", headers=everything)).json
        for query in (
            "",
            f"&before={page['next']}",
            "&tag=of:ann",
            "&group=batch",
            "&tag=of:ann&group=batch",
        ):
            reply = await scene.call("GET", f"/v1/tasks?limit=9{query}", headers=stranger)
            assert (reply.status, reply.json) == (200, {"tasks": [], "next": None}), query
        reader = bearer("qingbo/*", scope="read")
        for method, path in (("PUT", path_of(ref)), ("POST", "/v1/groups/batch/close")):
            assert (await scene.call(method, path, headers=reader)).status == 403


# `auth = "upstream-key"`


async def test_with_a_callers_key_it_is_new_once_and_a_strangers_is_missing(keyed: House) -> None:
    ann, bob = keyed.tenant(), keyed.tenant()
    ref = ann.put("mine")
    first = await keyed.call(ann, path_of(ref), "PUT", json={"tags": ["mine"]})
    assert (first.status, first.json["kept"]) == (201, "while_key_known")
    assert first.headers["Location"] == path_of(ref)
    assert (await keyed.call(ann, path_of(ref), "PUT", json={"tags": ["mine"]})).status == 200
    for method in ("PUT", "DELETE"):
        reply = await keyed.call(bob, path_of(ref), method)
        assert (reply.status, reply.json["code"]) == (404, "task_not_found")
    assert [one["task"] for one in (await keyed.call(ann, "/v1/tasks?tag=mine")).json["tasks"]] == [ref]
    assert (await keyed.call(bob, "/v1/tasks?tag=mine")).json["tasks"] == []


async def test_with_a_callers_key_only_a_group_with_a_task_is_closed(keyed: House) -> None:
    ann, stranger = keyed.tenant(), keyed.tenant()
    assert (await keyed.call(ann, path_of(ann.put("of-g")), "PUT", json={"group": "g"})).status == 201
    for key, group in ((ann, "without-tasks"), (stranger, "g"), (stranger, "made-up")):
        reply = await keyed.call(key, f"/v1/groups/{group}/close", "POST")
        assert (reply.status, reply.json["code"]) == (403, "forbidden"), group
    assert (await keyed.call(ann, "/v1/groups/g/close", "POST")).json["closed"]


async def test_with_a_callers_key_nothing_is_registered_that_the_provider_does_not_confirm(
    keyed: House, tenants: TenantProvider
) -> None:
    ann = keyed.tenant()
    ref = ann.put("unproven")
    tenants.down = True
    try:
        reply = await keyed.call(ann, path_of(ref), "PUT", json={"tags": ["unproven"]})
    finally:
        tenants.down = False
    assert reply.status in {503, 504}
    assert reply.json["retriable"]
    assert (await keyed.call(ann, "/v1/tasks?tag=unproven")).json["tasks"] == []
    bob = keyed.tenant()
    bob.refused = 401
    reply = await keyed.call(bob, path_of(bob.put("refused")), "PUT", json={})
    assert (reply.status, reply.json["code"]) == (401, "unauthenticated")


async def test_with_a_callers_key_a_lost_task_can_be_forgotten(tenants: TenantProvider) -> None:
    """The provider is asked first, and shows it no longer: that is why it is lost."""
    async with house(tenants, first_state_timeout_seconds=2.0, ownership_cache_seconds=0.1) as keyed:
        ann, bob = keyed.tenant(), tenants.tenant("bob-of-lost")
        ref = ann.put("lost")
        assert (await keyed.call(ann, path_of(ref), "PUT", json={"deadline_seconds": 0.1})).status == 201

        async def status() -> str:
            return str((await keyed.call(ann, path_of(ref))).json.get("status"))

        await until(status, "lost")
        ann.tasks.clear()
        async with asyncio.timeout(PATIENCE):
            assert (await keyed.call(bob, path_of(ref), "DELETE")).status == 404
            while (reply := await keyed.call(ann, path_of(ref), "DELETE")).status == 504:
                assert reply.json["retriable"]
        assert reply.status == 204, reply.body
        missing = await keyed.call(ann, path_of(ref), "DELETE")
        assert (missing.status, missing.json["code"]) == (404, "task_not_found")


# A shared engine


@pytest.fixture
async def three() -> AsyncIterator[Fleet]:
    async with fleet(3) as made:
        yield made


async def test_without_the_engine_nothing_is_registered_also_not_later(three: Fleet) -> None:
    scene, other, _ = three
    task = scene.id("away")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    for one in three.served:
        one.access.cut = True
    refused = None
    async with asyncio.timeout(PATIENCE):
        while refused is None or refused.status != 503:
            # Until the bridge has noticed, the answer itself is missing.
            refused = await put(scene, f"qingbo/{scene.id('nothing')}", {"tags": ["away"]})
            assert refused.status in {503, 404}, refused.body
        refused = await put(scene, ref, {"tags": ["away"]})
    assert (refused.status, refused.json["retriable"]) == (503, True)
    for one in three.served:
        one.access.cut = False

    async def registered() -> bool:
        return (await put(scene, ref, {"tags": ["back"]})).status == 201

    await until(registered, True)  # not 200: nothing had been recorded
    assert await listed(other, "?tag=back") == [ref]
    assert await listed(other, "?tag=away") == []

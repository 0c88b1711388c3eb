"""`Idempotency-Key` of different callers, and what a repeat costs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.e2e.scene import Reply, Scene, stage
from tests.e2e.test_idempotency import BODY, created, replayed, submit
from tests.e2e.test_upstream_keys import house
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.fakes.tenants import tenant_provider

pytestmark = pytest.mark.anyio

PATH = "/v1/tasks/qingbo"
SCOPES = "read submit cancel"
LONG = "s" * 300


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(**TOKEN_SETTINGS, max_submits_per_minute_per_caller=4, sync_wait_seconds=1.0) as made:
        yield made


def of(subject: str, **more: Any) -> str:
    return bearer("*", scope=SCOPES, sub=subject, **more)["Authorization"]


async def as_(scene: Scene, subject: str, key: str, body: Any = BODY, path: str = PATH) -> Reply:
    return await submit(scene, path, key, body, Authorization=of(subject))


async def test_a_key_is_of_the_subject_of_the_token(scene: Scene) -> None:
    before = created(scene)
    ann = await as_(scene, "ann-1", "same")
    bob = await as_(scene, "bob-1", "same")
    assert (ann.status, bob.status) == (201, 201)
    assert not replayed(bob)
    assert ann.json["state"]["task"] != bob.json["state"]["task"]
    other = await as_(scene, "eve-1", "same", BODY | {"prompt": "y"})  # it does not block hers
    assert other.status == 201
    assert (await as_(scene, "ann-1", "same", BODY | {"prompt": "y"})).status == 422
    # Another token of the same subject.
    again = await submit(scene, PATH, "same", BODY, Authorization=of("ann-1", seconds=1000.0))
    assert (again.status, again.body) == (201, ann.body)
    assert created(scene) == before + 3


async def test_subjects_of_any_length_are_told_apart(scene: Scene) -> None:
    before = created(scene)
    assert not replayed(await as_(scene, LONG + "a", "same"))
    assert not replayed(await as_(scene, LONG + "b", "same"))
    assert replayed(await as_(scene, LONG + "a", "same"))
    assert created(scene) == before + 2


async def test_a_repeat_takes_nothing_of_the_limits_and_what_they_refuse_frees_the_key(scene: Scene) -> None:
    before = created(scene)
    first = await as_(scene, "carl", "first")
    for _ in range(10):
        assert (await as_(scene, "carl", "first")).body == first.body
        assert (await as_(scene, "carl", "first", BODY | {"prompt": "y"})).status == 422
    for number in range(3):
        assert (await as_(scene, "carl", f"more-{number}")).status == 201
    refused = [await as_(scene, "carl", "above", BODY | {"prompt": str(n)}) for n in range(2)]
    assert [reply.status for reply in refused] == [429, 429]
    assert (await as_(scene, "carl", "first")).body == first.body
    assert created(scene) == before + 4


async def test_without_the_scope_a_repeat_is_refused(scene: Scene) -> None:
    assert (await as_(scene, "dora", "scoped")).status == 201
    reader = bearer("*", scope="read", sub="dora")["Authorization"]
    assert (await submit(scene, PATH, "scoped", BODY, Authorization=reader)).status == 403


async def test_a_key_is_of_the_account_with_the_callers_own_keys() -> None:
    async with tenant_provider() as provider, house(provider) as place:
        ann, bob = place.tenant(), place.tenant()
        more = {"data": orjson.dumps({"prompt": "x"}), "headers": {"Idempotency-Key": "same"}}
        for path in (PATH, "/proxy/qingbo/v1/tasks"):
            replies = [await place.call(who, path, "POST", **more) for who in (ann, bob, ann)]
            if path != PATH:
                assert {reply.status for reply in replies} == {422}
                continue
            assert [reply.status for reply in replies] == [201, 201, 201]
            assert [replayed(reply) for reply in replies] == [False, False, True]
            assert ann.mark in replies[2].body.decode()
            assert bob.mark not in replies[2].body.decode()
        assert (len(ann.submitted), len(bob.submitted)) == (1, 1)
        stranger = await place.call(None, PATH, "POST", **more)
        assert stranger.status == 401


async def test_a_repeat_of_a_sync_call_waits_for_the_same_task(scene: Scene) -> None:
    before = created(scene)
    path = "/proxy/qingbo/v1/tasks/sync"
    body = BODY | {"sim": {"queue_seconds": 0, "run_seconds": 5, "outcome": "completed"}}
    unfinished = await as_(scene, "sync", "waits", body, path)
    assert unfinished.status == 200, unfinished.body
    task = unfinished.json["task_id"]
    waiting = asyncio.ensure_future(as_(scene, "sync", "waits", body, path))
    await asyncio.sleep(0.1)
    scene.advance(6)
    finished = await waiting
    assert replayed(finished)
    assert (finished.json["task_id"], finished.json["status"]) == (task, "completed")
    assert (await as_(scene, "sync", "waits", body, path)).body == finished.body
    assert created(scene) == before + 1

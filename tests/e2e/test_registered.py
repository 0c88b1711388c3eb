"""Tasks that were submitted elsewhere: registered, listed, watched to their end, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.scene import Reply, Scene, path_of, stage, until
from tests.harness import answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def put(scene: Scene, ref: str, body: Any = None, **more: Any) -> Reply:
    return await scene.call("PUT", path_of(ref), **({} if body is None else {"json": body}), **more)


async def listed(scene: Scene, query: str = "") -> list[str]:
    reply = await scene.get(f"/v1/tasks{query}")
    assert reply.status == 200, reply.body
    return [state["task"] for state in reply.json["tasks"]]


async def status_of(scene: Scene, ref: str) -> str:
    for state in (await scene.get("/v1/tasks?limit=200")).json["tasks"]:
        if state["task"] == ref:
            return str(state["status"])
    return "none"


async def test_a_registered_task_is_watched_to_its_end_without_a_viewer(scene: Scene) -> None:
    task = scene.id("elsewhere")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    reply = await put(scene, ref, {"tags": ["user-7", "user-7", "a:b"], "group": "nightly"})
    assert reply.status == 201
    assert reply.json["state"]["status"] == "processing"
    assert reply.json["kept"] == "until_final"
    assert reply.json["links"]["self"] == path_of(ref) == reply.headers["Location"]
    assert "tags" not in reply.json["state"]
    await scene.then("qingbo", task, qingbo_done(task))
    await until(lambda: status_of(scene, ref), "completed")
    assert await listed(scene, "?tag=user-7") == [ref]
    assert await listed(scene, "?group=nightly&tag=a:b") == [ref]
    assert await listed(scene, "?tag=other") == []


async def test_again_replaces_the_words_and_a_final_task_too(scene: Scene) -> None:
    task = scene.id("twice")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    assert (await put(scene, ref, {"tags": ["first"], "group": "g1"})).status == 201
    again = await put(scene, ref, {"tags": ["second"]})
    assert (again.status, again.json["state"]["status"]) == (200, "processing")
    assert await listed(scene, "?tag=first") == await listed(scene, "?group=g1") == []
    assert await listed(scene, "?tag=second") == [ref]
    await scene.then("qingbo", task, qingbo_done(task))
    await until(lambda: status_of(scene, ref), "completed")
    last = await put(scene, ref, {"tags": ["third"]})
    assert (last.status, last.json["state"]["status"]) == (200, "completed")
    assert await listed(scene, "?tag=third") == [ref]
    assert await listed(scene, "?tag=second") == []


async def test_unknown_at_the_provider_is_404_after_two_polls_and_nothing_is_left(scene: Scene) -> None:
    ref = f"qingbo/{scene.id('nowhere')}"
    reply = await put(scene, ref, {"tags": ["lost-cause"]})
    assert (reply.status, reply.json["code"]) == (404, "task_not_found")
    assert await listed(scene, "?tag=lost-cause") == []
    assert await status_of(scene, ref) == "none"
    assert scene.ledger.of("qingbo", ref.partition("/")[2]) >= 2


async def test_a_task_that_was_not_found_a_moment_ago_is_asked_for_again(scene: Scene) -> None:
    task = scene.id("late")
    ref = f"qingbo/{task}"
    assert (await scene.get(path_of(ref))).status in {200, 404}
    await until(lambda: status_code(scene, ref), 404)
    await scene.script("qingbo", task, qingbo(task, "processing", 10))
    assert (await scene.get(path_of(ref))).status == 404  # believed for a minute
    reply = await put(scene, ref)
    assert (reply.status, reply.json["state"]["status"]) == (201, "processing")


async def status_code(scene: Scene, ref: str) -> int:
    return (await scene.get(path_of(ref))).status


async def test_a_viewer_that_watches_already_goes_on(scene: Scene) -> None:
    task = scene.id("watched")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        assert (await stream.state())["status"] == "processing"
        reply = await put(scene, ref, {"tags": ["w"]})
        assert (reply.status, reply.json["state"]["status"]) == (200, "processing")
        await scene.then("qingbo", task, qingbo_done(task))
        assert (await stream.state())["status"] == "completed"


async def test_several_at_once_register_it_once(scene: Scene) -> None:
    task = scene.id("crowd")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    replies = await asyncio.gather(*(put(scene, ref, {"tags": [f"t{n}"]}) for n in range(20)))
    assert sorted(reply.status for reply in replies) == [200] * 19 + [201]
    assert (await listed(scene)).count(ref) == 1


async def test_a_deadline_of_its_own(scene: Scene) -> None:
    task = scene.id("slow")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    assert (await put(scene, ref, {"deadline_seconds": 0.5})).status == 201
    await until(lambda: status_of(scene, ref), "lost")
    state = (await scene.get(path_of(ref))).json
    assert state["error"]["code"] == "deadline"


@pytest.mark.parametrize(
    "body",
    [
        {"tags": "a"},
        {"tags": ["a b"]},
        {"tags": [""]},
        {"tags": ["ü"]},
        {"tags": ["a%20"]},
        {"tags": [f"t{n}" for n in range(17)]},
        {"tags": ["x" * 65]},
        {"tags": [1]},
        {"group": ""},
        {"group": ["g"]},
        {"group": "a/b"},
        {"deadline_seconds": 0},
        {"deadline_seconds": -1},
        {"deadline_seconds": True},
        {"deadline_seconds": "60"},
        {"deadline_seconds": 1e9},
        {"webhook": 1},
        {"webhook": "not a url"},
        {"tag": ["a"]},
        [],
        "x",
    ],
)
async def test_malformed_registrations(scene: Scene, body: Any) -> None:
    ref = f"qingbo/{scene.id('bad')}"
    reply = await put(scene, ref, body)
    assert (reply.status, reply.json["code"]) == (400, "invalid_request"), reply.body
    assert scene.ledger.of("qingbo", ref.partition("/")[2]) == 0


async def test_an_empty_body_and_an_unknown_upstream(scene: Scene) -> None:
    task = scene.id("empty")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    assert (await scene.call("PUT", path_of(ref), data=b"")).status == 201
    assert (await scene.call("PUT", path_of(ref), data=b" \n")).status == 200
    assert (await put(scene, "nobody/x")).json["code"] == "upstream_not_found"


async def test_a_provider_that_does_not_answer_in_time(scene: Scene) -> None:
    task = scene.id("mute")
    ref = await scene.script("qingbo", task, answer({"message": "down"}, status=500))
    reply = await put(scene, ref, {"tags": ["mute"]})
    assert (reply.status, reply.json["state"]["status"]) == (201, "unknown")
    assert await listed(scene, "?tag=mute") == [ref]
    await scene.then("qingbo", task, qingbo_done(task))
    await until(lambda: status_of(scene, ref), "completed")


async def test_many_at_once_are_answered_in_time() -> None:
    each = {"requests_per_second": 40, "poll_min_seconds": 0.05, "poll_max_seconds": 0.2}
    async with stage(first_state_timeout_seconds=0.5, each=each) as scene:
        refs = []
        for number in range(80):
            task = f"many-{number}"
            refs.append(await scene.script("qingbo", task, qingbo_done(task)))
        replies = await asyncio.gather(*(put(scene, ref, {"group": "all"}) for ref in refs))
        assert {reply.status for reply in replies} == {201}
        assert {reply.json["state"]["status"] for reply in replies} <= {"unknown", "completed"}

        async def left() -> int:
            return len(await listed(scene, "?group=all&status=open&limit=200"))

        await until(left, 0)


async def test_forgetting(scene: Scene) -> None:
    task = scene.id("gone")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    assert (await scene.call("DELETE", path_of(ref))).json["code"] == "task_not_found"
    await put(scene, ref, {"tags": ["doomed"]})
    busy = await scene.call("DELETE", path_of(ref))
    assert (busy.status, busy.json["code"]) == (409, "conflict")
    await scene.then("qingbo", task, qingbo_done(task))
    await until(lambda: status_of(scene, ref), "completed")
    done = await scene.call("DELETE", path_of(ref))
    assert (done.status, done.body) == (204, b"")
    assert await listed(scene, "?tag=doomed") == []
    assert await status_of(scene, ref) == "none"
    before = scene.ledger.of("qingbo", task)
    assert (await scene.get(path_of(ref))).json["status"] == "completed"
    assert scene.ledger.of("qingbo", task) > before
    assert (await scene.call("DELETE", path_of(ref))).status == 204


async def test_forgetting_a_lost_task_ends_its_watch(scene: Scene) -> None:
    task = scene.id("lost")
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    await put(scene, ref, {"deadline_seconds": 0.2})
    await until(lambda: status_of(scene, ref), "lost")
    assert (await scene.call("DELETE", path_of(ref))).status == 204
    assert await status_of(scene, ref) == "none"


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=1000000000",
        "limit=%D9%A1",
        "limit=abc",
        "limit=1.0",
        "limit=1&limit=2",
        "limit=",
        "before=",
        "before=garbage",
        "before=abc-17",
        "before=..%2F..",
        "status=done",
        "status=",
        "tag=",
        "tag=a%20b",
        "tag=a&tag=b",
        "group=%00",
        "stauts=open",
        "include=raw",
    ],
)
async def test_malformed_lists(scene: Scene, query: str) -> None:
    reply = await scene.get(f"/v1/tasks?{query}")
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")


async def test_a_page_that_begins_where_none_did_shows_nothing_else(scene: Scene) -> None:
    """`before` is a place, not a right: cut, of another list, or from the future."""
    refs = []
    for provider in ("qingbo", "vapi", "qingbo"):
        task = scene.id("place")
        refs.append(await scene.script(provider, task, qingbo_done(task)))
        await put(scene, refs[-1], {"tags": ["place"], "group": "place"})
    token = (await scene.get("/v1/tasks?tag=place&limit=1")).json["next"]
    epoch, _, place = token.partition("-")
    assert await listed(scene, f"?tag=place&group=place&before={token}") == refs[1::-1]
    assert await listed(scene, f"?upstream=qingbo&tag=place&before={token}") == refs[:1]
    assert await listed(scene, f"?tag=place&before={epoch}-{2**53 - 1}") == refs[::-1]
    assert await listed(scene, f"?tag=place&before={epoch}-1") == []
    for cut in (epoch, f"{epoch}-", token[len(epoch) :], f"{epoch}-0", f"{epoch}-{place}~p1", f"{token}%00"):
        reply = await scene.get(f"/v1/tasks?before={cut}")
        assert (reply.status, reply.json["code"]) == (400, "invalid_request"), cut


async def test_pages_skip_and_repeat_nothing_while_tasks_arrive_change_and_go(scene: Scene) -> None:
    refs = []
    for _ in range(6):
        task = scene.id("moving")
        refs.append(await scene.script("qingbo", task, qingbo(task, "processing", 10)))
        await put(scene, refs[-1], {"tags": ["moving"]})
    seen, query = [], "?tag=moving&limit=2"
    while query:
        page = (await scene.get(f"/v1/tasks{query}")).json
        seen += [state["task"] for state in page["tasks"]]
        query = f"?tag=moving&limit=2&before={page['next']}" if page["next"] else ""
        # One arrives, and one that was listed before ends and is forgotten.
        task = scene.id("moving")
        await put(scene, await scene.script("qingbo", task, qingbo_done(task)), {"tags": ["moving"]})
        gone = page["tasks"][0]["task"] if page["tasks"] else None
        if gone is not None:
            await scene.then("qingbo", gone.partition("/")[2], qingbo_done(gone.partition("/")[2]))
            await until(lambda gone=gone: status_of(scene, gone), "completed")  # type: ignore[misc]
            assert (await scene.call("DELETE", path_of(gone))).status == 204
    assert seen == refs[::-1]


async def test_pages_of_a_list(scene: Scene) -> None:
    refs = []
    for _ in range(7):
        task = scene.id("page")
        refs.append(await scene.script("vapi" if len(refs) % 2 else "qingbo", task, qingbo_done(task)))
        await put(scene, refs[-1], {"tags": ["paged"]})
    seen, query = [], "?tag=paged&limit=3"
    for _ in range(3):
        reply = await scene.get(f"/v1/tasks{query}")
        assert reply.headers["Cache-Control"] == "no-store"
        seen.append([state["task"] for state in reply.json["tasks"]])
        query = f"?tag=paged&limit=3&before={reply.json['next']}"
    assert [ref for page in seen for ref in page] == refs[::-1]
    assert [len(page) for page in seen] == [3, 3, 1]
    assert reply.json["next"] is None
    assert (await scene.call("HEAD", "/v1/tasks")).status == 200
    assert await listed(scene, "?tag=paged&upstream=qingbo") == [r for r in refs[::-1] if "qingbo" in r]

"""Followers of tags and groups while bridges, workers or the engine fail: each end and `group_done` once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.followers import Follower, answered, has_state, submit
from tests.harness import PATIENCE
from tests.webhooks.places import Place, descendants, place

pytestmark = [pytest.mark.anyio, pytest.mark.extended]
WORDS = {"X-Task-Group": "g", "X-Task-Tags": "t"}


async def followed(at: Place, refs: Sequence[str], *sites: int) -> list[Follower]:
    """A follower of the group and one of the tag at each of these bridges, with the states of some tasks."""
    followers = [Follower(at, site, query, again=True) for site in sites for query in ("group=g", "tag=t")]
    for one in followers:
        for ref in refs:
            await one.until(has_state(ref))
    return followers


async def closed(at: Place, site: int) -> None:
    status, said = await answered(at, "POST", "/v1/groups/g/close", site)
    assert (status, said["closed"]) == (200, True), said


async def ended_once(followers: Sequence[Follower], refs: Sequence[str]) -> None:
    """Wait for the ends of these tasks, and of the group; every one of them came once, and no other."""
    for one in followers:
        await one.until(lambda _, one=one: one.ends().keys() >= set(refs))
    for one in followers[::2]:
        await asyncio.wait_for(one.reading, PATIENCE)
        assert [said["group"] for said in one.named("group_done")] == ["g"], one.events
    for one in followers[1::2]:
        assert not one.reading.done(), "a tag never ends"
        one.reading.cancel()
    for one in followers:
        assert one.ends() == dict.fromkeys(refs, 1), one.events


async def test_a_group_whose_owner_is_killed_is_done_once(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        refs = [await submit(at, 0, **WORDS) for _ in range(4)]
        followers = await followed(at, refs, 1, 2)
        await closed(at, 2)
        at.move(refs[0], "completed")
        await at.kill(at.sites[0].pid)
        for ref in refs[1:]:
            at.move(ref, "completed")
        await ended_once(followers, refs)
        assert all(one.named("group_done")[0]["counts"] == {"completed": 4} for one in followers[::2])


async def test_ends_while_the_engine_is_paused_come_once(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        assert at.engine is not None
        refs = [await submit(at, site, **WORDS) for site in (0, 1, 2)]
        followers = await followed(at, refs, 0, 1, 2)
        await closed(at, 0)
        at.engine.pause()
        try:
            for ref in refs[:2]:
                at.move(ref, "completed")
            # Each owner shows what it sees when it has tried the engine in vain.
            await followers[0].until(lambda _: followers[0].ends() != {})
        finally:
            at.engine.go_on()
        at.move(refs[2], "completed")
        await ended_once(followers, refs)


async def test_ends_after_the_engine_began_empty_come_once(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        assert at.engine is not None
        refs = [await submit(at, site, **WORDS) for site in (0, 1, 2)]
        followers = await followed(at, refs, 0, 1, 2)
        at.move(refs[0], "completed")
        for one in followers:
            await one.until(lambda _, one=one: one.ends() != {})
        await at.engine.kill()
        at.engine.forget()
        await at.engine.start()
        for site in at.sites:
            await at.shows(refs[1], "queued", site.url)
        back = [Follower(at, 1, query, again=True) for query in ("group=g", "tag=t")]
        for one in back:
            for ref in refs[1:]:
                await one.until(has_state(ref))
            one.reading.cancel()
        await closed(at, 1)
        for ref in refs[1:]:
            at.move(ref, "completed")
        await ended_once(followers, refs)


async def test_who_comes_again_at_another_bridge_is_sent_what_is_missing(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        refs = [await submit(at, site, **WORDS) for site in (0, 1, 2)]
        followers = await followed(at, refs, 0)
        at.move(refs[0], "completed")
        for one in followers:
            await one.until(lambda _, one=one: one.ends() == {refs[0]: 1})
            one.reading.cancel()
        at.move(refs[1], "completed")
        await at.shows(refs[1], "completed", at.sites[2].url)
        # Tagged meanwhile, also while the engine is away: then it is not, and the caller is told.
        url, words = f"/v1/tasks/{await submit(at, 1)}", {"tags": ["t"], "group": "g"}
        at.fleet.refuse(*at.fleet.replicas)
        status, _ = await at.api("PUT", url, at.sites[2].url, json=words)
        assert status == 503
        await at.fleet.heal(*at.fleet.replicas)
        assert (await answered(at, "PUT", url, 2, json=words))[0] == 200
        late = url.removeprefix("/v1/tasks/")
        again = [
            Follower(at, 1, query, before.last_id, again=True)
            for query, before in zip(("group=g", "tag=t"), followers, strict=True)
        ]
        for one in again:
            await one.until(has_state(late))
        await closed(at, 2)
        for ref in (refs[2], late):
            at.move(ref, "completed")
        await ended_once(again, [refs[1], refs[2], late])


async def test_a_task_that_is_deleted_and_begins_again_is_followed_again(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        first = await submit(at, 0, **WORDS)
        followers = await followed(at, [first], 0, 2)
        at.move(first, "completed")
        for one in followers:
            await one.until(lambda _, one=one: one.ends() == {first: 1})
        assert (await answered(at, "DELETE", f"/v1/tasks/{first}", 1))[0] == 204
        again = {"id": first.partition("/")[2], "headers": WORDS}
        status, said = await at.submit(at.sites[1].url, **again)
        assert (status, said["state"]["task"]) == (201, first)
        for one in followers:
            await one.until(lambda events: events[-1][0] == "" and events[-1][1]["status"] == "queued")
        await closed(at, 0)
        at.move(first, "completed")
        for one in followers:
            await one.until(lambda _, one=one: one.ends() == {first: 2})
        for one in followers[::2]:
            await asyncio.wait_for(one.reading, PATIENCE)
            assert one.named("group_done") == [{"group": "g", "counts": {"completed": 1}}]
        for one in followers[1::2]:
            one.reading.cancel()


async def test_registered_at_a_bridge_that_is_killed_and_unknown_to_the_provider(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        (ref,) = [await submit(at, 1, **WORDS)]
        followers = await followed(at, [ref], 2)
        unknown = "/v1/tasks/qingbo/nobody-knows-it"
        at.provider.broken.add("nobody-knows-it")
        status, said = await answered(at, "PUT", unknown, 0, json={"tags": ["t"], "group": "g"})
        assert status == 201, said
        await at.kill(at.sites[0].pid)
        at.provider.broken.clear()
        await closed(at, 1)
        at.move(ref, "completed")
        # Another bridge asks twice, and deletes it: then nothing is left that the group waits for.
        await ended_once(followers, [ref])
        for site in at.sites[1:]:
            _, said = await at.api("GET", "/v1/tasks?tag=t", site.url)
            assert [one["task"] for one in said["tasks"]] == [ref]


async def test_followers_of_a_killed_worker_come_again(tmp_path: Path) -> None:
    async with place("workers", tmp_path) as at:
        refs = [await submit(at, 0, **WORDS) for _ in range(4)]
        followers = await followed(at, refs, 0, 0, 0, 0)
        at.move(refs[0], "completed")
        for one in followers:
            await one.until(lambda _, one=one: one.ends() == {refs[0]: 1})
        await closed(at, 0)
        os.kill(descendants(at.sites[0].pid)[0], signal.SIGKILL)
        for ref in refs[1:]:
            at.move(ref, "completed")
        await ended_once(followers, refs)

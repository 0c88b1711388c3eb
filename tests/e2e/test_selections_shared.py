"""Tags and groups over three bridges on one engine, and over workers: whatever one does, the others know."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.e2e.followers import Follower, has_state, submit
from tests.harness import PATIENCE
from tests.webhooks.places import Kind, place

pytestmark = [pytest.mark.anyio, pytest.mark.extended]
KINDS: list[Kind] = ["three", "workers"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_group_is_followed_and_closed_at_different_bridges(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        followers = [Follower(at, site, "group=g") for site in range(3)]
        for one in followers:
            await one.opened()
        refs = [await submit(at, site, **{"X-Task-Group": "g"}) for site in (0, 1, 2, 0)]
        for one in followers:
            for ref in refs:
                await one.until(has_state(ref))
        at.move(refs[0], "completed", 100)
        url = f"{at.sites[1 % len(at.sites)].url}/v1/groups/g/close"
        status, said = await at.api("POST", "", at=url)
        assert (status, said["closed"]) == (200, True), said
        for site in range(3):
            status, said = await at.submit(at.sites[site % len(at.sites)].url, headers={"X-Task-Group": "g"})
            assert status == 409, said
        assert not any(name == "group_done" for one in followers for name, _ in one.events)
        for ref in refs[1:]:
            at.move(ref, "completed", 100)
        for one in followers:
            await asyncio.wait_for(one.reading, PATIENCE)
            done = [said for name, said in one.events if name == "group_done"]
            assert done == [{"group": "g", "counts": {"completed": 4}}], one.events
            assert [name for name, _ in one.events[-2:]] == ["group_done", "end"]
            assert one.ends() == dict.fromkeys(refs, 1)
        # Who has read the end is told at any bridge that there is no more.
        again = Follower(at, 2, "group=g", followers[0].last_id)
        await asyncio.wait_for(again.reading, PATIENCE)
        assert again.status == 204
        late = Follower(at, 1, "group=g")
        await asyncio.wait_for(late.reading, PATIENCE)
        assert [said for name, said in late.events if name == "group_done"] == [
            {"group": "g", "counts": {"completed": 4}}
        ]


@pytest.mark.parametrize("kind", KINDS)
async def test_registered_at_one_that_is_killed_and_tagged_later_at_another(
    kind: Kind, tmp_path: Path
) -> None:
    async with place(kind, tmp_path) as at:
        ref = await submit(at, 0)
        upstream, task_id = ref.split("/")
        follower = Follower(at, 2, "tag=late")
        await follower.opened()
        status, said = await at.api(
            "PUT", f"/v1/tasks/{upstream}/{task_id}", at.sites[0].url, json={"tags": ["late"]}
        )
        assert status == 200, said
        if kind == "three":
            await at.kill(at.sites[0].pid)
        else:
            await at.sites[0].end(signal.SIGKILL)
            await at.sites[0].start()
            follower = Follower(at, 0, "tag=late")
        await follower.until(has_state(ref))
        at.move(ref, "completed", 100)
        await follower.until(lambda events: any(name == "done" for name, _ in events))
        assert not follower.reading.done()  # a tag never ends
        for site in at.sites[-2:]:  # the first of three stays dead
            status, said = await at.api("GET", "/v1/tasks?tag=late", site.url)
            assert [one["task"] for one in said["tasks"]] == [ref], said
        status, _ = await at.api("DELETE", f"/v1/tasks/{upstream}/{task_id}", at.sites[-1].url)
        assert status == 204
        for site in at.sites[-2:]:  # the first of three stays dead
            status, said = await at.api("GET", "/v1/tasks?tag=late", site.url)
            assert said["tasks"] == [], said
        follower.reading.cancel()


async def test_no_group_is_added_to_while_the_engine_is_away(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        first = await submit(at, 0, **{"X-Task-Group": "g", "X-Task-Tags": "t"})
        follower = Follower(at, 1, "tag=t")
        await follower.until(has_state(first))
        assert at.engine is not None
        creates = len(at.provider.creates)
        await at.engine.kill()
        status, said = await at.submit(at.sites[0].url, headers={"X-Task-Group": "g"})
        assert status == 503, said
        status, said = await at.api("GET", "/v1/tasks?group=g", at.sites[2].url)
        assert status == 503, said
        assert len(at.provider.creates) == creates
        await at.engine.start()
        async with asyncio.timeout(PATIENCE):
            answer = await at.submit(at.sites[0].url, headers={"X-Task-Tags": "t"})
            while answer[0] != 201:
                await asyncio.sleep(0.1)
                answer = await at.submit(at.sites[0].url, headers={"X-Task-Tags": "t"})
        second = answer[1]["state"]["task"]
        assert not follower.reading.done()
        await follower.until(has_state(second))
        for ref in (first, second):
            at.move(ref, "completed", 100)
        await follower.until(lambda _: follower.ends().keys() == {first, second})
        follower.reading.cancel()

"""The estimate in every copy: the same moment everywhere, and the time left until it counted at each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.clock import SystemClock
from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.wire.document import timestamp
from tests.e2e.fleet import Fleet, fleet
from tests.e2e.scene import Scene, path_of, until
from tests.harness import answer

pytestmark = pytest.mark.anyio

# One poll, the first: what is said between two polls is what is looked at here.
ONE_POLL = {"poll_min_seconds": 60, "poll_max_seconds": 120}
SECONDS = 300.0


class Wall(SystemClock):
    """The clock on the wall, which a test sets forward."""

    ahead = 0.0

    def time(self) -> float:
        """That much ahead."""
        return super().time() + Wall.ahead


@pytest.fixture
async def found(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr(Wall, "ahead", 0.0)
    monkeypatch.setattr("bridge.app.bridge.SystemClock", Wall)
    async with fleet(3, each=ONE_POLL, first_state_timeout_seconds=2) as made:
        yield made


async def estimated(scene: Scene) -> str:
    """A task of which the provider says how long it takes."""
    task = scene.id("left")
    document = {"task_id": task, "status": "running", "estimated_seconds": SECONDS}
    return await scene.script("bytespike", task, answer(document))


def left(document: dict[str, Any]) -> float:
    """Seconds until the moment in a document, now."""
    return datetime.fromisoformat(document["eta_at"]).timestamp() - Wall().time()


async def copies(scene: Scene, ref: str) -> dict[str, dict[str, Any]]:
    """The state as everyone who comes now gets it first."""
    told: dict[str, dict[str, Any]] = {"get": (await scene.get(path_of(ref))).json}
    for name, query in (("sse", ""), ("replayed", "?history=1")):
        async with scene.events(ref, query) as stream:
            told[name] = await stream.state()
    url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={ref}"
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(url, protocols=["bridge.v1.json"]) as socket,
    ):
        async for message in socket:
            body = orjson.loads(message.data)
            if body["type"] == "state":
                told["websocket"] = body["state"]
                break
    await until(lambda: _is_listed_anew(scene, ref, told), True)
    return told


async def _is_listed_anew(scene: Scene, ref: str, told: dict[str, dict[str, Any]]) -> bool:
    """Whether the rows, which all callers of a second share, were written since the wall clock was set."""
    listing = (await scene.get("/inspector/tasks")).json
    row = told["inspector"] = next(row for row in listing["tasks"] if row["task"] == ref)
    shown = row["eta_seconds"] or 0.0
    return abs(shown - max(left(row), 0.0)) <= 1.1


async def test_every_copy_counts_down_to_the_same_moment(found: Fleet) -> None:
    (scene, *_) = found
    ref = await estimated(scene)
    first = (await scene.get(path_of(ref))).json
    assert 0 < first["eta_seconds"] <= SECONDS
    assert first["eta_at"] <= first["eta_by"]
    for Wall.ahead in (0.0, 15.0, 40.0):
        for name, copy in (await copies(scene, ref)).items():
            assert copy["eta_at"] == first["eta_at"], name
            assert copy["eta_by"] == first["eta_by"], name
            # Shared for a second at most.
            assert left(copy) - 0.1 <= copy["eta_seconds"] <= left(copy) + 1.1, name
    Wall.ahead += left(first) + 1.0
    for name, copy in (await copies(scene, ref)).items():
        assert (copy["eta_seconds"], copy["eta_at"]) == (None, first["eta_at"]), name
    assert sum(await found.polls(ref)) == 1


async def test_a_known_state_is_304_although_the_time_goes_on(
    found: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene, *_) = found
    # Time passes, no clock is set: the moment of the next poll stays where it was.
    monkeypatch.setattr(Wall, "monotonic", lambda self: SystemClock.monotonic() + Wall.ahead)
    ref = await estimated(scene)
    first = await scene.get(path_of(ref))
    listed = await scene.get("/inspector/tasks")
    Wall.ahead += 5
    again = await scene.get(path_of(ref), If_None_Match=first.headers["ETag"])
    assert (again.status, again.headers["ETag"]) == (304, first.headers["ETag"])
    later = await scene.get("/inspector/tasks", If_None_Match=listed.headers["ETag"])
    assert later.status == 304


async def test_a_poll_without_a_change_moves_the_moment_at_every_bridge(found: Fleet) -> None:
    a, b, c = found
    ref = await estimated(a)
    for scene in (a, b):
        await scene.get(path_of(ref))
    owner = found.served[found.scenes.index(found.owner(ref) or a)]
    parts: Any = owner.bridge._parts
    now = Wall().time()
    # What its next poll would report.
    newest = Confirmation(now, now + 77.0, now + 99.0)
    parts.journal.confirm(TaskKey.parse(ref), newest)

    async def moments(scene: Scene) -> tuple[str, str]:
        document = (await scene.get(path_of(ref))).json
        return document["eta_at"], document["eta_by"]

    wanted = timestamp(newest.eta_at), timestamp(newest.eta_by)
    # The third bridge has not heard of the task before: it comes late.
    for scene in (a, b, c):
        await until(lambda scene=scene: moments(scene), wanted)
        async with scene.events(ref) as stream:
            document = await stream.state()
        assert (document["eta_at"], document["eta_by"]) == wanted
        assert document["observed_at"] == timestamp(now)

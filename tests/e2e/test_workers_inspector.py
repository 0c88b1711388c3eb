"""The page and its list at any worker show what all of them watch."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.scene import until
from tests.e2e.test_workers import described, watch, workers
from tests.harness import qingbo

pytestmark = [pytest.mark.anyio, pytest.mark.extended]
VIEWERS = 20


async def test_any_worker_lists_the_viewers_of_all(tmp_path: Path) -> None:
    async with workers(tmp_path) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
        watching = [asyncio.create_task(watch(scene, ref)) for _ in range(VIEWERS)]
        await scene.reaches('bridge_connections{delivery="sse"}', VIEWERS)
        assert all(one["connections"] for one in await described(scene))

        async def viewers() -> set[tuple[bool, int]]:
            lists = [(await scene.get("/inspector/tasks")).json["tasks"] for _ in range(10)]
            return {(row["watched"], row["viewers"]) for rows in lists for row in rows if row["task"] == ref}

        await until(viewers, {(True, VIEWERS)})
        for one in watching:
            one.cancel()

"""A browser's own EventSource: it reconnects, loses nothing, and stops at the end."""

from __future__ import annotations

import asyncio
import signal
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.browser.page import Viewer, viewer
from tests.chaos.balancer import balanced
from tests.chaos.judge import Judge
from tests.chaos.site import Studio, site, studio
from tests.contract.clients.tap import tapped

pytestmark = pytest.mark.anyio

OPEN_TO_PAGES: dict[str, Any] = {"allowed_origins": '["*"]'}
QUIET_SECONDS = 10.0  # longer than any browser waits before it comes back
LIVES = [
    {
        "queue_seconds": 1.5,
        "run_seconds": 3.0 + number,
        "outcome": "failed" if number % 3 == 1 else "completed",
    }
    for number in range(10)
]
WORDS = {"running": "processing"}  # where the bridge's word is not the simulator's
IN_ORDER = ["queued", "processing", "completed"]


class Scene:
    """A page with one stream on one task, which ends late, and one on all of them."""

    def __init__(self, provider: Studio, page: Viewer, refs: list[str]) -> None:
        self.provider = provider
        self.page = page
        self.refs = refs
        self.asked = {"one": refs[-1:], "many": refs}

    async def arrive(self, base: str, *, leaves: bool) -> None:
        """Open both."""
        many = "&".join(f"task={ref}" for ref in self.refs)
        one = f"{base}/v1/tasks/{self.asked['one'][0]}/events"
        await self.page.follow("one", one, "done" if leaves else None)
        await self.page.follow("many", f"{base}/v1/events?{many}", "end" if leaves else None)
        await self.in_step()

    async def in_step(self) -> None:
        """Wait until the page holds what the provider would say."""
        stages = {ref: self.provider.stage(ref).value for ref in self.refs}
        await self.page.until_known(
            self.asked, {ref: WORDS.get(stage, stage) for ref, stage in stages.items()}
        )

    async def go_on(self, seconds: int) -> None:
        """Let time pass, a second after the other, each of them seen."""
        for _ in range(seconds):
            self.provider.advance(1)
            await self.in_step()

    async def to_the_end(self) -> None:
        """Until no task is open."""
        while self.provider.open(self.refs):
            await self.go_on(1)
        await self.page.until_closed()

    async def judged(self) -> None:
        """Nothing lost, all in order, and the ends told."""
        judge = Judge()
        one = await self.page.account(judge.account("one", self.asked["one"]))
        many = await self.page.account(judge.account("many", self.refs, repeats=True))
        assert judge.verdict(self.provider.truth(self.refs)) == []
        seen = [key for key, _ in groupby(told.fields["status"] for told in one if told.kind == "state")]
        assert seen == IN_ORDER
        assert [told.kind for told in one].count("done") == 1
        assert {told.fields["task"] for told in many if told.kind == "done"} == set(self.refs)

    async def count(self, name: str, kind: str) -> int:
        """How often something was told."""
        return [told.kind for told in await self.page.heard(name)].count(kind)


async def test_a_page_behind_a_balancer_loses_nothing_when_its_instance_is_drained(tmp_path: Path) -> None:
    async with (
        studio() as provider,
        site(provider.url, tmp_path / "first.db", drain_seconds=1.0, **OPEN_TO_PAGES) as first,
        site(provider.url, tmp_path / "second.db", **OPEN_TO_PAGES) as second,
        balanced(first, second) as balancer,
        viewer() as page,
    ):
        scene = Scene(provider, page, await provider.submit(LIVES))
        await scene.arrive(balancer.front.url, leaves=True)
        await scene.go_on(5)
        ending = asyncio.ensure_future(first.bridge.stop())
        for name in scene.asked:
            await page.until_times(name, "error", 1)
        provider.advance(3)  # while the page is away, or on its way back
        assert await ending == 0
        await scene.in_step()
        await scene.to_the_end()
        await scene.judged()
        for name in scene.asked:
            notices = [told.fields for told in await page.heard(name) if told.kind == "notice"]
            assert "drain" in [one["reason"] for one in notices if one["code"] == "closing"]
            assert await scene.count(name, "open") >= 2
        assert balancer.chosen is second


async def test_a_page_comes_back_by_itself_after_kill_9_and_a_restart(tmp_path: Path) -> None:
    async with (
        studio() as provider,
        site(provider.url, tmp_path / "kill.db", **OPEN_TO_PAGES) as bridge,
        viewer() as page,
    ):
        scene = Scene(provider, page, await provider.submit(LIVES))
        await scene.arrive(bridge.url, leaves=True)
        await scene.go_on(5)
        await bridge.end(signal.SIGKILL)
        provider.advance(3)
        for name in scene.asked:
            await page.until_times(name, "error", 2)  # cut off, then refused
        await bridge.start()
        await scene.in_step()
        await scene.to_the_end()
        await scene.judged()
        for name in scene.asked:
            assert await scene.count(name, "open") == 2
            assert await scene.count(name, "reset") == 0  # the cursor holds: it is the same journal


async def test_204_stops_a_page_that_never_closes_what_it_opened(tmp_path: Path) -> None:
    async with (
        studio() as provider,
        site(provider.url, **OPEN_TO_PAGES) as bridge,
        tapped(bridge.url) as tap,
        viewer() as page,
    ):
        scene = Scene(provider, page, await provider.submit(LIVES[:3]))
        await scene.arrive(tap.url, leaves=False)
        await scene.to_the_end()
        await asyncio.sleep(QUIET_SECONDS)
        assert tap.statuses == [200, 200, 204, 204]
        assert tap.last_ids[:2] == [None, None]
        newest = [[told.id for told in await page.heard(name) if told.id][-1] for name in scene.asked]
        assert sorted(map(str, tap.last_ids[2:])) == sorted(newest)
        await scene.judged()
        for name in scene.asked:
            assert [told.kind for told in await page.heard(name)][-3:] == ["end", "error", "error"]

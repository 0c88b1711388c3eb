"""What ended tasks taught is there again after a stop, a `kill -9` and a change to several workers."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.cli.learned import NOTHING_STORED
from bridge.clock import SystemClock
from bridge.simulator.server import Running
from tests.commands import run
from tests.e2e.scene import QUICK, Ledger, Scene, until
from tests.harness import PATIENCE, qingbo, qingbo_done, running_bridge, running_simulator, upstreams_of
from tests.pacing.whole import restarted

pytestmark = pytest.mark.anyio

TASKS = 20


@asynccontextmanager
async def bridge(simulator: Running, journal: Path, **settings: Any) -> AsyncIterator[Scene]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with (
        running_bridge(upstreams_of(simulator, **QUICK), journal=f"sqlite:{journal}", **settings) as process,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(PATIENCE)) as http,
    ):
        yield Scene(simulator, process, http, Ledger(simulator.world.calls))


async def tasks_end(scene: Scene, number: int = TASKS, name: str = "task") -> None:
    """Tasks that take a second are watched until their end."""

    async def one(task: str) -> None:
        now = SystemClock().time()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 10, created_at=now - 1))
        async with scene.events(ref) as stream:
            await stream.state()
            done = qingbo_done(task)["body"] | {"created_at": now - 1, "completed_at": SystemClock().time()}
            await scene.then("qingbo", task, {"status": 200, "body": done, "headers": {}})
            await stream.event("end")

    await asyncio.gather(*(one(f"{name}-{number}") for number in range(number)))


async def kinds(scene: Scene) -> list[dict[str, Any]]:
    return list((await scene.get("/status")).json["upstreams"]["qingbo"]["kinds"])


async def samples(scene: Scene) -> int:
    return sum(row["samples"] for row in await kinds(scene))


async def command(journal: Path, tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    """`taskbridge learned`, beside a bridge that is running or not."""
    config = tmp_path / "bridge.toml"
    config.write_text(f'journal = "sqlite:{journal}"\n[upstreams.qingbo]\napi_key = "k"\n[upstreams.vapi]\n')
    ended = await run("learned", arguments[0], "--config", str(config), *arguments[1:])
    return ended.code, ended.out.rstrip("\n"), ended.err.rstrip("\n")


async def listed(journal: Path, tmp_path: Path) -> int:
    code, out, err = await command(journal, tmp_path, "list", "--json")
    assert (code, err) == (0, "")
    return sum(row["samples"] for row in json.loads(out))


async def test_a_stopped_bridge_starts_with_what_it_knew(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with running_simulator() as simulator:
        async with bridge(simulator, journal) as scene:
            await tasks_end(scene, 4)
            before = await kinds(scene)
            assert [(row["model"], row["samples"]) for row in before] == [("wan2.7", 4)]
            assert await scene.bridge.stop() == 0
        async with bridge(simulator, journal) as scene:
            (after,) = await kinds(scene)
            assert after["samples"] == 4
            assert after["p50_seconds"] == pytest.approx(before[0]["p50_seconds"], abs=0.01)


@pytest.mark.extended
async def test_a_killed_bridge_starts_with_what_it_had_written(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with running_simulator() as simulator:
        async with bridge(simulator, journal) as scene:
            await tasks_end(scene)
            assert await samples(scene) == TASKS
            await until(lambda: listed(journal, tmp_path), TASKS)
            await scene.bridge.stop(signal.SIGKILL)
        async with bridge(simulator, journal) as scene:
            assert await samples(scene) == TASKS
            await tasks_end(scene, 3, "later")
            assert await samples(scene) == TASKS + 3


@pytest.mark.extended
async def test_one_process_and_workers_take_turns_on_a_file(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with running_simulator() as simulator:
        async with bridge(simulator, journal) as scene:
            await tasks_end(scene, 4)
            assert await scene.bridge.stop() == 0
        async with bridge(simulator, journal, workers=2) as scene:
            await until(lambda: samples(scene), 4)
            await tasks_end(scene, 4, "shared")
            assert await scene.bridge.stop() == 0
        async with bridge(simulator, journal, workers=2) as scene:
            await until(lambda: samples(scene), 8)
            await scene.bridge.stop(signal.SIGKILL)
        async with bridge(simulator, journal) as scene:
            assert await samples(scene) == 8


@pytest.mark.extended
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_model_is_forgotten_while_the_bridge_is_running(tmp_path: Path, workers: int) -> None:
    journal = tmp_path / "journal.db"
    async with running_simulator() as simulator:
        async with bridge(simulator, journal, workers=workers) as scene:
            await tasks_end(scene, 4)
            await until(lambda: listed(journal, tmp_path), 4)
            assert await command(journal, tmp_path, "forget", "qingbo", "--model", "other") == (
                0,
                NOTHING_STORED,
                "",
            )
            assert await samples(scene) == 4
            code, out, _ = await command(journal, tmp_path, "forget", "qingbo", "--model", "wan2.7")
            assert (code, out) == (0, "kinds forgotten: 1")
            assert await listed(journal, tmp_path) == 0
            await until(lambda: samples(scene), 0)
            await tasks_end(scene, 1, "later")
            assert await samples(scene) == 1
            assert await scene.bridge.stop() == 0
        async with bridge(simulator, journal) as scene:
            assert await samples(scene) == 1


@pytest.mark.extended
async def test_the_command_says_what_it_does(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    code, _, err = await command(journal, tmp_path, "list")
    assert (code, "does not exist" in err) == (3, True)
    async with running_simulator() as simulator, bridge(simulator, journal) as scene:
        assert await command(journal, tmp_path, "list") == (0, "nothing is known yet", "")
        await tasks_end(scene, 4)
        await until(lambda: listed(journal, tmp_path), 4)
    code, out, _ = await command(journal, tmp_path, "list")
    head, row = out.splitlines()
    assert head.split() == ["UPSTREAM", "MODEL", "ACTION", "SAMPLES", "P50", "P90"]
    assert row.split()[:4] == ["qingbo", "wan2.7", "generate", "4"]
    for wrong, sentence in (
        (("forget", "qingbo"), "name a --model or an --action, or say --all"),
        (("forget", "qingbo", "--all", "--model", "x"), "name a --model or an --action, or say --all"),
        (("forget", "qinbgo", "--all"), "did you mean"),
    ):
        code, _, err = await command(journal, tmp_path, *wrong)
        assert (code, sentence in err) == (2, True), err
    assert (await command(journal, tmp_path, "forget", "vapi", "--all"))[1] == NOTHING_STORED
    assert (await command(journal, tmp_path, "forget", "qingbo", "--all"))[1] == "kinds forgotten: 1"
    assert (await command(journal, tmp_path, "list"))[1] == "nothing is known yet"


@pytest.mark.extended
@pytest.mark.timeout(600)
def test_after_a_restart_tasks_are_polled_as_before() -> None:
    # The whole app in virtual time: the last 25 of 125 tasks, with and without a restart before them.
    found = [restarted(seed) for seed in range(3)]
    for steady, after in (("steady", "restarted"), ("steady_polls", "restarted_polls")):
        assert sum(one[after] for one in found) <= 1.15 * sum(one[steady] for one in found)

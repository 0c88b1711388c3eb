"""`serve --workers 2` from outside: workers and their parent are killed, stopped and replaced."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.client.bridge import Bridge
from tests.e2e.scene import Scene, path_of, stage, until
from tests.fakes.certificates import Authority
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

MIN_SECONDS = 0.4
PACED = {"poll_min_seconds": MIN_SECONDS, "poll_max_seconds": MIN_SECONDS}
TASKS, VIEWERS = 8, 3


@asynccontextmanager
async def workers(tmp_path: Path, number: int = 2, **more: Any) -> AsyncIterator[Scene]:
    journal = f"sqlite:{tmp_path / 'journal.db'}"
    async with stage(each=PACED, workers=number, journal=journal, **more) as scene:
        # Of the clients: a connection that is kept would stay at the worker that is killed or replaced.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            scene.http, kept = http, scene.http
            try:
                yield scene
            finally:
                scene.http = kept


async def described(scene: Scene) -> list[dict[str, Any]]:
    return list((await scene.get("/status")).json["workers"])


async def pids(scene: Scene) -> list[int]:
    return [one["pid"] for one in await described(scene)]


async def watch(scene: Scene, ref: str) -> list[tuple[str, float | None]]:
    """What one client sees of a task that reconnects whenever it has to."""
    async with Bridge(scene.bridge.url) as bridge:
        return [(state.status, state.progress) async for state in bridge.watch(ref)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def seen_by_all(scene: Scene, refs: list[str]) -> list[asyncio.Task[list[tuple[str, float | None]]]]:
    """Clients of all tasks, each with its first state."""
    watching = [asyncio.create_task(watch(scene, ref)) for ref in refs for _ in range(VIEWERS)]
    await scene.reaches('bridge_connections{delivery="sse"}', len(watching))
    return watching


async def started(scene: Scene) -> list[str]:
    refs = []
    for _ in range(TASKS):
        task = scene.id()
        refs.append(await scene.script("qingbo", task, qingbo(task, "processing", 10)))
    return refs


async def finish(scene: Scene, refs: list[str]) -> None:
    for ref in refs:
        task = ref.partition("/")[2]
        await scene.then("qingbo", task, qingbo_done(task))


def numbers_of(text: str) -> dict[str, float]:
    """The series of a scrape that only grow."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    found = {}
    for name, labels, value in re.findall(r"^([a-z_]+)(\{.*\})? (\S+)$", text, re.MULTILINE):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if kinds.get(name) == "counter" or kinds.get(family) == "histogram":
            found[name + labels] = float(value)
    return found


async def test_a_killed_worker_costs_its_viewers_nothing_and_no_count(tmp_path: Path) -> None:
    async with workers(tmp_path) as scene:
        refs = await started(scene)
        watching = await seen_by_all(scene, refs)
        before = numbers_of((await scene.get("/metrics")).body.decode())
        assert before['bridge_connections_total{delivery="sse"}'] == TASKS * VIEWERS
        assert [one["answers"] for one in await described(scene)] == [True, True]
        victim = (await pids(scene))[0]
        loop = asyncio.get_running_loop()
        os.kill(victim, signal.SIGKILL)
        killed_at = loop.time()
        await until(lambda: _among(scene, [victim]), False)
        after = numbers_of((await scene.get("/metrics")).body.decode())
        assert {name for name, number in before.items() if after[name] < number} == set()
        for ref in refs:
            task = ref.partition("/")[2]
            await scene.ledger.reach("qingbo", task, scene.ledger.of("qingbo", task) + 1)
        assert loop.time() - killed_at < PATIENCE
        await finish(scene, refs)
        for seen in await asyncio.wait_for(asyncio.gather(*watching), PATIENCE):
            assert [status for status, _ in seen] == ["processing", "completed"], seen
        for ref in refs:
            # Requests arrive a little earlier or later than they were sent.
            assert min(scene.ledger.gaps("qingbo", ref.partition("/")[2])) > MIN_SECONDS * 0.8
        await until(lambda: _working(scene), 2)
        log = [orjson.loads(line) for line in scene.bridge.log]
        assert {1, 2} <= {line.get("worker") for line in log}
        (ended,) = [line for line in log if line["event"] == "worker ended"]
        assert (ended["pid"], ended["how"]) == (victim, "killed by SIGKILL")
        assert await scene.bridge.stop() == 0
        assert "Traceback" not in "".join(scene.bridge.log)


async def _among(scene: Scene, processes: Iterable[int]) -> bool:
    return not set(processes).isdisjoint(await pids(scene))


async def _working(scene: Scene) -> int:
    return sum(one["state"] == "ready" and one["answers"] for one in await described(scene))


@pytest.mark.extended
async def test_workers_end_with_their_parent_and_what_was_recorded_is_there_again(tmp_path: Path) -> None:
    port = free_port()
    async with workers(tmp_path, port=port) as scene:
        refs = await started(scene)
        cursors = {}
        for ref in refs:
            async with scene.events(ref) as stream:
                cursors[ref] = (await stream.block()).fields["id"]
        children = await pids(scene)
        os.kill(scene.bridge.process.pid, signal.SIGKILL)
        async with asyncio.timeout(1.0):
            while any(is_alive(pid) for pid in children):  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(0.01)
        simulator = scene.simulator
        async with stage_again(simulator, tmp_path, port) as again:
            await finish(scene, refs[:1])
            for ref in refs:
                async with scene.events(ref, headers={"Last-Event-ID": cursors[ref]}) as stream:
                    if ref != refs[0]:
                        continue
                    block = await stream.block()
                    assert block.event is None
                    assert block.data["status"] == "completed"
            assert await again.stop() == 0


@asynccontextmanager
async def stage_again(simulator: Any, tmp_path: Path, port: int) -> AsyncIterator[Any]:
    from tests.harness import running_bridge, upstreams_of

    journal = f"sqlite:{tmp_path / 'journal.db'}"
    async with running_bridge(
        upstreams_of(simulator, **PACED), workers=2, journal=journal, port=port
    ) as bridge:
        yield bridge


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.extended
async def test_sighup_replaces_all_workers_and_refuses_nobody(tmp_path: Path) -> None:
    async with workers(tmp_path, drain_seconds=1) as scene:
        refs = await started(scene)
        watching = await seen_by_all(scene, refs)
        old = set(await pids(scene))
        knocking = asyncio.create_task(knock(scene))
        scene.bridge.process.send_signal(signal.SIGHUP)
        await until(lambda: _among(scene, old), False)
        await until(lambda: _working(scene), 2)
        knocking.cancel()
        assert set(await knocking) == {(200, True)}
        await finish(scene, refs)
        for seen in await asyncio.wait_for(asyncio.gather(*watching), PATIENCE):
            assert [status for status, _ in seen] == ["processing", "completed"], seen
        assert any("workers replaced" in line for line in scene.bridge.log)
        assert await scene.bridge.stop() == 0


async def knock(scene: Scene) -> list[tuple[int, bool]]:
    """Ask whether it is ready, on a new connection each time and on one that is kept, until cancelled."""
    answers: list[tuple[int, bool]] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector()) as kept:
        try:
            while True:
                for http in (scene.http, kept):
                    async with http.get(f"{scene.bridge.url}/readyz") as answer:
                        answers.append((answer.status, (await answer.json())["ready"]))
        except asyncio.CancelledError:
            return answers


@pytest.mark.extended
async def test_a_stopped_worker_holds_up_neither_scrapes_nor_newcomers(tmp_path: Path) -> None:
    async with workers(tmp_path) as scene:
        (stopped, _) = await pids(scene)
        os.kill(stopped, signal.SIGSTOP)
        try:
            before = numbers_of((await scene.get("/metrics")).body.decode())
            await until(lambda: _working(scene), 1)
            async with asyncio.timeout(PATIENCE / 2):
                after = numbers_of((await scene.get("/metrics")).body.decode())
                assert {name for name, number in before.items() if after[name] < number} == set()
                for _ in range(20):
                    assert (await scene.get("/readyz")).status == 200
        finally:
            os.kill(stopped, signal.SIGCONT)
        await until(lambda: _working(scene), 2)
        assert await scene.bridge.stop() == 0


@pytest.mark.extended
async def test_a_second_signal_stops_all_at_once(tmp_path: Path) -> None:
    async with workers(tmp_path, drain_seconds=3600) as scene:
        refs = await started(scene)
        watching = [asyncio.create_task(watch(scene, ref)) for ref in refs for _ in range(25)]
        await scene.reaches('bridge_connections{delivery="sse"}', len(watching))
        children = await pids(scene)
        scene.bridge.process.send_signal(signal.SIGTERM)
        await until(lambda: _ready(scene), 503)
        async with asyncio.timeout(10):
            await scene.bridge.stop()
        assert not any(is_alive(pid) for pid in children)
        for task in watching:
            task.cancel()


async def _ready(scene: Scene) -> int:
    return (await scene.get("/readyz")).status


@pytest.mark.extended
async def test_a_worker_that_is_told_to_end_is_replaced(tmp_path: Path) -> None:
    async with workers(tmp_path) as scene:
        refs = await started(scene)
        watching = await seen_by_all(scene, refs)
        (leaving, _) = await pids(scene)
        os.kill(leaving, signal.SIGTERM)
        knocking = asyncio.create_task(knock(scene))
        await until(lambda: _among(scene, [leaving]), False)
        await until(lambda: _working(scene), 2)
        knocking.cancel()
        assert set(await knocking) == {(200, True)}
        await finish(scene, refs)
        for seen in await asyncio.wait_for(asyncio.gather(*watching), PATIENCE):
            assert [status for status, _ in seen] == ["processing", "completed"], seen
        assert await scene.bridge.stop() == 0


@pytest.mark.extended
async def test_one_task_is_polled_once_for_viewers_at_all_workers(tmp_path: Path) -> None:
    async with workers(tmp_path, 3) as scene:
        (ref, *_) = await started(scene)
        watching = [asyncio.create_task(watch(scene, ref)) for _ in range(30)]
        await scene.reaches('bridge_connections{delivery="sse"}', len(watching))
        connections = [one["connections"] for one in await described(scene)]
        assert all(connections), "the kernel spreads them over all workers"
        assert sum(one["watches"] for one in await described(scene)) == 1
        task = ref.partition("/")[2]
        await scene.ledger.reach("qingbo", task, 4)
        assert min(scene.ledger.gaps("qingbo", task)) > MIN_SECONDS * 0.8
        state = (await scene.get(path_of(ref))).json
        assert state["status"] == "processing"
        await finish(scene, [ref])
        await asyncio.wait_for(asyncio.gather(*watching), PATIENCE)


@pytest.mark.extended
async def test_a_port_that_another_service_has_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the workers of another service
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RuntimeError, match="Address already in use") as error:
            async with workers(tmp_path, port=port):
                pass
    assert str(error.value).count("Address already in use") == 1
    assert "worker" not in str(error.value)


@pytest.mark.extended
async def test_workers_speak_tls_and_share_the_admin_address(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.pair("127.0.0.1").write(tmp_path)
    files = {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    port = free_port()
    async with workers(tmp_path, trust=authority.trust, admin_port=port, **files) as scene:
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=authority.trust)
        async with aiohttp.ClientSession(connector=connector) as https:
            for _ in range(20):
                async with https.get(f"{scene.bridge.url}/readyz") as answer:
                    assert answer.status == 200
                async with https.get(f"{scene.bridge.url}/metrics") as answer:
                    assert answer.status == 404
        async with scene.http.get(f"http://127.0.0.1:{port}/status") as answer:
            status = await answer.json()
        assert len(status["workers"]) == 2
        assert status["certificate"]["problem"] is None
        assert await scene.bridge.stop() == 0


@pytest.mark.extended
async def test_a_wrong_configuration_replaces_nobody(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text("linger_seconds = 5\n")
    environment = {"BRIDGE_CONFIG": str(file)}
    async with workers(tmp_path, environment=environment) as scene:
        old = await pids(scene)
        file.write_text("linger_seconds = 'long'\n")
        scene.bridge.process.send_signal(signal.SIGHUP)
        await said(scene, "workers not replaced")
        assert await pids(scene) == old
        file.write_text("workers = 3\nlinger_seconds = 5\n")
        os.kill(old[0], signal.SIGKILL)  # its successor has the settings that the others have
        await until(lambda: _among(scene, old[:1]), False)
        await until(lambda: _working(scene), 2)
        assert await scene.bridge.stop() == 0


async def said(scene: Scene, event: str) -> None:
    async def in_log() -> bool:
        return any(event in line for line in scene.bridge.log)

    await until(in_log, True)

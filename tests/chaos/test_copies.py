"""Copies of outputs by the real program: killed in the middle, drained, with files that cut, lie and hang."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.fakes import s3_server as s3
from tests.fakes.s3_server import S3Server
from tests.harness import PATIENCE
from tests.webhooks.places import Kind, Place, endpoint, holder, place

pytestmark = pytest.mark.anyio
KINDS = ["one", pytest.param("three", marks=pytest.mark.extended)]
LATE = 40.0  # seconds: leases of the killed end, and a copy is tried again

FILE = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(range(256)) * 1000


ZEROS = bytes(1024 * 1024)
GIBIBYTE = 1024 * len(ZEROS)


@dataclass(eq=False)
class Files:
    """A server of results.

    Attributes:
        open: Clear it, and each file waits after its first half.
        ports: The client's port of each request.
        lies: How the next files are spoilt: `cut`, `short`, `gone`.
        size: Of files that are all zeros; 0 for the usual one.
    """

    url: str = ""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    ports: list[int] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)
    size: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.ports.append(request.transport.get_extra_info("peername")[1])
        news, self.news = self.news, asyncio.Event()
        news.set()
        lie = self.lies.pop(0) if self.lies else ""
        if lie == "gone":
            return web.Response(status=404)
        response = web.StreamResponse(headers={"Content-Type": "video/mp4"})
        if self.size:
            response.content_length = self.size
            await response.prepare(request)
            for _ in range(self.size // len(ZEROS)):
                await response.write(ZEROS)
            return response
        response.content_length = len(FILE) + (1000 if lie == "short" else 0)
        await response.prepare(request)
        half = len(FILE) // 2
        with contextlib.suppress(ConnectionError):
            await response.write(FILE[:half])
            await self.open.wait()
            if lie == "cut":
                request.transport.abort()
                return response
            await response.write(FILE[half:])
            if lie == "short":
                request.transport.close()
        return response

    async def asked(self, number: int) -> None:
        """Wait for so many requests."""
        async with asyncio.timeout(LATE):
            while len(self.ports) < number:
                await self.news.wait()


@asynccontextmanager
async def files() -> AsyncIterator[Files]:
    made = Files()
    made.open.set()
    app = web.Application()
    app.add_routes([web.get("/{name}", made.serve)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        made.open.set()
        await runner.cleanup()


@asynccontextmanager
async def copying(kind: Kind, folder: Path, **outputs: Any) -> AsyncIterator[tuple[Place, Files, Path]]:
    """Bridges that copy what a server of files has."""
    store = folder / "store"
    wishes = {"store": f"file:{store}", "wait_seconds": 0.5} | outputs
    async with files() as served:
        webhooks = {"webhooks": lambda sink: {"main": endpoint(sink, events=["task.final", "task.stored"])}}
        async with place(kind, folder, outputs=wishes, **webhooks) as at:
            at.provider.links = served.url
            yield at, served, store


async def has_copy(at: Place, ref: str, seconds: float = LATE) -> dict[str, Any]:
    """Wait until the state has one."""
    async with asyncio.timeout(seconds):
        while True:
            state = await at.shows(ref, "completed")
            if state["outputs"][0]["stored_url"]:
                return state
            await asyncio.sleep(0.05)


async def events_of(at: Place, ref: str, url: str, after: str = "") -> tuple[int, list[dict[str, Any]]]:
    """A stream until its end; its status, and the states in it."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    async with at.http.get(f"{url}/v1/tasks/{ref}/events", headers=headers) as answer:
        text = (await answer.text()) if answer.status == 200 else ""
        blocks = [block for block in text.split("\n\n") if "data: {" in block and "event:" not in block]
        return answer.status, [orjson.loads(block.split("data: ", 1)[1].splitlines()[0]) for block in blocks]


def copies_in(store: Path) -> list[bytes]:
    """Every copy in a directory, without what describes it."""
    found = [path for path in store.rglob("*") if path.is_file() and ".parts" not in path.parts]
    return [path.read_bytes() for path in found if path.suffix != ".json"]


@pytest.mark.parametrize("kind", KINDS)
async def test_killed_in_the_middle_of_a_copy(kind: Kind, tmp_path: Path) -> None:
    async with copying(kind, tmp_path) as (at, served, store):
        served.open.clear()
        ref = await at.task()
        at.move(ref, "completed")
        end = await at.shows(ref, "completed")
        assert end["outputs"][0]["stored_url"] is None
        await served.asked(1)
        copier = holder(at.pids(), served.ports[-1], int(served.url.rpartition(":")[2]))
        assert copier is not None
        await at.kill(copier)
        served.open.set()
        state = await has_copy(at, ref)
        assert state["cursor"] == end["cursor"]
        assert copies_in(store) == [FILE]
        for site in at.sites:
            if site._bridge is not None:
                assert (await events_of(at, ref, site.url, end["cursor"]))[0] == 204
                status, states = await events_of(at, ref, site.url)
                assert (status, [one["outputs"] for one in states]) == (200, [state["outputs"]])
        await at.receiver.until(lambda: at.receiver.of(ref, "task.stored"), LATE)
        stored = at.receiver.of(ref, "task.stored")
        assert stored[0].data["outputs"] == state["outputs"]
        assert (
            len({one.id for one in stored}) == len({one.id for one in at.receiver.of(ref, "task.final")}) == 1
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_killed_before_the_end_was_recorded(kind: Kind, tmp_path: Path) -> None:
    async with copying(kind, tmp_path, wait_seconds=20.0) as (at, served, store):
        served.open.clear()
        ref = await at.task()
        at.move(ref, "completed")
        await served.asked(1)
        copier = holder(at.pids(), served.ports[-1], int(served.url.rpartition(":")[2]))
        assert copier is not None
        await at.kill(copier)
        served.open.set()
        state = await has_copy(at, ref)
        assert copies_in(store) == [FILE]
        await at.receiver.until(lambda: at.receiver.of(ref, "task.final"), LATE)
        (final,) = {one.id: one for one in at.receiver.of(ref, "task.final")}.values()
        assert final.data["outputs"] == state["outputs"], "the end was recorded with it"
        assert at.receiver.of(ref, "task.stored") == []


async def test_a_viewer_hears_one_end_though_it_is_amended(tmp_path: Path) -> None:
    async with copying("one", tmp_path) as (at, served, _):
        served.open.clear()
        ref, other = await at.task(), await at.task()
        path = f"/v1/events?task={ref}&task={other}"
        stream = await at.http.get(at.front + path, headers={"Accept": "text/event-stream"})
        at.move(ref, "completed")
        await at.shows(ref, "completed")
        served.open.set()
        state = await has_copy(at, ref)
        at.move(other, "failed")
        text = await stream.text()
        ends = [line for line in text.splitlines() if '"status":"completed"' in line and '"outputs"' in line]
        assert len(ends) == 1
        assert text.count("event: done\n") == 2
        code, _ = await at.api("GET", f"/v1/tasks/{ref}", headers={"If-None-Match": f'"{state["cursor"]}"'})
        assert code == 200, "it says more than the client has"
        async with at.http.get(f"{at.front}/v1/tasks/{ref}") as answer:
            tag = answer.headers["ETag"]
        code, _ = await at.api("GET", f"/v1/tasks/{ref}", headers={"If-None-Match": tag})
        assert code == 304
        code, _ = await at.api("GET", f"/v1/tasks/{ref}?after={state['cursor']}")
        assert code == 304
        async with at.http.get(at.front + state["outputs"][0]["stored_url"]) as answer:
            assert await answer.read() == FILE


@pytest.mark.extended  # a copy is tried again after ten seconds
async def test_a_drain_ends_in_time_and_loses_nothing(tmp_path: Path) -> None:
    async with copying("one", tmp_path, wait_seconds=60.0) as (at, served, store):
        served.open.clear()
        ref = await at.task()
        at.move(ref, "completed")
        await served.asked(1)
        (site,) = at.sites
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await site.end(signal.SIGTERM) == 0
        assert loop.time() - began < PATIENCE
        served.open.set()
        await site.start()
        await has_copy(at, ref)
        assert copies_in(store) == [FILE]
        assert len({one.id for one in at.receiver.of(ref, "task.final")}) <= 1


@pytest.mark.parametrize("lie", ["cut", "short", "gone"])
async def test_a_file_that_is_spoilt_once_is_copied_later(lie: str, tmp_path: Path) -> None:
    async with copying("one", tmp_path) as (at, served, store):
        served.lies += [lie]
        ref = await at.task()
        at.move(ref, "completed")
        end = await at.shows(ref, "completed")
        assert end["error"] is None
        await has_copy(at, ref)
        assert copies_in(store) == [FILE]
        _, status = await at.api("GET", "/status")
        assert status["outputs"]["store"] == "file"
        assert status["outputs"]["last_error"]


async def test_a_file_that_hangs_holds_up_nothing_else(tmp_path: Path) -> None:
    async with copying("one", tmp_path, wait_seconds=1.0, copies_in_flight=1) as (at, served, _):
        served.open.clear()
        refs = [await at.task() for _ in range(5)]
        for ref in refs:
            at.move(ref, "completed")
        later = await at.task()
        async with asyncio.timeout(10):
            await asyncio.gather(*(at.shows(ref, "completed") for ref in refs))
            at.move(later, "failed")
            await at.shows(later, "failed")
        served.open.set()
        await asyncio.gather(*(has_copy(at, ref) for ref in refs))


@pytest.mark.extended  # a copy is tried again after ten seconds
async def test_a_store_that_refuses_delays_no_end(tmp_path: Path) -> None:
    async with copying("one", tmp_path, wait_seconds=20.0) as (at, _, store):
        ref = await at.task()
        await at.shows(ref, "queued")
        store.rename(tmp_path / "elsewhere")
        at.move(ref, "completed")
        async with asyncio.timeout(10):
            state = await at.shows(ref, "completed")
        assert state["outputs"][0]["stored_url"] is None
        (tmp_path / "elsewhere").rename(store)
        await has_copy(at, ref)


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return peak * 1024


def sizes_in(store: Path) -> list[int]:
    """Of every copy in a directory."""
    return [path.stat().st_size for path in store.rglob("*") if path.is_file() and path.suffix != ".json"]


@pytest.mark.extended
async def test_two_gibibytes_pass_through_200_mebibytes(tmp_path: Path) -> None:
    async with copying("one", tmp_path) as (at, served, store):
        served.size = 2 * GIBIBYTE
        ref = await at.task()
        at.move(ref, "completed")
        await has_copy(at, ref, 300.0)
        assert sizes_in(store) == [served.size]
        assert peak_bytes(at.sites[0].pid) < 200 * len(ZEROS)


@pytest.mark.extended
async def test_two_gibibytes_into_a_bucket(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copying_to_s3(s3_server, tmp_path, monkeypatch) as (at, served):
        served.size = 2 * GIBIBYTE
        ref = await at.task()
        at.move(ref, "completed")
        state = await has_copy(at, ref, 300.0)
        async with at.http.get(state["outputs"][0]["stored_url"], headers={"Range": "bytes=-1"}) as answer:
            assert answer.headers["Content-Range"].endswith(f"/{served.size}")
        assert peak_bytes(at.sites[0].pid) < 200 * len(ZEROS)


# A real server of S3


@asynccontextmanager
async def copying_to_s3(
    s3_server: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch, **outputs: Any
) -> AsyncIterator[tuple[Place, Files]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET)
    wishes = {"store": f"s3://{s3.BUCKET}/copies", "endpoint": s3_server.endpoint} | outputs
    async with copying("one", folder, **wishes) as (at, served, _):
        yield at, served


@pytest.mark.extended  # the store itself: tests/contract/test_output_stores.py
async def test_a_bucket_gives_links_that_are_signed(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copying_to_s3(s3_server, tmp_path, monkeypatch, wait_seconds=20.0) as (at, _):
        ref = await at.task()
        at.move(ref, "completed")
        state = await at.shows(ref, "completed")
        url = state["outputs"][0]["stored_url"]
        assert url.startswith(f"{s3_server.endpoint}/{s3.BUCKET}/copies/qingbo/")
        assert "X-Amz-Signature=" in url
        async with at.http.get(url, headers={"Range": "bytes=4-7"}) as answer:
            assert (answer.status, await answer.read()) == (206, b"ftyp")
        async with at.http.get(f"{at.front}/v1/tasks/{ref}/outputs/0") as answer:
            assert await answer.read() == FILE
        _, status = await at.api("GET", "/status")
        assert (status["outputs"]["store"], status["outputs"]["waiting"]) == ("s3", 0)


@pytest.mark.extended
async def test_a_bucket_that_hangs_delays_an_end_no_longer_than_the_wait(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copying_to_s3(s3_server, tmp_path, monkeypatch, wait_seconds=1.0) as (at, _):
        ref = await at.task()
        os.kill(s3_server.pid, signal.SIGSTOP)
        try:
            at.move(ref, "completed")
            async with asyncio.timeout(10):
                state = await at.shows(ref, "completed")
            assert state["outputs"][0]["stored_url"] is None
        finally:
            os.kill(s3_server.pid, signal.SIGCONT)
        await has_copy(at, ref)
        assert s3_server.unfinished() == []

"""A journal is copied while the bridge writes it; what a restored copy is to clients who saw more than it."""

from __future__ import annotations

import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest

from tests.commands import run
from tests.docs.pages import PAGES
from tests.e2e import raw
from tests.e2e.scene import QUICK, path_of
from tests.harness import BridgeProcess, Provider, qingbo, qingbo_done, running_bridge, running_simulator

pytestmark = pytest.mark.anyio

TASK, CROWD = "qingbo/slow", [f"qingbo/other-{number}" for number in range(8)]
Copy = Callable[[Path, Path], Awaitable[None]]


async def by_command(journal: Path, copy: Path) -> None:
    """As the operations page does it."""
    ended = await run("backup", str(journal), str(copy))
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"states copied: [1-9]\d*\n", ended.out)


async def by_sql(journal: Path, copy: Path) -> None:
    """With SQLite alone: the statements of the operations page."""
    made, marked = re.findall(r'^sqlite3 \S+ "([^"]+)"', PAGES["docs/operations.md"], re.MULTILINE)
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute(re.sub(r"'[^']+'", "?", made), (str(copy),))
    with closing(sqlite3.connect(copy)) as connection, connection:
        assert connection.execute(marked).rowcount == 1


async def without_the_mark(journal: Path, copy: Path) -> None:
    """What the page warns of: the epoch stays in the copy."""
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))


@asynccontextmanager
async def bridge(provider: Provider, journal: Path) -> AsyncIterator[BridgeProcess]:
    upstream = {"base_url": f"{provider.root}/qingbo", "api_key": "test-key"} | QUICK
    async with running_bridge({"qingbo": upstream}, journal=f"sqlite:{journal}") as running:
        yield running


@asynccontextmanager
async def playing() -> AsyncIterator[Provider]:
    async with running_simulator() as simulator, aiohttp.ClientSession() as http:
        yield Provider(simulator, "qingbo", http)


async def restored(provider: Provider, folder: Path, copy: Copy) -> tuple[int, list[raw.Block]]:
    """Copy, see more, die, start on the copy, record more than was lost; then the viewer comes back.

    Returns:
        The status it got, and the blocks.
    """
    await provider.script("slow", qingbo("slow", "processing", 1))
    async with bridge(provider, folder / "bridge.db") as first:
        async with raw.request(first.url, f"{path_of(TASK)}/events") as stream:
            await stream.state_with(progress=1)
            await copy(folder / "bridge.db", folder / "copy.db")
            for progress in (20, 30, 40):
                await provider.then("slow", qingbo("slow", "processing", progress))
                await stream.state_with(progress=progress)
            seen = stream.blocks[-1].id
        await first.stop(signal.SIGKILL)
    await provider.then("slow", qingbo_done("slow"))
    async with bridge(provider, folder / "copy.db") as second:
        for ref in [TASK, *CROWD]:  # offsets pass those the viewer knows
            task_id = ref.partition("/")[2]
            if ref != TASK:
                await provider.script(task_id, qingbo_done(task_id))
            async with raw.request(second.url, f"{path_of(ref)}/events") as stream:
                await stream.state_with(status="completed")
        headers = {"Last-Event-ID": str(seen)}
        async with raw.request(second.url, f"{path_of(TASK)}/events", headers=headers) as stream:
            return stream.status, (await stream.rest() if stream.status == 200 else [])


@pytest.mark.parametrize("copy", [by_command, by_sql])
async def test_a_viewer_who_saw_more_than_the_copy_is_reset_and_gets_the_end(
    copy: Copy, tmp_path: Path
) -> None:
    async with playing() as provider:
        status, blocks = await restored(provider, tmp_path, copy)
    assert status == 200
    assert [block.event for block in blocks] == ["reset", None, "done", "end"]
    assert blocks[0].data["reason"] == "new_epoch"
    assert blocks[1].data["status"] == "completed"


async def test_a_copy_that_keeps_its_epoch_hides_the_end_from_them(tmp_path: Path) -> None:
    async with playing() as provider:
        status, _ = await restored(provider, tmp_path, without_the_mark)
    assert status == 204, "docs/operations.md warns of this: take the warning out"


async def test_a_journal_of_a_newer_bridge_is_left_alone_with_exit_code_3(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    async with playing() as provider, bridge(provider, path) as running:
        await running.stop()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    variables = {"BRIDGE_UPSTREAMS__QINGBO__API_KEY": "a-key", "BRIDGE_PORT": "0"}
    variables["BRIDGE_JOURNAL"] = f"sqlite:{path}"
    ended = await run("serve", **variables)
    assert (ended.code, ended.out) == (3, "")
    assert "was written by a newer bridge (schema 2, this one knows 1)" in ended.err
    assert path.read_bytes() == before

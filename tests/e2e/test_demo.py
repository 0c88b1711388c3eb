"""`taskbridge demo` as a process: what it prints, serves, and how it ends."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from bridge.client.bridge import Bridge
from tests.conftest import missing
from tests.e2e.test_commands import run, started
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


async def link_of(stdout: asyncio.StreamReader | None) -> str:
    assert stdout is not None
    async with asyncio.timeout(2 * PATIENCE):
        while line := (await stdout.readline()).decode():
            if found := re.fullmatch(r"  (http://\S+)/\n", line):
                return found[1]
    raise AssertionError("it has printed no link")


async def test_once_it_ends_with_its_tasks_and_exits_0() -> None:
    ended = await run("demo", "--once", "--port", "0", "--speed", "50")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Open in a browser:\n\n  http://127.0.0.1:")
    assert "curl -N http://127.0.0.1:" in ended.out
    assert "\x1b" not in ended.out
    ends = re.findall(r"^(\w+)/\S+ (completed|failed|cancelled) ", ended.out, re.MULTILINE)
    assert len(ends) == 8
    assert {upstream for upstream, _ in ends} == {"qingbo", "vapi", "bytespike", "fal"}
    assert {status for _, status in ends} >= {"completed", "failed"}


async def test_it_goes_on_and_serves_results_until_a_signal_ends_it_with_0() -> None:
    async with started("demo", "--port", "0", "--speed", "30") as process:
        link = await link_of(process.stdout)
        async with aiohttp.ClientSession() as http, Bridge(link) as bridge, asyncio.timeout(2 * PATIENCE):
            async with http.get(f"{link}/") as page:
                assert page.status == 200
            assert process.stdout is not None
            text = ""
            while not (found := re.search(r"^(\S+) completed .* (http://\S+\.webm)$", text, re.MULTILINE)):
                text += (await process.stdout.readline()).decode()
            async with http.get(found[2], headers={"Range": "bytes=0-3"}) as part:
                assert (part.status, await part.read()) == (206, b"\x1a\x45\xdf\xa3")
                assert part.headers["Content-Type"] == "video/webm"
                assert part.headers["Access-Control-Allow-Origin"] == "*"
            async with http.get(f"{link}/demo/files/x.exe") as none:
                assert none.status == 404
            state = await bridge.state(found[1])
            assert state is not None
            assert state.outputs[0]["url"] == found[2]
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
            assert process.stderr is not None
            assert await process.stderr.read() == b""


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_every_signal_ends_it_with_0_also_twice(number: signal.Signals) -> None:
    async with started("demo", "--port", "0") as process:
        await link_of(process.stdout)
        process.send_signal(number)
        process.send_signal(number)
        assert await process.wait() == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""


@pytest.mark.extended
async def test_a_reader_that_leaves_ends_it_with_0() -> None:
    command = f"{sys.executable} -m bridge demo --port 0 --speed 9; echo code $? >&2"
    process = await asyncio.create_subprocess_shell(f"({command}) | head -3", stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(2 * PATIENCE):
        out, err = await process.communicate()
    assert out.startswith(b"Open in a browser:")
    assert err == b"code 0\n"


@pytest.mark.extended
async def test_nothing_is_written_and_no_home_is_needed(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o555)  # noqa: PTH101 - one call needs no thread
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "demo", "--once", "--port", "0", "--speed", "50"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=PIPE,
        stderr=STDOUT,
    )
    async with asyncio.timeout(2 * PATIENCE):
        out, _ = await process.communicate()
    assert process.returncode == 0, out
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@asynccontextmanager
async def made(*, terminal: bool) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[bytes]]]:
    """`make demo` in a session of its own, and what it prints."""
    if not (ROOT / ".venv" / ".run").exists():
        missing("the environment of `make demo`")
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = await asyncio.create_subprocess_exec(
        *("make", "--assume-old=pyproject.toml", "demo"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"BRIDGE_PORT": "0"},
    )
    os.close(theirs)
    printed: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65_536):
                printed.append(data)
        except OSError:  # how a terminal reports its end
            return

    reading = asyncio.create_task(asyncio.to_thread(read))
    try:
        yield process, printed
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await reading
        os.close(ours)


@pytest.mark.extended
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_make_demo_ends_quietly(*, terminal: bool, number: signal.Signals) -> None:
    async with made(terminal=terminal) as (process, printed), asyncio.timeout(3 * PATIENCE):
        while b"curl" not in b"".join(printed):
            assert process.returncode is None, printed
            await asyncio.sleep(0.05)
        assert (b"--once" in b"".join(printed)) is not terminal
        os.killpg(process.pid, number)
        await process.wait()
    assert b"make: ***" not in b"".join(printed)
    assert b"Traceback" not in b"".join(printed)

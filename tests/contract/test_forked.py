"""A bridge that was forked is, for whoever tests it, a bridge that was started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.forked import CAN_FORK, Forked, Lines, fork
from tests.harness import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not CAN_FORK, reason="no pidfd_open")]

Start = Callable[..., Any]
WAYS = [pytest.param("started", marks=pytest.mark.extended), "forked"]


@pytest.fixture(params=WAYS)
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """Starts `bridge serve` with these settings, one way or the other."""
    async with AsyncExitStack() as stack:

        async def begin(**settings: Any) -> Process | Forked:
            variables = {name: one for name, one in os.environ.items() if not name.startswith("BRIDGE_")}
            wishes = {"port": "0", "journal": "memory", "upstreams": UPSTREAMS} | settings
            variables |= {f"BRIDGE_{name.upper()}": one for name, one in wishes.items()}
            if request.param == "forked":
                lines = Lines()
                stack.callback(lines.close)
                process: Process | Forked = await fork(["serve"], variables, lines)
            else:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "bridge", "serve", stdout=PIPE, stderr=PIPE, env=variables
                )
                stack.callback(process._transport.close)  # type: ignore[union-attr] # one that was started
            stack.push_async_callback(ended, process)
            return process

        yield begin


UPSTREAMS = orjson.dumps({"qingbo": {"base_url": "http://127.0.0.1:9/qingbo", "api_key": "k"}}).decode()


def open_descriptors(process: Any) -> int:
    return sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())


async def ended(process: Any) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_it_says_where_it_listens_lives_on_and_ends_with_0_when_told_to(start: Start) -> None:
    async with asyncio.timeout(PATIENCE):
        process = await start()
        assert (await process.stdout.readline()).startswith(b"bridge listening on http://127.0.0.1:")
        assert process.returncode is None
        os.kill(process.pid, 0)

        process.send_signal(signal.SIGTERM)

        assert await process.wait() == await process.wait() == process.returncode == 0
        assert await process.stdout.read() == b""
        with pytest.raises(ProcessLookupError):
            process.terminate()


async def test_what_kills_it_is_its_exit_code(start: Start) -> None:
    async with asyncio.timeout(PATIENCE):
        process = await start()
        await process.stdout.readline()
        process.kill()
        assert await process.wait() == -signal.SIGKILL


async def test_a_mistake_is_told_on_standard_error(start: Start) -> None:
    async with asyncio.timeout(PATIENCE):
        process = await start(poll_sometimes="1", host="0.0.0.0")
        assert await process.stdout.read() == b""
        said = (await process.stderr.read()).decode()
        assert "BRIDGE_POLL_SOMETIMES: no such setting" in said
        assert "host: 0.0.0.0 is open to other machines" in said
        assert await process.wait() == 2


async def test_two_of_them_share_nothing_that_chance_decides(start: Start) -> None:
    async with asyncio.timeout(PATIENCE):
        one, other = await start(), await start()
        assert one.pid != other.pid
        assert await one.stdout.readline() != await other.stdout.readline()  # each has a port of its own
        assert open_descriptors(one) == open_descriptors(other) < 20

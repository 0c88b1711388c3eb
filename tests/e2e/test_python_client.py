"""The Python clients as programs: restarts of the bridge, Ctrl-C, forks, and an end without `close`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chaos.proxy import free_port
from tests.docs.programs import started
from tests.e2e.scene import QUICK, Scene, stage
from tests.harness import Provider, qingbo, qingbo_done, running_bridge, running_simulator, upstreams_of

pytestmark = pytest.mark.anyio

ASYNC = """
import asyncio, sys
from task_event_bridge import Bridge, TaskFailed

async def main():
    async with Bridge(sys.argv[1]) as bridge:
        try:
            state = await bridge.result(sys.argv[2], on_state=lambda state: print(state.progress, flush=True))
        except TaskFailed as failed:
            print(failed, flush=True)
        else:
            print("the result", state.outputs[0]["url"], flush=True)

asyncio.run(main())
"""
SYNC = """
import sys
from task_event_bridge import SyncBridge, TaskFailed

bridge = SyncBridge(sys.argv[1])
try:
    state = bridge.result(sys.argv[2], on_state=lambda state: print(state.progress, flush=True))
except TaskFailed as failed:
    print(failed, flush=True)
else:
    print("the result", state.outputs[0]["url"], flush=True)
"""
FORKS = """
import os, sys
from task_event_bridge import SyncBridge

bridge, ref = SyncBridge(sys.argv[1]), sys.argv[2]
states = bridge.watch(ref)
print("before", next(states).progress, flush=True)
bridge.state(ref)
child = os.fork()
if not child:
    print("child", bridge.state(ref).progress, flush=True)
    try:
        next(states)
    except RuntimeError as error:
        print("child:", error, flush=True)
    sys.exit(7)
print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
print("after", [state.progress for state in states], flush=True)
"""
WAITS = """
import sys
from task_event_bridge import SyncBridge

bridge, ref = SyncBridge(sys.argv[1]), sys.argv[2]

def watch():
    for state in bridge.watch(ref):
        print("watching", flush=True)

def result():
    bridge.result(ref, on_state=lambda state: print("waiting", flush=True))

def state():
    etag = bridge.state(ref).cursor
    print("polling", flush=True)
    bridge.state(ref, wait=60, etag=etag)

for call in (watch, result, state):
    try:
        call()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def python(script: str, *arguments: str) -> tuple[str, ...]:
    """A program whose warnings are errors: of what is left open, too."""
    return (sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, *arguments)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


@pytest.mark.extended
async def test_a_result_outlives_a_drain_and_a_kill_of_the_bridge(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    wishes: dict[str, Any] = {"port": free_port(), "journal": f"sqlite:{tmp_path}/bridge.db"}
    url = f"http://127.0.0.1:{wishes['port']}"
    async with running_simulator() as simulator:
        provider, upstreams = Provider(simulator, "qingbo", http), upstreams_of(simulator, **QUICK)
        one, other = [
            await provider.script(task, qingbo(task, "processing", 10)) for task in ("one", "other")
        ]
        async with (
            running_bridge(upstreams, **wishes) as first,
            started(*python(ASYNC, url, one)) as program,
            started(*python(SYNC, url, other)) as plain,
        ):
            await asyncio.gather(program.line("10"), plain.line("10"))
            await first.stop(signal.SIGTERM)
            for task in ("one", "other"):
                await provider.then(task, qingbo(task, "processing", 20))
            async with running_bridge(upstreams, **wishes) as second:
                await asyncio.gather(program.line("20"), plain.line("20"))
                await second.stop(signal.SIGKILL)
            await provider.then("one", qingbo_done("one"))
            failed = qingbo("other", "failed", 20, error={"code": "nsfw", "message": "not that"})
            await provider.then("other", failed)
            async with running_bridge(upstreams, **wishes):
                assert (await program.ends(), await plain.ends()) == (0, 0)
        assert program.out == ["10", "20", "100", "the result https://cdn.example/v.mp4"]
        assert plain.out == ["10", "20", "20", "qingbo/other failed: not that: nsfw"]
        assert program.err == plain.err == []


async def test_ctrl_c_interrupts_a_plain_program_at_once(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with started(*python(WAITS, scene.bridge.url, ref)) as program:
        for waits in ("watching", "waiting", "polling"):
            await program.line(waits)
            program.process.send_signal(signal.SIGINT)
        assert await program.ends() == 0
        assert program.out == ["watching", "interrupted", "waiting", "interrupted", "polling", "interrupted"]
        assert program.err == []


async def test_a_forked_process_has_a_connection_of_its_own_and_disturbs_none(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with started(*python(FORKS, scene.bridge.url, ref)) as program:
        await program.line("ended 7")
        await scene.then("qingbo", task, qingbo_done(task))
        assert await program.ends() == 0
        assert program.out == [
            "before 10",
            "child 10",
            "child: this watch belongs to the process that forked this one",
            "ended 7",
            "after [100]",
        ]
        assert program.err == []

"""Every preset that has recordings: a task made at the simulator, seen through the real bridge to its end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
import orjson
import pytest
from yarl import URL

from bridge.dialects.base import HttpResponse, Request, Submission
from bridge.dialects.credentials import HOOKS
from bridge.dialects.registry import load_preset, preset_names
from bridge.simulator.lifecycle import Stage as Stages
from bridge.simulator.recorded import preset as recorded
from bridge.simulator.server import WRITTEN, simulated
from tests.e2e import raw
from tests.e2e.scene import QUICK, path_of
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

KEY = "test:key"  # two halves, as Kling wants it; the others take any
LISTENING = re.compile(r"listening on (http://\S+)")

# Presets that have recordings and cannot go this way, and why; `bridge simulate --list` says the same.
EXCEPTIONS: dict[str, str] = {}

REASONS = simulated()
PRESETS = [name for name, reason in REASONS.items() if not reason and name not in WRITTEN]
CANCELLABLE = [
    name for name in PRESETS if any(call.name == "cancel" for call in recorded.load_preset(name).calls)
]

STREAMING = [name for name in PRESETS if recorded.load_preset(name).frames]


def event_of(block: str) -> tuple[str | None, str]:
    """The name and the data of one event."""
    lines = [line.partition(": ") for line in block.split("\n")]
    named = [value for name, _, value in lines if name == "event"]
    return (named[0] if named else None), "\n".join(value for name, _, value in lines if name == "data")


@dataclass
class Stage:
    """The simulator and the bridge, both processes of their own."""

    simulator: str
    bridge: BridgeProcess
    http: aiohttp.ClientSession

    async def submit(self, name: str, **sim: Any) -> str:
        """A task made by the provider's own submit call. Returns its ref."""
        preset, dialect = recorded.load_preset(name), load_preset(name)
        wishes = {"queue_seconds": 2, "run_seconds": 8} | sim
        body = orjson.dumps({"prompt": "a cat", "sim": wishes})
        submission = Submission(body=body, options=preset.submitted.options)
        request = dialect.submit_request(submission)
        assert request is not None
        answer = await self.call(name, request)
        return f"{name}/{dialect.read_submitted(answer, submission).task_id}"

    async def call(self, name: str, request: Request) -> HttpResponse:
        """One call to the simulated provider, with its own credential."""
        dialect = load_preset(name)
        hook = dialect.auth_hook
        key = HOOKS[hook](KEY, 0.0).value if hook else KEY
        headers = {**request.headers, **dialect.auth_headers(key)}
        url = URL(f"{self.simulator}/{name}{request.path}", encoded=True)
        async with self.http.request(request.method, url, headers=headers, data=request.body) as response:
            told = {header.lower(): value for header, value in response.headers.items()}
            return HttpResponse(response.status, told, await response.read())

    async def advance(self, seconds: float) -> None:
        url = f"{self.simulator}/_sim/clock"
        async with self.http.post(url, json={"advance": seconds}) as response:
            assert response.status == 200

    async def now(self) -> float:
        async with self.http.get(f"{self.simulator}/_sim/clock") as response:
            return float((await response.json())["now"])

    async def calls(self, name: str) -> dict[str, int]:
        """How often each call of a provider was made."""
        async with self.http.get(f"{self.simulator}/_sim/calls") as response:
            counted: dict[str, int] = (await response.json())["total"][name]
            return counted

    async def waiting(self) -> None:
        """Until something at the simulator waits for its clock."""
        async with self.http.get(f"{self.simulator}/_sim/clock?waiting=1") as response:
            assert response.status == 200

    async def fetch(self, outputs: list[dict[str, Any]]) -> None:
        """Every link leads to the simulator, and something is there."""
        for link in (output["url"] for output in outputs if output.get("url")):
            assert link.startswith(self.simulator)
            async with self.http.get(link) as file:
                assert (file.status, bool(await file.read())) == (200, True)

    def events(self, ref: str) -> Any:
        return raw.request(self.bridge.url, f"{path_of(ref)}/events")


@asynccontextmanager
async def simulator_process(presets: list[str]) -> AsyncIterator[str]:
    wanted = [word for name in presets for word in ("--preset", name)]
    command = (sys.executable, "-m", "bridge", "simulate", "--port", "0", "--manual-clock", *wanted)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
        found = LISTENING.search(line)
        assert found, line
        yield found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined] # else its end is noticed after the loop's


@pytest.fixture(scope="module")
async def stage(anyio_backend: str) -> AsyncIterator[Stage]:
    async with simulator_process(PRESETS) as url:
        upstreams = {name: {"base_url": f"{url}/{name}", "api_key": KEY} | QUICK for name in PRESETS}
        async with running_bridge(upstreams, linger_seconds=0) as bridge, aiohttp.ClientSession() as http:
            yield Stage(url, bridge, http)


@pytest.mark.parametrize("name", PRESETS)
async def test_a_task_is_completed_and_its_links_work(stage: Stage, name: str) -> None:
    stages = recorded.load_preset(name).stages
    queues = stages[Stages.QUEUED] is not stages[Stages.RUNNING]
    ref = await stage.submit(name, outcome="completed")
    async with stage.events(ref) as stream:
        first = await stream.state_with(status="queued" if queues else "processing")
        await stage.advance(5)
        processing = await stream.state_with(status="processing") if queues else first
        await stage.advance(6)
        final = await stream.state_with(status="completed")
        assert (await stream.rest())[-1].event == "end"
    assert first["task"] == processing["task"] == final["task"] == ref
    if queues and "progress" in stages[Stages.RUNNING].expect:
        assert processing["progress"] == pytest.approx(3 / 8 * 100, abs=1)
    expected = stages[Stages.COMPLETED].expect.get("outputs", [])
    assert isinstance(expected, list)
    followed = "follow" in stages[Stages.COMPLETED].expect
    assert (
        final["outputs"]
        if followed
        else [each["type"] for each in final["outputs"]] == [each["type"] for each in expected]
    )
    await stage.fetch(final["outputs"])
    assert ("stream" in await stage.calls(name)) == (name in STREAMING)


@pytest.mark.parametrize("name", PRESETS)
async def test_its_times_are_now(stage: Stage, name: str) -> None:
    ref = await stage.submit(name, outcome="completed")
    now = await stage.now()
    await stage.advance(11)
    async with stage.events(ref) as stream:
        final = await stream.state_with(status="completed")
    for moment, at in (("created_at", now), ("completed_at", now + 10)):
        if final[moment]:
            assert datetime.fromisoformat(final[moment]).timestamp() == pytest.approx(at, abs=1.5)


@pytest.mark.parametrize("name", STREAMING)
async def test_its_stream_reads_to_the_end(stage: Stage, name: str) -> None:
    dialect, ref = load_preset(name), await stage.submit(name, outcome="completed")
    request = dialect.stream_request(ref.partition("/")[2])
    assert request is not None
    opening = asyncio.create_task(stage.call(name, request))
    await stage.waiting()
    await stage.advance(11)
    told = (await asyncio.wait_for(opening, PATIENCE)).body.decode()
    seen = [dialect.read_stream_event(*event_of(block)) for block in told.strip().split("\n\n")]
    statuses = [each.status for each in seen if each is not None]
    assert statuses[-1] == "completed"
    assert "processing" in statuses
    ids = {each.task_id for each in seen if each is not None and each.task_id is not None}
    assert len(ids) == 1
    assert ref.endswith(ids.pop() or "nothing")


@pytest.mark.parametrize("name", PRESETS)
async def test_a_task_fails_with_a_reason(stage: Stage, name: str) -> None:
    ref = await stage.submit(name, outcome="failed")
    await stage.advance(11)
    async with stage.events(ref) as stream:
        final = await stream.state_with(status="failed")
        assert (await stream.rest())[-1].event == "end"
    assert final["error"]["code"] or final["error"]["message"]


@pytest.mark.parametrize("name", CANCELLABLE)
async def test_a_task_is_cancelled(stage: Stage, name: str) -> None:
    ref = await stage.submit(name)
    request = load_preset(name).cancel_request(ref.partition("/")[2])
    assert request is not None
    assert (await stage.call(name, request)).status < 300
    async with stage.http.get(URL(stage.bridge.url + path_of(ref), encoded=True)) as answer:
        seen = (await answer.json()).get("status")
    assert (
        seen == "cancelled"
        if Stages.CANCELLED in recorded.load_preset(name).stages
        else seen in {"failed", 404}
    )


@pytest.fixture(scope="module")
async def strangers(stage: Stage) -> dict[str, tuple[int, str]]:
    """What is answered about a task of somebody else, per preset; a second poll follows a second later."""

    async def ask(name: str) -> tuple[int, str]:
        ref = await stage.submit(name)
        last = re.sub(r"[0-9a-zA-Z]", lambda found: "7" if found[0] != "7" else "8", ref[-6:])
        url = URL(stage.bridge.url + path_of(ref[:-6] + last), encoded=True)
        async with stage.http.get(url) as answer:
            return answer.status, await answer.text()

    return dict(zip(PRESETS, await asyncio.gather(*map(ask, PRESETS)), strict=True))


@pytest.mark.parametrize("name", PRESETS)
async def test_somebody_elses_task_is_not_shown(strangers: dict[str, tuple[int, str]], name: str) -> None:
    status, text = strangers[name]
    assert status == 404, text


def test_every_preset_is_simulated_or_the_reason_is_told() -> None:
    assert {name: reason for name, reason in REASONS.items() if reason} == EXCEPTIONS
    assert set(REASONS) == set(preset_names())

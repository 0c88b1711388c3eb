"""The log of the real process, as an operator and a collector read it."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import websockets

from tests.e2e.scene import Scene, path_of, stage
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def lines_of(log: list[str]) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in log]


async def told(scene: Scene, event: str, **wanted: Any) -> dict[str, Any]:
    """The line of the log that says so; waited for, because a thread writes it."""

    def found() -> list[dict[str, Any]]:
        lines = lines_of(scene.bridge.log)
        return [one for one in lines if one["event"] == event and one.items() >= wanted.items()]

    async with asyncio.timeout(PATIENCE):
        while not found():  # noqa: ASYNC110 - nobody tells us from outside
            await asyncio.sleep(0.01)
    (line,) = found()
    return line


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(linger_seconds=0.2, log_level="debug") as made:
        yield made


async def test_each_submit_and_cancel_is_one_line_of_who_did_what_and_how_it_ended(scene: Scene) -> None:
    body = {"model": "wan2.7", "prompt": "a secret wish"}
    made = await scene.call("POST", "/v1/tasks/qingbo", json=body, headers={"X-Request-Id": "made"})
    ref = made.json["state"]["task"]
    await scene.call("POST", "/proxy/qingbo/v1/tasks", json=body, headers={"X-Request-Id": "proxied"})
    await scene.call("POST", f"{path_of(ref)}/cancel", headers={"X-Request-Id": "cancelled"})
    line = await told(scene, "submit answered", request_id="made")
    assert (line["level"], line["caller"], line["upstream"]) == ("info", "anonymous", "qingbo")
    assert (line["task"], line["outcome"]) == (ref, made.json["state"]["status"])
    line = await told(scene, "cancel answered", request_id="cancelled")
    assert (line["caller"], line["upstream"], line["task"]) == ("anonymous", "qingbo", ref)
    assert line["outcome"]
    line = await told(scene, "submit answered", request_id="proxied")
    assert line["task"].startswith("qingbo/")
    assert line["task"] != ref
    failed = await scene.call(
        "POST", "/v1/tasks/qingbo/never-made/cancel", headers={"X-Request-Id": "failed"}
    )
    line = await told(scene, "cancel answered", request_id="failed")
    assert (line["task"], line["outcome"]) == ("qingbo/never-made", failed.json["code"])
    assert not any("a secret wish" in one for one in scene.bridge.log)


async def test_a_stream_and_its_task_are_told_of_when_they_end_and_not_in_between(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    async with scene.events(ref, headers={"X-Request-Id": "stream-1", "traceparent": TRACEPARENT}) as stream:
        assert stream.headers["x-request-id"] == "stream-1"
        await stream.state()
        for progress in range(2, 12):
            await scene.then("qingbo", task, qingbo(task, "processing", progress))
            assert (await stream.state())["progress"] == progress
        await scene.then("qingbo", task, qingbo_done(task))
        body = [block.raw for block in [*stream.blocks, *await stream.rest()]]
    line = await told(scene, "connection ended", request_id="stream-1")
    assert (line["delivery"], line["reason"], line["tasks"], line["events"]) == ("sse", "finished", 1, 12)
    assert line["bytes"] > sum(map(len, set(body)))
    assert 0 < line["seconds"] < PATIENCE
    assert (line["level"], line["trace_id"]) == ("info", TRACE)
    end = await told(scene, "task ended", task=ref)
    assert (end["upstream"], end["status"], end["level"]) == ("qingbo", "completed", "info")
    assert end["polls"] == scene.ledger.of("qingbo", task)
    assert "request_id" not in end
    mine = [
        one["event"]
        for one in lines_of(scene.bridge.log)
        if ref in one.values() or one.get("request_id") == "stream-1"
    ]
    assert sorted(mine) == ["connection ended", "request answered", "task ended", "watch started"]


async def test_every_delivery_tells_how_it_ended(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    async with scene.events(ref, headers={"Accept": "application/x-ndjson", "X-Request-Id": "nd-1"}):
        seen = await scene.get(path_of(ref))
        waiting = asyncio.create_task(
            scene.get(path_of(ref), If_None_Match=seen.headers["ETag"], Prefer="wait=30", X_Request_Id="lp-1")
        )
        url = f"{scene.bridge.url.replace('http', 'ws')}/v1/ws?task={ref}"
        async with websockets.connect(url, additional_headers={"X-Request-Id": "ws-1"}) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-request-id"] == "ws-1"
            await socket.recv()
            await socket.recv()
            await scene.reaches('bridge_connections{delivery="longpoll"}', 1)
            await scene.then("qingbo", task, qingbo_done(task))
            await waiting
        await told(scene, "connection ended", request_id="nd-1")
    for request_id, delivery, reason in [
        ("nd-1", "ndjson", "finished"),
        ("lp-1", "longpoll", "finished"),
        ("ws-1", "websocket", "left"),
    ]:
        line = await told(scene, "connection ended", request_id=request_id)
        assert (line["delivery"], line["reason"]) == (delivery, reason)
        assert line["events"] >= 1


async def test_a_stream_that_never_began_is_told_as_refused(scene: Scene) -> None:
    async with scene.events("qingbo/nobody", headers={"X-Request-Id": "refused-1"}) as stream:
        assert stream.status == 404
    line = await told(scene, "connection ended", request_id="refused-1")
    assert (line["reason"], line["events"], line["bytes"]) == ("refused", 0, 0)
    assert (await told(scene, "task not found", task="qingbo/nobody"))["polls"] == 2


async def test_a_task_nobody_wants_any_more_is_left(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    async with scene.events(ref) as stream:
        await stream.state()
    line = await told(scene, "watch stopped", task=ref)
    assert line["status"] == "processing"


async def test_an_id_comes_back_in_the_answer_and_in_its_problem(scene: Scene) -> None:
    reply = await scene.get("/v1/nothing", X_Request_Id="mine-1")
    assert reply.headers["X-Request-Id"] == reply.json["request_id"] == "mine-1"
    line = await told(scene, "request answered", request_id="mine-1")
    assert (line["status"], line["route"], line["level"]) == (404, None, "debug")


@pytest.mark.parametrize("hostile", ["a b", "x" * 65, 'a"b', "<script>", "ü", "a;b", ""])
async def test_an_id_that_is_not_sane_is_replaced(scene: Scene, hostile: str) -> None:
    reply = await scene.get("/livez", X_Request_Id=hostile, traceparent=hostile)
    assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["X-Request-Id"])


async def test_two_requests_on_one_connection_are_two(scene: Scene) -> None:
    first, second = await scene.get("/livez"), await scene.get("/livez")
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


async def test_no_task_id_can_forge_a_line(scene: Scene) -> None:
    before = len(scene.bridge.log)
    forged = '{"event": "all is well"}'
    for hostile in (f"x\n{forged}", f"x\u2028{forged}", f"x\r{forged}", "x\u202eevil", '","event":"y'):
        from urllib.parse import quote

        await scene.get(f"/v1/tasks/qingbo/{quote(hostile, safe='')}", X_Request_Id="forger")
        await scene.get(f"/v1/tasks/{quote(hostile, safe='')}/a", X_Request_Id="forger")
    await scene.get("/livez", X_Request_Id="forger-end")
    await told(scene, "request answered", request_id="forger-end")
    for line in scene.bridge.log[before:]:
        assert line.rstrip("\n").isprintable()
        assert line.isascii()
        assert orjson.loads(line)["event"] != "all is well"


async def test_a_provider_that_fails_and_recovers_is_two_lines(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("vapi", task, answer({"x": 1}, status=500))
    async with scene.events(ref):
        down = await told(scene, "upstream unhealthy", upstream="vapi")
        await scene.ledger.reach("vapi", task, 3)
        good = {"code": 0, "data": {"task_id": task, "status": "SUCCESS", "progress": "100%", "data": {}}}
        await scene.then("vapi", task, answer(good))
        back = await told(scene, "upstream recovered", upstream="vapi")
    assert down["level"] == back["level"] == "warning"
    assert "500" in down["error"]
    assert back["after_seconds"] >= 0


async def test_callers_are_named_and_a_journal_that_fails_and_recovers_is_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    async with stage(journal=f"sqlite:{path}", **TOKEN_SETTINGS) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
        headers = bearer(ref, sub="ann\n\u202e") | {"X-Request-Id": "hers"}
        async with scene.events(ref, headers=headers) as stream:
            await stream.state()
            path.rename(tmp_path / "away.db")
            assert (await told(scene, "journal write failed"))["level"] == "error"
            (tmp_path / "away.db").rename(path)
            back = await told(scene, "journal recovered")
        assert back["level"] == "warning"
        assert back["after_seconds"] > 0
        assert (await told(scene, "connection ended", request_id="hers"))["caller"] == "ann\n\u202e"
        assert headers["Authorization"].rpartition(".")[2] not in "".join(scene.bridge.log)


async def test_who_hammers_is_told_of_a_few_times_and_who_is_drained_once() -> None:
    async with stage(max_connections=1, drain_seconds=0.1) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
        async with scene.events(ref) as stream:
            await stream.state()
            for _ in range(30):
                async with scene.events(ref) as turned:
                    await turned.rest()
            assert await scene.bridge.stop() == 0
    ends = [one for one in lines_of(scene.bridge.log) if one["event"] == "connection ended"]
    assert [one["reason"] for one in ends] == ["drain"]
    lines = [one for one in lines_of(scene.bridge.log) if one["logger"] == "bridge.web.limits.limits"]
    assert [one["event"] for one in lines[:5]] == ["connection rejected"] * 5
    (count,) = lines[5:]
    assert (count["like"], count["suppressed"]) == ("connection rejected", 25)
    assert re.fullmatch(r"\.\.\. 25 more like this in \d+ s", count["event"])


@asynccontextmanager
async def serving(
    redirection: str, *, stdout: int, stderr: int, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`bridge serve` whose standard streams are not as they should be."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    upstream = {"base_url": "http://127.0.0.1:1/x", "api_key": "k"}
    wishes = {
        "BRIDGE_JOURNAL": "memory",
        "BRIDGE_PORT": "0",
        "BRIDGE_LOG_LEVEL": "debug",
        "BRIDGE_UPSTREAMS": orjson.dumps({"qingbo": upstream}).decode(),
    }
    command = f'exec "{sys.executable}" -m bridge serve {redirection}'
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, env=inherited | wishes | variables, stdout=stdout, stderr=stderr
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def address_of(process: asyncio.subprocess.Process) -> tuple[str, int]:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        said = await process.stdout.readline()
    found = re.search(rb"http://([\d.]+):(\d+)", said)
    assert found, said
    return found[1].decode(), int(found[2])


async def answered(host: str, port: int, times: int = 1) -> int:
    """How many requests were answered with 200."""
    good = 0
    for _ in range(times):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            good += (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
    return good


@pytest.mark.parametrize("redirection", [pytest.param("2>&- <&-", marks=pytest.mark.extended), "2>/dev/full"])
async def test_no_standard_error_is_no_reason_to_fail(redirection: str) -> None:
    async with serving(redirection, stdout=PIPE, stderr=DEVNULL) as process:
        host, port = await address_of(process)
        assert await answered(host, port, 20) == 20
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.extended
async def test_a_pipe_nobody_reads_neither_stops_the_bridge_nor_its_end() -> None:
    reading, writing = os.pipe()
    async with serving("", stdout=PIPE, stderr=writing) as process:
        os.close(writing)
        host, port = await address_of(process)
        assert await answered(host, port, 500) == 500  # more lines than a pipe holds
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    assert os.read(reading, 65_536).count(b"request answered") > 100
    os.close(reading)


async def test_a_broken_standard_output_is_no_reason_to_fail_and_the_log_has_the_address() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    async with serving("", stdout=writing, stderr=PIPE, BRIDGE_LOG_FORMAT="human") as process:
        os.close(writing)
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            line = (await process.stderr.readline()).decode()
        found = re.search(r"listening .*address=([\d.]+):(\d+)", line)
        assert found, line
        assert "\x1b" not in line
        assert await answered(found[1], int(found[2])) == 1
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_in_a_terminal_it_is_for_people() -> None:
    ours, theirs = pty.openpty()
    async with serving("", stdout=PIPE, stderr=theirs) as process:
        os.close(theirs)
        host, port = await address_of(process)
        await answered(host, port)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "request answered" in shown
    assert "\x1b[" in shown
    assert '{"' not in shown

"""Workers that do not start, with programs that stand in for them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.config.load import load
from bridge.server.listeners import listen_together
from bridge.server.workers import process, supervisor
from bridge.server.workers.launching import Launch
from bridge.server.workers.supervisor import Supervisor

pytestmark = pytest.mark.anyio

# Answers as a worker does, as far as a test needs it.
PROGRAM = """
import json, socket, struct, sys
control = socket.socket(fileno=int(sys.argv[3]))
def send(kind, **fields):
    head = json.dumps({"kind": kind, **fields}).encode()
    control.sendall(struct.pack("!II", len(head), 0) + head)
def receive():
    size, body = struct.unpack("!II", control.recv(8, socket.MSG_WAITALL))
    return json.loads(control.recv(size, socket.MSG_WAITALL))
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_SECONDS", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> Iterator[Callable[[str], tuple[Supervisor, list[bool]]]]:
    listeners = listen_together("127.0.0.1", 0, 2)

    def make(program: str) -> tuple[Supervisor, list[bool]]:
        file = tmp_path / "worker.py"
        file.write_text(PROGRAM + program)
        monkeypatch.setattr(process, "LAUNCH", file)
        upstreams = json.dumps({"fal": {"api_key": "k"}})
        environment = {"BRIDGE_WORKERS": "2", "BRIDGE_UPSTREAMS": upstreams}
        settings = load(None, environment=environment)
        started: list[bool] = []
        launch = Launch(settings, None, {})
        made = Supervisor(
            launch, listeners, None, connect=None, reload=lambda: launch, started=lambda: started.append(True)
        )
        return made, started

    yield make
    for listener in listeners:
        listener.close()


async def test_five_failed_starts_end_the_service_with_the_reason(
    run: Callable[[str], tuple[Supervisor, list[bool]]], caplog: pytest.LogCaptureFixture
) -> None:
    made, started = run("receive(); send('failed', reason='the disk is on fire', code=1)")
    with caplog.at_level(logging.INFO, "bridge"):
        assert await asyncio.wait_for(made.run(), 60) == 1
    (end,) = [record for record in caplog.records if record.message == "service ends"]
    assert "the disk is on fire" in end.__dict__["reason"]
    failed = [
        record.__dict__["worker"] for record in caplog.records if record.message == "worker cannot start"
    ]
    assert max(failed.count(1), failed.count(2)) == 5
    assert started == []


async def test_a_wrong_setting_ends_it_at_once(run: Callable[[str], tuple[Supervisor, list[bool]]]) -> None:
    made, _ = run("receive(); send('failed', reason='no such setting', code=2); sys.exit(2)")
    assert await asyncio.wait_for(made.run(), 60) == 2


async def test_a_worker_that_closes_the_channel_and_stays_is_ended(
    run: Callable[[str], tuple[Supervisor, list[bool]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ALONE_SECONDS", 0.1)
    made, _ = run("import time; control.close(); time.sleep(600)")
    assert await asyncio.wait_for(made.run(), 60) == 1


async def test_what_is_no_message_ends_only_that_worker(
    run: Callable[[str], tuple[Supervisor, list[bool]]],
) -> None:
    made, started = run("control.sendall(b'\\xff' * 64); receive()")
    assert await asyncio.wait_for(made.run(), 60) == 1
    assert started == []


async def test_workers_that_serve_are_drained_and_then_killed_if_they_stay(
    run: Callable[[str], tuple[Supervisor, list[bool]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "stop_seconds", lambda _settings: 0.0)
    monkeypatch.setattr(supervisor, "KILL_MARGIN_SECONDS", 0.2)
    made, started = run("receive(); send('ready')\nwhile True: receive()")
    running = asyncio.ensure_future(made.run())
    async with asyncio.timeout(30):
        while not started:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)
    made._on_stop()
    assert await asyncio.wait_for(running, 60) == 1, "they did not end by themselves"

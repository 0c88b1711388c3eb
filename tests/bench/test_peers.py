"""The load publishes as hubs want it, with a task in the body and a header; streams may begin stateless."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from bench import hubs
from bench.contenders import Failed, NotInstalled, Server, build, loading
from bench.tokens import document, token

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="epoll and /proc"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]
HEADER, PUBLISHED = "X-Key: secret", b"{}"


class Hub:
    """A hub in a thread: the body of a change names its channel, the path of a stream does."""

    def __init__(self) -> None:
        self.port = 0
        self.answer = PUBLISHED
        self.published: list[tuple[str, bytes]] = []
        self._publishers: set[asyncio.StreamWriter] = set()
        self._streams: defaultdict[str, list[asyncio.StreamWriter]] = defaultdict(list)
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._over.wait()
        server.close()

    def close_publishers(self) -> None:
        """Close the connections on which something was published."""
        asyncio.run_coroutine_threadsafe(self._close_publishers(), self._loop).result()

    async def _close_publishers(self) -> None:
        for writer in self._publishers:
            writer.close()
            await writer.wait_closed()
        self._publishers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            if head.startswith(b"GET /"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                self._streams[head.split(b" ")[1].decode().removeprefix("/")].append(writer)
                continue
            size = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            message = json.loads(await reader.readexactly(size))
            self._publishers.add(writer)
            self.published.append((message["channel"], head))
            for stream in self._streams[message["channel"]] if self.answer == PUBLISHED else []:
                stream.write(b"data: %b\n\n" % json.dumps({"quoted": json.dumps(message["data"])}).encode())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.answer), self.answer))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def served_by(hub: Hub, folder: Path) -> Server:
    template = folder / "published"
    template.write_bytes(b'{"channel":"{task}","data":%b}' % document("t0", token(0)))
    trigger = ["--trigger-port", str(hub.port), "--trigger-path", "/publish", "--template", str(template)]
    trigger += ["--trigger-header", HEADER, "--trigger-type", "text/x-test", "--trigger-conns", "3"]
    process = SimpleNamespace(pid=os.getpid())
    return Server("hub", hub.port, process, "/t%d", trigger, stateless=True)  # type: ignore[arg-type]


def test_every_stream_has_the_last_change_that_was_published_with_its_task_in_the_body(
    hub: Hub, tmp_path: Path
) -> None:
    build()
    with loading(served_by(hub, tmp_path), tasks=13, timeout=5) as load:
        opened = load("open", 26, 0, 8)
        flooded = load("flood", 200, 50)

    assert opened["opened"] == 26
    assert flooded["events"] == 400
    assert {flooded[what] for what in ("missing_last", "skipped", "backwards", "foreign")} == {0}
    assert {task for task, _ in hub.published} == {f"t{number}" for number in range(13)}
    heads = [head.decode() for _, head in hub.published]
    assert all(f"\r\n{HEADER}\r\n" in head and "\r\nContent-Type: text/x-test\r\n" in head for head in heads)


def test_a_change_that_waits_for_the_answer_to_another_is_published_later(hub: Hub, tmp_path: Path) -> None:
    build()
    with loading(served_by(hub, tmp_path), tasks=13, timeout=5) as load:
        load("open", 13, 0, 8)
        paced = load("pace", 1_000_000, 100, 1)  # no turn waits for answers

    assert paced["missing_last"] == paced["skipped"] == 0
    assert len(hub.published) == paced["events"] == 100


def test_a_publishing_connection_that_was_closed_while_idle_is_made_again(hub: Hub, tmp_path: Path) -> None:
    build()
    with loading(served_by(hub, tmp_path), tasks=13, timeout=5) as load:
        load("open", 13, 0, 8)
        load("lock", 0, 10, 1)
        hub.close_publishers()
        load("hold", 0.01)  # it reads that they are closed
        assert load("lock", 0, 10, 1)["missing_last"] == 0


def test_an_answer_of_200_that_names_an_error_ends_the_run(hub: Hub, tmp_path: Path) -> None:
    build()
    hub.answer = b'{"error":{"code":102,"message":"unknown channel"}}'
    with loading(served_by(hub, tmp_path), tasks=1, timeout=5) as load:
        load("open", 1, 0, 1)
        with pytest.raises(Failed):
            load("lock", 0, 1, 1)


@pytest.mark.parametrize(
    ("name", "websocket"), [("centrifugo", False), ("centrifugo", True), ("nchan", False)]
)
def test_a_hub_that_is_installed_gives_every_stream_its_first_and_its_last_state(
    name: str, websocket: bool
) -> None:
    build()
    try:
        with (
            getattr(hubs, name)(websocket=websocket, publishers=4) as server,
            loading(server, tasks=7, timeout=20) as load,
        ):
            assert load("open", 20, 0, 8)["opened"] == 20
            flooded = load("flood", 100, 100)
    except NotInstalled as error:
        pytest.skip(str(error))
    assert flooded["events"] > 0
    assert {flooded[what] for what in ("missing_last", "backwards", "foreign")} == {0}


@pytest.mark.extended
@pytest.mark.timeout(620)
def test_mercure_is_built_and_every_stream_has_its_last_state() -> None:
    build()
    try:
        if hubs.build_mercure() is None:
            pytest.skip("Go is not installed")
    except subprocess.SubprocessError:
        pytest.skip("the modules of Mercure cannot be fetched")
    with hubs.mercure(publishers=4) as server, loading(server, tasks=7, timeout=20) as load:
        assert load("open", 20, 0, 8)["opened"] == 20
        flooded = load("flood", 100, 100)
    assert flooded["events"] > 100
    assert {flooded[what] for what in ("missing_last", "backwards", "foreign")} == {0}


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CENTRIFUGO", raising=False)
    monkeypatch.setattr(hubs, "BUILD", tmp_path)
    monkeypatch.setattr(hubs, "GO", str(tmp_path))

    lines = list(hubs.missing())

    assert [line.split()[0] for line in lines] == ["nchan", "Centrifugo", "Go"]

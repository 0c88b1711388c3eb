"""TLS without a proxy: all that plain HTTP does, and handshakes that hold nothing up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from click.testing import CliRunner

from bridge.cli import main
from bridge.client.bridge import Bridge
from bridge.client.errors import UntrustedBridge
from bridge.client.sync import SyncBridge
from tests.e2e.raw import connection
from tests.e2e.scene import Scene, path_of, stage, until
from tests.fakes.certificates import Authority
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

AUTHORITY = Authority()
HEADER_SECONDS = 0.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    AUTHORITY.pair("first").write(made)
    (made / "ca.pem").write_bytes(AUTHORITY.pem)
    return made


def settings(folder: Path) -> dict[str, str]:
    return {"tls_certificate_file": str(folder / "tls.crt"), "tls_key_file": str(folder / "tls.key")}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, folder: Path) -> AsyncIterator[Scene]:
    async with stage(
        trust=AUTHORITY.trust,
        linger_seconds=0,
        admin_port=0,
        request_header_timeout_seconds=HEADER_SECONDS,
        **settings(folder),
    ) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


class HalfOpen:
    """A TLS client that can close its half, which Python's own streams cannot."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = AUTHORITY.trust.wrap_bio(self._in, self._out, server_hostname="localhost")

    def hello(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    async def shake_hands(self) -> None:
        self.writer.write(self.hello())
        while True:
            self._in.write(await self.reader.read(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                self.writer.write(self._out.read())
                return

    def write(self, data: bytes) -> None:
        self.tls.write(data)
        self.writer.write(self._out.read())

    def write_eof(self) -> None:
        """Say by TLS that nothing follows; the connection itself stays open."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.writer.write(self._out.read())

    async def read(self) -> bytes:
        """Everything up to the end, which has to be said by TLS too."""
        said = b""
        while True:
            try:
                piece = self.tls.read(65536)
            except ssl.SSLWantReadError:
                data = await self.reader.read(65536)
                assert data, "the connection was cut"
                self._in.write(data)
                continue
            except ssl.SSLZeroReturnError:  # both have closed their halves
                return said
            if not piece:
                return said
            said += piece


@contextlib.asynccontextmanager
async def half_open(scene: Scene) -> AsyncIterator[HalfOpen]:
    async with connection(scene.bridge.url) as (reader, writer), asyncio.timeout(PATIENCE):
        client = HalfOpen(reader, writer)
        await client.shake_hands()
        yield client


async def _open(scene: Scene) -> str:
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 5))


async def _logged(scene: Scene, text: str) -> bool:
    return any(text in line for line in scene.bridge.log)


def _admin(scene: Scene) -> str:
    """The address of the admin listener, without the scheme."""
    found = [json.loads(line) for line in scene.bridge.log if '"bridge operations"' in line]
    return str(found[0]["address"])


async def _next_state(socket: websockets.ClientConnection) -> Any:
    async for message in socket:
        if (said := json.loads(message))["type"] == "state":
            return said["state"]
    raise AssertionError("closed before a state")


async def test_every_delivery_works_over_tls(scene: Scene) -> None:
    assert scene.bridge.url.startswith("https://")
    ref = await _open(scene)
    upstream, _, task = ref.partition("/")
    state = await scene.get(path_of(ref))
    assert (state.status, state.json["progress"]) == (200, 5)
    url = f"{scene.bridge.url.replace('https', 'wss')}/v1/ws?task={ref}"
    async with (
        scene.events(ref) as sse,
        scene.events(ref, headers={"Accept": "application/x-ndjson"}) as lines,
        websockets.connect(url, ssl=scene.trust, subprotocols=["bridge.v1.json"], proxy=None) as socket,  # type: ignore[list-item]
    ):
        poll = asyncio.create_task(
            scene.get(path_of(ref), If_None_Match=state.headers["ETag"], Prefer="wait=30")
        )
        await sse.state()
        assert b'"progress":5' in await lines.piece()
        assert (await _next_state(socket))["progress"] == 5
        await scene.then(upstream, task, qingbo_done(task))
        assert [block.event for block in await sse.rest()] == [None, "done", "end"]
        assert b'"completed"' in await lines.body()
        assert (await _next_state(socket))["status"] == "completed"
        assert (await poll).json["status"] == "completed"


async def test_a_large_body_arrives_whole_in_both_directions(scene: Scene) -> None:
    prompt = "p" * 900_000
    body = {"model": "m", "prompt": prompt}
    made = await scene.call("POST", "/v1/tasks/qingbo", json=body)
    assert made.status == 201
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5, note=prompt))
    state = await scene.get(path_of(ref) + "?include=raw")
    assert state.json["raw"]["note"] == prompt


async def test_links_and_own_pages_are_https(scene: Scene) -> None:
    own = scene.bridge.url
    task = scene.id()
    link = f"{scene.simulator.url}/qingbo/v1/tasks/{task}"
    await scene.script("qingbo", task, qingbo(task, "processing", 5, links={"self": link}))
    answer = await scene.get(f"/proxy/qingbo/v1/tasks/{task}")
    assert answer.json["links"]["self"] == f"{own}/proxy/qingbo/v1/tasks/{task}"
    url = f"{own.replace('https', 'wss')}/v1/ws"
    async with websockets.connect(url, ssl=scene.trust, origin=own, proxy=None):  # type: ignore[arg-type]
        pass
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(url, ssl=scene.trust, origin="https://stranger.example", proxy=None)  # type: ignore[arg-type]


async def test_versions_and_protocol(scene: Scene) -> None:
    place = urlsplit(scene.bridge.url)
    context = AUTHORITY.trust
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context)
    secured = writer.get_extra_info("ssl_object")
    assert (secured.selected_alpn_protocol(), secured.version()) == ("http/1.1", "TLSv1.3")
    writer.close()
    old = AUTHORITY.trust
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(place.hostname, place.port, ssl=old)


async def test_plain_http_is_told_so_and_closed(scene: Scene) -> None:
    async with connection(scene.bridge.url) as (reader, writer), asyncio.timeout(PATIENCE):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        said = await reader.read()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"https://" in said
    async with connection(scene.bridge.url) as (reader, writer), asyncio.timeout(PATIENCE):
        writer.write(b"\x00\xff\xfe")
        assert await reader.read() == b""
    await until(lambda: _logged(scene, "plain HTTP on a TLS port"), True)


async def test_the_admin_listener_answers_with_and_without_tls(scene: Scene) -> None:
    for scheme in ("http", "https"):
        async with scene.http.get(f"{scheme}://{_admin(scene)}/metrics") as answer:
            assert "bridge_tls_certificate_expiry_timestamp_seconds " in await answer.text()
        async with scene.http.get(f"{scheme}://{_admin(scene)}/status") as answer:
            certificate = (await answer.json())["certificate"]
    assert certificate["names"] == ["localhost", "127.0.0.1"]
    assert certificate["problem"] is None
    assert certificate["valid_until"].endswith("Z")


async def _is_closed_in_time(scene: Scene, kind: str) -> None:
    if kind == "no request":
        async with half_open(scene) as client:
            assert await client.read() == b""
        return
    async with connection(scene.bridge.url) as (reader, writer):
        hello = HalfOpen(reader, writer).hello()

        async def send() -> None:
            for at in range(len(hello)):
                writer.write(hello[at : at + 1])
                await asyncio.sleep(0.02)

        writer.write({"nothing": b"", "drip": b"", "half": hello[:-9], "hello": hello}[kind])
        dripping = asyncio.create_task(send() if kind == "drip" else asyncio.sleep(0))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        dripping.cancel()


async def test_a_handshake_that_does_not_go_on_is_closed_in_time(scene: Scene) -> None:
    kinds = ("nothing", "half", "hello", "drip", "no request")
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(_is_closed_in_time(scene, kind) for kind in kinds))


async def test_a_document_is_sent_whole_to_a_client_that_has_closed_its_half(scene: Scene) -> None:
    path = path_of(await _open(scene))
    async with half_open(scene) as client:
        client.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.write_eof()
        assert b'"progress":5' in await client.read()


@pytest.mark.parametrize("by", ["tls", "tcp"])
async def test_a_stream_ends_once_its_client_has_closed_its_half(scene: Scene, by: str) -> None:
    path = path_of(await _open(scene))
    async with half_open(scene) as client:
        client.write(f"GET {path}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        if by == "tls":
            client.write_eof()
        else:
            client.writer.write_eof()
        said = await client.read()
    assert b'"progress":5' in said
    assert said.endswith(b"0\r\n\r\n")


async def test_the_command_line_and_the_client_take_a_ca_file(scene: Scene, folder: Path) -> None:
    ca, url = str(folder / "ca.pem"), scene.bridge.url.replace("127.0.0.1", "localhost")

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*words, "--url", url])
        return result.exit_code, result.output

    assert await asyncio.to_thread(run, "health", "--ca-file", ca) == (0, '{"ready":true,"reasons":[]}\n')
    code, said = await asyncio.to_thread(run, "health")
    assert code == 1
    assert said.count("\n") == 1
    assert "cannot be verified: " in said
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    code, said = await asyncio.to_thread(run, "watch", "--ca-file", ca, "--json", ref)
    assert (code, json.loads(said)["status"]) == (0, "completed")
    code, said = await asyncio.to_thread(run, "watch", ref)
    assert code == 3
    assert said.count("\n") == 1
    assert "the certificate of localhost cannot be verified: " in said
    async with Bridge(url, ca_file=ca) as bridge:
        state = await bridge.state(ref)
        assert state is not None
        assert state.status == "completed"
    async with Bridge(url) as bridge:
        with pytest.raises(UntrustedBridge):
            await bridge.state(ref)

    def plain(**trust: str) -> str:
        with SyncBridge(url, **trust) as bridge:
            return str(bridge.result(ref).status)

    assert await asyncio.to_thread(plain, ca_file=ca) == "completed"
    with pytest.raises(UntrustedBridge):
        await asyncio.to_thread(plain)


async def _subject(url: str) -> str:
    place = urlsplit(url)
    _, writer = await asyncio.open_connection(place.hostname, place.port, ssl=AUTHORITY.trust)
    subject = writer.get_extra_info("peercert")["subject"]
    writer.close()
    return str(subject[0][0][1])


async def test_new_connections_get_the_new_certificate_open_ones_stay_and_a_drain_ends_them(
    tmp_path: Path,
) -> None:
    AUTHORITY.pair("first").write(tmp_path)
    async with stage(trust=AUTHORITY.trust, drain_seconds=0.1, **settings(tmp_path)) as scene:
        ref = await _open(scene)
        async with scene.events(ref) as stream:
            await stream.state()
            assert await _subject(scene.bridge.url) == "first"
            AUTHORITY.pair("second").write(tmp_path)
            await until(lambda: _subject(scene.bridge.url), "second")
            upstream, _, task = ref.partition("/")
            await scene.then(upstream, task, qingbo(task, "processing", 50))
            await stream.state_with(progress=50)
            scene.bridge.process.send_signal(signal.SIGTERM)
            closing = await stream.notice("closing")
            assert closing["reason"] == "drain"
            assert await stream.block() is None
        assert await scene.bridge.stop() == 0

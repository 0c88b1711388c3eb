"""Clients of other authors over TLS without a proxy, and what one that stops reading costs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser.chromium import launch_chromium
from tests.conftest import missing
from tests.e2e.scene import Scene, path_of, stage, until
from tests.fakes.certificates import Authority
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = [pytest.mark.anyio, pytest.mark.extended]

AUTHORITY = Authority()

NODE = """
const [base, path, ca] = process.argv.slice(2);
const tls = { ca: require("fs").readFileSync(ca) };
const https = require("https");
const agent = new https.Agent({ ...tls, keepAlive: true });
const get = (path, then) => https.get(base + path, { agent }, (answer) => {
  let said = "";
  answer.on("data", (piece) => { said += piece; });
  answer.on("end", () => then(said, answer));
});
get("/livez", () => get(path + "/events", (said) => { console.log(said); agent.destroy(); }));
"""

GO = """package main

import ("bufio"; "crypto/tls"; "crypto/x509"; "fmt"; "net/http"; "os")

func main() {
	ca, _ := os.ReadFile(os.Args[3])
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport}
	answer, err := client.Get(os.Args[1] + os.Args[2] + "/events")
	if err != nil { panic(err) }
	fmt.Println(answer.Proto)
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() { fmt.Println(lines.Text()) }
	if lines.Err() != nil { panic(lines.Err()) }
}
"""

PYTHON = """
import asyncio, sys
import aiohttp, httpx, requests, ssl
base, path, ca = sys.argv[1:]
print(requests.get(base + path + "/events", verify=ca, timeout=20).text)
context = ssl.create_default_context(cafile=ca)
with httpx.Client(verify=context) as client:
    assert client.get(base + path).json()["status"] == "completed"
    assert '"completed"' in client.get(base + path + "/events").text
async def main():
    async with aiohttp.ClientSession() as session:
        async with session.get(base + path + "/events", ssl=context) as answer:
            assert "event: end" in await answer.text()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    AUTHORITY.pair().write(made)
    (made / "ca.pem").write_bytes(AUTHORITY.pem)
    return made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, folder: Path) -> AsyncIterator[Scene]:
    files = {"tls_certificate_file": str(folder / "tls.crt"), "tls_key_file": str(folder / "tls.key")}
    async with stage(trust=AUTHORITY.trust, **files) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


async def _run(program: str, *arguments: str) -> str:
    found = shutil.which(program)
    if found is None:
        missing(program)
    process = await asyncio.create_subprocess_exec(
        found, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(3 * PATIENCE):
            said, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def _done(scene: Scene) -> str:
    task = scene.id()
    return path_of(await scene.script("qingbo", task, qingbo_done(task)))


def _is_whole(said: str) -> bool:
    return '"status":"completed"' in said and "event: done" in said and "event: end" in said


async def test_curl_reads_a_stream_to_its_end(scene: Scene, folder: Path) -> None:
    url = scene.bridge.url + await _done(scene)
    for version in ("--tlsv1.3", "--tls-max=1.2"):
        words = ("--cacert", str(folder / "ca.pem"), *version.split("="), "-sS", "--max-time", "20")
        assert _is_whole(await _run("curl", *words, url + "/events"))


async def test_openssl_sees_the_chain_and_no_renegotiation(scene: Scene, folder: Path) -> None:
    place = urlsplit(scene.bridge.url)
    said = await _run(
        "openssl", "s_client", "-connect", place.netloc, "-CAfile", str(folder / "ca.pem"), "-tls1_2",
        "-alpn", "h2,http/1.1", "-verify_return_error",
    )  # fmt: skip
    assert "Verify return code: 0 (ok)" in said
    assert "ALPN protocol: http/1.1" in said


async def test_node_reuses_a_connection_and_reads_a_stream(scene: Scene, folder: Path) -> None:
    (folder / "client.cjs").write_text(NODE)
    said = await _run(
        "node", str(folder / "client.cjs"), scene.bridge.url, await _done(scene), str(folder / "ca.pem")
    )
    assert _is_whole(said)


async def test_go_is_content_with_http_1(scene: Scene, folder: Path) -> None:
    (folder / "client.go").write_text(GO)
    said = await _run(
        "go", "run", str(folder / "client.go"), scene.bridge.url, await _done(scene), str(folder / "ca.pem")
    )
    assert said.startswith("HTTP/1.1\n")
    assert _is_whole(said)


async def test_clients_of_python(scene: Scene, folder: Path) -> None:
    (folder / "client.py").write_text(PYTHON)
    said = await _run(
        sys.executable,
        str(folder / "client.py"),
        scene.bridge.url,
        await _done(scene),
        str(folder / "ca.pem"),
    )
    assert _is_whole(said)


async def test_a_page_in_a_browser_follows_a_task(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with launch_chromium() as browser:
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        await page.goto(f"{scene.bridge.url}/?task={ref}")
        script = f"""new Promise((resolve) => {{
            const events = new EventSource("{path_of(ref)}/events"), seen = [];
            const socket = new WebSocket(location.origin.replace("http", "ws") + "/v1/ws?task={ref}",
                                         "bridge.v1.json");
            socket.onmessage = (event) => seen.push(JSON.parse(event.data).type);
            events.onmessage = (event) => {{
                const state = JSON.parse(event.data);
                document.title = "at " + state.progress;
                if (state.status === "completed") resolve([...new Set(seen)].concat([location.protocol]));
            }};
        }})"""
        watching = asyncio.ensure_future(page.evaluate(script))
        await until(page.title, "at 5")
        await scene.then("qingbo", task, qingbo_done(task))
        async with asyncio.timeout(PATIENCE):
            seen = await watching
    assert "state" in seen
    assert seen[-1] == "https:"


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError("no resident size")


async def _stuck(scene: Scene, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(scene.bridge.url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (place.hostname, place.port))
    reader, writer = await asyncio.open_connection(
        sock=raw, ssl=scene.trust, server_hostname="localhost", limit=4096
    )
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return reader, writer


async def _leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("size", [20_000, 90_000])
async def test_a_client_that_stops_reading_is_aborted_and_holds_little(folder: Path, size: int) -> None:
    clients = 60
    files: dict[str, Any] = {
        "tls_certificate_file": str(folder / "tls.crt"),
        "tls_key_file": str(folder / "tls.key"),
    }
    async with (
        contextlib.AsyncExitStack() as stack,
        stage(trust=AUTHORITY.trust, write_timeout_seconds=6.0, **files) as scene,
    ):
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 0, note="x" * size))
        path = f"{path_of(ref)}/events?include=raw"
        opened = [await _stuck(scene, path) for _ in range(clients)]
        for _, writer in opened:
            stack.push_async_callback(_leave, writer)
        await scene.reaches('bridge_connections{delivery="sse"}', clients)
        idle, most, number = _resident(scene.bridge.process.pid), 0, 0
        for _, writer in opened:
            # below TLS, which would take another 256 KiB
            writer.transport._ssl_protocol._transport.pause_reading()  # type: ignore[attr-defined]
        conflated = False
        async with asyncio.timeout(2 * PATIENCE):
            while await scene.metric('bridge_connections{delivery="sse"}') > 0:
                number += 1
                note = chr(97 + number % 26) * size
                await scene.then("qingbo", task, qingbo(task, "processing", number % 100, note=note))
                most = max(most, _resident(scene.bridge.process.pid))
                conflated = conflated or await scene.metric('bridge_conflated_total{delivery="sse"}') > 0
                await asyncio.sleep(0.02)
        assert conflated
        assert (most - idle) / clients < 300
        # a machine that fills the buffers slowly may find that there was no acknowledgement for as long
        ended = [
            f'bridge_disconnects_total{{delivery="sse",reason="{reason}"}}' for reason in ("slow", "left")
        ]
        assert sum([await scene.metric(series) for series in ended]) == clients

"""A provider quotes the key it was sent, in every encoding and place: no client, log or file shows it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
import websockets
from aiohttp import web

from bridge.core.secrets import MASK
from tests.e2e.scene import QUICK
from tests.fakes.quoting import VALUES, WRITERS, is_found
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

KEY = "sk-S3cret_of/ours+0123456789=="
CALLBACK_SECRET = "callback/S3cret+of-ours"
DOCUMENT = {"id": "ID", "task_id": "ID", "status": "failed", "progress": 5}


def _json(document: Any) -> str:
    return orjson.dumps(document).decode()


def _links(key: str) -> dict[str, Any]:
    return {"videos": [{"url": f"https://cdn.example/{quoted(key)}"} for quoted in VALUES.values()]}


def _strings(key: str) -> list[str]:
    """The key in each way a JSON document can have it, as JSON strings."""
    written = {WRITERS["python"](f"key {quoted(key)}.") for quoted in VALUES.values()}
    return sorted(written | {write(key) for write in WRITERS.values()})


def _members(**members: str) -> Callable[[str], str]:
    """A task with further members, which contain each way at `ECHO`."""

    def document(key: str) -> str:
        more = [
            _json({name: value})[1:-1].replace('"ECHO"', string)
            for string in _strings(key)
            for name, value in members.items()
        ]
        return _json(DOCUMENT)[:-1] + "".join(f",{one}" for one in more) + "}"

    return document


def _all(key: str) -> str:
    return ", ".join(str(orjson.loads(string)) for string in _strings(key))


PLACES: dict[str, tuple[int, str, Callable[[str], str]]] = {
    "message": (200, "", lambda key: _json(DOCUMENT | {"error": {"message": _all(key)}})),
    "short": (200, "", lambda key: _json(DOCUMENT | {"error": {"code": key, "message": key}})),
    "raw": (200, "", _members(debug="ECHO")),
    "keys": (200, "", lambda key: _members(debug="ECHO")(key).replace('"debug":', f"{_strings(key)[0]}:")),
    "word": (200, "", lambda key: _json({"id": "ID", "status": key})),
    "link": (200, "", lambda key: _json({"id": "ID", "status": "completed", "result": _links(key)})),
    "type": (200, "; key={}", lambda _: _json(DOCUMENT)),
    "based": (200, "; key={base64}", lambda _: _json(DOCUMENT)),
    "refused": (400, "", lambda key: _json({"error": {"code": key, "message": _all(key)}})),
    "gone": (404, "", lambda key: _json({"error": {"message": _all(key)}})),
    "unreadable": (200, "; key={}", _all),
    "id": (200, "", lambda key: _json({"id": key, "task_id": key, "status": "processing"})),
    "page": (502, "", lambda key: f"<html>{_all(key)}"),
    "rejected": (401, "", lambda key: _json({"error": {"message": _all(key)}})),
}


# The last ones hold up every other call: a circuit breaker, a key that rests.
ALIKE = (*(list(PLACES)[at : at + 6] for at in range(0, 12, 6)), ["page"], ["rejected"])


class Quoting:
    """A provider that quotes what it was sent, as the task id or the model asks."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.calls: set[str] = set()

    async def answer(self, request: web.Request) -> web.Response:
        """Any call."""
        name = request.path.rpartition("/")[2]
        sent = await request.read()
        if sent and name != "cancel":
            name = orjson.loads(sent)["model"]
        if name == "cancel":
            name = request.path.split("/")[-2]
        key = request.headers["Authorization"].removeprefix("Bearer ")
        self.keys.add(key)
        self.calls.add(f"{request.method} {name}")
        # What it was sent besides: the callback address.
        quoted = key if b"callback" not in sent else f"{key} {sent.decode()}"
        status, kind, document = PLACES[name]
        kind = kind.format(quoted if quoted == key else key, base64=VALUES["base64"](key))
        body = document(quoted).replace('"ID"', f'"{name}"').encode("utf-8", "surrogatepass")
        headers = {"Content-Type": f"application/json{kind}", "X-Key": key}
        return web.Response(status=status, body=body, headers=headers)


class Reader:
    """A client of every door, which keeps what it read."""

    def __init__(self, bridge: BridgeProcess, http: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        self.bridge = bridge
        self.headers = headers
        self.read: dict[str, str] = {}
        self._http = http

    async def call(self, method: str, path: str, **more: Any) -> None:
        headers = self.headers | more.pop("headers", {})
        text = b""
        async with self._http.request(method, self.bridge.url + path, headers=headers, **more) as answer:
            head = repr(sorted(answer.headers.items()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.7):
                    async for part in answer.content.iter_any():
                        text += part
        self.read[f"{method} {path} {headers.get('Accept')}"] = f"{head}\n{text.decode()}"

    async def converse(self, ref: str) -> None:
        url = f"{self.bridge.url.replace('http', 'ws')}/v1/ws?task={ref}&include=raw"
        said = []
        with contextlib.suppress(TimeoutError, websockets.ConnectionClosed, websockets.InvalidStatus):
            async with websockets.connect(url, additional_headers=self.headers) as socket:
                async with asyncio.timeout(0.7):
                    while True:
                        said.append(str(await socket.recv()))
        self.read[f"socket {ref}"] = "\n".join(said)

    async def every_door(self, name: str) -> None:
        ref = f"qingbo/{name}"
        await asyncio.gather(
            self.call("GET", f"/v1/tasks/{ref}?include=raw,data"),
            self.call("GET", f"/v1/tasks/{ref}/events?include=raw"),
            self.call("GET", f"/v1/tasks/{ref}/events", headers={"Accept": "application/x-ndjson"}),
            self.call("GET", f"/proxy/qingbo/v1/tasks/{name}"),
            self.converse(ref),
        )
        await asyncio.gather(
            self.call("POST", "/v1/tasks/qingbo", json={"model": name}),
            self.call("POST", "/proxy/qingbo/v1/tasks", json={"model": name}),
            self.call("POST", f"/v1/tasks/{ref}/cancel"),
        )


@asynccontextmanager
async def quoting() -> AsyncIterator[tuple[Quoting, str]]:
    provider = Quoting()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield provider, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode("latin-1") for path in folder.iterdir()}


async def masked(reader: Reader, path: str) -> None:
    """What is read there has a mask for the key, else nothing was quoted; a first poll may take long."""
    async with asyncio.timeout(PATIENCE):
        while MASK.decode() not in reader.read[f"GET {path} None"]:
            await reader.call("GET", path)


@pytest.mark.parametrize("whose", ["operator", pytest.param("caller", marks=pytest.mark.extended)])
async def test_no_door_shows_a_key_that_the_provider_quotes(whose: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "log_level": "debug",
        "journal": f"sqlite:{tmp_path}/bridge.db",
        "public_url": "https://bridge.example",
        "first_state_timeout_seconds": 0.5,
    }
    upstream: dict[str, Any] = QUICK | {"callback_secret": CALLBACK_SECRET, "requests_per_second": 500}
    headers = {}
    if whose == "caller":
        headers = {"Authorization": f"Bearer {KEY}"}
        settings |= {"auth": "upstream-key", "account_secret": "what accounts are named with, a secret"}
    else:
        upstream["api_key"] = KEY
    async with (
        quoting() as (provider, url),
        running_bridge({"qingbo": upstream | {"base_url": url}}, **settings) as bridge,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
    ):
        reader = Reader(bridge, http, headers)
        for some in ALIKE:
            await asyncio.gather(*map(reader.every_door, some))
            if "raw" in some:
                await masked(reader, "/v1/tasks/qingbo/raw?include=raw,data")
        if whose == "operator":
            address = "/v1/callbacks/qingbo/" + quote(CALLBACK_SECRET, safe="")
            await reader.call("POST", address, json={"task_id": KEY, "status": "completed"})
            await reader.call("POST", address, json={"challenge": KEY})
            await reader.call("GET", "/status")
            await reader.call("GET", "/metrics")
        assert await bridge.stop() == 0
    assert provider.keys == {KEY}
    assert {f"GET {name}" for name in PLACES} <= provider.calls
    assert {f"POST {name}" for name in PLACES} - provider.calls <= {"POST rejected"}
    read = reader.read | {"log": "".join(bridge.log)}
    read |= await asyncio.to_thread(_files, tmp_path)
    for door, text in read.items():
        for secret in (KEY, CALLBACK_SECRET):
            assert secret.lower() not in text.lower(), door
            for line in text.splitlines() if door == "log" else [text]:
                assert not is_found(secret, line), (door, line[:2000])

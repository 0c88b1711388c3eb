"""Nothing secret comes out: secrets everywhere, every failure we know, at debug level; then we search.

A failure of a provider is one line in `PROVIDER`; a request that carries a secret where it can, one in
`PLACES` or `REQUESTS`; a secret, one call of `MARKERS`. What is heard on the way is judged at the end,
together with the log, the journal, the metrics, the traces and the arguments of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import orjson
import pytest
import websockets
from click.testing import CliRunner

from bridge.cli import main
from bridge.telemetry.redaction import MASK
from tests.e2e.markers import Markers
from tests.e2e.test_tracing import Receiver, receiving
from tests.fakes.credentials import ISSUER, token
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

MARKERS = Markers()
new = MARKERS.new

API_KEY, OTHER_KEY = new("api-key"), new("other-api-key")
TOKEN_SECRET, OLD_TOKEN_SECRET = new("token-secret"), new("old-token-secret")
TICKET_SECRET, ACCOUNT_SECRET = new("ticket-secret"), new("account-secret")
CALLBACK_SECRET = new("callback-secret")
SIGNING_KEY = "whsec_" + b64encode(new("callback-signing-key").encode()).decode()
MARKERS.add("callback-signing-key as text", SIGNING_KEY, SIGNING_KEY[6:40])
OTLP_KEY = new("otlp-key")
PROVIDER_COOKIE, PROVIDER_LOCATION = new("provider-cookie"), new("provider-location")
RESULT_URL = f"https://cdn.example/v.mp4?X-Amz-Signature={new('result-url')}&Expires=4102444800"
BEARER, COOKIE, OWN_KEY = new("caller-bearer"), new("caller-cookie"), new("caller-own-key")
GARBAGE_TICKET, QUERY, PASSWORD = new("caller-ticket"), new("caller-query"), new("caller-password")
GUESSED_CALLBACK, CALLBACK_BODY, SUBMITTED = (
    new("guessed-callback"),
    new("callback-body"),
    new("submitted-body"),
)


def jwt(name: str, *tasks: str, **more: Any) -> str:
    made = token(*tasks, **({"secret": TOKEN_SECRET, "scope": "read submit cancel admin"} | more))
    return MARKERS.add(name, made, made.rpartition(".")[2][:24])


TOKEN = jwt("token", "*")
BAD_TOKENS = [
    jwt("expired-token", "*", seconds=-3600),
    jwt("foreign-token", "*", secret=new("foreign-secret")),
    jwt("foreign-issuer", "*", iss="somebody"),
    jwt("foreign-audience", "*", aud="somebody"),
    jwt("token-of-no-scope", "*", scope="none"),
    jwt("token-of-others", "qingbo/of-somebody-else"),
    jwt("token-with-odd-claims", "*", tasks={"a": 1}),
]

# What the provider answers, by the last part of the path: status, body, further headers. Each echoes our key.
RESETS, HANGS = 0, -1
GOOD = {"status": "completed", "progress": 100, "result": {"videos": [{"url": [RESULT_URL]}]}}
PROVIDER: Mapping[str, tuple[int, Any, Mapping[str, str]]] = {
    "processing": (200, {"status": "processing", "progress": 5}, {}),
    "completed": (200, GOOD, {}),
    "failed": (200, {"status": "failed", "error": {"code": "x", "message": "echo"}}, {}),
    "unknown-word": (200, {"status": "echo"}, {}),
    "wrong-type": (200, [["echo"]], {}),
    "html": (200, "<html>echo", {"Content-Type": "text/html"}),
    "garbage": (200, "{echo", {}),
    "huge": (200, "echo" * 2_500_000, {}),
    "400": (400, {"error": {"code": "echo", "message": "echo"}}, {}),
    "401": (401, {"error": {"code": "invalid_api_key", "message": "Incorrect API key provided: echo"}}, {}),
    "402": (402, {"message": "echo"}, {}),
    "403": (403, {"detail": "echo"}, {}),
    "404": (404, {"message": "echo"}, {}),
    "409": (409, {"message": "echo"}, {}),
    "429": (429, {"error": {"message": "echo"}}, {"Retry-After": "1"}),
    "500": (500, "echo", {}),
    "503": (503, {"message": "echo"}, {"Retry-After": "echo"}),
    "redirect": (302, "", {"Location": f"https://echo.example/?key={PROVIDER_LOCATION}"}),
    "reset": (RESETS, "", {}),
    "hang": (HANGS, "", {}),
    "cut-short": (200, "echo", {"Content-Length": "1000"}),
    "bad-length": (200, "echo", {"Content-Length": "echo"}),
}

# Where a client can put a credential, and what it must not put there.
PLACES: Sequence[tuple[dict[str, str], str]] = [
    ({"Authorization": f"Bearer {BEARER}"}, ""),
    ({"Authorization": f"Basic {b64encode(f'user:{PASSWORD}'.encode()).decode()}"}, ""),
    ({"Authorization": f"Key {OWN_KEY}"}, ""),
    ({"Authorization": OWN_KEY}, ""),
    ({"X-Api-Key": OWN_KEY}, ""),
    ({"Cookie": f"bridge_token={COOKIE}; other={COOKIE}"}, ""),
    ({"Cookie": f"bridge_token={COOKIE}", "Origin": "https://stranger.example"}, ""),
    ({}, f"ticket={GARBAGE_TICKET}"),
    ({}, f"ticket={TOKEN}"),
    ({}, f"access_token={QUERY}&key={QUERY}"),
    ({"Last-Event-ID": QUERY}, f"last_event_id={QUERY}"),
    ({"Authorization": f"Bearer {TOKEN}", "X-Request-Id": f"a {BEARER}", "traceparent": BEARER}, ""),
    (
        {
            "Authorization": f"Bearer {TOKEN}",
            "Proxy-Authorization": BEARER,
            "Referer": f"https://x.example/?{QUERY}",
        },
        "",
    ),
    *[({"Authorization": f"Bearer {bad}"}, "") for bad in BAD_TOKENS],
    *[({}, f"ticket={bad}") for bad in BAD_TOKENS[:2]],
]

# What is asked with each of them.
REQUESTS: Sequence[tuple[str, str, Any]] = [
    ("GET", "/v1/tasks/qingbo/401", None),
    ("GET", "/v1/tasks/nowhere/x", None),
    ("HEAD", "/v1/tasks/qingbo/processing/events", None),
    ("POST", "/v1/tasks/qingbo", {"model": "401", "prompt": SUBMITTED}),
    ("POST", "/v1/tasks/qingbo/completed/cancel", None),
    ("POST", "/v1/events", {"tasks": ["nowhere/x"], "extra": SUBMITTED}),
    ("GET", "/v1/aliases/bytespike/a", None),
    ("POST", "/v1/tickets", {"tasks": ["qingbo/*"]}),
    ("GET", "/proxy/qingbo/v1/tasks/401", None),
    ("PATCH", "/proxy/qingbo/v1/nothing", SUBMITTED),
    ("POST", f"/v1/callbacks/qingbo/{GUESSED_CALLBACK}", {"task_id": "processing", "x": CALLBACK_BODY}),
    ("POST", f"/v1/callbacks/qingbo/{CALLBACK_SECRET}", {"task_id": "processing", "x": CALLBACK_BODY}),
    ("POST", f"/v1/callbacks/replicate/{CALLBACK_SECRET}", {"id": "processing", "x": CALLBACK_BODY}),
    ("POST", f"/v1/callbacks/nowhere/{CALLBACK_SECRET}", "{not json"),
    ("GET", f"/v1/callbacks/qingbo/{CALLBACK_SECRET}", None),
    ("GET", f"/nothing/{QUERY}", None),
]

# What no library sends.
RAW: Sequence[bytes] = [
    f"GET /v1/ws?ticket={GARBAGE_TICKET} HTTP/9.9\r\n\r\n".encode(),
    f"GET /livez HTTP/1.1\r\nHost x\r\nAuthorization: Bearer {BEARER}\r\n\r\n".encode(),
    f"GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BEARER}\xff\x00\r\n\r\n".encode("latin-1"),
    f"POST /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: -1\r\n\r\n".encode(),
    f"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{SUBMITTED}".encode(),
    f"GET /x?{QUERY * 3000} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    f"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nCookie: a={COOKIE}\r\n\r\n".encode(),
    f"{BEARER}\r\n\r\n".encode(),
]

# A complaint quotes what was wrong, so the secret stands where it is not quoted.
MESSAGES: Sequence[str | bytes] = [
    BEARER,
    b"\xff" + BEARER.encode(),
    orjson.dumps({"type": "authenticate", "id": 1, "token": BEARER}).decode(),
    orjson.dumps({"type": "subscribe", "tasks": ["nowhere/x"], "after": BEARER}).decode(),
    orjson.dumps(
        {"type": "subscribe", "tasks": ["qingbo/401", "qingbo/completed"], "ticket": BEARER}
    ).decode(),
    BEARER * 3000,
]

SERVES_RESULTS = {"result-url"}  # those who may read a task get its links


@dataclass
class Heard:
    """What came out, and where."""

    said: list[tuple[str, bytes, frozenset[str]]] = field(default_factory=list)

    def __call__(
        self, where: str, what: str | bytes, *, but: set[str] | frozenset[str] = frozenset()
    ) -> None:
        octets = what.encode("utf-8", "surrogateescape") if isinstance(what, str) else what
        self.said.append((where, octets, frozenset(but)))

    def judge(self, *, least: int = 1) -> None:
        """Fail with every secret and the place where it came out.

        Args:
            least: How much must have been heard for that to mean anything.
        """
        leaks = [(where, found) for where, what, but in self.said if (found := MARKERS.found(what, but=but))]
        assert not leaks, leaks
        assert len(self.said) >= least, "most of it was never heard"


class Gossip:
    """A provider that repeats what it was told, in every way it can fail."""

    def __init__(self) -> None:
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        sent = {name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+): *(.*?)\r$", head)}
        name = head.split(" ")[1].partition("?")[0].rpartition("/")[2]
        body = await reader.readexactly(int(sent.get("content-length", 0)))
        if body and name != "cancel":
            name = str(orjson.loads(body).get("model"))
        echo = sent.get("authorization", "nobody")
        status, said, headers = PROVIDER.get(name, PROVIDER["404"])
        if status == HANGS:
            await reader.read()
        if status in {HANGS, RESETS}:
            writer.transport.abort()
            return
        document = {"id": name, "task_id": name} | said if isinstance(said, dict) else said
        text = said if isinstance(said, str) else orjson.dumps(document).decode()
        octets = text.replace("echo", echo).encode()
        lines = {
            "Content-Type": "application/json",
            "Content-Length": str(len(octets)),
            "Set-Cookie": f"session={PROVIDER_COOKIE}",
            "X-Echo": echo,
            "Connection": "close",
        } | {name: value.replace("echo", quote(echo)) for name, value in headers.items()}
        first = f"HTTP/1.1 {status} Said\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items()
        )
        writer.write(first.encode() + b"\r\n" + octets)
        await writer.drain()


def batched(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """So many at a time, as a busy day has them."""
    left = list(values)
    while left:
        yield left[:size]
        del left[:size]


@asynccontextmanager
async def gossiping() -> AsyncIterator[Gossip]:
    gossip = Gossip()
    server = await asyncio.start_server(gossip.serve, "127.0.0.1", 0, limit=2**20)
    gossip.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield gossip


def upstreams(gossip: Gossip, *, keys: bool = True) -> dict[str, dict[str, Any]]:
    """The gossip under several names, and providers that cannot be reached in several ways."""
    quick = {
        "poll_min_seconds": 0.05,
        "poll_max_seconds": 0.1,
        "timeout_seconds": 0.4,
        "submit_timeout_seconds": 0.4,
    }
    mine = quick | {"callback_secret": CALLBACK_SECRET} | ({"api_key": API_KEY} if keys else {})
    other = mine | ({"api_key": OTHER_KEY} if keys else {})
    return {
        "qingbo": mine | {"base_url": gossip.url},
        "bytespike": other | {"base_url": gossip.url},
        "replicate": mine | {"base_url": gossip.url, "callback_signing_key": SIGNING_KEY},
        "closed": mine | {"preset": "qingbo", "base_url": "http://127.0.0.1:9"},
        "tls": mine | {"preset": "qingbo", "base_url": gossip.url.replace("http:", "https:")},
        "dns": mine | {"preset": "qingbo", "base_url": "http://nowhere.invalid"},
    }


@dataclass
class House:
    """A bridge with secrets, and everything it says."""

    bridge: BridgeProcess
    operations: str
    http: aiohttp.ClientSession
    heard: Heard
    credential: dict[str, str]

    async def ask(self, method: str, path: str, body: Any = None, *, base: str = "", **more: Any) -> bytes:
        """One request; all of the answer is heard."""
        data = body.encode() if isinstance(body, str) else orjson.dumps(body) if body is not None else None
        where = f"{method} {path[:60]}"
        url = (base or self.bridge.url) + path
        try:
            async with self.http.request(method, url, data=data, allow_redirects=False, **more) as answer:
                said = await answer.read()
        except aiohttp.ClientConnectionError:
            return b""  # it was refused before its body was read, and our library had not finished sending
        self.heard(f"{where} head", repr(sorted(answer.headers.items())))
        if "/v1/tickets" not in path or answer.status >= 300:
            may = SERVES_RESULTS if answer.status < 300 else set()
            self.heard(f"{where} {answer.status}", said, but=may)
        return said

    async def stream(self, path: str, *, seconds: float = 1.0, **headers: str) -> None:
        """Listen until the stream says something that is no state, or it ends."""
        said = b""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with (
                asyncio.timeout(seconds),
                self.http.get(self.bridge.url + path, headers=self.credential | headers) as answer,
            ):
                self.heard(f"stream {path} head", repr(sorted(answer.headers.items())))
                async for part in answer.content.iter_any():
                    said += part
                    if b"notice" in said or b'"done"' in said or b"reset" in said:
                        break
        self.heard(f"stream {path}", said, but=SERVES_RESULTS)

    async def converse(self, query: str, headers: dict[str, str], messages: Sequence[str | bytes]) -> None:
        """Say things on a WebSocket."""
        url = self.bridge.url.replace("http", "ws", 1) + f"/v1/ws?{query}"
        for message in messages or [""]:
            try:
                async with websockets.connect(
                    url, additional_headers=headers, open_timeout=PATIENCE
                ) as socket:
                    await socket.send(message)
                    async with asyncio.timeout(0.3):
                        while True:
                            said = await socket.recv(decode=False)
                            self.heard("websocket", said, but=SERVES_RESULTS)
            except websockets.InvalidStatus as error:
                self.heard("handshake", bytes(error.response.body) + repr(error.response.headers).encode())
            except websockets.ConnectionClosed as error:
                self.heard("close", repr(error.rcvd))
            except TimeoutError:
                pass

    async def sweep(self) -> None:
        """Every failure of the provider by every road, every place for a credential with every request."""
        mine = self.credential
        for some in batched(PROVIDER, 6):
            roads = [
                road
                for name in some
                for road in (
                    self.ask("GET", f"/v1/tasks/qingbo/{name}?include=raw,data", headers=mine),
                    self.ask("GET", f"/proxy/qingbo/v1/tasks/{name}", headers=mine),
                    self.ask("POST", "/v1/tasks/qingbo", {"model": name, "prompt": SUBMITTED}, headers=mine),
                    self.ask(
                        "POST", "/proxy/qingbo/v1/tasks", {"model": name, "prompt": SUBMITTED}, headers=mine
                    ),
                    self.ask("POST", f"/v1/tasks/qingbo/{name}/cancel", headers=mine),
                    self.stream(f"/v1/tasks/qingbo/{name}/events"),
                    self.stream(
                        f"/v1/tasks/bytespike/{name}/events?include=raw", Accept="application/x-ndjson"
                    ),
                )
            ]
            await asyncio.gather(*roads)
        await asyncio.gather(
            *(self.stream(f"/v1/tasks/{name}/x/events") for name in ("closed", "tls", "dns", "replicate"))
        )
        for some in batched(PLACES, 4):
            await asyncio.gather(*(self.call_everything(headers, query) for headers, query in some))
        await self.converse("task=qingbo/failed", mine, MESSAGES)
        await asyncio.gather(*map(self.shout, RAW))

    async def call_everything(self, headers: dict[str, str], query: str) -> None:
        """Every request with a credential in this place."""
        mark = "&" if query else ""
        await asyncio.gather(
            *(self.ask(method, f"{path}?{query}", body, headers=headers) for method, path, body in REQUESTS),
            self.ask("GET", f"/v1/events?task=nowhere/x{mark}{query}", headers=headers),
            self.converse(query, headers, []),
            *(
                self.ask("GET", f"{path}?{query}", headers=headers, base=self.operations)
                for path in ("/status", "/x")
            ),
        )

    async def shout(self, data: bytes) -> None:
        """Send bytes and hear what comes."""
        parts = urlsplit(self.bridge.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(data)
        writer.write_eof()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                self.heard("raw", await reader.read())
        writer.close()

    async def look_around(self) -> None:
        """Everything that can be read of a running process."""
        for path in ("/status", "/metrics", "/readyz", "/livez"):
            for accept in ("*/*", "application/openmetrics-text"):
                said = await self.ask(
                    "GET", path, headers=self.credential | {"Accept": accept}, base=self.operations
                )
                assert said
        arguments = Path(f"/proc/{self.bridge.process.pid}/cmdline")
        self.heard("arguments", await asyncio.to_thread(arguments.read_bytes))

    def end(self, folder: Path, receiver: Receiver | None = None) -> None:
        """Everything that stays of a process that has ended."""
        log = "".join(self.bridge.log)
        assert '"level": "debug"' in log
        self.heard("log", log)
        for path in folder.rglob("*"):
            self.heard(f"journal {path.name}", path.read_bytes(), but=SERVES_RESULTS)
        if receiver is not None:
            assert receiver.spans
            for body in receiver.bodies:
                self.heard("traces", body)


@asynccontextmanager
async def house(
    gossip: Gossip, credential: dict[str, str], *, under: Sequence[str] = (), **settings: Any
) -> AsyncIterator[House]:
    """A bridge at debug level, its event loop too."""
    environment = settings.pop("environment", {}) | {"PYTHONASYNCIODEBUG": "1"}
    wishes = {
        "log_level": "debug",
        "first_state_timeout_seconds": 0.3,
        "linger_seconds": 0.2,
        "drain_seconds": 0.2,
    }
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    jar = aiohttp.DummyCookieJar()
    async with (
        running_bridge(
            upstreams(gossip, keys=settings.get("auth") != "upstream-key"),
            environment=environment,
            under=under,
            **wishes | settings,
        ) as bridge,
        aiohttp.ClientSession(
            timeout=timeout, cookie_jar=jar, connector=aiohttp.TCPConnector(limit=0, force_close=True)
        ) as http,
    ):
        assert bridge.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await bridge.process.stdout.readline()).decode()
        found = re.search(r"http://\S+", line)
        assert found, line
        yield House(bridge, found[0], http, Heard(), credential)


def nothing_needed_the_net(log: list[str]) -> None:
    """Our own code never even tried: what the last net catches is a library's, or a bug."""
    caught = [line for line in log if MASK in line and '"logger": "bridge.' in line]
    assert not caught, caught


async def test_with_tokens_nothing_secret_comes_out(tmp_path: Path) -> None:
    async with gossiping() as gossip, receiving() as receiver:
        settings = {
            "auth": "token",
            "token_secrets": [TOKEN_SECRET, OLD_TOKEN_SECRET],
            "token_issuer": ISSUER,
            "journal": f"sqlite:{tmp_path}/bridge.db",
            "otlp_endpoint": receiver.url,
            "public_url": "https://bridge.example",
            "environment": {"OTEL_EXPORTER_OTLP_HEADERS": f"api-key={OTLP_KEY}"},
        }
        async with house(gossip, {"Authorization": f"Bearer {TOKEN}"}, **settings) as place:
            answer = await place.ask(
                "POST", "/v1/tickets", {"tasks": ["qingbo/completed"]}, headers=place.credential
            )
            ticket = orjson.loads(answer)["ticket"]
            MARKERS.add("ticket", ticket, ticket.rpartition(".")[2][:24])
            await place.stream(f"/v1/tasks/qingbo/completed/events?ticket={ticket}")
            await place.ask("GET", f"/v1/tasks/qingbo/401/events?ticket={ticket}")
            await place.converse(f"ticket={ticket}&task=qingbo/completed", {}, ["{}"])
            await place.sweep()
            (tmp_path / "bridge.db").rename(tmp_path / "away.db")  # the journal fails
            await place.ask("POST", "/v1/tasks/qingbo", {"model": "completed"}, headers=place.credential)
            await place.look_around()
            (tmp_path / "away.db").rename(tmp_path / "bridge.db")
            await hear_commands(place)
            streams = [
                asyncio.create_task(place.stream("/v1/tasks/qingbo/processing/events", seconds=9))
                for _ in range(3)
            ]
            await asyncio.sleep(0)
            assert await place.bridge.stop() == 0
            await asyncio.gather(*streams)
        place.end(tmp_path, receiver)
    place.heard.judge(least=800)
    nothing_needed_the_net(place.bridge.log)


@pytest.mark.extended
async def test_with_keys_of_callers_nothing_secret_comes_out_even_after_a_kill(tmp_path: Path) -> None:
    async with gossiping() as gossip:
        settings = {
            "auth": "upstream-key",
            "account_secret": ACCOUNT_SECRET,
            "ticket_secret": TICKET_SECRET,
            "journal": f"sqlite:{tmp_path}/bridge.db",
            "max_new_keys_per_minute_per_address": 0,
        }
        async with house(gossip, {"Authorization": f"Bearer {OWN_KEY}"}, **settings) as place:
            await place.sweep()
            await place.look_around()
            assert await place.bridge.stop(signal.SIGKILL) == -signal.SIGKILL
        place.end(tmp_path)
    place.heard.judge(least=800)
    nothing_needed_the_net(place.bridge.log)


BUGGY = """
import os, sys
from bridge.watchers.pool import Pool
tick = Pool.tick
async def dies(self):
    await tick(self)
    if os.path.exists(os.environ["DIE"]):
        secrets = [repr(vars(one.session)) for one in self.upstreams.values()]
        raise RuntimeError(f"{os.environ['BRIDGE_UPSTREAMS']} {secrets} {os.environ['BRIDGE_TICKET_SECRET']}")
Pool.tick = dies
from bridge.cli import main
sys.argv = ["bridge", "serve"]
main()
"""


async def test_a_key_server_that_fails_and_a_bug_that_ends_the_bridge_tell_nothing_secret(
    tmp_path: Path,
) -> None:
    die = tmp_path / "die"
    async with gossiping() as gossip:
        settings = {
            "auth": "token",
            "token_jwks_url": f"{gossip.url}/garbage",
            "token_issuer": ISSUER,
            "ticket_secret": TICKET_SECRET,
            "environment": {"DIE": str(die)},
        }
        async with house(gossip, {}, under=(sys.executable, "-c", BUGGY), **settings) as place:
            for headers, query in PLACES:
                await place.ask("GET", f"/v1/tasks/qingbo/401?{query}", headers=headers)
            await place.look_around()
            die.touch()
            async with asyncio.timeout(PATIENCE):
                assert await place.bridge.process.wait() == 1
        place.end(tmp_path / "nothing")
    assert "unhandled exception in bridge" in "".join(place.bridge.log)
    assert MASK in "".join(place.bridge.log)
    place.heard.judge()


async def hear_commands(place: House) -> None:
    """What the commands print, whatever goes wrong."""
    url = place.bridge.url
    secret = {
        "BRIDGE_UPSTREAMS__QINGBO__API_KEY": API_KEY,
        "BRIDGE_UPSTREAMS__QINGBO__CALLBACK_SECRET": CALLBACK_SECRET,
        "BRIDGE_TOKEN_SECRETS": orjson.dumps([TOKEN_SECRET]).decode(),
        "BRIDGE_TOKEN_ISSUER": ISSUER,
        "BRIDGE_TICKET_SECRET": TICKET_SECRET,
        "BRIDGE_AUTH": "token",
        "BRIDGE_TOKEN": TOKEN,
        "BRIDGE_URL": url,
    }
    good = {name: value for name, value in secret.items() if name != "BRIDGE_TICKET_SECRET"}
    bad = secret | {
        "BRIDGE_PORT": API_KEY,
        "BRIDGE_HOST": "0.0.0.0",
        "BRIDGE_JOURNAL": CALLBACK_SECRET,
        "BRIDGE_LOG_LEVEL": TOKEN_SECRET,
        "BRIDGE_TOKEN_JWKS_URL": f"https://user:{PASSWORD}@x.example/?{QUERY}",
        "BRIDGE_ALLOWED_ORIGINS": API_KEY,
        "BRIDGE_UPSTREAMS__QINGBO__BASE_URL": f"https://user:{PASSWORD}@x.example/?key={API_KEY}",
        "BRIDGE_UPSTREAMS__QINGBO__PRESET": "nothing",
        "BRIDGE_UPSTREAMS__QINGBO__MAX_IN_FLIGHT": API_KEY,
        "BRIDGE_UPSTREAMS__KLING__API_KEY": API_KEY,
        "BRIDGE_UPSTREAMS__REPLICATE__CALLBACK_SIGNING_KEY": CALLBACK_SECRET,
        "BRIDGE_OTLP_ENDPOINT": f"https://user:{PASSWORD}@x.example/",
    }
    for arguments, environment in [
        (["check-config"], good),
        (["check-config"], bad),
        (["serve"], bad),
        (["check-config", "--config", "/nowhere"], bad),
        (["health"], secret),
        (["health", "--url", f"http://user:{PASSWORD}@127.0.0.1:9/?{QUERY}"], secret),
        *[
            ([*command, "--help"], secret)
            for command in ([], ["serve"], ["watch"], ["submit"], ["token", "mint"], ["demo"])
        ],
        (["watch", "qingbo/completed", "--json"], secret),
        (["watch", "qingbo/401", "--json", "--token", BAD_TOKENS[0]], secret),
        (["watch", "nowhere/x", "--json"], secret),
        (
            [
                "watch",
                "qingbo/401",
                "--json",
                "--url",
                "http://127.0.0.1:9",
                "--token",
                BEARER,
                "--retries",
                "0",
            ],
            secret,
        ),
        (["submit", "qingbo", orjson.dumps({"model": "401"}).decode()], secret),
        (["token", "mint", "--tasks", "*", "--seconds", "-1"], secret),
    ]:
        result = await asyncio.to_thread(
            CliRunner().invoke,
            main,
            arguments,
            env={"BRIDGE_CONFIG": None, **environment},
            catch_exceptions=True,
        )
        assert not isinstance(result.exception, Exception), (arguments, result.exception)
        place.heard(f"bridge {' '.join(arguments)[:40]}", result.output, but=SERVES_RESULTS)


@pytest.mark.parametrize("name", ["api-key", "result-url", "token", "callback-signing-key as text"])
def test_the_judge_sees_a_secret_in_every_shape(name: str) -> None:
    core = MARKERS.cores[name]
    for shape in (core, f"x{core}y", quote(core), repr(core.encode()), orjson.dumps({"a": core}).decode()):
        heard = Heard()
        heard("somewhere", shape)
        with pytest.raises(AssertionError, match="somewhere"):
            heard.judge()
    for shift in range(3):
        secret = b"x" * shift + core.encode() + b"tail"
        assert name in MARKERS.found(b64encode(secret))


def test_the_judge_lets_through_what_may_be_there() -> None:
    heard = Heard()
    heard("an event", RESULT_URL, but=SERVES_RESULTS)
    heard.judge()
    with pytest.raises(AssertionError):
        Heard().judge()

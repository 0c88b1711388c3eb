"""`x-fal-target-url`: the address a client would have called stands for a path, never for a host to call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.e2e import raw
from tests.e2e.scene import QUICK, Reply
from tests.e2e.test_presets import Stub, stub
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

ID = "7d0f0c4e-5a6b-4a57-9c3e-2f4f6a1b9d10"
AT = f"/fal-ai/flux/requests/{ID}"
STATUS = f"https://queue.fal.run{AT}/status"
HEADER = "x-fal-target-url"
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One bridge for all."""
    return "asyncio"


@pytest.fixture(scope="module")
async def provider(anyio_backend: str) -> AsyncIterator[Stub]:
    async with stub() as made:
        for query in ("", "?logs=1"):  # the bridge may ask for logs as soon as a test has
            made.answers[f"GET {AT}/status{query}"] = {
                "status": "IN_PROGRESS",
                "request_id": ID,
                "logs": None,
            }
        yield made


@pytest.fixture(scope="module")
async def bridge(provider: Stub) -> AsyncIterator[BridgeProcess]:
    fal = {"base_url": provider.url, "api_key": "the-key", **QUICK}
    upstreams = {"fal": fal, "qingbo": {"base_url": provider.url, "api_key": "the-key"}}
    async with running_bridge(upstreams, allowed_origins=[PAGE]) as made:
        yield made
        assert "Traceback" not in "".join(made.log)


async def ask(
    bridge: BridgeProcess, target: str, method: str = "GET", path: str = "/proxy/fal", **more: Any
) -> Reply:
    headers = {HEADER: target, **more.pop("headers", {})}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        http.request(
            method, URL(bridge.url + path, encoded=True), headers=headers, allow_redirects=False, **more
        ) as answer,
    ):
        return Reply(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def silent(provider: Stub) -> AsyncIterator[None]:
    """Nothing is sent to the provider meanwhile about a task that this test names."""
    before = [call for call, _ in provider.asked if ID not in call]
    yield
    assert [call for call, _ in provider.asked if ID not in call] == before


async def exchange(bridge: BridgeProcess, request: bytes) -> bytes:
    """Everything that comes back on a connection of its own."""
    async with asyncio.timeout(PATIENCE), raw.connection(bridge.url) as (reader, writer):
        writer.write(request)
        return await reader.read()


@pytest.mark.parametrize("path", ["/proxy/fal", "/proxy/fal/", "/proxy/fal?cache=7"])
@pytest.mark.parametrize("target", [STATUS, f"{STATUS}?logs=0", STATUS.replace("queue.fal", "QUEUE.Fal")])
async def test_an_address_at_the_providers_host_is_served_as_its_path(
    bridge: BridgeProcess, target: str, path: str
) -> None:
    reply = await ask(bridge, target, path=path)
    assert (reply.status, reply.json["status"]) == (200, "IN_PROGRESS")
    assert reply.headers["x-fal-request-id"] == ID


FOREIGN = [
    "",
    "queue.fal.run/a/b",
    "//queue.fal.run/a/b",
    "/a/b",
    "http://queue.fal.run/a/b",
    "HTTPS://queue.fal.run/a/b",
    "ftp://queue.fal.run/a/b",
    "https:queue.fal.run/a/b",
    "https:/queue.fal.run/a/b",
    "https:///queue.fal.run/a/b",
    "https:\\\\queue.fal.run\\a\\b",
    "https://queue.fal.run\\a/b",
    "https://queue.fal.run\\@evil.example/a/b",
    "https://queue.fal.run",
    "https://queue.fal.run?x=/a/b",
    "https://queue.fal.run#/a/b",
    "https://queue.fal.run/a/b#fragment",
    "https://queue.fal.run:443/a/b",
    "https://queue.fal.run:8443/a/b",
    "https://queue.fal.run:/a/b",
    "https://queue.fal.run./a/b",
    "https://.queue.fal.run/a/b",
    "https://queue..fal.run/a/b",
    "https://queue%2Efal%2Erun/a/b",
    "https://queue.fal.run%00.evil.example/a/b",
    "https://queue.fal.run%2F@evil.example/a/b",
    "https://me@queue.fal.run/a/b",
    "https://me:pass@queue.fal.run/a/b",
    "https://queue.fal.run@evil.example/a/b",
    "https://queue.fal.run.evil.example/a/b",
    "https://evil.example/queue.fal.run/a/b",
    "https://evilqueue.fal.run/a/b",
    "https://fal.run.evil.example/a/b",
    "https://other.fal.run/a/b",
    "https://fal.ai/a/b",
    "https://xn--queue-fal-run/a/b",
    "https://xn--fal-xyz.run/a/b",
    "https://127.0.0.1/a/b",
    "https://[::1]/a/b",
    "https://169.254.169.254/latest/meta-data/a",
    "https://localhost/a/b",
    "file:///etc/passwd",
    " https://queue.fal.run/a/b https://evil.example/",
    "https://queue.fal.run/a/b, https://evil.example/a/b",
    "https://queue.fal.run/a b",
    "https://queue.fal.run/a\tb",
    "https://queue.fal.run/" + "a/" * 3000,
    "javascript:alert(1)",
    "data:text/plain,x",
]


@pytest.mark.parametrize("target", FOREIGN)
async def test_any_other_address_is_refused_and_nothing_is_sent(
    bridge: BridgeProcess, provider: Stub, target: str
) -> None:
    async with silent(provider):
        for method in ("GET", "POST", "PUT"):
            reply = await ask(bridge, target, method)
            assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request"), method
            assert reply.json["message"] == reply.json["detail"] == reply.json["error"]["message"]
            assert "queue.fal.run" in reply.json["message"]
            assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("//evil.example/a/b", 404),
        ("/%2F/evil.example/a", 404),
        ("/a/../b", 400),
        ("/a/%2e%2e/b", 400),
        ("/a/%252e%252e/b", 400),
        ("/a/..%2fb", 400),
        ("/a/..%5cb", 400),
        ("/a%5cb/c", 400),
        ("/a//b", 404),
        ("/a/b/", 404),
        ("/a", 404),
        ("/", 404),
        ("/a/b?other=1", 400),
        ("/a/b;c=1/../d", 400),
        ("/@evil.example/a:b", 404),
    ],
)
async def test_a_path_that_is_no_call_is_none_in_a_header_either(
    bridge: BridgeProcess, provider: Stub, path: str, status: int
) -> None:
    async with silent(provider):
        reply = await ask(bridge, f"https://queue.fal.run{path}", "POST", json={})
        assert reply.status == status


@pytest.mark.parametrize(
    "octets", ["\xe9".encode("latin-1"), "\u3002".encode(), "\uff51ueue.fal.run".encode(), b"\xff\xfe"]
)
async def test_octets_that_are_no_ascii_are_no_host(bridge: BridgeProcess, octets: bytes) -> None:
    for target in (b"https://queue.fal" + octets + b"run/a/b", b"https://" + octets + b"/a/b", octets):
        head = b"GET /proxy/fal HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + HEADER.encode()
        answer = await exchange(bridge, head + b": " + target + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")


async def test_two_addresses_or_an_address_and_a_path_are_refused(
    bridge: BridgeProcess, provider: Stub
) -> None:
    async with silent(provider):
        two = b"".join(
            b"%b: %b\r\n" % (HEADER.encode(), one) for one in (STATUS.encode(), b"https://e.x/a/b")
        )
        head = b"GET /proxy/fal HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        assert (await exchange(bridge, head + two + b"\r\n")).startswith(b"HTTP/1.1 400 ")
        both = await ask(bridge, "https://queue.fal.run/a/b", "POST", path="/proxy/fal/c/d", json={})
        assert (both.status, both.json["error"]["code"]) == (400, "invalid_request")


async def test_a_header_of_fal_means_nothing_to_another_provider(
    bridge: BridgeProcess, provider: Stub
) -> None:
    async with silent(provider):
        for path in ("/proxy/qingbo", "/proxy/nobody"):
            reply = await ask(bridge, STATUS, path=path)
            assert (reply.status, set(reply.json)) == (404, {"error"})


async def test_a_redirect_of_the_provider_is_not_followed() -> None:
    async with stub() as elsewhere, stub() as provider:
        upstream = {"base_url": provider.url, "api_key": "the-key", **QUICK}
        provider.answers["POST /a/b"] = (307, {}, {"Location": f"{elsewhere.url}/a/b"})
        async with running_bridge({"fal": upstream}) as bridge:
            reply = await ask(bridge, "https://queue.fal.run/a/b", "POST", json={})
            assert reply.status >= 300
            assert elsewhere.asked == []


async def test_a_preflight_lets_the_header_and_put_through(bridge: BridgeProcess) -> None:
    for method in ("GET", "POST", "PUT"):
        wanted = {
            "Origin": PAGE,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": f"authorization,content-type,{HEADER},x-fal-queue-priority",
        }
        async with (
            aiohttp.ClientSession() as http,
            http.options(f"{bridge.url}/proxy/fal", headers=wanted) as answer,
        ):
            allowed = answer.headers["Access-Control-Allow-Headers"].lower()
            assert answer.status == 200
            assert {HEADER, "x-fal-queue-priority"} <= {name.strip() for name in allowed.split(",")}
            assert method in answer.headers["Access-Control-Allow-Methods"]
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    reply = await ask(bridge, STATUS, headers={"Origin": PAGE})
    assert "x-fal-request-id" in reply.headers["Access-Control-Expose-Headers"]
    strange = await ask(
        bridge, "https://queue.fal.run/a/b", "POST", json={}, headers={"Origin": "https://e.x"}
    )
    assert strange.status == 403


async def test_what_a_submit_asks_of_the_queue_reaches_it() -> None:
    async with stub() as provider:
        call = "/fal-ai/flux/dev?fal_webhook=https%3A%2F%2Fapp.example%2Fhook"
        provider.answers[f"POST {call}"] = {
            "status": "IN_QUEUE",
            "request_id": ID,
            "status_url": STATUS,
        }
        upstream = {"base_url": provider.url, "api_key": "the-key", **QUICK}
        async with running_bridge({"fal": upstream}) as bridge:
            headers = {
                "X-Fal-Queue-Priority": "low",
                "x-fal-request-timeout": "30",
                "x-fal-other": "no",
                "Authorization": "Key theirs",
            }
            reply = await ask(
                bridge, f"https://queue.fal.run{call}", "POST", json={"prompt": "a cat"}, headers=headers
            )
            assert (reply.status, reply.headers["x-fal-request-id"]) == (200, ID)
        (sent,) = [one for one in provider.heads if one[0].startswith("POST ")]
        assert sent[1]["x-fal-queue-priority"] == "low"
        assert sent[1]["x-fal-request-timeout"] == "30"
        assert "x-fal-other" not in sent[1]
        assert HEADER not in sent[1]
        assert sent[1]["Authorization"] == "Key the-key"


async def test_logs_are_asked_for_once_a_client_wants_them(provider: Stub, bridge: BridgeProcess) -> None:
    first = await ask(bridge, f"{STATUS}?logs=1")
    assert first.json["logs"] == []  # not known yet, and its client reads them of every document
    provider.answers[f"GET {AT}/status?logs=1"] = {
        "status": "IN_PROGRESS",
        "request_id": ID,
        "logs": [{"message": "one of four"}],
    }
    reply = first
    while not reply.json["logs"]:
        reply = await ask(bridge, f"{STATUS}?logs=1")
    assert reply.json["logs"] == [{"message": "one of four"}]


async def test_a_callers_own_key_of_fal_is_the_one_that_fal_gets() -> None:
    async with stub() as provider:
        provider.answers[f"GET {AT}/status"] = {"status": "IN_PROGRESS", "request_id": ID}
        upstream = {"base_url": provider.url, **QUICK}
        async with running_bridge({"fal": upstream}, auth="upstream-key") as bridge:
            reply = await ask(bridge, STATUS, headers={"Authorization": "Key theirs"})
            assert (reply.status, reply.json["status"]) == (200, "IN_PROGRESS")
            nobody = await ask(bridge, STATUS)
            assert (nobody.status, nobody.json["error"]["code"]) == (401, "unauthenticated")
            assert nobody.json["message"] == nobody.json["error"]["message"]
        assert provider.keys == {"Key theirs"}


async def test_without_the_header_the_address_of_all_calls_is_none(bridge: BridgeProcess) -> None:
    for method in ("GET", "POST", "PUT"):
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, f"{bridge.url}/proxy/fal") as answer,
        ):
            assert answer.status == 400
            assert HEADER in (await answer.json())["message"]

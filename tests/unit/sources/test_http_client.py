"""Where calls go, and who sees the credential; over real sockets."""

import asyncio
import contextlib
import socket
from base64 import b64encode
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from bridge.clock import SystemClock
from bridge.dialects.base import Request
from bridge.dialects.hosts import Hosts
from bridge.dialects.registry import load_preset
from bridge.errors import (
    UnreadablePayload,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.sources import http_client
from bridge.sources.body_memory import BodyLimit, BodyMemory
from bridge.sources.credentials import FixedCredential, credential_of
from bridge.sources.http_client import Session

pytestmark = pytest.mark.anyio

KEY = {"Authorization": "Bearer the-key"}


class Heard:
    """A server that keeps what it was asked, and answers what a test says."""

    def __init__(self):
        self.requests = []
        self.answer = {"status": 200, "body": b"{}"}
        self.hear_with = None

    async def hear(self, request):
        self.requests.append(request)
        if self.hear_with is not None:
            return await self.hear_with(request)
        return web.Response(**self.answer)

    @property
    def keys(self):
        return [request.headers.get("Authorization") for request in self.requests]


@asynccontextmanager
async def listening():
    heard = Heard()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", heard.hear)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    heard.port = runner.addresses[0][1]
    try:
        yield heard
    finally:
        await runner.cleanup()


@asynccontextmanager
async def session_to(base_url, hosts=None, credential=None, seconds=10, **more):
    session = Session(
        base_url,
        credential=credential or FixedCredential(KEY),
        hosts=hosts,
        timeout_seconds=seconds,
        connections=4,
        **more,
    )
    try:
        yield session
    finally:
        await session.close()


def get(base_url=None, path="/t/1", **headers):
    return Request(method="GET", path=path, base_url=base_url, headers=headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_gives_nothing_away(status):
    async with listening() as provider, listening() as thief:
        elsewhere = f"http://localhost:{thief.port}/steal"
        provider.answer = {"status": status, "headers": {"Location": elsewhere}}
        async with session_to(f"http://127.0.0.1:{provider.port}", Hosts(["127.0.0.1"])) as session:
            answer = await session.ask(get())
            async with session.listen(get()) as (head, _):
                assert head.status == status
        assert (answer.status, thief.requests, provider.keys) == (status, [], ["Bearer the-key"] * 2)
        with pytest.raises(UpstreamUnavailable, match="redirects are not followed"):
            load_preset("qingbo").read_status(answer)


async def test_the_credential_goes_to_the_providers_own_hosts_and_to_no_other():
    async with listening() as provider, listening() as sister, listening() as stranger:
        base = f"http://127.0.0.1:{provider.port}"
        hosts = Hosts(["127.0.0.1", "*.acme.test"])
        async with session_to(base, hosts, private_hosts=Hosts(["localhost"])) as session:
            for call in (session.ask, heads(session)):
                await call(get())
                await call(get(f"http://127.0.0.1:{sister.port}"))
                await call(get(f"http://localhost:{stranger.port}"))
        assert provider.keys == sister.keys == ["Bearer the-key"] * 2
        assert stranger.keys == [None, None]


async def test_where_the_operator_chose_the_address_every_call_goes_there():
    async with listening() as chosen, listening() as named:
        async with session_to(f"http://127.0.0.1:{chosen.port}/bfl/", hosts=None) as session:
            for call in (session.ask, heads(session)):
                await call(get(f"http://127.0.0.1:{named.port}", "/v1/get_result?id=a%2Fb"))
        assert [request.raw_path for request in chosen.requests] == ["/bfl/v1/get_result?id=a%2Fb"] * 2
        assert named.requests == []


async def test_a_header_of_the_call_does_not_take_the_credentials_place():
    async with listening() as provider:
        async with session_to(f"http://127.0.0.1:{provider.port}", Hosts(["127.0.0.1"])) as session:
            for name in ("Authorization", "authorization"):
                await session.ask(get(**{name: "Bearer another"}))
        assert [request.headers.getall("Authorization") for request in provider.requests] == [
            ["Bearer the-key"]
        ] * 2


async def test_the_credential_is_asked_for_at_every_call():
    class Counting:
        count = 0

        def hide(self, body: bytes) -> bytes:
            return body

        def headers(self):
            self.count += 1
            return {"Authorization": f"Bearer {self.count}"}

    async with listening() as provider:
        base = f"http://127.0.0.1:{provider.port}"
        async with session_to(base, Hosts([]), Counting()) as session:
            await session.ask(get())
            await heads(session)(get())
        assert provider.keys == ["Bearer 1", "Bearer 2"]


def heads(session):
    async def listen(request):
        async with session.listen(request):
            pass

    return listen


@pytest.mark.parametrize("status", [200, 401])
async def test_a_provider_that_quotes_the_key_is_not_heard(status):
    async with listening() as provider:
        provider.answer = {"status": status, "text": 'invalid key "sk-secret-of-ours", sk-secret-of-others'}
        credential = credential_of(load_preset("qingbo"), "sk-secret-of-ours", SystemClock())
        async with session_to(f"http://127.0.0.1:{provider.port}", credential=credential) as session:
            answer = await session.ask(get())
            async with session.listen(get()) as (head, _):
                assert (head.body, answer.body) == (b'invalid key "***", sk-secret-of-others',) * 2
        assert provider.keys == ["Bearer sk-secret-of-ours"] * 2


async def test_a_key_as_short_as_a_word_is_no_secret():
    async with listening() as provider:
        provider.answer = {"status": 200, "text": "a test answers"}
        credential = credential_of(load_preset("qingbo"), "test", SystemClock())
        async with session_to(f"http://127.0.0.1:{provider.port}", credential=credential) as session:
            assert (await session.ask(get())).body == b"a test answers"


async def test_headers_quote_no_key_either_and_stay_case_insensitive():
    quoted = quote("sk-secret/of+ours", safe="")
    headers = {"Content-Type": f"text/plain; key={quoted}", "X-Other": "1", "ETag": '"sk-secret/of+ours"'}
    async with listening() as provider:
        provider.answer = {"status": 200, "body": b"{}", "headers": headers}
        credential = credential_of(load_preset("qingbo"), "sk-secret/of+ours", SystemClock())
        async with session_to(f"http://127.0.0.1:{provider.port}", credential=credential) as session:
            answer = await session.ask(get())
            async with session.listen(get()) as (head, _):
                for shown in (answer.headers, head.headers):
                    assert shown["content-type"] == "text/plain; key=***"
                    assert (shown["etag"], shown["X-OTHER"]) == ('"***"', "1")


@pytest.mark.parametrize("size", [0, 3 * 1024 * 1024])
async def test_other_secrets_of_an_upstream_are_masked_for_every_credential(size):
    async with listening() as provider:
        body = b"operator-secret account-secret " + b64encode(b"of: key-of-a-caller") + b" " * size
        provider.answer = {"status": 200, "body": body}
        base = f"http://127.0.0.1:{provider.port}"
        async with session_to(base, secrets=["operator-secret"]) as session:
            caller = credential_of(load_preset("qingbo"), "key-of-a-caller", SystemClock())
            other = session.acting_as(caller, secrets=["account-secret"])
            assert (await other.ask(get())).body.rstrip() == b"*** *** b2Y6I***"
            assert (await session.ask(get())).body.startswith(b"*** account-secret b2Y6IG")
            assert other.hide(b"operator-secret") == b"***"


LARGE = 3 * 1024 * 1024


@pytest.mark.parametrize("coding", [None, "gzip", "deflate", "chunked"])
async def test_a_body_is_read_to_its_limit_and_no_further(coding):
    async def hear(request):
        size = int(request.query["size"])
        response = web.Response(body=b"x" * size)
        if coding == "chunked":
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(0, size, 1024 * 1024):
                await response.write(b"x" * min(1024 * 1024, size))
        elif coding:
            response.enable_compression(web.ContentCoding(coding))
        return response

    async with listening() as provider:
        provider.hear_with = hear
        limit = BodyLimit(LARGE, BodyMemory(largest=LARGE))
        async with session_to(f"http://127.0.0.1:{provider.port}", bodies=limit) as session:
            answer = await session.ask(get(path=f"/t?size={LARGE}"))
            assert answer.body == b"x" * LARGE
            with pytest.raises(UnreadablePayload, match=f"larger than {LARGE} bytes"):
                await session.ask(get(path=f"/t?size={LARGE + 1024 * 1024}"))
        assert limit.memory.free == 64 * 1024 * 1024


async def test_the_time_a_body_waits_for_room_does_not_count():
    async with listening() as provider:
        provider.answer = {"status": 200, "body": b"x" * LARGE}
        limit = BodyLimit(LARGE, BodyMemory(LARGE, largest=LARGE))
        async with session_to(f"http://127.0.0.1:{provider.port}", bodies=limit, seconds=0.5) as session:
            other = limit.memory.share()
            await other.grow(LARGE, LARGE)
            asked = asyncio.create_task(session.ask(get()))
            await asyncio.sleep(0.8)
            assert not asked.done()
            limit.memory.give_back(other)
            assert len((await asked).body) == LARGE


async def test_a_provider_that_does_not_respond_in_time_is_a_timeout():
    released = asyncio.Event()

    async def hear(request):
        await released.wait()

    async with listening() as provider:
        provider.hear_with = hear
        async with session_to(f"http://127.0.0.1:{provider.port}", seconds=0.05) as session:
            with pytest.raises(UpstreamTimeout):
                await session.ask(get())
        released.set()  # else the server waits for its handler when it ends


async def test_a_provider_that_takes_no_connection_in_time_has_seen_nothing(monkeypatch):
    monkeypatch.setattr(http_client, "_CONNECTING", aiohttp.ClientTimeout(total=None, sock_connect=0.1))
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):  # its queue is full: a further connection waits
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        async with session_to(f"http://127.0.0.1:{full.getsockname()[1]}") as session:
            with pytest.raises(UpstreamUnreachable, match="no connection in time"):
                await session.ask(get())


async def test_large_and_many_headers_are_read():
    headers = {"Content-Security-Policy": "x" * 60_000, **{f"X-{number}": "y" for number in range(300)}}
    async with listening() as provider:
        provider.answer = {"status": 200, "headers": headers, "body": b"{}"}
        async with session_to(f"http://127.0.0.1:{provider.port}") as session:
            answer = await session.ask(get())
            async with session.listen(get()) as (head, _):
                assert head.headers["x-299"] == "y"
        assert len(answer.headers["content-security-policy"]) == 60_000


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            "cannot be decompressed",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "cut short"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n{}", "not valid HTTP"),
        (b"\x16\x03\x01 hello\r\n\r\n", "not valid HTTP"),
    ],
)
async def test_a_broken_answer_is_the_trouble_of_its_task(answer, message):
    async def give(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(give, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, session_to(base) as session:
        with pytest.raises(UpstreamError, match=message) as broken:
            await session.ask(get())
    assert broken.value.about_task


@pytest.mark.parametrize("when", ["while nothing is asked", "behind the first answer", "with its end"])
async def test_an_answer_that_nobody_asked_for_is_nobodys(when):
    """Such as a second one, or the 408 of a gateway: the next submit would be told another task's id."""
    connections, closed = [], asyncio.Event()

    def answer(text):
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)

    async def give(reader, writer):
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                if len(connections) > 1:
                    writer.write(answer(b"right"))
                elif when == "while nothing is asked":
                    writer.write(answer(b"right"))
                    await read.wait()
                    writer.write(answer(b"wrong"))
                elif when == "behind the first answer":
                    writer.write(answer(b"right") + answer(b"wrong"))
                else:
                    writer.write(answer(b"right")[:-2])
                    await asyncio.sleep(0.05)  # if both arrive together after all, it is the case before
                    writer.write(b"ht" + answer(b"wrong"))
        writer.close()
        closed.set()

    read = asyncio.Event()
    server = await asyncio.start_server(give, "127.0.0.1", 0)
    async with server, session_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as session:
        assert (await session.ask(get())).body == b"right"
        read.set()
        async with asyncio.timeout(5):
            await closed.wait()
        assert (await session.ask(get())).body == b"right"
        assert len(connections) == 2


async def test_an_answer_says_what_was_asked_and_tells_of_a_lenient_reading():
    told = []
    async with listening() as provider:
        provider.answer = {"status": 200, "body": b'{"status":"queued","x":NaN}'}
        base = f"http://127.0.0.1:{provider.port}"
        async with session_to(base, on_lenient=lambda: told.append(1)) as session:
            answer = await session.ask(get(path="/t/a%2Fb"))
        assert answer.url == f"{base}/t/a%2Fb"
        load_preset("qingbo").read_status(answer)
        assert told == [1]

"""Calls to where others point: to no address inside, redirected or not, and errors without URLs."""

from __future__ import annotations

import asyncio
import errno
import gzip
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from bridge.dialects.base import Request
from bridge.dialects.hosts import Hosts
from bridge.errors import Forbidden, UpstreamError, UpstreamUnreachable
from bridge.sources.credentials import FixedCredential
from bridge.sources.guard import private_hosts_of
from bridge.sources.http_client import Session
from bridge.sources.jwks import fetch_keys
from bridge.sources.outbound import OutboundClient, OutboundError, OutboundFailure

pytestmark = pytest.mark.anyio

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Names(AbstractResolver):
    """A name server that says what it is told; the last answer again and again."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            ResolveResult(
                hostname=host,
                host=one,
                port=port,
                family=socket.AF_INET6 if ":" in one else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for one in addresses
        ]

    async def close(self) -> None:
        self.closed = True


class Server:
    """Answers on loopback, one request per connection, and keeps what it was sent."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.silent = False
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
        self.answers: dict[bytes, bytes] = {}

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        self.answers[path.encode()] = (
            f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self.silent:
                await reader.read()
            if length := re.search(rb"content-length: (\d+)", head.lower()):
                await reader.readexactly(int(length[1]))
            writer.write(self.answers.get(head.split(b" ")[1], self.answer))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


@asynccontextmanager
async def calling(*private: str, names: Names | None = None) -> AsyncIterator[OutboundClient]:
    client = OutboundClient(private, resolver=names)
    try:
        yield client
    finally:
        await client.close()


async def failure_of(client: OutboundClient, url: str, *, follow: bool = False) -> OutboundFailure:
    call = client.follow(url, timeout_seconds=5) if follow else client.request("POST", url, timeout_seconds=5)
    with pytest.raises(OutboundError) as failed:
        async with call as response:
            await response.read(1000)
    text = str(failed.value)
    assert text
    assert url not in text
    assert "example" not in text
    assert failed.value.__cause__ is None
    return failed.value.failure


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("0.0.0.0",),
        ("::ffff:127.0.0.1",),
        ("::1",),
        ("169.254.169.254",),
        ("127.0.0.1", "10.0.0.1", "::1", "fd00::1"),
    ],
)
async def test_a_name_that_leads_inside_is_not_connected_to(addresses: tuple[str, ...]) -> None:
    async with serving() as server, calling(names=Names(addresses)) as client:
        url = f"https://receiver.example:{server.port}/hooks"
        client.check_url(url)  # nothing is wrong with the text
        assert await failure_of(client, url) is OutboundFailure.REFUSED
        assert server.connections == 0


async def test_a_name_that_leads_outside_first_and_inside_then_is_not_connected_to_then(monkeypatch) -> None:
    """DNS rebinding, with aiohttp's own cache between the look-ups switched off by its age."""
    tried: list[str] = []

    async def connect(self: object, sock: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[0])
        raise OSError(errno.EHOSTUNREACH, "nothing of this test leaves the machine")

    monkeypatch.setattr(type(asyncio.get_running_loop()), "sock_connect", connect)
    names = Names(("8.8.8.8",), ("127.0.0.1",))
    monkeypatch.setattr("aiohttp.connector._DNSCacheTable.expired", lambda self, key: True)
    async with calling(names=names) as client:
        url = "https://receiver.example/hooks"
        assert await failure_of(client, url) is OutboundFailure.UNREACHABLE
        assert await failure_of(client, url) is OutboundFailure.REFUSED
    assert tried == ["8.8.8.8"]
    assert names.asked == ["receiver.example"] * 2
    assert names.closed


async def test_of_many_addresses_only_the_public_ones_are_connected_to(monkeypatch) -> None:
    tried: list[str] = []

    async def connect(self: object, sock: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[0])
        raise OSError(errno.EHOSTUNREACH, "nothing of this test leaves the machine")

    monkeypatch.setattr(type(asyncio.get_running_loop()), "sock_connect", connect)
    addresses = ("10.0.0.1", "8.8.8.8", "fd00::1", "127.0.0.1", "2606:4700::1")
    async with calling(names=Names(addresses)) as client:
        await failure_of(client, "https://receiver.example/")
    assert sorted(set(tried)) == ["2606:4700::1", "8.8.8.8"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "0x7f000001", "2130706433"],
)
async def test_an_address_in_the_url_is_refused_before_anything_is_looked_up(host: str) -> None:
    names = Names(("127.0.0.1",))
    async with serving() as server, calling(names=names) as client:
        for scheme in ("http", "https"):
            assert await failure_of(client, f"{scheme}://{host}:{server.port}/") is OutboundFailure.REFUSED
        assert (server.connections, names.asked) == (0, [])


async def test_a_host_that_the_operator_lists_is_called() -> None:
    async with serving() as server:
        for host, names in (("127.0.0.1", None), ("receiver.internal", Names(("127.0.0.1",)))):
            async with calling(host, names=names) as client:
                url = server.url("/a%2fb/..;/c?a=%2F&b=%7e+%20", host)
                async with client.request(
                    "POST", url, headers={"webhook-id": "msg_1"}, body=b"{}", timeout_seconds=5
                ) as response:
                    assert (response.status, response.url) == (200, url)
                    assert await response.read(100) == b"{}"
        head = server.heads[0].lower()
        assert head.startswith(b"post /a%2fb/..;/c?a=%2f&b=%7e+%20 http/1.1\r\n")
        assert b"\r\nwebhook-id: msg_1\r\n" in head
        assert b"content-type" not in head
        assert b"cookie" not in head


async def test_a_large_body_is_sent_in_pieces_and_with_its_length() -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        body = b"x" * 1_500_000
        async with client.request("POST", server.url(), body=body, timeout_seconds=5) as response:
            assert response.status == 200
        assert b"content-length: 1500000\r\n" in server.heads[0].lower()


async def test_a_redirect_is_a_response_like_any_other() -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        server.redirect("/hooks", "/elsewhere", 308)
        async with client.request("POST", server.url("/hooks"), timeout_seconds=5) as response:
            assert response.status == 308
        assert server.connections == 1


@pytest.mark.parametrize(
    "location", ["/file?a=b", "file?a=b", "?a=b", "//{host}/file?a=b", "http://{host}/file?a=b#c"]
)
async def test_redirects_are_followed(location: str) -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        server.redirect("/start", location.replace("{host}", f"127.0.0.1:{server.port}"))
        async with client.follow(
            server.url("/start"), credential={"authorization": "Bearer key"}, timeout_seconds=5
        ) as response:
            assert response.status == 200
            assert response.url.endswith("?a=b")
        assert [b"authorization" in head.lower() for head in server.heads] == [True, True]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2/",
        "http://localhost/",
        "http://169.254.169.254/latest/meta-data/",
        "//[::1]/",
        "http://receiver.example/",
        "https://127.0.0.2/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/",
        "http://user:password@127.0.0.1/",
        "http://[::1",
        "http://127.0.0.1:99999/",
    ],
)
async def test_a_redirect_that_leads_inside_is_not_followed(location: str) -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        server.redirect("/start", location)
        assert await failure_of(client, server.url("/start"), follow=True) is OutboundFailure.REFUSED
        assert server.connections == 1


async def test_a_redirect_to_a_name_that_leads_inside_is_not_followed() -> None:
    names = Names(("127.0.0.1",))
    async with serving() as server, calling("127.0.0.1", names=names) as client:
        server.redirect("/start", f"https://receiver.example:{server.port}/")
        assert await failure_of(client, server.url("/start"), follow=True) is OutboundFailure.REFUSED
        assert server.connections == 1
    assert names.asked == ["receiver.example"]


async def test_the_credential_of_one_origin_is_for_no_other_and_not_used_again() -> None:
    async with serving() as server, serving() as other, calling("127.0.0.1") as client:
        server.redirect("/start", other.url("/there"))
        other.redirect("/there", server.url("/back"))
        async with client.follow(
            server.url("/start"),
            headers={"x-client": "1"},
            credential={"authorization": "Bearer key"},
            timeout_seconds=5,
        ) as response:
            assert response.status == 200
        heads = [server.heads[0], other.heads[0], server.heads[1]]
        assert [b"authorization" in head.lower() for head in heads] == [True, False, False]
        assert all(b"x-client" in head.lower() for head in heads)


async def test_five_redirects_and_no_more() -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        for hop in range(6):
            server.redirect(f"/{hop}", f"/{hop + 1}")
        async with client.follow(server.url("/1"), timeout_seconds=5) as response:
            assert response.status == 200
        assert server.connections == 6
        assert await failure_of(client, server.url("/0"), follow=True) is OutboundFailure.REDIRECTS
        assert server.connections == 12


@pytest.mark.parametrize("status", [300, 304, 305])
async def test_other_answers_of_that_class_are_none(status: int) -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        server.redirect("/start", "/file", status)
        async with client.follow(server.url("/start"), timeout_seconds=5) as response:
            assert response.status == status


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", OutboundFailure.LOST),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}", OutboundFailure.LOST),
        (b"SSH-2.0-OpenSSH_9.2\r\n", OutboundFailure.INVALID),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000 + b"\r\n\r\n", OutboundFailure.INVALID),
    ],
)
async def test_what_a_receiver_answers_may_be_anything(answer: bytes, failure: OutboundFailure) -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        server.answer = answer
        assert await failure_of(client, server.url("/example")) is failure


async def test_a_body_is_read_as_far_as_the_caller_says_and_never_decompressed() -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        bomb = gzip.compress(b"\0" * 10_000_000)
        server.answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n" + bomb
        for limit in (0, 10, len(bomb), len(bomb) + 1):
            async with client.request("GET", server.url(), timeout_seconds=5) as response:
                assert await response.read(limit) == bomb[:limit]


async def test_nobody_waits_longer_than_said() -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        server.silent = True
        with pytest.raises(OutboundError, match="in time") as failed:
            async with client.request("POST", server.url(), timeout_seconds=0.05):
                pass
        assert failed.value.failure is OutboundFailure.TIMEOUT
        with pytest.raises(TimeoutError):  # of the caller's own
            async with asyncio.timeout(0.05), client.request("POST", server.url(), timeout_seconds=5):
                pass


async def test_no_connection_no_name_and_no_certificate() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with calling("127.0.0.1") as client:
            assert await failure_of(client, f"http://127.0.0.1:{port}/") is OutboundFailure.UNREACHABLE
    async with calling(names=Names(())) as client:
        assert await failure_of(client, "https://receiver.example/") is OutboundFailure.UNREACHABLE
        assert await failure_of(client, "https://nothing.example/") is OutboundFailure.UNREACHABLE


async def test_what_cannot_be_sent_is_an_error_of_ours() -> None:
    async with serving() as server, calling("127.0.0.1") as client:
        with pytest.raises(OutboundError) as failed:
            async with client.request("POST", server.url(), headers={"x": "a\r\nb: c"}, timeout_seconds=5):
                pass
        assert failed.value.failure is OutboundFailure.REFUSED
        assert server.heads == []


def session_to(base: str, hosts: Hosts | None, names: Names, **more: object) -> Session:
    return Session(
        base,
        credential=FixedCredential({"authorization": "Bearer key"}),
        hosts=hosts,
        timeout_seconds=5,
        connections=1,
        resolver=names,
        **more,  # type: ignore[arg-type]
    )


async def test_a_host_that_an_id_chose_is_called_only_where_it_is_public() -> None:
    """Of a provider's hosts, those below a wildcard are chosen by whoever names the task."""
    names = Names(("127.0.0.1",))
    async with serving() as server:
        chosen = f"http://eu.acme.example:{server.port}"
        named = f"http://cancel.acme.example:{server.port}"
        hosts = Hosts(["*.acme.example", "cancel.acme.example"])
        session = session_to(f"http://api.example:{server.port}", hosts, names)
        listed = session_to(
            "http://api.example", hosts, names, private_hosts=private_hosts_of(["*.acme.example"])
        )
        try:
            for creates in (False, True):
                with pytest.raises(UpstreamUnreachable, match="private_hosts"):
                    await session.ask(Request(method="POST", path="/", base_url=chosen, creates=creates))
            with pytest.raises(UpstreamUnreachable, match="private_hosts"):
                async with session.listen(Request(method="GET", path="/", base_url=chosen)):
                    pass
            assert server.connections == 0
            for base_url in (None, named):
                request = Request(method="GET", path="/", base_url=base_url)
                assert (await session.ask(request)).status == 200
            assert (await listed.ask(Request(method="GET", path="/", base_url=chosen))).status == 200
        finally:
            await session.close()
            await listed.close()


async def test_the_operators_base_url_may_be_anywhere() -> None:
    async with serving() as server:
        for hosts in (None, Hosts(["*.acme.example"])):
            session = session_to(server.url("", "provider.internal"), hosts, Names(("127.0.0.1",)))
            try:
                assert (await session.ask(Request(method="GET", path="/"))).status == 200
            finally:
                await session.close()


async def test_the_key_server_is_called_as_the_operator_wrote_it_and_a_name_where_it_is_public() -> None:
    async with serving() as server:
        for host in ("127.0.0.1", "localhost"):
            assert await fetch_keys(server.url("/keys", host)) == b"{}"
        own = socket.gethostname()
        with pytest.raises(UpstreamError):
            await fetch_keys(server.url("/keys", own))
        assert server.connections == 2
        for private, reached in (((), False), (("keys.internal",), True)):
            session = session_to(
                server.url("", "keys.internal"),
                None,
                Names(("127.0.0.1",)),
                private_hosts=private_hosts_of(private),
                public_only=True,
            )
            try:
                if reached:
                    assert (await session.ask(Request(method="GET", path="/"))).body == b"{}"
                else:
                    with pytest.raises(UpstreamUnreachable, match="private_hosts"):
                        await session.ask(Request(method="GET", path="/"))
            finally:
                await session.close()


async def test_names_are_resolved_in_a_bounded_number_of_threads_of_the_clients_own(monkeypatch) -> None:
    """A name server that does not respond holds a thread, and the process's are for all."""
    released = threading.Event()
    holding: set[threading.Thread] = set()

    def resolve(host: str, *more: object) -> list[object]:
        holding.add(threading.current_thread())
        if host.startswith("slow"):
            released.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "timed out")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with calling() as client:

        async def call(number: int) -> OutboundFailure:
            with pytest.raises(OutboundError) as failed:
                async with client.request("POST", f"https://slow{number}.example/", timeout_seconds=0.05):
                    pass
            return failed.value.failure

        assert set(await asyncio.gather(*map(call, range(40)))) == {OutboundFailure.TIMEOUT}
        assert len(holding) == 16
        assert all(thread.daemon for thread in holding)
        released.set()
        assert await failure_of(client, "https://receiver.example/") is OutboundFailure.REFUSED


def test_a_url_can_be_checked_without_a_connection() -> None:
    with pytest.raises(Forbidden):
        OutboundClient().check_url("https://127.0.0.1/")
    assert OutboundClient(["127.0.0.1"]).check_url("http://127.0.0.1:1/").port == 1

"""Names that lead inside are not followed, unless the operator says so."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from bridge.dialects.base import Request
from bridge.dialects.hosts import Hosts
from bridge.errors import UpstreamUnreachable
from bridge.sources.credentials import FixedCredential
from bridge.sources.http_client import Session
from bridge.sources.public_resolver import PublicResolver, is_public

pytestmark = pytest.mark.anyio

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "no address",
]
PUBLIC = ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


class Names(AbstractResolver):
    """A name server that says what it is told."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=one, port=port, family=family, proto=0, flags=0)
            for one in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


async def found(host: str, *addresses: str, private: tuple[str, ...] = ()) -> list[str]:
    return [one["host"] for one in await PublicResolver(Hosts(private), Names(*addresses)).resolve(host, 443)]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_with_a_private_address_is_not_followed(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(OSError, match="private"):
        await found("keys.example.com", "8.8.8.8", address)


@pytest.mark.parametrize("address", PUBLIC)
async def test_a_name_with_public_addresses_is(address: str) -> None:
    assert is_public(address)
    assert await found("keys.example.com", address) == [address]


async def test_a_name_the_operator_allows_is_and_no_other() -> None:
    allowed = ("keys.internal", "*.corp.example")
    for host in ("keys.internal", "a.corp.example", "localhost"):
        assert await found(host, "10.0.0.1", private=allowed) == ["10.0.0.1"]
    for host in ("keys.internal.example.com", "corp.example"):
        with pytest.raises(OSError, match="private"):
            await found(host, "10.0.0.1", private=allowed)


@pytest.mark.parametrize(("private", "reached"), [((), False), (("keys.internal",), True)])
async def test_a_session_makes_no_connection_to_a_private_address(
    private: tuple[str, ...], *, reached: bool
) -> None:
    came = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    session = Session(
        f"http://keys.internal:{port}",
        credential=FixedCredential({}),
        hosts=None,
        timeout_seconds=5,
        connections=1,
        resolver=PublicResolver(Hosts(private), Names("127.0.0.1")),
    )
    try:
        if reached:
            assert (await session.ask(Request(method="GET", path="/keys"))).body == b"{}"
        else:
            with pytest.raises(UpstreamUnreachable):
                await session.ask(Request(method="GET", path="/keys"))
    finally:
        await session.close()
        server.close()
    assert bool(came) == reached


async def test_closing_closes_what_it_asks() -> None:
    names = Names()
    await PublicResolver(Hosts(()), names).close()
    assert names.closed

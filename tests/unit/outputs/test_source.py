"""Files from providers over real sockets: how long is waited, and for what the key is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from yarl import URL

from bridge.core.task import Output, TaskKey
from bridge.dialects.hosts import Hosts
from bridge.dialects.registry import load_preset
from bridge.errors import UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from bridge.outputs.source import OutputSource
from bridge.sources.credentials import FixedCredential
from bridge.sources.http_client import Session
from bridge.sources.outbound import OutboundClient
from bridge.sources.upstream import Upstream
from tests.fakes.origin import MP4, Origin, head_of, serving_origin

pytestmark = pytest.mark.anyio

KEY = {"x-goog-api-key": "the-key-0123"}
TASK = TaskKey("veo", "operations/abc")


def a_session(base_url: str, hosts: Hosts | None) -> Session:
    credential = FixedCredential(KEY, "the-key-0123")
    return Session(base_url, credential=credential, hosts=hosts, timeout_seconds=5, connections=1)


@asynccontextmanager
async def reading(base_url: str = "", **seconds: float) -> AsyncIterator[tuple[OutputSource, Upstream]]:
    dialect = load_preset("veo")
    session = a_session(base_url or dialect.base_url, None if base_url else dialect.hosts)
    client = OutboundClient()
    try:
        yield OutputSource(client, **seconds), cast(Any, SimpleNamespace(dialect=dialect, session=session))
    finally:
        await client.close()
        await session.close()


async def read(source: OutputSource, upstream: Upstream, url: str | None) -> bytes:
    async with source.open(upstream, TASK, Output(type="video", url=url)) as file:
        return b"".join([part async for part in file.chunks()])


async def test_veos_link_gets_the_key_and_where_it_leads_does_not() -> None:
    path = "/v1beta/files/abc:download"
    async with serving_origin() as google, reading(google.url("/v1beta")) as (source, upstream):
        google.redirect(path, google.url("/download/v1beta/files/abc:download"))
        google.serve("/download/v1beta/files/abc:download", MP4)
        assert await read(source, upstream, google.url(f"{path}?alt=media")) == MP4
        assert [head.headers.get("x-goog-api-key") for head in google.asked] == ["the-key-0123"] * 2
        google.serve("/v1beta/models", MP4)
        assert await read(source, upstream, google.url("/v1beta/models")) == MP4
        assert "x-goog-api-key" not in google.asked[-1].headers


async def test_a_masked_key_leaves_the_query_and_goes_into_the_header() -> None:
    async with serving_origin() as google, reading(google.url("/v1beta")) as (source, upstream):
        google.serve("/v1beta/files/abc:download", MP4)
        for query in ("?key=***&alt=media", "?alt=media&key=***", "?alt=media"):
            assert await read(source, upstream, google.url("/v1beta/files/abc:download") + query) == MP4
            assert google.asked[-1].target == "/v1beta/files/abc:download?alt=media"
            assert google.asked[-1].headers["x-goog-api-key"] == "the-key-0123"


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("https://generativelanguage.googleapis.com/v1beta/files/abc", True),
        ("https://generativelanguage.googleapis.com:443/v1beta/files/abc", True),
        ("https://generativelanguage.googleapis.com:8443/x", False),
        ("http://generativelanguage.googleapis.com/x", False),
        ("https://generativelanguage.googleapis.com.evil.example/x", False),
        ("https://storage.googleapis.com/x", False),
        ("https://lh3.googleusercontent.com/x", False),
    ],
)
async def test_the_key_is_for_the_providers_own_hosts_over_tls(url: str, given: bool) -> None:
    dialect = load_preset("veo")
    session = a_session(dialect.base_url, dialect.hosts)
    assert session.credential_for(URL(url)) == (KEY if given else {})
    # a gateway's key is for the gateway alone
    gateway = a_session("https://gateway.example/v1", None)
    assert gateway.credential_for(URL(url)) == {}
    assert gateway.credential_for(URL("https://gateway.example/file")) == KEY
    assert gateway.credential_for(URL("https://gateway.example:444/file")) == {}
    await session.close()
    await gateway.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x",
        "http://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://localhost/x",
        "https://user:pass@files.example/x",
        "ftp://files.example/x",
        "file:///etc/passwd",
        "gs://bucket/x",
        "//files.example/x",
        "https://files.example\\@evil.example/x",
        "https://files.example:99999/x",
        "https://2130706433/x",
        "",
        "x" * 10_000,
    ],
)
async def test_nothing_is_called_inside_or_by_another_scheme(url: str) -> None:
    async with reading() as (source, upstream):
        with pytest.raises(UpstreamRefused):
            await read(source, upstream, url)


async def test_without_a_link_and_without_a_call_there_is_no_file() -> None:
    async with reading() as (source, upstream):
        with pytest.raises(UpstreamRefused, match="no link"):
            await read(source, upstream, None)


async def test_a_provider_that_says_nothing_times_out() -> None:
    async with serving_origin() as slow, reading(slow.url(), head_seconds=0.2) as (source, upstream):
        slow.answers["/v.mp4"] = None
        with pytest.raises(UpstreamTimeout):
            await read(source, upstream, slow.url("/v.mp4"))


async def test_interim_responses_without_end_time_out() -> None:
    async def hinting(head: object, writer: Any) -> None:
        while True:
            writer.write(head_of("103 Early Hints"))
            await writer.drain()

    async with serving_origin() as slow, reading(slow.url(), head_seconds=0.2) as (source, upstream):
        slow.answers["/v.mp4"] = hinting
        with pytest.raises(UpstreamTimeout):
            await read(source, upstream, slow.url("/v.mp4"))


async def test_a_provider_that_stalls_in_the_middle_times_out() -> None:
    async with serving_origin() as slow, reading(slow.url(), idle_seconds=0.2) as (source, upstream):
        stalls(slow)
        async with source.open(upstream, TASK, Output(type="video", url=slow.url("/v.mp4"))) as file:
            assert len(await file.head()) == 64
            with pytest.raises(UpstreamTimeout):
                async for _ in file.chunks():
                    pass


def stalls(slow: Origin) -> None:
    async def answer(head: object, writer: Any) -> None:
        writer.write(head_of(content_length=1000) + b"x" * 64)
        await writer.drain()
        await slow.gone.wait()

    slow.answers["/v.mp4"] = answer


@pytest.mark.parametrize(("sent", "whole"), [(b"01234", True), (b"0123", False), (b"012345", True)])
async def test_a_part_in_chunks_has_the_length_that_it_says(sent: bytes, whole: bool) -> None:
    head = head_of("206 Part", content_range="bytes 5-9/100", transfer_encoding="chunked")
    async with serving_origin() as server, reading(server.url()) as (source, upstream):
        server.answers["/v.mp4"] = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent)
        wanted = Output(type="video", url=server.url("/v.mp4"))
        async with source.open(upstream, TASK, wanted, headers={"range": "bytes=5-9"}) as file:
            assert (file.status, file.length, file.headers["content-length"]) == (206, 5, "5")
            parts = []
            try:
                async for part in file.chunks():
                    parts.append(part)  # noqa: PERF401 - keeps what came before the error
            except UpstreamUnavailable:
                assert not whole
            else:
                assert whole
            assert b"".join(parts) == sent[:5]


@pytest.mark.parametrize("sent", [0, 1, 63, 64, 999])
async def test_less_than_announced_is_never_the_whole(sent: int) -> None:
    async with serving_origin() as short, reading(short.url()) as (source, upstream):
        short.answers["/v.mp4"] = head_of(content_length=1000) + b"x" * sent
        with pytest.raises(UpstreamUnavailable):
            await read(source, upstream, short.url("/v.mp4"))

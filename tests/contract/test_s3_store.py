"""What a bucket promises beyond `test_output_stores`, on a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import pytest

from bridge.clock import SystemClock
from bridge.core.task import TaskKey
from bridge.outputs.names import object_name
from bridge.outputs.s3_store import PART_BYTES, S3Store
from bridge.outputs.store import StoreError
from tests.fakes.redis_servers import free_port
from tests.fakes.s3_server import BUCKET, KEY, READER, SECRET, S3Server

pytestmark = pytest.mark.anyio

NAME = object_name(TaskKey("vapi", "task-1"), 0)
LARGE = PART_BYTES * 2 + 1


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def open_store(endpoint: str, bucket: str = BUCKET, prefix: str = "", **options) -> S3Store:
    return S3Store(bucket, SystemClock(), prefix=prefix, endpoint=endpoint, region="us-east-1", **options)


async def chunks(*parts: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if error is not None:
        raise error


async def put(store: S3Store, data: bytes, media_type: str = "video/mp4") -> None:
    await store.put(NAME, chunks(data), media_type=media_type, max_bytes=1 << 40)


def fetch(url: str, **headers: str):
    return urlopen(Request(url, headers=headers), timeout=20)


async def test_a_signed_link_gives_the_file_and_its_ranges_and_ends(s3_server: S3Server):
    store = open_store(s3_server.endpoint, prefix="a/signed", signed_seconds=120)
    await put(store, b"0123456789")
    url = await store.link(NAME)
    assert url is not None
    with await asyncio.to_thread(fetch, url) as answer:
        assert answer.read() == b"0123456789"
        assert answer.headers["Content-Type"] == "video/mp4"
    with await asyncio.to_thread(fetch, url, Range="bytes=2-4") as answer:
        assert (answer.status, answer.read()) == (206, b"234")
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Expires"] == ["120"]
    assert SECRET not in url
    with pytest.raises(HTTPError) as refused:
        await asyncio.to_thread(fetch, url.replace("X-Amz-Expires=120", "X-Amz-Expires=121"))
    assert refused.value.code == 403
    refused.value.close()


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({}, "{endpoint}/outputs/pre/fix/"),
        ({"public_url": "https://files.example/a"}, "https://files.example/a/"),
    ],
)
async def test_a_public_link_is_the_buckets_or_the_operators(s3_server: S3Server, options, begins: str):
    store = open_store(s3_server.endpoint, prefix="pre/fix", links="public", **options)
    assert await store.link(NAME) == begins.format(endpoint=s3_server.endpoint) + NAME
    assert await open_store(s3_server.endpoint, links="bridge").link(NAME) is None


@pytest.mark.parametrize(
    ("bucket", "link"),
    [
        ("my-bucket", "https://my-bucket.s3.eu-central-1.amazonaws.com/"),
        ("my.bucket", "https://s3.eu-central-1.amazonaws.com/my.bucket/"),
    ],
)
@pytest.mark.parametrize("links", ["public", "signed"])
async def test_links_to_amazon_have_the_name_that_the_certificate_has(bucket: str, link: str, links):
    store = S3Store(bucket, SystemClock(), region="eu-central-1", links=links)
    assert (await store.link(NAME) or "").partition("?")[0] == f"{link}{NAME}"


@pytest.mark.parametrize(
    ("media_type", "disposition"),
    [
        ("video/mp4", None),
        ("image/png", None),
        ("audio/wav", None),
        ("image/svg+xml", "attachment"),
        ("text/html", "attachment"),
        ("application/octet-stream", "attachment"),
    ],
)
async def test_what_could_be_a_page_is_downloaded(
    s3_server: S3Server, media_type: str, disposition: str | None
):
    store = open_store(s3_server.endpoint, prefix="types")
    await put(store, b"<script>", media_type)
    with await asyncio.to_thread(fetch, await store.link(NAME)) as answer:
        assert answer.headers["Content-Disposition"] == disposition
        assert answer.headers["Content-Type"] == media_type


async def test_a_copy_that_breaks_off_leaves_no_parts(s3_server: S3Server):
    store = open_store(s3_server.endpoint, prefix="cut")
    with pytest.raises(ConnectionError):
        await store.put(
            NAME, chunks(bytes(LARGE), error=ConnectionError()), media_type="video/mp4", max_bytes=1 << 40
        )
    assert s3_server.unfinished() == []


async def test_a_cancelled_copy_leaves_no_parts(s3_server: S3Server):
    store = open_store(s3_server.endpoint, prefix="cancelled")
    reached = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield bytes(LARGE)
        reached.set()
        await asyncio.Event().wait()

    copy = asyncio.create_task(store.put(NAME, source(), media_type="video/mp4", max_bytes=1 << 40))
    await reached.wait()
    copy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copy
    assert s3_server.unfinished() == []
    assert await store.find(NAME) is None


async def test_a_copy_by_a_source_with_a_timeout_of_its_own_is_read_in_one_task(s3_server: S3Server):
    async def source() -> AsyncIterator[bytes]:
        async with asyncio.timeout(60):
            for _ in range(3):
                yield bytes(PART_BYTES)

    store = open_store(s3_server.endpoint, prefix="timeout")
    stored = await store.put(NAME, source(), media_type="video/mp4", max_bytes=1 << 40)
    assert stored.size == 3 * PART_BYTES


async def test_what_the_bridge_did_not_make_is_never_deleted(s3_server: S3Server):
    store = open_store(s3_server.endpoint, prefix="shared")
    other = "someone/elses"
    await store.put(other, chunks(b"x"), media_type="text/plain", max_bytes=10)
    await put(store, b"x")
    assert await store.delete_before(SystemClock().time() + 3600, limit=10) == 1
    assert await store.find(other) is not None


async def refusal(store: S3Store) -> str:
    with pytest.raises(StoreError) as failed:
        await store.check()
    assert failed.value.__cause__ is None
    return str(failed.value)


@pytest.fixture
def secretive(s3_server: S3Server):
    """Checks that a sentence holds neither address nor credential."""

    def check(sentence: str) -> str:
        for secret in (KEY, READER, SECRET, "a-wrong-secret", "127.0.0.1", "http", BUCKET + "/"):
            assert secret not in sentence
        return sentence

    return check


async def test_a_check_says_what_is_wrong(s3_server: S3Server, secretive, monkeypatch: pytest.MonkeyPatch):
    missing = secretive(await refusal(open_store(s3_server.endpoint, "not-there")))
    assert missing == "the bucket does not exist"
    gone = await refusal(open_store(f"http://127.0.0.1:{free_port()}"))
    assert secretive(gone) == "the bucket cannot be reached, or breaks off"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    denied = secretive(await refusal(open_store(s3_server.endpoint)))
    assert denied == "the bridge may not write into the bucket"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    denied = secretive(await refusal(open_store(s3_server.endpoint)))
    assert denied == "the bridge may not write into the bucket"
    with pytest.raises(StoreError) as refused:
        await open_store(s3_server.endpoint).find(NAME)
    assert secretive(str(refused.value)) == "the bucket refuses the bridge's credentials"


async def test_without_credentials_that_is_what_is_said(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    said = await refusal(open_store(s3_server.endpoint))
    assert said == "no credentials for the bucket: neither in the environment nor from the instance"


async def test_a_bucket_that_breaks_off_is_said_where_it_does():
    head = (
        b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nContent-Type: video/mp4\r\nETag: "e"\r\n'
        b"Last-Modified: Mon, 30 Nov 2026 09:00:00 GMT\r\n\r\n"
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"range:" in (await reader.readuntil(b"\r\n\r\n")).lower():
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")  # no second try
        else:
            writer.write(head + bytes(300_000))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        store = open_store(f"http://127.0.0.1:{port}")
        async with store.open(NAME) as (stored, iterator):
            assert stored.size == 1_000_000
            with pytest.raises(StoreError) as broken:
                _ = [chunk async for chunk in iterator]
        assert "127.0.0.1" not in str(broken.value)

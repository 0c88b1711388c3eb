"""Copies and inline content, opened like the files of providers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator

import pytest

from bridge.core.task import Output
from bridge.errors import UpstreamRefused
from bridge.outputs.source import OutputFile
from bridge.outputs.store import NotStored
from bridge.outputs.stored import open_inline, open_stored
from tests.fakes.stores import MemoryStore

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 600


async def parts(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def whole(file: OutputFile) -> bytes:
    return b"".join([part async for part in file.chunks()])


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        (None, 200, CONTENT),
        ("bytes=0-", 206, CONTENT),
        ("bytes=10-19", 206, CONTENT[10:20]),
        ("bytes=-7", 206, CONTENT[-7:]),
        ("bytes=9999999-", 416, b""),
    ],
)
async def test_ranges(inline: bool, asked: str | None, status: int, expected: bytes) -> None:
    store = MemoryStore()
    await store.put("a/b/0", parts(CONTENT), media_type="video/mp4", max_bytes=10**9)
    headers = {"range": asked} if asked else {}
    output = Output(type="video", data=b64encode(CONTENT).decode(), media_type="video/mp4")
    opening = open_inline(output, headers=headers) if inline else open_stored(store, "a/b/0", headers=headers)
    async with opening as file:
        assert (file.status, await whole(file)) == (status, expected)
        assert file.headers["accept-ranges"] == "bytes"
        if status != 416:
            assert file.length == len(expected)
            assert file.headers["content-type"] == "video/mp4"
        tag = file.headers["etag"]
    for condition, answer in ((tag, 206), ('"other"', 200)):
        headers = {"range": "bytes=0-0", "if-range": condition}
        again = (
            open_inline(output, headers=headers) if inline else open_stored(store, "a/b/0", headers=headers)
        )
        async with again as file:
            assert file.status == answer


async def test_what_is_not_there_is_said_before_anything_is_sent() -> None:
    with pytest.raises(NotStored):
        async with open_stored(MemoryStore(), "a/b/0"):
            pass
    with pytest.raises(UpstreamRefused):
        async with open_inline(Output(type="image", data="a")):
            pass

"""Files that the bridge has itself, opened like those of providers: copies in a store, and inline content."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from hashlib import blake2b

from bridge.core.task import Output
from bridge.errors import UpstreamRefused, UpstreamUnavailable
from bridge.outputs.ranges import ENTITY_TAG, asked_range
from bridge.outputs.source import OutputFile
from bridge.outputs.store import NotStored, OutputStore

_PART = 64 * 1024
_NO_HEADERS: Mapping[str, str] = {}


@asynccontextmanager
async def open_stored(
    store: OutputStore, name: str, *, headers: Mapping[str, str] = _NO_HEADERS
) -> AsyncIterator[OutputFile]:
    """Open a copy.

    Args:
        headers: As of `OutputSource.open`; conditions are left to the caller.

    Raises:
        NotStored: There is none.
        StoreError: The store failed; also by `chunks`.
    """
    stored = await store.find(name)
    if stored is None:
        raise NotStored
    described = {
        "content-type": stored.media_type,
        "etag": f'"{stored.etag}"',  # checked below: others may write into a bucket, too
        "last-modified": formatdate(stored.modified, usegmt=True),
    }
    status, described, span = _answer(headers, stored.size, described)
    if span is None:
        yield OutputFile(status, described, 0, _slices(b""))
        return
    first, end = span
    async with store.open(name, start=first, end=end) as (opened, chunks):
        if (opened.etag, opened.size) != (stored.etag, stored.size):
            raise UpstreamUnavailable("the copy of the file was replaced just now")
        yield OutputFile(status, described, end - first, _exactly(chunks, end - first))


@asynccontextmanager
async def open_inline(
    output: Output, *, headers: Mapping[str, str] = _NO_HEADERS
) -> AsyncIterator[OutputFile]:
    """Open the content that the provider sent inside its answer.

    Raises:
        UpstreamRefused: It is not base64.
    """
    try:
        # In a thread: it may be 30 MB.
        content = await asyncio.to_thread(b64decode, output.data or "")
        tag = await asyncio.to_thread(lambda: blake2b(content, digest_size=12).hexdigest())
    except (binascii.Error, ValueError):
        raise UpstreamRefused("the provider sent this file inline, and not as base64") from None
    described = {"content-type": output.media_type or "", "etag": f'"{tag}"'}
    status, described, span = _answer(headers, len(content), described)
    first, end = span or (0, 0)
    yield OutputFile(status, described, end - first, _slices(content[first:end]))


def _answer(
    headers: Mapping[str, str], size: int, described: dict[str, str]
) -> tuple[int, dict[str, str], tuple[int, int] | None]:
    """Status, headers, and which bytes to send, the end not included; None for none."""
    described["accept-ranges"] = "bytes"
    if not ENTITY_TAG.fullmatch(described["etag"]):
        del described["etag"]
    asked = asked_range(headers)
    fresh = asked is None or asked.condition in (None, described.get("etag"), described.get("last-modified"))
    if asked is None or not fresh:
        return 200, described | {"content-length": str(size)}, (0, size)
    span = asked.of(size)
    if span is None:
        return 416, described | {"content-range": f"bytes */{size}"}, None
    first, last = span
    part = {"content-range": f"bytes {first}-{last}/{size}", "content-length": str(last - first + 1)}
    return 206, described | part, (first, last + 1)


async def _exactly(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    async for part in chunks:
        size -= len(part)
        yield part
    if size:
        raise UpstreamUnavailable("the copy of the file was cut short")


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), _PART):
        yield content[at : at + _PART]

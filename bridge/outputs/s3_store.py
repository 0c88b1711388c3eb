"""Copies of outputs in a bucket of S3, or of another service with its API.

The client is obstore (docs/decisions/2026-11-30-s3-client.md): TLS, signatures and hashes run in its own
threads, without the interpreter. Its errors quote URLs and answers, so none of their text is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, Literal

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as Bucket

from bridge.clock import Clock
from bridge.outputs.names import check_name, is_object_name
from bridge.outputs.store import FileTooLarge, NotStored, StoredFile, StoreError

PART_BYTES = 8 * 1024 * 1024
"""Of a file that is sent in parts: a protocol's 10,000 of them are 78 GiB."""

_PIECE_BYTES = 512 * 1024
_READ_BYTES = 64 * 1024
_ABORT_SECONDS = 10.0
_LISTED = 1000  # the most that one answer has
_PROBE = "bridge-check"
_CONNECT_TIMEOUT = timedelta(seconds=5)
_STALL_TIMEOUT = timedelta(seconds=30)
_WRITE_TIMEOUT = timedelta(minutes=2)  # of one part: 70 kB/s
_READ_TIMEOUT = timedelta(days=1)  # of a whole answer: as slow as the client that reads it
_STATUS = re.compile(r"status code: (\d{3})")
_INSTANCE = re.compile(r"169\.254\.\d|/latest/(?:api|meta-data)/")  # who is asked for credentials last
_MEDIA = re.compile(r"(?:image|video|audio)/(?!svg)", re.IGNORECASE)

Links = Literal["signed", "public", "bridge"]


class _Abandoned(Exception):
    """Raised into an upload that is no longer wanted: only an error makes it remove its parts."""


class S3Store:
    """Satisfies `OutputStore`. Credentials come from the environment, or from the instance.

    Args:
        bucket: Its name.
        prefix: What all keys begin with; empty for nothing.
        endpoint: URL of an S3 API other than Amazon's; buckets are then addressed by path.
        public_url: What public URLs begin with; None for the bucket's own.

    Raises:
        StoreError: The client does not accept these, or the variables it reads.
    """

    def __init__(
        self,
        bucket: str,
        clock: Clock,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str,
        links: Links = "signed",
        public_url: str | None = None,
        signed_seconds: int = 3600,
    ) -> None:
        self._clock = clock
        self._links = links
        self._signed = timedelta(seconds=signed_seconds)
        by_path = (
            endpoint is not None or "." in bucket
        )  # a dot would make another name than the certificate's
        own_url = f"{endpoint}/{bucket}" if endpoint else _amazon_url(bucket, region, by_path=by_path)
        self._public_url = public_url or (f"{own_url}/{prefix}" if prefix else own_url)

        def connected(timeout: timedelta) -> Bucket:
            return Bucket(
                bucket,
                prefix=prefix or None,
                config={
                    "region": region,
                    "virtual_hosted_style_request": not by_path,
                    # Not every server has the call that deletes many objects at once.
                    "disable_bulk_delete": endpoint is not None,
                    **({"endpoint": endpoint} if endpoint else {}),
                },
                client_options={
                    "allow_http": bool(endpoint and endpoint.startswith("http://")),
                    "connect_timeout": _CONNECT_TIMEOUT,
                    "read_timeout": _STALL_TIMEOUT,
                    "timeout": timeout,
                },
                retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
            )

        try:
            self._writer, self._reader = connected(_WRITE_TIMEOUT), connected(_READ_TIMEOUT)
        except BaseError:
            raise StoreError("its client does not accept the settings, or the AWS_ variables") from None

    async def check(self) -> None:
        """See `OutputStore`. The probe stays where the bridge may not delete."""
        text = b"a test of this bucket"
        with _errors("the bridge may not write into the bucket"):
            await obstore.put_async(self._writer, _PROBE, text, use_multipart=False)
        with _errors("the bridge may not read from the bucket"):
            read = await (await obstore.get_async(self._reader, _PROBE)).bytes_async()
        if bytes(read) != text:
            raise StoreError("the bucket does not keep what is written")
        with contextlib.suppress(BaseError):
            await obstore.delete_async(self._writer, _PROBE)

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, media_type: str, max_bytes: int
    ) -> StoredFile:
        """See `OutputStore`."""
        check_name(name)
        attributes = {"Content-Type": media_type}
        if not _MEDIA.match(media_type):
            attributes["Content-Disposition"] = "attachment"  # a page would run in the bucket's origin
        async with contextlib.aclosing(_pieces(chunks, max_bytes)) as pieces:
            first = await anext(pieces, b"")
            if len(first) < PART_BYTES:
                with _errors():
                    result = await obstore.put_async(
                        self._writer, name, first, attributes=attributes, use_multipart=False
                    )
                size = len(first)
            else:
                size, result = await self._put_parts(name, first, pieces, attributes)
        return StoredFile(size, media_type, _unquoted(result["e_tag"]), self._clock.time())

    async def _put_parts(
        self, name: str, first: bytes, pieces: AsyncGenerator[bytes], attributes: dict[str, str]
    ) -> tuple[int, obstore.PutResult]:
        """Send a file in parts; how many bytes it had.

        The client reads its source in tasks of its own, so it gets a queue: `pieces` may hold timeouts, which
        belong to the task that iterates.
        """
        queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(1)
        upload = asyncio.ensure_future(
            obstore.put_async(
                self._writer,
                name,
                _taken(queue),
                attributes=attributes,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=1,
            )
        )
        size = 0
        try:
            piece: bytes | None = first
            while piece is not None:
                size += len(piece)
                await _hand_over(queue, piece, upload)
                piece = await anext(pieces, None)
            await _hand_over(queue, None, upload)
            with _errors():
                return size, await asyncio.shield(upload)
        finally:
            if not upload.done():
                await _abort(queue, upload)

    async def find(self, name: str) -> StoredFile | None:
        """See `OutputStore`."""
        check_name(name)
        try:
            with _errors():
                return _stored(await obstore.get_async(self._reader, name, options={"head": True}))
        except NotStored:
            return None

    @contextlib.asynccontextmanager
    async def open(
        self, name: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[tuple[StoredFile, AsyncIterator[bytes]]]:
        """See `OutputStore`."""
        check_name(name)
        whole = start == 0 and end is None
        # A range that is empty, or beyond the end, is an error to the protocol.
        stored = None if whole else await self.find(name)
        if not whole and stored is None:
            raise NotStored
        if stored is not None and start >= (stored.size if end is None else min(end, stored.size)):
            yield stored, _nothing()
            return
        options: obstore.GetOptions = {}
        if not whole:
            options = {"range": {"offset": start} if end is None else (start, end)}
        with _errors():
            result = await obstore.get_async(self._reader, name, options=options)
        yield _stored(result), _body(result)

    async def link(self, name: str) -> str | None:
        """See `OutputStore`."""
        check_name(name)
        if self._links == "bridge":
            return None
        if self._links == "public":
            return f"{self._public_url}/{name}"
        with _errors():
            return await obstore.sign_async(self._reader, "GET", name, self._signed)

    async def delete_before(self, unix_time: float, *, limit: int) -> int:
        """See `OutputStore`. Parts of copies that were killed are left to a rule of the bucket."""
        deleted = 0
        if unix_time <= 0:
            return deleted
        with _errors("the bridge may not list or delete objects of the bucket"):
            async for page in obstore.list(self._reader, chunk_size=_LISTED):
                old = [
                    one["path"]
                    for one in page
                    if one["last_modified"].timestamp() < unix_time and is_object_name(one["path"])
                ][: limit - deleted]
                if old:
                    await obstore.delete_async(self._writer, old)
                    deleted += len(old)
                if deleted >= limit:
                    break
        return deleted

    async def close(self) -> None:
        """See `OutputStore`: the client closes idle connections itself."""


def _amazon_url(bucket: str, region: str, *, by_path: bool) -> str:
    host = f"s3.{region}.amazonaws.com"
    return f"https://{host}/{bucket}" if by_path else f"https://{bucket}.{host}"


async def _pieces(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes]:
    """A first piece of `PART_BYTES`, which is shorter only if it is all, then smaller ones."""
    collected = bytearray()
    size, length = 0, PART_BYTES
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise FileTooLarge
        collected += chunk
        if len(collected) >= length:
            yield bytes(collected)
            collected.clear()
            length = _PIECE_BYTES  # the client collects what makes a part
    if collected:
        yield bytes(collected)


async def _taken(queue: asyncio.Queue[bytes | Exception | None]) -> AsyncIterator[bytes]:
    while (piece := await queue.get()) is not None:
        if isinstance(piece, Exception):
            raise piece
        yield piece


async def _hand_over(
    queue: asyncio.Queue[bytes | Exception | None],
    piece: bytes | None,
    upload: asyncio.Future[obstore.PutResult],
) -> None:
    """Wait for room in the queue.

    Raises:
        StoreError: The upload has failed by now.
    """
    putting = asyncio.ensure_future(queue.put(piece))
    first: set[asyncio.Future[Any]] = {putting, upload}
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    finally:
        putting.cancel()
    if upload.done():
        with _errors():
            await upload


async def _abort(
    queue: asyncio.Queue[bytes | Exception | None], upload: asyncio.Future[obstore.PutResult]
) -> None:
    """Have the upload remove its parts: cancelling it would leave them, hidden and paid for."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(_Abandoned())
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait({upload}, timeout=_ABORT_SECONDS)
    upload.cancel()
    with contextlib.suppress(BaseException):
        await upload


def _stored(result: obstore.GetResult) -> StoredFile:
    meta = result.meta
    media_type = result.attributes.get("Content-Type", "application/octet-stream")
    return StoredFile(
        meta["size"], str(media_type), _unquoted(meta["e_tag"]), meta["last_modified"].timestamp()
    )


async def _body(result: obstore.GetResult) -> AsyncIterator[bytes]:
    with _errors():
        async for chunk in result.stream(min_chunk_size=_READ_BYTES):
            yield bytes(chunk)


async def _nothing() -> AsyncIterator[bytes]:
    chunks: tuple[bytes, ...] = ()
    for chunk in chunks:
        yield chunk


def _unquoted(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"')


@contextlib.contextmanager
def _errors(refused: str = "the bucket refuses the bridge's credentials") -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if "NoSuchBucket" in str(error):
            raise StoreError("the bucket does not exist") from None
        raise NotStored from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise StoreError(refused) from None
    except (BaseError, OSError) as error:
        raise StoreError(_sentence(str(error))) from None


def _sentence(text: str) -> str:
    """What may be said of an error: nothing of its text but the status."""
    if "NoSuchBucket" in text:
        return "the bucket does not exist"
    if _INSTANCE.search(text):
        return "no credentials for the bucket: neither in the environment nor from the instance"
    if match := _STATUS.search(text):
        return f"the bucket answers with HTTP status {match[1]}"
    return "the bucket cannot be reached, or breaks off"

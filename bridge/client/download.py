"""Downloads of the files of results: what a lost connection cut is continued where it stopped."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import aiohttp

from bridge.client.errors import BridgeUnreachable
from bridge.client.state import Ref
from bridge.client.transport import HttpTransport, task_path, unreachable
from bridge.errors import BridgeError, InvalidRequest, UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from bridge.client.backoff import Backoff

# Longer than the bridge's own timeouts: 30 s for the first byte of each place it tries, a minute for more.
HEAD_SECONDS = 120.0
SILENT_SECONDS = 90.0

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_FILENAME = re.compile(r'filename="([A-Za-z0-9_][A-Za-z0-9._-]{0,199})"')
_RANGE_NOT_SATISFIABLE = 416


@dataclass(slots=True)
class FileHead:
    """What is known about a file once its first response has begun.

    Args:
        name: The name that the bridge gives it; never a path.
        size: In bytes; None where neither the provider nor a copy says it.
    """

    name: str
    size: int | None = None


class Download:
    """One output of a task.

    Args:
        retries: How many times it is continued after a cut, in all.
        backoff: Delays before each.
    """

    def __init__(
        self,
        transport: HttpTransport,
        ref: Ref,
        n: int,
        *,
        retries: int,
        backoff: Backoff,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= 9999:
            raise InvalidRequest("outputs are numbered from 0")
        # A file inside the provider's answer too: who downloads it wants it.
        self._path = task_path(ref, f"/outputs/{n}?include=data")
        self._transport = transport
        self._left = retries
        self._backoff = backoff
        self._sleep = sleep
        self._validator: str | None = None
        self.head = FileHead(f"output-{n}")

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the file.

        Raises:
            BridgeUnreachable: It was cut, and what was yielded is not the beginning of what would follow.
            BridgeError: As for `save`.
        """
        async with aclosing(self._parts()) as parts:
            came = 0
            async for start, part in parts:
                if start < came:
                    raise BridgeUnreachable("the file was cut, and is not sent from there on: start again")
                came = start + len(part)
                if part:
                    yield part

    async def save(
        self, to: str | os.PathLike[str], on_progress: Callable[[int, int | None], object] | None = None
    ) -> Path:
        """Write the file; its path.

        Cancellation: what was written so far is removed.

        Raises:
            BridgeError: It was refused, or cut too often.
            OSError: It cannot be written.
        """
        target = Path(to)
        folder = target if await asyncio.to_thread(target.is_dir) else target.parent
        # Beside it, so that the rename stays within one file system; with the usual mode of new files.
        partial = folder / f".{uuid.uuid4().hex}.part"
        file = await asyncio.to_thread(partial.open, "xb")
        try:
            try:
                async with aclosing(self._parts()) as parts:
                    async for start, part in parts:
                        await asyncio.to_thread(_write, file, start, part)
                        told = on_progress(start + len(part), self.head.size) if on_progress else None
                        if inspect.isawaitable(told):
                            await told
            finally:
                await asyncio.to_thread(file.close)
            if folder is target:
                target /= self.head.name
            await asyncio.to_thread(partial.replace, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return target

    async def _parts(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield parts with their positions; one at 0 that is not the first begins the file again."""
        position = 0
        response = await self._open({})
        while True:
            cut: BridgeError
            try:
                async with aclosing(_body(response)) as body:
                    async for part in body:
                        yield position, part
                        position += len(part)
            except BridgeUnreachable as error:
                cut = error
            else:
                if position == 0:
                    yield 0, b""  # empty, after a cut that had brought something
                return
            response, position = await self._continued(position, cut)

    async def _continued(self, position: int, cut: BridgeError) -> tuple[aiohttp.ClientResponse, int]:
        """Ask for the rest; the response, and the position of its first byte.

        Raises:
            BridgeError: It was refused, or cut too often.
        """
        while self._left > 0:
            self._left -= 1
            await self._sleep(self._backoff.next(cut.retry_after))
            headers = {}
            if position and self._validator:
                headers = {"Range": f"bytes={position}-", "If-Range": self._validator}
            try:
                response = await self._open(headers)
            except BridgeError as error:
                if error.status == _RANGE_NOT_SATISFIABLE and headers:
                    self._validator = None  # nothing follows: start again, to know whether it is whole
                elif not error.retryable:
                    raise
                cut = error
                continue
            if response.status != 206:
                return response, 0
            part = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            size = self.head.size
            if headers and part and int(part[1]) == position and (size is None or part[3] == str(size)):
                return response, position
            response.close()
            raise UnreadablePayload("the bridge, or a proxy in front of it, sent another part of the file")
        raise BridgeUnreachable(f"the file was cut after {position} bytes: {cut}") from None

    async def _open(self, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        # Compressed by a proxy, it would have no ranges.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
        response = await self._transport.open(
            "GET", self._path, headers=headers, timeout_seconds=HEAD_SECONDS
        )
        if response.status == 206 and "Range" in headers:
            return response
        if response.status != 200:
            response.close()
            raise UnreadablePayload(f"HTTP {response.status} is not the answer to a request for a file")
        tag = response.headers.get("ETag", "")
        # A weak tag does not say that the bytes are the same.
        strong = tag if tag.startswith('"') else None
        self._validator = strong or response.headers.get("Last-Modified")
        name = _FILENAME.search(response.headers.get("Content-Disposition", ""))
        self.head = FileHead(name[1] if name else self.head.name, response.content_length)
        return response


async def _body(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Yield what comes; always closes the response.

    Raises:
        BridgeUnreachable: It was cut.
    """
    try:
        while True:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    part = await response.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise unreachable(error) from None
            if not part:
                return
            yield part
    finally:
        response.close()


def _write(file: BinaryIO, start: int, part: bytes) -> None:
    if start != file.tell():
        file.seek(start)
        file.truncate()
    file.write(part)

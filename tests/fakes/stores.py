"""A store of outputs in memory, which fails and waits when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from hashlib import sha256

from bridge.clock import Clock
from bridge.outputs.names import check_name
from bridge.outputs.store import FileTooLarge, NotStored, StoredFile, StoreError
from tests.fakes.clock import FakeClock

_CHUNK = 65_536


class MemoryStore:
    """Satisfies `OutputStore`.

    Args:
        links: What URLs of files begin with; None to leave the reading to the bridge.

    Attributes:
        content: What is stored, by name.
        puts: The names of all copies that were begun.
        failure: What every call raises, while there is one.
        writable: Clear it and copies wait after their last byte until it is set.
    """

    def __init__(self, clock: Clock | None = None, *, links: str | None = None) -> None:
        self._clock = clock or FakeClock()
        self._links = links
        self._files: dict[str, StoredFile] = {}
        self.content: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.failure: StoreError | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    def _check(self, name: str) -> None:
        check_name(name)
        if self.failure is not None:
            raise self.failure

    async def check(self) -> None:
        self._check("check")

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, media_type: str, max_bytes: int
    ) -> StoredFile:
        self._check(name)
        self.puts.append(name)
        content = bytearray()
        async for chunk in chunks:
            content += chunk
            if len(content) > max_bytes:
                raise FileTooLarge
        await self.writable.wait()
        self._check(name)
        stored = StoredFile(len(content), media_type, sha256(content).hexdigest()[:32], self._clock.time())
        self.content[name], self._files[name] = bytes(content), stored
        return stored

    async def find(self, name: str) -> StoredFile | None:
        self._check(name)
        return self._files.get(name)

    @contextlib.asynccontextmanager
    async def open(
        self, name: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[tuple[StoredFile, AsyncIterator[bytes]]]:
        self._check(name)
        if name not in self._files:
            raise NotStored
        yield self._files[name], self._read(name, self.content[name][start:end])

    async def _read(self, name: str, content: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(content), _CHUNK):
            self._check(name)
            yield content[at : at + _CHUNK]

    async def link(self, name: str) -> str | None:
        self._check(name)
        return None if self._links is None else f"{self._links.rstrip('/')}/{name}"

    async def delete_before(self, unix_time: float, *, limit: int) -> int:
        self._check("delete")
        old = [name for name, stored in self._files.items() if stored.modified < unix_time][:limit]
        for name in old:
            del self._files[name], self.content[name]
        return len(old)

    async def close(self) -> None:
        pass

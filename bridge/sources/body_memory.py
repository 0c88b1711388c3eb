"""Memory for the bodies that are being read, shared by all upstreams: the next is read when there is room."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

DEFAULT_MAX_BODY = 32 * 1024 * 1024
POOL_BYTES = 64 * 1024 * 1024
UNCOUNTED_BYTES = 64 * 1024
_STEP = 256 * 1024


class BodyMemory:
    """A pool of bytes that bodies take in steps, first come first served, and return when they were read.

    One body at a time, the first, is promised room up to `largest`, and the others leave that much free. So
    bodies that are half read never wait for each other without end: the first can always be finished.

    Args:
        size: Bytes that all bodies share beyond the first 64 KiB of each, which are not counted.
        largest: Bytes that one body may have.
    """

    def __init__(self, size: int = POOL_BYTES, *, largest: int = DEFAULT_MAX_BODY) -> None:
        self._free = max(size, largest)
        self._largest = largest
        self._first: Share | None = None
        self._waiting: deque[tuple[Share, int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that no body has taken."""
        return self._free

    def share(self) -> Share:
        """The share of one body, as a context manager that returns it."""
        return Share(self)

    async def take(self, share: Share, amount: int) -> None:
        """Take bytes from the pool, waiting for room."""
        if (not self._waiting or share is self._first) and self._try(share, amount):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (share, amount, turn)
        self._waiting.append(waiting)
        try:
            await turn
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self._serve()

    def give_back(self, share: Share) -> None:
        """Return all that a body has taken."""
        self._free += share.taken
        share.taken = 0
        if share is self._first:
            self._first = None
        self._serve()

    def _try(self, share: Share, amount: int) -> bool:
        if self._first is None:
            self._first = share
        promised = 0 if share is self._first else max(self._largest - self._first.taken, 0)
        if self._free - amount < promised:
            return False
        self._free -= amount
        share.taken += amount
        return True

    def _serve(self) -> None:
        while self._waiting:
            share, amount, turn = self._waiting[0]
            if not turn.cancelled() and not self._try(share, amount):
                return
            self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How large a response of one upstream may be, and the memory for reading it.

    Args:
        max_bytes: Decompressed.
        memory: Shared with other upstreams.
    """

    max_bytes: int = DEFAULT_MAX_BODY
    memory: BodyMemory = field(default_factory=BodyMemory)


class Share:
    """What one body has taken from the pool.

    Attributes:
        taken: Bytes, beyond the first 64 KiB.
    """

    __slots__ = ("_memory", "taken")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Return what it has taken."""
        if self.taken:
            self._memory.give_back(self)

    def covers(self, size: int) -> bool:
        """Whether a body of this many bytes needs no more room."""
        return size <= UNCOUNTED_BYTES + self.taken

    async def grow(self, size: int, limit: int) -> None:
        """Take room for a body of this many bytes and a step more, at most for one of `limit` bytes."""
        missing = size - UNCOUNTED_BYTES - self.taken
        steps = -(-missing // _STEP) * _STEP
        await self._memory.take(self, min(steps, max(limit - UNCOUNTED_BYTES - self.taken, missing)))

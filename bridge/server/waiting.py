"""Smaller than asyncio's own: an `asyncio.Event` is 800 bytes of each connection, and a queue 3 KB."""

from __future__ import annotations

import asyncio
from typing import Any


class Signal:
    """An `asyncio.Event` that takes memory only while a coroutine waits."""

    __slots__ = ("_set", "_waiters")

    def __init__(self, *, is_set: bool = False) -> None:
        self._set = is_set
        self._waiters: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        """Whether `wait` returns at once."""
        return self._set

    def set(self) -> None:
        """Let all waiting coroutines continue."""
        self._set = True
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Let later calls of `wait` wait."""
        self._set = False

    async def wait(self) -> bool:
        """Wait until it is set, for one moment at least; always true."""
        if self._set:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
        return True


class Inbox:
    """The messages for one reader, in order, as an `asyncio.Queue` without a limit."""

    __slots__ = ("_arrived", "_messages")

    def __init__(self) -> None:
        self._messages: list[Any] = []  # one, nearly always: nothing is read behind it
        self._arrived = Signal()

    def empty(self) -> bool:
        """Whether `get` waits."""
        return not self._messages

    def put_nowait(self, message: Any) -> None:
        """Add one."""
        self._messages.append(message)
        self._arrived.set()

    async def get(self) -> Any:
        """Wait for the oldest, and remove it."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.pop(0)

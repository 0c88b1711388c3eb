"""An event loop that takes one turn when a test says so: what meets within a turn can be told apart."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class ManualLoop:
    """Only `call_soon`, which is all a hub asks of its loop."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to run."""
        return not self._ready

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        """Run it in the next turn."""
        self._ready.append((call, args))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Whoever asks for the running loop gets this one."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type] # as far as a hub can tell, it is one
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turn(self) -> None:
        """Run what is ready, and nothing that becomes ready by it."""
        with self.running():
            for _ in range(len(self._ready)):
                call, args = self._ready.popleft()
                call(*args)

    def settle(self) -> None:
        """Take turns until nothing is left to run."""
        while self._ready:
            self.turn()

    def run(self, doing: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine that never waits."""
        with self.running():
            try:
                doing.send(None)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
        raise AssertionError("it waits")

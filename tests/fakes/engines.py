"""One maker per engine: the contract tests run over all of them, with the time in the test's hands.

A maker that needs a server starts it once per test process, ends it by its pid, and gives each `open` a name
of its own on it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from bridge.engine.base import Engine
from bridge.engine.embedded import EmbeddedEngine
from bridge.engine.store import StoreLimits

START = 1_800_000_000_000_000  # microseconds


class VirtualTime:
    """The engine's clock, in microseconds; it stands still until a test advances it."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


class EngineMaker(Protocol):
    """Opens engines of one kind."""

    name: str

    def unavailable(self) -> str:
        """Why it cannot run here (its server is not installed); empty if it can."""

    def open(
        self, now: Callable[[], int], *, history: int = 32, log: int = 50_000, raw_bytes: int = 65_536
    ) -> AbstractAsyncContextManager[Engine]:
        """An engine that holds nothing yet."""


class EmbeddedMaker:
    name = "embedded"

    def unavailable(self) -> str:
        return ""

    @asynccontextmanager
    async def open(
        self, now: Callable[[], int], *, history: int = 32, log: int = 50_000, raw_bytes: int = 65_536
    ) -> AsyncIterator[Engine]:
        engine = EmbeddedEngine(now, limits=StoreLimits(history=history, log=log, raw_bytes=raw_bytes))
        try:
            yield engine
        finally:
            await engine.close()


ENGINES: list[EngineMaker] = [EmbeddedMaker()]


def require(maker: EngineMaker) -> None:
    """Skip the test where the engine's server is missing; fail in CI, where it must not be."""
    reason = maker.unavailable()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)

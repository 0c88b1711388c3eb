"""Fixtures every room of the tests may use: factories, and the rule that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.harness import PATIENCE


@pytest.fixture
def anyio_backend() -> str:
    """One event loop library: asyncio."""
    return "asyncio"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session that waits long and pools nothing between tests."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session


@pytest.fixture
async def nothing_left_running() -> AsyncIterator[None]:
    """After a test no task of its own is left."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if not task.done()]
    assert not left, f"left running: {left}"


def missing(what: str) -> None:
    """A service a test needs is not here: skip on a laptop, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and in CI it must not be")
    pytest.skip(f"{what} is not installed")

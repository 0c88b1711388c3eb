"""One event loop a module: tests that only look share one bridge that was killed once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"

"""One event loop a module, so that tests which do not disturb each other share one bridge process."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"

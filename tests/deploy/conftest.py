"""One event loop a module, so that the tests of a module share what takes long to start."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"

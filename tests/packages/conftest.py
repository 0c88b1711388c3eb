"""What the tests of the installed package share: one tarball, one browser, one bridge, each project once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import launch_chromium
from tests.e2e.scene import Scene, stage
from tests.packages.projects import Project, installed, packed


@pytest.fixture(scope="session")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed package."""
    return packed(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, tarball: Path) -> Callable[[str], Project]:
    """A project of this kind, installed once."""
    folder = tmp_path_factory.mktemp("projects")
    made: dict[str, Project] = {}

    def get(kind: str) -> Project:
        if kind not in made:
            made[kind] = installed(kind, folder, tarball)
        return made[kind]

    return get


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One browser and one bridge for the tests of a module."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium."""
    async with launch_chromium() as made:
        yield made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    """A bridge that pages of other origins may use."""
    async with stage(allowed_origins='["*"]') as made:
        yield made

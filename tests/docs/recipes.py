"""How the recipes are started."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.docs.pages import ROOT
from tests.docs.programs import Program, started

RECIPES = ROOT / "docs" / "recipes"
PYTHON = sys.executable


def needed(program: str) -> str:
    """Where a program is that a recipe is written for."""
    found = shutil.which(program)
    if found is None:
        missing(program)
    return str(found)


@pytest.fixture(scope="session")
def go_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go recipe, built."""
    path = tmp_path_factory.mktemp("go") / "server"
    command = [needed("go"), "build", "-o", str(path), "."]
    built = subprocess.run(command, cwd=RECIPES / "go", capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return path


@asynccontextmanager
async def serving(*command: str | Path, **environment: str) -> AsyncIterator[tuple[str, Program]]:
    """A recipe that is a server, on a free port; its address, and itself."""
    async with started(*command, environment={"PORT": "0"} | environment) as program:
        line = await program.line("listening on http://")
        yield line.partition("listening on ")[2], program


Backend = Callable[..., AbstractAsyncContextManager[tuple[str, Program]]]


@pytest.fixture(params=["node", "go"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """The servers that follow tasks: two languages, the same promises."""

    def start(bridge: str) -> AbstractAsyncContextManager[tuple[str, Program]]:
        return serving(*backend_command(request, request.param), BRIDGE_URL=bridge)

    return start


def backend_command(request: pytest.FixtureRequest, language: str) -> tuple[str | Path, ...]:
    """What starts the server of that language."""
    if language == "go":
        return (request.getfixturevalue("go_server"),)
    return (needed("node"), RECIPES / "node" / "server.mjs")


def shell(*arguments: str) -> tuple[str | Path, ...]:
    """The shell recipe, ready to be run."""
    for program in ("bash", "curl", "jq"):
        needed(program)
    return (RECIPES / "shell" / "wait.sh", *arguments)


def python(*arguments: str) -> tuple[str | Path, ...]:
    """The Python recipe, ready to be run."""
    return (PYTHON, RECIPES / "python" / "render.py", *arguments)

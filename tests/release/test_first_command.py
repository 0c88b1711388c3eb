"""The one command of a newcomer: the wheel by uvx and by pipx, in an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import __version__
from tests.conftest import missing
from tests.deploy.manifests import tool
from tests.docs.pages import ROOT

INSTALL_SECONDS = 300.0  # dependencies come over the network, once


pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, in the folder that `make dist` would name dist/."""
    folder = tmp_path_factory.mktemp("newcomer") / "dist"
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder with `uvx` and `pipx` in it."""
    for name in ("uvx", "pipx"):
        if tool(name) is None:
            missing(name)
    return Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home; only what was downloaded is shared."""
    return tmp_path


def typed(programs: Path, home: Path, command: str) -> str:
    """Type a command in the home of a newcomer; its output."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))
    }
    environment = kept | {
        "HOME": str(home),
        "PATH": f"{home / '.local' / 'bin'}:{programs}:{os.environ['PATH']}",
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip")),
        "PIP_NO_COMPILE": "1",
        "UV_PYTHON": sys.executable,
        "UV_SYSTEM_CERTS": "true",
        "PIPX_DEFAULT_PYTHON": sys.executable,
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=home, env=environment, capture_output=True, text=True, check=False,
        timeout=INSTALL_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_uvx_runs_the_demo_without_an_installation(programs: Path, home: Path, wheel: Path) -> None:
    run = f"uvx --from {wheel} task-event-bridge"
    assert typed(programs, home, f"{run} --version") == f"taskbridge, version {__version__}\n"
    shown = typed(programs, home, f"{run} demo --once --port 0 --speed 50")
    assert "http://127.0.0.1:" in shown
    assert " completed 100%" in shown


def test_pipx_installs_the_three_names_and_removes_them(programs: Path, home: Path, wheel: Path) -> None:
    typed(programs, home, f"pipx install {wheel}")
    for name in ("taskbridge", "bridge", "task-event-bridge"):
        assert typed(programs, home, f"{name} --version") == f"taskbridge, version {__version__}\n"
    assert " completed 100%" in typed(programs, home, "task-event-bridge demo --once --port 0 --speed 50")
    typed(programs, home, "pipx uninstall task-event-bridge")
    assert typed(programs, home, "ls .local/bin") == ""

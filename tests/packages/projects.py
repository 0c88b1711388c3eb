"""Projects of the kinds that people have, each with the packed npm package installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import missing
from tests.docs.recipes import needed

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "clients" / "js"
# Everything else was installed by tests/tools/install.py: no registry is asked.
INSTALL = ("npm", "install", "--no-save", "--offline", "--ignore-scripts", "--no-audit", "--no-fund")
INSTALLED = ".package-lock.json"  # npm writes into it, so that it is no link
SECONDS = 300.0  # a build of Next.js on a busy machine
SURROUNDINGS = {"NEXT_TELEMETRY_DISABLED": "1", "NO_COLOR": "1", "CI": "1", "NODE_ENV": ""}


@dataclass(frozen=True)
class Project:
    """A folder with its dependencies."""

    folder: Path

    def run(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> str:
        """Run a program to its end, which must be a good one; what it printed."""
        variables = os.environ | SURROUNDINGS | dict(environment or {})
        variables = {name: value for name, value in variables.items() if value}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def bin(self, name: str) -> Path:
        """A program of one of its dependencies."""
        return self.folder / "node_modules" / ".bin" / name

    def write(self, name: str, text: str) -> None:
        """Add a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def packed(folder: Path) -> Path:
    """The package as `npm pack` makes it."""
    needed("npm")
    Project(PACKAGE).run("npm", "pack", "--pack-destination", folder)
    (tarball,) = folder.glob("*.tgz")
    return tarball


def installed(kind: str, folder: Path, tarball: Path) -> Project:
    """A copy of the project in `tests/packages/KIND`, with what its lock file names and with the package."""
    needed("npm")
    if not (HERE / kind / "node_modules" / INSTALLED).is_file():
        missing(f"what tests/packages/{kind}/package-lock.json names")
    project = Project(folder / kind)
    shutil.copytree(HERE / kind, project.folder, symlinks=True, copy_function=_linked)
    project.run(*INSTALL, tarball)
    return project


def _linked(source: str, target: str) -> None:
    """Link a file of a dependency, of which there are thousands; copy any other."""
    if "/node_modules/" in source and not source.endswith(INSTALLED):
        with suppress(OSError):  # another file system
            os.link(source, target, follow_symlinks=False)
            return
    shutil.copy2(source, target, follow_symlinks=False)

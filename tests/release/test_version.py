"""One place says the version; what cannot read it there says the same. The changelog knows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml

from bridge import __version__
from tests.docs.pages import PAGES, ROOT
from tests.docs.recipes import needed

CHANGELOG = PAGES["CHANGELOG.md"]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Known limits"}


def test_the_browser_package_has_the_same() -> None:
    package = orjson.loads((ROOT / "clients" / "js" / "package.json").read_bytes())
    assert package["version"] == __version__


@pytest.mark.parametrize("path", ["base", "overlays/example"])
def test_the_manifests_run_the_same(path: str) -> None:
    file = ROOT / "deploy" / "kubernetes" / path / "kustomization.yaml"
    images = yaml.safe_load(file.read_text("utf-8"))["images"]
    assert [one["newTag"] for one in images] == [__version__]


def test_the_helm_chart_has_the_same() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "Chart.yaml").read_text("utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_pages_show_the_same() -> None:
    shown = {
        "docs/endpoints.md": r'"version": "(\d[^"]*)"',
        "docs/deployment.md": r"(?:VERSION=|task-event-bridge:)(\d\S+)",
    }
    for page, pattern in shown.items():
        assert set(re.findall(pattern, PAGES[page])) == {__version__}, page


def test_the_changelog_is_in_order() -> None:
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", one) for one in headings[1:]]
    assert None not in released
    numbers = [tuple(int(one[part]) for part in (1, 2, 3)) for one in released]
    assert numbers == sorted(numbers, reverse=True)
    assert [one[4] for one in released] == sorted((one[4] for one in released), reverse=True)
    assert set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)) <= KINDS


def test_the_changelog_knows_the_version() -> None:
    released = re.search(rf"^## \[{re.escape(__version__)}\]", CHANGELOG, re.MULTILINE)
    assert released or f"To become {__version__}," in CHANGELOG


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small tree with what `make releasable` looks at."""
    for name in ("Makefile", "CHANGELOG.md"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "bridge").mkdir()
    (tmp_path / "bridge" / "__init__.py").write_text('__version__ = "7.8.9"\n')
    return tmp_path


def releasable(folder: Path) -> tuple[int, str]:
    """Whether a release may be made of a tree; it is not asked to set up an environment."""
    develop = str(folder / ".venv" / ".develop")
    command = [
        needed("make"),
        "--no-print-directory",
        "--assume-old",
        ".venv/.develop",
        f"BIN={folder}",
        "releasable",
    ]
    (folder / ".venv").mkdir(exist_ok=True)
    Path(develop).touch()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")
    subprocess.run([needed("git"), *identity, *words], cwd=folder, check=True, capture_output=True)


def test_no_release_without_a_commit_or_without_its_heading(clone: Path) -> None:
    (clone / "python").symlink_to(sys.executable)
    (clone / ".gitignore").write_text(".venv/\npython\n__pycache__/\n")
    git(clone, "init")
    code, said = releasable(clone)
    assert (code, said) == (2, "Commit first: the tree has changes.\n")
    git(clone, "add", ".")
    git(clone, "commit", "--message", "all")
    code, said = releasable(clone)
    assert (code, said) == (2, "CHANGELOG.md has no heading '## [7.8.9] - DATE'.\n")
    with (clone / "CHANGELOG.md").open("a") as changelog:
        changelog.write("\n## [7.8.9] - 2026-11-30\n")
    git(clone, "commit", "--all", "--message", "heading")
    assert releasable(clone) == (0, "")

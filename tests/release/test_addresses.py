"""The project's public address is in one place, and every absolute link is derived from it."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.metadata import Metadata

from bridge import __version__
from tests.docs.pages import README, ROOT, links
from tests.docs.recipes import needed

ADDRESS = "https://code.example.org/team/task-event-bridge"
BELOW = f"{ADDRESS}/blob/v{__version__}/"
BUILD: dict[str, Any] = runpy.run_path(str(ROOT / "hatch_build.py"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is built and what repeats the address, of a project that has one."""
    for name in ("bridge", "clients/js", "deploy", "docs", "grafana", "task_event_bridge"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
        )
    for name in ("README.md", "LICENSE", "hatch_build.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    project = tmp_path / "pyproject.toml"
    text = project.read_text("utf-8")
    assert text.count("\n[project.urls]\n") == 1
    urls = f'[project.urls]\nRepository = "{ADDRESS}/"\n'
    project.write_text(re.sub(r"^\[project\.urls\]\n(Repository = .*\n)?", urls, text, flags=re.MULTILINE))
    return tmp_path


def told(folder: Path, *command: str) -> str:
    """Run a program; what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metadata_of(folder: Path) -> Metadata:
    """What the wheel of a tree tells an index."""
    told(folder, sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder / "out"))
    (wheel,) = (folder / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"task_event_bridge-{__version__}.dist-info/METADATA")
    return Metadata.from_email(text)


def test_the_readme_of_the_index_has_absolute_links_to_files_of_the_release(tree: Path) -> None:
    metadata = metadata_of(tree)
    assert metadata.project_urls == {"Repository": f"{ADDRESS}/"}
    assert metadata.description is not None
    page = metadata.description
    assert list(links(page)) == []  # no relative one is left
    found = re.findall(rf"{re.escape(ADDRESS)}/(?:blob|raw)/v{re.escape(__version__)}/([^)\s\"#]+)", page)
    assert len(found) >= len(set(links(README))) > 20
    assert [path for path in found if not (ROOT / path).exists()] == []


def test_without_an_address_the_readme_is_as_it_is(tree: Path) -> None:
    assert BUILD["absolute"](README, "", __version__) == README
    project = tree / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace(f'Repository = "{ADDRESS}/"\n', ""))
    metadata = metadata_of(tree)
    assert metadata.description == README
    assert not metadata.project_urls


@pytest.mark.parametrize(
    ("relative", "absolute"),
    [
        ("[a](docs/x.md#y)", f"[a]({BELOW}docs/x.md#y)"),
        ("[a](#below)", "[a](#below)"),
        ("[a](https://b.example/) <mailto:x@b.example>", "[a](https://b.example/) <mailto:x@b.example>"),
        ("![shows it](docs/p.png)", f"![shows it]({BELOW.replace('blob', 'raw')}docs/p.png)"),
        (
            "[![shows it](docs/p.png)](docs/x.md)",
            f"[![shows it]({BELOW.replace('blob', 'raw')}docs/p.png)]({BELOW}docs/x.md)",
        ),
        ('<img src="docs/p.svg">', f'<img src="{BELOW.replace("blob", "raw")}docs/p.svg">'),
        ('<source srcset="p/d.png">', f'<source srcset="{BELOW.replace("blob", "raw")}p/d.png">'),
        ("[a]: docs/x.md", f"[a]: {BELOW}docs/x.md"),
        ('```html\n<a href="x">[a](b)</a>\n```', '```html\n<a href="x">[a](b)</a>\n```'),
        ("[a](../SECURITY.md)", f"[a]({BELOW}SECURITY.md)"),
    ],
)  # fmt: skip
def test_every_kind_of_link_is_made_absolute(relative: str, absolute: str) -> None:
    page = "docs/README.md" if "../" in relative else "README.md"
    assert BUILD["absolute"](relative, ADDRESS, __version__, page=page) == absolute


def test_once_there_is_an_address_everything_that_needs_one_has_it(tree: Path) -> None:
    told(tree, sys.executable, "docs/addresses.py")
    told(tree, sys.executable, "docs/addresses.py")  # a second time changes nothing
    runbooks = f"{BELOW}docs/operations.md#"
    rules = yaml.safe_load((tree / "grafana/rules/bridge.rules.yaml").read_text("utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert "alert" not in rule or rule["annotations"]["runbook_url"].startswith(runbooks)
    unit = (tree / "deploy/systemd/task-event-bridge.service").read_text("utf-8")
    assert re.findall(r"^Documentation=(.+)$", unit, re.MULTILINE) == [f"{BELOW}docs/operations.md"]
    board = json.loads((tree / "grafana/dashboards/bridge.json").read_text("utf-8"))
    (docs,) = (one for one in board["templating"]["list"] if one["name"] == "docs")
    assert docs["query"] == f"{BELOW}docs"
    chart = yaml.safe_load((tree / "deploy/helm/Chart.yaml").read_text("utf-8"))
    assert (chart["home"], chart["sources"]) == (ADDRESS, [ADDRESS])
    assert "runbook_url: https://" in (tree / "deploy/helm/files/bridge.rules.yaml").read_text("utf-8")
    package = json.loads((tree / "clients/js/package.json").read_text("utf-8"))
    assert package["repository"]["url"] == f"git+{ADDRESS}.git"
    assert package["homepage"].startswith(ADDRESS)
    project = tree / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace(f'Repository = "{ADDRESS}/"\n', ""))
    told(tree, sys.executable, "docs/addresses.py")  # and it can be taken back
    assert ADDRESS not in "".join(
        path.read_text("utf-8") for path in (tree / "deploy").rglob("*") if path.is_file()
    )


def test_the_npm_package_has_absolute_links_and_the_tree_keeps_its_relative_ones(tree: Path) -> None:
    folder = tree / "clients" / "js"
    package = json.loads((folder / "package.json").read_text("utf-8"))
    package["scripts"]["prepack"] = re.sub(r"node build\.mjs --\w+ && ", "", package["scripts"]["prepack"])
    (folder / "package.json").write_text(json.dumps(package))  # what it checks has a test of its own
    before = (folder / "README.md").read_text("utf-8")
    told(folder, needed("npm"), "pack", "--silent")
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        page = archive.extractfile("package/README.md").read().decode()
    assert list(links(page)) == []
    assert f"]({BELOW}README.md)" in page
    assert (folder / "README.md").read_text("utf-8") == before


def test_no_address_is_written_anywhere_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    address = project.get("urls", {}).get("Repository", "").rstrip("/")
    if not address:
        return
    listed = told(ROOT, "git", "grep", "--files-with-matches", "--fixed-strings", address).split()
    derived = {
        str(path.relative_to(ROOT)) for path in runpy.run_path(str(ROOT / "docs/addresses.py"))["files"]()
    }
    copies = {
        "grafana/dashboards/bridge.json",
        "deploy/helm/files/bridge.rules.yaml",
        "deploy/helm/files/dashboard.json",
    }
    assert set(listed) - derived - copies == {"pyproject.toml"}

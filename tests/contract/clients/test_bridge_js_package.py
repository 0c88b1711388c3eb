"""The package of `/bridge.js`: small, built from its source, typed, and served to pages."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge import __version__
from tests.conftest import missing
from tests.e2e.scene import stage
from tests.fakes.credentials import TOKEN_SETTINGS

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "clients" / "js"
STATIC = ROOT / "bridge" / "web" / "static"
TOOLS = ROOT / "tests" / "tools" / "node_modules"
MANIFEST = json.loads((PACKAGE / "package.json").read_text())


def run(*command: str) -> subprocess.CompletedProcess[str]:
    node = shutil.which("node")
    if node is None:
        missing("node")
    return subprocess.run([node, *command], capture_output=True, text=True, check=False)


def test_what_is_served_is_small() -> None:
    assert len(gzip.compress((STATIC / "bridge.js").read_bytes(), 9)) < 3200


@pytest.mark.parametrize("hooks", ["react", "vue"])
def test_the_hooks_add_little(hooks: str) -> None:
    assert len(gzip.compress((PACKAGE / "dist" / f"{hooks}.js").read_bytes(), 9)) < 1500


def test_pages_and_packages_get_the_same_module() -> None:
    for served, packed in (("bridge.js", "index.js"), ("bridge.d.ts", "index.d.ts"), ("eta.js", "eta.js")):
        assert (STATIC / served).read_bytes() == (PACKAGE / "dist" / packed).read_bytes()


def test_what_is_served_is_what_the_build_makes() -> None:
    for tool in ("terser", "esbuild", "typescript"):
        if not (TOOLS / tool).is_dir():
            missing(f"npm {tool}")
    built = run(str(PACKAGE / "build.mjs"), "--check")
    assert built.returncode == 0, built.stdout + built.stderr
    said = json.loads(built.stdout)
    assert (said["stale"], said["large"]) == ([], [])


def test_it_imports_nothing_and_names_only_the_ways_to_follow_and_the_errors() -> None:
    source = (PACKAGE / "src" / "bridge.js").read_text()
    assert re.findall(r"^export (?:async )?\w+\*? (\w+)", source, re.MULTILINE) == [
        "BridgeError",
        "TaskFailed",
        "subscribe",
        "watch",
        "states",
    ]
    assert not re.search(r"^import|\bimport\(|require\(", source, re.MULTILINE)


def test_its_types_hold_for_what_people_write() -> None:
    compiler = TOOLS / "typescript" / "bin" / "tsc"
    if not compiler.is_file():
        missing("npm typescript")
    options = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom"]
    resolving = ["--module", "esnext", "--moduleResolution", "bundler"]
    checked = run(str(compiler), *options, *resolving, str(Path(__file__).with_name("example.ts")))
    assert checked.returncode == 0, checked.stdout


def paths(named: object) -> list[str]:
    """The files in a value of the manifest, however deep."""
    if isinstance(named, dict):
        return [path for value in named.values() for path in paths(value)]
    return [str(named)]


def test_the_package_names_what_is_there() -> None:
    named = [MANIFEST["main"], MANIFEST["module"], MANIFEST["types"], *paths(MANIFEST["exports"])]
    assert [name for name in named if not (PACKAGE / name).is_file()] == []
    assert MANIFEST["version"] == __version__
    assert "dependencies" not in MANIFEST
    tools = json.loads((ROOT / "tests" / "tools" / "package.json").read_text())["dependencies"]
    assert MANIFEST["devDependencies"] == {name: tools[name] for name in MANIFEST["devDependencies"]}
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.anyio
async def test_every_bridge_serves_it_also_to_pages_of_the_origins_it_allows() -> None:
    page = "https://app.example"
    async with stage(allowed_origins=[page], **TOKEN_SETTINGS) as scene:  # nobody needs a token for it
        module = await scene.get("/bridge.js", origin=page)
        types = await scene.get("/bridge.d.ts")
        again = await scene.get("/bridge.js", if_none_match=module.headers["ETag"])
        elsewhere = await scene.get("/bridge.js", origin="https://other.example")
        words = [(await scene.get(f"/{name}", origin=page)).body for name in ("eta.js", "eta.d.ts")]
    assert module.body == (STATIC / "bridge.js").read_bytes()
    assert module.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert module.headers["Access-Control-Allow-Origin"] == page
    assert types.body == (STATIC / "bridge.d.ts").read_bytes()
    assert words == [(STATIC / name).read_bytes() for name in ("eta.js", "eta.d.ts")]
    assert again.status == 304
    assert "Access-Control-Allow-Origin" not in elsewhere.headers

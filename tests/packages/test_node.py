"""The npm package in Node, as ESM and CommonJS, and its types in every way to resolve modules."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.scene import stage
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.harness import qingbo, qingbo_done
from tests.packages.projects import PACKAGE, Project

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

NAMES = ["BridgeError", "TaskFailed", "states", "subscribe", "watch"]

# What both programs do with the package, after they have loaded it.
FOLLOW = """
const [url, completed, failed, token] = process.argv.slice(2);
const options = { url, token: () => token };

(async () => {
  const seen = [];
  const state = await subscribe(completed, { ...options, onState: ({ status }) => seen.push(status) });
  const error = await subscribe([completed, failed], options).catch((error) => error);
  const looped = [];
  for await (const { status } of watch(`${url}/v1/events?task=${completed}`, options)) looped.push(status);
  const missing = await subscribe("qingbo/nowhere", options).catch((error) => error);
  console.log(JSON.stringify({
    status: state.status, seen, looped,
    failed: [error instanceof TaskFailed, error.state.status, error.message, error.states.length],
    missing: [missing instanceof BridgeError, missing.code],
  }));
})();
"""
ESM = f'import {{ BridgeError, TaskFailed, subscribe, watch }} from "task-event-bridge";{FOLLOW}'
COMMON_JS = f'const {{ BridgeError, TaskFailed, subscribe, watch }} = require("task-event-bridge");{FOLLOW}'
LIST_ESM = """
import * as core from "task-event-bridge";
import * as react from "task-event-bridge/react";
import * as vue from "task-event-bridge/vue";
import manifest from "task-event-bridge/package.json" with { type: "json" };
console.log(JSON.stringify([Object.keys(core), Object.keys(react), Object.keys(vue), manifest.version]));
"""
LIST_COMMON_JS = """
const [core, react, vue] = ["", "/react", "/vue"].map((path) => require("task-event-bridge" + path));
const { version } = require("task-event-bridge/package.json");
console.log(JSON.stringify([Object.keys(core), Object.keys(react), Object.keys(vue), version]));
"""
# An ES module imports the CommonJS build by its names, as older bundlers make it do.
LIST_MIXED = """
import { subscribe, watch } from "./node_modules/task-event-bridge/dist/index.cjs";
import { useTask, useTasks } from "./node_modules/task-event-bridge/dist/react.cjs";
import { useTask as useTaskInVue } from "./node_modules/task-event-bridge/dist/vue.cjs";
console.log([subscribe, watch, useTask, useTasks, useTaskInVue].map((one) => typeof one).join());
"""


@pytest.fixture(scope="module")
def node(project: Callable[[str], Project]) -> Project:
    return project("node")


@pytest.mark.parametrize(("name", "program"), [("a.mjs", ESM), ("a.cjs", COMMON_JS)])
async def test_a_program_waits_for_tasks(node: Project, name: str, program: str) -> None:
    async with stage(**TOKEN_SETTINGS) as scene:
        good, bad = scene.id(), scene.id()
        completed = await scene.script("qingbo", good, qingbo(good, "processing", 10), qingbo_done(good))
        failed = await scene.script("qingbo", bad, qingbo(bad, "failed", 5, error={"message": "not that"}))
        node.write(name, program)
        command = ("node", name, scene.bridge.url, completed, failed, token("qingbo/*"))
        printed = json.loads(await asyncio.to_thread(node.run, *command))
    assert printed["status"] == "completed"
    assert printed["seen"][-1] == printed["looped"][-1] == "completed"
    assert printed["failed"] == [True, "failed", "not that", 2]
    assert printed["missing"] == [True, "task_not_found"]


def test_esm_and_commonjs_export_the_same_names(node: Project) -> None:
    node.write("list.mjs", LIST_ESM)
    node.write("list.cjs", LIST_COMMON_JS)
    node.write("mixed.mjs", LIST_MIXED)
    as_esm, as_commonjs = (json.loads(node.run("node", name)) for name in ("list.mjs", "list.cjs"))
    version = json.loads((PACKAGE / "package.json").read_text("utf-8"))["version"]
    assert [sorted(part) for part in as_esm[:3]] == [NAMES, ["useTask", "useTasks"], ["useTask", "useTasks"]]
    assert [sorted(part) for part in as_commonjs[:3]] == [
        NAMES,
        ["useTask", "useTasks"],
        ["useTask", "useTasks"],
    ]
    assert as_esm[3] == as_commonjs[3] == version
    assert node.run("node", "mixed.mjs").strip() == ",".join(["function"] * 5)


def test_the_core_and_a_program_in_node_need_neither_react_nor_vue(node: Project, tmp_path: Path) -> None:
    installed = tmp_path / "node_modules" / "task-event-bridge"
    installed.parent.mkdir()
    (node.folder / "node_modules" / "task-event-bridge").rename(installed)
    try:
        (tmp_path / "a.cjs").write_text('console.log(typeof require("task-event-bridge").subscribe)')
        assert Project(tmp_path).run("node", "a.cjs").strip() == "function"
    finally:
        installed.rename(node.folder / "node_modules" / "task-event-bridge")


OWN_LIBRARIES_ARE_SOUND = ("--skipDefaultLibCheck", "true")  # TypeScript's; those of packages are checked
RESOLUTIONS = {"node16": "node16", "nodenext": "nodenext", "bundler": "esnext", "node10": "commonjs"}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_the_types_hold_for_every_way_to_resolve_modules(node: Project, resolution: str) -> None:
    kinds = ["mts", "cts", "ts"] if resolution in {"node16", "nodenext"} else ["ts"]  # Node's have kinds
    names = [f"typed.{kind}" for kind in kinds]
    for name in names:
        node.write(name, (Path(__file__).parent / "typed.ts").read_text("utf-8"))
    resolving = ["--module", RESOLUTIONS[resolution], "--moduleResolution", resolution]
    options = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", *OWN_LIBRARIES_ARE_SOUND]
    libraries = ["--target", "es2022", "--lib", "es2023,dom,dom.iterable", "--types", "node"]
    node.run(node.bin("tsc"), *options, *libraries, *resolving, *names)


def test_the_source_of_the_hooks_is_sound(node: Project) -> None:
    for name in ("src", "dist"):
        shutil.copytree(PACKAGE / name, node.folder / "package" / name)
    options = (
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
        *OWN_LIBRARIES_ARE_SOUND,
    )
    sources = [f"package/src/{name}.ts" for name in ("store", "react", "vue")]
    node.run(node.bin("tsc"), *options, "--allowImportingTsExtensions", *sources)


def test_on_a_server_hooks_connect_to_nothing(project: Callable[[str], Project]) -> None:
    lines = project("vite").run("node", "server.mjs").splitlines()
    assert lines[0].startswith("<p>[{&quot;state&quot;:null,")
    assert lines[1:] == ["<p>state: null</p>", "opened 0"]


def test_nothing_is_wrong_with_the_exports(node: Project, tarball: Path) -> None:
    node.run(node.bin("publint"), "run", "--strict", "node_modules/task-event-bridge")
    node.run(node.bin("attw"), "--no-definitely-typed", "--no-emoji", tarball)


def test_the_package_holds_what_a_project_needs_and_nothing_else(tarball: Path) -> None:
    with tarfile.open(tarball) as tar:
        names = {name.removeprefix("package/") for name in tar.getnames()}
        manifest = json.load(tar.extractfile("package/package.json"))  # type: ignore[arg-type]
        sizes = {
            name: len(gzip.compress(tar.extractfile(f"package/dist/{name}.js").read(), 9))  # type: ignore[union-attr]
            for name in ("index", "react", "vue")
        }
    assert {name for name in names if not name.startswith("dist/")} == {
        "LICENSE",
        "README.md",
        "package.json",
    }
    assert {name.partition(".")[2] for name in names if name.startswith("dist/")} == {
        "js",
        "cjs",
        "d.ts",
        "d.cts",
    }
    assert manifest["sideEffects"] is False
    assert "dependencies" not in manifest
    assert {one["optional"] for one in manifest["peerDependenciesMeta"].values()} == {True}
    assert sizes["index"] < 3200
    assert max(sizes["react"], sizes["vue"]) < 1500

"""What is published: built from the tree, looked through, installed where nothing else is, and run there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import aiohttp
import orjson
import pytest
from packaging.metadata import Metadata
from pathspec import GitIgnoreSpec

from bridge import __version__
from tests.docs.pages import ROOT
from tests.docs.programs import ran, started

pytestmark = pytest.mark.anyio

BUILD_SECONDS, INSTALL_SECONDS = 60.0, 100.0  # dependencies come over the network
IGNORED = GitIgnoreSpec.from_lines((ROOT / ".gitignore").read_text("utf-8").splitlines())
FETCHED = ("node_modules", "tests/tools/prometheus", "tests/tools/go")  # by tests/tools/install.py
OF_THIS_MACHINE = re.compile(rb"%s/(bridge|tests|docs|build|\.venv)\b" % re.escape(os.fsencode(ROOT)))
LARGEST_BYTES = 512 * 1024


def tool(*command: str | Path, cwd: Path, seconds: float = BUILD_SECONDS) -> str:
    """Run a tool of ours to its end; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """A source distribution, and the wheel that was built from it."""

    sdist: Path
    wheel: Path

    @property
    def sources(self) -> dict[str, bytes]:
        """What the source distribution holds, by path below its one folder."""
        with tarfile.open(self.sdist) as archive:
            files = [member for member in archive if member.isfile()]
            return {one.name.partition("/")[2]: archive.extractfile(one).read() for one in files}

    @property
    def contents(self) -> dict[str, bytes]:
        """What the wheel holds."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    @property
    def metadata(self) -> Metadata:
        """What an index is told."""
        return Metadata.from_email(self.contents[f"task_event_bridge-{__version__}.dist-info/METADATA"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built as a release is; what builds stands in the environment already, so nothing is fetched."""
    folder = tmp_path_factory.mktemp("dist")
    tool("build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist, wheel)


def tree(*below: str) -> set[str]:
    """The files of the repository in these folders, without what git does not see."""
    found = {
        str(path.relative_to(ROOT))
        for folder in below
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not any(part in str(path) for part in FETCHED)
    }
    return {name for name in found if not IGNORED.match_file(name)}


def test_the_version_comes_from_one_place(built: Built) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", __version__)
    assert str(built.metadata.version) == __version__
    assert built.wheel.name == f"task_event_bridge-{__version__}-py3-none-any.whl"
    assert built.sdist.name == f"task_event_bridge-{__version__}.tar.gz"


def test_the_linters_of_packages_have_nothing_to_say(built: Built) -> None:
    tool("twine", "check", "--strict", built.sdist, built.wheel, cwd=built.wheel.parent)
    tool("check_wheel_contents", "--config", ROOT / "pyproject.toml", built.wheel, cwd=built.wheel.parent)


def test_the_wheel_is_the_package_and_nothing_else(built: Built) -> None:
    inside = {name for name in built.contents if ".dist-info/" not in name}
    assert inside == tree("bridge", "task_event_bridge")


@pytest.mark.parametrize(
    "kind",
    [
        r"bridge/py\.typed",
        r"task_event_bridge/py\.typed",
        r"task_event_bridge/__init__\.py",
        r"bridge/dialects/presets/\w+\.toml",
        r"bridge/simulator/recordings/fal/.+\.json",  # `bridge simulate --preset fal` plays them
        r"bridge/web/static/inspector\.html",
        r"bridge/web/static/inspector/main\.js",
        r"bridge/web/static/bridge\.js",
        r"bridge/web/static/api/openapi\.yaml",
        r"bridge/web/static/api/openapi\.json",
        r"bridge/web/static/docs/swagger-ui-bundle\.js\.gz",
        r"bridge/web/static/api/state\.schema\.json",
        r".+\.dist-info/licenses/LICENSE",
        r".+\.dist-info/licenses/.+/uPlot\.LICENSE\.txt",
        r".+\.dist-info/licenses/.+/swagger-ui\.LICENSE\.txt",
    ],
)
def test_the_wheel_has_what_the_program_reads(built: Built, kind: str) -> None:
    assert any(re.fullmatch(kind, name) for name in built.contents)


def test_the_source_has_all_it_takes_to_build_test_and_deploy(built: Built) -> None:
    folders = tree("bench", "bridge", "clients", "deploy", "docs", "grafana", "task_event_bridge", "tests")
    single = {path.name for path in ROOT.glob("*.md")} | {
        ".dockerignore", ".gitignore", "Dockerfile", "LICENSE", "Makefile", "PKG-INFO",
        "bridge.example.toml", "compose.yaml", "hatch_build.py", "llms.txt", "pyproject.toml",
    }  # fmt: skip
    assert set(built.sources) == folders | single


def test_its_documentation_leads_nowhere_outside_of_it(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since 3.11.4
        archive.extractall(tmp_path)
    (unpacked,) = tmp_path.iterdir()
    tool(
        "pytest", "-p", "no:cacheprovider", "tests/docs/test_links.py", "-k", "leads_somewhere", cwd=unpacked
    )


def test_nothing_published_is_private_or_by_accident(built: Built) -> None:
    for files in (built.contents, built.sources):
        assert [name for name, content in files.items() if OF_THIS_MACHINE.search(content)] == []
        assert [name for name, content in files.items() if len(content) > LARGEST_BYTES] == []
    for name in ("bridge.toml", "deploy/.env", "bridge.db", "dist/x.whl"):  # an operator's, beside the tree
        assert IGNORED.match_file(name), f"git, and so the source distribution, would take {name}"


def test_the_source_is_built_into_the_same_wheel_as_the_tree(built: Built, tmp_path: Path) -> None:
    tool("build", "--no-isolation", "--wheel", "--outdir", tmp_path, cwd=ROOT)
    (direct,) = tmp_path.iterdir()
    assert digests(Built(built.sdist, direct).contents) == digests(built.contents)


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: sha256(content).hexdigest() for name, content in files.items()}


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel, its dependencies from the index, and nothing else."""

    folder: Path

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    async def runs(self, *command: str | Path, **environment: str) -> Sequence[str]:
        """Run a program of it, far from the tree; its output."""
        code, out, err = await ran(*command, environment=self.environment(environment), cwd=self.folder)
        assert (code, err) == (0, []), (command, out, err)
        return out

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        return {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": ""} | more


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """As `uvx` and `pipx run` do it: an environment of its own, the wheel, its scripts."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, with_pip=False)
    there = ("--python", str(folder / "bin" / "python"))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
    tool("pip", *there, "install", *quiet, built.wheel, cwd=folder, seconds=INSTALL_SECONDS)
    return Installed(folder)


async def test_an_installation_says_its_version(installed: Installed) -> None:
    out = await installed.runs(installed.program("bridge"), "--version")
    assert out == [f"taskbridge, version {__version__}"]


USER_SCRIPT = """
import asyncio
from task_event_bridge import Bridge, BridgeError, Ref, ResultTimeout, SyncBridge
from task_event_bridge import TaskFailed, TaskNotice, TaskState

def show(state: TaskState) -> None:
    print(state.status, state.progress)

async def tell(notice: TaskNotice) -> None:
    print(notice.code)

async def main(ref: Ref) -> TaskState | None:
    async with Bridge("http://127.0.0.1:8080", token=lambda: "secret") as bridge:
        async for state in bridge.watch(ref, ("qingbo", "a/b"), on_notice=tell):
            show(state)
        try:
            return await bridge.result(ref, timeout=60, on_state=show, on_notice=tell)
        except TaskFailed as failed:
            reveal_type(failed.state)
        except ResultTimeout as late:
            reveal_type(late.state)
        except BridgeError as error:
            print(error.code, error.retryable)
    return None

def plain() -> str:
    with SyncBridge("http://127.0.0.1:8080") as bridge:
        for state in bridge.watch("qingbo/1"):
            show(state)
        return bridge.result(bridge.submit("qingbo", {"prompt": "x"}), on_state=show).task

if __name__ == "__main__":
    reveal_type(asyncio.run(main(("qingbo", "1"))))
"""


def test_a_script_of_a_user_is_checked_strictly_against_what_is_installed(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(USER_SCRIPT)
    strict = ("mypy", "--strict", "--cache-dir", tmp_path / "cache", "--python-executable")
    said = tool(*strict, installed.program("python"), "script.py", cwd=tmp_path)
    assert re.findall('Revealed type is "([^"]+)"', said) == [
        "bridge.client.state.TaskState",
        "bridge.client.state.TaskState | None",
        "bridge.client.state.TaskState | None",
    ]


@pytest.mark.parametrize("package", ["task_event_bridge", "bridge.client"])
async def test_the_client_is_imported_by_either_name(installed: Installed, package: str) -> None:
    names = (
        f"import {package} as it; print(*sorted(it.__all__), all(hasattr(it, name) for name in it.__all__))"
    )
    out = await installed.runs(installed.program("python"), "-W", "error", "-c", names)
    assert out[0].split()[-1] == "True"
    assert {"Bridge", "SyncBridge", "TaskFailed"} <= set(out[0].split())


async def test_an_installation_checks_a_configuration(installed: Installed) -> None:
    python = installed.program("python")
    out = await installed.runs(
        python, "-m", "bridge", "check-config", "--json", BRIDGE_UPSTREAMS__FAL__API_KEY="a-key"
    )
    assert orjson.loads("\n".join(out))["upstreams.fal.api_key"] == {"value": "***", "source": "environment"}
    assert "a-key" not in "".join(out)


async def test_an_installation_serves_its_page_and_its_documents(
    installed: Installed, http: aiohttp.ClientSession
) -> None:
    settings = {"BRIDGE_UPSTREAMS__FAL__API_KEY": "a-key", "BRIDGE_PORT": "0", "BRIDGE_JOURNAL": "memory"}
    environment = installed.environment(settings)
    async with started(
        installed.program("bridge"), "serve", environment=environment, cwd=installed.folder
    ) as program:
        url = (await program.line("listening on http://")).rpartition(" ")[2]
        for path in ("/", "/bridge.js", "/openapi.yaml", "/openapi.json", "/asyncapi.yaml", "/docs"):
            async with http.get(url + path) as answer:
                assert answer.status == 200, path
        async with http.get(f"{url}/status") as answer:
            assert (await answer.json())["version"] == __version__
        assert await program.told() == 0


async def test_a_program_of_the_name_of_the_package_shows_the_demo_to_its_end(installed: Installed) -> None:
    program = installed.program("task-event-bridge")
    out = await installed.runs(program, "demo", "--once", "--port", "0", "--speed", "50")
    assert len([line for line in out if " completed 100%" in line]) >= 6

"""The image: the Dockerfile, and the result of its steps without an engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.chaos.proxy import free_port
from tests.conftest import forbidden, missing
from tests.deploy.container import Container, container, require_container
from tests.deploy.dockerfile import labels, stages
from tests.deploy.manifests import tool
from tests.deploy.tokens import SECRET, mint
from tests.docs.pages import ROOT
from tests.e2e import raw
from tests.harness import PATIENCE, Provider, qingbo, qingbo_done, running_simulator

pytestmark = pytest.mark.anyio

DOCKERFILE = ROOT / "Dockerfile"
BUILD, FINAL = stages(DOCKERFILE)
LOCKS = sorted((ROOT / "deploy" / "image").glob("*.txt"))
DRAIN_SECONDS = 5


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        missing("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_by_tag_and_digest_and_the_same_in_both_stages() -> None:
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", FINAL.says["FROM"])
    assert BUILD.says["FROM"] == FINAL.says["FROM"]


def test_the_base_has_a_python_that_the_package_names() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (minor,) = re.findall(r"^python:(3\.\d+)\.", FINAL.says["FROM"])
    assert f"Programming Language :: Python :: {minor}" in package["classifiers"]


def test_it_runs_as_a_number_in_exec_form_and_is_stopped_by_what_drains() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", FINAL.says["USER"])
    assert (FINAL.words("ENTRYPOINT"), FINAL.words("CMD")) == (["taskbridge"], ["serve"])
    assert FINAL.says["STOPSIGNAL"] == "SIGTERM"
    assert FINAL.words("HEALTHCHECK") == ["taskbridge", "health"]
    assert FINAL.words("VOLUME") == [FINAL.steps[-1][1]] == ["/data"]


def test_no_secret_and_no_way_in_without_one_is_baked_in() -> None:
    set_here = {name for name in FINAL.environment if name.startswith("BRIDGE_")}
    assert set_here == {"BRIDGE_HOST"}  # a variable here would override the operator's file


def test_the_labels_are_those_of_the_open_container_initiative() -> None:
    known = {"title", "description", "licenses", "version", "revision"}
    assert set(labels(FINAL)) == {f"org.opencontainers.image.{name}" for name in known}


def test_dependencies_are_a_layer_before_the_source() -> None:
    copied = [rest for word, rest in BUILD.steps if word == "COPY"]
    assert "requirements.txt" in copied[0]
    assert "bridge" not in copied[0].split()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_line_of_a_lock_has_a_version_and_hashes(lock: Path) -> None:
    pins = _pins(lock)
    assert pins
    for pin in pins.values():
        assert re.search(r"^[\w.-]+==\S+", pin), pin
        assert "--hash=sha256:" in pin, pin


def test_the_lock_holds_what_the_package_needs() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    locked = _pins(ROOT / "deploy" / "image" / "requirements.txt")
    for text in package["project"]["dependencies"]:
        need = Requirement(text)
        version = locked[canonicalize_name(need.name)].partition("==")[2].split()[0]
        assert need.specifier.contains(version), (
            f"{need} but {version}: see docs/deployment.md, newer dependencies"
        )
    building = _pins(ROOT / "deploy" / "image" / "build-requirements.txt")
    assert {canonicalize_name(Requirement(one).name) for one in package["build-system"]["requires"]} <= set(
        building
    )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_can_be_installed_on_every_platform_without_a_compiler(machine: str, tmp_path: Path) -> None:
    uv = tool("uv")
    if uv is None:
        missing("uv")
    (minor,) = re.findall(r"^python:(3\.\d+)\.", FINAL.says["FROM"])
    done = subprocess.run(
        [
            *(uv, "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:", "--require-hashes"),
            *("--python-platform", f"{machine}-manylinux_2_28", "--python-version", minor),
            *("--target", tmp_path, "--requirement", ROOT / "deploy" / "image" / "requirements.txt"),
        ],
        env=os.environ | {"UV_SYSTEM_CERTS": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stderr


def _pins(lock: Path) -> dict[str, str]:
    text = re.sub(r"^#.*\n", "", lock.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return {
        canonicalize_name(re.split(r"[=\[]", line)[0]): line for line in text.splitlines() if line.strip()
    }


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[tuple[Container, Provider]]:
    """The container, with a simulated provider; built once."""
    require_container()
    async with running_simulator() as simulator, aiohttp.ClientSession() as http:
        upstream = {"base_url": f"{simulator.url}/qingbo", "api_key": "test-key", "poll_min_seconds": 0.05}
        variables = {
            "BRIDGE_PORT": "0",
            "BRIDGE_AUTH": "token",
            "BRIDGE_TOKEN_ISSUER": "test",
            "BRIDGE_TOKEN_SECRETS": orjson.dumps([SECRET]).decode(),
            "BRIDGE_DRAIN_SECONDS": str(DRAIN_SECONDS),
            "BRIDGE_UPSTREAMS": orjson.dumps({"qingbo": upstream | {"poll_max_seconds": 0.1}}).decode(),
        }
        async with container(variables) as made:
            yield made, Provider(simulator, "qingbo", http)


async def test_it_is_healthy_by_its_own_check(running: tuple[Container, Provider]) -> None:
    made, _ = running
    code, said = await made.run(*FINAL.words("HEALTHCHECK"), BRIDGE_URL=made.url)
    assert (code, orjson.loads(said)["ready"]) == (0, True)
    code, _ = await made.run(*FINAL.words("HEALTHCHECK"), BRIDGE_URL="http://127.0.0.1:1")
    assert code == 1


async def test_it_is_nobody_and_may_nothing(running: tuple[Container, Provider]) -> None:
    made, _ = running
    assert set(made.status("Uid").split()) == {FINAL.says["USER"].partition(":")[0]}
    assert int(made.status("CapEff"), 16) == int(made.status("CapBnd"), 16) == 0
    assert made.status("NoNewPrivs") == "1"


async def test_it_writes_its_journal_under_data_and_can_write_nowhere_else(
    running: tuple[Container, Provider],
) -> None:
    made, provider = running
    ref = await provider.script("image-1", qingbo("image-1", "processing", 7))
    headers = {"Authorization": f"Bearer {mint()}"}
    async with raw.request(made.url, f"/v1/tasks/{ref}/events", headers=headers) as stream:
        assert (await stream.state_with(status="processing"))["progress"] == 7
        await provider.then("image-1", qingbo_done("image-1"))
        await stream.state_with(status="completed")
    _, found = await made.run("ls", "-A", "/data")
    assert set(found.split()) <= {"bridge.db", "bridge.db-wal", "bridge.db-shm", "bridge.db-lock"}
    assert "bridge.db" in found.split()
    for place in ("/tmp/x", "/app/x", "/etc/x"):
        code, said = await made.run("touch", place)
        assert code != 0
        assert "Read-only" in said or "denied" in said


async def test_it_is_only_what_it_needs(running: tuple[Container, Provider]) -> None:
    made, _ = running
    _, inside = await made.run("find", "/app/lib", "-maxdepth", "4", "-name", "*.dist-info")
    names = {canonicalize_name(Path(line).name.split("-")[0]) for line in inside.split()}
    assert "task-event-bridge" in names
    assert names <= {"task-event-bridge", *_pins(ROOT / "deploy" / "image" / "requirements.txt")}
    code, _ = await made.run("test", "-e", "/build")
    assert code != 0


async def test_without_auth_it_says_why_it_does_not_start(running: tuple[Container, Provider]) -> None:
    made, _ = running
    code, said = await made.run("taskbridge", "serve", BRIDGE_UPSTREAMS__QINGBO__API_KEY="key")
    assert code == 2
    assert "host: 0.0.0.0 is open to other machines, and auth is none" in said


async def test_a_file_may_say_everything(running: tuple[Container, Provider]) -> None:
    made, _ = running
    text = 'auth = "token"\\ntoken_issuer = "x"\\ntoken_jwks_url = "https://id.example/keys"\\n'
    text += '[upstreams.qingbo]\\napi_key = "k"\\n'
    write = f"printf '{text}' > /data/bridge.toml && taskbridge check-config --json && rm /data/bridge.toml"
    code, said = await made.run("sh", "-c", write, BRIDGE_CONFIG="/data/bridge.toml")
    assert code == 0, said
    settings = {name: setting["value"] for name, setting in orjson.loads(said).items()}
    assert (settings["host"], settings["journal"]) == ("0.0.0.0", "sqlite:./bridge.db")


@asynccontextmanager
async def demo_of(image: Container, port: int) -> AsyncIterator[tuple[Process, list[str]]]:
    """`docker run IMAGE demo`, in the file system of the container that runs, and what it printed."""
    user, _, group = FINAL.says["USER"].partition(":")
    inside = [
        "nsenter",
        f"--target={image.pid}",
        "--mount",
        "--root",
        f"--setuid={user}",
        f"--setgid={group}",
    ]
    process = await asyncio.create_subprocess_exec(
        *(*inside, f"--wdns={FINAL.place}", "--", *FINAL.words("ENTRYPOINT"), "demo"),
        env=FINAL.environment | {"BRIDGE_PORT": str(port)},  # all containers of this test share one network
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while not any(f":{port}/" in line for line in printed):
                line = (await process.stdout.readline()).decode()
                assert line, "".join(printed)
                printed.append(line)
        yield process, printed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        process._transport.close()


def address_of_this_machine() -> str:
    """An address that is not loopback, as a container has; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            forbidden("a network")
        return probe.getsockname()[0]


async def test_the_demo_in_the_image_is_reached_through_the_published_port(
    running: tuple[Container, Provider], http: aiohttp.ClientSession
) -> None:
    made, _ = running
    port = free_port()
    async with demo_of(made, port) as (process, printed):
        (link,) = re.findall(rf"http://\S*:{port}/\s", "".join(printed))[:1]
        assert link.strip() == f"http://127.0.0.1:{port}/"  # what a browser beside the engine opens
        inside = f"http://{address_of_this_machine()}:{port}"  # what the engine forwards a published port to
        for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
            async with http.get(f"{inside}/", headers={"Host": host}) as page:
                assert (page.status, page.content_type) == (200, "text/html")
        async with http.get(f"{inside}/inspector/tasks", headers={"Host": f"localhost:{port}"}) as answer:
            assert answer.status in {200, 404}  # the list behind the page, where the page has one
        code, said = await made.run(*FINAL.words("HEALTHCHECK"), BRIDGE_URL=f"http://127.0.0.1:{port}")
        assert (code, orjson.loads(said)["ready"]) == (0, True)
        process.terminate()
        async with asyncio.timeout(10):  # the patience of `docker stop`
            assert await process.wait() == 0


async def test_sigterm_drains_and_the_exit_code_is_0(running: tuple[Container, Provider]) -> None:
    made, provider = running
    ref = await provider.script("image-2", qingbo("image-2", "processing", 1))
    headers = {"Authorization": f"Bearer {mint()}"}
    async with raw.request(made.url, f"/v1/tasks/{ref}/events", headers=headers) as stream:
        await stream.state()
        made.process.terminate()
        assert (await stream.notice("closing"))["reason"] == "drain"
        async with asyncio.timeout(DRAIN_SECONDS + 5):
            assert await made.process.wait() == 0
    assert "Traceback" not in "".join(made.output)

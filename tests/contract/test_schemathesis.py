"""The running bridge against its own OpenAPI document, by requests that schemathesis thinks of.

Good data and bad, for every operation; every answer has a status, type, headers and body as documented.
Deterministic: the same requests each time. Streams are read up to their first event.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.scene import Scene, stage
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "bridge" / "web" / "static" / "api" / "openapi.yaml"
CONFIG = HERE / "schemathesis.toml"
HOOKS = {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
BRIEFLY = {"first_state_timeout_seconds": 0.3, "max_connection_age_seconds": 1.0}
EVERYTHING = bearer("*", scope="read submit cancel admin", seconds=3600)["Authorization"]
AS_ADMIN = ("--header", f"Authorization: {EVERYTHING}", "--exclude-checks", "refuses_strangers")
BRIEFEST = ("--phases", "fuzzing", "--max-examples", "1")
BRIEF = ("--phases", "fuzzing", "--max-examples", "3")
THOROUGH = ("--phases", "coverage,stateful", "--max-examples", "4")
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
OPERATIONS = [
    operation
    for path in yaml.safe_load(DOCUMENT.read_text("utf-8"))["paths"].values()
    for method, operation in path.items()
    if method in METHODS
]
EVERY_OPERATION = len(OPERATIONS)
OPERATORS = sum("operators" in operation["tags"] for operation in OPERATIONS)


async def schemathesis(folder: Path, *options: str) -> str:
    """Run it to its end, which must be a good one; what it printed."""
    command = (sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color", "run")
    process = await asyncio.create_subprocess_exec(
        *command, *options, stdout=PIPE, stderr=STDOUT, cwd=folder, env=os.environ | HOOKS
    )
    try:
        async with asyncio.timeout(4 * PATIENCE):
            said = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said
    return said


def number_tested(said: str) -> int:
    """How many operations were."""
    found = re.search(r"Tested: (\d+)", said)
    assert found, said
    return int(found[1])


async def furnish(scene: Scene) -> Scene:
    """The tasks that schemathesis_hooks.py knows of."""
    await scene.script("qingbo", "open", qingbo("open", "processing", 3))
    await scene.script("qingbo", "over", qingbo_done("over"))
    return scene


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def guarded(anyio_backend: str) -> AsyncIterator[Scene]:
    """A bridge that asks who calls."""
    async with stage(**BRIEFLY, **TOKEN_SETTINGS) as scene:
        yield await furnish(scene)


@pytest.fixture(scope="module")
async def operations(guarded: Scene) -> str:
    """Where its operators ask."""
    stdout = guarded.bridge.process.stdout
    assert stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = (await stdout.readline()).decode()
    found = re.search(r"http://\S+", line)
    assert found, line
    return found[0]


async def test_who_is_not_asked_is_answered_as_documented(tmp_path: Path) -> None:
    async with stage(**BRIEFLY) as scene:
        await furnish(scene)
        document = f"{scene.bridge.url}/openapi.yaml"
        said = await schemathesis(
            tmp_path, document, *BRIEFEST, "--exclude-checks", "ignored_auth,refuses_strangers"
        )
    assert number_tested(said) == EVERY_OPERATION - 1, "all but the document itself, which it has read"


async def test_who_may_do_everything_is_answered_as_documented(guarded: Scene, tmp_path: Path) -> None:
    place = ("--url", guarded.bridge.url, "--exclude-tag", "operators")
    said = await schemathesis(tmp_path, str(DOCUMENT), *place, *THOROUGH, *AS_ADMIN)
    assert number_tested(said) == EVERY_OPERATION - OPERATORS


async def test_strangers_learn_nothing(guarded: Scene, tmp_path: Path) -> None:
    place = ("--url", guarded.bridge.url, "--exclude-tag", "operators")
    said = await schemathesis(tmp_path, str(DOCUMENT), *place, *BRIEF)
    assert number_tested(said) == EVERY_OPERATION - OPERATORS


async def test_operators_are_answered_as_documented(guarded: Scene, operations: str, tmp_path: Path) -> None:
    place = (f"{operations}/openapi.yaml", "--include-tag", "operators")
    said = await schemathesis(tmp_path, *place, *BRIEF, *AS_ADMIN)
    assert number_tested(said) == OPERATORS

"""The examples of docs/sdks.md run as they are written; only the bridge's address is another."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.contract.sdks.stage import SDKS, recorded_stage
from tests.docs.pages import Snippet, snippets
from tests.e2e.scene import Scene
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

ADDRESS = "http://127.0.0.1:8080"
PAGE = "docs/sdks.md"
# The second of fal's is a variation of the first; that runs in Chromium, as a page does.
PROGRAMS = [one for one in snippets("js", "python", page=PAGE) if "import" in one.text]
ENDS = {
    "Idempotency-Key": "resp_",
    "fal-ai/flux/dev": "COMPLETED",
    "proxy/openai/v1": "response.completed\ncompleted\n",
    "proxy/openai-videos/v1": "completed None\n",
    "proxy/qingbo/v1": "completed {",
    "new Replicate": ".webp",
    "replicate.Client": "succeeded [",
    "proxy/runway": "SUCCEEDED [",
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One bridge for all."""
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with recorded_stage() as made:
        yield made


def command(snippet: Snippet, scene: Scene, folder: Path) -> list[str]:
    """The program as somebody pastes it into a project with the library."""
    text = snippet.text.replace(ADDRESS, scene.bridge.url)
    assert text != snippet.text
    if snippet.language == "python":
        (folder / "program.py").write_text(text)
        return [sys.executable, "program.py"]
    if not SDKS.is_dir():
        missing("the client libraries for Node")
    (folder / "node_modules").symlink_to(SDKS)
    # fal's client uses its proxy in pages only, unless it is told so.
    in_node = text.replace('proxyUrl: "', 'proxyUrl: { when: "always", url: "').replace(
        '/fal" }', '/fal" } }'
    )
    (folder / "program.mjs").write_text(in_node)
    return ["node", "program.mjs"]


@pytest.mark.parametrize("snippet", PROGRAMS, ids=str)
async def test_an_example_prints_the_end_of_its_task(scene: Scene, snippet: Snippet, tmp_path: Path) -> None:
    words = next(end for part, end in ENDS.items() if part in snippet.text)
    process = await asyncio.create_subprocess_exec(
        *command(snippet, scene, tmp_path), cwd=tmp_path, env=dict(os.environ), stdout=PIPE, stderr=PIPE
    )
    ticking = asyncio.create_task(tick(scene))
    try:
        async with asyncio.timeout(PATIENCE):
            told, complaints = await process.communicate()
    finally:
        ticking.cancel()
    assert process.returncode == 0, complaints.decode()
    assert words in told.decode()


async def tick(scene: Scene) -> None:
    """Let the provider's time pass, two seconds in each moment."""
    while True:
        await asyncio.sleep(0.05)
        scene.advance(2)

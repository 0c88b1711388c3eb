"""Our JavaScript helper, driven in a Node process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.conftest import missing
from tests.harness import PATIENCE

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "clients" / "js" / "src" / "bridge.js"
DRIVER = HERE / "drive_bridge_js.mjs"
FASTER = 20  # pauses of the helper are real, but so much shorter


@dataclass(frozen=True)
class Told:
    """One thing the program told: a state, a notice, a question, a wait, how it ended."""

    kind: str
    value: Any


@dataclass
class Helper:
    """The running program and everything it told so far."""

    process: Process
    told: list[Told] = field(default_factory=list)

    def of(self, kind: str) -> list[Any]:
        """What it told of one kind."""
        return [one.value for one in self.told if one.kind == kind]

    @property
    def shown(self) -> list[tuple[str, Any]]:
        """Status and progress of each state."""
        return [(state["status"], state["progress"]) for state in self.of("state")]

    @property
    def notices(self) -> list[str]:
        """The codes of its notices."""
        return [notice["code"] for notice in self.of("notice")]

    def say(self, **said: Any) -> None:
        """Answer a question, or have something done."""
        self.process.stdin.write(orjson.dumps(said) + b"\n")

    async def until(self, true: Callable[[], bool]) -> None:
        """Read until something was told."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not true():
                    assert await self._read(), f"ended after {self.told}: {await self._complaint()}"
        except TimeoutError:
            raise AssertionError(f"nothing more after {self.told}") from None

    async def until_told(self, kind: str, number: int = 1) -> Any:
        """Read until something was told so often; the newest of it."""
        await self.until(lambda: len(self.of(kind)) >= number)
        return self.of(kind)[-1]

    async def until_state(self, status: str, progress: float | None = None) -> None:
        """Read until a state was told."""
        await self.until(
            lambda: any(
                status == one and (progress is None or progress == percent) for one, percent in self.shown
            )
        )

    async def to_the_end(self, kind: str = "finished") -> Any:
        """Read until the program ends, which it does once nothing is left open; how the watch ended."""
        try:
            async with asyncio.timeout(PATIENCE):
                while await self._read():
                    pass
                code = await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"still running after {self.told}") from None
        assert code == 0, await self._complaint()
        assert self.of("unhandled") == []
        endings = [one for one in self.told if one.kind in {"finished", "failed"}]
        assert [one.kind for one in endings] == ([kind] if kind else []), self.told
        return endings[0].value if endings else None

    async def _read(self) -> bool:
        line = await self.process.stdout.readline()
        if line:
            self.told.append(Told(**orjson.loads(line)))
        return bool(line)

    async def _complaint(self) -> str:
        return (await self.process.stderr.read()).decode(errors="replace")


@asynccontextmanager
async def helper(
    url: str, *, mode: str = "watch", plan: dict | None = None, **options: Any
) -> AsyncIterator[Helper]:
    """The helper at work on a stream; `options` are its own."""
    node = shutil.which("node")
    if node is None:
        missing("node")
    variables = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        node, str(DRIVER), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=variables, limit=64 * 1024 * 1024
    )
    made = Helper(process)
    wishes = {
        "module": SOURCE.as_uri(),
        "url": url,
        "mode": mode,
        "options": options,
        "faster": FASTER,
        "random": 0,
    }
    made.say(**(wishes | (plan or {})))
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        process._transport.close()

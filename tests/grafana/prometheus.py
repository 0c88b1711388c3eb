"""A real Prometheus that scrapes one bridge, and what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.conftest import missing
from tests.grafana.pages import RULES
from tests.harness import PATIENCE

TOOLS = Path(__file__).parents[1] / "tools" / "prometheus"
_LISTENING = re.compile(r'"Listening on" address=(\S+)')


def program(name: str) -> str:
    """Where Prometheus or its linter is."""
    found = shutil.which(name) or shutil.which(name, path=TOOLS)
    if found is None:
        missing(name)
    return found


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str
    http: aiohttp.ClientSession

    async def ask(self, path: str, **fields: str) -> Any:
        """What its API answers."""
        async with self.http.get(f"{self.url}/api/v1/{path}", params=fields) as answer:
            said = await answer.json()
        assert said["status"] == "success", said.get("error")
        return said["data"]

    async def value(self, expr: str) -> list[float]:
        """The numbers an expression has now."""
        return [float(one["value"][1]) for one in (await self.ask("query", query=expr))["result"]]


@asynccontextmanager
async def scraping(
    target: str, folder: Path, *, interval: str = "1s", also: Sequence[str] = (), token: str | None = None
) -> AsyncIterator[Prometheus]:
    """Prometheus with our rules, on a free port, its data in `folder`.

    It takes five to ten seconds before it scrapes for the first time: it gathers targets that long.

    Args:
        target: Where the bridge listens, `host:port`.
        also: Where others listen.
        token: What it sends, if the bridge asks for one.
    """
    job: dict[str, Any] = {"job_name": "bridge", "static_configs": [{"targets": [target, *also]}]}
    if token is not None:
        job["authorization"] = {"credentials": token}
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [job],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
        stdout=DEVNULL,
        stderr=PIPE,
        env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"},
    )
    assert process.stderr is not None
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            url = await _address(process.stderr)
        reading = asyncio.create_task(_swallow(process.stderr))
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            await _ready(url, http)
            yield Prometheus(url, http)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if reading is not None:
            await reading
        process._transport.close()  # else its end is noticed after the loop's, as a warning


async def _address(log: asyncio.StreamReader) -> str:
    said = []
    while line := (await log.readline()).decode(errors="replace"):
        said.append(line)
        found = _LISTENING.search(line)
        if found:
            return f"http://{found[1]}"
    raise RuntimeError("Prometheus did not start:\n" + "".join(said))


async def _swallow(log: asyncio.StreamReader) -> None:
    while await log.readline():
        pass


async def _ready(url: str, http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with http.get(f"{url}/-/ready") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)

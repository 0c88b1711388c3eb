"""The image as a running container, made without an engine; see `tests/deploy/plain.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import forbidden, missing
from tests.deploy.dockerfile import stages
from tests.docs.pages import ROOT
from tests.harness import PATIENCE

BUILD_SECONDS = 100.0  # dependencies come over the network
FINAL = stages(ROOT / "Dockerfile")[-1]
_LISTENING = re.compile(r"^bridge listening on (http://\S+)", re.MULTILINE)


def require_container() -> None:
    """Skip the test where no container can be made."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        forbidden("to mount things without being root")
    wanted = [name for name in ("unshare", "nsenter", "setpriv", "mount") if shutil.which(name) is None]
    if wanted:
        missing(" and ".join(wanted))
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "try", "/mnt"], capture_output=True, check=False
    )
    if tried.returncode != 0:
        forbidden("to mount things")


@dataclass
class Container:
    """A process that sees the image and nothing else to write to than its volumes."""

    process: Process
    output: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """A command inside, as `docker exec` does it: exit code and output."""
        user, _, group = FINAL.says["USER"].partition(":")
        inside = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--root",
            f"--setuid={user}",
            f"--setgid={group}",
        ]
        done = await asyncio.create_subprocess_exec(
            *inside,
            f"--wdns={FINAL.place}",
            "--",
            *command,
            env=FINAL.environment | environment,
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(done.communicate(), PATIENCE)
        return done.returncode or 0, said.decode()

    def status(self, name: str) -> str:
        """A line of the kernel's account of the process."""
        text = Path("/proc", str(self.pid), "status").read_text()
        (line,) = (one for one in text.splitlines() if one.startswith(f"{name}:"))
        return line.partition(":")[2].strip()

    @property
    def url(self) -> str:
        """The URL from its log line, as this machine reaches it."""
        found = _LISTENING.search("".join(self.output))
        assert found, "".join(self.output)
        return found[1].replace("0.0.0.0", "127.0.0.1")


@asynccontextmanager
async def container(variables: Mapping[str, str]) -> AsyncIterator[Container]:
    """Build the image and run it with these variables; returns once it listens."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", sys.executable, "-m", "tests.deploy.plain", str(ROOT)),
        cwd=ROOT,
        env=inherited | dict(variables),
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    made = Container(process)
    reading = asyncio.create_task(_listen(made, process.stdout))
    try:
        async with asyncio.timeout(BUILD_SECONDS):
            while not _LISTENING.search("".join(made.output)) and not reading.done():  # noqa: ASYNC110 - no word comes
                await asyncio.sleep(0.05)
        assert _LISTENING.search("".join(made.output)), "".join(made.output)
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with every process that the entrypoint started
        await process.wait()
        await reading
        process._transport.close()


async def _listen(made: Container, stream: asyncio.StreamReader) -> None:
    while line := await stream.readline():
        made.output.append(line.decode(errors="replace"))

"""A command of the bridge as an operator types it, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.forked import CAN_FORK, Lines, fork
from tests.harness import PATIENCE


@dataclass
class Ended:
    code: int
    out: str
    err: str


async def run(*arguments: str, stdin: bytes = b"", **variables: str) -> Ended:
    """Forked where that is possible, which saves a second each time; not with `stdin`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    environment |= variables
    if CAN_FORK and not stdin and not any(name.startswith("PYTHON") for name in variables):
        return await _run_forked(arguments, environment)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", *arguments), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        async with asyncio.timeout(2 * PATIENCE):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        process._transport.close()  # type: ignore[attr-defined]
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def _run_forked(arguments: Sequence[str], environment: Mapping[str, str]) -> Ended:
    lines = Lines()
    process = await fork(list(arguments), environment, lines)
    try:
        async with asyncio.timeout(2 * PATIENCE):
            out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            return Ended(await process.wait(), out.decode(), err.decode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        lines.close()

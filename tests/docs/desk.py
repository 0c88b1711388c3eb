"""A reader's machine: the commands of a page are typed there as they are written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.proxy import free_port
from tests.docs.pages import snippets
from tests.docs.programs import Program, ran, started

BIN = Path(sys.executable).parent


def commands(page: str) -> list[str]:
    """The commands that a page asks the reader to type, in order."""
    return [
        re.sub(r"\s+#.*$", "", line)
        for one in snippets("sh", page=page)
        for line in one.text.replace("\\\n", "").splitlines()
    ]


@dataclass
class Desk:
    """A reader's machine: their folder, their ports, their task.

    Attributes:
        typed: The commands of the page that were typed, as they stand there.
        more: What stands in the environment besides.
    """

    folder: Path
    bridge: int = field(default_factory=free_port)
    provider: int = field(default_factory=free_port)
    task: str = "YOUR_TASK_ID"
    typed: list[str] = field(default_factory=list)
    more: dict[str, str] = field(default_factory=dict)

    def read(self, text: str) -> str:
        """A text of the page, with what differs here put in."""
        text = text.replace("8080", str(self.bridge)).replace("9090", str(self.provider))
        text = re.sub(r"\bYOUR_TASK_ID\b|\bONE\b", self.task, text)
        return text.replace("vapi/ANOTHER", f"qingbo/{self.task}")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BRIDGE_PORT": str(self.bridge),
            "BRIDGE_URL": f"http://127.0.0.1:{self.bridge}",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            **self.more,
        }

    async def types(self, command: str) -> Sequence[str]:
        """Type a command and wait for its end; what it printed."""
        self.typed.append(command)
        code, out, err = await ran(
            "bash", "-c", self.read(command), environment=self.environment, cwd=self.folder
        )
        assert code == 0, (command, out, err)
        return out


async def runs(stack: AsyncExitStack, desk: Desk, command: str, *more: str) -> Program:
    """Type a command that stays, and wait until it listens."""
    desk.typed.append(command)
    line = " ".join(["exec", desk.read(command), *more])
    program = await stack.enter_async_context(
        started("bash", "-c", line, environment=desk.environment, cwd=desk.folder)
    )
    await program.line("listening on ")
    return program

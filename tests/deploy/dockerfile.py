"""Parses a Dockerfile, as far as ours needs it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass
class Stage:
    """One `FROM` and what follows it.

    Attributes:
        steps: `COPY`, `RUN` and `WORKDIR`, in order, with what stands behind the word.
        says: Every other instruction by name, the last one of each.
        environment: What `ENV` sets, on top of the base image's `PATH`.
    """

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    says: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The last `WORKDIR`."""
        return [rest for word, rest in self.steps if word == "WORKDIR"][-1]

    def words(self, instruction: str) -> list[str]:
        """An instruction in its exec form."""
        text = self.says[instruction]
        return json.loads(text[text.index("[") :])

    def expanded(self, text: str) -> str:
        """`${NAME}` as it reads at this place."""
        known = self.arguments | self.environment
        return _VARIABLE.sub(lambda found: known[found[1]], text)


def stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile."""
    found: list[Stage] = []
    before: dict[str, str] = {}
    for line in _lines(path.read_text("utf-8")):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append(Stage(name=rest.partition(" AS ")[2] or "final", arguments=dict(before)))
            found[-1].says["FROM"] = found[-1].expanded(rest.partition(" ")[0])
        elif word == "ARG":
            name, _, value = rest.partition("=")
            (found[-1].arguments if found else before)[name] = value
        elif word == "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                found[-1].environment[name] = found[-1].expanded(value)
        elif word in {"COPY", "RUN", "WORKDIR"}:
            found[-1].steps.append((word, rest))
        else:
            found[-1].says[word] = rest.strip()
    return found


def labels(stage: Stage) -> dict[str, str]:
    """The labels of `LABEL`."""
    pairs = (pair.partition("=") for pair in shlex.split(stage.expanded(stage.says["LABEL"])))
    return {name: value for name, _, value in pairs}


def _lines(text: str) -> list[str]:
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [line.strip() for line in code.replace("\\\n", " ").splitlines() if line.strip()]

"""Stands in for programs that need an engine, a cluster or systemd: notes its call, does what can be done.

A command that is run inside a container or pod runs here. Manifests are rendered, and Compose files are read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

NAME, WORDS = Path(sys.argv[0]).name, sys.argv[1:]


def main() -> int:
    """Act as the program by whose name this file was called; the exit code."""
    given = sys.stdin.read() if "-" in WORDS and NAME == "kubectl" else ""
    with Path(os.environ["CALLS"]).open("a") as calls:
        calls.write(json.dumps({"program": NAME, "words": WORDS, "stdin": given}) + "\n")
    if "taskbridge" in WORDS:
        return subprocess.run(WORDS[WORDS.index("taskbridge") :], check=False).returncode
    if NAME == "docker" and WORDS[0] == "compose":
        options = WORDS[1 : next(at for at, word in enumerate(WORDS) if word == "up")]
        return subprocess.run([os.environ["COMPOSE_CONFIG"], *options], check=False, stdout=2).returncode
    if NAME == "kubectl" and "--kustomize" in WORDS:
        folder = WORDS[WORDS.index("--kustomize") + 1]
        return subprocess.run([os.environ["KUBECTL"], "kustomize", folder], check=False, stdout=2).returncode
    if NAME == "helm":
        release, chart, *options = WORDS[WORDS.index("--install") + 1 :]
        return subprocess.run(
            [os.environ["HELM"], "template", release, chart, *options], check=False, stdout=2
        ).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())

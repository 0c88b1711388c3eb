"""`make fuzz`: each target for ten minutes, guided by coverage (atheris); FUZZ_SECONDS=60 for less.

python -m tests.hostile.fuzz [TARGET ...]   in a process each, because a fuzzer never returns

Starts from the seeds, the kept corpus and what earlier runs found in `build/fuzz/TARGET`. An input that
breaks a promise is left in `build/fuzz/`: mend it, and keep the file in `tests/hostile/corpus/TARGET`.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from hashlib import sha1
from importlib import import_module
from pathlib import Path

BUILD = Path("build") / "fuzz"
MAX_INPUT = 4096
# What is instrumented takes a minute for the whole program.
SERVER = [
    "bridge.server.server",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
]
READERS = ["bridge.core", "bridge.dialects", "bridge.wire", "bridge.client", "bridge.auth.tokens"]
SLOW_SECONDS = 5


def main(names: list[str]) -> int:
    """Run the named targets, all by default; the exit code is 1 when one broke a promise."""
    from tests.hostile.fuzz.targets import TARGETS

    seconds = int(float(os.environ.get("FUZZ_SECONDS", "600")))
    failed = []
    for name in names or list(TARGETS):
        command = [sys.executable, "-m", "tests.hostile.fuzz", "--one", name, str(seconds)]
        BUILD.mkdir(parents=True, exist_ok=True)
        log = BUILD / f"{name}.log"
        with log.open("wb") as output:
            code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
        text = log.read_text(errors="replace")
        done = re.findall(r"Done (\d+) runs in (\d+)", text) or re.findall(r"^#(\d+)()", text, re.MULTILINE)
        runs, took = done[-1] if done else ("?", "?")
        covered = re.findall(r"cov: (\d+)", text)
        edges = covered[-1] if covered else "?"
        _say(f"{name}: {runs} runs in {took or '?'} s, {edges} edges, exit code {code}")
        if code:
            failed.append(name)
            _say("\n".join(text.splitlines()[-40:]))
    return 1 if failed else 0


def one(name: str, seconds: int) -> None:
    """One target in this process, until the time is up."""
    import atheris

    parts = SERVER if name in {"heads", "frames"} else READERS
    with atheris.instrument_imports(include=parts):
        for part in parts:
            import_module(part)
        from tests.hostile.fuzz.targets import TARGETS
    from tests.hostile.fuzz.seeds import kept, seeds

    logging.disable()  # a line for each refused request would be most of the work
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in (*seeds(name), *kept(name)):
        if len(seed) <= MAX_INPUT:
            (folder / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-timeout={SLOW_SECONDS}"]
    options += [f"-artifact_prefix={BUILD}/{name}-", "-len_control=20", "-print_final_stats=1", str(folder)]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1:]))

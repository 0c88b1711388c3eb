"""What the kernel says: time and memory of processes, the machine, free ports."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all its children."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                todo += [int(word) for word in (thread / "children").read_text().split()]
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Time all threads of the processes were on a core."""
    nanoseconds = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def memory_kb(pids: list[int]) -> float:
    """Resident memory, shared pages counted by share."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return float(total)


def tcp_memory_kb() -> float:
    """What the kernel holds for TCP on the whole machine, sent and not read, both ends."""
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return float(int(found[1]) * PAGE_KB) if found else 0.0


def descriptor_limit() -> int:
    """The most descriptors one process here may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def disk_sync_ms(folder: Path, *, times: int = 100, pause: float = 0.02) -> tuple[float, float]:
    """How long this disk takes to make a small write last, median and p99: a journal's commit waits for it.

    Args:
        pause: Seconds before each, as there are between the changes of a few tasks.
    """
    took = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(times):
            time.sleep(pause)
            file.write(bytes(8192))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return took[len(took) // 2], took[-1 - len(took) // 100]


def stolen() -> tuple[int, int]:
    """What a virtual machine's host kept for others since the start, and all there was, in ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def description() -> dict[str, str]:
    """The machine and the versions, for the head of the table."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    packages = (
        "uvicorn",
        "uvloop",
        "httptools",
        "starlette",
        "sse-starlette",
        "aiohttp",
        "orjson",
        "websockets",
    )
    return {
        "cores": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "memory": f"{int(memory[1]) / 1024 / 1024:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
        "nginx": _said(["nginx", "-v"]).removeprefix("nginx version: nginx/"),
        "descriptors": f"at most {descriptor_limit()} a process",
    }


def commit() -> str:
    """What was measured; with a plus when files had changed."""
    name = _said(["git", "rev-parse", "--short=10", "HEAD"])
    changed = _said(["git", "status", "--porcelain", "--", "bridge"])
    return name + ("+" if changed else "")


def nchan_modules() -> str | None:
    """Where nginx has its modules, when nchan is among them."""
    if shutil.which("nginx") is None:
        return None
    found = re.search(r"--modules-path=(\S+)", _said(["nginx", "-V"]))
    folder = found[1] if found else ""
    return folder if folder and Path(folder, "ngx_nchan_module.so").exists() else None


def _said(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()

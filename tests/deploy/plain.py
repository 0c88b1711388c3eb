"""Executes the Dockerfile without a Docker engine, then becomes the container.

Run under `unshare --mount` as root. Each stage is the machine's own file system with a layer of memory over
it, so that absolute paths are what they will be and nothing of it outlives the process. What it cannot show
is the base image: the Python is the machine's.

    unshare --mount python -m tests.deploy.plain CONTEXT [COMMAND...]
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.deploy.dockerfile import Stage, stages

FLOOR = Path("/tmp/plain-image")  # only in a mount namespace of our own
_PASSED_ON = (
    "PIP_",
    "UV_",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_",
)


def main(context: Path, command: list[str]) -> None:
    """Build all stages, close the last one, and run its command, or another."""
    _mount("--make-rprivate", "/")
    FLOOR.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "plain", str(FLOOR))
    ignored = _ignored(context)
    roots: dict[str, Path] = {}
    for stage in stages(context / "Dockerfile"):
        roots[stage.name] = _stage_root(stage.name)
        for word, rest in stage.steps:
            _step(stage, word, rest, context=context, roots=roots, ignored=ignored)
    _close(roots["final"], stage.words("VOLUME"))
    _become(roots["final"], stage, command or stage.words("CMD"))


def _step(
    stage: Stage, word: str, rest: str, *, context: Path, roots: dict[str, Path], ignored: set[Path]
) -> None:
    root = roots[stage.name]
    where = Path(stage.says.get("WORKDIR", "/"))
    if word == "WORKDIR":
        stage.says["WORKDIR"] = rest
        _below(root, Path(rest)).mkdir(parents=True, exist_ok=True)
    elif word == "RUN":
        _run_inside(root, where, rest, stage.environment)
    else:
        words = shlex.split(rest)
        options = dict(one[2:].split("=", 1) for one in words if one.startswith("--"))
        *sources, target = (one for one in words if not one.startswith("--"))
        place = _below(root, where / target)
        for source in sources:
            asked = _below(roots[options["from"]] if "from" in options else context, Path(source))
            _copy(asked, place / asked.name if target.endswith("/") else place, ignored)
        if "chown" in options:
            subprocess.run(["chown", "-R", options["chown"], str(place)], check=True)


def _run_inside(root: Path, where: Path, command: str, environment: dict[str, str]) -> None:
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    passed |= {"UV_SYSTEM_CERTS": "true"}  # where a machine trusts more than the public authorities
    inside = ["chroot", str(root), "/bin/sh", "-ec", f"cd {where}; {command}"]
    done = subprocess.run(inside, env=passed | environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"RUN {command}\n{done.stdout}\n{done.stderr}")


def _copy(source: Path, target: Path, ignored: set[Path]) -> None:
    if source in ignored:
        sys.exit(f"COPY {source}: .dockerignore keeps it out")
    if source.is_dir():
        shutil.copytree(
            source,
            target,
            symlinks=True,
            dirs_exist_ok=True,
            ignore=lambda folder, names: [name for name in names if Path(folder, name) in ignored],
        )
    else:
        shutil.copy(source, target)


def _below(root: Path, path: Path) -> Path:
    return root / str(path).lstrip("/")


def _ignored(context: Path) -> set[Path]:
    """What .dockerignore keeps from the engine, of what lies where we look."""
    lines = (context / ".dockerignore").read_text("utf-8").splitlines()
    kept: set[Path] = set()
    for line in (one for one in lines if one and not one.startswith("#")):
        pattern = line.removeprefix("!")
        found = {inside for one in context.glob(pattern) for inside in (one, *one.rglob("*"))}
        kept = kept - found if line.startswith("!") else kept | found
    return kept


def _stage_root(name: str) -> Path:
    root = FLOOR / name
    _overlay(Path("/"), root)
    for system in ("dev", "proc"):
        _mount("--rbind", f"/{system}", str(root / system))
    if sys.base_prefix != "/usr":  # in the base image Python is at home in /usr/local
        _overlay(Path(sys.base_prefix), root / "usr/local")
        subprocess.run(["ldconfig", "-r", str(root)], check=True)
    else:
        _as_in_the_base_image(root)
    python = root / "usr/local/bin/python"
    if not python.exists():
        python.symlink_to(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
    return root


def _as_in_the_base_image(root: Path) -> None:
    """Let pip install into a distribution's Python, which forbids it, and may have none."""
    version = f"python3.{sys.version_info.minor}"
    (root / "usr/lib" / version / "EXTERNALLY-MANAGED").unlink(missing_ok=True)
    pip = Path(sysconfig.get_path("purelib"), "pip")
    shutil.copytree(pip, root / "usr/local/lib" / version / "dist-packages/pip", dirs_exist_ok=True)


def _overlay(below: Path, root: Path) -> None:
    """Mount a folder at another place, so that what is written stays in memory."""
    name = str(root.relative_to(FLOOR)).replace("/", ".")
    upper, work = FLOOR / f"{name}.upper", FLOOR / f"{name}.work"
    for folder in (upper, work, root):
        folder.mkdir(exist_ok=True)
    _mount("-t", "overlay", "-o", f"lowerdir={below},upperdir={upper},workdir={work}", "overlay", str(root))


def _close(root: Path, volumes: list[str]) -> None:
    """From here on only the volumes can be written to."""
    for volume in volumes:
        place = _below(root, Path(volume))
        owner = place.stat()
        _mount("-t", "tmpfs", "-o", f"uid={owner.st_uid},gid={owner.st_gid},mode=700", "data", str(place))
    _mount("-o", "remount,bind,ro", str(root))


def _become(root: Path, stage: Stage, command: list[str]) -> None:
    user, _, group = stage.says["USER"].partition(":")
    os.chroot(root)
    os.chdir(stage.place)
    given = {name: value for name, value in os.environ.items() if name.startswith("BRIDGE_")}
    nobody = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    drop = ["--bounding-set=-all", "--inh-caps=-all"]
    os.execvpe("setpriv", [*nobody, *drop, *stage.words("ENTRYPOINT"), *command], stage.environment | given)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
